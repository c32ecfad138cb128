"""Networks of the user's own: built, checked, trained, and loaded only where they are named."""

import pytest
import torch

from advreg.cli import main
from advreg.errors import ConfigurationError, StateError
from advreg.layerwise import default_sites
from advreg.models import build_model, check_network
from advreg.training import load_run

NETWORKS = """
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, inputs):
        return (inputs + self.norm(self.conv(inputs))).relu()

def net(num_classes, in_channels, width=8):
    stem = nn.Conv2d(in_channels, width, 3, padding=1)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))
    return nn.Sequential(stem, Block(width), Block(width), head)

def flat():
    return nn.Sequential(nn.Flatten(), nn.Linear(27, 4))

def number():
    return 3
"""


@pytest.fixture
def networks(tmp_path, monkeypatch):
    (tmp_path / "my_own_nets.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)


def test_a_function_is_given_what_it_names(networks):
    model = build_model("my_own_nets:net", 7, in_channels=1, args={"width": 5})
    assert model.training
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 7)
    assert model[1].conv.weight.shape == (5, 5, 3, 3)
    assert build_model("my_own_nets:flat", 7)(torch.rand(2, 3, 3, 3)).shape == (2, 4)


def test_normalisation_comes_before_it_where_it_is_wanted(networks):
    given = {"in_channels": 3, "mean": (0.1, 0.2, 0.3), "std": 0.5}
    torch.manual_seed(0)
    plain = build_model("my_own_nets:flat", 4, **given)
    torch.manual_seed(0)
    wrapped = build_model("my_own_nets:flat", 4, normalize=True, **given)
    images = torch.rand(2, 3, 3, 3)
    mean = torch.tensor([0.1, 0.2, 0.3]).reshape(3, 1, 1)
    torch.testing.assert_close(wrapped(images), plain((images - mean) / 0.5))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("my_own_nets:nothing", r"cannot be built \(AttributeError.*give module:function"),
        ("my_own_nets:number", "is a int; give module:function"),
        ("no_such_module:net", "cannot be built"),
        ("timm:resnet18", "timm is not installed"),
        ("transformers:no-such", "cannot be built"),
        ("resnet2", "package.module:function, timm:NAME or transformers:NAME"),
    ],
)
def test_what_cannot_be_built_is_a_sentence(networks, monkeypatch, name, said):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    # The hub's client reads its environment once, at its import.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigurationError, match=said):
        build_model(name, 10)


def test_arguments_that_nobody_takes_are_refused(networks):
    with pytest.raises(ConfigurationError, match="wdth"):
        build_model("my_own_nets:net", 4, args={"wdth": 3})
    with pytest.raises(ConfigurationError, match="leave args and normalize out"):
        build_model("resnet20", 4, args={"width": 3})


def test_a_transformers_network_gives_its_logits():
    pytest.importorskip("transformers")
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = build_model(
        "transformers:vit", 4, 1, 8, args={**small, "intermediate_size": 16, "patch_size": 4}
    )
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 4)
    assert len(default_sites(model)) > 1  # its layers are found behind the normalisation


def test_one_forward_pass_finds_what_does_not_fit(networks):
    model = build_model("my_own_nets:flat", 4)
    model[0].train(False)
    check_network(model, "flat", (3, 3, 3), 4)
    assert model.training
    assert not model[0].training
    with pytest.raises(ConfigurationError, match=r"\(2, 4\) of two images and .* 5 classes"):
        check_network(model, "flat", (3, 3, 3), 5)
    with pytest.raises(ConfigurationError, match="does not take images of 3x4x4"):
        check_network(model, "flat", (3, 4, 4), 4)


def test_a_run_of_ones_own_network_is_loaded_only_where_it_is_named(networks, tmp_path, capsys):
    def advreg(*arguments):
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    folder = tmp_path / "run"
    common = ("train", "--data", "digits", "--limit", 100, "--epochs", 1, "--threads", 1)
    network = ("--model", "my_own_nets:net")
    code, said = advreg(*common, *network, "--model.args.width", 4, "--out", folder)
    assert code == 0, said
    assert f"next: advreg evaluate {folder} --model my_own_nets:net" in said
    refusals = [
        advreg("evaluate", folder),
        advreg("train", "--out", folder, "--resume"),
        advreg("train", "--config", folder / "config.yaml", "--out", tmp_path / "other"),
    ]
    assert all(code == 2 and "--model my_own_nets:net" in said for code, said in refusals)
    assert not (tmp_path / "other").exists()

    code, said = advreg("train", "--out", folder, "--resume", *network)
    assert code == 0, said
    named, _ = load_run(folder, "my_own_nets:net")
    given, _ = load_run(folder, build_model("my_own_nets:net", 10, 1, args={"width": 4}))
    images = torch.rand(3, 1, 8, 8)
    assert named(images).equal(given(images))
    with pytest.raises(StateError, match="put the run's own back"):
        load_run(folder, build_model("my_own_nets:net", 10, 1))
