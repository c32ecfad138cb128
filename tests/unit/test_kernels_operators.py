"""The operators beside the plain definitions, and as a compiler has them."""

import math
import shutil

import pytest
import torch
from torch._inductor.utils import run_and_get_code
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode

from advreg.errors import UnsupportedError
from advreg.layerwise.kernels import (
    add_signs,
    added_signs,
    compiled_order,
    cpu,
    layout,
    order_of,
    pack_and_count,
    pack_signs,
    plain,
    register_decompositions,
    word_of,
    words_for,
)

INF = math.inf
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SHAPES = [  # and the dimension that counts examples
    ((5,), 0),
    ((3, 7), 0),
    ((4, 64, 8, 8), 0),
    ((2, 3, 9, 11), 0),
    ((6, 3, 5), 1),  # not dense with its rows outermost
    ((0, 4), 0),
    ((16, 64, 32, 33), 0),  # several parts, written past the caches
    ((4, 333, 301), 0),  # which begin at odd places
]


@pytest.fixture(autouse=True)
def _kernels():
    if not cpu.library():
        pytest.skip("no C++ compiler here")


def awkward(shape, dtype):
    """Values with zeros of both signs, the smallest numbers and what is not finite."""
    values = torch.randn(shape, dtype=torch.float64).to(dtype)
    limits = torch.finfo(dtype)
    odd = [0.0, -0.0, math.nan, INF, -INF, limits.max, limits.min, limits.smallest_normal / 2]
    for index, value in enumerate(odd[: values.numel()]):
        values.view(-1)[index * max(values.numel() // len(odd), 1)] = value
    return values


def packed(gradient, batch_dim, by_row=False, rows=None):
    """The arguments of `pack_signs` for memories of as many rows or more."""
    shape = list(gradient.shape)
    shape[batch_dim] = rows or shape[batch_dim]
    order, groups = order_of(gradient, batch_dim), shape[batch_dim] if by_row else 1
    return gradient, order, words_for(shape, order, word_of(gradient.device), groups), groups


def same_codes(codes, others):
    return codes.view(torch.uint8).equal(others.view(torch.uint8))


def same(values, others):
    return torch.allclose(values, others, rtol=0, atol=0, equal_nan=True)


CASES = [  # each form in one type, and each type in a form with whole vectors and one without
    *((*shape, by_row, torch.float32) for shape in SHAPES for by_row in (False, True)),
    *((*SHAPES[place], bool(place), dtype) for place in (2, 7) for dtype in DTYPES[1:]),
]


@pytest.mark.parametrize(("shape", "batch_dim", "by_row", "dtype"), CASES)
def test_the_kernels_equal_plain_torch(shape, batch_dim, by_row, dtype):
    gradient, activation = awkward(shape, dtype), awkward(shape, dtype)
    given = packed(gradient, batch_dim, by_row)
    codes, counts = pack_signs(*given)
    expected, expected_counts = plain.pack_signs(*given)
    assert same_codes(codes, expected)
    assert counts.tolist() == expected_counts.tolist()
    signs = torch.where(gradient.isfinite(), gradient.sign(), 0).to(torch.int8)
    assert plain.unpack(codes, shape, given[1], torch.int8).equal(signs)
    for rms in (None, torch.tensor(0.3), torch.tensor(0.3, dtype=torch.float64)):
        for limits in ((-INF, INF), (-0.5, 0.6), (0.0, INF)):
            form = codes, rms, 0.7, given[1], *limits
            perturbed = add_signs(activation, *form)
            assert perturbed.stride() == activation.stride()
            assert same(perturbed, plain.add_signs(activation, *form))
    step = (signs * torch.tensor(0.7, dtype=dtype)).to(dtype)
    assert same(add_signs(activation, codes, None, 0.7, given[1], -INF, INF), activation + step)


@pytest.mark.parametrize("by_row", [False, True])
def test_tensors_that_lie_otherwise_than_the_words(by_row):
    gradient = torch.randn(2, 6, 5, 7)
    _, *form = packed(gradient, 0, by_row)
    for one in (gradient.to(memory_format=torch.channels_last), gradient[:, :1].expand(2, 6, 5, 7)):
        codes, _ = pack_signs(one, *form)
        for activation in (torch.randn(2, 6, 7, 5).mT, torch.randn(2, 6, 5, 14)[..., ::2]):
            perturbed = add_signs(activation, codes, None, 1.0, form[0], -INF, INF)
            assert perturbed.equal(activation + one.sign())
            assert perturbed.stride() == torch.empty_like(activation).stride()
    transposed = codes.t().contiguous().t()  # codes are read as they are, not as they lie
    assert add_signs(one, transposed, None, 1.0, form[0], -INF, INF).equal(one + one.sign())


@pytest.mark.parametrize(
    ("shape", "batch_dim", "by_row", "capacity"),
    [
        ((5, 3, 70), 0, False, 17),
        ((5, 3, 70), 0, True, 33),
        ((6, 5, 70), 1, False, 16),
        ((5,), 0, False, 33),
    ],
)
def test_a_smaller_batch_leaves_zeros_in_the_rows_it_lacks(shape, batch_dim, by_row, capacity):
    gradient, activation = torch.randn(shape), torch.randn(shape)
    given = packed(gradient, batch_dim, by_row, capacity)
    codes, counts = pack_signs(*given)
    assert same_codes(codes, plain.pack_signs(*given)[0])
    assert counts.tolist() == [1, 0, 1]
    whole = list(shape)
    whole[batch_dim] = capacity
    values = plain.unpack(codes, whole, given[1], torch.float32)
    assert values.narrow(batch_dim, 0, 5).equal(gradient.sign())
    assert not values.narrow(batch_dim, 5, capacity - 5).any()
    perturbed = add_signs(activation, codes, None, 0.5, given[1], -INF, INF)
    assert perturbed.equal(activation + 0.5 * gradient.sign())


@pytest.mark.parametrize("way", ["kernels", "plain torch"], indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_scale_beyond_the_type_leaves_zeros_alone(way, dtype):
    """Zero times infinity is NaN: a zero memory must not turn values to that."""
    activation = torch.tensor([[1.0, 2.0, -1.0]], dtype=dtype)
    gradient = torch.tensor([[0.0, 1.0, -1.0]])
    _, *form = packed(gradient, 0)
    codes, _ = pack_signs(gradient, *form)
    large = torch.tensor(3e38)
    for rms, epsilon in ((large, 1.0), (large, 5.0), (None, 3e38), (None, INF)):
        perturbed = add_signs(activation, codes, rms, epsilon, form[0], -INF, INF)
        assert perturbed[0, 0] == 1
        assert perturbed[0, 1] > 1e38 or dtype == torch.float16
        assert perturbed[0, 1] >= torch.finfo(torch.float16).max
        assert perturbed[0, 2] == -perturbed[0, 1]


@pytest.mark.parametrize("way", ["kernels", "plain torch"], indirect=True)
def test_answers_values_that_are_not_finite_and_gradients_of_zeros_are_counted(way):
    gradient = torch.zeros(3, 5000)
    for value, counts in ((-0.0, [1, 0, 0]), (INF, [1, 1, 1]), (-1e-30, [1, 0, 1])):
        gradient[2, 4000] = value
        for by_row in (False, True):
            assert pack_signs(*packed(gradient, 0, by_row))[1].tolist() == counts


def test_several_threads_share_the_work():
    gradient = awkward((16, 64, 32, 33), torch.float32)
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            codes, counts = pack_signs(*packed(gradient, 0))
            perturbed = add_signs(gradient, codes, None, 0.1, order_of(gradient, 0), -INF, INF)
            found.append((codes.view(torch.uint8), counts, perturbed.nan_to_num()))
    finally:
        torch.set_num_threads(1)
    assert all(map(torch.equal, *found))


def test_another_default_device_does_not_matter():
    gradient = torch.randn(4, 5)
    with torch.device("meta"):
        codes, _ = pack_signs(*packed(gradient, 0))
        perturbed = add_signs(gradient, codes, None, 1.0, (0, 1), -INF, INF)
    assert perturbed.equal(gradient + gradient.sign())


@pytest.mark.parametrize(
    ("shape", "batch_dim", "by_row", "words"),
    [
        ((4, 3, 5, 7), 0, True, "float32"),
        ((4, 3, 5, 7), 0, False, "uint8"),
        ((6, 3, 5), 1, False, "float32"),
    ],
)
def test_what_torch_asks_of_operators(shape, batch_dim, by_row, words, monkeypatch):
    if words == "uint8":
        monkeypatch.setattr(layout, "PACKS_BY_OPERATOR", ())
    gradient = torch.randn(shape)
    if len(shape) == 4:
        gradient = gradient.to(memory_format=torch.channels_last)
    given = packed(gradient, batch_dim, by_row)
    codes, _ = pack_signs(*given)
    opcheck(pack_signs, given)
    opcheck(pack_signs, (gradient.clone().requires_grad_(), *given[1:]))
    rms, order = torch.tensor(0.3), given[1]
    opcheck(add_signs, (gradient, codes, rms, 0.1, order, -0.5, 0.5))
    opcheck(add_signs, (gradient.clone().requires_grad_(), codes, None, 0.1, order, -INF, INF))


def test_the_gradient_is_handed_on():
    activation = torch.randn(4, 5, requires_grad=True)
    codes, _ = pack_signs(*packed(activation.detach(), 0))
    gradient = torch.randn(4, 5)
    add_signs(activation, codes, None, 0.1, (0, 1), -INF, INF).backward(gradient)
    assert activation.grad.equal(gradient)
    with pytest.raises(UnsupportedError, match="no gradient under limits"):
        add_signs(activation, codes, None, 0.1, (0, 1), 0.0, 1.0)
    with torch.no_grad():
        assert add_signs(activation, codes, None, 0.1, (0, 1), 0.0, 1.0).max() <= 1


needs_a_compiler = pytest.mark.skipif(
    shutil.which("c++") is None, reason="the compiler's CPU code needs c++"
)


@needs_a_compiler
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("channels", [pytest.param(16, marks=pytest.mark.full), 24])
def test_the_perturbation_is_added_in_the_loop_of_the_layer(channels):
    """Also where something has been compiled before the decomposition was registered."""
    torch.compile(torch.sin)(torch.ones(2))
    register_decompositions()
    scale = torch.rand(channels, 1, 1)
    inputs = torch.randn(32, channels, 4, 4).to(memory_format=torch.channels_last)
    order = compiled_order(4, 0)
    codes, _ = pack_signs(*packed(torch.randn_like(inputs), 0))

    def layer(inputs, codes, rms):
        output = (inputs * scale).relu()
        return output, add_signs(output, codes, rms, 0.1, order, -INF, INF)

    given = inputs, codes, torch.tensor(0.5, dtype=torch.float64)
    results, (code,) = run_and_get_code(torch.compile(layer, fullgraph=True), *given)
    assert all(map(torch.allclose, results, layer(*given)))
    assert code.count("for(int64_t x0=") == 1
    assert "add_signs" not in code.split("async_compile.cpp", 1)[1].split("'''", 2)[1]


def test_eager_code_passes_the_dispatcher_only_where_something_looks():
    class Seen(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.names = set()

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.names.add(function.name())
            return function(*args, **(kwargs or {}))

    gradient = torch.tensor([[1.0, torch.nan], [-2.0, 0.0]])
    given = packed(gradient, 0)
    codes, bad = pack_and_count(gradient, *given[1:], 3)
    assert bad == 4
    with torch.no_grad(), Seen() as seen:
        again, _ = pack_and_count(gradient, *given[1:], 0)
        added_signs(gradient, codes, None, 0.5, given[1], -INF, INF)
    assert same_codes(again, codes)
    assert {"advreg::add_signs", "advreg::pack_signs"} <= seen.names
