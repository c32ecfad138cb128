"""The site has every page and builds without a warning; its notebook and picture were run."""

import base64
import json
import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"
REFERENCE = ROOT / "docs" / "reference"


@pytest.fixture
def tool(monkeypatch):
    """Imports a script of tools/."""
    monkeypatch.syspath_prepend(ROOT / "tools")
    return import_module


def navigation(tool):
    settings = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    return re.findall(r'"([\w/]+\.md)"', tool("site_pages").written_out(settings))


def test_every_page_is_in_the_navigation_once(tool):
    made = {f"examples/{NOTEBOOK.stem}.md"}
    pages = {str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md")}
    pages |= {path.name for path in ROOT.glob("*.md")}
    pages |= {str(path.relative_to(ROOT)) for path in ROOT.glob("results/*/*.md")}
    pages |= {"examples/README.md", "benchmarks/README.md"} | made
    found = navigation(tool)
    assert sorted(found) == sorted(pages)
    assert all((ROOT / page).exists() for page in pages - made)


def test_the_overview_of_methods_has_every_card():
    overview = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[(\w+)\]\(methods/(\w+)\.md\)", overview, flags=re.MULTILINE)
    cards = {path.stem for path in ROOT.glob("docs/methods/*.md")}
    assert listed
    assert all(name == card for name, card in listed)
    assert sorted(name for name, _ in listed) == sorted(cards)


def test_the_page_of_examples_lists_every_example():
    page = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| \[([\w.]+)\]\(\1\)", page, flags=re.MULTILINE))
    assert listed == {path.name for path in ROOT.glob("examples/*.[ip]*y*")}


def test_the_reference_documents_modules_that_exist_and_every_public_part():
    shown = {
        name
        for page in REFERENCE.glob("*.md")
        for name in re.findall(r"^::: ([\w.]+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
    parts = {path.parent.name for path in (ROOT / "src" / "advreg").glob("*/__init__.py")}
    frameworks = {path.stem for path in (ROOT / "src" / "advreg" / "integrations").iterdir()}
    frameworks = {
        f"integrations.{name}" for name in frameworks - {"__init__", "__pycache__", "ranks"}
    }
    parts = parts - {"cli", "integrations"} | {"errors"} | frameworks
    modules = {f"advreg.{part}" for part in parts} | {"advreg"}
    assert not modules - shown
    for name in shown - modules:
        module, _, what = name.rpartition(".")
        assert hasattr(import_module(module), what), name


def test_the_picture_is_the_one_that_is_drawn(tool):
    assert tool("picture").OUT.read_text(encoding="utf-8") == tool("picture").draw()


def test_a_notebook_becomes_a_page_with_its_pictures(tool, tmp_path):
    page = tool("site_pages").notebook_page(NOTEBOOK, tmp_path)
    pictures = re.findall(r"!\[[^]]+\]\(([\w.-]+)\)", page)
    assert len(pictures) == 2
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    assert "```text\ninput (64, 1, 8, 8)" in page


def test_dead_links_are_found(tool, tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "index.html").write_text('<p id="here"></p>')
    links = ("b/", "b/#here", "b/#nowhere", "c/", "https://example.org/none")
    (tmp_path / "index.html").write_text("".join(f'<a href="{link}">' for link in links))
    dead = tool("site_pages").dead_links(tmp_path)
    assert [sentence.split()[3].rstrip(",") for sentence in dead] == ["b/#nowhere", "c/"]


def test_the_notebook_has_the_cells_that_are_written(tool):
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert ["".join(cell["source"]) for cell in cells] == tool("notebook").SOURCES


def test_the_notebook_was_executed_from_top_to_bottom():
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert "/home" not in NOTEBOOK.read_text(encoding="utf-8")


@pytest.mark.full
def test_the_notebook_runs_and_its_claims_hold():
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, coalesce_streams=True).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    drawn = [
        output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})
    ]
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in drawn)
    assert len(drawn) == 2
    text = "".join(output.get("text", "") for output in outputs)
    found = re.findall(r"seed \d (\w+) .* PGD-10 0.1 ([\d.]+) %", text)
    assert len(found) == 6
    for (_, plain), (_, layerwise) in zip(found[::2], found[1::2], strict=True):
        assert float(layerwise) > float(plain)


@pytest.mark.full
def test_the_site_builds_without_a_warning(tool, tmp_path):
    pytest.importorskip("zensical")
    assert tool("site_pages").main(tmp_path) == 0
    home = tool("site_pages").Links((tmp_path / "site" / "index.html").read_text())
    for page in set(navigation(tool)) - {"README.md"}:
        assert re.sub(r"(README)?\.md$", "", f"./{page}").rstrip("/") + "/" in home.links
    built = (tmp_path / "site" / "docs" / "reference" / "adversary" / "index.html").read_text()
    assert 'id="advreg.LayerwiseAdversary.attach"' in built
