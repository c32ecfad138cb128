import copy
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest
from rich.console import Console

from advreg.errors import RunError
from advreg.report import figure, print_results, write_report
from advreg.report.content import NONE

HOSTILE = "<script>alert('&')</script>|`$x$`"


def estimate(mean, error=0.004):
    return {
        "mean": mean,
        "standard_error": error,
        "low": mean - 2 * error,
        "high": mean + 2 * error,
        "count": 10,
    }


def compared(mean, difference=None):
    return {**estimate(mean), "difference": difference and estimate(difference)}


def summary(shift=None):
    figures = compared(0.923 + (shift or 0), shift)
    return {
        "runs": 10,
        "clean": figures,
        "fgsm": {"0.1": figures, "0.2": figures},
        "pgd": {"0.1": figures, "0.2": figures},
        "training": {"train_loss": [2.3, 0.4], "validation_accuracy": [0.1, 0.9]},
        "warned": 0,
    }


def cost(median):
    return {
        "median": median,
        "lower": median - 0.25 * (median > 1),
        "upper": median + 0.25 * (median > 1),
        "rounds": 30,
        "milliseconds": 5.0,
    }


@pytest.fixture
def results():
    labels = ["Plain", "Slot memory"]
    return {
        "kind": "advreg demo",
        "format": 1,
        "title": "What it buys",
        "command": "advreg demo --seeds 10",
        "settings": {
            "model": {"name": "convnet"},
            "data": {"name": "digits", "limit": 128},
            "epochs": 40,
            "attacks": {"pgd_steps": 10, "test_images": 899},
        },
        "arms": [
            {"label": label, "method": "m", "settings": {"epsilon": 0.2}, "source": "by hand"}
            for label in labels
        ],
        "seeds": [0, 1],
        "epsilons": [0.1, 0.2],
        "summary": {"Plain": summary(), "Slot memory": summary(0.015)},
        "cost": {"Plain": cost(1.0), "Slot memory": cost(1.5)},
        "verdicts": [{"claim": "FGSM is beaten", "held": False, "sentence": "By no means."}],
        "failures": [],
        "environment": {"torch": "2.13"},
        "rows": [{"arm": "Plain", "seed": 0}],
    }


def write(folder, results):
    path = folder / "results.json"
    path.write_text(json.dumps(results))
    return path


class Tags(HTMLParser):
    """Every tag with its attributes, all text, and whether the tags nest."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.text += " "
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_is_one_file_that_asks_for_nothing(results, tmp_path):
    text = write_report(write(tmp_path, results)).read_text()
    page = Tags(text)
    assert not page.open
    names = [tag for tag, _ in page.tags]
    assert names.count("svg") == 5
    assert not {"script", "link", "img", "iframe"} & set(names)
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "action"):
            assert attributes.get(name, "#").startswith("#")
    assert not re.search(r"@import|url\((?!#)", text)
    ids = [attributes["id"] for tag, attributes in page.tags if tag == "g" and "id" in attributes]
    assert not ids


def test_the_page_shows_figures_differences_and_times(results, tmp_path):
    text = " ".join(Tags(write_report(write(tmp_path, results)).read_text()).text.split())
    for shown in ("92.3 ± 0.4", "93.8 ± 0.4", "+1.5 ± 0.4", "1.50", "1.25-1.75", "899 test images"):
        assert shown in text
    assert "Did not hold FGSM is beaten. By no means." in text
    assert "advreg demo --seeds 10" in text


def test_a_difference_is_bold_only_if_its_interval_excludes_zero(results, tmp_path):
    path = write(tmp_path, results)
    assert 'class="detail sure">+1.5' in write_report(path).read_text()
    results["summary"]["Slot memory"] = summary(0.005)
    write(tmp_path, results)
    text = write_report(path).read_text()
    assert 'class="detail">+0.5' in text
    assert 'class="detail sure"' not in text


def poisoned(value):
    """The same structure with every text of its leaves made hostile."""
    if isinstance(value, dict):
        return {key: poisoned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [poisoned(item) for item in value]
    return HOSTILE if isinstance(value, str) else value


def test_hostile_text_stays_text(results, tmp_path):
    hostile = {**poisoned(results), "kind": results["kind"]}
    hostile["summary"] = {HOSTILE: summary(0.02)}
    hostile["cost"] = {HOSTILE: cost(1.5)}
    hostile["arms"] = hostile["arms"][:1]
    hostile["arms"][0]["settings"] = {HOSTILE: HOSTILE}
    hostile["environment"] = {HOSTILE: HOSTILE}
    hostile["failures"] = [{"arm": HOSTILE, "seed": 0, "reason": HOSTILE}]
    page = Tags(write_report(write(tmp_path, hostile)).read_text())
    assert "script" not in [tag for tag, _ in page.tags]
    assert page.text.count(HOSTILE) >= 9
    lines = (tmp_path / "report.md").read_text().splitlines()
    assert not any("<script" in line for line in lines if not line.startswith("    "))
    row = next(line for line in lines if "±" in line and line.startswith("|"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 7


def test_markdown_has_the_table_the_verdicts_and_the_plots(results, tmp_path):
    write_report(write(tmp_path, results))
    text = (tmp_path / "report.md").read_text()
    assert "| Slot memory | 93.8 ± 0.4 · +1.5 ± 0.4 |" in text
    assert "- **Did not hold.** FGSM is beaten. By no means." in text
    for name in re.findall(r"\]\((.*?)\)", text):
        ElementTree.parse(tmp_path / name)


def test_what_is_missing_is_a_dash_and_what_went_wrong_is_said(results, tmp_path):
    results["summary"]["Slot memory"] |= {"clean": None, "warned": 3}
    results |= {"cost": {}, "interrupted": True, "verdicts": []}
    results["failures"] = [{"arm": "Slot memory", "seed": 1, "reason": "It broke."}]
    text = " ".join(Tags(write_report(write(tmp_path, results)).read_text()).text.split())
    assert f"Slot memory {NONE}" in text
    assert "interrupted: 1 of 4 runs" in text
    assert "Slot memory, seed 1, failed: It broke." in text
    assert "3 of 10 runs warned" in text
    assert "Too few runs were finished to say." in text


def test_the_terminal_shows_the_same_in_80_columns(results):
    results["summary"]["Example memory"] = summary(-0.415) | {"fgsm": {"0.2": compared(1.0, 0.5)}}
    results["summary"]["Example memory"]["fgsm"]["0.1"] = compared(1.0, 0.5)
    results["arms"].append({"label": "Example memory"})
    console = Console(width=80, file=io.StringIO())
    print_results(results, console)
    text = console.file.getvalue()
    assert "93.8 ± 0.4" in text
    assert "+1.5 ± 0.4" in text
    assert "Did not hold. FGSM is beaten. By no means." in text
    assert "-41.5 ± 0.4" in text
    assert "…" not in text


def test_the_figure_stands_alone_and_is_the_same_each_time(results):
    first = figure(results)
    assert first == figure(copy.deepcopy(results))
    assert ElementTree.fromstring(first).tag.endswith("svg")
    results["summary"]["Slot memory"] = summary(0.03)
    assert figure(results) != first


def test_another_file_is_refused_in_one_sentence(tmp_path):
    path = tmp_path / "results.json"
    for contents, said in (
        (None, "cannot be read"),
        ('{"kind": "advreg evaluation", "format": 1}', "kind 'advreg evaluation'"),
        ("[]", "kind None"),
        ("{", "damaged"),
        ("\udcff", "damaged"),
        ('{"kind": "advreg demo", "format": 2}', "format 2"),
        ('{"kind": "advreg demo", "format": 1}', "lacks title"),
    ):
        if contents is not None:
            path.write_bytes(contents.encode("utf-8", "surrogateescape"))
        with pytest.raises(RunError, match=said) as error:
            write_report(path)
        assert str(error.value).count(".") - str(error.value).count(".json") == 1
        assert [one.name for one in tmp_path.iterdir()] in ([], ["results.json"])
