"""Packed signs: the format, and the kernels beside their plain twins."""

import pytest
import torch
from advreg.layerwise.packing import pack, unpack
from advreg.layerwise.signs import Signs, order_of

SIZES = [0, 1, 3, 4, 5, 255, 256, 257, 260, 1027]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SHAPES = [
    ((5,), 0),
    ((3, 7), 0),
    ((2, 3, 9, 11), 0),
    ((4, 64, 8, 8), 0),
    ((6, 3, 5), 1),
    ((3, 4, 300), 1),
    ((0, 4), 0),
    ((4, 64, 40, 40), 0),  # large enough to be written past the caches
    ((4, 333, 301), 0),  # and too odd for that
]


def awkward(shape, dtype):
    """Gradients with zeros of both signs, the smallest numbers and what is not finite."""
    gradient = torch.randn(shape, dtype=torch.float64).to(dtype)
    flat = gradient.view(-1)
    odd = [0.0, -0.0, float("nan"), float("inf"), -float("inf"), torch.finfo(dtype).max]
    odd += [-torch.finfo(dtype).max, torch.finfo(dtype).smallest_normal / 2]
    for place, value in enumerate(odd[: flat.numel()]):
        flat[place * max(flat.numel() // len(odd), 1)] = value
    return gradient


def expected_signs(gradient):
    return torch.where(gradient.isfinite(), gradient, 0).double().sign().to(torch.int8)


@pytest.mark.parametrize("size", SIZES)
def test_packing_is_undone_by_unpacking(size):
    signs = torch.randint(-1, 2, (3, size), dtype=torch.int8)
    codes, bad = pack(signs.float())
    assert bad == 0
    assert codes.shape == (3, -(-size // 4))
    assert unpack(codes, size).equal(signs)


def test_the_format_by_hand():
    """Two bits a value, 3 for -1; four runs of a block lie in the bytes' bits from the lowest."""
    signs = torch.tensor([[1.0, 0, -2, -1, 0, 9]])  # runs (1, 0) (-1, -1) (0, 1)
    assert pack(signs)[0].tolist() == [[0b00_00_11_01, 0b00_01_11_00]]
    whole = torch.zeros(1, 260)
    whole[0, 0], whole[0, 64], whole[0, 129], whole[0, 258] = 1, -1, 1, 1
    codes = pack(whole)[0][0]
    assert codes.shape == (65,)
    assert codes[0] == 0b1101
    assert codes[1] == 0b10000
    assert codes[64] == 0b10000


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "rows"), SHAPES)
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels last"])
def test_recording_and_adding(way, shape, rows, dtype, last):
    gradient, activation = awkward(shape, dtype), torch.randn(shape).to(dtype)
    if last and len(shape) == 4:
        gradient = gradient.to(memory_format=torch.channels_last)
        activation = activation.to(memory_format=torch.channels_last)
    signs = Signs.zeros(gradient, rows)
    assert int(signs.record(gradient)) == int((~gradient.isfinite()).sum())
    values = expected_signs(gradient)
    assert signs.values().equal(values)
    assert Signs.of(values, rows, signs.order).codes.equal(signs.codes)
    for scale in (0.1, torch.tensor(0.1)):
        added = signs.add_to(activation, scale, (-0.5, 0.6))
        sums = activation + (values.to(dtype) * scale).to(dtype)
        assert added.equal(sums.clamp(-0.5, 0.6))
        assert added.stride() == activation.stride()
        assert signs.add_to(activation, scale).equal(sums)


@pytest.mark.parametrize("rows", [0, 1])
def test_fewer_rows_than_the_activation_has(way, rows):
    shape = [4, 5, 300]
    gradient = torch.randn(shape)
    signs = Signs.zeros(gradient, rows)
    signs.record(gradient)
    few = signs.narrow(rows, 0, 2)
    added = few.add_to(torch.ones(shape), 0.5)
    assert added.narrow(rows, 0, 2).equal(1 + 0.5 * gradient.sign().narrow(rows, 0, 2))
    assert added.narrow(rows, 2, shape[rows] - 2).eq(1).all()
    few.record(-gradient.narrow(rows, 0, 2))
    assert signs.values().narrow(rows, 0, 2).equal(-gradient.sign().narrow(rows, 0, 2).char())
    assert signs.values().narrow(rows, 2, 2).equal(gradient.sign().narrow(rows, 2, 2).char())


def test_other_layouts_are_right(way):
    """A gradient or an activation may lie otherwise than the memory, or not side by side."""
    gradient = torch.randn(2, 6, 5, 7)
    signs = Signs.zeros(gradient, 0)
    for one in (gradient.to(memory_format=torch.channels_last), gradient[:, :1].expand(2, 6, 5, 7)):
        signs.record(one)
        for activation in (torch.randn(2, 6, 7, 5).mT, torch.randn(2, 6, 5, 14)[..., ::2]):
            assert signs.add_to(activation, 1.0).equal(activation + one.sign())


def test_order_is_from_outermost_to_innermost():
    assert order_of(torch.empty(2, 3, 4, 5)) == (0, 1, 2, 3)
    assert order_of(torch.empty(2, 3, 4, 5).to(memory_format=torch.channels_last)) == (0, 2, 3, 1)
    assert order_of(torch.empty(3, 2).t()) == (1, 0)
    assert order_of(torch.empty(2, 6)[:, ::2]) == (0, 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_several_threads_share_the_work(way, dtype):
    shape = (16, 64, 32, 33)
    gradient, activation = awkward(shape, dtype), torch.randn(shape).to(dtype)
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            signs = Signs.zeros(gradient, 0)
            bad = int(signs.record(gradient))
            found.append((signs.codes, bad, signs.add_to(activation, 0.1)))
    finally:
        torch.set_num_threads(1)
    assert found[0][1] == found[1][1] > 0
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][2], found[1][2])


def test_a_gradient_of_another_shape_is_not_written_anywhere():
    signs = Signs.zeros(torch.empty(2, 4, 4), 0)
    with pytest.raises(ValueError, match="shape"):
        signs.record(torch.randn(2, 512, 512))


def test_nan_stays_under_a_clamp(way):
    activation = torch.tensor([[float("nan"), 2.0]])
    added = Signs.zeros(activation, 0).add_to(activation, 1.0, (0.0, 1.0))
    assert added.isnan().tolist() == [[True, False]]
    assert added[0, 1] == 1
