"""Sites by name."""

import pytest
import torch
from torch import nn

from advreg.errors import SiteError
from advreg.layerwise import default_sites, resolve_sites
from advreg.layerwise.sites import matches
from advreg.models import build_model


def test_patterns_match_names_part_by_part():
    for pattern, name, fits in (
        ("layer1", "layer1", True),
        ("layer1", "layer1.0", False),
        ("layer*", "layer12", True),
        ("layer*", "layer1.0", False),
        ("*", "layer1", True),
        ("*", "layer1.0", False),
        ("*.0", "layer1.0", True),
        ("layer1.**", "layer1", True),
        ("layer1.**", "layer1.0.conv", True),
        ("layer1.**", "layer10", False),
        ("**", "anything.at.all", True),
        ("**.conv*", "conv1", True),
        ("**.conv*", "a.b.conv1", True),
        ("**.conv*", "a.conv.b", False),
        ("a.**.b", "a.b", True),
        ("a.**.b", "a.x.y.b", True),
        ("l*r*1", "layer1", True),
        ("layer.", "layerx", False),
        ("layer+", "layerr", False),
    ):
        assert matches(pattern, name) == fits, (pattern, name)


def network():
    return nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU(), nn.Linear(2, 2)))


def test_nothing_matched_lists_what_there_is():
    for patterns in ("nope", [""]):
        with pytest.raises(SiteError, match=r"choose from: input, 0, 1, 1\.0, 1\.1\."):
            resolve_sites(network(), patterns)
    with pytest.raises(SiteError, match="No sites are named"):
        resolve_sites(network(), [])
    with pytest.raises(SiteError, match="and 11 more"):
        resolve_sites(nn.Sequential(*[nn.ReLU() for _ in range(50)]), "nope")


def test_defaults_of_the_packages_models():
    for name, some, never in (
        ("resnet20", ["input"], "linear"),
        ("convnet", ["input", "blocks.0", "blocks.3"], "linear"),
        ("vgg11", ["input"], "classifier"),
        ("wrn-16-4", ["input"], "linear"),
        ("alexnet", ["input"], "classifier"),
        ("resnet18", ["input", "stem", "layer1", "layer4", "layer4.1"], "linear"),
        ("preactresnet18", ["input", "layer1", "layer4.1"], "linear"),
        ("wrn-34-10", ["input", "layer1", "layer3.4"], "linear"),
        ("resnet50-imagenet", ["input", "stem", "layer3.5"], "layer1.0.shortcut"),
        ("vit-tiny", ["input", "stem", "blocks.0", "blocks.11"], "blocks.0.attention"),
    ):
        with torch.device("meta"):
            sites = default_sites(build_model(name, num_classes=3))
        assert set(some) <= set(sites), name
        assert len(sites) >= 4
        assert not {never, "normalize"} & set(sites)


class Staged(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(2, 2)
        self.stages = nn.ModuleList([nn.Sequential(self.block(), self.block())])
        self.single = self.block()
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(2, 2))

    def block(self):
        return nn.Sequential(nn.Linear(2, 2), nn.ReLU())


def test_defaults_are_stages_and_blocks_without_the_head():
    sites = default_sites(Staged())
    assert sites[0] == "input"
    assert "stages.0" in sites
    assert "single" in sites
    assert not [site for site in sites if site.startswith(("head", "stem"))]
    assert "stages" not in sites


def test_defaults_of_a_network_without_blocks_or_parameters_are_its_activations():
    layers = [nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.GELU(), nn.Linear(2, 2)]
    assert default_sites(nn.Sequential(*layers, nn.Softmax())) == ["input", "1", "3"]
    assert default_sites(nn.Sequential(nn.ReLU())) == ["input", "0"]
