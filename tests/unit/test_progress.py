"""The one progress bar: on a terminal, elsewhere, and where it is quiet."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from advreg import progress
from advreg.progress import Clock, Progress, ProgressBar, duration
from advreg.training import RunFolder
from advreg.training.records import Records


@pytest.fixture
def now(monkeypatch):
    """The time, which a test sets."""
    times = [0.0]
    for name in ("perf_counter", "monotonic"):
        monkeypatch.setattr(progress.time, name, lambda: times[0])
    return times


def shown(console, *reports):
    with ProgressBar(console, "beginning") as bar:
        for report in reports:
            bar(report)
    return console.file.getvalue()


def test_a_terminal_has_a_bar_with_share_and_time_left():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    text = shown(console, Progress(3, 4, "training [/x]", 12.0))
    assert "training [/x]" in text
    assert "━" in text
    assert "75%, 12 s left" in text


def test_elsewhere_there_is_a_line_now_and_then(now):
    console = Console(file=io.StringIO(), width=100)
    with ProgressBar(console) as bar:
        clock = Clock(bar)
        for second in range(1, 101):
            now[0] = float(second)
            clock.at(second, 200, "training [/x]")
            if second == 40:
                bar.print("epoch 1 of [/x]")
    lines = console.file.getvalue().splitlines()
    assert lines == [
        "training [/x]: 16%, 3 min left",
        "epoch 1 of [/x]",
        "training [/x]: 36%, 2 min left",
    ]


def test_nothing_is_shown_where_it_is_quiet(now):
    now[0] = 100.0
    for terminal in (False, True):
        console = Console(file=io.StringIO(), quiet=True, force_terminal=terminal)
        assert shown(console, Progress(1, 2, "training", None)) == ""


def test_the_time_left_is_judged_by_what_was_done_here(now):
    said = []
    clock = Clock(said.append)
    clock.expect(10)
    clock.did(4, "found", measured=False)
    now[0] = 6.0
    clock.did(3, "measured")
    assert said == [Progress(4, 10, "found", None), Progress(7, 10, "measured", 6.0)]
    assert str(said[0]) == "40%"


def test_a_resumed_run_shows_how_far_the_whole_training_is(now, tmp_path, capsys):
    records = Records(
        RunFolder(tmp_path),
        epochs=4,
        first_epoch=1,
        steps_per_epoch=10,
        tensorboard=False,
        quiet=False,
    )
    with records:
        records.step(1, 5)  # of which an earlier session did four
        now[0] = 50.0
        records.step(1, 10)
        records.step(4, 0)
    assert capsys.readouterr().out == "epoch 2/4: 50%, 3 min left\n"
    assert records.clock.done == records.clock.total == 40


def test_times_are_short():
    assert [duration(seconds) for seconds in (89.0, 420, 9000)] == ["89 s", "7 min", "2.5 h"]


def test_no_other_module_draws_a_bar():
    root = Path(progress.__file__).parent
    drawing = [path for path in root.rglob("*.py") if "rich.progress" in path.read_text()]
    assert drawing == [Path(progress.__file__)]
