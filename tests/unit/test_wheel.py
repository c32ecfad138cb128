"""What is published: built, installed where there is nothing of this checkout, and used there."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import advreg

pytestmark = pytest.mark.full
ROOT = Path(__file__).parents[2]
OTHERS = "py.typed", "layerwise/kernels/kernels.cpp", "study/demo.yaml", "report/page.css"


def run(*command, cwd, paths=()):
    """Runs a command without this checkout on its path; returns what it printed."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment = kept | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of a source distribution, and of a wheel that is built from that."""
    pytest.importorskip("hatchling")
    out = tmp_path_factory.mktemp("dist")
    build = (sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT)
    run(*build, cwd=out, paths=[path for path in sys.path if path != str(ROOT / "src")])
    return out


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """The programs' folder of an environment with the wheel and with this one's dependencies."""
    home = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", home, cwd=home)
    (wheel,) = built.glob("*.whl")
    pip = (sys.executable, "-m", "pip", "--python", home, "install", "--quiet", "--no-index")
    run(*pip, "--no-deps", wheel, cwd=home)
    (packages,) = home.glob("lib/python*/site-packages")
    # Named in a .pth, for the folders' own .pth, such as an editable install's, are then not read.
    folders = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "dependencies.pth").write_text("\n".join(folders))
    return home / "bin"


def test_a_wheel_holds_the_package_and_its_marker_of_types(built):
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    there = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src").rglob("*.py")}
    assert there | {f"advreg/{name}" for name in OTHERS} <= set(names)
    assert {name.partition("/")[0] for name in names} == {
        "advreg",
        f"advreg-{advreg.__version__}.dist-info",
    }


def test_a_source_distribution_holds_neither_results_nor_tests(built):
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "src/advreg/py.typed"} <= names
    assert not [name for name in names if name.startswith(("benchmarks", "tests", "runs"))]


def test_the_program_says_its_version(installed, tmp_path):
    said = run(installed / "advreg", "--version", cwd=tmp_path)
    assert said.startswith(f"advreg {advreg.__version__}, torch ")


def test_the_package_is_the_installed_one(installed, tmp_path):
    code = "import advreg; print(advreg.__file__)"
    assert str(installed.parent) in run(installed / "python", "-c", code, cwd=tmp_path)


SHORTENED = """
import sys
from advreg.cli import main
from advreg.study import demo

whole = demo.demo_study
def shortened(*options):
    values = whole(*options).text
    arms = {label: values["arms"][label] for label in ("Plain", "Slot memory")}
    return demo.study_from({**values, "arms": arms, "pairs": [], "time_steps": False}, "quick")

demo.demo_study = shortened
sys.exit(main(["demo", "--quick", "--seeds", "2", "--workers", "1"]))
"""


def test_the_demo_runs_in_an_empty_folder(installed, tmp_path):
    run(installed / "python", "-c", SHORTENED, cwd=tmp_path)
    assert (tmp_path / "runs" / "demo" / "study.html").stat().st_size > 10_000
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
