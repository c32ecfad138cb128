"""Seeing from outside what an adversary does to a network: by hooks before and after its own."""

from contextlib import ExitStack, contextmanager

import torch
from torch import nn


class Probe:
    """The tensors that one site was about to pass on, and those that it did pass on.

    Attributes:
        raw: Before the adversary, detached copies, one a call.
        perturbed: After it, one a call; they keep their gradients.
    """

    def __init__(self):
        self.raw, self.perturbed, self._values = [], [], []

    def deltas(self):
        """What the adversary added in each call since the last `clear`."""
        return [after - before for before, after in zip(self.raw, self._values, strict=True)]

    def gradients(self):
        """The gradient at each perturbed tensor."""
        return [tensor.grad for tensor in self.perturbed]

    def clear(self):
        self.raw, self.perturbed, self._values = [], [], []

    def before(self, tensor):
        self.raw.append(tensor.detach().clone())

    def after(self, tensor):
        if tensor.requires_grad:
            tensor.retain_grad()
        self.perturbed.append(tensor)
        self._values.append(tensor.detach().clone())


@contextmanager
def probing(model, adversary, *sites):
    """Attaches, and yields the probe of the one site or the probes of several."""
    probes = [Probe() for _ in sites]
    with ExitStack() as stack:
        for site, probe in zip(sites, probes, strict=True):
            _watch(stack, model, site, probe.before)
        stack.enter_context(adversary.attach(model))
        for site, probe in zip(sites, probes, strict=True):
            _watch(stack, model, site, probe.after)
        yield probes[0] if len(probes) == 1 else probes


def _watch(stack, model, site, note):
    def look(value):
        # A recomputed forward pass repeats one that was seen already.
        if torch._C._current_graph_task_id() == -1:
            note(value)

    if site == "input":
        handle = model.register_forward_pre_hook(lambda _, args: look(args[0]))
    else:
        handle = model.get_submodule(site).register_forward_hook(lambda _, args, out: look(out))
    stack.callback(handle.remove)


class Functional(nn.Module):
    """A network with one module, called as often as asked, and an optional way to call it."""

    def __init__(self, calls=3, call=lambda module, value: module(value), width=5):
        super().__init__()
        self.stem = nn.Linear(4, width)
        self.shared = nn.Sequential(nn.Linear(width, width), nn.Tanh())
        self.head = nn.Linear(width, 3)
        self.calls, self.call = calls, call

    def forward(self, inputs):
        value = self.stem(inputs)
        for _ in range(self.calls):
            value = self.call(self.shared, value)
        return self.head(value)


class Body(nn.Module):
    """A layer whose output travels in another object, which it keeps."""

    def __init__(self, wrap):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.wrap, self.last = wrap, None

    def forward(self, inputs):
        self.last = self.wrap(self.linear(inputs))
        return self.last
