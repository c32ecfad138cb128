"""Single-step latent adversarial training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from advreg.attacks.checks import within_range
from advreg.attacks.threat import Linf, finite
from advreg.batch import Batch
from advreg.layerwise import resolve_sites
from advreg.layerwise.sites import INPUT, default_sites
from advreg.methods.activations import capturing, changing
from advreg.methods.base import Backward, Criterion, Method
from advreg.units import Number, non_negative


@dataclass
class SLAT(Method):
    """J with the input and latent layers moved by the signs of their gradients.

    Park and Lee, ICCV 2021, arXiv 2104.01575: one pass gives the gradients everywhere at once;
    the second, which trains, adds epsilon * sign at the input and eta * sign at each latent site.

    Args:
        epsilon: The L-infinity budget at the input; fractions such as "8/255" are read.
        eta: The budget at each latent site, in the activation's own units.
        sites: Globs of modules, the latent sites; None is the outputs of stages and blocks.
        input_range: The perturbed input is clamped to it; None takes the network's own.
    """

    name: ClassVar[str] = "slat"
    single_step: ClassVar[bool] = True
    epsilon: Number = 8 / 255
    eta: Number = 8 / 255
    sites: list[str] | None = None
    input_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        self.epsilon = non_negative(self.epsilon, "epsilon")
        self.eta = non_negative(self.eta, "eta")
        self._names: list[str] = []

    @property
    def passes(self) -> float:
        """One for the gradients, one that trains."""
        return 2.0

    @contextmanager
    def attach(
        self, model: nn.Module, *, steps_per_epoch: int | None = None, examples: int | None = None
    ) -> Iterator[None]:
        """See `Method.attach`.

        Raises:
            SiteError: A site matches nothing.
        """
        latent = default_sites(model) if self.sites is None else self.sites
        self._names = resolve_sites(model, [INPUT, *latent])
        with super().attach(model):
            yield

    def step(
        self, model: nn.Module, batch: Batch, criterion: Criterion, backward: Backward
    ) -> Tensor:
        """See `Method.step`; the loss is the perturbed one."""
        within_range(Linf(self.epsilon), batch.inputs, self.limits)
        signs = self._signs(batch, criterion)

        def move(site: str, tensor: Tensor) -> Tensor:
            sign = signs[site].to(tensor.dtype)
            if site == INPUT:
                return self.clamped(tensor + float(self.epsilon) * sign)
            return tensor + float(self.eta) * sign

        assert self.network is not None
        with changing(self.network, signs, move):
            loss = criterion(model(batch.inputs), batch.targets)
            backward(loss)
        return loss.detach()

    def _signs(self, batch: Batch, criterion: Criterion) -> dict[str, Tensor]:
        with self.extra_pass() as network, capturing(network, self._names) as seen:
            network(batch.inputs)
            # Signs do not mind the factor; small gradients in half precision do.
            loss = len(batch) * criterion(seen.outputs, batch.targets)
            return {site: finite(g).sign() for site, g in seen.gradients(loss).items()}
