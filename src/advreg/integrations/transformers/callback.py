"""A callback of `Trainer` that attaches an adversary, and saves it beside checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from advreg.data.indices import INDEX_KEY
from advreg.errors import StateError
from advreg.extras import require
from advreg.files import replace_file
from advreg.integrations.transformers.batches import masks_of, sites_of
from advreg.layerwise import LayerwiseAdversary
from advreg.layerwise.hooks import HookHandle, eager_in_compiled_code

TrainerCallback: Any = require(
    "transformers", extra="transformers", what="AdversaryCallback"
).TrainerCallback


class AdversaryCallback(TrainerCallback):
    """`Trainer(..., callbacks=[AdversaryCallback(LayerwiseAdversary(epsilon=0.05))])`.

    The network is perturbed in training steps and left alone in evaluation, prediction and
    generation. Where the adversary's `sites` are not set, those of a network that takes tokens are
    the embeddings' output and the default ones. What the mini-batch's attention mask leaves out,
    such as padding, is not perturbed. Each process saves its state beside the trainer's checkpoint,
    and a run that goes on from there equals one that was not interrupted.

    Args:
        part: The adversary. (`MethodMixin` has a callback of its own for its method.)
        resume_from: The checkpoint that `train(resume_from_checkpoint=...)` is given, where that is
            not in the output directory.
    """

    def __init__(self, part: LayerwiseAdversary, *, resume_from: str | Path | None = None) -> None:
        self.part: Any = part
        self.resume_from = resume_from
        self._handles: list[Any] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Attaches, with the state of the checkpoint that training goes on from."""
        self._detach()
        if state.global_step:
            folder = self.resume_from or Path(args.output_dir, f"checkpoint-{state.global_step}")
            self.part.load_state_dict(load(file_in(folder, args), args.world_size))
        self._attach(parts["model"], parts.get("train_dataloader"))

    def _attach(self, network: nn.Module, loader: Any) -> None:
        config = self.part.config
        if config.patterns is None:
            self.part.config = replace(config, sites=sites_of(network))
        self._before_each_call(network, self._announce)
        self._handles.append(self.part.attach(network))

    def _before_each_call(self, network: nn.Module, hook: Callable[..., Any]) -> None:
        self._handles.append(HookHandle(network, eager_in_compiled_code(hook), before=True))
        self._handles[-1].guard()

    def _announce(self, network: nn.Module, args: Any, kwargs: Any) -> Any:
        """Hands the adversary what it must know of a mini-batch, ahead of its own hook."""
        indices = kwargs.get(INDEX_KEY)
        if network.training and torch.is_grad_enabled():
            names = [site.name for site in self.part.sites]
            self.part.set_batch(indices, mask=masks_of(network, kwargs, names))
        return args, {key: value for key, value in kwargs.items() if key != INDEX_KEY}

    def on_save(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Saves this process's state; in a search over settings, which is not resumed, nothing."""
        if self._handles and not args.save_only_model and not state.is_hyper_param_search:
            folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
            folder.mkdir(parents=True, exist_ok=True)
            saved = {"world_size": args.world_size, "state": self.part.state_dict()}
            replace_file(file_in(folder, args), lambda path: torch.save(saved, path))

    def on_train_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Detaches."""
        self._detach()

    def _detach(self) -> None:
        while self._handles:
            handle = self._handles.pop()
            handle.remove() if isinstance(handle, HookHandle) else handle.detach()


def file_in(folder: str | Path, args: Any) -> Path:
    """Where a checkpoint holds this process's state."""
    return Path(folder, f"advreg-rank-{args.process_index}.pt")


def load(path: Path, world_size: int) -> Any:
    """The state in a checkpoint's file.

    Raises:
        StateError: There is none, or it is of a run with another number of processes.
    """
    if not path.is_file():
        raise StateError(
            f"The checkpoint has no state of an adversary, {path}; give AdversaryCallback its"
            " folder as resume_from, or train from the start."
        )
    saved = torch.load(path, map_location="cpu", weights_only=True)
    if saved["world_size"] != world_size:
        raise StateError(
            f"The checkpoint is of {saved['world_size']} processes and this run has {world_size};"
            " go on with as many."
        )
    return saved["state"]
