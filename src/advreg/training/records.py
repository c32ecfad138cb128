"""What a run reports while it trains: metrics, TensorBoard, lines and a bar for its user."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

from advreg.errors import OutputError
from advreg.extras import needs
from advreg.files import writing
from advreg.progress import Clock, Progress, ProgressBar
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
        line: An epoch's line for people, from its metrics and the number of epochs.
        closed: Called when what is printed cannot be written any more.
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
        line: Callable[[dict[str, Any], int], str] = describe,
        closed: Callable[[OutputError], object] = lambda error: None,
    ) -> None:
        with needs("cli", "training in a run folder"):
            from rich.console import Console

        self.folder = folder
        self.line = line
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.bar = ProgressBar(Console(quiet=quiet))
        self.clock = Clock(self._show)
        self.clock.expect(epochs * steps_per_epoch)
        self.started = False
        self.closed = closed
        self.writer = None
        if tensorboard:
            with needs("cli", "a log for TensorBoard (see --tensorboard)"):
                from torch.utils.tensorboard import SummaryWriter  # takes a second to import

            with writing(folder.events):
                self.writer = SummaryWriter(folder.events, purge_step=first_epoch + 1)

    def __enter__(self) -> Records:
        self.bar.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._printing():
            self.bar.__exit__(kind, error, traceback)
        if self.writer is not None:
            with suppress(OSError) if error else writing(self.folder.events):
                self.writer.close()

    def step(self, epoch: int, step: int) -> None:
        """`step` mini-batches of epoch `epoch`, from 0, are done."""
        done = epoch * self.steps_per_epoch + step
        text = f"epoch {min(epoch + 1, self.epochs)}/{self.epochs}"
        # Before the first call lies what an earlier session did.
        self.clock.did(done - self.clock.done, text, measured=self.started)
        self.started = True

    def epoch(self, record: dict[str, Any]) -> None:
        """Writes one epoch's metrics everywhere."""
        self.folder.add_metrics(record)
        with self._printing():
            self.bar.print(self.line(record, self.epochs))
        if self.writer is not None:
            with writing(self.folder.events):
                for name, value in record.items():
                    if name != "epoch" and isinstance(value, (int, float)):
                        self.writer.add_scalar(name, value, record["epoch"])

    def _show(self, progress: Progress) -> None:
        with self._printing():
            self.bar(progress)

    @contextmanager
    def _printing(self) -> Iterator[None]:
        try:
            yield
        except (OutputError, OSError, SystemExit) as error:  # rich leaves when a pipe is closed
            self.bar.console.quiet = True
            self.closed(error if isinstance(error, OutputError) else OutputError(error))
