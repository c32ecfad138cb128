"""What the recorded results say of methods follows from their figures and is complete."""

import json
import re
from pathlib import Path

import pytest

from advreg.methods import METHODS
from advreg.methods.composed import PARTNERS
from advreg.report.study import content
from advreg.report.study.read import labels_of, read_study, summary

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def recorded(name):
    return json.loads((BENCHMARKS / "results" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("data", ["digits", "cifar10"])
def test_every_method_has_been_trained_from_the_command_line(data, script):
    rows = recorded("every_method")["data"][data]["methods"]
    assert rows.keys() >= {*METHODS, *(f"layerwise+{name}" for name in PARTNERS)}
    assert rows.keys() == {arm.label for arm in script("every_method").ARMS}
    assert all(row["passed"] and row["exit_code"] == 0 for row in rows.values())


def test_the_order_of_input_gradients_is_judged_by_its_runs(script):
    found, order = recorded("order_digits"), script("order")
    assert len(found["test"]["seeds"]) >= 5
    assert not set(found["test"]["seeds"]) & set(found["tuning"]["seeds"])
    verdicts = order.judge(found["runs"])
    assert verdicts.keys() == found["verdicts"].keys()
    for claim, verdict in verdicts.items():
        assert found["verdicts"][claim] == pytest.approx(verdict)


def ratios(results):
    """Every median with its quartiles that a result file holds, as the documents print them."""
    if isinstance(results, list):
        return set().union(*map(ratios, results))
    if not isinstance(results, dict):
        return set()
    found = ratios(list(results.values()))
    quartiles = [results.get(name) for name in ("median", "lower", "upper")]
    if all(isinstance(value, float) for value in quartiles):
        found.add("{median:.3f} ({lower:.3f} to {upper:.3f})".format(**results))
    return found


@pytest.mark.parametrize("document", ["docs/performance.md", "benchmarks/README.md"])
def test_ratios_in_the_documents_are_those_of_result_files(document):
    path = BENCHMARKS.parent / document
    text = path.read_text(encoding="utf-8")
    files = BENCHMARKS.glob("results/*.json")
    measured = set().union(*(ratios(recorded(file.stem)) for file in files))
    written = set(re.findall(r"\d\.\d{3} \(\d\.\d{3} to \d\.\d{3}\)", text))
    assert len(written) > 20
    assert written <= measured
    linked = re.findall(r"\]\(((?:\.\./benchmarks/)?results/\w+\.json)\)", text)
    assert linked
    assert all((path.parent / file).is_file() for file in linked)


def percent(value):
    return f"{100 * value:.1f}"


def with_interval(results, arm, figure):
    """Accuracy with its 95 % interval."""
    found = summary(results, "all", arm, figure)
    return "{:.1f} ({:.1f} to {:.1f})".format(
        *(100 * value for value in (found.mean, found.low, found.high))
    )


def with_difference(results, arm, figure):
    """Accuracy, and the paired difference to plain training with its own, bold as a verdict."""
    cells = dict(content.table(results, "all"))[arm]
    found = cells[content.headings(results).index(content.heading(results, figure))]
    if not found.difference:
        return found.figure
    bold = "**" if found.verdict in ("better", "worse", "equal") else ""
    return f"{found.figure}, {bold}{found.difference}{bold}"


@pytest.mark.parametrize(
    ("document", "cell", "figures"),
    [
        ("README.md", with_interval, ("clean", "0.1")),
        ("docs/results.md", with_difference, ("clean", "0.05", "0.1")),
    ],
)
def test_the_table_of_the_demo_is_that_of_its_results(document, cell, figures):
    results = read_study(BENCHMARKS.parent / "results" / "demo" / "results.json")
    text = (BENCHMARKS.parent / document).read_text(encoding="utf-8")
    for arm in labels_of(results):
        cost = results["steps"][f"all: {arm}"]
        step = "{median:.2f} ({lower:.2f} to {upper:.2f})".format(**cost)
        if arm == "Plain" or cell is with_difference:
            step = step.split()[0]
        accuracies = " | ".join(cell(results, arm, figure) for figure in figures)
        assert f"| {arm} | {accuracies} | {step} |" in text


def test_peaks_of_memory_are_those_of_the_result_file():
    text = (BENCHMARKS.parent / "docs" / "performance.md").read_text(encoding="utf-8")
    models = recorded("memory")["models"]
    for form in ("eager", "compiled", "compiled, not reordered"):
        found = {
            name: f"{model[form]['rows']['hidden, relative']['ratio']:.3f}"
            for name, model in models.items()
        }
        row = " | ".join(found[name] for name in ("resnet20", "vgg11", "wrn-16-4"))
        assert f"| {row} |" in text


def test_the_tables_of_lots_are_those_of_its_result_file():
    found = recorded("lots_digits")["accuracy"]
    docs = BENCHMARKS.parent / "docs"
    guide, card = ((docs / name).read_text("utf-8") for name in ("lots.md", "methods/lots.md"))
    guide = guide.partition("## Training on LOTS images")[2]
    for arm, figures in found.items():
        cells = [percent(figures[name]["mean"]) for name in ("clean", "pgd 0.1", "pgd 0.2")]
        row = re.search(rf"^\| {re.escape(arm)} \| .*$", guide, flags=re.MULTILINE)[0].split(" | ")
        assert [row[place].split(",")[0].strip(" |") for place in (1, 3, 4)] == cells
        assert " | ".join(row) in card or "memory" in arm
