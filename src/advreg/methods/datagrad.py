"""DataGrad: a penalty on the loss's gradient with respect to the data, at any layer."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from advreg.attacks import Threat
from advreg.batch import Batch
from advreg.checks import check_inputs
from advreg.errors import ConfigurationError
from advreg.layerwise import resolve_sites
from advreg.layerwise.sites import INPUT
from advreg.methods.activations import SiteHooks
from advreg.methods.base import Backward, Criterion, Method
from advreg.methods.output import StepOutput
from advreg.tensors import finite, rows
from advreg.units import Number, non_negative

Norm = Literal["l1", "l2"]


@dataclass
class DataGrad(Method):
    """J + weight * mean_i R(g_i) (Ororbia, Kifer and Giles, Neural Computation 2017).

    g_i is the gradient of example i's own loss, at the input or at hidden sites, so that the
    batch size does not matter; R(g) is |g|_1 or |g|_2^2 / 2, summed over the sites. arXiv
    1601.07213 has the finite difference (J(x + phi d) - J(x)) / phi in its place, with d = sign(g)
    for l1 and d = g for l2: the same gradient to first order in phi, from two plain passes.

    Args:
        weight: Lambda, the penalty's weight; for l1 in units of the input, such as "4/255".
        norm: "l1" or "l2".
        sites: Globs of modules, and "input"; None is the input alone.
        exact: Double backpropagation instead of the finite difference.
        phi: How far the finite difference steps, above 0 and not equal to `weight`.
    """

    name: ClassVar[str] = "datagrad"
    weight: Number = 4 / 255
    norm: Norm = "l1"
    sites: list[str] | None = None
    exact: bool = False
    phi: Number = 8 / 255

    def __post_init__(self) -> None:
        self.weight = non_negative(self.weight, "weight")
        self.phi = non_negative(self.phi, "phi")
        if self.norm not in ("l1", "l2"):
            raise ConfigurationError(f"norm is {self.norm!r}; choose l1 or l2.")
        if self.phi == 0:
            raise ConfigurationError("phi is 0; give a step above 0, such as 8/255.")
        if self.phi == self.weight and not self.exact:
            raise ConfigurationError(
                f"phi and weight are both {self.phi:g}, so that the plain loss, whose gradient is"
                " needed, cancels; change phi a little or set exact to true."
            )

    @property
    def passes(self) -> float:
        """Two plain ones, or one and the backward pass through its backward pass."""
        return 2.0

    def _attach(self, network: nn.Module, stack: ExitStack) -> None:
        names = resolve_sites(network, [INPUT] if self.sites is None else self.sites)
        self._names, self._hooks = names, SiteHooks(network, names, stack)

    def _examine(self, inputs: Tensor, threat: Threat | None = None) -> None:
        if INPUT in self._names:
            check_inputs(inputs, self.limits)
        else:
            super()._examine(inputs, threat)

    def step(
        self, model: nn.Module, batch: Batch, criterion: Criterion, backward: Backward
    ) -> StepOutput:
        """See `Method.step`; the loss is the penalised one, the outputs are the clean inputs'."""
        step = self._exact if self.exact else self._difference
        return step(model, batch, criterion, backward)

    def _exact(
        self, model: nn.Module, batch: Batch, criterion: Criterion, backward: Backward
    ) -> StepOutput:
        with self._hooks.capturing() as seen:
            outputs = model(batch.inputs)
            loss = criterion(outputs, batch.targets)
            total = len(batch) * criterion(seen.outputs, batch.targets)
            gradients = seen.gradients(total, create_graph=True).values()
            sizes = [float(self.weight) * self._size(rows(one)).mean() for one in gradients]
            self.notice(*sizes)
            loss = sum(sizes, loss)
            backward(loss)
        return StepOutput.of(loss, outputs, batch.targets, criterion)

    def _difference(
        self, model: nn.Module, batch: Batch, criterion: Criterion, backward: Backward
    ) -> StepOutput:
        share = float(self.weight) / float(self.phi)
        with self._hooks.capturing() as seen:
            outputs = model(batch.inputs)
            plain = (1 - share) * criterion(outputs, batch.targets)
            for tensor in seen.required().values():
                tensor.retain_grad()
            # Its gradient is the factor that `backward` puts on losses: scaling, accumulation.
            gauge = torch.zeros_like(plain, requires_grad=True)
            backward(plain + gauge)
        assert gauge.grad is not None
        factor = gauge.grad * (1 - share) / len(batch)
        moves = {
            site: float(self.phi) * self._direction(tensor.grad, factor)
            for site, tensor in seen.at.items()
            if tensor.grad is not None
        }

        self.notice(*(share * delta for delta in moves.values()))

        def move(site: str, tensor: Tensor) -> Tensor | None:
            return tensor + moves[site] if site in moves else None

        with self._hooks.changing(move):
            moved = share * criterion(model(batch.inputs), batch.targets)
            backward(moved)
        return StepOutput.of(plain + moved, outputs, batch.targets, criterion)

    def _size(self, gradients: Tensor) -> Tensor:
        return gradients.abs().sum(1) if self.norm == "l1" else gradients.square().sum(1) / 2

    def _direction(self, gradient: Tensor, factor: Tensor) -> Tensor:
        direction = finite(gradient / factor.to(gradient.dtype))
        return direction.sign() if self.norm == "l1" else direction
