"""Semantic 3: default sites are those that run and that a gradient reaches; nobody chose others."""

import copy
import warnings
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from advreg import LayerwiseAdversary
from advreg.errors import NoGradientWarning, SiteNeverRanWarning


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix, self.output = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, value):
        return self.output(self.mix(value).tanh())


@dataclass
class Output:
    logits: torch.Tensor


class Body(nn.Module):
    """Returns the blocks' output, which nothing uses, and its mean."""

    def __init__(self, by_forward):
        super().__init__()
        self.by_forward = by_forward
        self.blocks = nn.ModuleList([Block(), Block()])

    def forward(self, value):
        for block in self.blocks:
            value = block.forward(value) if self.by_forward else block(value)
        return value.clone(), value.mean(1)


class Network(nn.Module):
    """As some published networks are: blocks called past their hooks, an idle first output."""

    def __init__(self, by_forward=False, headless=False):
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.classifier = nn.Sequential(nn.Linear(4, 3))
        self.body = Body(by_forward)
        self.headless = headless

    def forward(self, tokens):
        hidden, pooled = self.body(self.embed(tokens))
        if self.headless:
            return hidden.detach() + self.embed(tokens)
        return Output(self.classifier(pooled))


def train(model, steps, adversary=None):
    """Trains; returns the losses."""
    losses, generator = [], torch.Generator().manual_seed(3)
    for _ in range(steps):
        tokens = torch.randint(0, 9, (6, 5), generator=generator)
        loss = nn.functional.cross_entropy(model(tokens).logits, tokens[:, 0] % 3)
        loss.backward()
        losses.append(loss.item())
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.data -= 0.1 * parameter.grad
                parameter.grad = None
    return losses


def network(**options):
    torch.manual_seed(0)
    return Network(**options)


BLOCKS = ["body.blocks.0", "body.blocks.1"]


@pytest.mark.parametrize("by_forward", [False, True])
def test_they_run_and_are_reached(by_forward):
    """Without a warning: the suite makes every warning of ours an error."""
    model, plain = network(by_forward=by_forward), network(by_forward=by_forward)
    adversary = LayerwiseAdversary(0.3)
    expected = [f"{name}.output" for name in BLOCKS] if by_forward else BLOCKS
    with adversary.attach(model):
        losses = train(model, 12)
        found = adversary.statistics()
    assert list(found) == expected
    assert all(site["records"] >= 11 for site in found.values())
    others = train(plain, 12)
    assert losses[0] == others[0]
    assert losses[3:] != others[3:]
    assert not any(module._forward_hooks for module in model.modules())


def test_others_do_not_share_in_the_budget():
    model, adversary = network(), LayerwiseAdversary(0.3, budget_split="sum")
    with adversary.attach(model):
        train(model, 3)
        assert adversary.statistics()[BLOCKS[0]]["epsilon"] == pytest.approx(0.15)


def test_described_are_those_that_run():
    model, tokens = network(by_forward=True), torch.zeros(2, 5, dtype=torch.long)
    found = LayerwiseAdversary(0.3).describe(model, tokens)
    assert [site.name for site in found] == [*[f"{name}.output" for name in BLOCKS], "classifier"]
    found = LayerwiseAdversary(0.3).describe(network(), tokens)
    assert [site.name for site in found] == [*BLOCKS, "classifier"]


@pytest.mark.parametrize("before", [True, False], ids=["before attaching", "after"])
@pytest.mark.parametrize("by_forward", [False, True])
def test_a_state_goes_on_bit_for_bit(before, by_forward):
    model, adversary = network(by_forward=by_forward), LayerwiseAdversary(0.3, start="random")
    with adversary.attach(model):
        train(model, 5)
        weights, state = copy.deepcopy((model.state_dict(), adversary.state_dict()))
        expected = train(model, 4)
        adversary.load_state_dict(copy.deepcopy(state))
        model.load_state_dict(weights)
        assert train(model, 4) == expected
    again, other = network(by_forward=by_forward), LayerwiseAdversary(0.3, start="random")
    again.load_state_dict(weights)
    if before:
        other.load_state_dict(state)
    with other.attach(again):
        if not before:
            other.load_state_dict(state)
        assert train(again, 4) == expected
        assert list(other.statistics()) == list(adversary.statistics())


def test_a_part_that_comes_later_is_perturbed_too():
    """Some training leaves blocks out at random."""
    model, adversary = network(), LayerwiseAdversary(0.3)
    last = model.body.blocks[1]
    with adversary.attach(model):
        del model.body.blocks[1]
        train(model, 2)
        assert list(adversary.statistics()) == BLOCKS[:1]
        model.body.blocks.append(last)
        train(model, 20)
        found = adversary.statistics()
    assert list(found) == BLOCKS
    assert found[BLOCKS[1]]["records"] == 20


def heard(model, adversary, loss_of):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with adversary.attach(model):
            for _ in range(3):
                loss_of(model(torch.ones(2, 5, dtype=torch.long))).backward()
    return [(warning.category, str(warning.message)) for warning in caught]


def test_where_none_works_it_is_said_once():
    model = network(headless=True)
    seen = heard(model, LayerwiseAdversary(0.3), lambda output: output.square().mean())
    assert [kind for kind, _ in seen] == [NoGradientWarning]
    assert "default sites ('classifier' and" in seen[0][1]


def test_named_ones_are_warned_of_still():
    named = LayerwiseAdversary(0.3, ["body", "@default", *BLOCKS])
    seen = heard(network(by_forward=True), named, lambda output: output.logits.square().mean())
    assert [kind for kind, _ in seen] == [
        NoGradientWarning,
        SiteNeverRanWarning,
        SiteNeverRanWarning,
    ]
