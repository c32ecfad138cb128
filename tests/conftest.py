"""Shared by all tests."""

import pytest
import torch

from advreg.layerwise import kernels


@pytest.fixture(autouse=True)
def _reproducible():
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture(params=["kernels", "plain torch"])
def way(request, monkeypatch):
    """The compiled kernels, and what takes their place where there is no compiler."""
    if request.param == "kernels" and not kernels.library():
        pytest.skip("no C++ compiler here")
    if request.param == "plain torch":
        monkeypatch.setattr(kernels, "library", dict)
