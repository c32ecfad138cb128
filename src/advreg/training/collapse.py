"""Seeing that perturbations have drowned the training, while the run is still young."""

from __future__ import annotations

import math
from collections import deque
from statistics import fmean as mean
from typing import Any

TOLERANCE = 0.02
"""A mean loss within this share below chance counts as chance."""

SHORTEST_WINDOW = 50
"""Steps; an epoch of fewer is too noisy to judge by."""


class CollapseWatch:
    """Watches the training loss for staying at chance.

    A network that has learnt nothing, or has unlearnt everything, answers with the same
    probabilities for every image: its loss is the log of the number of classes, or above.

    Args:
        classes: How many there are.
        steps_per_epoch: Mini-batches an epoch. The first epoch is not judged; after it the mean
            over an epoch (at least `SHORTEST_WINDOW` steps) is.
    """

    def __init__(self, classes: int, steps_per_epoch: int) -> None:
        self.chance = math.log(classes)
        self.grace = steps_per_epoch
        self.seen = 0
        self.said = False
        self.losses: deque[float] = deque(maxlen=max(steps_per_epoch, SHORTEST_WINDOW))

    def observe(self, loss: float) -> bool:
        """Takes one step's loss; True the first time that training is seen to have collapsed."""
        self.seen += 1
        if self.seen <= self.grace:
            return False
        self.losses.append(loss)
        full = len(self.losses) == self.losses.maxlen
        if self.said or not full:
            return False
        losses = list(self.losses)
        # A slow start is not a collapse: the last quarter must be at chance as well.
        spans = (losses, losses[-len(losses) // 4 :])
        self.said = all(mean(span) >= self.chance * (1 - TOLERANCE) for span in spans)
        return self.said

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to judge as the undisturbed one."""
        return {"seen": self.seen, "said": self.said, "losses": list(self.losses)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.seen, self.said = state["seen"], state["said"]
        self.losses.clear()
        self.losses.extend(state["losses"])
