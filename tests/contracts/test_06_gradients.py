"""Semantic 6: gradients that are not finite, loss scaling, and the share of exact zeros."""

import pytest
import torch
from probes import probing
from settings import ADVERSARIES, MEMORIES, identical, loss_of, tiny

from advreg import LayerwiseAdversary, Tap

BUDGET = 0.1
KINDS = {
    "sign": {},
    "l2": {"direction": "l2"},
    "max": {"direction": "max"},
    "accumulating": {"step_size": BUDGET},
    "example": {"memory": "example"},
    "example l2": {"memory": "example", "direction": "l2"},
}
BAD = torch.tensor([float("nan"), float("inf"), float("-inf")])


class Driven:
    """One site whose gradient is chosen."""

    def __init__(self, **settings):
        self.model = Tap()
        self.adversary = LayerwiseAdversary(
            **{"epsilon": BUDGET, "sites": ["input"], "relative": False} | settings
        )

    def after(self, *gradients, dtype=torch.float32):
        """The perturbation after these gradients came back."""
        with probing(self.model, self.adversary, "input") as probe:
            for gradient in [*gradients, torch.zeros_like(gradients[0])]:
                probe.clear()
                self.adversary.set_batch(torch.arange(len(gradient)))
                self.model(torch.zeros(gradient.shape, dtype=dtype)).backward(gradient.to(dtype))
            seen = probe.deltas()[0] / BUDGET
            self.statistics = self.adversary.statistics()["input"]
        return seen


@pytest.mark.parametrize("kind", KINDS)
def test_values_that_are_not_finite_leave_zeros(kind):
    gradient = torch.randn(4, 5)
    gradient[1, 2], gradient[3, 0], gradient[0, 4] = BAD
    driven, clean = Driven(**KINDS[kind]), Driven(**KINDS[kind])
    seen = driven.after(gradient)
    assert not seen[~gradient.isfinite()].any()
    assert seen.equal(clean.after(torch.where(gradient.isfinite(), gradient, 0)))
    assert (driven.statistics["nonfinite"], clean.statistics["nonfinite"]) == (3, 0)
    if kind != "accumulating":  # whose perturbation the next gradient moves
        seen = driven.after(torch.randn(4, 5), torch.full((4, 5), float("inf")))
        assert seen.equal(torch.zeros(4, 5))
        assert driven.statistics["nonfinite"] == 20


def test_the_count_goes_on_over_steps_and_calls():
    driven = Driven()
    bad = torch.full((2, 3), float("nan"))
    driven.after(bad, torch.ones(2, 3), bad)
    assert driven.statistics["nonfinite"] == 12


@pytest.mark.parametrize("kind", KINDS)
def test_the_direction_of_a_scaled_gradient_is_that_of_the_unscaled(kind):
    gradient = torch.randn(4, 5)
    gradient[2, 2] = 0
    plain = Driven(**KINDS[kind]).after(gradient)
    for scale in (2.0**16, 2.0**-20, 3.0):
        scaled = Driven(**KINDS[kind]).after(gradient * scale)
        assert torch.allclose(plain, scaled, rtol=1e-5, atol=0)
        assert plain[2, 2] == scaled[2, 2] == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_neither_overflows_nor_vanishes(kind, dtype):
    """The squares of such gradients leave float16's range on either side."""
    gradient = torch.randn(4, 50).to(dtype).float()
    for scale in (2.0**-12, 2.0**12):
        small = (gradient * scale).to(dtype).float()
        seen = Driven(**KINDS[kind]).after(small, dtype=dtype)
        wide = Driven(**KINDS[kind]).after(small)
        assert seen.isfinite().all()
        assert torch.allclose(seen.float(), wide, atol=0.02, rtol=0.02)


def test_directions_have_the_stated_size():
    """Of an example without a gradient it is zero."""
    gradient = torch.randn(4, 5, 2)
    gradient[2] = 0
    assert Driven().after(gradient).equal(gradient.sign())
    sizes = {
        "l2": gradient.square().mean((1, 2), keepdim=True).sqrt(),
        "max": gradient.abs().amax((1, 2), keepdim=True),
    }
    for kind, size in sizes.items():
        expected = torch.where(size > 0, gradient / size, 0)
        assert torch.allclose(Driven(direction=kind).after(gradient), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["sign", "l2", "example"])
def test_the_share_of_exact_zeros_is_a_statistic(kind):
    gradient = torch.ones(4, 5)
    gradient[0, :4] = 0
    gradient[1, 0] = float("nan")
    driven = Driven(**KINDS[kind])
    with driven.adversary.attach(driven.model):
        driven.adversary.set_batch(torch.arange(4))
        driven.model(torch.zeros(4, 5)).backward(gradient)
        assert driven.adversary.statistics()["input"]["zeros"] == pytest.approx(5 / 20)


@pytest.mark.parametrize("name", MEMORIES)
def test_scaled_losses_leave_the_same_memories(name):
    """A power of two changes no bit of a float32 gradient's direction."""
    states = []
    for scale in (1.0, 2.0**16):
        setting, model = ADVERSARIES[name], tiny()
        adversary = setting.adversary()
        with adversary.attach(model):
            for batch in setting.batches(3):
                (scale * loss_of(model, batch, adversary)).backward()
            states.append(adversary.state_dict())
    assert identical(*states)


@pytest.mark.parametrize("name", MEMORIES)
def test_an_overflowing_step_of_a_gradient_scaler(name):
    """The scaler skips the step and halves the scale; the memories start from zero, not nan."""
    setting, model = ADVERSARIES[name], tiny()
    adversary = setting.adversary()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    with adversary.attach(model):
        for step, batch in enumerate(setting.batches(5)):
            loss = loss_of(model, batch, adversary)
            assert loss.isfinite()
            if step == 2:
                loss = loss * 1e38 * 1e38
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        counts = [site["nonfinite"] for site in adversary.statistics().values()]
    assert scaler.get_scale() == 2.0**15
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert all(counts) or name == "random"


def test_an_activation_that_overflowed_does_not_spoil_the_steps_after_it():
    """Its root mean square is no scale; with `rms_interval` it would be kept for several steps."""
    model, adversary = Tap(), LayerwiseAdversary(0.1, ["input"], relative=True, rms_interval=4)
    with adversary.attach(model):
        model(torch.full((2, 3), float("inf"))).backward(torch.ones(2, 3))
        assert model(torch.ones(2, 3)).isfinite().all()
