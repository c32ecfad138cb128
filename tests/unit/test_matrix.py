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
    return module


def test_a_report_becomes_a_row_with_its_reasons(matrix, tmp_path):
    (tmp_path / "report.xml").write_text(REPORT)
    cell = matrix.read_report(tmp_path / "report.xml", ("2.8.0", "3.10.13", "2.2.6"), "unit")
    assert cell.row() == "| 2.8.0 | 3.10.13 | 2.2.6 | unit | 2 | 1 | 1 |"
    matrix.write([cell])
    written = matrix.PAGE.read_text()
    assert written.startswith("before")
    assert written.endswith("after\n")
    assert "old" not in written
    assert "- needs torch 99: torch 2.8.0, Python 3.10.13 (1)." in written
    assert "- tests.one::test_d: torch 2.8.0, Python 3.10.13." in written


def test_the_lowest_version_is_that_of_the_package(matrix):
    assert matrix.lowest() == "2.8"
    assert matrix.pinned().count(".") == 2
