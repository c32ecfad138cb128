"""The Triton kernels beside plain torch: on a GPU, or on the CPU in Triton's interpreter."""

import importlib.util

import pytest
import torch

from advreg.errors import SlowKernelsWarning
from advreg.layerwise import gpu, kernels
from advreg.layerwise.signs import Signs

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = [  # and the dimension that counts examples
    ((4, 3, 5, 7), 0),
    ((2, 64, 16, 16), 0),
    ((2, 4099), 0),
    ((6, 3, 5), 1),
    ((3, 4, 300), 1),
]
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="needs triton; its interpreter will do"
)


@pytest.fixture
def on_gpu(monkeypatch):
    """Sends what Signs do to the Triton kernels."""
    if DEVICE == "cpu":
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    from advreg.layerwise import gpu_kernels

    def switch(on):
        monkeypatch.setattr(gpu, "kernels_for", lambda tensor: gpu_kernels if on else None)

    monkeypatch.setattr(kernels, "library", dict)  # the twin is plain torch
    return switch


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("shape", "rows"), SHAPES)
def test_triton_equals_plain_torch(on_gpu, shape, rows, dtype):
    torch.manual_seed(0)
    gradient = torch.randn(shape, dtype=torch.float64).to(dtype)
    gradient.view(-1)[::7], gradient.view(-1)[3], gradient.view(-1)[5] = 0, torch.nan, torch.inf
    gradient = gradient.to(DEVICE)
    activation = torch.randn(shape).to(DEVICE, dtype)
    scales = (0.3, torch.tensor(0.3, device=DEVICE))
    ends = []
    for on in (False, True):
        on_gpu(on)
        signs = Signs.zeros(gradient, rows)
        counted = signs.record(gradient, signs.record(gradient))
        few = signs.narrow(rows, 0, shape[rows] - 1)
        sums = [
            few.add_to(activation, scale, limits)
            for scale in scales
            for limits in (None, (-0.5, 0.5))
        ]
        ends.append((signs.codes, int(counted), sums))
    assert torch.equal(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1] == 4
    # The interpreter cuts bfloat16 off where torch and a GPU round; a unit in the last place.
    tolerance = 2**-7 if dtype == torch.bfloat16 and DEVICE == "cpu" else 0
    for one, other in zip(ends[0][2], ends[1][2], strict=True):
        assert torch.allclose(one.float(), other.float(), rtol=tolerance, atol=tolerance)


@pytest.mark.skipif(DEVICE == "cuda", reason="what is said on a machine whose GPU does not run")
def test_without_triton_it_is_said(monkeypatch):
    monkeypatch.delenv("ADVREG_KERNELS", raising=False)
    gpu._kernels.cache_clear()
    try:
        with pytest.warns(SlowKernelsWarning, match="install triton and a C compiler"):
            assert gpu._kernels() is None
    finally:
        gpu._kernels.cache_clear()
