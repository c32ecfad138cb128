"""Semantic 7: gradient accumulation, and activation checkpointing."""

import copy
from functools import partial

import pytest
import torch
from probes import probing
from settings import (
    ADVERSARIES,
    MEMORIES,
    SETTINGS,
    STEPS,
    TinyNet,
    identical,
    sgd,
    tiny,
    train,
    walk,
    weights,
)
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from advreg import LayerwiseAdversary
from advreg.errors import UnsupportedError

again = partial(checkpoint, use_reentrant=False)


class Region(TinyNet):
    """The tiny network with a checkpoint over some of it; `way` also takes none."""

    way, function = "none", staticmethod(again)

    def forward(self, images):
        call = self.function
        if self.way == "blocks":
            features = self.stem(images)
            features = call(self.stage[1], call(self.stage[0], features))
        elif self.way == "stage":
            features = call(self.stage, self.stem(images))
        elif self.way == "all but the head":
            features = call(lambda values: self.stage(self.stem(values)), images)
        elif self.way == "everything":
            return call(super().forward, images)
        else:
            return super().forward(images)
        return self.head(features.mean((2, 3)))


def network(way):
    torch.manual_seed(0)
    # The recomputed forward pass updates running statistics again: not ours to mend.
    model = Region(norm=False)
    model.way = way
    return model


def trained(way, setting, steps=4):
    model, adversary = network(way), setting.adversary()
    torch.manual_seed(3)
    with adversary.attach(model):
        stream = [*setting.batches(steps - 1), *setting.batches(1, size=5), *setting.batches(2)]
        losses = walk(model, adversary, stream)
        return [losses, weights(model), copy.deepcopy(adversary.state_dict())]


@pytest.mark.filterwarnings("ignore::advreg.errors.SiteNeverRanWarning")
@pytest.mark.parametrize(
    ("way", "name"),
    [
        *[
            (way, name)
            for way in ("blocks", "stage", "all but the head")
            for name in ("slot", "slot-accumulating", "example")
        ],
        *[("everything", name) for name in (*MEMORIES, "slot-clamped")],
    ],
)
def test_recomputation_changes_no_bit(way, name):
    setting = ADVERSARIES[name]
    plain, recomputed = trained("none", setting), trained(way, setting)
    if way == "blocks":  # `stage` itself never runs
        plain[2], recomputed[2] = plain[2]["step"], recomputed[2]["step"]
    assert identical(plain, recomputed)


@pytest.mark.parametrize("name", ["slot", "slot-accumulating", "example"])
def test_a_whole_network_under_one_checkpoint(name):
    setting = ADVERSARIES[name]

    def loss(model, batch, adversary):
        adversary.set_batch(batch.indices, batch.view)
        return nn.functional.cross_entropy(again(model, batch.inputs), batch.targets)

    model, adversary = network("none"), setting.adversary()
    with adversary.attach(model):
        losses = walk(model, adversary, setting.batches(5), loss)
    plain, adversary = network("none"), setting.adversary()
    with adversary.attach(plain):
        assert walk(plain, adversary, setting.batches(5)).equal(losses)
    assert identical(weights(model), weights(plain))


def test_sequential_checkpoints():
    runs = []
    for segments in (None, 2):
        torch.manual_seed(0)
        model = nn.Sequential(*[layer for _ in range(4) for layer in (nn.Linear(4, 4), nn.Tanh())])
        adversary = LayerwiseAdversary(0.2, ["1", "3", "5"], direction="random")
        losses = []
        with adversary.attach(model):
            for step in range(3):
                inputs = torch.full((3, 4), float(step))
                if segments:
                    output = checkpoint_sequential(model, segments, inputs, use_reentrant=False)
                else:
                    output = model(inputs)
                output.square().sum().backward()
                losses.append(output.detach())
        runs.append([losses, [p.grad for p in model.parameters()]])
    assert identical(*runs)


def test_checkpoints_under_autocast():
    """The recomputed forward pass runs under the first one's autocast state."""
    ends = []
    for way in ("none", "stage"):
        model, adversary = network(way), LayerwiseAdversary(0.1)

        def loss(model, batch, adversary):
            with torch.autocast("cpu", torch.bfloat16):
                return nn.functional.cross_entropy(model(batch.inputs), batch.targets)

        with adversary.attach(model):
            ends.append(walk(model, adversary, ADVERSARIES["slot"].batches(4), loss))
    assert ends[0].equal(ends[1])


@pytest.mark.parametrize("sites", [["stage.0"], ["input"]])
@pytest.mark.parametrize("steps_before", [0, 2])
def test_reentrant_checkpoints_are_refused_by_name(sites, steps_before):
    """Also after a step without one, whose memories are there to be misread."""
    model, adversary = network("none"), LayerwiseAdversary(0.1, sites)
    handle = adversary.attach(model)
    stream = list(ADVERSARIES["slot"].batches(3))
    walk(model, adversary, stream[:steps_before])
    images = stream[2].inputs.requires_grad_()
    if sites == ["input"]:
        run = partial(checkpoint, model, use_reentrant=True)
    else:
        run = model
        model.way, model.function = "stage", partial(checkpoint, use_reentrant=True)
    with pytest.raises(UnsupportedError, match="use_reentrant=False"):
        run(images).sum().backward()
    handle.detach()


def test_reentrant_checkpoints_away_from_every_site_are_fine():
    runs = []
    for way in ("none", "stage"):
        model, adversary = network(way), LayerwiseAdversary(0.1, ["stem"])
        model.function = partial(checkpoint, use_reentrant=True)
        with adversary.attach(model):
            runs.append(walk(model, adversary, ADVERSARIES["slot"].batches(4)))
    assert runs[0].equal(runs[1])


def test_each_micro_batch_is_a_mini_batch_for_the_memory():
    model, adversary = tiny(), LayerwiseAdversary(0.1, ["stem"], relative=False)
    with probing(model, adversary, "stem") as probe:
        optimizer = sgd(model)
        for step, batch in enumerate(ADVERSARIES["slot"].batches(6)):
            probe.clear()
            loss = nn.functional.cross_entropy(model(batch.inputs), batch.targets) / 3
            loss.backward()
            if step:
                assert torch.allclose(probe.deltas()[0], 0.1 * left, atol=1e-6)  # noqa: F821
            left = probe.gradients()[0].sign()  # noqa: F841
            if step % 3 == 2:
                optimizer.step()
                optimizer.zero_grad()


@pytest.mark.parametrize("name", [*STEPS, "layerwise-example", "layerwise-slot-accumulating"])
def test_accumulated_gradients_are_the_sum_of_micro_batches(name):
    """A method's step adds to the gradients that are there; it neither zeroes nor overwrites."""
    setting = SETTINGS[name]
    first, second = setting.batches(2)

    def gradients(*stream, each=False):
        model, method = tiny(norm=False), setting.method()
        parts = []
        torch.manual_seed(0)
        with method.attach(model, steps_per_epoch=4):
            for batch in stream:
                method.step(model, batch, nn.functional.cross_entropy, lambda loss: loss.backward())
                if each:
                    parts.append([p.grad.clone() for p in model.parameters()])
                    model.zero_grad()
        return parts if each else [p.grad for p in model.parameters()]

    apart = gradients(first, second, each=True)
    together = gradients(first, second)
    for one, two, both in zip(*apart, together, strict=True):
        assert torch.allclose(one + two, both, atol=1e-7)


def test_the_method_and_the_adversary_alone_train_alike():
    """So that either may stand for both in these tests."""
    setting = SETTINGS["layerwise-slot"]
    model, method = tiny(), setting.method()
    with method.attach(model):
        losses = train(model, method, setting.batches(4))
    other, adversary = tiny(), ADVERSARIES["slot"].adversary()
    with adversary.attach(other):
        assert walk(other, adversary, setting.batches(4)).equal(losses)
