"""One training and its measurements, in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from advreg.attacks import Linf, autoattack, pgd
from advreg.data import ImageData, Loader
from advreg.errors import AdvregError
from advreg.evaluation import accuracy_and_loss
from advreg.methods import build_method

PROBE = 30
"""Steps before the speed is measured, over twice as many; then the number of epochs is chosen."""


TOY_EPOCHS = 2


class Training:
    """A network, its data on the device, and its method.

    Args:
        task: What the parent asks for.
    """

    def __init__(self, task: dict[str, Any]) -> None:
        self.task = task
        self.device = task["device"]
        torch.backends.cudnn.benchmark = True
        held = torch.load(task["data"], weights_only=True)
        classes = tuple(map(str, range(held["classes"])))
        self.train = ImageData(*held["train"], classes)
        self.test = ImageData(*held["test"], classes)
        torch.manual_seed(task["seed"])
        self.model = self.network()
        self.averaged = AveragedModel(
            self.model, multi_avg_fn=get_ema_multi_avg_fn(0.999), use_buffers=True
        )
        batch, augment = (32, None) if task["toy"] else (128, "crop_flip")
        if task["toy"]:
            self.train = self.train.select(torch.arange(min(320, len(self.train))))
            self.test = self.test.select(torch.arange(min(100, len(self.test))))
        self.loader = Loader(
            self.train, batch, augment=augment, seed=task["seed"], device=self.device
        )
        settings = {name: value for name, value in task["arm"].items() if name != "name"}
        self.method = build_method(task["arm"]["name"], **settings)
        self.autocast = torch.autocast(self.device, torch.bfloat16, self.device == "cuda")
        self.steps = self.passes = 0

    def network(self) -> nn.Module:
        """PreActResNet-18; its toy is the small network for digits."""
        from advreg.models import build_model

        mean, std = self.train.statistics()
        channels, size, _ = self.train.shape
        name = "convnet" if self.task["toy"] else "preactresnet18"
        model = build_model(name, len(self.train.classes), channels, size, mean, std)
        return model.to(self.device, memory_format=torch.channels_last)

    def run(self) -> dict[str, Any]:
        """Trains until the parent's time is over: as many epochs as fit, the schedule over them."""
        optimizer = torch.optim.SGD(
            self.model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
        )
        with self.method.attach(
            self.model, steps_per_epoch=len(self.loader), examples=len(self.train)
        ):
            began = probed = time.time()
            epochs, epoch, found = None, 0, {}
            while epochs is None or epoch < epochs:
                for batch in self.loader.epoch(epoch):
                    for _ in range(self.method.replays):
                        total = (epochs or 1000) * len(self.loader) * self.method.replays
                        self.schedule(optimizer, self.steps / total, warm=epochs is None)
                        output = self.step(optimizer, batch)
                    if self.steps in (PROBE, 3 * PROBE):
                        output.loss.item()  # waits for the card
                    if self.steps == PROBE:
                        probed = time.time()
                    if self.steps == 3 * PROBE:
                        epochs = self.choose_epochs((time.time() - probed) / (2 * PROBE))
                epoch += 1
                loss = output.loss.item()  # the one wait for the card in an epoch
                found = {
                    "epochs": epoch,
                    "epochs_planned": epochs,
                    "steps": self.steps,
                    "passes": self.passes,
                    "loss": loss,
                    "training_seconds": round(time.time() - began, 1),
                }
                write(Path(self.task["out"]), found)
                late = time.time() > self.task["ends"]["train"]
                if late or (self.task["toy"] and epoch == TOY_EPOCHS):
                    break
        return found

    def choose_epochs(self, seconds: float) -> int:
        """How many epochs fit into the time that is left, of steps of so many seconds."""
        left = self.task["ends"]["train"] - time.time()
        steps = self.steps + 0.97 * left / seconds
        return max(int(steps / (len(self.loader) * self.method.replays)), 1)

    def schedule(self, optimizer: torch.optim.Optimizer, done: float, warm: bool) -> None:
        """One cycle: up over a fifth of the steps, then down to nothing; low until it is known."""
        rate = 0.02 if warm else 0.1 * min(done / 0.2, (1 - done) / 0.8)
        for group in optimizer.param_groups:
            group["lr"] = max(rate, 1e-4)

    def step(self, optimizer: torch.optim.Optimizer, batch: Any) -> Any:
        """One step of the method and of the optimizer."""
        inputs = batch.inputs.contiguous(memory_format=torch.channels_last)
        self.model.train()
        with self.autocast:
            output = self.method.step(
                self.model, batch.with_inputs(inputs), F.cross_entropy, torch.Tensor.backward
            )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self.averaged.update_parameters(self.model)
        self.steps += 1
        self.passes += self.method.passes
        return output


def measure(training: Training, network: nn.Module) -> dict[str, Any]:
    """Clean and PGD-10 accuracy on all test images, the APGD pair's on 1,000."""
    network.eval()
    clean, _ = accuracy_and_loss(network, training.test, 500, training.device, F.cross_entropy)
    threat = Linf(8 / 255)
    few = 8 if training.task["toy"] else 1000
    found: dict[str, Any] = {"clean": clean, "images": len(training.test)}
    right = 0
    for images, targets in batches(training):
        generator = torch.Generator(training.device).manual_seed(0)
        attacked = pgd(network, images, targets, threat, steps=10, generator=generator)
        right += int((network(attacked).argmax(1) == targets).sum())
    found["pgd10"] = right / len(training.test)
    with contextlib.suppress(AdvregError):  # its package is not everywhere
        images, targets = next(batches(training, few))
        attacked = autoattack(network, images, targets, threat, attacks=["apgd-ce", "apgd-t"])
        found["apgd_pair"] = float((network(attacked).argmax(1) == targets).float().mean())
        found["apgd_images"] = len(targets)
    return found


def batches(training: Training, size: int = 500) -> Any:
    """The test images in [0, 1], on the device."""
    for images, targets in zip(
        training.test.images.split(size), training.test.targets.split(size), strict=True
    ):
        yield images.to(training.device).float() / 255, targets.to(training.device)


def main() -> None:
    """Writes what is known after each part: a process that is ended loses nothing."""
    task = json.loads(sys.argv[1])
    training = Training(task)
    found = training.run()
    out = Path(task["out"])
    for name, network in (("last", training.model), ("averaged", training.averaged.module)):
        write(out, found)
        found[name] = measure(training, network)
    write(out, found)


def write(path: Path, found: dict[str, Any]) -> None:
    """Replaces the file as a whole."""
    path.with_suffix(".part").write_text(json.dumps(found), encoding="utf-8")
    os.replace(path.with_suffix(".part"), path)


if __name__ == "__main__":
    main()
