"""Which sites attaching would perturb."""

import pytest
import torch
from torch import nn

from advreg import LayerwiseAdversary


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 3, padding=1)
        self.stage = nn.Sequential(
            nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)),
            nn.Sequential(nn.Conv2d(2, 4, 2, stride=2), nn.BatchNorm2d(4)),
        )
        self.idle = nn.Linear(1, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, images):
        return self.head(self.stage(self.stem(self.stem.bias.mean() + images)).mean((2, 3)))


SITES = ["idle", "stage", "stage.*", "input"]


def described(**settings):
    settings = {"epsilon": 0.1, "sites": SITES} | settings
    return LayerwiseAdversary(**settings).describe(Network(), torch.zeros(5, 1, 4, 4))


def test_sites_in_the_order_of_the_forward_pass():
    sites = described()
    assert [site.name for site in sites] == ["input", "stage.0", "stage.1", "idle"]
    assert sites[2].aliases == ("stage",)
    assert [site.shapes for site in sites] == [
        ((5, 1, 4, 4),),
        ((5, 2, 4, 4),),
        ((5, 4, 2, 2),),
        (),
    ]
    assert [site.relative for site in sites] == [False, True, True, True]
    assert sites[1].dtype == torch.float32
    assert sites[3].dtype is None
    assert {site.epsilon for site in sites} == {0.1}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"direction": "l2"},
        {"step_size": 0.01},
        {"memory": "example", "examples": 20},
    ],
)
def test_bytes_are_those_that_a_training_holds(settings):
    settings = {"epsilon": 0.1, "sites": ["input", "stage.0"]} | settings
    model = Network()
    adversary = LayerwiseAdversary(**settings)
    images = torch.rand(5, 1, 4, 4)
    expected = {site.name: site.memory_bytes for site in adversary.describe(model, images)}
    with adversary.attach(model):
        for _ in range(2):
            adversary.set_batch(torch.arange(5))
            model(images).square().sum().backward()
        held = adversary.state_dict()["sites"]
    for name, number in expected.items():
        calls = [call["memory"] for call in held[name]["calls"]]
        stores = [call["stores"][0] if "stores" in call else call.get("store") for call in calls]
        kept = [
            call["words"] if "words" in call else store["rows"]
            for call, store in zip(calls, stores, strict=True)
        ]
        tensors = [value["codes"] if isinstance(value, dict) else value for value in kept]
        assert number == sum(value.nbytes for value in tensors)


def test_nothing_is_changed():
    model = Network()
    model.stage[0].eval()
    flags = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adversary = LayerwiseAdversary(0.1, SITES)
    with adversary.attach(model):
        adversary.describe(model, torch.rand(5, 1, 4, 4))
        assert adversary.statistics()["input"]["runs"] == 0
    assert [module.training for module in model.modules()] == flags
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_hooks_come_off_a_network_that_fails():
    model = Network()
    with pytest.raises(RuntimeError):
        LayerwiseAdversary(0.1, SITES).describe(model, torch.rand(5, 9, 4, 4))
    assert not any(module._forward_hooks for module in model.modules())
    assert model.training


def test_inputs_of_any_kind():
    images = torch.rand(5, 1, 4, 4)
    for inputs in (images, (images,), {"images": images}):
        sites = LayerwiseAdversary(0.1, ["input"]).describe(Network(), inputs)
        assert sites[0].shapes == ((5, 1, 4, 4),)


def test_several_calls_have_several_shapes():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = nn.AvgPool1d(2)

        def forward(self, values):
            return self.pool(self.pool(values))

    sites = LayerwiseAdversary(0.1, ["pool"]).describe(Twice(), torch.rand(3, 2, 8))
    assert sites[0].shapes == ((3, 2, 4), (3, 2, 2))
    words = [(3 * 2 * 4 // (4 * 16) + 1 + 1) * 4, (3 * 2 * 2 // (2 * 16) + 1 + 1) * 2]
    assert sites[0].memory_bytes == 4 * sum(words)
