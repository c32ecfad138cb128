"""The quick tests on each version of torch and of Python: `python -m tests.matrix`.

For each pair it makes a fresh environment, installs the package there with the newest of all else,
runs the quick tier and writes a row of the table in `docs/versions.md`. An environment has some
gigabytes where the registry holds torch for GPUs alone, and is removed after its tests.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "versions.md"
KEPT = ROOT / "build" / "matrix"
PASSED, FAILED = "passed", "failed"
INTERRUPTED = 2
"""What pytest ends with after an interrupt, such as `kill -INT` of it, or a damaged file."""

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
        files: Which were run.
        cases: What became of each test: "passed", "failed", or why it was skipped.
    """

    versions: tuple[str, str, str]
    files: list[str]
    cases: dict[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> int:
        return sum(outcome == PASSED for outcome in self.cases.values())

    @property
    def failed(self) -> list[str]:
        return [case for case, outcome in self.cases.items() if outcome == FAILED]

    @property
    def skipped(self) -> dict[str, int]:
        """Reasons, with how many tests each."""
        outcomes = self.cases.values()
        return dict(Counter(outcome for outcome in outcomes if outcome not in (PASSED, FAILED)))

    def row(self) -> str:
        counts = (self.passed, sum(self.skipped.values()), len(self.failed))
        return "| " + " | ".join([*self.versions, self.ran(), *map(str, counts)]) + " |"

    def ran(self) -> str:
        """The folders of the files, with how many of theirs where those are not all."""
        folders = Counter(str(Path(name).parent) for name in self.files)
        parts = []
        for folder, count in sorted(folders.items()):
            whole = len(files_of([folder]))
            parts.append(Path(folder).name + (f" ({count} of {whole})" if count < whole else ""))
        return ", ".join(parts)

    @property
    def left_out(self) -> list[str]:
        """The other files of the folders that files were run of."""
        folders = sorted({str(Path(name).parent) for name in self.files})
        return [name for name in files_of(folders) if name not in self.files]

    def joined(self, newer: Cell) -> Cell:
        """With the results of a later run, whose files' tests take the place of the earlier."""
        again = {name.removesuffix(".py").replace("/", ".") for name in newer.files}
        old = {case: said for case, said in self.cases.items() if case.split("::")[0] not in again}
        return Cell(newer.versions, sorted({*self.files, *newer.files}), old | newer.cases)

    def finished(self) -> Cell:
        """Without the last of the files that a test was run of, in which an interrupt fell."""
        modules = {name.removesuffix(".py").replace("/", "."): name for name in self.files}
        begun = list(dict.fromkeys(case.split("::")[0] for case in self.cases))[:-1]
        cases = {case: said for case, said in self.cases.items() if case.split("::")[0] in begun}
        return Cell(self.versions, [modules[name] for name in begun], cases)


def files_of(tests: list[str]) -> list[str]:
    """The files of tests in folders and files, as paths from the root of the repository."""
    found = []
    for name in tests:
        path = ROOT / name
        found += sorted(path.rglob("test_*.py")) if path.is_dir() else [path]
    return [str(path.relative_to(ROOT)) for path in found]


def read_report(path: Path, versions: tuple[str, str, str], files: list[str]) -> Cell:
    """A cell from pytest's JUnit file."""
    cell = Cell(versions, files)
    for case in ElementTree.parse(path).iter("testcase"):
        outcomes = {child.tag: child for child in case}
        name = "::".join(part for part in (case.get("classname"), case.get("name")) if part)
        if "failure" in outcomes or "error" in outcomes:
            cell.cases[name] = FAILED
        elif "skipped" in outcomes:
            cell.cases[name] = outcomes["skipped"].get("message") or "no reason given"
        else:
            cell.cases.setdefault(name, PASSED)
    return cell


def keep(cell: Cell) -> None:
    """Adds what one run gave to what earlier runs in such an environment left."""
    path = KEPT / ("-".join(cell.versions) + ".json")
    if path.exists():
        cell = Cell(**json.loads(path.read_text(encoding="utf-8"))).joined(cell)
    KEPT.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(cell)), encoding="utf-8")


def kept() -> list[Cell]:
    """What was kept, the oldest torch first."""
    cells = [Cell(**json.loads(path.read_text(encoding="utf-8"))) for path in KEPT.glob("*.json")]
    return sorted(
        cells, key=lambda cell: [int(part) for part in re.findall(r"\d+", cell.versions[0])]
    )


def table(cells: list[Cell]) -> str:
    """The cells as Markdown, with the reasons of what was skipped and the names of what failed."""
    lines = [HEAD + "\n".join(cell.row() for cell in cells)]
    for title, of in (("Skipped", "skipped"), ("Failed", "failed"), ("Not run", "left_out")):
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


def try_pair(python: str, torch: str, tests: list[str], packages: list[str]) -> Cell | None:
    """The tests in a fresh environment; None where there is no such torch for this Python."""
    with tempfile.TemporaryDirectory(prefix="advreg-matrix-") as home:
        subprocess.run([python, "-m", "venv", home], check=True)
        pip = [f"{home}/bin/python", "-m", "pip", "install", "--quiet"]
        # Without the pins of `constraints.txt`: the newest of all else is what a user gets.
        wanted = [f"torch=={torch}" if torch != "newest" else "torch", "-e", f"{ROOT}[test]"]
        if subprocess.run([*pip, *wanted, *packages], check=False).returncode:
            print(f"torch {torch} cannot be installed for {python}.", file=sys.stderr)
            return None
        return run_tests(Path(home) / "bin" / "python", tests)


def run_tests(python: Path, tests: list[str]) -> Cell:
    """The quick tier of some folders and files in an environment that is there."""
    with tempfile.TemporaryDirectory(prefix="advreg-matrix-") as out:
        report = Path(out) / "report.xml"
        tier = ["-m", "not full", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
        command = [str(python), "-m", "pytest", *tier, *tests]
        ended = subprocess.run(command, cwd=ROOT, check=False, env=environment)
        code = "import platform, numpy, torch as t; print(t.__version__, platform.python_version(),"
        code += " numpy.__version__)"
        said = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
        torch, ours, numpy = said.stdout.split()
        cell = read_report(report, (torch, ours, numpy), files_of(tests))
        ran = any("::" in case for case in cell.cases)  # else files could not be collected
        return cell.finished() if ended.returncode == INTERRUPTED and ran else cell


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
    again = "keep what earlier runs found, but for the tests that are run now"
    parser.add_argument("--add", action="store_true", help=again)
    options = parser.parse_args(arguments)
    if not options.add:
        shutil.rmtree(KEPT, ignore_errors=True)
    for python in options.environments:
        keep(run_tests(python, options.tests))
        write(kept())
    pythons = options.python or [name for name in PYTHONS if shutil.which(name)]
    for python in [] if options.environments else pythons:
        for torch in options.torch:
            cell = try_pair(python, torch, options.tests, options.packages)
            if cell:
                keep(cell)
                write(kept())
    print(table(kept()))
    return int(any(cell.failed for cell in kept()))


if __name__ == "__main__":
    sys.exit(main())
