"""The Triton kernels beside plain torch operations; run by `test_layerwise_triton`."""

import torch
from advreg.layerwise.signs import Signs

from advreg.layerwise import gpu, gpu_kernels, kernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = [  # and the dimension that counts examples
    ((4, 3, 5, 7), 0),
    ((2, 64, 16, 16), 0),
    ((2, 4099), 0),
    ((6, 3, 5), 1),
    ((3, 4, 300), 1),
]


def worked(gradient, activation, rows):
    """Codes, counts and sums of whichever kernels there are."""
    signs = Signs.zeros(gradient, rows)
    counted = signs.record(gradient, signs.record(gradient))
    few = signs.narrow(rows, 0, gradient.shape[rows] - 1)
    sums = [
        few.add_to(activation, scale, limits)
        for scale in (0.3, torch.tensor(0.3, device=DEVICE))
        for limits in (None, (-0.5, 0.5))
    ]
    return signs.codes, int(counted), torch.stack(sums).float()


def check(shape, rows, dtype):
    gradient = torch.randn(shape, dtype=torch.float64).to(dtype)
    gradient.view(-1)[::7], gradient.view(-1)[3], gradient.view(-1)[5] = 0, torch.nan, torch.inf
    data = gradient.to(DEVICE), torch.randn(shape).to(DEVICE, dtype), rows
    gpu.kernels_for = lambda tensor: None
    expected = worked(*data)
    gpu.kernels_for = lambda tensor: gpu_kernels
    seen = worked(*data)
    assert torch.equal(seen[0], expected[0])
    assert seen[1] == expected[1] == 4
    # The interpreter cuts bfloat16 off where torch and a GPU round; units in the last place.
    tolerance = 2**-6 if dtype == torch.bfloat16 and DEVICE == "cpu" else 0
    assert torch.allclose(seen[2], expected[2], rtol=tolerance, atol=tolerance)
    assert not torch.equal(seen[2][0], data[1].float())


if __name__ == "__main__":
    torch.manual_seed(0)
    kernels.library = dict  # the twin is plain torch
    for shape, rows in SHAPES:
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            check(shape, rows, dtype)
    print("checked", 3 * len(SHAPES))
