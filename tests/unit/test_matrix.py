"""The table of versions says what pytest's report says, and goes between the page's markers."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

REPORT = """<testsuites><testsuite>
<testcase classname="tests.one" name="test_a"/>
<testcase classname="tests.one" name="test_b"/>
<testcase classname="tests.one" name="test_c"><skipped message="needs torch 99"/></testcase>
<testcase classname="tests.one" name="test_d"><failure message="no"/></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def matrix(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.delitem(sys.modules, "tests.matrix", raising=False)
    import tests.matrix as module

    page = tmp_path / "versions.md"
    page.write_text(f"before\n\n{module.BEGIN}\nold\n{module.END}\n\nafter\n")
    monkeypatch.setattr(module, "PAGE", page)
    monkeypatch.setattr(module, "KEPT", tmp_path / "kept")
    return module


VERSIONS = ("2.8.0", "3.10.13", "2.2.6")


def test_a_report_becomes_a_row_with_its_reasons(matrix, tmp_path):
    (tmp_path / "report.xml").write_text(REPORT)
    files = matrix.files_of(["tests/gpu"])
    cell = matrix.read_report(tmp_path / "report.xml", VERSIONS, files)
    assert cell.row() == "| 2.8.0 | 3.10.13 | 2.2.6 | gpu | 2 | 1 | 1 |"
    matrix.write([cell])
    written = matrix.PAGE.read_text()
    assert written.startswith("before")
    assert written.endswith("after\n")
    assert "old" not in written
    assert "- needs torch 99: torch 2.8.0, Python 3.10.13 (1)." in written
    assert "- tests.one::test_d: torch 2.8.0, Python 3.10.13." in written


def test_files_run_later_take_the_place_of_what_they_gave_before(matrix):
    one, two = "tests/unit/test_modes.py", "tests/unit/test_units.py"
    first = {"tests.unit.test_modes::test_a": "failed", "tests.unit.test_units::test_a": "passed"}
    matrix.keep(matrix.Cell(VERSIONS, [one, two], first))
    matrix.keep(matrix.Cell(("2.11.0", "3.12.1", "2.5.5"), [one], {}))
    matrix.keep(matrix.Cell(VERSIONS, [one], {"tests.unit.test_modes::test_b": "passed"}))
    older, newer = matrix.kept()
    assert set(older.cases) == {"tests.unit.test_modes::test_b", "tests.unit.test_units::test_a"}
    assert (older.passed, older.failed, older.files) == (2, [], [one, two])
    assert newer.versions[0] == "2.11.0"
    assert newer.ran() == f"unit (1 of {len(matrix.files_of(['tests/unit']))})"
    assert "tests/unit/test_light.py" in matrix.table([newer]).split("Not run")[1]


def test_an_interrupt_keeps_the_files_that_were_finished(matrix):
    files = ["tests/unit/test_modes.py", "tests/unit/test_light.py", "tests/unit/test_units.py"]
    cases = {"tests.unit.test_modes::test_a": "passed", "tests.unit.test_light::test_a": "passed"}
    whole = matrix.Cell(VERSIONS, files, cases).finished()
    assert whole.files == files[:1]
    assert list(whole.cases) == ["tests.unit.test_modes::test_a"]


def test_the_lowest_version_is_that_of_the_package(matrix):
    assert matrix.lowest() == "2.8"
    assert matrix.pinned().count(".") == 2
