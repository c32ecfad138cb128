"""Layerwise adversarial training as a method of the loop."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from advreg.batch import Batch
from advreg.errors import ConfigurationError
from advreg.layerwise import LayerwiseAdversary, pair
from advreg.layerwise.directions import Direction
from advreg.layerwise.memory import MemoryKind, Start
from advreg.layerwise.store import SlotStore
from advreg.methods.base import (
    Backward,
    Carried,
    Criterion,
    Method,
    StepOutput,
    training_pass,
)
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
        start: "zero" or "random", before a memory has had a gradient.
        step_size: Accumulation: the perturbation moves by step_size * sign and is clipped at
            epsilon; None replaces it.
        rms_interval: Mini-batches between measurements of a relative budget's scale.
        budget_split: One budget over several sites: "sum" divides it by their number, "root" by its
            square root; None gives each site all of it.
        warmup_epochs: Epochs over which epsilon grows from zero.
        pair: Reorder each mini-batch so that positions hold another class than before.
        seed: Of the random start and the random signs.
    """

    name: ClassVar[str] = "layerwise"
    epsilon: Number | dict[str, Number] = 0.1
    sites: list[str] | None = None
    memory: MemoryKind = "slot"
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
                "pair=true is for slot memory, example memory is of the same class by design;"
                " leave pair out."
            )
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

    def carries(self) -> dict[str, Carried]:
        """See `Method.carries`; the adversary begins with fresh memories on attaching itself."""
        previous = {"previous": SlotStore(keeps=False)} if self.pair else {}
        return {"adversary": self.adversary, **previous}

    def _attach(self, network: nn.Module, stack: ExitStack) -> None:
        if self.warmup_epochs and self.steps_per_epoch is None:
            raise ConfigurationError("warmup_epochs needs steps_per_epoch; pass it to attach.")
        self.adversary.warmup = round(self.warmup_epochs * (self.steps_per_epoch or 0))
        self.adversary.examples = self.examples
        stack.enter_context(self.adversary.attach(network))

    def step(
        self, model: nn.Module, batch: Batch, criterion: Criterion, backward: Backward
    ) -> StepOutput:
        """See `Method.step`; the loss is the perturbed one."""
        self.check(batch.inputs)
        return training_pass(model, self.prepare(batch), criterion, backward)

    def prepare(self, batch: Batch) -> Batch:
        """The mini-batch in the order to train on it, of which the adversary is informed."""
        if self.pair:
            previous: SlotStore = self.carried["previous"]
            held = previous.held(batch.targets)
            assert held is None or isinstance(held, Tensor)
            batch = pair(batch, held)
            previous.write(batch.targets)
        if batch.indices is not None:
            self.adversary.set_batch(batch.indices, batch.view)
        return batch
