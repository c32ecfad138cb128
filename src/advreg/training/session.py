"""Everything that moves while a run trains: built from its configuration, saved as one."""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advreg.batch import Batch
from advreg.data import DataSplits, ImageData, Loader
from advreg.errors import (
    CollapseWarning,
    ConfigurationError,
    MemoryResetWarning,
    RunError,
    UnevenVisitsWarning,
)
from advreg.evaluation import accuracy_and_loss
from advreg.integrations.ranks import on_the_cpu
from advreg.layerwise import LayerwiseAdversary, SiteProbe, adversary_of
from advreg.methods import AttachedMethod, Criterion, StepOutput
from advreg.models import build_model, check_network
from advreg.tensors import is_finite
from advreg.training import builders
from advreg.training.averaging import build_average
from advreg.training.collapse import CollapseWatch
from advreg.training.configuration import Configuration
from advreg.training.identity import data_fingerprint, settings_of_run
from advreg.training.monitor import PGDMonitor
from advreg.training.records import describe
from advreg.training.redistribution import redistributed
from advreg.training.schedules import build_schedule
from advreg.training.tally import Tally
from advreg.training.team import ALONE, Team, seed_of_rank

SETTLE_EVERY = 20
"""Steps between two readings of the losses: each waits for a GPU to finish its work."""

EVALUATION_BATCH = 500
"""Examples at a time when validating, at most."""

EVALUATION_VALUES = 2**24
"""Values of images at a time when validating: 64 MiB of them, which large images reach first."""


class Session:
    """A run in the making.

    Nothing is written: whatever is wrong with the configuration or the data is raised here,
    before there is a run folder. A training of something else than classes is a subclass with
    its own `load_data`, `build_network`, `build_criterion`, `figures` and `score`.

    Attributes:
        model: The network without a wrapper, to which the method is attached.
        trained: The network as the method calls it: that one, or its data-parallel wrapper.
        averaged: The average of the weights, or None.
        tally: Where the run is.
        warnings: What was warned of this epoch, for the metrics.
        team: The processes that train the run, and this one's place among them.
    """

    splits: DataSplits
    line = staticmethod(describe)
    """An epoch's line for people."""

    def __init__(self, configuration: Configuration, team: Team = ALONE) -> None:
        self.configuration, self.team = configuration, team
        run, data, optimizer = configuration.run, configuration.data, configuration.optimizer
        self.method = builders.method_of(configuration, team.rank)
        if run.accumulate > 1 and self.method.replays > 1:
            raise ConfigurationError(
                f"accumulate is {run.accumulate} with a method that replays each mini-batch;"
                " set accumulate to 1."
            )
        self.fabric = builders.build_fabric(run, team.local)
        self.monitor: PGDMonitor | None = None
        self.watch: CollapseWatch | None = None
        self.probe: SiteProbe | None = None
        train = self.load_data()
        torch.manual_seed(run.seed)
        self.architecture: dict[str, Any] = {}
        self.model: nn.Module = self.build_network(train).to(self.fabric.device)
        self.layout = torch.channels_last if run.channels_last else torch.contiguous_format
        self.model.to(memory_format=self.layout)  # type: ignore[call-overload]
        self.averaged = build_average(optimizer, self.model, run.epochs)
        self.loader = Loader(
            train,
            run.batch_size,
            augment=data.augment,
            padding=data.padding,
            crop_step=data.crop_step,
            view_epochs=data.view_epochs,
            view_block=data.view_block,
            seed=run.seed,
            device=self.fabric.device,
            rank=team.rank,
            world_size=team.size,
            by_example=self.method.by_example,
        )
        self.check_visits()
        self.updates = (
            run.epochs * math.ceil(len(self.loader) / run.accumulate) * self.method.replays
        )
        self.criterion = self.build_criterion()
        learning = nn.ModuleList([self.model])
        if isinstance(self.criterion, nn.Module):
            learning.append(self.criterion)
        bare_optimizer = builders.build_optimizer(optimizer, learning)
        self.schedule = build_schedule(configuration.schedule, bare_optimizer, self.updates)
        wrapped, self.optimizer = self.fabric.setup(self.model, bare_optimizer)
        # Fabric's own wrapper would round the inputs to the autocast type, and pixels with them.
        self.trained: nn.Module = wrapped._forward_module
        if run.compile:
            self.trained = torch.compile(self.trained)  # type: ignore[assignment]
        self.tally = Tally()
        self.warnings: list[str] = []
        self.examples = self.loader.examples
        self._pending: list[tuple[StepOutput, int]] = []
        if run.probe and team.first:
            self.probe = SiteProbe(len(self.loader) * self.method.replays)
        self.set_watches(train)
        if not team.first:
            torch.manual_seed(seed_of_rank(run.seed, team.rank))

    def load_data(self) -> ImageData:
        """Reads the data, and returns the images to train on."""
        self.splits = builders.build_data(self.configuration.data)
        return self.splits.train

    def build_network(self, train: ImageData) -> nn.Module:
        """The network, and `architecture`, from which a checkpoint builds it again."""
        self.architecture = builders.architecture(self.configuration.model, train)
        model = build_model(**self.architecture)
        check_network(model, self.architecture["name"], train.shape, len(train.classes))
        return model

    def build_criterion(self) -> Criterion:
        """The loss of a mini-batch; what it learns itself, where it is a module, is trained."""
        return builders.build_criterion(self.configuration.optimizer)

    def check_visits(self) -> None:
        """Makes sure that blocks of mini-batches come as often as was asked for.

        Raises:
            ConfigurationError: The training ends before some images have come at all.

        Warns:
            UnevenVisitsWarning: It ends before some have come as often as others.
        """
        epochs, cycle = self.configuration.run.epochs, self.loader.view_epochs
        if self.loader.view_block is None or epochs % cycle == 0:
            return
        said = (
            f"epochs is {epochs}, and with view_block all images have come equally often after"
            f" every {cycle} epochs; set epochs to a multiple of {cycle}."
        )
        if epochs < cycle:
            raise ConfigurationError(said)
        warnings.warn(said, UnevenVisitsWarning, stacklevel=2)

    def set_watches(self, train: ImageData) -> None:
        """What watches the training for going wrong."""
        self.monitor = PGDMonitor(
            self.method,
            self.splits.validation,
            self.configuration.run.epochs,
            self.configuration.run.batch_size,
        )
        self.watch = CollapseWatch(len(train.classes), len(self.loader) * self.method.replays)

    @property
    def attacked(self) -> bool:
        """Whether the monitor attacks the network, by which the best epoch is chosen too."""
        looks = self.configuration.run.monitor and self.monitor is not None
        return looks and self.method.monitored > 0

    def figures(self) -> dict[str, Any]:
        """What an epoch has come to, for the metrics; see `Tally.note_if_best`."""
        validation = self.splits.validation
        fitting = max(EVALUATION_VALUES // math.prod(validation.shape), 1)
        accuracy, loss = accuracy_and_loss(
            self.deployed,
            validation,
            min(EVALUATION_BATCH, fitting),
            self.fabric.device,
            self.criterion,
        )
        figures = {
            "train_accuracy": self.tally.correct / self.tally.examples,
            "validation_loss": loss,
            "validation_accuracy": accuracy,
        }
        if self.attacked and self.monitor is not None:
            figures |= self.monitor.look(self.deployed, self.warnings, self.tally.epoch + 1)
        return figures

    def site_figures(self) -> dict[str, Any]:
        """What the probe has seen this epoch, for the metrics; nothing without one or sites.

        Returns:
            `sites` as `SiteProbe.figures`, and `first_order_share`: what all perturbations add to
            the loss to first order, as a share of the training loss. It is left out where losses
            are scaled.
        """
        found = {} if self.probe is None else self.probe.figures()
        if self.probe is None or not found:
            return {}
        run, tally = self.configuration.run, self.tally
        figures: dict[str, Any] = {"sites": found}
        if run.precision != "16-mixed" and tally.loss > 0:
            updates = math.ceil(tally.steps / run.accumulate)
            rise = self.probe.rises() / updates
            figures["first_order_share"] = rise / (tally.loss / tally.examples)
        self.probe.clear()
        return figures

    def score(self, output: StepOutput) -> Tensor:
        """How many examples of a step were right, a scalar."""
        return output.correct()

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Which run this is: its settings, and its data by what is in them."""
        settings = settings_of_run(self.configuration)
        return {"settings": settings, "data": self.data_identity()}

    def data_identity(self) -> dict[str, str]:
        """What the data are by their content; `classes` is one of the keys."""
        return data_fingerprint(self.splits)

    def started(self, folder: Path, resumed: bool) -> None:
        """Keeps what else belongs into the run's folder, which is this process's now."""

    @property
    def deployed(self) -> nn.Module:
        """The network that is validated and used: the averaged one where there is one."""
        averaged = None if self.averaged is None else self.averaged.network
        return self.model if averaged is None else averaged

    def attached(self) -> AttachedMethod:
        """The method attached to the network."""
        attached = self.method.attach(
            self.model,
            steps_per_epoch=len(self.loader),
            examples=self.examples,
            epochs=self.configuration.run.epochs,
        )
        adversary = adversary_of(self.model)
        if self.probe is not None and isinstance(adversary, LayerwiseAdversary):
            adversary.probe = self.probe
        return attached

    def prepare(self, batch: Batch) -> Batch:
        """The batch in the memory layout that the network is in."""
        return batch.with_inputs(batch.inputs.contiguous(memory_format=self.layout))

    def backward(self, share: float, loss: Tensor) -> None:
        """The backward pass of a mini-batch that is `share` of its optimizer step's examples."""
        self.fabric.backward(loss * share)

    def exchange(self) -> None:
        """Makes the gradients the mean of the ranks', and the batch statistics the first one's."""
        groups = self.optimizer.param_groups
        self.team.average(parameter for group in groups for parameter in group["params"])
        self.team.lead(self.model.buffers())

    def agree(self) -> None:
        """Begins with the same weights on every rank.

        Raises:
            RunError: This rank reads other data than the first one.
        """
        if self.team.size == 1:
            return
        if self.team.share(self.identity["data"]) != self.identity["data"]:
            raise RunError(
                f"Process {self.team.rank} of the run reads other data than the first one; give all"
                " of them the same."
            )
        self.team.lead(value for value in self.model.state_dict().values())

    def note(self, output: StepOutput, examples: int) -> None:
        """Takes one step's outcome, without waiting for it to be computed."""
        self.tally.steps += 1
        self.tally.passes += self.method.passes
        self._pending.append((output, examples))
        if len(self._pending) >= SETTLE_EVERY:
            self.settle()

    def settle(self) -> None:
        """Adds up the losses and the right answers noted so far.

        Raises:
            RunError: One of them is not finite.
        """
        if not self._pending:
            return
        losses = torch.stack([output.loss.float() for output, _ in self._pending]).tolist()
        corrects = torch.stack([self.score(output) for output, _ in self._pending]).tolist()
        for loss, correct, (_, examples) in zip(losses, corrects, self._pending, strict=True):
            if not math.isfinite(loss):
                raise self._diverged(f"training loss became {loss}")
            self.tally.loss += loss * examples
            self.tally.correct += correct
            self.tally.examples += examples
            if self.watch is not None and self.watch.observe(loss):
                self._warn_of_collapse(self.watch)
        self._pending.clear()

    def check(self) -> None:
        """Makes sure that what is about to be saved is worth keeping.

        Raises:
            RunError: A loss, a weight, a batch statistic or a kept perturbation is not finite.
        """
        self.settle()
        if not is_finite(self.model.state_dict()):
            raise self._diverged("weights became infinite or not a number")
        if not is_finite(self.method.state_dict()):
            raise self._diverged("perturbations became infinite or not a number")

    def _diverged(self, what: str) -> RunError:
        return RunError(
            f"The {what} in epoch {self.tally.epoch + 1}; the last good checkpoint is kept:"
            " train again with a lower learning rate, a gradient clip or a smaller epsilon."
        )

    def _warn_of_collapse(self, watch: CollapseWatch) -> None:
        if not hasattr(self.method, "epsilon"):
            return
        message = (
            f"The training loss stays at chance ({watch.chance:.2f}) under {self.method!r}:"
            " the perturbations have drowned the images; lower epsilon or warm it up."
        )
        self.warnings.append(message)
        warnings.warn(message, CollapseWarning, stacklevel=2)

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs to go on bit for bit, once `check` has passed.

        With several ranks it is the first one's that has all; every rank must ask for it.
        """
        own = self._own_state()
        return {
            "model": self.model.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.fabric.strategy.precision.state_dict(),
            **own,
            "ranks": self.team.gather(on_the_cpu(own) if self.team.size > 1 else own)[1:],
        }

    def _own_state(self) -> dict[str, Any]:
        """What each rank has of its own."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return {
            "method": self.method.state_dict(),
            **{name: part.state_dict() for name, part in self._watches().items()},
            "warnings": list(self.warnings),
            "tally": asdict(self.tally),
            "random": {"cpu": torch.get_rng_state(), "cuda": cuda},
        }

    def _watches(self) -> dict[str, Any]:
        """What else has a state: watches, the probe, and a criterion that is a module."""
        parts: dict[str, Any] = {"watch": self.watch, "monitor": self.monitor, "probe": self.probe}
        found = {name: part for name, part in parts.items() if part is not None}
        if isinstance(self.criterion, nn.Module):
            found["criterion"] = self.criterion
        return found

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.model.load_state_dict(state["model"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.fabric.strategy.precision.load_state_dict(state["scaler"])
        own = self._own_part(state)
        self.method.load_state_dict(own["method"])
        for name, part in self._watches().items():
            if name != "probe" or name in own:  # it may be asked for on resuming
                part.load_state_dict(own[name])
        self.warnings = list(own["warnings"])
        self.tally = Tally.restored(own["tally"], len(self.loader))
        if own["random"] is None:  # a rank that there was not
            return
        torch.set_rng_state(own["random"]["cpu"])
        if own["random"]["cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(own["random"]["cuda"])

    def _own_part(self, state: dict[str, Any]) -> dict[str, Any]:
        """What this rank has saved, or what falls to it where there were more or fewer ranks.

        Warns:
            MemoryResetWarning: There were.
        """
        parts = [state, *state.get("ranks", ())]
        if len(parts) == self.team.size:
            return parts[self.team.rank]
        warnings.warn(
            f"The run goes on with {self.team.size} devices and was saved with {len(parts)}: what"
            " is remembered by example goes with its examples, and by position it begins empty.",
            MemoryResetWarning,
            stacklevel=2,
        )
        examples = len(self.loader.data) if self.method.by_example else None
        team, steps = self.team, len(self.loader)
        return redistributed(parts, team.rank, team.size, steps, examples)
