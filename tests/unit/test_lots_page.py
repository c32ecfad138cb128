"""`advreg lots` and `advreg.lots_figure`: pictures of what layers look at."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from test_cli import mistake
from torch import nn

import advreg
from advreg.cli import main
from advreg.data import ImageData
from advreg.errors import ConfigurationError, DataError, SiteError
from advreg.report.lots import LayerInvariance, LayerView, PairView, Scale, heat, signed
from advreg.report.lots_page import LotsPage, lots_page, write_lots_page
from advreg.study.lots import Until, choose_pairs, layers_of, look
from advreg.study.lots_page import measure_invariance
from advreg.training import load_run


@pytest.fixture(scope="module")
def page(finished, tmp_path_factory):
    """The page of a tiny run, and what was printed."""
    out = tmp_path_factory.mktemp("pages") / "page.html"
    options = ["--pairs", "2", "--steps", "12", "--step_size", "8/255", "--out", str(out)]
    assert main(["lots", str(finished), "--layers", "input,blocks.1,blocks.3", *options]) == 0
    return out.read_text(encoding="utf-8")


def test_every_layer_of_every_pair_has_its_pictures_and_figures(page):
    layers = ["input", "blocks.1", "blocks.3"]
    assert re.findall(r'<th scope="row">([\w.]+)</th>\n<td><figure>', page) == 2 * layers
    alternatives = re.findall(r'<img src="data:image/png;base64,[^"]+" alt="([^"]+)">', page)
    assert len(alternatives) == 2 * 3 * 5
    assert "Signed perturbation for blocks.1, at most" in " ".join(alternatives)
    assert page.count("<svg") == 2 + 1 + 3  # curves, depth, and a heat map a layer
    assert page.count("Now seen as") == 6
    assert re.search(r"It ends at ±[\d.]+/255", page)


def test_the_page_needs_nothing_from_outside(page):
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert "<script" not in page
    assert "@import" not in page


def test_what_comes_from_outside_is_escaped():
    image = np.zeros((2, 2, 1))
    view = LayerView("<i>$", image + 0.5, 1, True, (1.0, 0.5), "<u>")
    pair = PairView(image, image, ("<b>", "_a"), ("<b>", "_a"), ("x", "y"), (view,))
    text = lots_page(
        LotsPage(
            "<s>", "n", "d", "u", 1, 0.1, [pair], ["<b>", "_a"], [], "<script>", [("a", "<p>")]
        )
    )
    for raw in ("<i>", "<u>", "<b>$", "<s>", "<script>", "<p>$"):
        assert raw not in text.replace("<b>1</b>", "")
    assert "&lt;u&gt;" in text


def test_a_class_whose_name_is_no_text_is_escaped(tmp_path):
    """As of a folder that another system named."""
    odd = os.fsdecode(b"caf\xe9")
    image = np.zeros((2, 2, 1))
    view = LayerView(odd, image + 0.5, 1, True, (1.0, 0.5), odd)
    pair = PairView(image, image, (odd, odd), (odd, odd), ("x", "y"), (view,))
    ends = ("low", "high", "median", "lower", "upper")
    figures = dict.fromkeys(ends, 1.0)
    cells = np.ones((2, 2))
    measured = LayerInvariance(odd, figures, figures, 1.0, 3, cells)
    page = LotsPage(odd, "n", odd, "u", 1, 0.1, [pair], [odd, "a"], [measured], odd, [("a", odd)])
    write_lots_page(page, tmp_path / "page.html")
    assert "caf\\udce9" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_signed_pictures_share_a_scale_and_zero_is_white():
    change = np.array([[0.0, 0.1], [-0.1, -0.4]])
    pixels = signed(change, Scale(0.1, 0.4)).astype(int)
    assert pixels[0, 0].min() > 240
    assert pixels[0, 1, 0] > pixels[0, 1, 2] + 50  # red raises
    assert pixels[1, 0, 2] > pixels[1, 0, 0] + 50  # blue lowers
    assert (pixels[1, 0] == pixels[1, 1]).all()  # beyond the end
    hot = heat(np.array([[0.0, 1.0]]), np.ones((1, 2, 1))).astype(int)
    assert np.ptp(hot[0, 0]) <= 2  # the grey image shines through
    assert np.ptp(hot[0, 1]) > 50


def test_the_scale_leaves_out_two_per_cent():
    origin = np.zeros((10, 10, 1))
    moved = origin + np.linspace(0, 1, 100).reshape(10, 10, 1)
    pair = PairView(
        origin, origin, None, ("a", "b"), ("x", "y"),
        (LayerView("l", moved, 1, True, (1.0, 0.0), "b"),),
    )  # fmt: skip
    assert Scale.of([pair]).end == pytest.approx(0.98)
    assert Scale.of([pair]).largest == 1


def test_views_are_what_the_attack_returns(finished):
    model = load_run(finished)[0]
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    origins, targets = images, images.roll(1, 0)
    views = look(model, origins, targets, ["blocks.1"], until=Until.read("1/2"), steps=20)
    expected = advreg.attacks.lots(
        model, origins, targets, "blocks.1", 20, share=0.5, until_class=False
    )
    for place, pair in enumerate(views):
        view = pair.layers[0]
        assert np.allclose(view.image[..., 0], expected.images[place, 0])
        assert view.steps == expected.steps[place]
        assert len(view.curve) == view.steps + 1
        assert view.curve[-1] == pytest.approx(expected.distances[place].item())
        assert view.seen_as == str(model(expected.images)[place].argmax().item())


def test_a_figure_has_a_row_a_layer_and_colour_is_drawn():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    origin, target = torch.rand(2, 3, 8, 8)
    canvas = advreg.lots_figure(model, origin, target, ["0", "1"], steps=2)
    axes = [axes for part in canvas.subfigs for axes in part.axes]
    assert sum(len(one.images) for one in axes) == 2 * 5
    assert model.training  # as it was
    with pytest.raises(ConfigurationError, match="two images"):
        advreg.lots_figure(model, origin, target[None], ["0"])
    with pytest.raises(SiteError, match="nowhere"):
        advreg.lots_figure(model, origin, target, ["nowhere"])


def test_importing_the_package_does_not_import_matplotlib():
    code = "import advreg, sys; assert 'lots_figure' in advreg.__all__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "matplotlib" not in done.stdout.split()
    with pytest.raises(AttributeError, match="lots_picture"):
        advreg.lots_picture  # noqa: B018


def test_a_tensor_with_two_names_is_one_layer(finished):
    model = load_run(finished)[0]
    image = torch.zeros(1, 1, 8, 8)
    assert layers_of(model, image, None) == ["input", *(f"blocks.{n}" for n in range(4))]
    assert layers_of(model, image, ["linear", "blocks.1"]) == ["blocks.1", "linear"]


def test_a_layer_that_the_target_never_reaches_is_shown_as_such(finished, tmp_path, capsys):
    out = tmp_path / "page.html"
    options = ["--until", "0.01", "--steps", "2", "--pairs", "3:12", "--layers", "blocks.3"]
    assert main(["lots", str(finished), *options, "--out", str(out)]) == 0
    text = out.read_text(encoding="utf-8")
    assert "not in 2" in text
    assert "test image 12" in text
    assert "never (never to never)" in text
    assert "0% of" in capsys.readouterr().out


def test_pairs_are_of_two_classes_that_the_network_knows(finished):
    model = load_run(finished)[0]
    numbers = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 1, 8, 8), generator=numbers, dtype=torch.uint8)
    targets = torch.arange(40) % 4
    data = ImageData(images, targets, tuple("abcd"))
    origins, others = choose_pairs(model, data, "6", seed=3)
    assert len(origins) == len(others) == 6
    assert (targets[origins] != targets[others]).all()
    alone = ImageData(images, torch.zeros(40, dtype=torch.int64), tuple("abcd"))
    with pytest.raises(DataError, match="All test images are of the class 'a'"):
        choose_pairs(model, alone, "6")
    wrong = ImageData(images, (model(images / 255).argmax(1) + 1) % 10, tuple("abcdefghij"))
    assert measure_invariance(
        model, wrong, ["input"], 1, until=Until.read("class"), steps=1, step_size=0.1
    ) == []  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layers", "block.*"], "No site is called 'block.*'"),
        (["--pairs", "0"], "pairs is '0'"),
        (["--pairs", "1:99999"], "pairs has '1:99999'"),
        (["--until", "soon"], "until is 'soon'"),
        (["--until", "1"], "share of the first distance under 1"),
        (["--steps", "0"], "steps is 0"),
        (["--invariance", "-1"], "invariance is -1"),
        (["--out", "."], "is a folder"),
        (["--out", os.devnull], "is a folder or a device"),
        pytest.param(
            ["--out", "/proc/page.html"],
            "/proc cannot be written to",
            marks=pytest.mark.skipif(not os.path.isdir("/proc"), reason="there is no /proc"),
        ),
    ],
)
def test_mistakes_are_one_sentence(finished, capsys, monkeypatch, options, message):
    if "--out" in options:  # found before the work
        monkeypatch.setattr("advreg.study.lots_page.make_page", lambda *_, **__: pytest.fail("ran"))
    assert message in mistake(capsys, "lots", str(finished), *options)
    assert not (finished / "lots.html").exists()
