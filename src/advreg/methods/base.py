"""The one shape that every method has."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from types import TracebackType
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from advreg.attacks import Threat
from advreg.batch import Batch
from advreg.checks import check_budget, check_inputs
from advreg.errors import (
    AttachmentError,
    ConfigurationError,
    EmptyPerturbationWarning,
    StateError,
    UnsupportedError,
)
from advreg.layerwise import paused, unwrap_model
from advreg.layerwise.example_store import ExampleStore
from advreg.losses import Criterion
from advreg.methods.checks import checked
from advreg.methods.output import StepOutput
from advreg.modes import frozen_statistics
from advreg.tensors import is_finite, perturbed

Backward = Callable[[Tensor], None]
"""Runs the backward pass of a loss; loss scaling and data parallelism live in it."""

TrainingPasses = Callable[[nn.Module, Backward], StepOutput]
"""What is left of a step: takes the network, or the loop's wrapper, and the backward pass."""

CHECK_EVERY = 20
"""Mini-batches between two looks at values on an accelerator, for which each waits."""

EMPTY_LOOKS = 10
"""Looks in a row at which nothing was perturbed or added, before that is said."""


class Carried(Protocol):
    """What a method carries from step to step."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain numbers."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""


class AttachedMethod:
    """A method's hold on a network; as a context manager it detaches on leaving.

    Args:
        stack: What is undone on detaching.
    """

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def detach(self) -> None:
        """Leaves the network as it was; a second call does nothing."""
        self._stack.close()

    def __enter__(self) -> AttachedMethod:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()


@dataclass
class Method(ABC):
    """A way of training: what happens between two optimizer steps.

    The loop attaches the method to the network, then for every mini-batch calls `step` and the
    optimizer `replays` times. A method of one's own is a subclass with a `name` and a `step`;
    its settings are the fields of a dataclass or the arguments of its `__init__`. Before a `step`
    runs, its mini-batch is checked, and its criterion is made to take what networks return and
    targets of any form, see `advreg.losses.adapt_criterion`.

    Raises:
        ConfigurationError: The subclass lacks its name or a method that it must define.
    """

    name: ClassVar[str]
    single_step: ClassVar[bool] = False
    """Whether it trains on one-step attacks of size `epsilon`."""
    splits: ClassVar[bool] = False
    """Whether its step is what `prepared` returns, which can then be done at other weights."""
    training_passes: ClassVar[float] = 1.0
    """How many of its passes are what `prepared` returns, where it splits."""
    shards: ClassVar[bool] = False
    """Whether it trains networks under `fully_shard`: one pass, by the loop's own wrapper."""
    moves_inputs: ClassVar[bool] = False
    """Whether it computes with the inputs, which must be floating point then, without a threat."""
    steps_per_epoch: int | None = field(default=None, init=False, repr=False, compare=False)
    """As `attach` was given it."""
    examples: int | None = field(default=None, init=False, repr=False, compare=False)
    """As `attach` was given it."""
    epochs: int | None = field(default=None, init=False, repr=False, compare=False)
    """As `attach` was given it."""
    _network: nn.Module | None = field(default=None, init=False, repr=False, compare=False)
    _restored: bool = field(default=False, init=False, repr=False, compare=False)
    _checks: int = field(default=0, init=False, repr=False, compare=False)
    _looks: bool = field(default=True, init=False, repr=False, compare=False)
    _empty: int = field(default=0, init=False, repr=False, compare=False)

    def __init_subclass__(cls, **settings: Any) -> None:
        """Puts the checks in front of the subclass's `step`."""
        super().__init_subclass__(**settings)
        if "step" in vars(cls):
            setattr(cls, "step", checked(vars(cls)["step"]))  # noqa: B010

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Refuses an unfinished subclass."""
        missing = [f"the method {name}" for name in sorted(cls.__abstractmethods__)]
        if not isinstance(getattr(cls, "name", None), str):
            missing.append("the class attribute name, such as name = 'mine'")
        if missing:
            raise ConfigurationError(
                f"{cls.__name__} is not a whole training method; define {' and '.join(missing)}."
            )
        return super().__new__(cls)

    def __getstate__(self) -> dict[str, Any]:
        """A copy is a detached one."""
        return {**self.__dict__, "_network": None}

    @property
    def network(self) -> nn.Module:
        """The attached network without wrappers, which extra passes call so that none waits.

        Raises:
            AttachmentError: The method is not attached.
        """
        if self._network is None:
            raise AttachmentError(
                f"Method {self.name!r} is not attached; use method.attach(model)."
            )
        return self._network

    @property
    def passes(self) -> float:
        """Forward-and-backward passes a mini-batch; plain training makes one."""
        return 1.0

    @property
    def replays(self) -> int:
        """How often the loop calls `step`, each with an optimizer step, on one mini-batch."""
        return 1

    @property
    def monitored(self) -> float:
        """The L-inf budget at which the PGD monitor attacks the network; 0 where it does not."""
        return float(getattr(self, "epsilon", 0.0)) if self.single_step else 0.0

    @property
    def by_example(self) -> bool:
        """Whether it remembers each example, which then always goes to the same rank."""
        return False

    @property
    def limits(self) -> tuple[float, float] | None:
        """The range of inputs: the method's `input_range` setting or else the network's, if any."""
        declared = getattr(self.network, "input_range", None)
        return getattr(self, "input_range", None) or declared

    @property
    def threat(self) -> Threat | None:
        """What the inputs may be changed by; None where they are not, or by no set budget."""
        return None

    def perturbed(self, inputs: Tensor, delta: Tensor) -> Tensor:
        """Inputs (B, ...) moved by delta, within `limits`."""
        return perturbed(inputs, delta, self.limits)

    def check(self, inputs: Tensor, threat: Threat | None = None) -> None:
        """Refuses inputs that are empty, not finite or outside `limits`, and a wider budget.

        On an accelerator, where it has to wait for all that is queued, it is the first mini-batch
        after attaching and every twentieth that are checked.

        Args:
            inputs: (B, ...).
            threat: What the inputs may be changed by, where they are.

        Raises:
            ConfigurationError: The inputs are not what the method can train on.
            AttachmentError: The method is not attached.
        """
        if not self._checks:  # the network may have been sharded since it was attached to
            self._refuse_sharded()
        self._looks = inputs.device.type == "cpu" or self._checks % CHECK_EVERY == 0
        self._checks += 1
        if self._looks or not inputs.numel():
            self._examine(inputs, threat)
        if threat is not None:
            check_budget(threat.epsilon, self.limits, threat.diameter(inputs))

    def _examine(self, inputs: Tensor, threat: Threat | None = None) -> None:
        """Looks at the inputs' values; tokens are as good as any where nothing perturbs them."""
        moves = threat is not None or self.moves_inputs
        if moves or inputs.is_floating_point() or not inputs.numel():
            check_inputs(inputs, self.limits)

    def notice(self, *effects: Tensor) -> None:
        """Warns once where what the method perturbs or adds is zero, step after step.

        On an accelerator, which each look waits for, every twentieth step is looked at.

        Args:
            effects: This step's perturbations, or the term that it adds to the loss.
        """
        if not self._looks or self._empty >= EMPTY_LOOKS:
            return
        self._empty = 0 if any(bool(effect.any()) for effect in effects) else self._empty + 1
        if self._empty == EMPTY_LOOKS:
            warnings.warn(
                f"{self!r} has perturbed or added nothing in {EMPTY_LOOKS} steps in a row, which"
                " is plain training; give a budget or weight above 0 and a network whose outputs"
                " depend on its inputs differentiably.",
                EmptyPerturbationWarning,
                stacklevel=2,
            )

    def attach(
        self,
        model: nn.Module,
        *,
        steps_per_epoch: int | None = None,
        examples: int | None = None,
        epochs: int | None = None,
    ) -> AttachedMethod:
        """Attaches to a network, with nothing carried over unless a state was loaded before.

        Args:
            model: The network to train; of a compiled or data-parallel wrapper, what it wraps.
            steps_per_epoch: Mini-batches an epoch, for settings counted in epochs.
            examples: The size of the training data, for memories that hold each example.
            epochs: Of the whole training, for settings that change over it; where they are not
                known, such a setting has the value that it ends with.

        Returns:
            A handle with `detach()`; as a context manager it detaches on leaving.

        Raises:
            AttachmentError: The method is attached already.
            UnsupportedError: The network is scripted, replicated, or sharded, for a method of more
                than one pass.
        """
        if self._network is not None:
            raise AttachmentError(f"Method {self.name!r} is attached already; detach it first.")
        with ExitStack() as stack:
            stack.callback(self._release)
            self._network, self._checks, self._empty = unwrap_model(model), 0, 0
            self.steps_per_epoch, self.examples, self.epochs = steps_per_epoch, examples, epochs
            self._refuse_sharded()
            if not self._restored:
                self.__dict__.pop("carried", None)
            for carried in self.carried.values():
                if isinstance(carried, ExampleStore):
                    carried.expected = examples
            self._attach(self._network, stack)
            self._restored = False
            return AttachedMethod(stack.pop_all())

    def _refuse_sharded(self) -> None:
        if not self.shards and any(
            type(one).__name__ == "DTensor" for one in self.network.parameters()
        ):
            raise UnsupportedError(
                f"Method {self.name!r} makes passes of its own, between which sharded parameters"
                " are not gathered; use it with DistributedDataParallel, or method 'layerwise'."
            )

    def _release(self) -> None:
        self._network = None

    def _attach(self, network: nn.Module, stack: ExitStack) -> None:
        """What a subclass does on attaching; on `stack` goes what undoes it."""
        return

    @abstractmethod
    def step(
        self, model: nn.Module, batch: Batch, criterion: Criterion, backward: Backward
    ) -> StepOutput:
        """Leaves the method's gradient of one mini-batch in the parameters.

        Inputs and targets have been checked, and the criterion takes targets of any form.

        Args:
            model: The network, or the loop's wrapper around it, in training mode.
            batch: The mini-batch, on the network's device.
            criterion: The mean loss of outputs against targets.
            backward: Called instead of `loss.backward()`.

        Raises:
            ConfigurationError: The inputs or the criterion cannot be trained on.
            DataError: The targets do not fit the inputs or the outputs.
        """

    def prepared(self, batch: Batch, criterion: Criterion) -> TrainingPasses:
        """Makes the step's attack, if any, and returns what is left to do: the training passes.

        Takes what `step` does, checked.

        Raises:
            ConfigurationError: The method does not split.
        """
        raise ConfigurationError(
            f"The step of method {self.name!r} does not split into an attack and what trains on"
            " it; compose one that does, such as pgd."
        )

    def validated(self, loss: float) -> None:
        """Is told the loss on validation data, after each epoch in which there are some."""
        return

    @contextmanager
    def extra_pass(self) -> Iterator[nn.Module]:
        """Lends the network for passes that do not train, such as an attack's.

        It stays in training mode; running statistics are frozen, an adversary is paused.

        Raises:
            AttachmentError: The method is not attached.
        """
        with frozen_statistics(self.network), paused(self.network):
            yield self.network

    def carries(self) -> Mapping[str, Carried]:
        """What a subclass carries from step to step, by name, as it is before the first."""
        return {}

    @cached_property
    def carried(self) -> Mapping[str, Any]:
        """What is carried, by name, since the method was attached."""
        return self.carries()

    def state_dict(self) -> dict[str, Any]:
        """What training must restore, beside the model's state, to go on bit for bit."""
        return {name: part.state_dict() for name, part in self.carried.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned; before attaching, it takes effect on attaching.

        Raises:
            StateError: The state is another method's, or not finite.
        """
        if state.keys() != self.carried.keys():
            raise StateError(
                f"The state holds {', '.join(state) or 'nothing'} and method {self.name!r} carries"
                f" {', '.join(self.carried) or 'nothing'}; use the settings that it was made with."
            )
        if not is_finite(state):
            raise StateError(
                f"The state of method {self.name!r} holds infinity or NaN; load one from before it"
                " was damaged."
            )
        for name, part in self.carried.items():
            part.load_state_dict(state[name])
        self._restored = self._network is None


def training_pass(
    model: nn.Module, batch: Batch, criterion: Criterion, backward: Backward
) -> StepOutput:
    """Plain training on a mini-batch: one forward and one backward pass."""
    outputs = model(batch.inputs)
    loss = criterion(outputs, batch.targets)
    backward(loss)
    return StepOutput.of(loss, outputs, batch.targets, criterion)


def training_passes(batch: Batch, criterion: Criterion) -> TrainingPasses:
    """Plain training on a mini-batch as `Method.prepared` returns it."""
    return lambda model, backward: training_pass(model, batch, criterion, backward)
