"""Nuclear-norm adversarial training, beside its equation."""

import pytest
import torch
import torch.nn.functional as F
from attack_twins import (
    assert_seeded,
    assert_twins,
    epochs,
    gradient,
    keeping_statistics,
    network,
    signs,
    train,
)

from advreg.errors import ConfigurationError
from advreg.losses import Task
from advreg.methods import NuAT


def nuclear(matrix):
    """The sum of the singular values, as the trace of the root of M^T M."""
    values, _ = torch.linalg.eigh(matrix.T @ matrix)
    return values.clamp_min(1e-30).sqrt().sum()


def twin(epsilon, noise, step, weight, ramp=None):
    """`ramp` mini-batches take the weight from zero to `weight`; None has it from the start."""
    generator, count = torch.Generator().manual_seed(0), 0

    def loss(model, batch):
        nonlocal count
        x, y, size = batch.inputs, batch.targets, len(batch)

        def present():
            return weight if ramp is None else weight * min(count / ramp, 1)

        guided = present() if count % 2 else 0.0
        with keeping_statistics(model):
            clean = model(x).detach()
        start = (x + noise * signs(x, generator)).clamp(0, 1)
        model.eval()

        def climbed(out):
            found = F.cross_entropy(out, y)
            return found + guided * nuclear(out - clean) / size if guided else found

        g = gradient(model, start, climbed)
        model.train()
        count += 1
        delta = (start - x + step * g.sign()).clamp(-epsilon, epsilon)
        attacked = model((x + delta).clamp(0, 1))
        outputs = model(x)
        return F.cross_entropy(outputs, y) + present() * nuclear(outputs - attacked) / size

    return loss


def full_rank(batches):
    """Without the mini-batches of fewer examples than classes, whose matrix has a zero."""
    return [batch for batch in batches if len(batch) > 3]


def test_equals_its_equation():
    method = NuAT(epsilon=0.2, noise=0.1, step_size=0.15, weight=2)
    assert_twins(method, twin(0.2, 0.1, 0.15, 2), full_rank(epochs()))


def test_the_weight_is_ramped_up():
    known = {"steps_per_epoch": 3, "epochs": 2}
    method = NuAT(epsilon=0.2, weight=2, ramp=0.5)
    assert_twins(method, twin(0.2, 0.1, 0.2, 2, ramp=3), full_rank(epochs()), **known)


def test_the_norm_of_a_rank_one_matrix_is_its_length():
    one, other = torch.randn(5, 1, dtype=torch.float64), torch.randn(1, 3, dtype=torch.float64)
    found = NuAT().difference(Task(), one @ other, torch.zeros(5, 3))
    assert found == pytest.approx((one.norm() * other.norm() / 5).item())


def test_fewer_examples_than_classes_train():
    model, method = network(), NuAT(epsilon=0.2)
    with method.attach(model):
        losses = train(model, method, [batch for batch in epochs() if len(batch) < 3])
    assert losses.isfinite().all()
    assert all(bool(value.isfinite().all()) for value in model.parameters())


def test_defaults_are_the_papers():
    method = NuAT()
    assert (method.weight, method.ramp, method.passes) == (4.5, 0.9, 3)
    assert (method.noise, method.step_size) == pytest.approx((4 / 255, 8 / 255))


def test_seeded():
    assert_seeded(NuAT)


def test_refusals():
    with pytest.raises(ConfigurationError, match="ramp"):
        NuAT(ramp=1.5)


def test_a_norm_of_what_is_no_number_is_none():
    # Torch has no singular values of it, and says so by an error.
    task, clean = Task("categorical"), torch.zeros(3, 4)
    for bad in (torch.nan, torch.inf):
        assert not NuAT().difference(task, clean, clean + bad).isfinite()
