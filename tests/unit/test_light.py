"""The package is light: torch and numpy alone bring the adversary, the methods and the attacks."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from advreg.cli import COMMANDS

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "advreg"
LIGHT = ("torch", "numpy", "advreg", "triton")
"""What a module may import as it likes; triton is imported by torch's own code generator."""

GATED = ("report", "study", "training")
"""Parts whose `__init__` names the extra that the imports at the head of all their modules need."""

WITH_THE_PARSER = ("rich", "docstring_parser")
"""What `advreg.cli.parsing` has tried before any command runs."""


def python(*arguments, paths=()):
    """Runs Python with this environment's packages and more folders; returns what it printed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, paths), *sys.path])}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=300
    )


def modules(code):
    done = python("-c", f"{code}; import sys; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_it_brings_few_modules_beyond_torch_s():
    torch = modules("import torch")
    for code in ("import advreg", "import advreg.methods, advreg.attacks, advreg.losses"):
        assert len(torch | modules(code)) <= 1.2 * len(torch), code


def test_every_method_steps_and_an_attack_runs_on_torch_and_numpy_alone():
    here = Path(__file__).parent
    done = python(str(here / "alone.py"), "step", paths=[SOURCE.parent, here.parent / "contracts"])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [*sorted(COMMANDS.keys() - {"hash"}), "hash demo"])
def test_a_command_without_its_extra_names_it_in_one_sentence(command):
    done = python(str(Path(__file__).with_name("alone.py")), *command.split(), "--help")
    assert done.returncode == 2
    assert done.stderr.startswith("advreg: The command line needs ")
    assert done.stderr.endswith(', which is not installed; run: pip install "advreg[cli]"\n')
    assert done.stderr.count("\n") == 1


def imports(tree):
    """The packages imported in a module: name, line, if at the head, if in `needs`."""

    def walk(node, head, guarded):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield alias.name.partition(".")[0], child.lineno, head, guarded
            elif isinstance(child, ast.ImportFrom):
                yield child.module.partition(".")[0], child.lineno, head, guarded
            elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield from walk(child, False, False)
            elif isinstance(child, ast.With):
                needs = any("needs(" in ast.unparse(item) for item in child.items)
                yield from walk(child, head, guarded or needs)
            else:
                yield from walk(child, head, guarded)

    return walk(tree, True, False)


def test_what_an_extra_brings_is_imported_within_needs():
    loose = []
    for path in sorted(SOURCE.rglob("*.py")):
        part = path.relative_to(SOURCE).parts[0]
        for name, line, head, guarded in imports(ast.parse(path.read_text(encoding="utf-8"))):
            light = name in LIGHT or name in sys.stdlib_module_names
            gated = (head and part in GATED) or (part == "cli" and name in WITH_THE_PARSER)
            if not (light or guarded or gated):
                loose.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not loose


@pytest.mark.parametrize("part", GATED)
def test_a_gated_part_imports_its_modules_within_needs(part):
    tree = ast.parse((SOURCE / part / "__init__.py").read_text(encoding="utf-8"))
    assert all(guarded for _, line, _, guarded in imports(tree) if line > tree.body[1].lineno)


def test_the_extras_that_messages_name_exist():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = text.partition("[project.optional-dependencies]")[2].partition("\n[project.scripts]")[
        0
    ]
    extras = re.findall(r"^(\w+) = \[", section, flags=re.MULTILINE)
    code = "".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    named = re.findall(r'(?:needs\(|extra=)"(\w+)"', code)
    assert {"cli", "data", "report", "attacks", "faiss"} <= set(named) <= set(extras)
    dependencies = text.partition("dependencies = [")[2].partition("]")[0]
    assert re.findall(r'"(\w+)', dependencies) == ["torch", "numpy"]
