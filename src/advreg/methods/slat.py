"""Single-step latent adversarial training."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from advreg.attacks import Linf
from advreg.batch import Batch
from advreg.layerwise import resolve_sites
from advreg.layerwise.sites import INPUT, default_sites
from advreg.methods.activations import SiteHooks
from advreg.methods.base import Backward, Criterion, Method, training_pass
from advreg.methods.output import StepOutput
from advreg.tensors import finite, wide
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

    @property
    def passes(self) -> float:
        """One for the gradients, one that trains."""
        return 2.0

    @property
    def threat(self) -> Linf:
        """See `Method.threat`."""
        return Linf(self.epsilon)

    def _attach(self, network: nn.Module, stack: ExitStack) -> None:
        latent = default_sites(network) if self.sites is None else self.sites
        self._hooks = SiteHooks(network, resolve_sites(network, [INPUT, *latent]), stack)

    def step(
        self, model: nn.Module, batch: Batch, criterion: Criterion, backward: Backward
    ) -> StepOutput:
        """See `Method.step`; the loss and the outputs are the perturbed ones."""
        moves = self._moves(batch, criterion)
        self.notice(*moves.values())

        def move(site: str, tensor: Tensor) -> Tensor | None:
            if site not in moves:
                return None
            if site == INPUT:
                return self.perturbed(tensor, moves[site])
            return tensor + moves[site].to(tensor.dtype)

        with self._hooks.changing(move):
            return training_pass(model, batch, criterion, backward)

    def _moves(self, batch: Batch, criterion: Criterion) -> dict[str, Tensor]:
        with self.extra_pass() as network, self._hooks.capturing() as seen:
            network(batch.inputs)
            # Signs do not mind the factor; small gradients in half precision do.
            loss = len(batch) * criterion(seen.outputs, batch.targets)
            signs = {
                site: finite(gradient).sign() for site, gradient in seen.gradients(loss).items()
            }
            moves = {site: float(self.eta) * sign for site, sign in signs.items()}
            if INPUT in signs:  # in half precision the budget itself would be rounded
                moves[INPUT] = float(self.epsilon) * wide(signs[INPUT])
            return moves
