"""Takes one fix after the other out of a copy of the source: the test that is named must fail.

    python -m tests.campaigns.guards
    python -m tests.campaigns.guards --only "last.pt"

`tests/campaigns/mutations.py` has the table. Every named test must first pass with the source as it
is; a test that is skipped has shown nothing. Then it runs once with the fix taken out. A guard is
caught where the test itself fails, and not where the copy cannot be imported or uses a name that
is gone: so would any test.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.campaigns import report
from tests.campaigns.mutations import GUARDS, Guard

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
PATIENCE = 300
"""Seconds that one test may take with its fix taken out."""

IMPORTED = ("torch", "PIL.Image", "sklearn.datasets", "lightning_fabric", "yaml", "rich.console")
"""What forks need not import again; not the package itself."""

TOGETHER = 10
"""Guards whose tests are first run as the source is, in one process."""

UNFAIR = re.compile(r"\b(NameError|UnboundLocalError|SyntaxError|IndentationError|ImportError)\b")
"""What a fix that was taken out carelessly raises, whatever the test looks at."""


class Ran(NamedTuple):
    """How a run of tests ended: its exit code, below 0 for a signal, and what it printed."""

    code: int
    printed: str


class TableError(Exception):
    """A line of the table does not fit the source or the tests."""


def without_fix(guard: Guard) -> str:
    """The text of a guard's file with the fix taken out.

    Raises:
        TableError: The fix does not stand in the file exactly once, or what is left is no Python.
    """
    path = SOURCE / "advreg" / guard.file
    if not path.is_file():
        raise TableError(f"{guard.fault}: there is no {guard.file}; name the file of the fix.")
    text = path.read_text(encoding="utf-8")
    if (count := text.count(guard.fix)) != 1:
        raise TableError(
            f"{guard.fault}: {guard.file} holds {guard.fix!r} {count} times; give the exact text"
            " of the fix, which stands there once."
        )
    changed = text.replace(guard.fix, guard.without)
    try:
        compile(changed, guard.file, "exec")
    except SyntaxError as error:
        raise TableError(f"{guard.fault}: what is left of {guard.file}: {error}.") from None
    return changed


def run_tests(source: Path, tests: list[str], patience: float | None = None) -> Ran:
    """Runs tests with the package at `source`, in a fork that has no import of torch to wait for.

    Raises:
        TimeoutError: They take longer than `patience` seconds.
    """
    with tempfile.NamedTemporaryFile("w+", encoding="utf-8") as printed:
        context = multiprocessing.get_context("fork")
        process = context.Process(target=_pytest, args=(source, tests, printed.fileno()))
        process.start()
        process.join(patience)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutError
        return Ran(process.exitcode, Path(printed.name).read_text(encoding="utf-8"))


def _pytest(source: Path, tests: list[str], printed: int) -> None:
    """In the fork: one line for each test says how it ended."""
    for descriptor in (1, 2):
        os.dup2(printed, descriptor)
    os.chdir(ROOT)
    sys.path.insert(0, str(source))
    os.environ |= {"PYTHONPATH": str(source), "COLUMNS": "300"}
    assert not any(name.partition(".")[0] == "advreg" for name in sys.modules)
    code = pytest.main(["-rA", "--tb=no", "-p", "no:cacheprovider", *tests])
    sys.stdout.flush()
    os._exit(code)  # without waiting for threads that a test may have left


def passing(tests: list[str]) -> set[str]:
    """Which of the tests pass with the source as it is; with parameters, all of them must."""
    lines = run_tests(SOURCE, tests).printed.splitlines()

    def ended(word: str, test: str) -> bool:
        whole = f"{word} {test}"
        return any(line == whole or line.startswith((f"{whole}[", f"{whole} - ")) for line in lines)

    return {
        test
        for test in tests
        if ended("PASSED", test) and not ended("FAILED", test) and not ended("ERROR", test)
    }


def trial(guard: Guard, changed: str) -> tuple[bool, str]:
    """Whether the guard's test fails in a copy of the source without the fix, and how it ended."""
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary, "src")
        shutil.copytree(SOURCE, copy)  # with what Python has compiled, which saves seconds
        path = copy / "advreg" / guard.file
        path.write_text(changed, encoding="utf-8")
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
            compiled.unlink()
        try:
            done = run_tests(copy, [guard.test], PATIENCE)
        except TimeoutError:
            return False, f"no end within {PATIENCE} seconds"
    lines = done.printed.splitlines()
    failed = [line.partition(" - ")[2] for line in lines if line.startswith("FAILED ")]
    errors = [line for line in lines if line.startswith("ERROR ")]
    if done.code < 0:
        return True, f"the process was ended by signal {-done.code}"
    said = (failed + errors or [done.printed[-300:]])[0].replace(temporary, "")
    return bool(failed) and not errors and not UNFAIR.search(said), said[:200]


def campaign(guards: list[Guard]) -> dict[str, Any]:
    """Tries each guard.

    Raises:
        TableError: A line of the table does not fit the source.
    """
    began = time.monotonic()
    for name in IMPORTED:
        import_module(name)
    changed = [without_fix(guard) for guard in guards]
    sound: set[str] = set()
    rows = []
    for number, (guard, text) in enumerate(zip(guards, changed, strict=True)):
        if number % TOGETHER == 0:
            near = {one.test for one in guards[number : number + TOGETHER]}
            sound |= passing(sorted(near - sound))
        caught, said = trial(guard, text) if guard.test in sound else (False, "not passed before")
        print(f"{'caught' if caught else 'NOT CAUGHT':10}  {guard.area}: {guard.fault}", flush=True)
        place = {"area": guard.area, "fault": guard.fault, "file": guard.file, "test": guard.test}
        rows.append({**place, "caught": caught, "how": said})
    return {
        "guards": len(rows),
        "caught": sum(bool(row["caught"]) for row in rows),
        "tests_that_pass_with_all_fixes": len(sound),
        "by_area": Counter(guard.area for guard in guards),
        "not_caught": [row["fault"] for row in rows if not row["caught"]],
        "table": rows,
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", help="of the guards those whose fault, file or test has this")
    parser.add_argument("--out")
    options = parser.parse_args()
    wanted = options.only or ""
    chosen = [one for one in GUARDS if wanted in f"{one.area} {one.fault} {one.file} {one.test}"]
    if not chosen:
        parser.error(f"no guard has {wanted!r}")
    if options.only and not options.out:
        parser.error("part of the table is no result; name a file for it with --out")
    try:
        figures = campaign(chosen)
    except TableError as error:
        parser.error(str(error))
    report("campaign_guards", figures, options.out)
    return bool(figures["not_caught"])


if __name__ == "__main__":
    raise SystemExit(main())
