"""The page of a study: what it says, that it is whole, and that nothing in it is from outside."""

import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure
from study_results import study_results

from advreg.errors import RunError
from advreg.report import print_study, write_study
from advreg.report.plots import finished_svg
from advreg.report.study import content, sentences, write
from advreg.report.study.drawing import Chart, styles
from advreg.report.study.plots import front
from advreg.report.study.read import goal_figure, read_study
from advreg.study.comparisons import compare_arms

HOSTILE = "<script>alert('&')</script>|`$x$`"


def written(folder, results):
    path = folder / "results.json"
    path.write_text(json.dumps(results), encoding="utf-8")
    page = write_study(path)
    assert page == folder / "study.html"
    return page.read_text(encoding="utf-8"), (folder / "study.md").read_text(encoding="utf-8")


def read(results, tmp_path):
    path = tmp_path / "read.json"
    path.write_text(json.dumps(results), encoding="utf-8")
    return read_study(path)


class Page(HTMLParser):
    """Counts elements and checks that each is closed."""

    VOID = {"meta", "img", "br", "link"}

    def __init__(self, text):
        super().__init__()
        self.open, self.count, self.tables = [], {}, []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.count[tag] = self.count.get(tag, 0) + 1
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "svg":
            assert dict(attributes)["role"] == "img"
            assert len(dict(attributes)["aria-label"]) > 20

    def handle_startendtag(self, tag, attributes):
        self.count[tag] = self.count.get(tag, 0) + 1

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def broken():
    """One arm failed or is missing everywhere, another one has three seeds."""
    results = study_results(arms=4)
    gone = [row for row in results["rows"] if row["arm"] == "hidden 0.02"]
    gone += [row for row in results["rows"] if row["arm"] == "hidden 0.03" and row["seed"] > 2]
    which = [{name: row[name] for name in ("group", "arm", "seed")} for row in gone]
    rows = [row for row in results["rows"] if row not in gone]
    labels = [arm["label"] for arm in results["arms"]]
    return results | {
        "rows": rows,
        "failures": [{**one, "reason": f"It {HOSTILE} failed."} for one in which[:3]],
        "missing": which[3:],
        "comparisons": compare_arms(rows, "plain", labels, [""], results["epsilons"]),
    }


def nothing():
    results = study_results(arms=2, seeds=2)
    missing = [{name: row[name] for name in ("group", "arm", "seed")} for row in results["rows"]]
    return results | {"rows": [], "missing": missing, "comparisons": []}


STUDIES = {
    "one seed": lambda: study_results(arms=2, seeds=1, epochs=1),
    "five seeds": study_results,
    "broken": broken,
    "nothing": nothing,
    "no attacks": lambda: study_results(arms=2, epsilons=()),
    "two groups": lambda: study_results(arms=2, seeds=2, groups=("short", "long"), epochs=2),
}
FEW = {"one seed", "nothing"}
"""Those that a change's tests draw: a chart takes a third of a second."""


@pytest.fixture
def undrawn(monkeypatch):
    """Pages with a single chart."""
    chart = Chart(
        "made-up", "A chart", "It shows nothing at all.", finished_svg(Figure(), "A" * 21)
    )
    monkeypatch.setattr(write, "charts", lambda results, group: [chart])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FEW else pytest.mark.full) for name in STUDIES]
)
def test_the_page_is_whole_and_offline(name, tmp_path):
    results = STUDIES[name]()
    page, markdown = written(tmp_path, results)
    found = Page(page)
    assert not re.search(r"<script|https?://(?!www\.w3\.org)|url\((?!#)|@import", page)
    plots = {file.name for file in (tmp_path / "plots").iterdir()}
    assert plots == set(re.findall(r"\]\(plots/(\S+)\)", markdown))
    assert found.count.get("svg", 0) == len(plots) == found.count.get("figure", 0)
    for plot in plots:
        ElementTree.fromstring((tmp_path / "plots" / plot).read_text(encoding="utf-8"))
    for text in (page, markdown):
        assert results["command"] in text
        assert all(arm["label"] in text for arm in results["arms"])
        assert not re.search(r"\bnan\b", text)
    assert len(re.findall(r"^\d\. ", markdown, re.M)) in (2, 3)
    assert {file.name for file in tmp_path.iterdir()} == {
        *("results.json", "study.html", "study.md", "plots")
    }


def test_the_same_results_give_the_same_page(tmp_path):
    results = study_results(arms=1, seeds=2, epsilons=(), epochs=2)
    first = written(tmp_path, results)
    (tmp_path / "plots" / "7-of-a-group-that-was.svg").write_text("")
    assert written(tmp_path, results) == first
    assert not (tmp_path / "plots" / "7-of-a-group-that-was.svg").exists()


@pytest.mark.full
def test_the_page_of_forty_arms(tmp_path):
    page, _ = written(tmp_path, study_results(arms=40, epochs=3))
    assert Page(page).count["figure"] < 20
    assert len(page) < 2_000_000


def test_texts_of_others_are_shown_and_not_run(tmp_path):
    results = study_results(arms=2, seeds=2, epochs=1, epsilons=("2/255",))
    text = json.dumps(results).replace("hidden 0.01", "BAD").replace("blocks.1", "BAD")
    results = json.loads(text.replace("BAD", json.dumps(HOSTILE)[1:-1]))
    results |= dict.fromkeys(("title", "question", "remark", "command", "study"), HOSTILE)
    results["environment"] = {HOSTILE: HOSTILE}
    results["tuning"] = [{"arm": HOSTILE, "settings": {"a": HOSTILE}, "epochs": 2, "kept": True}]
    page, markdown = written(tmp_path, results)
    assert "script" not in Page(page).count
    assert "<script" not in page + markdown.replace(f"    {HOSTILE}", "")


def test_failures_and_missing_runs_are_listed(tmp_path, undrawn):
    page, markdown = written(tmp_path, broken() | {"remark": "Times say nothing."})
    assert "Times say nothing." in page
    assert "Times say nothing." in markdown
    assert "3 of 20 runs failed" in page
    assert "4 of 20 runs still to do" in page
    assert page.count("failed.</td>") == 3
    assert "## Missing runs" in markdown
    assert "has too few seeds for a verdict (hidden 0.03" in page
    assert "0 of 5" in page
    assert "3 of 5" in page


@pytest.mark.parametrize(
    ("classes", "clean", "said"),
    [(10, 0.18, True), (10, 0.20, False), (2, 0.54, True), (2, 0.6, False), (100, 0.05, False)],
)
def test_runs_that_hardly_learnt_are_named_above_the_figures(classes, clean, said):
    results = study_results(arms=2, groups=("short", "long"), epochs=1) | {"remark": ""}
    poor = [row for row in results["rows"] if row["group"] == "short" and row["seed"] < 2]
    for row in results["rows"]:
        row["chance"] = 1 / classes
        row["clean"] = 0.9
    for row in poor:
        row["clean"] = clean
    remark = " ".join(sentences.remarks(results | {"steps": {}}))
    named = f"in short: plain (2 of 5 runs, {100 * clean:.1f} %) and hidden 0.01 (2 of 5 runs"
    assert (named in remark) == said
    assert "in long" not in remark


def judged(verdicts, **more):
    """Results whose comparisons on clean images have these verdicts."""
    results = study_results(arms=len(verdicts) + 1, seeds=1, epsilons=(), epochs=1, **more)
    figures = {"count": 5, "low": 0.01, "high": 0.03, "seeds_for_half_point": 20, "p_holm": 0.5}
    results["comparisons"] = [
        {**one, **figures, "mean": 0.02 + place / 100, "verdict": verdict}
        for place, (one, verdict) in enumerate(zip(results["comparisons"], verdicts, strict=True))
    ]
    return results


def test_sentences_follow_the_verdicts(tmp_path):
    first, last = sentences.outcome(read(judged(["better", "worse", "unclear"]), tmp_path))
    assert first == (
        "On clean images, of 3 comparisons with plain, 1 is better (hidden 0.01: +2.0 points, +1.0"
        " to +3.0), 1 is worse (hidden 0.02: +3.0 points, +1.0 to +3.0) and 1 is unclear (hidden"
        " 0.03: +4.0 points, +1.0 to +3.0)."
    )
    assert "not shown to be equal" in last
    assert "about 20 paired seeds" in last
    first, last = sentences.outcome(read(judged(["equal"] * 5), tmp_path))
    assert "none is better and 5 are equal to within half a point" in first
    assert "and 2 more" in first
    assert "unclear" not in first + last
    said = sentences.outcome(read(judged(["too few seeds"]), tmp_path))
    assert "too few seeds for a verdict" in said[0]
    assert said[1].startswith("These are leads and not results: a verdict takes five paired seeds")


def test_a_pair_without_the_baseline_has_a_sentence_and_a_column_of_its_own(tmp_path):
    found = judged(["better", "unclear"])
    found["comparisons"].append({**found["comparisons"][0], "to": "hidden 0.02"})
    results = read(found, tmp_path)
    said = sentences.outcome(results)
    assert "of 2 comparisons with plain," in said[0]
    assert said[1] == (
        "Against hidden 0.02, hidden 0.01 has +2.0 points (+1.0 to +3.0, better) on clean images."
    )
    head, rows = content.compared(results)
    assert head[:2] == ["Training", "Compared with"]
    assert [row[1] for row in rows] == ["plain", "plain", "hidden 0.02"]
    assert content.table(results, "")[1][1][0].verdict == "better"


def test_measured_steps_are_a_column(tmp_path, capsys):
    cost = {"median": 1.084, "lower": 1.07, "upper": 1.1}
    found = study_results(arms=3)
    assert "Step" not in content.headings(read(found, tmp_path))
    found["steps"] = {
        ": plain": {**cost, "lower": 1.1},
        ": hidden 0.01": cost,
        ": hidden 0.02": None,
    }
    results = read(found, tmp_path)
    place = content.headings(results).index("Step")
    cells = [cells[place] for _, cells in content.table(results, "")]
    assert [(one.figure, one.interval) for one in cells] == [
        ("1.08", ""),
        ("1.08", "1.07 to 1.10"),
        (content.NONE, ""),
    ]
    for text in written(tmp_path, found):
        assert "taken in turn, apart from the runs" in " ".join(text.split())
    print_study(tmp_path / "results.json")
    said = capsys.readouterr().out
    assert "1.07 to 1.10" in said
    assert "Step: its time over plain's" in " ".join(said.split())


def test_a_study_of_robustness_is_led_by_it(tmp_path):
    results = read(study_results(arms=2, seeds=2, epochs=1, goal="robustness"), tmp_path)
    assert goal_figure(results) == "2/255"  # at 8/255 next to nothing is left
    assert sentences.outcome(results)[0].startswith("Under attack at 2/255")
    assert sentences.outcome(results)[1].startswith("On clean images")


def test_the_table_has_means_intervals_and_differences(tmp_path):
    results = read(study_results(arms=2), tmp_path)
    (_, base), (_, cells) = content.table(results, "")
    values = [row["clean"] for row in results["rows"] if row["arm"] == "plain"]
    assert base[0].figure == f"{100 * sum(values) / 5:.1f}"
    assert base[0].difference == ""
    found = results["comparisons"][0]
    assert cells[0].difference == (
        f"{100 * found['mean']:+.1f} ({100 * found['low']:+.1f} to {100 * found['high']:+.1f})"
    )
    low, high = map(float, base[0].interval.split(" to "))
    assert low < float(base[0].figure) < high


def test_nothing_is_better_than_the_pareto_front():
    assert front([(1, 5), (2, 4), (1, 4), (3, 1), (2, 4)]) == [0, 1, 3, 4]
    assert front([(1, 1)]) == [0]


def test_many_arms_share_six_colours(tmp_path):
    found = styles(read(study_results(arms=12, seeds=2, epsilons=(), epochs=1), tmp_path))
    colours = [style["color"] for style in found.values()]
    assert len(set(colours)) == 8
    assert colours.count("#b4b9bf") == 5
    assert colours[0] == "#000000"


def test_evidence_and_ages_have_their_tables(tmp_path, undrawn):
    results = study_results(arms=2, seeds=2, epochs=4, epsilons=())
    for row in results["rows"]:
        piece = {"name": "PGD is no weaker", "figure": 0.1, "sentence": "It leaves 12 %."}
        row["evidence"] = [{**piece, "verdict": "holds" if row["seed"] else "does not hold"}]
        for epoch, line in enumerate(row["epochs"], start=1):
            for site in line.get("sites", {}).values():
                site["by_age"] = {"1": 0.1 * epoch, "0.5": 0.5}
    page, markdown = written(tmp_path, results)
    for text in (page, markdown):
        assert "1 of 2" in text
        assert "It leaves 12 %." in text
        assert text.index("0.5 epochs") < text.index("1 epochs")
    ages = [line.split(" | ") for line in markdown.splitlines() if " | 0.500 (" in line]
    assert ages
    assert {(cells[2], cells[4][:5]) for cells in ages} == {("2", "0.200"), ("4", "0.400")}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "damaged"),
        ("[]", "of the kind None"),
        ('{"kind": "advreg demo"}', "of the kind 'advreg demo'"),
        ('{"kind": "advreg study", "format": 9}', "format 9"),
        ('{"kind": "advreg study", "format": 1, "title": ""}', "lacks command"),
    ],
)
def test_another_file_is_refused_and_nothing_written(text, reason, tmp_path):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(RunError, match=reason):
        write_study(path)
    with pytest.raises(RunError, match="cannot be read"):
        write_study(tmp_path / "none.json")
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]
