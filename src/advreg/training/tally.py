"""Where a run is, and what its epoch has summed up."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from advreg.errors import StateError


@dataclass
class Tally:
    """Where a run is, and what the epoch in progress has summed up so far.

    Attributes:
        epoch: Epochs finished.
        step: Mini-batches done of the epoch in progress.
        updates: Optimizer steps made in all.
        passes: Forward-and-backward passes made in all.
        steps: Calls of the method's step this epoch.
        loss: Sum over this epoch's examples.
        correct: This epoch's examples that were right in training; see `StepOutput.correct`.
        examples: This epoch's examples, replays counted.
        seconds: Spent on training this epoch.
        best_score: The highest score of an epoch, see `note_if_best`; below 0 before the first.
        best_attacked: Whether accuracy under PGD is a part of that score.
        best_accuracy: The validation accuracy of that epoch.
        best_epoch: That epoch, from 1; 0 before the first.
    """

    epoch: int = 0
    step: int = 0
    updates: int = 0
    passes: float = 0.0
    steps: int = 0
    loss: float = 0.0
    correct: float = 0.0
    examples: int = 0
    seconds: float = 0.0
    best_score: float = -1.0
    best_attacked: bool = False
    best_accuracy: float = -1.0
    best_epoch: int = 0

    def next_epoch(self) -> None:
        """Moves on and empties the sums."""
        self.epoch += 1
        self.step = self.steps = self.examples = 0
        self.loss = self.correct = self.seconds = 0.0

    def note_if_best(self, record: dict[str, Any], attacked: bool) -> bool:
        """Whether the epoch that has ended is the best so far, which is noted.

        The best has the highest validation accuracy. Of a method that the PGD monitor looks at it
        has the highest mean of that and of the accuracy under PGD: by clean images alone it is
        often the epoch with the least protection. Of equally good ones it is the last, which the
        lowest learning rate has trained.

        Args:
            record: The epoch's metrics.
            attacked: Whether the monitor looks; then only epochs that it has looked at count.
        """
        figures = [record.get(name) for name in ("validation_accuracy", "monitor_pgd")]
        known = [figure for figure in figures[: 1 + attacked] if figure is not None]
        if len(known) < 1 + attacked:
            return False
        score = sum(known) / len(known)
        # A run that goes on with the monitor turned on or off has scores of another kind.
        if attacked == self.best_attacked and score < self.best_score:
            return False
        self.best_score, self.best_attacked = score, attacked
        self.best_accuracy, self.best_epoch = known[0], self.epoch
        return True

    @classmethod
    def restored(cls, state: dict[str, Any], most: int) -> Tally:
        """A tally from its saved fields.

        Args:
            state: As `dataclasses.asdict` returns them.
            most: Mini-batches of an epoch.

        Raises:
            StateError: A value is no number, or no count of such a run.
        """
        tally = cls(**state)
        for item in fields(cls):
            value = getattr(tally, item.name)
            if not isinstance(value, (int, float)) or (item.type == "int" and value < 0):
                raise StateError(f"{item.name} is {value!r}")
        if tally.step > most:
            raise StateError(f"step is {tally.step} of {most}")
        return tally
