"""The sites' operators in compiled graphs beside the signs they stand for."""

import math

import pytest
import torch

from advreg.layerwise.operators import Flat
from advreg.layerwise.signs import Signs, order_of

LAST, FIRST = torch.channels_last, torch.contiguous_format
SHAPES = [((4, 3, 5, 7), 0), ((8, 64, 6, 6), 0), ((5, 9), 0), ((6, 3, 5), 1), ((2,) * 9, 0)]


def random(shape, dtype, layout=FIRST):
    value = torch.randn(shape).to(dtype)
    return value.to(memory_format=layout) if len(shape) == 4 else value


def unbounded(codes, activation, scale, rows, capacity):
    arguments = torch.tensor(scale, dtype=torch.float64), rows, capacity, -math.inf, math.inf
    return torch.ops.advreg.add(activation, codes, *arguments)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("layouts", [(FIRST, FIRST), (LAST, LAST), (FIRST, LAST), (LAST, FIRST)])
@pytest.mark.parametrize(("shape", "rows"), SHAPES)
def test_what_is_recorded_is_added(shape, rows, layouts, dtype):
    """Whichever layouts the gradient and the activations have, then and later."""
    gradient, activation = (random(shape, dtype, layout) for layout in layouts)
    capacity = shape[rows]
    codes = torch.ops.advreg.sign(gradient, activation, rows, capacity).view(torch.uint8)
    flat = Flat(codes, shape, rows)
    assert flat.signs().values().equal(gradient.sign().to(torch.int8))
    if len(shape) <= 8 and rows == 0:
        assert flat.signs().order == order_of(activation)
    for later in (activation, activation.contiguous(), random(shape, dtype, LAST)):
        added = unbounded(codes, later, 0.25, rows, capacity)
        assert added.equal(later + 0.25 * gradient.sign())
        assert added.stride() == later.stride()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(("shape", "rows"), [((4, 3, 5, 7), 0), ((6, 5, 3), 1)])
def test_a_smaller_batch_leaves_zeros_in_the_rows_it_lacks(shape, rows):
    capacity, few = shape[rows], shape[rows] - 2
    gradient = torch.randn(shape).narrow(rows, 0, few).contiguous()
    codes = torch.ops.advreg.sign(gradient, gradient, rows, capacity).view(torch.uint8)
    values = Flat(codes, shape, rows).signs().values()
    assert values.narrow(rows, 0, few).equal(gradient.sign().to(torch.int8))
    assert not values.narrow(rows, few, 2).any()
    added = unbounded(codes, torch.zeros_like(gradient), 2.0, rows, capacity)
    assert added.equal(2 * gradient.sign())
    limited = torch.ops.advreg.add(
        torch.zeros_like(gradient), codes, torch.tensor(2.0), rows, capacity, -1.0, 1.5
    )
    assert limited.equal((2 * gradient.sign()).clamp(-1, 1.5))


@pytest.mark.usefixtures("way")
def test_what_is_not_finite_is_counted_and_zero():
    gradient = torch.randn(4, 3, 5, 7)
    gradient[0, 0, 0, 0], gradient[1, 2, 3, 4], gradient[3, 2, 4, 6] = math.nan, math.inf, -math.inf
    flat = Flat(torch.ops.advreg.sign(gradient, gradient, 0, 4).view(torch.uint8), (4, 3, 5, 7), 0)
    assert flat.nonfinite == 3
    assert int((flat.signs().values() == 0).sum()) == 3


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("rows", [0, 1])
def test_rows_that_are_not_outermost_in_memory(rows):
    """Their codes would take another number of bytes in that order."""
    shape = (8, 40, 5)
    gradient = torch.randn(40, 8, 5).transpose(0, 1)
    codes = torch.ops.advreg.sign(gradient, gradient, rows, shape[rows]).view(torch.uint8)
    flat = Flat(codes, shape, rows)
    assert flat.signs().values().equal(gradient.sign().to(torch.int8))
    added = unbounded(codes, torch.zeros_like(gradient), 1.0, rows, shape[rows])
    assert added.equal(gradient.sign())
    signs = Signs.zeros(gradient, rows)
    signs.record(gradient)
    assert Flat.of(signs).signs().values().equal(signs.values())


def test_eager_code_gets_codes_of_its_own():
    flat = Flat.of(Signs.of(torch.ones(4, 5, dtype=torch.int8), 0))
    flat.signs().codes.zero_()
    assert flat.signs().values().eq(1).all()


def test_another_default_device_does_not_matter():
    gradient = torch.randn(4, 5)
    with torch.device("meta"):
        codes = torch.ops.advreg.sign(gradient, gradient, 0, 4).view(torch.uint8)
    assert Flat(codes, (4, 5), 0).signs().values().equal(gradient.sign().to(torch.int8))


@pytest.mark.parametrize("layout", [FIRST, LAST])
def test_signs_in_any_order_become_flat_and_come_back(layout):
    signs = Signs.zeros(torch.empty(4, 3, 5, 7).to(memory_format=layout), 0)
    signs.record(torch.randn(4, 3, 5, 7))
    assert Flat.of(signs).signs().values().equal(signs.values())


def test_shapes_are_told_to_the_compiler_without_running():
    gradient = torch.randn(3, 5, 7)
    codes = torch.ops.advreg.sign(gradient, gradient, 0, 4).view(torch.uint8)
    scale = torch.tensor(0.1, dtype=torch.float64)
    checks = {"test_utils": ("test_schema", "test_faketensor")}
    torch.library.opcheck(torch.ops.advreg.sign, (gradient, gradient, 0, 4), **checks)
    arguments = gradient, codes, scale, 0, 4, -math.inf, math.inf
    torch.library.opcheck(torch.ops.advreg.add, arguments, **checks)
