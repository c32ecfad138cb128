"""From a gradient to a direction."""

import pytest
import torch

from advreg.errors import ConfigurationError
from advreg.layerwise import direction


def test_sign_is_ternary():
    gradient = torch.tensor([[3.0, -1e-30, 0.0, -0.0]])
    assert direction(gradient).tolist() == [[1, -1, 0, 0]]
    assert direction(gradient).dtype == torch.int8


@pytest.mark.parametrize(("kind", "batch_dim"), [("l2", 0), ("max", 1), ("l2", 2)])
def test_each_example_is_scaled_by_itself(kind, batch_dim):
    gradient = torch.randn(3, 4, 5, dtype=torch.float64)
    within = [dim for dim in range(3) if dim != batch_dim]
    if kind == "l2":
        scale = gradient.square().mean(within, keepdim=True).sqrt()
    else:
        scale = gradient.abs().amax(within, keepdim=True)
    assert torch.allclose(direction(gradient, kind, batch_dim), gradient / scale)


def test_all_directions_of_equal_magnitudes_agree():
    """So that epsilon means the same."""
    gradient = torch.randn(4, 6).sign() * 1e-3
    for kind in ("l2", "max"):
        assert torch.allclose(direction(gradient, kind), direction(gradient).float())


@pytest.mark.parametrize("kind", ["l2", "max"])
def test_sizes_at_the_ends_of_the_range(kind):
    gradient = torch.tensor([[1.0, -1.0, 0.5], [0, 0, 0]])
    for size in (1e-42, 1e-30, 1e30):
        seen = direction(gradient * size, kind)
        assert torch.allclose(seen, direction(gradient, kind), rtol=1e-2)
        assert not seen[1].any()


def test_one_value_an_example_and_unknown_kinds():
    for kind in ("sign", "l2", "max"):
        assert direction(torch.tensor([2.0, -3.0, 0.0]), kind).tolist() == [1, -1, 0]
    with pytest.raises(ConfigurationError, match="sign, l2, max"):
        direction(torch.ones(2, 2), "random")
