"""Does the same for a long time: memory, open files and hooks stay flat, and threads do not mix.

    python -m tests.campaigns.soak --minutes 10

Three parts, a third of the time each: rounds of attach, train, pause, train, detach on one network;
a training that is evaluated in its middle again and again; and two networks that train in two
threads, whose losses must be those of one alone.
"""

from __future__ import annotations

import argparse
import gc
import os
import threading
import time
from pathlib import Path
from typing import Any

import torch
from tests.campaigns import report
from torch import nn
from torch.nn import functional as F

from advreg import LayerwiseAdversary
from advreg.data import ImageData
from advreg.evaluation import accuracy_and_loss
from advreg.models import build_model


def resident() -> float:
    """Memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


def handles() -> int:
    """Open files of this process."""
    return len(os.listdir("/proc/self/fd"))


def hooks(model: nn.Module) -> int:
    """Hooks on a network's modules, and on its parameters."""
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    modules = sum(len(getattr(module, name)) for module in model.modules() for name in names)
    return modules + sum(len(p._backward_hooks or ()) for p in model.parameters())


class Flat:
    """Notes memory, files and objects at a quarter of the way and at the end."""

    def __init__(self, minutes: float) -> None:
        self.began = time.monotonic()
        self.seconds = 60 * minutes
        self.early: dict[str, float] | None = None

    def goes_on(self) -> bool:
        spent = (time.monotonic() - self.began) / self.seconds
        if self.early is None and spent > 0.25:
            self.early = self.now()
        return spent < 1

    @staticmethod
    def now() -> dict[str, float]:
        gc.collect()
        return {"megabytes": resident(), "files": handles(), "objects": len(gc.get_objects())}

    def growth(self) -> dict[str, float]:
        late, early = self.now(), self.early or self.now()
        return {name: round(late[name] - early[name], 1) for name in late}


def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> float:
    """One training step on images that follow from its number."""
    draw = torch.Generator().manual_seed(number)
    inputs, targets = torch.rand(16, 1, 8, 8, generator=draw), torch.arange(16) % 10
    loss = F.cross_entropy(model(inputs), targets)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def build(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = build_model("convnet", 10, 1, 8).train()
    return model, torch.optim.SGD(model.parameters(), 0.01)


def rounds(minutes: float) -> dict[str, Any]:
    """Attach, train, pause, train, detach; sometimes an exception in the middle."""
    model, optimizer = build(0)
    flat, before, count = Flat(minutes), hooks(model), 0
    while flat.goes_on():
        adversary = LayerwiseAdversary(epsilon=0.1, seed=0)
        try:
            with adversary.attach(model):
                step(model, optimizer, 0)
                with adversary.paused():
                    step(model, optimizer, 1)
                if count % 3 == 0:
                    raise KeyError("a user's own")
                step(model, optimizer, 2)
        except KeyError:
            optimizer.zero_grad()
        count += 1
        if hooks(model) != before:
            break
    return {"rounds": count, "hooks_left": hooks(model) - before, "growth": flat.growth()}


def evaluations(minutes: float) -> dict[str, Any]:
    """A training with evaluations in its middle equals one without, and nothing grows."""
    images = ImageData.from_arrays(torch.rand(64, 1, 8, 8), torch.arange(64) % 10)

    def losses(steps: int | None, flat: Flat | None) -> list[float]:
        model, optimizer = build(1)
        found: list[float] = []
        with LayerwiseAdversary(epsilon=0.1, seed=0).attach(model):
            while flat.goes_on() if flat else len(found) < (steps or 0):
                found.append(step(model, optimizer, len(found)))
                if flat:
                    accuracy_and_loss(model, images, 32)
        return found

    flat = Flat(minutes * 0.7)
    disturbed = losses(None, flat)
    growth = flat.growth()
    return {
        "steps": len(disturbed),
        "equal_to_the_bit": losses(min(len(disturbed), 2000), None) == disturbed[:2000],
        "growth": growth,
    }


def threads(minutes: float) -> dict[str, Any]:
    """Two networks in two threads, again and again, each compared with itself alone."""

    def losses(seed: int, into: dict[int, list[float]], ready: threading.Barrier | None) -> None:
        model, optimizer = models[seed]
        if ready:
            ready.wait()
        with LayerwiseAdversary(epsilon=0.1, memory="slot", seed=seed).attach(model):
            into[seed] = [step(model, optimizer, number) for number in range(20)]

    flat, count, wrong = Flat(minutes), 0, 0
    while flat.goes_on():
        alone: dict[int, list[float]] = {}
        together: dict[int, list[float]] = {}
        models = {seed: build(seed) for seed in (0, 1)}
        for seed in models:
            losses(seed, alone, None)
        models = {seed: build(seed) for seed in (0, 1)}
        ready = threading.Barrier(2)
        workers = [threading.Thread(target=losses, args=(s, together, ready)) for s in models]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        count += 1
        wrong += alone != together
    return {"pairs": count, "pairs_that_differed": wrong, "growth": flat.growth()}


def campaign(minutes: float) -> dict[str, Any]:
    torch.set_num_threads(1)
    parts = {"rounds": rounds, "evaluations": evaluations, "threads": threads}
    figures = {name: part(minutes / 3) for name, part in parts.items()}
    return {**figures, "minutes": minutes}


def failures(figures: dict[str, Any]) -> list[str]:
    """What is not as promised; a megabyte a thousand rounds is noise of the allocator."""
    found = []
    if figures["rounds"]["hooks_left"]:
        found.append("hooks are left")
    if not figures["evaluations"]["equal_to_the_bit"]:
        found.append("an evaluation in mid-training changed it")
    if figures["threads"]["pairs_that_differed"]:
        found.append("threads mix")
    for name in ("rounds", "evaluations", "threads"):
        growth = figures[name]["growth"]
        if growth["files"] > 0 or growth["megabytes"] > 8 or growth["objects"] > 500:
            found.append(f"{name}: {growth} more")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--out")
    options = parser.parse_args()
    figures = campaign(options.minutes)
    report("campaign_soak", {**figures, "failures": failures(figures)}, options.out)
    return bool(failures(figures))


if __name__ == "__main__":
    raise SystemExit(main())
