"""Semantic 6: gradients that are not finite, loss scaling, and the share of exact zeros."""

import pytest
import torch
from probes import probing
from settings import ADVERSARIES, identical, loss_of, tiny

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
BAD = (float("nan"), float("inf"), float("-inf"))


class Driven:
    """One site whose gradient is chosen."""

    def __init__(self, **settings):
        self.model = Tap()
        self.adversary = LayerwiseAdversary(
            **{"epsilon": BUDGET, "sites": ["input"], "relative": False} | settings
        )

    def after(self, *gradients, dtype=torch.float32):
        """The perturbation met after these gradients came back."""
        with probing(self.model, self.adversary, "input") as probe:
            for gradient in [*gradients, torch.zeros_like(gradients[0])]:
                probe.clear()
                self.adversary.set_batch(torch.arange(len(gradient)))
                self.model(torch.zeros(gradient.shape, dtype=dtype)).backward(gradient.to(dtype))
            met = probe.deltas()[0] / BUDGET
            self.statistics = self.adversary.statistics()["input"]
        return met


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("kind", KINDS)
def test_values_that_are_not_finite_leave_zeros(kind, bad):
    gradient = torch.randn(4, 5)
    gradient[1, 2] = gradient[3, 0] = bad
    driven, clean = Driven(**KINDS[kind]), Driven(**KINDS[kind])
    met = driven.after(gradient)
    assert met[1, 2] == met[3, 0] == 0
    expected = clean.after(torch.where(gradient.isfinite(), gradient, 0))
    assert met.equal(expected)
    assert driven.statistics["nonfinite"] == 2
    assert clean.statistics["nonfinite"] == 0


@pytest.mark.parametrize("kind", ["sign", "l2", "max", "example"])
def test_a_gradient_without_a_finite_value_leaves_nothing(kind):
    driven = Driven(**KINDS[kind])
    met = driven.after(torch.randn(4, 5), torch.full((4, 5), float("inf")))
    assert met.equal(torch.zeros(4, 5))
    assert driven.statistics["nonfinite"] == 20


def test_the_count_goes_on_over_steps_and_calls():
    driven = Driven()
    bad = torch.full((2, 3), float("nan"))
    driven.after(bad, torch.ones(2, 3), bad)
    assert driven.statistics["nonfinite"] == 12


@pytest.mark.parametrize("scale", [2.0**16, 2.0**-20, 3.0])
@pytest.mark.parametrize("kind", KINDS)
def test_direction_of_a_scaled_gradient_is_that_of_the_unscaled(kind, scale):
    gradient = torch.randn(4, 5)
    gradient[2, 2] = 0
    plain = Driven(**KINDS[kind]).after(gradient)
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
        met = Driven(**KINDS[kind]).after(small, dtype=dtype)
        wide = Driven(**KINDS[kind]).after(small)
        assert met.isfinite().all()
        assert torch.allclose(met.float(), wide, atol=0.02, rtol=0.02)


def test_directions_have_the_stated_size():
    gradient = torch.randn(4, 5, 2)
    assert Driven().after(gradient).equal(gradient.sign())
    met = Driven(direction="l2").after(gradient)
    size = gradient.square().mean((1, 2), keepdim=True).sqrt()
    assert torch.allclose(met, gradient / size, atol=1e-5)
    met = Driven(direction="max").after(gradient)
    assert torch.allclose(met, gradient / gradient.abs().amax((1, 2), keepdim=True), atol=1e-5)


@pytest.mark.parametrize("kind", ["l2", "max"])
def test_an_example_without_a_gradient_gets_no_perturbation(kind):
    gradient = torch.randn(4, 5)
    gradient[2] = 0
    met = Driven(direction=kind).after(gradient)
    assert not met[2].any()
    assert met.isfinite().all()


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


@pytest.mark.parametrize("name", ADVERSARIES)
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


@pytest.mark.parametrize("name", ADVERSARIES)
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


def test_an_activation_that_overflowed_does_not_poison_the_steps_after_it():
    """Its root mean square is no scale; with `rms_interval` it would be kept for several steps."""
    model, adversary = Tap(), LayerwiseAdversary(0.1, ["input"], relative=True, rms_interval=4)
    with adversary.attach(model):
        model(torch.full((2, 3), float("inf"))).backward(torch.ones(2, 3))
        assert model(torch.ones(2, 3)).isfinite().all()
