"""The quick tests on each version of torch and of Python: `python -m tests.matrix`.

For each pair it makes a fresh environment, installs the package there with the newest of all else,
runs the quick tier and writes a row of the table in `docs/versions.md`. An environment has some
gigabytes where the registry holds torch for GPUs alone, and is removed after its tests.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "versions.md"
BEGIN, END = "<!-- matrix begins -->", "<!-- matrix ends -->"
PYTHONS = [f"python3.{minor}" for minor in range(10, 20)]
HEAD = """\
| torch | Python | NumPy | tests | passed | skipped | failed |
| --- | --- | --- | --- | ---: | ---: | ---: |
"""


def lowest() -> str:
    """The oldest torch that the package admits."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return re.findall(r'"torch>=([\d.]+)"', text)[0]


def pinned() -> str:
    """The torch that the tests are developed on."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    return re.findall(r"^torch==([\d.]+)$", text, flags=re.MULTILINE)[0]


@dataclass
class Cell:
    """What the tests gave in one environment.

    Attributes:
        versions: Of torch, Python and NumPy.
        tests: Which folders were run.
        skipped: Reasons, with how many tests each.
        failed: The tests.
    """

    versions: tuple[str, str, str]
    tests: str
    passed: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def row(self) -> str:
        counts = (self.passed, sum(self.skipped.values()), len(self.failed))
        return "| " + " | ".join([*self.versions, self.tests, *map(str, counts)]) + " |"


def read_report(path: Path, versions: tuple[str, str, str], tests: str) -> Cell:
    """A cell from pytest's JUnit file."""
    cell = Cell(versions, tests)
    for case in ElementTree.parse(path).iter("testcase"):
        outcomes = {child.tag: child for child in case}
        if "failure" in outcomes or "error" in outcomes:
            cell.failed.append(f"{case.get('classname')}::{case.get('name')}")
        elif "skipped" in outcomes:
            reason = outcomes["skipped"].get("message") or "no reason given"
            cell.skipped[reason] = cell.skipped.get(reason, 0) + 1
        else:
            cell.passed += 1
    return cell


def table(cells: list[Cell]) -> str:
    """The cells as Markdown, with the reasons of what was skipped and the names of what failed."""
    lines = [HEAD + "\n".join(cell.row() for cell in cells)]
    for title, of in (("Skipped", "skipped"), ("Failed", "failed")):
        where: dict[str, list[str]] = {}
        for cell in cells:
            found = getattr(cell, of)
            for what in found:
                count = f" ({found[what]})" if isinstance(found, dict) else ""
                name = f"torch {cell.versions[0]}, Python {cell.versions[1]}{count}"
                where.setdefault(what, []).append(name)
        if where:
            listed = [f"- {what}: {'; '.join(names)}." for what, names in where.items()]
            lines.append(f"{title}:\n\n" + "\n".join(listed))
    return "\n\n".join(lines)


def write(cells: list[Cell]) -> None:
    """Puts the table between the page's markers."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table(cells)}\n\n{END}{after}", encoding="utf-8")


def try_pair(python: str, torch: str, folders: list[str], packages: list[str]) -> Cell | None:
    """The tests in a fresh environment; None where there is no such torch for this Python."""
    with tempfile.TemporaryDirectory(prefix="advreg-matrix-") as home:
        subprocess.run([python, "-m", "venv", home], check=True)
        pip = [f"{home}/bin/python", "-m", "pip", "install", "--quiet"]
        # Without the pins of `constraints.txt`: the newest of all else is what a user gets.
        wanted = [f"torch=={torch}" if torch != "newest" else "torch", "-e", f"{ROOT}[test]"]
        if subprocess.run([*pip, *wanted, *packages], check=False).returncode:
            print(f"torch {torch} cannot be installed for {python}.", file=sys.stderr)
            return None
        return run_tests(Path(home) / "bin" / "python", folders)


def run_tests(python: Path, folders: list[str]) -> Cell:
    """The quick tier of some folders in an environment that is there."""
    with tempfile.TemporaryDirectory(prefix="advreg-matrix-") as out:
        report = Path(out) / "report.xml"
        tier = ["-m", "not full", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
        command = [str(python), "-m", "pytest", *tier, *folders]
        subprocess.run(command, cwd=ROOT, check=False, env=environment)
        code = "import platform, numpy, torch as t; print(t.__version__, platform.python_version(),"
        code += " numpy.__version__)"
        said = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
        torch, ours, numpy = said.stdout.split()
        where = ", ".join(Path(folder).name for folder in folders)
        return read_report(report, (torch, ours, numpy), where)


def main(arguments: list[str] | None = None) -> int:
    """Runs the matrix; 1 where a test failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    torches = [lowest(), "2.11.0", pinned(), "newest"]
    parser.add_argument("--torch", nargs="+", default=torches, help="versions, or newest")
    parser.add_argument("--python", nargs="+", help="programs; by default all on the path")
    parser.add_argument("--tests", nargs="+", default=["tests"], help="folders or files")
    parser.add_argument("--with", nargs="*", default=[], dest="packages", help="more packages")
    ready = "Python programs of environments that are there, tried as they are instead"
    parser.add_argument("--environments", nargs="+", default=[], type=Path, help=ready)
    options = parser.parse_args(arguments)
    cells = []
    for python in options.environments:
        cells.append(run_tests(python, options.tests))
        write(cells)
    pythons = options.python or [name for name in PYTHONS if shutil.which(name)]
    for python in [] if options.environments else pythons:
        for torch in options.torch:
            cell = try_pair(python, torch, options.tests, options.packages)
            if cell:
                cells.append(cell)
                write(cells)
    print(table(cells))
    return int(any(cell.failed for cell in cells))


if __name__ == "__main__":
    sys.exit(main())
