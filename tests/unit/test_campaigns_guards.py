"""The table of guards fits the source and the tests, so that it cannot rot."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))  # pytest finds the tests' own folders alone
from tests.campaigns import guards  # noqa: E402
from tests.campaigns.guards import TableError, without_fix  # noqa: E402
from tests.campaigns.mutations import GUARDS  # noqa: E402


def test_every_fix_stands_in_its_file_once_and_every_test_exists():
    defined = {}
    for guard in GUARDS:
        without_fix(guard)
        file, _, name = guard.test.partition("::")
        if file not in defined:
            tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
            defined[file] = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert name.partition("[")[0] in defined[file], guard.fault
    faults = [guard.fault for guard in GUARDS]
    assert len(set(faults)) == len(faults)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"fix": "if this was never there:"}, r"checks\.py holds 'if this was .* 0 times"),
        ({"fix": "return"}, r"checks\.py holds 'return' \d\d times"),
        ({"file": "gone.py"}, r"there is no gone\.py"),
        ({"without": "if ("}, r"what is left of checks\.py"),
    ],
)
def test_a_line_that_fits_no_more_is_named(changed, message):
    with pytest.raises(TableError, match=f"{GUARDS[0].fault}.*{message}"):
        without_fix(GUARDS[0]._replace(**changed))


@pytest.mark.parametrize(
    ("code", "printed", "caught"),
    [
        (1, "FAILED tests/a.py::b - AssertionError: 1\n", True),
        (1, "FAILED tests/a.py::b - NameError: name 'x' is not defined\n", False),
        (1, "ERROR tests/a.py::b - AssertionError: of a fixture\n", False),
        (0, "PASSED tests/a.py::b\n", False),
        (2, "ERROR tests/a.py - the module cannot be imported\n", False),
        (-9, "", True),
    ],
)
def test_only_a_test_that_fails_has_caught_a_fault(code, printed, caught, monkeypatch):
    seen = []

    def run(source, tests, patience):
        seen.append((source / "advreg" / GUARDS[0].file).read_text(encoding="utf-8"))
        return guards.Ran(code, printed)

    monkeypatch.setattr(guards, "run_tests", run)
    text = without_fix(GUARDS[0])
    assert guards.trial(GUARDS[0], text)[0] is caught
    assert seen == [text]
