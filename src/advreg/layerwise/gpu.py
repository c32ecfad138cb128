"""The kernels on a GPU: Triton's, where there is one."""

from __future__ import annotations

import functools
import os
import warnings
from types import ModuleType

import torch
from torch import Tensor

from advreg.errors import SlowKernelsWarning


def kernels_for(tensor: Tensor) -> ModuleType | None:
    """`gpu_kernels`, or None where they cannot do it: another device or type, no Triton."""
    if not tensor.is_cuda or type(tensor) not in (Tensor, torch.nn.Parameter):
        return None
    module = _kernels()
    return module if module is not None and tensor.dtype in module.DTYPES else None


@functools.cache
def _kernels() -> ModuleType | None:
    """Triton's kernels after a first try; without them, which is said once, None.

    `ADVREG_KERNELS=0` in the environment leaves them out without a word.
    """
    if os.environ.get("ADVREG_KERNELS") == "0":
        return None
    try:
        from advreg.layerwise import gpu_kernels

        values = torch.ones(4, 1, device="cuda")
        codes = torch.zeros(1, 4, 1, dtype=torch.uint8, device="cuda")
        gpu_kernels.add(values, codes, (1, 4, 1), 1.0, None)
    except Exception as error:  # Triton has many ways of not working: absent, no C compiler, ...
        reason = " ".join(str(error).split())[:200]
        warnings.warn(
            "The sites' kernels for the GPU do not run, so plain torch operations do their work,"
            f" right but slower; install triton and a C compiler ({reason}).",
            SlowKernelsWarning,
            stacklevel=2,
        )
        return None
    return gpu_kernels
