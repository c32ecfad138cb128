"""Training steps by other libraries, and the counting of passes, for `peers.py`."""

from __future__ import annotations

import copy
import importlib.util
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from importlib import import_module
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_hook

from advreg import Batch
from advreg.study.cost import Step

EPSILON, STEP_SIZE, STEPS = 8 / 255, 2 / 255, 10

Attack = Callable[[Tensor, Tensor], Tensor]
"""Takes inputs and targets; returns attacked inputs."""


def torchattacks(kind: str, model: nn.Module, device: str) -> Attack:
    library = import_module("torchattacks")
    if kind == "FGSM":
        return library.FGSM(model, eps=EPSILON)
    return library.PGD(model, eps=EPSILON, alpha=STEP_SIZE, steps=STEPS, random_start=True)


def art(kind: str, model: nn.Module, device: str) -> Attack:
    classifier = import_module("art.estimators.classification").PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        input_shape=(3, 32, 32),
        nb_classes=10,
        clip_values=(0.0, 1.0),
        device_type="gpu" if device == "cuda" else "cpu",
    )
    attacks = import_module("art.attacks.evasion")
    settings: dict[str, Any] = {"eps": EPSILON, "batch_size": 4096}
    if kind == "FGSM":
        attack = attacks.FastGradientMethod(classifier, **settings)
    else:
        settings |= {"eps_step": STEP_SIZE, "max_iter": STEPS, "num_random_init": 1}
        attack = attacks.ProjectedGradientDescent(classifier, **settings, verbose=False)

    def call(inputs: Tensor, targets: Tensor) -> Tensor:
        return torch.from_numpy(attack.generate(inputs.cpu().numpy(), targets.cpu().numpy()))

    return call


def attacked_step(
    stack: ExitStack,
    model: nn.Module,
    batches: tuple[Batch, ...],
    library: Callable[[str, nn.Module, str], Attack],
    kind: str,
) -> Step:
    """Trains a copy on what a library's attack makes of each mini-batch."""
    model = copy.deepcopy(model).train()
    attack = library(kind, model, batches[0].inputs.device.type)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
    turns = cycle(batches)

    def step() -> None:
        batch = next(turns)
        attacked = attack(batch.inputs, batch.targets).to(batch.inputs.device)
        model.train()
        optimizer.zero_grad()  # an attack may have left gradients
        F.cross_entropy(model(attacked), batch.targets).backward()
        optimizer.step()

    return step


def sam_step(stack: ExitStack, model: nn.Module, batches: tuple[Batch, ...], path: str) -> Step:
    """Trains a copy by the published optimizer, as its description says to."""
    if not path:
        raise ImportError("its file was not named with --sam")
    spec = importlib.util.spec_from_file_location("published_sam", path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = copy.deepcopy(model).train()
    settings = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
    optimizer = module.SAM(model.parameters(), torch.optim.SGD, rho=0.05, **settings)
    turns = cycle(batches)

    def step() -> None:
        batch = next(turns)
        F.cross_entropy(model(batch.inputs), batch.targets).backward()
        optimizer.first_step(zero_grad=True)
        F.cross_entropy(model(batch.inputs), batch.targets).backward()
        optimizer.second_step(zero_grad=True)

    return step


def count_passes(step: Step, kind: type[nn.Module], steps: int = 3) -> dict[str, float]:
    """Calls of the network, and backward passes through what it returned, for each step."""
    counts: Counter[str] = Counter()

    def look(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(module, kind):
            counts["forward"] += 1
            if output.requires_grad:
                output.register_hook(lambda _: counts.update(["backward"]))

    handle = register_module_forward_hook(look)
    try:
        for _ in range(steps):
            step()
    finally:
        handle.remove()
    return {name: count / steps for name, count in counts.items()}
