"""Each private name of torch that the package uses, on the torch that is installed."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from advreg import _torch_compat as compat

HERE = f"torch {torch.__version__} has changed a private name that advreg uses"


def test_the_backward_pass_in_progress():
    seen = [compat.graph_task_id()]
    leaf = torch.ones(2, requires_grad=True)
    leaf.clone().register_hook(lambda gradient: None)
    value = leaf * 2
    value.register_hook(lambda gradient: seen.append(compat.graph_task_id()))
    value.sum().backward()
    assert seen[0] == -1, HERE
    assert seen[1] != -1, HERE


def test_a_checkpoint_s_region_is_the_same_when_it_is_computed_again():
    assert compat.checkpoint_region() is None
    seen = []

    def part(values):
        assert compat.saved_tensors_hooks(False), HERE
        seen.append(compat.checkpoint_region())
        return values.sin()

    checkpoint(part, torch.ones(2, requires_grad=True), use_reentrant=False).sum().backward()
    assert len(seen) == 2, HERE
    assert seen[0] is seen[1] is not None, HERE


def test_transforms_and_tracers_are_seen():
    seen = {}

    def look(name):
        def function(values):
            seen[name] = (
                compat.functorch_level() is not None,
                compat.traced_by_mode(),
                compat.forward_ad._current_level >= 0,
            )
            return values.sin()

        return function

    values = torch.ones(2)
    look("plain")(values)
    torch.func.vmap(look("vmap"))(values)
    torch.fx.experimental.proxy_tensor.make_fx(look("make_fx"))(values)
    with torch.autograd.forward_ad.dual_level():
        look("forward mode")(values)
    assert seen == {
        "plain": (False, False, False),
        "vmap": (True, False, False),
        "make_fx": (False, True, False),
        "forward mode": (False, False, True),
    }, HERE


def test_views_versions_and_storages():
    values = torch.ones(4)
    view = values[:2]
    assert compat.base_of(values) is None, HERE
    assert compat.base_of(view) is values, HERE
    before = compat.version(values)
    values.add_(1)
    assert compat.version(values) == compat.version_of(values) == before + 1, HERE
    with torch.inference_mode():
        assert compat.version(torch.ones(2)) == -1, HERE
    one = torch.ones(4)
    storage = one.untyped_storage()
    alone = compat.storage_users(storage)
    other = torch.empty(0).set_(storage, 0, (4,), (1,))
    assert compat.storage_users(storage) == alone + 1, HERE
    del other


def test_operators_below_autograd_record_nothing():
    leaf = torch.ones(2, requires_grad=True)
    with compat.below_autograd():
        assert not (leaf * 2).requires_grad, HERE


def test_calls_of_a_module_in_progress():
    seen = []

    class Twice(nn.Module):
        def forward(self, depth):
            seen.append(compat.calls_in_progress(self))
            return self(depth - 1) if depth else depth

    Twice()(2)
    assert seen == [1, 2, 3], HERE


@pytest.mark.full
def test_the_compiler():
    """In a process of its own, since another test may have loaded the compiler."""
    code = """
import torch
from advreg import _torch_compat as compat
assert not compat.compiler_is_loaded()
assert compat.compiler_callback() is None
assert compat.guard_module_hooks(True) is False
assert compat.guard_module_hooks(False) is True
assert compat.compiler_is_loaded()
model = torch.nn.Linear(2, 2)
assert compat.compiled_from(torch.compile(model)) is model
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, f"{HERE}: {done.stderr}"


def test_an_assertion_that_a_device_does_not_wait_for():
    compat.assert_async(torch.ones(()) == 1, "never")
    with pytest.raises(RuntimeError, match="said"):
        compat.assert_async(torch.ones(()) == 2, "said")
