"""One training and its measurements, in a process of its own."""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from advreg.attacks import Linf, autoattack, pgd
from advreg.batch import Batch
from advreg.data import ImageData, Loader
from advreg.errors import AdvregError
from advreg.methods import build_method

THREAT = Linf(8 / 255)

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
        while not Path(task["data"]).is_file():  # the parent decodes it meanwhile
            time.sleep(0.05)
        held = torch.load(task["data"], weights_only=True)
        classes = tuple(map(str, range(held["classes"])))
        self.train = ImageData(*held["train"], classes)
        self.test = ImageData(*held["test"], classes)
        torch.manual_seed(task["seed"])
        self.model = self.network()
        self.averaged = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)
        batch, augment = (32, None) if task["toy"] else (256, "crop_flip")
        if task["toy"]:
            self.train = self.train.select(torch.arange(min(320, len(self.train))))
            self.test = self.test.select(torch.arange(min(100, len(self.test))))
        settings = dict(task["arm"])
        views = settings.pop("views", {})
        self.loader = Loader(
            self.train, batch, augment=augment, seed=task["seed"], device=self.device, **views
        )
        self.method = build_method(settings.pop("name"), **settings)
        self.autocast = torch.autocast(self.device, torch.bfloat16, self.device == "cuda")
        self.steps = self.passes = 0
        self.began = time.time()

    def network(self) -> nn.Module:
        """PreActResNet-18; its toy is the small network for digits."""
        from advreg.models import build_model

        mean, std = self.train.statistics()
        channels, size, _ = self.train.shape
        name = "convnet" if self.task["toy"] else "preactresnet18"
        model = build_model(name, len(self.train.classes), channels, size, mean, std)
        return model.to(self.device, memory_format=torch.channels_last)

    def run(self) -> dict[str, Any]:
        """Trains until the parent's time is over, which the schedule ends with."""
        optimizer = torch.optim.SGD(
            self.model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
        )
        steps_per_epoch = len(self.loader) * self.method.replays
        with self.method.attach(
            self.model, steps_per_epoch=len(self.loader), examples=len(self.train)
        ):
            self.began = time.time()
            for batch in self.turns():
                done = max(self.done(), 1e-3)
                # What a method counts in epochs follows the clock too.
                self.method.epochs = round(max(self.steps, 1) / done / steps_per_epoch) or 1
                for group in optimizer.param_groups:  # one cycle: up, then down to nothing
                    group["lr"] = 0.2 * min(done / 0.2, (1 - done) / 0.8)
                output = self.step(optimizer, batch)
        loss = output.loss.item()  # waits for the card
        return {
            "epochs": round(self.steps / steps_per_epoch, 3),
            "steps": self.steps,
            "passes": round(self.passes / len(self.loader), 3),
            "loss": loss,
            "training_seconds": round(time.time() - self.began, 1),
            "starting_seconds": round(self.began - self.task["asked"], 1),
        }

    def turns(self) -> Iterator[Batch]:
        """Mini-batches, each as often as the method replays it, until the time is over."""
        for epoch in itertools.count():
            for batch in self.loader.epoch(epoch):
                for _ in range(self.method.replays):
                    if self.steps and self.done() >= 1:
                        return
                    yield batch

    def done(self) -> float:
        """The share of the training's time that is over; a toy's is counted in steps."""
        if self.task["toy"]:
            return self.steps / (TOY_EPOCHS * len(self.loader) * self.method.replays)
        return (time.time() - self.began) / (self.task["end"] - self.began)

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


def average(averaged: Any, present: Any, count: Any) -> None:
    """An exponential moving average over the last tenth of the steps, a thousand at most."""
    get_ema_multi_avg_fn(min(0.999, (1 + int(count)) / (10 + int(count))))(averaged, present, count)


class Autocast(nn.Module):
    """A network in evaluation mode that computes as it did in training; its logits are float32."""

    def __init__(self, network: nn.Module, training: Training) -> None:
        super().__init__()
        self.network, self.autocast = network, training.autocast
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (B, K)."""
        with self.autocast:
            logits: Tensor = self.network(inputs)
        return logits.float()


def pgd10(training: Training, network: nn.Module) -> Iterator[dict[str, Any]]:
    """Clean and PGD-10 accuracy on all test images."""
    clean = right = 0
    for images, targets in batches(training, 500):
        generator = torch.Generator(training.device).manual_seed(0)
        attacked = pgd(network, images, targets, THREAT, steps=10, generator=generator)
        with torch.no_grad():
            clean += int((network(images).argmax(1) == targets).sum())
            right += int((network(attacked).argmax(1) == targets).sum())
    count = len(training.test)
    yield {"clean": clean / count, "pgd10": right / count, "images": count}


def apgd_pair(training: Training, network: nn.Module) -> Iterator[dict[str, Any]]:
    """Accuracy under AutoAttack's APGD pair on 1,000 test images, known after each 250."""
    right = count = 0
    size, most = (8, 8) if training.task["toy"] else (250, 1000)
    for images, targets in batches(training, size):
        try:
            attacked = autoattack(network, images, targets, THREAT, attacks=["apgd-ce", "apgd-t"])
        except AdvregError as error:  # its package is not everywhere
            yield {"apgd_pair": str(error)}
            return
        with torch.no_grad():
            right += int((network(attacked).argmax(1) == targets).sum())
        count += len(targets)
        yield {"apgd_pair": right / count, "apgd_images": count}
        if count >= most:
            return


def batches(training: Training, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The test images in [0, 1], on the device."""
    for images, targets in zip(
        training.test.images.split(size), training.test.targets.split(size), strict=True
    ):
        yield images.to(training.device).float() / 255, targets.to(training.device)


def main() -> None:
    """Writes what is known after each part: a process that is ended loses nothing."""
    task = json.loads(sys.argv[1])
    training = Training(task)
    found: dict[str, Any] = {**training.run(), "averaged": {}, "last": {}}
    torch.backends.cudnn.benchmark = False  # an attack's mini-batches shrink: each would be tried
    networks = {"averaged": training.averaged.module, "last": training.model}
    for measure in (pgd10, apgd_pair):
        for name, network in networks.items():
            for figures in measure(training, Autocast(network, training)):
                found[name] |= figures
                write(Path(task["out"]), found)
    found["all_seconds"] = round(time.time() - training.began, 1)
    write(Path(task["out"]), found)


def write(path: Path, found: dict[str, Any]) -> None:
    """Replaces the file as a whole."""
    path.with_suffix(".part").write_text(json.dumps(found), encoding="utf-8")
    os.replace(path.with_suffix(".part"), path)


if __name__ == "__main__":
    main()
