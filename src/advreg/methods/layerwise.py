"""Layerwise adversarial training as a method of the loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from advreg.batch import Batch
from advreg.errors import ConfigurationError
from advreg.layerwise import LayerwiseAdversary, pair
from advreg.layerwise.directions import Direction
from advreg.layerwise.memory import Start
from advreg.methods.base import Backward, Criterion, Method
from advreg.units import Number


@dataclass
class Layerwise(Method):
    """Perturbs activations with what the previous backward pass left behind.

    Sankaranarayanan et al., AAAI 2018, arXiv 1705.07819; `LayerwiseAdversary` has the algorithm.
    One forward and one backward pass.

    Args:
        epsilon: The budget of all sites, or one for each site glob; fractions are read.
        sites: Globs over dotted module names, and "input"; None is the input and the outputs of
            stages and blocks.
        memory: "slot": what the same position of the previous mini-batch left; "example": what
            the same example left an epoch ago (alone, it is at the input only).
        direction: "sign", "l2" or "max" of the gradient, or "random" signs, the control.
        relative: Whether epsilon is in units of the activation's root mean square; None: at
            hidden sites only.
        input_range: Clamps the perturbed input; None takes the network's own.
        start: "zero" or "random", before a memory has met a gradient.
        step_size: Accumulation: the perturbation moves by step_size * sign and is clipped at epsilon;
            None replaces it.
        rms_interval: Mini-batches between measurements of a relative budget's scale.
        budget_split: One budget over several sites: "sum" divides it by their number, "root" by its
            square root; None gives each site all of it.
        warmup_epochs: Epochs over which epsilon grows from zero.
        pair: Reorder each mini-batch so that positions meet another class than before.
        seed: Of the random start and the random signs.
    """

    name: ClassVar[str] = "layerwise"
    epsilon: Number | dict[str, Number] = 0.1
    sites: list[str] | None = None
    memory: str = "slot"
    direction: Direction = "sign"
    relative: bool | None = None
    input_range: tuple[float, float] | None = None
    start: Start = "zero"
    step_size: Number | None = None
    rms_interval: int = 1
    budget_split: str | None = None
    warmup_epochs: float = 0.0
    pair: bool = False
    seed: int = 0
    adversary: LayerwiseAdversary = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.warmup_epochs < 0:
            raise ConfigurationError(
                f"warmup_epochs is {self.warmup_epochs}; give at least 0 epochs."
            )
        if self.pair and self.memory == "example":
            raise ConfigurationError(
                "pair=true is for slot memory, example memory meets its own class by design;"
                " leave pair out."
            )
        self._previous: Tensor | None = None
        self.adversary = LayerwiseAdversary(
            self.epsilon,
            self.sites,
            self.memory,
            self.direction,
            self.relative,
            self.input_range,
            start=self.start,
            step_size=self.step_size,
            rms_interval=self.rms_interval,
            budget_split=self.budget_split,
            seed=self.seed,
        )

    @contextmanager
    def attach(
        self, model: nn.Module, *, steps_per_epoch: int | None = None, examples: int | None = None
    ) -> Iterator[None]:
        """See `Method.attach`.

        Raises:
            ConfigurationError: A warm-up in epochs is asked for without `steps_per_epoch`.
            SiteError: A site matches nothing.
        """
        if self.warmup_epochs and steps_per_epoch is None:
            raise ConfigurationError("warmup_epochs needs steps_per_epoch; pass it to attach.")
        warmup = round(self.warmup_epochs * (steps_per_epoch or 0))
        config = replace(self.adversary.config, warmup=warmup, examples=examples)
        self.adversary.config = config
        with super().attach(model), self.adversary.attach(model):
            yield

    def step(
        self, model: nn.Module, batch: Batch, criterion: Criterion, backward: Backward
    ) -> Tensor:
        """See `Method.step`; the loss is the perturbed one."""
        return super().step(model, self.prepare(batch), criterion, backward)

    def prepare(self, batch: Batch) -> Batch:
        """The mini-batch in the order that the adversary wants, which is told of it."""
        if self.pair:
            batch = pair(batch, self._previous)
            self._previous = batch.targets
        if batch.indices is not None:
            self.adversary.set_batch(batch.indices, batch.view)
        return batch

    def state_dict(self) -> dict[str, Any]:
        """See `Method.state_dict`."""
        return {"adversary": self.adversary.state_dict(), "previous": self._previous}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Method.load_state_dict`."""
        self.adversary.load_state_dict(state["adversary"])
        self._previous = state["previous"]
