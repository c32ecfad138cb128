"""Documents are true: their code runs, their commands exist, their links lead somewhere."""

import ast
import re
import shlex
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import advreg
import advreg.integrations.transformers  # its site rule stays known
from advreg.cli import bench, demo, evaluate, lots, sites, tune
from advreg.cli import hash as hashes
from advreg.cli.compare import collect, own, plan, share, whole
from advreg.cli.hash import train as hash_train
from advreg.cli.parsing import values_of, write_out
from advreg.cli.train import build_parser as train_parser
from advreg.layerwise.memory import MEMORIES
from advreg.layerwise.sites import SITE_RULES
from advreg.methods import METHODS

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "benchmarks/README.md", "examples/README.md", "docs/**/*.md")
    for path in ROOT.glob(pattern)
)
PARSERS = {
    "bench": bench.build_parser,
    "tune": tune.build_parser,
    "compare": whole.build_parser,
    "compare --model": own.build_parser,
    "compare plan": plan.build_parser,
    "compare run": share.build_parser,
    "compare collect": collect.build_parser,
    "demo": demo.build_parser,
    "evaluate": evaluate.build_parser,
    "lots": lots.build_parser,
    "sites": sites.build_parser,
    **{
        f"hash {name}": import_module(f"{hashes.__name__}.{name}").build_parser
        for name in hashes.COMMANDS
        if name != "train"
    },
}
LAYERS = [
    {"errors", "version"},
    {"extras", "shortage"},
    {"_torch_compat", "units", "batch", "modes", "files", "decoding"}
    | {"randomness", "tensors", "progress", "checks"},
    {"inputs"},
    {"losses"},
    {"layerwise"},
    {"attacks"},
    {"methods"},
    {"models", "data"},
    {"evaluation", "integrations"},
    {"training"},
    {"hashing", "report"},
    {"study"},
    {"cli"},
]
"""A part of the package imports parts of earlier layers alone."""


def named(path):
    return str(path.relative_to(ROOT))


def blocks(path, language):
    """The code blocks of a page in one language."""
    text = path.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


class Small(nn.Module):
    """A network with the names that the pages use."""

    def __init__(self):
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(4, 10)

    def forward(self, images):
        return self.head(self.layer2(self.layer1(images)).mean((2, 3)))


@pytest.fixture
def names():
    """What a page's code takes for given."""
    model = Small()
    images, classes = torch.rand(16, 1, 8, 8), torch.randint(0, 10, (16,))
    x, y = images[:8], classes[:8]
    return {
        "advreg": advreg,
        "torch": torch,
        "F": F,
        "model": model,
        "images": images,
        "classes": classes,
        "x": x,
        "y": y,
        "previous_targets": classes[8:],
        "loader": [(x, y), (images[8:], classes[8:])],
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.01),
    }


@pytest.fixture
def registers(monkeypatch, tmp_path):
    """What pages register is forgotten, and what they write goes elsewhere."""
    monkeypatch.chdir(tmp_path)
    kept = [(register, dict(register)) for register in (METHODS, MEMORIES, SITE_RULES)]
    yield
    for register, before in kept:
        register.clear()
        register.update(before)
    sys.modules.pop("mine", None)


@pytest.mark.parametrize("path", [path for path in PAGES if blocks(path, "python")], ids=named)
def test_python_code_runs(path, names, registers):
    for code in blocks(path, "python"):
        exec(compile(code, str(path), "exec"), names)


def test_adversaries_of_the_guide_train(names, registers):
    path = ROOT / "docs" / "guide.md"
    for name in ("@convolutions", "AverageMemory"):
        code = next(code for code in blocks(path, "python") if name in code)
        exec(code, names)
        adversary = names["adversary"]
        with adversary.attach(names["model"]):
            for x, y in names["loader"]:
                F.cross_entropy(names["model"](x), y).backward()
            found = adversary.statistics()
        assert all(site["records"] == 2 for site in found.values())
        copy = advreg.LayerwiseAdversary.from_config(adversary.config)
        copy.load_state_dict(adversary.state_dict())


def test_a_method_of_one_s_own_trains_from_the_command_line(registers):
    page = ROOT / "docs" / "own_method.md"
    code = next(code for code in blocks(page, "python") if "mine.py" in code)
    Path("mine.py").write_text(code)
    command = next(line for line in commands(page) if "mine:Mine" in line)
    tiny = ["--epochs", "1", "--limit", "64", "--tensorboard", "false"]
    assert advreg.cli.main([*command, *tiny]) == 0
    assert len(code.partition("@register_method")[2].strip().splitlines()) < 10


def commands(path):
    """The arguments of each `advreg` command of a page."""
    lines = "\n".join(blocks(path, "console")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[2:] for line in lines if line.startswith("$ advreg ")]


def test_commands_exist_with_their_options():
    for command, *arguments in [command for path in PAGES for command in commands(path)]:
        if command == "hash" and arguments[0] == "train":
            hash_train.parse(arguments[1:])
            continue
        if command == "hash":
            command, *arguments = (f"hash {arguments[0]}", *arguments[1:])
            arguments = write_out(arguments) if command == "hash generate" else arguments
        if command == "compare" and arguments[0] in ("plan", "run", "collect"):
            command, *arguments = (f"compare {arguments[0]}", *arguments[1:])
        if command == "compare" and "--model" in arguments:
            command = "compare --model"
        if command == "train":
            arguments = write_out(arguments)
            method = (values_of(arguments, "method.name") or ["layerwise"])[0]
            if ":" in method:
                continue  # the one of the page is run above
            parser = train_parser(method)
        else:
            parser = PARSERS[command]()
        parser.read(arguments)


def anchors(path):
    """The anchors of a page's headings, as the usual hosts make them."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.M)
    titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_lead_somewhere():
    for path in PAGES:
        for link in re.findall(r"\]\((?!http)([^)\s]+)\)", path.read_text(encoding="utf-8")):
            file, _, anchor = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            assert target.exists(), (path, link)
            assert not anchor or anchor in anchors(target), (path, link)


def test_the_page_of_the_algorithm_shows_the_reference_whole():
    code = (ROOT / "src" / "advreg" / "layerwise" / "reference.py").read_text(encoding="utf-8")
    assert code in blocks(ROOT / "docs" / "algorithm.md", "python")


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def imports(path):
    """The parts of the package that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            modules = [node.module]
            if node.module == "advreg":
                modules = [f"advreg.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in modules if name.startswith("advreg."))


def parts():
    """The package's parts with their files."""
    for path in sorted((ROOT / "src" / "advreg").iterdir()):
        if path.suffix == ".py" and path.stem != "__init__":
            yield path.stem, [path]
        elif path.is_dir() and path.name != "__pycache__":
            yield path.name, sorted(path.rglob("*.py"))


def test_imports_point_down_the_list_of_parts():
    layer = {part: index for index, layer in enumerate(LAYERS) for part in layer}
    up = [
        f"{named(file)} imports advreg.{other}"
        for part, files in parts()
        for file in files
        for other in imports(file)
        if other != part and layer[other] >= layer[part]
    ]
    assert not up


@pytest.mark.parametrize(
    ("part", "needed"),
    [("report", {"errors", "files", "decoding"}), ("models", {"errors", "inputs", "modes"})],
)
def test_a_report_and_the_networks_need_no_other_part(part, needed):
    files = dict(parts())[part]
    assert {other for file in files for other in imports(file)} <= {part, "extras", *needed}


def test_the_page_of_the_architecture_lists_every_part_in_its_order():
    listing = blocks(ROOT / "docs" / "architecture.md", "text")[0]
    shown = re.findall(r"^(\w+)(?:/|\.py) ", listing, flags=re.MULTILINE)
    layer = {part: index for index, layer in enumerate(LAYERS) for part in layer}
    assert set(shown) == {part for part, _ in parts()}
    assert [layer[part] for part in shown] == sorted(layer[part] for part in shown)
    rooms = ROOT / "src" / "advreg" / "layerwise"
    inner = re.findall(r"^  ((?:[\w.]+/? )+)", listing, flags=re.MULTILINE)
    held = {path.name for path in rooms.iterdir()} - {"__init__.py", "__pycache__"}
    assert {name.rstrip("/") for line in inner for name in line.split()} == held


def test_files_that_the_page_of_the_architecture_names_exist():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named_files = re.findall(r"`([\w/]+/(?:\w+\.py)?)`", page)
    assert len(named_files) > 20
    for name in named_files:
        assert (ROOT / name).exists() or (ROOT / "src" / "advreg" / name).exists(), name
