"""From a study's results to the files that people read."""

from __future__ import annotations

import os
import re
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from advreg.files import replace_text
from advreg.report.study import content, sentences
from advreg.report.study.plots import charts
from advreg.report.study.read import Results, groups_of, read_study


def write_study(path: str | os.PathLike[str]) -> Path:
    """Writes `study.html`, `study.md` and its `plots/` beside a study's results.

    Args:
        path: The results file, as `advreg compare` collects it.

    Returns:
        The page, one file that needs nothing from outside.

    Raises:
        RunError: The file is missing, damaged, or of another kind; nothing is written.
    """
    results, folder = read_study(path), Path(path).parent
    said = gather(results)
    texts = {folder / "study.md": markdown(said), folder / "study.html": page(said)}
    plots = {
        folder / "plots" / f"{number}-{chart.name}.svg": chart.svg
        for number, group in enumerate(said["groups"])
        for chart in group["charts"]
    }
    (folder / "plots").mkdir(exist_ok=True)
    for name, text in (plots | texts).items():
        replace_text(name, text)
    for old in set((folder / "plots").glob("[0-9]*-*.svg")) - plots.keys():
        old.unlink()
    return folder / "study.html"


def gather(results: Results) -> dict[str, Any]:
    """All that the page and its Markdown say, for their templates.

    Args:
        results: As `read_study` returns them.
    """
    names = groups_of(results) or [""]
    return {
        "results": results,
        "marks": content.MARKS,
        "introduction": sentences.introduction(results),
        "remarks": sentences.remarks(results),
        "sentences": sentences.outcome(results),
        "headings": content.headings(results),
        "several": len(names) > 1,
        "groups": [_group(results, name) for name in names],
        "compared": content.compared(results),
        "failures": content.absent(results, "failures"),
        "missing": content.absent(results, "missing"),
        "tuning": content.tuning_table(results),
        "configurations": content.configurations(results),
        "study": content.study_text(results),
        "provenance": content.provenance(results),
    }


def _group(results: Results, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "table": content.table(results, name),
        "charts": charts(results, name),
        "sites": content.site_table(results, name),
        "ages": content.age_table(results, name),
        "shares": content.shares(results, name),
        "evidence": content.evidence_table(results, name),
    }


def page(said: dict[str, Any]) -> str:
    """The text of `study.html` from what `gather` returns."""
    style = files("advreg.report").joinpath("page.css").read_text(encoding="utf-8")
    # Our own drawings, in which matplotlib has escaped every text.
    return _template("study.html.j2", escapes=True).render(said, style=Markup(style), svg=Markup)


def markdown(said: dict[str, Any]) -> str:
    """The text of `study.md` from what `gather` returns."""
    return _template("study.md.j2", escapes=False).render(said)


def safe(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", escape(" ".join(text.split()), quote=False))


def _template(name: str, escapes: bool) -> Any:
    environment = Environment(
        loader=PackageLoader("advreg.report.study", "."),
        autoescape=escapes,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = lambda text: safe(str(text))
    return environment.get_template(name)
