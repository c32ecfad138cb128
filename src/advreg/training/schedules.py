"""The learning rate over a training, as a pure function of how much of it is done."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from advreg.training.settings import ScheduleSettings

START = 1 / 25
"""Where a warm-up begins, as a share of the peak."""


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def factor(settings: ScheduleSettings, progress: float) -> float:
    """What the peak learning rate is multiplied by.

    Args:
        settings: The schedule.
        progress: Share of the training's optimizer steps already made, 0 to 1.

    Returns:
        A number in [0, 1]: 1 at the end of the warm-up.
    """
    warmup = settings.warmup or 0.0
    if progress < warmup:
        risen = progress / warmup
        if settings.name == "one_cycle":
            return _half_cosine(START, 1.0, risen)
        return START + (1 - START) * risen
    if settings.name == "step":
        return float(settings.factor ** sum(progress >= share for share in settings.milestones))
    return _half_cosine(1.0, 0.0, (progress - warmup) / (1 - warmup))


def build_schedule(settings: ScheduleSettings, optimizer: Optimizer, steps: int) -> LambdaLR:
    """A scheduler to be stepped after each of `steps` optimizer steps."""
    return LambdaLR(optimizer, lambda step: factor(settings, step / steps))
