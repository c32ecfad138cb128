"""Takes one fix after the other out of a copy of the source: the test that is named must fail.

    python -m tests.campaigns.guards
    python -m tests.campaigns.guards --only "last.pt"

`tests/campaigns/mutations.py` has the table. First every named test must pass with the source as it
is; a test that is skipped has shown nothing. Then each runs once with its fix taken out. A guard is
caught where the test itself fails, and not where the copy cannot be imported or uses a name that
is gone: so would any test.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.campaigns import report
from tests.campaigns.mutations import GUARDS, Guard

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
PATIENCE = 300
"""Seconds that one test may take with its fix taken out."""

UNFAIR = re.compile(r"\b(NameError|UnboundLocalError|SyntaxError|IndentationError|ImportError)\b")
"""What a fix that was taken out carelessly raises, whatever the test looks at."""


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


def run_tests(
    source: Path, tests: list[str], patience: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs tests with the package at `source`; one line for each says how it ended."""
    environment = {**os.environ, "PYTHONPATH": str(source), "COLUMNS": "300"}
    command = [sys.executable, "-m", "pytest", "-rA", "--tb=no", "-p", "no:cacheprovider", *tests]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=patience
    )


def passing(tests: list[str]) -> set[str]:
    """Which of the tests pass with the source as it is; with parameters, all of them must."""
    lines: list[str] = []
    for first in range(0, len(tests), 10):  # one that takes the process down costs few others
        lines += run_tests(SOURCE, tests[first : first + 10]).stdout.splitlines()

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
        except subprocess.TimeoutExpired:
            return False, f"no end within {PATIENCE} seconds"
    lines = done.stdout.splitlines()
    failed = [line.partition(" - ")[2] for line in lines if line.startswith("FAILED ")]
    errors = [line for line in lines if line.startswith("ERROR ")]
    if done.returncode < 0:
        return True, f"the process was ended by signal {-done.returncode}"
    said = (failed + errors or [(done.stdout + done.stderr)[-300:]])[0].replace(temporary, "")
    return bool(failed) and not errors and not UNFAIR.search(said), said[:200]


def campaign(guards: list[Guard]) -> dict[str, Any]:
    """Tries each guard.

    Raises:
        TableError: A line of the table does not fit the source.
    """
    began = time.monotonic()
    changed = [without_fix(guard) for guard in guards]
    sound = passing(sorted({guard.test for guard in guards}))
    rows = []
    for guard, text in zip(guards, changed, strict=True):
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
