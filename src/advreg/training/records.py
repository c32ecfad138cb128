"""What a run tells while it trains: metrics, TensorBoard, and a line or a bar for its user."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from advreg.training.folder import RunFolder


def describe(record: dict[str, Any], epochs: int) -> str:
    """One epoch's line for people."""
    return (
        f"epoch {record['epoch']:{len(str(epochs))}}/{epochs}"
        f"  train {record['train_accuracy']:6.2%} (loss {record['train_loss']:.3f})"
        f"  validation {record['validation_accuracy']:6.2%}"
        f" (loss {record['validation_loss']:.3f})"
        f"  {record['seconds']:.1f} s"
    )


class Records:
    """Writes each epoch to the run folder and shows how far the run is.

    Args:
        folder: The run's.
        epochs: How many there will be.
        first_epoch: The one that is next, from 0; above 0 when the run is resumed.
        steps_per_epoch: Mini-batches an epoch.
        tensorboard: Whether to write event files.
        quiet: Show nothing.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        epochs: int,
        first_epoch: int,
        steps_per_epoch: int,
        tensorboard: bool,
        quiet: bool,
    ) -> None:
        self.folder = folder
        self.epochs = epochs
        self.console = Console(quiet=quiet, highlight=False, soft_wrap=True)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            refresh_per_second=2,  # ten, the default, take one per cent of a core
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("", total=steps_per_epoch)
        self.writer = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # takes a second to import

            self.writer = SummaryWriter(folder.path / "tensorboard", purge_step=first_epoch + 1)

    def __enter__(self) -> Records:
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.bar.stop()
        if self.writer is not None:
            self.writer.close()

    def say(self, text: str) -> None:
        """Prints a line, above the bar where there is one."""
        self.console.print(text, markup=False)

    def step(self, epoch: int, step: int) -> None:
        """Moves the bar: `step` mini-batches of epoch `epoch`, from 0, are done."""
        self.bar.update(self.task, description=f"epoch {epoch + 1}", completed=step)

    def epoch(self, record: dict[str, Any]) -> None:
        """Writes one epoch's metrics everywhere."""
        self.folder.add_metrics(record)
        self.say(describe(record, self.epochs))
        if self.writer is not None:
            for name, value in record.items():
                if name != "epoch" and isinstance(value, (int, float)):
                    self.writer.add_scalar(name, value, record["epoch"])
