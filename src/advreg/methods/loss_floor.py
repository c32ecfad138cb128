"""A budget that follows the training loss."""

from __future__ import annotations

import math
import warnings
from typing import Any

from torch import Tensor

from advreg.errors import EmptyPerturbationWarning
from advreg.methods.base import CHECK_EVERY

LARGEST = 0.1
"""The largest budget, in units of the activation's root mean square."""

HIGHEST_FLOOR, SHARE_OF_VALIDATION = 0.5, 0.5
"""The floor is this loss, in nats, or this share of the validation loss where that is less."""

RATE = 0.02
"""The share of the largest budget by which it grows in a mini-batch of no loss."""


class LossFloor:
    """The share of the largest budget in effect: it grows below a loss, and shrinks above it.

    A network that fits its training data much better than others has nothing more to learn from
    them: their loss falls below the floor, and a perturbation that grows holds it there. Where the
    number of examples, their augmentation or a short training keep the loss above, the budget
    stays zero. studies/auto_epsilon.yaml measured it.

    On an accelerator, where each look at a loss waits for it, the share follows every twentieth
    mini-batch, by those since the last.

    Args:
        floor: The loss to hold; None is found from the validation loss, and without one the
            budget stays zero.

    Attributes:
        validation: The last validation loss.
        share: From 0 to 1; at first 0.
        rose: Whether it has ever been above 0; None before the first look.
    """

    def __init__(self, floor: float | None = None) -> None:
        self.given, self.share = floor, 0.0
        self.validation: float | None = None
        self.rose: bool | None = None
        self._sum: Tensor | None = None
        self._count = 0

    @property
    def floor(self) -> float | None:
        """The loss to hold; None is not known yet."""
        if self.given is not None or self.validation is None:
            return self.given
        return min(HIGHEST_FLOOR, SHARE_OF_VALIDATION * self.validation)

    def follow(self, loss: Tensor) -> None:
        """Takes on a mini-batch's loss, a detached scalar; one that is not finite is left out."""
        self._sum = loss.clone() if self._sum is None else self._sum + loss
        self._count += 1
        if self._sum.device.type != "cpu" and self._count < CHECK_EVERY:
            return
        total, count, floor = float(self._sum), self._count, self.floor
        self._sum, self._count = None, 0
        if math.isfinite(total) and floor:
            share = self.share + RATE * (count - total / floor)
            self.share = min(max(share, 0.0), 1.0)
        self.rose = bool(self.rose) or self.share > 0

    def report(self) -> None:
        """Warns of a training that was plain all along."""
        if self.rose is not False:
            return
        why = "no validation loss was told"
        if self.floor is not None:
            why = f"the training loss has not fallen below {self.floor:.3g}"
        warnings.warn(
            f'epsilon="auto" has stayed 0, since {why}: this was plain training. Where that is not'
            " what you want, give loss_floor, or epsilon as a number.",
            EmptyPerturbationWarning,
            stacklevel=2,
        )

    def state_dict(self) -> dict[str, Any]:
        """See `Carried`."""
        state = {"validation": self.validation, "share": self.share, "rose": self.rose}
        return {**state, "sum": self._sum, "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Carried`."""
        self.validation, self.share = state["validation"], state["share"]
        self.rose, self._sum, self._count = state["rose"], state["sum"], state["count"]
