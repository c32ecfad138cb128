"""The report as one HTML page that needs nothing from outside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from advreg.report import content


def page(results: dict[str, Any], plots: Sequence[tuple[str, str, str]]) -> str:
    """The text of `report.html`.

    Args:
        results: As `read_results` returns them.
        plots: Short name, title and SVG of each.
    """
    title = escape(results["title"])
    style = files("advreg.report").joinpath("page.css").read_text(encoding="utf-8")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p class="lead">{escape(content.introduction(results))}</p>
{_remarks(results)}
{_figures(results)}
<h2>What held and what did not</h2>
{_verdicts(results)}
<h2>Plots</h2>
<p class="note">Bands are 95 % intervals of the mean over seeds. Every line has a marker of its own;
the baseline is black, and dashed.</p>
<div class="plots">
{"".join(_plot(title, svg) for _, title, svg in plots)}</div>
<h2>How to reproduce</h2>
<pre><code>{escape(results["command"])}</code></pre>
{_arms(results)}
<details><summary>Settings of every run</summary>
{_pairs(content.flat(results["settings"]))}</details>
<h3>Measured with</h3>
{_pairs(content.flat(results["environment"]))}
</main>
</body>
</html>
"""


def _remarks(results: dict[str, Any]) -> str:
    said = "".join(f"<li>{escape(remark)}</li>" for remark in content.remarks(results))
    return f'<ul class="remarks">{said}</ul>' if said else ""


def _figures(results: dict[str, Any]) -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in content.headings(results))
    body = "".join(
        f'<tr><th scope="row">{escape(label)}</th>{"".join(map(_cell, cells))}</tr>\n'
        for label, cells in content.table(results)
    )
    return (
        f'<div class="scroll" tabindex="0"><table class="figures"><thead><tr>'
        f'<th scope="col">Training</th>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n'
        f'<p class="note">{escape(content.caption(results))} Differences whose 95 % interval'
        " excludes zero are bold.</p>"
    )


def _cell(cell: content.Cell) -> str:
    sure = " sure" if cell.sure else ""
    return (
        f"<td>{escape(cell.figure)}"
        f'<span class="detail{sure}">{escape(cell.detail) or "&nbsp;"}</span></td>'
    )


def _verdicts(results: dict[str, Any]) -> str:
    items = "".join(
        f'<li><span class="mark {"held" if verdict["held"] else "failed"}">'
        f"{escape(content.verdict_mark(verdict))}</span>"
        f"<div><strong>{escape(content.claim(verdict))}</strong>"
        f" {escape(verdict['sentence'])}</div></li>\n"
        for verdict in results["verdicts"]
    )
    if not items:
        return "<p>Too few runs were finished to say.</p>"
    return f'<ul class="verdicts">\n{items}</ul>'


def _plot(title: str, svg: str) -> str:
    return f"<figure><figcaption>{escape(title)}</figcaption>{svg}</figure>\n"


def _arms(results: dict[str, Any]) -> str:
    rows = ((arm["label"], content.arm_settings(arm), arm["source"]) for arm in results["arms"])
    return _rows(rows, ("Training", "Method and settings", "Settings from"))


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    return _rows(pairs, ())


def _rows(rows: Iterable[Sequence[str]], head: Sequence[str]) -> str:
    top = "".join(f'<th scope="col">{escape(text)}</th>' for text in head)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td><code>{escape(text)}</code></td>" for text in rest)
        + "</tr>\n"
        for first, *rest in rows
    )
    thead = f"<thead><tr>{top}</tr></thead>" if top else ""
    return (
        f'<div class="scroll" tabindex="0"><table class="pairs">{thead}<tbody>\n{body}</tbody>'
        "</table></div>\n"
    )
