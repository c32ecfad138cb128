"""Arithmetic in half precision: within the budget after rounding."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from advreg.tensors import perturbed, round_towards, rows

HALVES = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize(
    ("kind", "epsilon"), [(torch.bfloat16, 0.5 / 255), (torch.float16, 8 / 255)]
)
def test_half_precision_stays_within_the_budget(kind, epsilon):
    inputs = (torch.arange(256) / 255).to(kind)
    for sign in (-1, 1):
        delta = torch.full((256,), sign * epsilon)
        moved = perturbed(inputs, delta, (0.0, 1.0))
        assert moved.dtype == kind
        reach = (moved.double() - inputs.double()).abs()
        assert reach.max() <= epsilon
        naive = (inputs + delta.to(kind)).clamp(0, 1).double() - inputs.double()
        assert naive.abs().max() > epsilon  # what rounding to the nearest does
        # No value is left farther inside than one step of the format.
        inside = (inputs.double() + sign * epsilon).clamp(0, 1)
        larger = torch.maximum(inputs, moved)
        step = (torch.nextafter(larger, larger.new_tensor(2.0)) - larger).double()
        assert ((inside - moved.double()).abs() <= 2 * step).all()


halves = st.sampled_from(HALVES)
numbers = st.floats(-4, 4, width=32, allow_subnormal=True)


@settings(deadline=None)
@given(halves, st.lists(st.tuples(numbers, numbers), min_size=1, max_size=8))
def test_rounding_towards_is_the_next_value_where_the_nearest_is_beyond(kind, pairs):
    anchor, values = torch.tensor(pairs).unbind(1)
    anchor = anchor.to(kind)
    rounded = round_towards(anchor, values)
    exact = (values - anchor.float()).abs()
    assert ((rounded.float() - anchor.float()).abs() <= exact).all()
    nearest = values.to(kind)
    beyond = (nearest.float() - anchor.float()).abs() > exact
    expected = torch.where(beyond, torch.nextafter(nearest, anchor), nearest)
    at_zero = beyond & (nearest == 0)
    assert rounded[~at_zero].equal(expected[~at_zero])


def test_full_precision_is_the_plain_sum():
    inputs, delta = torch.rand(3, 2), torch.randn(3, 2)
    assert perturbed(inputs, delta).equal(inputs + delta)
    assert perturbed(inputs, delta, (0, 1)).equal((inputs + delta).clamp(0, 1))
    assert rows(torch.zeros(2, 3, 4, dtype=torch.bfloat16)).dtype == torch.float32
