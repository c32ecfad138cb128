"""Dropout and plain training, each beside its equation."""

import pytest
import torch
import torch.nn.functional as F
from attack_twins import assert_twins, epochs, network

from advreg.errors import ConfigurationError, SiteError
from advreg.methods import Dropout, Standard

SITES = {"head": None, "hidden": ["2", "5"], "input": ["input"]}
"""Where values are dropped, as the setting names it."""

BEFORE = {"head": ("7",), "hidden": ("3", "6"), "input": ("0",)}
"""The layers of the network that those values enter."""


def drop(values, share, generator):
    kept = torch.rand(values.shape, generator=generator) >= share
    return values * kept / (1 - share)


def twin(where, share, generator):
    def loss(model, batch):
        values = batch.inputs
        for name, layer in model.named_children():
            values = layer(drop(values, share, generator) if name in BEFORE[where] else values)
        return F.cross_entropy(values, batch.targets)

    return loss


@pytest.mark.parametrize("where", SITES)
def test_equals_its_equation(where, monkeypatch):
    draws = [torch.Generator().manual_seed(5) for _ in range(2)]
    # The masks' own values come from PyTorch; that it drops by them is what is compared.
    monkeypatch.setattr(
        F, "dropout", lambda values, p, training: drop(values, p, draws[0]) if training else values
    )
    assert_twins(Dropout(0.4, SITES[where]), twin(where, 0.4, draws[1]), epochs())


def test_drops_its_share_in_training_alone():
    model, method, seen = network(), Dropout(0.4, ["input"]), []
    inputs = torch.rand(500, 3, 6, 6, dtype=torch.float64) + 0.1
    with method.attach(model):
        model[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        model(inputs)
        model.eval()
        model(inputs)
    kept = seen[0] != 0
    assert kept.double().mean().item() == pytest.approx(0.6, abs=0.01)
    torch.testing.assert_close(seen[0][kept], inputs[kept] / 0.6)
    assert seen[1].equal(inputs)


def test_plain_training_is_its_equation():
    assert_twins(Standard(), lambda model, b: F.cross_entropy(model(b.inputs), b.targets), epochs())


def test_bad_settings_are_named():
    with pytest.raises(ConfigurationError, match="p is 1"):
        Dropout(1)
    with pytest.raises(SiteError, match="no linear layer"), Dropout().attach(torch.nn.ReLU()):
        pass
