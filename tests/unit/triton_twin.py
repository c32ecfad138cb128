"""The Triton kernels beside plain torch operations; run by `test_kernels_triton`."""

import math

import torch

from advreg.layerwise.kernels import cuda, layout, order_of, plain, triton_kernels, words_for

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = [  # and the dimension that counts examples
    ((4, 3, 5, 7), 0),
    ((2, 4099), 0),  # several blocks
    ((6, 3, 5), 1),
]
FORMS = [  # and the type, and whether each row has words of its own
    *((*shape, torch.float32, by_row) for shape in SHAPES for by_row in (False, True)),
    (*SHAPES[0], torch.bfloat16, False),
    (*SHAPES[0], torch.float16, True),
]
FREE, LIMITS = (-math.inf, math.inf), (-0.5, 0.5)


def close(seen, expected):
    """To the bit, but that the interpreter cuts bfloat16 off where torch and a GPU round."""
    cut = 2**-6 if seen.dtype == torch.bfloat16 and DEVICE == "cpu" else 0
    return torch.allclose(seen, expected, rtol=cut, atol=cut, equal_nan=True)


def check(shape, batch_dim, dtype, by_row):
    values = torch.randn(shape, dtype=torch.float64)
    values.view(-1)[::7], values.view(-1)[3], values.view(-1)[5] = 0, torch.nan, torch.inf
    gradient, activation = (one.to(DEVICE, dtype) for one in (values, torch.randn(shape)))
    order = order_of(gradient, batch_dim)
    groups = shape[batch_dim] if by_row else 1
    words = words_for(shape, order, torch.uint8, groups)
    few = gradient.narrow(batch_dim, 0, shape[batch_dim] - 1)  # not dense if it is not outermost
    for one in (gradient, few):
        codes, counts = cuda.pack_signs(one, order, words, groups)
        expected, expected_counts = plain.pack_signs(one, order, words, groups)
        assert torch.equal(codes, expected)
        assert counts.tolist() == expected_counts.tolist() == [1, 2, 1]
        for count in (0, torch.tensor(0, device=DEVICE)):
            for total in (2, 4):
                again, count = cuda.pack_and_count(one, order, words, groups, count)
                assert torch.equal(again, codes)
                assert count.dtype == torch.int64
                assert count.item() == total
    none = cuda.pack_signs(torch.zeros_like(gradient), order, words, groups)
    assert none[1].tolist() == [1, 0, 0]
    for rms in (None, torch.tensor(0.3), torch.tensor(3e38)):
        for limits in (FREE, LIMITS):
            given = codes, None if rms is None else rms.to(DEVICE), 0.7, order, *limits
            seen, expected = (way.add_signs(activation, *given) for way in (cuda, plain))
            assert seen.stride() == activation.stride()
            assert close(seen, expected)
            assert not torch.equal(seen, activation)


if __name__ == "__main__":
    torch.manual_seed(0)
    layout.PACKS_BY_OPERATOR = ()  # a GPU's words, in the interpreter too
    cuda._kernels = lambda: triton_kernels
    for form in FORMS:
        check(*form)
    print("checked", len(FORMS))
