"""Layerwise adversarial training as a method of the loop."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import MISSING, dataclass, field, fields, make_dataclass, replace
from typing import Any, ClassVar, get_type_hints

from torch import Tensor, nn

from advreg.attacks import Threat
from advreg.batch import Batch
from advreg.errors import ConfigurationError, DataError
from advreg.layerwise import LayerwiseAdversary, LayerwiseConfig, pair
from advreg.layerwise.budget import AUTO, Epsilon
from advreg.layerwise.memory import MEMORIES
from advreg.layerwise.pairing import alike_order, exchange_order
from advreg.layerwise.sites import INPUT
from advreg.layerwise.store import SlotStore
from advreg.methods.base import (
    Backward,
    Carried,
    Criterion,
    Method,
    TrainingPasses,
    training_passes,
)
from advreg.methods.loss_floor import LARGEST, LossFloor
from advreg.methods.output import StepOutput
from advreg.units import choice, non_negative

FROM_THE_LOOP = ("batch_dim", "warmup", "examples")
"""What the loop knows and its user need not say."""


def _settings() -> list[tuple[str, Any, Any]]:
    """The fields of `LayerwiseConfig`, said there once."""
    hints = get_type_hints(LayerwiseConfig)
    return [
        (item.name, hints[item.name], None if item.default is MISSING else item.default)
        for item in fields(LayerwiseConfig)
        if item.name not in FROM_THE_LOOP
    ]


_Settings: Any = make_dataclass("_Settings", _settings(), bases=(Method,))
_Settings.__doc__ = LayerwiseConfig.__doc__


@dataclass
class Layerwise(_Settings):
    """Perturbs activations with what the previous backward pass left behind.

    Sankaranarayanan et al., AAAI 2018, arXiv 1705.07819; `LayerwiseAdversary` has the algorithm.
    One forward and one backward pass. Its other settings are those of `LayerwiseConfig`.

    Args:
        epsilon: The budget: one number for all sites, a mapping from site glob to number, or
            "auto": at hidden sites, one that follows the training loss, see `LossFloor`; of
            several devices each follows its own.
        warmup_epochs: Epochs over which epsilon grows from zero.
        pair: Reorder each mini-batch so that positions hold another class than before.
        exchange: A control, whose row of the memory an example has: "class", of slot memory a row
            of its own class, of example memory that of another example of its class; "other", of
            example memory alone that of an example of another class. None is as the memory says.
        loss_floor: With epsilon="auto", the training loss below which the budget grows; None is
            0.5, or half of the validation loss where that is less.
    """

    name: ClassVar[str] = "layerwise"
    splits: ClassVar[bool] = True
    shards: ClassVar[bool] = True
    epsilon: Epsilon = 0.1
    warmup_epochs: float = 0.0
    pair: bool = False
    exchange: str | None = None
    loss_floor: float | None = None
    adversary: LayerwiseAdversary = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.warmup_epochs = non_negative(self.warmup_epochs, "warmup_epochs")
        if self.pair and self.memory == "example":
            raise ConfigurationError(
                "pair=true is for slot memory, example memory is of the same class by design;"
                " leave pair out."
            )
        if self.exchange is not None:
            choice("exchange", self.exchange, ("class", "other"))
            if self.pair or (self.exchange == "other" and not self.by_example):
                raise ConfigurationError(
                    f"exchange={self.exchange} with {self.memory} memory"
                    f"{' and pair=true' if self.pair else ''} has no meaning; for slot memory give"
                    " either pair=true, for rows of another class, or exchange=class."
                )
        settings = {name: getattr(self, name) for name, *_ in _settings()}
        if self.epsilon == AUTO:
            settings |= self._automatic()
        elif self.loss_floor is not None:
            raise ConfigurationError('loss_floor is for epsilon="auto"; leave it out.')
        self.adversary = LayerwiseAdversary.from_config(LayerwiseConfig(**settings))

    def _automatic(self) -> dict[str, Any]:
        """The settings that stand for epsilon="auto"."""
        if self.by_example or self.relative is False:
            raise ConfigurationError(
                'epsilon="auto" is for slot memory and relative budgets; leave memory and relative'
                " out, or give epsilon as a number."
            )
        if self.loss_floor is not None:
            self.loss_floor = non_negative(self.loss_floor, "loss_floor")
            if not self.loss_floor:
                raise ConfigurationError("loss_floor is 0; give a loss above it.")
        sites = "@hidden" if self.sites is None else self.sites
        return {"epsilon": LARGEST, "sites": sites, "relative": True}

    @property
    def by_example(self) -> bool:
        """See `Method.by_example`."""
        return bool(MEMORIES[self.memory].needs_indices)

    @property
    def monitored(self) -> float:
        """See `Method.monitored`; that of example memory at the input, once attached."""
        if not self.by_example or self.direction != "sign":
            return 0.0
        sites = [site for site in self.adversary.sites if site.name == INPUT and not site.relative]
        return sum(site.epsilon * self.adversary.factor for site in sites)

    def carries(self) -> dict[str, Carried]:
        """See `Method.carries`; the adversary begins with fresh memories on attaching itself."""
        remembers = self.pair or (self.exchange is not None and not self.by_example)
        previous = {"previous": SlotStore(keeps=False)} if remembers else {}
        follows = {"floor": LossFloor(self.loss_floor)} if self.epsilon == AUTO else {}
        return {"adversary": self.adversary, **previous, **follows}

    def _attach(self, network: nn.Module, stack: ExitStack) -> None:
        if self.warmup_epochs and self.steps_per_epoch is None:
            raise ConfigurationError("warmup_epochs needs steps_per_epoch; pass it to attach.")
        self.adversary.config = replace(
            self.adversary.config,
            warmup=round(self.warmup_epochs * (self.steps_per_epoch or 0)),
            examples=self.examples,
        )
        stack.enter_context(self.adversary.attach(network))
        if self.epsilon != AUTO:
            return
        if self.adversary.sites[0].name == INPUT:
            raise ConfigurationError(
                'epsilon="auto" is for hidden sites; leave "input" out of sites, or give epsilon as'
                " a number."
            )
        stack.callback(self.carried["floor"].report)

    def _examine(self, inputs: Tensor, threat: Threat | None = None) -> None:
        # What the adversary perturbs within limits it checks itself.
        sites = [site for site in self.adversary.sites if site.name == INPUT]
        if self.limits is None or not sites:
            super()._examine(inputs, threat)

    def step(
        self, model: nn.Module, batch: Batch, criterion: Criterion, backward: Backward
    ) -> StepOutput:
        """See `Method.step`; the loss is the perturbed one."""
        return self.prepared(batch, criterion)(model, backward)

    def prepared(self, batch: Batch, criterion: Criterion) -> TrainingPasses:
        """See `Method.prepared`; nothing is attacked."""
        passes = training_passes(self.prepare(batch), criterion)
        if self.epsilon != AUTO:
            return passes
        floor: LossFloor = self.carried["floor"]
        self.adversary.scale = floor.share

        def run(model: nn.Module, backward: Backward) -> StepOutput:
            output = passes(model, backward)
            floor.follow(output.loss)
            return output

        return run

    def validated(self, loss: float) -> None:
        """See `Method.validated`; epsilon="auto" follows it."""
        if self.epsilon == AUTO:
            self.carried["floor"].validation = loss

    def prepare(self, batch: Batch) -> Batch:
        """The mini-batch in the order to train on it, of which the adversary is informed."""
        if self.exchange is not None and batch.targets.dim() != 1:
            raise DataError(
                "exchange needs integer class targets, not probabilities; leave it out."
            )
        if "previous" in self.carried:
            previous: SlotStore = self.carried["previous"]
            held = previous.held(batch.targets)
            if self.pair:
                batch = pair(batch, held)
            elif held is not None:
                batch = batch.select(alike_order(batch.targets, held))
            previous.write(batch.targets)
        if batch.indices is not None:
            indices = batch.indices
            if self.exchange is not None and self.by_example:
                indices = indices[exchange_order(batch.targets, self.exchange == "class")]
            self.adversary.set_batch(indices, batch.view)
        return batch
