"""Layerwise together with mixup, SAM and PGD: which pass is perturbed, which one records."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from advreg import Batch, LayerwiseAdversary
from advreg.attacks import Linf, pgd
from advreg.errors import ConfigurationError
from advreg.methods import (
    FGSM,
    PGD,
    SAM,
    TRADES,
    Composed,
    Dropout,
    Layerwise,
    Mixup,
    Standard,
    build_method,
)
from advreg.modes import frozen_statistics

SITES = ["input", "2"]
PARTNERS = {
    "mixup": lambda: Mixup(0.4, seed=3),
    "sam": lambda: SAM(0.5),
    "pgd": lambda: PGD(0.1, 0.05, seed=3, steps=2),
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 3),
    ).double()


def batches():
    """Two epochs of 6, 6 and 3 examples."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(15, 3, 4, 4, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 3, (15,), generator=generator)
    for _ in range(2):
        for indices in torch.randperm(15, generator=generator).split(6):
            yield Batch(images[indices], targets[indices], indices)


def train(model, step, stream):
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    losses = []
    for batch in stream:
        optimizer.zero_grad()
        losses.append(step(batch))
        optimizer.step()
    return torch.stack(losses)


def composed_losses(method, model, stream):
    def step(batch):
        return method.step(model, batch, F.cross_entropy, torch.Tensor.backward).loss

    with method.attach(model, examples=15):
        return train(model, step, stream)


def perturbed(model, adversary, batch, inputs):
    adversary.set_batch(batch.indices)
    return F.cross_entropy(model(inputs), batch.targets)


def by_hand_mixup(model, adversary):
    draws = Mixup(0.4, seed=3)

    def step(batch):
        share, order = draws.draw(len(batch))
        adversary.set_batch(batch.indices)
        outputs = model(share * batch.inputs + (1 - share) * batch.inputs[order])
        loss = share * F.cross_entropy(outputs, batch.targets)
        loss = loss + (1 - share) * F.cross_entropy(outputs, batch.targets[order])
        loss.backward()
        return loss.detach()

    return step


def by_hand_sam(model, adversary):
    def step(batch):
        with adversary.paused():
            F.cross_entropy(model(batch.inputs), batch.targets).backward()
        length = sum(p.grad.square().sum() for p in model.parameters()).sqrt()
        moves = [0.5 * p.grad / length for p in model.parameters()]
        before = [p.detach().clone() for p in model.parameters()]
        model.zero_grad()
        with torch.no_grad():
            for parameter, move in zip(model.parameters(), moves, strict=True):
                parameter.add_(move)
        with frozen_statistics(model):
            loss = perturbed(model, adversary, batch, batch.inputs)
            loss.backward()
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), before, strict=True):
                parameter.copy_(value)
        return loss.detach()

    return step


def by_hand_pgd(model, adversary):
    generator = torch.Generator().manual_seed(3)

    def step(batch):
        with adversary.paused(), frozen_statistics(model):
            attacked = pgd(
                model, batch.inputs, batch.targets, Linf(0.1), 2, 0.05,
                generator=generator, input_range=None,
            )  # fmt: skip
        loss = perturbed(model, adversary, batch, attacked)
        loss.backward()
        return loss.detach()

    return step


BY_HAND = {"mixup": by_hand_mixup, "sam": by_hand_sam, "pgd": by_hand_pgd}


@pytest.mark.parametrize(
    ("partner", "memory"),
    [("mixup", "slot"), ("sam", "slot"), ("pgd", "slot"), ("pgd", "example")],
)
def test_equals_a_loop_by_hand_around_the_adversary(partner, memory):
    settings = {"sites": SITES, "memory": memory}
    fast, slow = network(), network()
    method = Composed([Layerwise(0.2, **settings), PARTNERS[partner]()])
    losses = composed_losses(method, fast, batches())
    adversary = LayerwiseAdversary(0.2, examples=15, **settings)
    with adversary.attach(slow):
        expected = train(slow, BY_HAND[partner](slow, adversary), batches())
    torch.testing.assert_close(losses, expected, rtol=1e-10, atol=0)
    for name, value in slow.state_dict().items():
        torch.testing.assert_close(fast.state_dict()[name], value, msg=name)
    alone, other = PARTNERS[partner](), network()
    assert not losses.equal(composed_losses(alone, other, batches()))


def test_resumes():
    def build():
        return Composed([Layerwise(0.2, sites=SITES), PARTNERS["pgd"]()])

    stream, whole, method = list(batches()), network(), build()
    composed_losses(method, whole, stream[:4])
    weights, state = copy.deepcopy((whole.state_dict(), method.state_dict()))
    rest = []
    for one, model in ((build(), network()), (method, whole)):
        model.load_state_dict(weights)
        one.load_state_dict(state)
        rest.append(composed_losses(one, model, stream[4:]))
    assert rest[0].equal(rest[1])


def test_order_does_not_matter_and_passes_are_the_others():
    losses = []
    for turn in (1, -1):
        parts = [Layerwise(0.2, sites=SITES), PARTNERS["pgd"]()][::turn]
        method = Composed(parts)
        assert method.passes == 3
        assert method.replays == 1
        losses.append(composed_losses(method, network(), batches()))
    assert losses[0].equal(losses[1])


def test_pairing_reorders_before_the_other_method():
    method = Composed([Layerwise(0.2, sites=SITES, pair=True), PARTNERS["pgd"]()])
    composed_losses(method, network(), list(batches())[:2])
    first, second = (batch.targets for batch in list(batches())[:2])
    previous = method.addition.carried["previous"].rows
    misses = max(0, int((first.bincount(minlength=3) + second.bincount(minlength=3)).max()) - 6)
    assert previous.sort().values.equal(second.sort().values)
    assert int((previous == first).sum()) == misses < int((second == first).sum())


def test_other_combinations_are_refused_by_name():
    for parts in (
        [Layerwise(), FGSM()],
        [Layerwise(), TRADES()],
        [Layerwise(), Dropout()],
        [Layerwise(), Layerwise()],
        [Mixup(), SAM()],
        [Layerwise()],
        [Layerwise(), Mixup(), SAM()],
        [Standard()],
    ):
        message = " and ".join(part.name for part in parts) + " cannot be composed; give layerwise"
        with pytest.raises(ConfigurationError, match=message):
            Composed(parts)
    with pytest.raises(ConfigurationError, match="set memory to slot"):
        Composed([Layerwise(memory="example"), Mixup()])


def test_by_name():
    method = build_method(
        "layerwise+mixup", layerwise={"epsilon": "8/255"}, mixup={"concentration": 0.3}
    )
    assert method == Composed([Layerwise("8/255"), Mixup(0.3)])
    assert method.epsilon == "8/255"


def test_bad_names_and_settings_are_named():
    for name, settings, message in (
        ("layerwise+nothing", {}, "No method is called 'nothing'"),
        ("layerwise+fgsm", {}, "layerwise and fgsm cannot be composed"),
        ("layerwise+sam", {"rho": 0.1}, "a mapping of settings for each of layerwise and sam"),
        ("layerwise+sam", {"sam": {"alpha": 0.1}}, "no setting 'alpha'"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            build_method(name, **settings)
