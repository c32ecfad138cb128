"""Attacks in half precision: within the budget after rounding, and as strong as they should be."""

import pytest
import torch
from test_attacks_inputs import examples, network
from torch import nn

from advreg.attacks import L2, Linf, fgsm, lots, noise, pgd
from advreg.errors import EmptyPerturbationWarning
from advreg.losses import Task

HALVES = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize(
    ("kind", "threat"),
    [
        (torch.bfloat16, Linf("1/255")),
        (torch.float16, Linf("8/255")),
        (torch.float16, L2(0.05)),
        (torch.bfloat16, L2(0.5)),
    ],
)
def test_half_precision_stays_in_the_ball_and_attacks(kind, threat):
    model, (inputs, targets) = network(3, kind), examples(dtype=kind)
    attacks = [
        fgsm(model, inputs, targets, threat),
        pgd(model, inputs, targets, threat, 3, restarts=2, momentum=0.9),
        noise(inputs, threat),
    ]
    order = float("inf") if isinstance(threat, Linf) else 2
    for attacked in attacks:
        assert attacked.dtype == kind
        assert attacked.isfinite().all()
        reach = (attacked.double() - inputs.double()).flatten(1).norm(p=order, dim=1)
        assert (reach <= threat.epsilon * (1 + 1e-6)).all()
        assert reach.max() > 0.3 * threat.epsilon
    clean, *losses = (
        Task().cross_entropies(network()(x.double()), targets).mean()
        for x in (inputs, *attacks[:2])
    )
    assert all(loss > clean for loss in losses)


def test_steps_below_the_spacing_of_half_precision_add_up():
    kind = torch.bfloat16
    model, (inputs, targets) = network(3, kind), examples(dtype=kind)
    attacked = pgd(model, inputs, targets, Linf("1/255"), 60, random_start=False)
    assert (attacked - inputs).double().abs().mean() > 0.7 / 255


def test_momentum_in_float16_goes_on_after_a_gradient_of_zero():
    """The least that a norm is divided by, 1e-30, is zero in float16, and zero by zero stays."""

    class Late(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            x = x.flatten(1)
            return (x.detach() + 0 * x if self.calls == 1 else x)[:, :3]

    inputs, targets = examples(dtype=torch.float16)
    with pytest.warns(EmptyPerturbationWarning):
        attacked = pgd(Late(), inputs, targets, Linf(0.1), 3, momentum=0.9, random_start=False)
    assert ((attacked - inputs).flatten(1).abs().amax(1) > 0.04).all()


def test_lots_moves_in_half_precision():
    exact, found = (
        lots(network(3, kind), x, x.flip(0), "1", 80, until_class=False, step_size=1 / 2040)
        for kind, x in ((kind, examples(dtype=kind)[0]) for kind in (torch.float64, torch.bfloat16))
    )
    assert found.images.dtype == torch.bfloat16
    assert found.moved.double().allclose(exact.moved, rtol=0.1)
