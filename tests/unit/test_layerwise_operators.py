"""The sites' operator in compiled graphs beside the signs it stands for."""

import math

import pytest
import torch

from advreg.layerwise.operators import sign
from advreg.layerwise.planes import Planes, pack_rows, unpack_rows

LAST, FIRST = torch.channels_last, torch.contiguous_format
SHAPES = [((4, 3, 5, 7), 0), ((8, 64, 6, 6), 0), ((5, 90), 0), ((6, 3, 5), 1), ((2,) * 9, 0)]


def random(shape, dtype=torch.float32, layout=FIRST):
    value = torch.randn(shape).to(dtype)
    return value.to(memory_format=layout) if len(shape) == 4 else value


def packed(gradient, rows, capacity=None):
    codes, counts = sign(gradient, rows, capacity or gradient.shape[rows])
    return codes.view(torch.uint8), counts


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("layout", [FIRST, LAST])
@pytest.mark.parametrize(("shape", "rows"), SHAPES)
def test_it_packs_as_plain_torch_does(shape, rows, layout, dtype):
    gradient = random(shape, dtype, layout)
    codes, counts = packed(gradient, rows)
    expected, _ = pack_rows(gradient, rows, shape[rows])
    assert codes.equal(expected)
    assert counts.tolist() == [1, 0]
    assert unpack_rows(codes, rows, shape[rows]).equal(gradient.sign().to(torch.int8))
    assert len(shape) != 4 or codes.is_contiguous(memory_format=LAST)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("capacity", [8, 9, 12, 13])
@pytest.mark.parametrize(("shape", "rows"), [((8, 3, 5, 70), 0), ((6, 8, 70), 1)])
def test_a_smaller_batch_leaves_zeros_in_the_rows_it_lacks(shape, rows, capacity):
    gradient = random(shape).narrow(rows, 0, 5).contiguous()
    codes, _ = packed(gradient, rows, capacity)
    assert codes.equal(pack_rows(gradient, rows, capacity)[0])
    values = unpack_rows(codes, rows, capacity)
    assert values.narrow(rows, 0, 5).equal(gradient.sign().to(torch.int8))
    assert not values.narrow(rows, 5, capacity - 5).any()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("width", [7, 64, 80])
def test_what_is_not_finite_is_counted_and_zero(width):
    gradient = torch.randn(4, width)
    gradient[0, 0], gradient[1, 2], gradient[3, 6] = math.nan, math.inf, -math.inf
    codes, counts = packed(gradient, 0)
    assert counts.tolist() == [1, 3]
    assert int((unpack_rows(codes, 0, 4) == 0).sum()) == 3


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("rows", [0, 1])
def test_rows_that_are_not_outermost_in_memory(rows):
    gradient = torch.randn(40, 8, 5).transpose(0, 1)
    codes, _ = packed(gradient, rows)
    signs = Planes(codes, gradient.shape, rows).signs()
    assert signs.values().equal(gradient.sign().to(torch.int8))
    assert Planes.of(signs).codes.equal(codes)


@pytest.mark.usefixtures("way")
def test_another_default_device_does_not_matter():
    gradient = torch.randn(4, 5)
    with torch.device("meta"):
        codes, _ = packed(gradient, 0)
    assert unpack_rows(codes, 0, 4).equal(gradient.sign().to(torch.int8))


@pytest.mark.parametrize("shape", [(3, 5, 7), (3, 2, 5, 7)])
def test_shapes_are_told_to_the_compiler_without_running(shape):
    checks = {"test_utils": ("test_schema", "test_faketensor")}
    torch.library.opcheck(sign, (torch.randn(shape), 0, 4), **checks)
