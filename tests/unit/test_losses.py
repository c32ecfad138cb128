"""What outputs and targets mean, against one position and one example at a time."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from advreg.errors import ConfigurationError, DataError
from advreg.losses import (
    Task,
    accuracy,
    adapt_criterion,
    correct,
    cross_entropies,
    divergence,
    task_of,
)

BERNOULLI, CATEGORICAL = Task("bernoulli"), Task("categorical")


def draw(*shape):
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


CLASSES = torch.tensor([0, 2, 1, 2])
BITS = torch.tensor([0, 1, 1, 0])
MAP = torch.tensor([[0, 1], [2, 2], [1, 0], [0, 0]])
LABELS = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])


@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.uint8], ids=str)
def test_classes_of_any_integer_type(kind):
    outputs, classes = draw(4, 3), CLASSES.to(kind)
    expected = functional.cross_entropy(outputs, CLASSES, reduction="none")
    for targets in (classes, classes[:, None], functional.one_hot(CLASSES, 3).to(kind)):
        assert cross_entropies(outputs, targets).equal(expected)
        assert correct(outputs, targets).equal(outputs.argmax(1) == CLASSES)
        for criterion in (nn.CrossEntropyLoss(), functional.cross_entropy):
            assert adapt_criterion(criterion)(outputs, targets).equal(expected.mean())


@pytest.mark.parametrize(
    ("shape", "target_shape", "kind"),
    [
        ((4,), (4,), torch.uint8),
        ((4,), (4, 1), torch.float64),
        ((4, 1), (4,), torch.bool),
        ((4, 1), (4, 1), torch.int32),
    ],
)
def test_one_logit_is_bernoulli(shape, target_shape, kind):
    outputs, targets = draw(*shape), BITS.view(target_shape).to(kind)
    pairs = list(zip(outputs.flatten().tolist(), BITS.tolist(), strict=True))
    expected = [-math.log(sigmoid(z if y else -z)) for z, y in pairs]
    assert cross_entropies(outputs, targets).tolist() == pytest.approx(expected)
    assert correct(outputs, targets).tolist() == [(z > 0) == bool(y) for z, y in pairs]
    assert accuracy(outputs, targets).tolist() == [float((z > 0) == bool(y)) for z, y in pairs]
    for criterion in (nn.BCEWithLogitsLoss(), functional.binary_cross_entropy_with_logits):
        loss = adapt_criterion(criterion)(outputs, targets)
        assert loss.item() == pytest.approx(sum(expected) / 4)
    other = draw(8).flip(0)[:4].view(shape)
    kl = [
        sum(p * math.log(p / q) for p, q in ((a, b), (1 - a, 1 - b)))
        for a, b in zip(outputs.sigmoid().flatten(), other.sigmoid().flatten(), strict=True)
    ]
    assert divergence(outputs, other).item() == pytest.approx(sum(kl) / 4)
    assert Task("bernoulli").predictions(outputs).tolist() == [int(z > 0) for z, _ in pairs]


def test_several_labels_are_a_bernoulli_each():
    outputs, task = draw(4, 3), task_of(nn.BCEWithLogitsLoss(), draw(4, 3), LABELS)
    assert task == BERNOULLI
    losses = functional.binary_cross_entropy_with_logits(
        outputs, LABELS.double(), reduction="none"
    ).mean(1)
    assert task.cross_entropies(outputs, LABELS).allclose(losses)
    hits = (outputs > 0) == LABELS.bool()
    assert task.correct(outputs, LABELS).equal(hits.all(1))
    assert task.accuracy(outputs, LABELS).allclose(hits.float().mean(1))
    one_by_one = [divergence(outputs[:, k], -outputs[:, k]) for k in range(3)]
    assert task.divergence(outputs, -outputs).allclose(torch.stack(one_by_one).mean())


def test_a_class_at_each_position():
    outputs = draw(4, 3, 2)
    losses = functional.cross_entropy(outputs, MAP, reduction="none").mean(1)
    assert cross_entropies(outputs, MAP).allclose(losses)
    assert cross_entropies(outputs, MAP[:, None]).allclose(losses)
    hits = outputs.argmax(1) == MAP
    assert accuracy(outputs, MAP).allclose(hits.float().mean(1))
    assert correct(outputs, MAP).equal(hits.all(1))
    each = torch.stack([divergence(outputs[..., t], -outputs[..., t]) for t in range(2)])
    assert divergence(outputs, -outputs).allclose(each.mean())


def test_positions_of_the_ignored_class_are_left_out():
    task = task_of(nn.CrossEntropyLoss(ignore_index=7), draw(4, 3, 2))
    targets, outputs = MAP.clone(), draw(4, 3, 2)
    targets[:2, 0] = outputs.argmax(1)[:2, 0]  # two that are right
    targets[:, 1] = 7
    alone = outputs[:, :, 0], targets[:, 0]
    assert task.accuracy(outputs, targets)[:2].tolist() == [1, 1]
    assert task.cross_entropies(outputs, targets).allclose(cross_entropies(*alone))
    assert task.correct(outputs, targets).equal(correct(*alone))
    assert task.accuracy(outputs, targets).equal(accuracy(*alone))
    nothing = task.correct(outputs, torch.full_like(MAP, 7))
    assert not nothing.any()
    partial_ = partial(functional.cross_entropy, ignore_index=7)
    assert adapt_criterion(partial_)(outputs, targets).isfinite()


def test_probabilities_give_what_they_say_of_the_prediction():
    outputs, shares = draw(4, 3), torch.rand(4, 3, dtype=torch.float64).softmax(1)
    for kind in (torch.float64, torch.float32, torch.bfloat16):
        targets = shares.to(kind)
        found = accuracy(outputs, targets)
        expected = targets.double()[range(4), outputs.argmax(1)]
        assert found.double().allclose(expected, atol=1e-6)
        assert correct(outputs, targets).equal(outputs.argmax(1) == targets.argmax(1))
        loss = adapt_criterion(nn.CrossEntropyLoss())(outputs, targets)
        assert loss.dtype == torch.float64


def test_logits_that_are_not_finite_are_never_right():
    for outputs, targets in ((draw(4, 3), CLASSES), (draw(4), BITS), (draw(4, 3, 2), MAP)):
        outputs[:] = float("nan")
        assert not correct(outputs, targets).any()
        assert not accuracy(outputs, targets).any()


def test_half_precision_is_judged_in_float32():
    assert cross_entropies(draw(4, 3).half(), CLASSES).dtype == torch.float32
    assert divergence(draw(4).bfloat16(), draw(4)).dtype == torch.float64


SOFT, HARD = torch.full((4, 3), 1 / 3, dtype=torch.float64), LABELS.double()
WEIGHTS = torch.tensor([1.0, 9, 2]).double()


def test_the_criterion_says_what_outputs_mean():
    for criterion, outputs, targets, kind in (
        (None, draw(4, 3), CLASSES, "categorical"),
        (None, draw(4, 3), SOFT, "categorical"),
        (None, draw(4), None, "bernoulli"),
        (lambda o, t: nn.CrossEntropyLoss()(o, t), draw(4, 3), SOFT, "categorical"),
        (lambda o, t: functional.cross_entropy(o, t, WEIGHTS), draw(4, 3), SOFT, "categorical"),
        (lambda o, t: nn.BCEWithLogitsLoss()(o, t), draw(4, 3), SOFT, "bernoulli"),
        (lambda o, t: nn.BCEWithLogitsLoss()(o, t), draw(4, 3), HARD, "bernoulli"),
        (lambda o, t: nn.MSELoss()(o, t), draw(4, 3), draw(4, 3), "regression"),
        (lambda o, t: nn.MSELoss()(o, t), draw(4), draw(4), "regression"),
        (nn.MSELoss(), draw(4, 3), HARD, "regression"),
        (partial(functional.cross_entropy, reduction="none"), draw(4, 3), CLASSES, "categorical"),
    ):
        assert task_of(criterion, outputs, targets).kind == kind


def test_what_does_not_fit_is_refused_with_the_mend():
    for criterion, outputs, targets, message in (
        (nn.CrossEntropyLoss(), draw(4, 1), BITS, "over one logit .* is always zero"),
        (nn.CrossEntropyLoss(), draw(4), BITS, "over one logit .* is always zero"),
        (nn.BCELoss(), draw(4), BITS, "use nn.BCEWithLogitsLoss"),
        (nn.CrossEntropyLoss(), draw(4, 3), CLASSES + 1, "A target is 3"),
        (nn.CrossEntropyLoss(), draw(4, 3), -CLASSES, "A target is -2"),
        (nn.CrossEntropyLoss(), draw(4, 3), CLASSES.float(), "classes as integers"),
        (nn.CrossEntropyLoss(), draw(4, 3), LABELS, "do not sum to one"),
        (nn.CrossEntropyLoss(), draw(4, 2, 3), MAP, "along dimension 1"),
        (nn.CrossEntropyLoss(), draw(4, 3), CLASSES[:3], "a class for each example"),
        (nn.BCEWithLogitsLoss(), draw(4, 1), CLASSES, "give 0 or 1"),
        (nn.BCEWithLogitsLoss(), draw(4, 3), BITS, "one target for each logit"),
        (nn.MSELoss(), draw(4, 1), draw(3), "one target for each logit"),
        (nn.MSELoss(), draw(4, 1), draw(4).to(torch.complex64), "one target for each logit"),
        (nn.NLLLoss(), draw(4, 3), draw(4, 3).softmax(1), "give class indices, or nn.Cross"),
        (None, draw(4, 3), LABELS, "criterion=nn.BCEWithLogitsLoss"),
    ):
        with pytest.raises((ConfigurationError, DataError), match=message):
            (adapt_criterion(criterion) if criterion else cross_entropies)(outputs, targets)


def test_a_regression_has_no_classes_but_a_loss():
    task, outputs = Task("regression"), draw(4, 1)
    assert adapt_criterion(nn.MSELoss())(outputs, torch.zeros(4)).allclose(outputs.square().mean())
    for ask in (task.correct, task.cross_entropies):
        with pytest.raises(ConfigurationError, match="have no classes"):
            ask(outputs, draw(4, 1))


def test_a_criterion_of_the_users_gets_what_the_network_returns():
    seen = []

    def criterion(outputs, targets):
        seen.append((outputs, targets))
        return outputs[0].sum()

    adapt_criterion(criterion)((draw(4, 3), "features"), CLASSES.to(torch.uint8))
    assert seen[0][0][1] == "features"
    assert seen[0][1].dtype == torch.int64


def test_targets_are_examined_once_until_they_change(monkeypatch):
    seen, examine = [], Task.criterion_targets
    monkeypatch.setattr(
        Task, "criterion_targets", lambda *args: seen.append(args) or examine(*args)
    )
    outputs, targets = draw(4, 3), CLASSES.int()
    loss = adapt_criterion(nn.CrossEntropyLoss())
    assert adapt_criterion(loss) is loss
    first = loss(outputs, targets)
    assert loss(outputs, targets).equal(first)
    assert len(seen) == 1
    targets[0] = 1  # in place
    assert not loss(outputs, targets).equal(first)
    assert loss(draw(4, 3, 2), MAP).isfinite()
    assert len(seen) == 3
    with torch.inference_mode():
        inner = targets.clone()
        loss(outputs, inner)
        inner[0] = 2
        assert loss(outputs, inner).equal(functional.cross_entropy(outputs, inner.long()))
