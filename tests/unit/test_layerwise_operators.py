"""The sites' operator in compiled graphs beside the signs it stands for."""

import math

import pytest
import torch
from advreg.layerwise.operators import sign
from advreg.layerwise.planes import Planes, pack_rows, unpack_rows

from advreg.layerwise import planes

LAST, FIRST = torch.channels_last, torch.contiguous_format
SHAPES = [
    ((4, 3, 5, 7), 0),
    ((32, 64, 6, 6), 0),
    ((37, 90), 0),
    ((37,), 0),
    ((6, 3, 5), 1),
    ((3, 40, 50), 1),
    ((2,) * 9, 0),
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def random(shape, dtype=torch.float32, layout=FIRST):
    value = torch.randn(shape).to(dtype)
    return value.to(memory_format=layout) if len(shape) == 4 else value


def signs_of(gradient):
    return torch.where(gradient.isfinite(), gradient.sign(), 0).to(torch.int8)


def same(codes, others):
    return codes.view(torch.uint8).equal(others.view(torch.uint8))


def packed(gradient, rows, capacity=None):
    return sign(gradient, rows, capacity or gradient.shape[rows])


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [FIRST, LAST])
@pytest.mark.parametrize(("shape", "rows"), SHAPES)
def test_it_packs_as_plain_torch_does(shape, rows, layout, dtype):
    gradient = random(shape, dtype, layout)
    codes, counts = packed(gradient, rows)
    expected, expected_counts = pack_rows(gradient, rows, shape[rows])
    assert same(codes, expected)
    unit = shape[1] if len(shape) == 4 else shape[-1]
    if rows + 1 < len(shape):
        assert codes.numel() == unit * (math.ceil(gradient.numel() / unit / 16) + 1)
    assert counts.tolist() == expected_counts.tolist() == [1, 0, 1]
    assert unpack_rows(codes, shape, rows).equal(signs_of(gradient))


@pytest.mark.parametrize("word", [torch.float32, torch.uint8])
@pytest.mark.parametrize("dtype", DTYPES)
def test_words_of_each_size_hold_extreme_values(dtype, word, monkeypatch):
    monkeypatch.setattr(planes, "word_of", lambda device: word)
    limits = torch.finfo(dtype)
    extreme = [limits.max, limits.tiny, limits.smallest_normal / 4, 0.0, math.inf, math.nan]
    gradient = torch.tensor(extreme, dtype=dtype).repeat(3, 5)
    gradient[1] *= -1
    codes, counts = pack_rows(gradient, 0, 20)
    assert codes.dtype == word
    assert counts.tolist() == [1, 30, 1]
    assert unpack_rows(codes, (3, 30), 0).equal(signs_of(gradient))
    assert planes.carrier(codes).float().isfinite().all()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("capacity", [16, 17, 32, 33])
@pytest.mark.parametrize(("shape", "rows"), [((16, 3, 5, 70), 0), ((6, 16, 70), 1), ((16,), 0)])
def test_a_smaller_batch_leaves_zeros_in_the_rows_it_lacks(shape, rows, capacity):
    gradient = random(shape).narrow(rows, 0, 5).contiguous()
    codes, _ = packed(gradient, rows, capacity)
    assert same(codes, pack_rows(gradient, rows, capacity)[0])
    whole = [capacity if dim == rows else size for dim, size in enumerate(shape)]
    values = unpack_rows(codes, whole, rows)
    assert values.narrow(rows, 0, 5).equal(signs_of(gradient))
    assert not values.narrow(rows, 5, capacity - 5).any()
    assert unpack_rows(codes, gradient.shape, rows).equal(signs_of(gradient))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("width", [7, 64, 80, 1000])
def test_what_is_not_finite_is_counted_and_zero(width):
    gradient = torch.randn(40, width)
    gradient[0, 0], gradient[1, 2], gradient[39, 6] = math.nan, math.inf, -math.inf
    codes, counts = packed(gradient, 0)
    assert counts.tolist() == [1, 3, 1]
    assert unpack_rows(codes, gradient.shape, 0).equal(signs_of(gradient))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(("value", "reached"), [(0.0, 0), (-0.0, 0), (math.nan, 1), (-1e-30, 1)])
def test_whether_any_value_is_not_zero(value, reached):
    gradient = torch.zeros(3, 5000)
    gradient[2, 4000] = value
    assert packed(gradient, 0)[1].tolist() == [1, int(math.isnan(value)), reached]
    assert pack_rows(gradient, 0, 3)[1].tolist() == [1, int(math.isnan(value)), reached]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("rows", [0, 1])
def test_rows_that_are_not_outermost_in_memory(rows):
    gradient = torch.randn(40, 8, 5).transpose(0, 1)
    codes, _ = packed(gradient, rows)
    signs = Planes(codes, gradient.shape, rows).signs()
    assert signs.values().equal(signs_of(gradient))
    assert same(Planes.of(signs).codes, codes)


@pytest.mark.usefixtures("way")
def test_another_default_device_does_not_matter():
    gradient = torch.randn(4, 5)
    with torch.device("meta"):
        codes, _ = packed(gradient, 0)
    assert unpack_rows(codes, gradient.shape, 0).equal(signs_of(gradient))


@pytest.mark.parametrize("shape", [(3, 5, 7), (3, 2, 5, 7)])
def test_shapes_are_told_to_the_compiler_without_running(shape):
    checks = {"test_utils": ("test_schema", "test_faketensor")}
    torch.library.opcheck(sign, (torch.randn(shape), 0, 4), **checks)
