"""Running a study on this machine: what is missing, in parallel, then results and page."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from advreg.errors import RunError
from advreg.files import check_folder
from advreg.progress import Clock, ProgressBar
from advreg.report import print_study, write_study
from advreg.study.budget import epochs_of, step_times
from advreg.study.collecting import Collected, collect
from advreg.study.definition import Study
from advreg.study.engines import Engine, Here
from advreg.study.execution import (
    BUSY,
    DONE,
    FAILED,
    FAILURE,
    ROW,
    SKIPPED,
    is_free,
    write_failure,
)
from advreg.study.files import read_json
from advreg.study.pool import Ended
from advreg.study.runs import StudyRun, cells, plan_runs
from advreg.training import Interrupted

PATIENCE = 30.0
"""Seconds; a network file system may take as long to give up a dead machine's lock."""


def plan(
    study: Study, out: Path | None = None, places: Mapping[str, str] | None = None
) -> list[StudyRun]:
    """A study's runs, in the order in which they are done.

    Args:
        study: The study.
        out: Its folder, which a budget of seconds needs, and which remembers the data.
        places: Where the data are that the study calls by these names.
    """
    found = cells(study, places)
    runs = plan_runs(study, found, epochs_of(study, found, out), out)
    # Before the first run alone: beside others, or on the machine that collects, times say nothing.
    if study.time_steps and out is not None and not any(run.folder(out).exists() for run in runs):
        step_times(study, found, out)
    return runs


def run_study(
    runs: Sequence[StudyRun],
    out: Path,
    *,
    engine: Engine | None = None,
    patience: float = PATIENCE,
    until: float = math.inf,
    quiet: bool = False,
) -> dict[str, int]:
    """Does what is missing of some runs.

    Args:
        runs: All of a study's, or some.
        out: The study's folder.
        engine: Where; None is `Here`.
        patience: Seconds to wait, once nothing else is left, for runs that another process has:
            they are done again where it dies.
        until: When, by `time.monotonic`, to leave what is not finished, saved.
        quiet: Print nothing.

    Returns:
        How many runs ended done, skipped, failed and busy.

    Raises:
        Interrupted: Ctrl-C, SIGTERM, SIGUSR1 or a hangup; what was under way is saved.
        RunError: The folder cannot be written to.
    """
    check_folder(out)
    counts = dict.fromkeys((DONE, SKIPPED, FAILED, BUSY), 0)
    left = list({run.id: run for run in runs if not (run.folder(out) / ROW).exists()}.values())
    counts[SKIPPED] = len(runs) - len(left)
    out.mkdir(parents=True, exist_ok=True)
    engine = engine or Here()
    console = Console(highlight=False, quiet=quiet)
    console.print(f"{len(left)} of {len(runs)} runs to do, {engine.places}.", markup=False)
    others: list[StudyRun] = []  # at work elsewhere
    with ProgressBar(console, "training") as bar:
        while left:
            progress = _Progress(left, out, bar, counts, until)
            found, interrupted = engine(left, out, progress)
            if interrupted:
                raise Interrupted(
                    f"Interrupted; {counts[DONE]} runs were finished and the others are saved. Go"
                    " on with the same command."
                )
            others += [run for run, one in zip(left, found, strict=True) if one == Ended(BUSY)]
            left = _wait(others, out, min(patience, until - time.monotonic()), bar)
            others = [run for run in others if run not in left]
            counts[BUSY] = len(others)
    return counts


def _wait(busy: Sequence[StudyRun], out: Path, patience: float, bar: ProgressBar) -> list[StudyRun]:
    """Those of other processes' runs that have become free, as soon as there are some."""
    end = time.monotonic() + patience
    if busy:
        bar.print(f"waiting for {len(busy)} runs that another process has")
    while busy and time.monotonic() < end:
        if free := [run for run in busy if is_free(run, out)]:
            return free
        time.sleep(1)
    return []


class _Progress:
    """Counts epochs, the finished and those under way, for the time that is left."""

    def __init__(
        self,
        runs: Sequence[StudyRun],
        out: Path,
        bar: ProgressBar,
        counts: dict[str, int],
        until: float,
    ) -> None:
        self.runs, self.out, self.bar, self.counts, self.until = runs, out, bar, counts, until
        self.clock = Clock(bar)
        self.clock.expect(sum(self._epochs(index) for index in range(len(runs))))
        self.seen = [min(self._trained(index), self._epochs(index)) for index in range(len(runs))]
        self.clock.did(sum(self.seen), "training", measured=False)
        self.began = time.monotonic()

    def _epochs(self, index: int) -> int:
        return self.runs[index].configuration.run.epochs

    def _trained(self, index: int) -> int:
        metrics = self.runs[index].folder(self.out) / "run" / "metrics.jsonl"
        try:
            return metrics.read_bytes().count(b"\n")
        except OSError:
            return 0

    def _note(self, index: int, epochs: int) -> None:
        further = min(epochs, self._epochs(index)) - self.seen[index]
        if further > 0:
            self.seen[index] += further
            ended = sum(self.counts[name] for name in (DONE, FAILED, BUSY))
            self.clock.did(further, f"{ended} of {len(self.runs)} runs")

    def tick(self, under_way: Sequence[int]) -> None:
        for index in under_way:
            self._note(index, self._trained(index))

    def ended(self, index: int, found: Ended) -> None:
        run = self.runs[index]
        if found.interrupted:
            return
        state = FAILED if found.reason is not None else str(found.value)
        self.counts[state] = self.counts.get(state, 0) + 1
        if found.reason is not None:
            write_failure(run.folder(self.out), found.reason)
        self._note(index, self._epochs(index))
        self.bar.print(describe(run, self.out, state))


def describe(run: StudyRun, out: Path, state: str) -> str:
    """One run's end, for people."""
    if state == FAILED:
        return f"{run.name}: failed ({read_json(run.folder(out) / FAILURE)['reason']})"
    if state == BUSY:
        return f"{run.name}: another process is at work on it"
    row = read_json(run.folder(out) / ROW)
    robust = "".join(f", PGD {text} {found:.1%}" for text, found in row["robust"].items())
    return f"{run.name}: clean {row['clean']:.1%}{robust}, {row['seconds']:.0f} s"


def finish(
    study: Study, runs: Sequence[StudyRun], out: Path, command: str, console: Console
) -> Collected:
    """Collects what there is, writes the page, and says what came out and what is missing.

    Raises:
        RunError: There is nothing to collect.
    """
    found = collect(study, runs, out, command)
    if not found.rows:
        first = f", the first one with {found.failures[0]['reason']}" if found.failures else ""
        raise RunError(f"No run of the study in {out} is finished yet{first}; run it first.")
    page = write_study(found.path)
    print_study(found.path, console)
    console.print(
        f"{len(found.rows)} runs are done, {len(found.failures)} failed,"
        f" {len(found.missing)} are missing. Figures: {found.path}",
        markup=False,
        soft_wrap=True,
    )
    console.print(f"Page: {page}", markup=False, soft_wrap=True)
    return found
