"""Label smoothing equals its equation, PyTorch's own and the criterion's that it is handed."""

import pytest
import torch
import torch.nn.functional as F
from attack_twins import assert_twins, epochs, network

from advreg import Batch
from advreg.errors import ConfigurationError
from advreg.methods import LabelSmoothing


def by_classes(model, batch):
    """(1 - s) J(y) + s * mean over k of J(k)."""
    outputs = model(batch.inputs)
    every = [F.cross_entropy(outputs, torch.full_like(batch.targets, k)) for k in range(3)]
    return 0.7 * F.cross_entropy(outputs, batch.targets) + 0.3 * sum(every) / 3


def pytorchs(model, batch):
    return F.cross_entropy(model(batch.inputs), batch.targets, label_smoothing=0.3)


@pytest.mark.parametrize("step", [by_classes, pytorchs])
def test_equals_its_equation(step):
    assert_twins(LabelSmoothing(0.3), step, epochs())


def loss_of(targets, criterion=F.cross_entropy):
    batch, model, method = next(epochs()), network(), LabelSmoothing(0.3)
    with method.attach(model):
        batch = Batch(batch.inputs, targets)
        return method.step(model, batch, criterion, torch.Tensor.backward).loss


def test_targets_may_be_probabilities():
    targets = next(epochs()).targets
    torch.testing.assert_close(loss_of(F.one_hot(targets, 3).double()), loss_of(targets))


def test_uses_the_criterion_that_it_is_handed():
    targets = next(epochs()).targets
    doubled = loss_of(targets, lambda outputs, soft: 2 * F.cross_entropy(outputs, soft))
    torch.testing.assert_close(doubled, 2 * loss_of(targets))


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_bad_settings_are_named(share):
    with pytest.raises(ConfigurationError, match="smoothing is"):
        LabelSmoothing(share)
