"""How large a perturbation may be."""

import math

import pytest
import torch
from torch import nn

from advreg import LayerwiseAdversary, Tap
from advreg.errors import ConfigurationError, SiteError
from advreg.layerwise.budget import epsilon_of, parse_epsilon
from advreg.layerwise.perturbation import root_mean_square


def test_fractions_are_read_everywhere():
    assert parse_epsilon("8/255") == 8 / 255
    assert parse_epsilon({"input": "8/255", "layer*": 0.1}) == {"input": 8 / 255, "layer*": 0.1}
    assert LayerwiseAdversary("8/255", step_size="2/255").config.step_size == 2 / 255


def test_settings_that_cannot_work_are_refused():
    for epsilon in (-0.1, "-8/255", "much", math.nan, math.inf, None, {}, {"a": -1}, "1/0", []):
        with pytest.raises(ConfigurationError, match="epsilon"):
            LayerwiseAdversary(epsilon)
    for settings, named in (
        ({"memory": "slots"}, "slot, example"),
        ({"direction": "signs"}, "sign, l2, max, random"),
        ({"start": "ones"}, "zero, random"),
        ({"budget_split": "equal"}, "sum, root"),
        ({"step_size": -0.1}, "step_size"),
        ({"step_size": 0.1, "direction": "l2"}, "step_size"),
        ({"rms_interval": 0}, "rms_interval"),
        ({"warmup": -1}, "warmup"),
        ({"examples": 0}, "examples"),
        ({"batch_dim": -1}, "batch_dim"),
        ({"input_range": (1.0, 0.0)}, "input_range"),
    ):
        with pytest.raises(ConfigurationError, match=named):
            LayerwiseAdversary(0.1, **settings)


def test_a_budget_that_follows_the_loss_is_the_methods():
    with pytest.raises(ConfigurationError, match="use the method layerwise"):
        LayerwiseAdversary("auto")


def test_the_last_matching_glob_counts():
    epsilon = parse_epsilon({"**": 0.1, "layer1.*": 0.2, "layer1.0": 0.3})
    found = [epsilon_of(site, epsilon) for site in ("input", "layer1.1", "layer1.0")]
    assert found == [0.1, 0.2, 0.3]
    with pytest.raises(SiteError, match="layer2"):
        epsilon_of("layer2", parse_epsilon({"layer1": 0.1}))


def test_repr_can_be_evaluated_back():
    adversary = LayerwiseAdversary("1/4", ["input"], direction="l2", warmup=3)
    assert repr(eval(repr(adversary))) == repr(adversary)
    assert "warmup=3" in repr(adversary)
    assert "rms_interval" not in repr(adversary)


def test_root_mean_square_is_a_float32_scalar():
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        activation = (200 * torch.randn(1000)).to(dtype)  # its squares leave float16's range
        measured = root_mean_square(activation)
        assert (measured.dtype, measured.shape) == (torch.float32, ())
        assert not measured.requires_grad
        expected = activation.double().square().mean().sqrt().item()
        assert measured.item() == pytest.approx(expected, 1e-5)


def magnitudes(adversary, sites, steps, model=None, scale=lambda step: 1.0):
    """The largest magnitude of each site's perturbation in each step."""
    model = model or nn.Sequential(*[Tap() for _ in range(4)], nn.Flatten())
    seen = {site: [] for site in sites}
    raw, after = {}, {}

    def watch(into):
        for site in sites:
            model.get_submodule(site).register_forward_hook(
                lambda _, args, out, site=site: into.__setitem__(site, out.detach().clone())
            )

    watch(raw)
    with adversary.attach(model):
        watch(after)
        for step in range(steps):
            model(torch.full((2, 3), scale(step))).sum().backward()
            for site in sites:
                seen[site].append((after[site] - raw[site]).abs().max().item())
    return seen


class Chain(nn.Module):
    """Sites whose tensors differ."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = Tap(), Tap(), Tap(), Tap()

    def forward(self, inputs):
        return self.d(self.c(self.b(self.a(inputs * 1) * 1) * 1) * 1)


@pytest.mark.parametrize(("budget_split", "factor"), [(None, 1.0), ("sum", 1 / 4), ("root", 1 / 2)])
def test_one_budget_over_several_sites(budget_split, factor):
    adversary = LayerwiseAdversary(
        0.4, ["a", "b", "c", "d"], relative=False, budget_split=budget_split
    )
    seen = magnitudes(adversary, "abcd", 3, Chain())
    for site in "abcd":
        assert seen[site] == pytest.approx([0, 0.4 * factor, 0.4 * factor], abs=1e-6)
    assert adversary.statistics()["a"]["epsilon"] == pytest.approx(0.4 * factor)


def test_warm_up_grows_the_perturbation():
    adversary = LayerwiseAdversary(0.4, ["a"], relative=False, warmup=4)
    seen = magnitudes(adversary, "a", 6, Chain())["a"]
    assert seen == pytest.approx([0, 0.2, 0.3, 0.4, 0.4, 0.4], abs=1e-6)


@pytest.mark.parametrize("compiles", [False, True])
def test_the_scale_counts_from_the_next_forward_pass_and_is_part_of_the_state(compiles):
    adversary, model = LayerwiseAdversary(0.4, ["1"], relative=False), nn.Sequential(Tap(), Tap())
    inputs, seen, scales = torch.zeros(2, 3), [], [1.0, 0.5, 0.0, 0.25, 0.25, 1.0]
    with adversary.attach(model):
        network = torch.compile(model, backend="aot_eager") if compiles else model
        for scale in scales:
            adversary.scale = scale
            output = network(inputs)
            seen.append(output.abs().max().item())
            output.sum().backward()
        assert adversary.statistics()["1"]["epsilon"] == 0.4
        adversary.scale = "1/4"
        state = adversary.state_dict()
    assert seen == pytest.approx([0, *(0.4 * scale for scale in scales[1:])], abs=1e-6)
    other = LayerwiseAdversary(0.4, ["1"], relative=False)
    other.load_state_dict(state)
    with other.attach(nn.Sequential(Tap(), Tap())):
        assert other.scale == 0.25
    for wrong in (-1, math.nan, "much"):
        with pytest.raises(ConfigurationError, match="scale"):
            adversary.scale = wrong
    assert adversary.scale == 0.25


def test_relative_budgets_follow_the_activation_and_its_refresh():
    adversary = LayerwiseAdversary(0.1, ["a"], rms_interval=3)
    seen = magnitudes(adversary, "a", 7, Chain(), scale=lambda step: 1.0 + step)["a"]
    # Measured before the perturbation, in steps 0, 3 and 6.
    assert seen == pytest.approx([0, 0.1, 0.1, 0.4, 0.4, 0.4, 0.7], abs=1e-5)
    assert adversary.statistics()["a"]["rho"] == pytest.approx(7.0)


def test_each_site_has_its_own_budget():
    adversary = LayerwiseAdversary({"*": 0.4, "b": "1/10"}, ["a", "b"], relative=False)
    seen = magnitudes(adversary, "ab", 2, Chain())
    assert (seen["a"][1], seen["b"][1]) == pytest.approx((0.4, 0.1), abs=1e-6)


def test_defaults_are_absolute_at_the_input_and_relative_inside():
    adversary = LayerwiseAdversary(0.1, ["input", "a"])
    magnitudes(adversary, "a", 2, Chain(), scale=lambda step: 5.0)
    statistics = adversary.statistics()
    assert math.isnan(statistics["input"]["rho"])
    assert statistics["a"]["rho"] == pytest.approx(5, rel=0.05)


@pytest.mark.parametrize(
    ("step_size", "expected"),
    [(0.1, [0, 0.1, 0.2, 0.3, 0.4, 0.4]), (1.0, [0, 0.4, 0.4, 0.4, 0.4, 0.4]), (0, [0] * 6)],
)
def test_accumulation_moves_by_its_step_up_to_epsilon(step_size, expected):
    adversary = LayerwiseAdversary(0.4, ["a"], relative=False, step_size=step_size)
    seen = magnitudes(adversary, "a", 6, Chain())["a"]
    assert seen == pytest.approx(expected, abs=0.4 / 127)


def test_a_small_step_is_not_rounded_to_nothing():
    adversary = LayerwiseAdversary(0.4, ["a"], relative=False, step_size=1e-6)
    assert magnitudes(adversary, "a", 3, Chain())["a"][2] > 0


@pytest.mark.parametrize(
    ("memory", "settings"),
    [("slot", {}), ("slot", {"step_size": 0.1}), ("slot", {"direction": "l2"}), ("example", {})],
)
def test_a_random_start_is_within_the_budget_and_seeded(memory, settings):
    def first(seed):
        model = Tap()
        adversary = LayerwiseAdversary(
            0.4, ["input"], memory, start="random", seed=seed, **settings
        )
        with adversary.attach(model):
            adversary.set_batch(torch.arange(50))
            return model(torch.zeros(50, 20)).detach()

    drawn = first(0)
    assert drawn.any()
    assert drawn.square().mean().sqrt().item() <= 0.4 + 1e-6
    if settings != {"direction": "l2"}:
        assert drawn.abs().max().item() <= 0.4 + 1e-6
    assert drawn.mean().abs() < 0.05
    assert drawn.equal(first(0))
    assert not drawn.equal(first(1))


def test_a_budget_in_the_wrong_unit_is_refused_at_the_input():
    for settings in ({"input_range": (0.0, 1.0)}, {"input_range": (-1.0, 1.0)}):
        with pytest.raises(ConfigurationError, match="such as 8/255"):
            LayerwiseAdversary(8, ["input"], **settings).attach(Tap())
    for settings in ({}, {"input_range": (0.0, 255.0)}, {"input_range": (0, 1), "relative": True}):
        LayerwiseAdversary(8, ["input"], **settings).attach(Tap()).detach()
