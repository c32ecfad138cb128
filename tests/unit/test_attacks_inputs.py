"""Attacks on networks, labels and inputs of other kinds: as the twin says, or refused."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from advreg.attacks import (
    L2,
    Linf,
    autoattack,
    correct,
    fgsm,
    has_autoattack,
    lots,
    pgd,
    square,
    transfer,
)
from advreg.errors import ConfigurationError, DataError
from advreg.losses import Task

FIXED = {"steps": 4, "random_start": False}
needs_autoattack = pytest.mark.skipif(not has_autoattack(), reason="pip install 'advreg[attacks]'")


def network(outputs=3, dtype=torch.float64):
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(144, outputs)
    )
    return model.to(dtype).eval()


class Changed(nn.Module):
    """A network with its outputs changed."""

    def __init__(self, model, change):
        super().__init__()
        self.model = model
        self.change = change

    def forward(self, inputs):
        return self.change(self.model(inputs))


def examples(count=12, dtype=torch.float64):
    inputs = torch.rand(
        count, 1, 6, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    return inputs.to(dtype), torch.arange(count) % 3


ATTACKS = {
    "fgsm": fgsm,
    "pgd": partial(pgd, **FIXED),
    "momentum": partial(pgd, momentum=0.5, **FIXED),
    "transfer": partial(transfer, **FIXED),
}
BCE = nn.BCEWithLogitsLoss(reduction="none")


@pytest.mark.parametrize(
    ("attack", "threat", "shape"),
    [
        ("fgsm", Linf(0.1), (-1,)),
        ("pgd", L2(0.5), (-1, 1)),
        ("momentum", Linf(0.1), (-1, 1)),
        ("transfer", Linf(0.1), (-1,)),
    ],
)
def test_one_logit_is_attacked_as_the_network_of_two_classes(attack, threat, shape):
    model, (inputs, targets) = network(1), examples()
    bits = targets % 2
    one = Changed(model, lambda z: z.view(shape))
    two = Changed(model, lambda z: torch.cat([0 * z, z], 1))
    expected = ATTACKS[attack](two, inputs, bits, threat)
    for kind in (torch.int64, torch.bool, torch.float32):
        for labels in (bits.to(kind), bits.to(kind)[:, None]):
            found = ATTACKS[attack](one, inputs, labels, threat)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
            found = ATTACKS[attack](one, inputs, labels, threat, criterion=BCE)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [torch.int64, torch.bool, torch.float32], ids=str)
def test_several_labels_are_attacked_by_the_loss_of_each(kind):
    model, (inputs, targets) = network(3), examples()
    labels = torch.stack([targets > 0, targets > 1, targets < 3], 1)
    leaf = inputs.clone().requires_grad_()
    loss = functional.binary_cross_entropy_with_logits(model(leaf), labels.double())
    loss.backward()
    expected = (inputs + 0.1 * leaf.grad.sign()).clamp(0, 1)
    for criterion in (BCE, nn.BCEWithLogitsLoss(), functional.binary_cross_entropy_with_logits):
        found = fgsm(model, inputs, labels.to(kind), Linf(0.1), criterion=criterion)
        assert found.equal(expected)
    worst = pgd(model, inputs, labels.to(kind), Linf(0.1), 3, restarts=3, criterion=BCE)
    task = Task("bernoulli")
    assert task.cross_entropies(model(worst), labels).mean() > loss
    with pytest.raises(DataError, match=r"criterion=nn\.BCEWithLogitsLoss"):
        fgsm(model, inputs, labels.to(kind), Linf(0.1))


def test_a_class_at_each_position_is_attacked_at_each():
    model, (inputs, targets) = network(6), examples()
    mapped = Changed(model, lambda o: o.view(-1, 3, 2))
    labels = torch.stack([targets, 2 - targets], 1)
    leaf = inputs.clone().requires_grad_()
    functional.cross_entropy(mapped(leaf), labels).backward()
    expected = (inputs + 0.1 * leaf.grad.sign()).clamp(0, 1)
    assert fgsm(mapped, inputs, labels, Linf(0.1)).equal(expected)
    assert pgd(mapped, inputs, labels.int(), Linf(0.1), 2, restarts=2).shape == inputs.shape
    with pytest.raises(DataError, match="the logits' classes along dimension 1"):
        fgsm(Changed(model, lambda o: o.view(-1, 2, 3)), inputs, labels, Linf(0.1))


CONTAINERS = {
    "tuple": lambda o: (o, "features"),
    "mapping": lambda o: {"features": o + 1, "logits": o},
    "loss first": lambda o: (o.sum(), o),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_outputs_in_containers_are_found(container):
    plain, (inputs, targets) = network(5), examples()
    held = Changed(plain, CONTAINERS[container])
    for attack in ATTACKS.values():
        expected = attack(plain, inputs, targets, Linf(0.1))
        assert attack(held, inputs, targets, Linf(0.1)).equal(expected)
        found = attack(held, inputs, targets, Linf(0.1), criterion=nn.CrossEntropyLoss())
        torch.testing.assert_close(found, expected)
    moved = (
        lots(m, inputs, inputs.flip(0), "model.1" if m is held else "1", 3) for m in (plain, held)
    )
    for left, right in zip(*moved, strict=True):
        assert left.equal(right)


@needs_autoattack
def test_square_finds_outputs_in_containers_too():
    attack = partial(square, queries=5)
    plain, (inputs, targets) = network(5, torch.float32), examples(dtype=torch.float32)
    expected = attack(plain, inputs, targets, Linf(0.05))
    for change in CONTAINERS.values():
        held = Changed(plain, change).eval()
        assert attack(held, inputs, targets.to(torch.uint8)[:, None], Linf(0.05)).equal(expected)


@needs_autoattack
def test_square_attacks_one_logit_as_two_classes():
    model, (inputs, _) = network(1, torch.float32), examples(dtype=torch.float32)
    labels = (model(inputs) > 0).int()
    two = Changed(model, lambda z: torch.cat([0 * z, z], 1)).eval()
    found = square(model, inputs, labels, Linf(0.1), queries=20)
    assert found.equal(square(two, inputs, labels[:, 0].long(), Linf(0.1), queries=20))
    assert not correct(model(found), labels).all()
    assert correct(model(inputs), labels).all()


@needs_autoattack
@pytest.mark.parametrize(
    ("change", "targets", "message"),
    [
        (lambda o: o.view(-1, 3, 2), torch.zeros(12, 2).long(), "one class an example"),
        (lambda o: o, torch.ones(12, 6), "one class an example"),
        (lambda o: o[:2], torch.zeros(12).long(), "one class an example"),
        (lambda o: o, torch.zeros(12), "classes as integers"),
    ],
)
def test_what_autoattack_cannot_judge_is_refused(change, targets, message):
    model, (inputs, _) = network(6, torch.float32), examples(dtype=torch.float32)
    for attack in (autoattack, square):
        with pytest.raises(DataError, match=message):
            attack(Changed(model, change).eval(), inputs, targets, Linf(0.1))


@needs_autoattack
@pytest.mark.parametrize(
    ("inputs", "threat", "message"),
    [
        (torch.rand(2, 1, 6, 6).bfloat16(), Linf(0.1), "inputs in float32"),
        (torch.rand(2, 36), Linf(0.1), "attack images"),
        (torch.rand(2, 1, 14, 14), L2(0.1), "14 x 14 pixels"),
    ],
)
def test_inputs_that_autoattack_cannot_take_are_refused(inputs, threat, message):
    for attack in (autoattack, square):
        with pytest.raises(ConfigurationError, match=message):
            attack(network(), inputs, torch.zeros(2).long(), threat)


def test_under_l2_restarts_are_never_weaker_than_the_run_from_the_input():
    """In many dimensions a random start spends the budget on its surface."""
    model, (inputs, _) = network(), examples(300)
    targets, settings = model(inputs).argmax(1), {"steps": 1, "step_size": 0.4}
    threat = L2(0.4)

    def left(**more):
        generator = torch.Generator().manual_seed(0)
        attacked = pgd(model, inputs, targets, threat, generator=generator, **settings, **more)
        return correct(model(attacked), targets)

    at_input, drawn, several = left(random_start=False), left(), left(restarts=2)
    assert (at_input | ~several).all()
    assert several.sum() <= at_input.sum() < drawn.sum()


def test_lots_reaches_yes_and_no_and_every_position():
    one, (origins, _) = network(1), examples(40)
    targets = origins.flip(0)
    result = lots(one, origins, targets, "1", 40, step_size=0.02)
    wanted = one(targets)[:, 0] > 0
    assert ((one(result.images)[:, 0] > 0) == wanted).equal(result.success)
    assert 0 < result.steps.sum() < 40 * 40  # some moved, and those that were reached stopped
    mapped = Changed(network(6), lambda o: o.view(-1, 3, 2))
    result = lots(mapped, origins, targets, "model.1", 40, step_size=0.02)
    same = mapped(result.images).argmax(1) == mapped(targets).argmax(1)
    assert same.all(1).equal(result.success)
    with pytest.raises(DataError, match="The classes to reach"):
        lots(one, origins, targets, "1", classes=torch.zeros(3).long())
    with pytest.raises(ConfigurationError, match="outside the range"):
        lots(one, origins + 1, targets, "1")


def test_a_regression_is_attacked_by_its_loss():
    model, (inputs, _) = network(1), examples()
    values = model(inputs).detach()[:, 0]
    for criterion in (nn.MSELoss(reduction="none"), nn.L1Loss(reduction="none")):
        attacked = pgd(model, inputs, values + 1, Linf(0.1), 5, restarts=2, criterion=criterion)
        assert (model(attacked)[:, 0] < values).all()
