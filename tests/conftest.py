"""Shared by all tests."""

import os
from importlib import import_module
from pathlib import Path

import pytest
import torch

from advreg.layerwise.kernels import cpu, layout


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """One more than cores, for tests that start processes wait for them a fifth of the time."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items):
    """The slow tier first: several workers would else wait for the one that has it last."""
    items.sort(key=lambda item: item.get_closest_marker("full") is None)


@pytest.fixture(autouse=True)
def _reproducible():
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture
def script(monkeypatch):
    """Imports a script of benchmarks/ as it would import its neighbours."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    return import_module


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The folder of a tiny training that is finished; a test that writes to it takes a copy."""
    out = tmp_path_factory.mktemp("runs") / "run"
    torch.set_num_threads(1)
    assert import_module("test_cli").train(out) == 0
    return out


@pytest.fixture
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture(params=["kernels", "plain torch"])
def way(request, monkeypatch):
    """The compiled kernels, and what takes their place where there is no compiler."""
    if request.param == "kernels" and not cpu.library():
        pytest.skip("no C++ compiler here")
    if request.param == "plain torch":
        monkeypatch.setattr(cpu, "library", dict)


@pytest.fixture(params=["operator", "fused"])
def form(request, monkeypatch):
    """Compiled signs in the CPU's form, by an operator of ours, and the GPU's, by the compiler."""
    if request.param == "fused":
        monkeypatch.setattr(layout, "PACKS_BY_OPERATOR", ())
    return request.param
