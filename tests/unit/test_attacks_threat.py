"""Threat models: start, step, project."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from advreg.attacks import L2, Linf
from advreg.errors import ConfigurationError

THREATS = [Linf, L2]
# Below these, the numbers inside the ball are too few for the tolerance.
radii = st.one_of(st.just(0.0), st.floats(2.0**-100, 4.0, width=32))
values = st.one_of(st.floats(-10, 10, width=32), st.floats(-(2.0**100), 2.0**100, width=32))
deltas = st.lists(st.lists(values, min_size=6, max_size=6), min_size=1, max_size=3).map(
    lambda rows: torch.tensor(rows, dtype=torch.float32).view(-1, 1, 2, 3)
)


def lengths(threat, delta):
    order = float("inf") if isinstance(threat, Linf) else 2
    return delta.double().flatten(1).norm(p=order, dim=1)


def close(left, right, scale=1.0):
    return torch.allclose(left, right, rtol=0, atol=2e-6 * max(scale, 1e-30))


@pytest.mark.parametrize("kind", THREATS)
@settings(deadline=None, max_examples=60)
@given(epsilon=radii, delta=deltas)
def test_projection_is_in_the_ball_idempotent_and_leaves_the_inside_alone(kind, epsilon, delta):
    threat = kind(epsilon)
    projected = threat.project(delta)
    assert projected.isfinite().all()
    assert (lengths(threat, projected) <= epsilon * (1 + 1e-6)).all()
    assert close(threat.project(projected), projected, epsilon)
    inside = lengths(threat, delta) < epsilon * (1 - 1e-6)
    assert projected[inside].equal(delta[inside])


@settings(deadline=None, max_examples=60)
@given(epsilon=st.floats(0.01, 4.0), delta=deltas)
def test_l2_projection_keeps_the_direction(epsilon, delta):
    projected = L2(epsilon).project(delta).double().flatten(1)
    before = delta.double().flatten(1)
    cosine = torch.cosine_similarity(projected, before, eps=1e-300)
    assert ((cosine > 1 - 1e-6) | (before.norm(dim=1) < 1e-30)).all()


@pytest.mark.parametrize("kind", THREATS)
def test_the_start_is_uniform_in_the_ball(kind):
    threat = kind(0.5)
    draws = threat.start(torch.zeros(20_000, 1, 1, 2), torch.Generator().manual_seed(0))
    reach = lengths(threat, draws)
    assert reach.max() <= 0.5 * (1 + 1e-6)
    # In two dimensions a quarter of the area lies within half the radius, in either norm.
    assert (reach < 0.25).double().mean().item() == pytest.approx(0.25, abs=0.015)
    assert draws.mean((0, 1, 2)).abs().max() < 0.01


@pytest.mark.parametrize("kind", THREATS)
def test_the_start_follows_the_generator_and_the_inputs(kind):
    inputs = torch.zeros(2, 3, dtype=torch.float64)
    first, again = (kind(1).start(inputs, torch.Generator().manual_seed(3)) for _ in range(2))
    assert first.equal(again)
    assert first.dtype == torch.float64
    assert not first.equal(kind(1).start(inputs, torch.Generator().manual_seed(4)))


def test_steps_are_the_steepest_of_their_length():
    gradient = torch.tensor([[3.0, -4.0], [0.0, 0.0]])
    delta = torch.ones(2, 2)
    assert Linf(1).step(delta, gradient, 0.5).equal(torch.tensor([[1.5, 0.5], [1.0, 1.0]]))
    assert L2(1).step(delta, gradient, 0.5).allclose(torch.tensor([[1.3, 0.6], [1.0, 1.0]]))


def test_l2_steps_do_not_depend_on_the_size_of_the_gradient():
    for scale in (1e-36, 1e-20, 1e20, 1e37):
        step = L2(1).step(torch.zeros(1, 2), scale * torch.tensor([[3.0, -4.0]]), 1.0)
        assert step.allclose(torch.tensor([[0.6, -0.8]]))


@pytest.mark.parametrize("kind", THREATS)
def test_a_gradient_that_is_not_finite_moves_nothing(kind):
    bad = torch.tensor([[float("nan"), 2.0], [float("inf"), -2.0], [float("nan"), float("-inf")]])
    step = kind(1).step(torch.zeros(3, 2), bad, 0.5)
    assert step.equal(torch.tensor([[0.0, 0.5], [0.0, -0.5], [0.0, 0.0]]))


@pytest.mark.parametrize("kind", THREATS)
def test_epsilon_reads_fractions_and_the_repr_evaluates_back(kind):
    threat = kind("8/255")
    assert threat == kind(8 / 255)
    assert eval(repr(threat)) == threat
    assert len({threat, kind(8 / 255), Linf(1), L2(1)}) == 3


def test_an_epsilon_that_is_no_radius_is_refused():
    for epsilon in (-0.1, "nan", "a lot", None):
        with pytest.raises(ConfigurationError, match="epsilon"):
            Linf(epsilon)
