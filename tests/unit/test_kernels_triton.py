"""The kernels for a GPU: on one, or in Triton's interpreter."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from advreg.errors import SlowKernelsWarning
from advreg.layerwise.kernels import cuda

TWIN = Path(__file__).with_name("triton_twin.py")


@pytest.mark.full
@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="needs triton; its interpreter will do"
)
def test_triton_equals_plain_torch():
    """In a process of its own: the interpreter must be chosen before triton is imported."""
    interprets = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, str(TWIN)],
        env=os.environ | interprets,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.endswith("checked 8\n"), done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="what is said where no GPU runs")
def test_without_triton_it_is_said(monkeypatch):
    monkeypatch.delenv("ADVREG_KERNELS", raising=False)
    cuda._kernels.cache_clear()
    try:
        with pytest.warns(SlowKernelsWarning, match="install triton and a C compiler"):
            assert cuda._kernels() is None
    finally:
        cuda._kernels.cache_clear()
