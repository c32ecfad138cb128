"""Run folders that something happens to: each ends in a sentence, and nothing saved is lost."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager

import pytest
import torch
import yaml
from PIL import Image
from test_training_loop import configuration

from advreg import errors
from advreg.cli import main
from advreg.evaluation.pieces import Pieces
from advreg.evaluation.suite import SuiteEvaluation
from advreg.training import Interrupted, MethodSettings, RunFolder, load_run, loop, train
from advreg.training.lock import Lock
from advreg.training.session import is_finite


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "finished"
    train(configuration(out, threads=1), quiet=True)
    return out


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    # A copy of a run is a run: where it lies is no part of what it is.
    edit(folder, out=str(folder.path))
    return folder


def edit(folder, **changed):
    values = yaml.safe_load(folder.config.read_text())
    folder.config.write_text(yaml.safe_dump({**values, **changed}))


@contextmanager
def file_limit(size):
    """No file may grow beyond so many bytes: as on a full disk, writing stops in the middle."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def after(monkeypatch, updates, act):
    """Does something after so many optimizer steps."""
    plain = loop.update

    def update(session, group):
        plain(session, group)
        if session.tally.updates == updates:
            act()

    monkeypatch.setattr(loop, "update", update)


def instead(monkeypatch, updates, act):
    """Does something in place of the step after so many optimizer steps."""
    plain = loop.update

    def update(session, group):
        act() if session.tally.updates == updates else plain(session, group)

    monkeypatch.setattr(loop, "update", update)


def whole(folder):
    """That the checkpoint can be gone on from, and nothing is half-written."""
    assert not list(folder.path.glob(".*"))
    return folder.load(folder.last)["tally"]["epoch"]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"seed": 1}, "seed was 0, is 1"),
        ({"method": {"name": "dropout", "p": 0.5}}, "method.name was standard, is dropout"),
        ({"epochs": 9}, "epochs was 2, is 9"),
    ],
)
def test_an_edited_configuration_is_neither_resumed_nor_evaluated(run, changed, sentence):
    edit(run, **changed)
    with pytest.raises(errors.StateError, match=sentence):
        train(run.configuration(), resume=True, quiet=True)
    with pytest.raises(errors.StateError, match=sentence):
        load_run(run.path)


def test_a_checkpoint_of_another_run_is_not_resumed(run, tmp_path):
    train(configuration(tmp_path / "other", seed=5), quiet=True)
    shutil.copy(tmp_path / "other" / "last.pt", run.last)
    with pytest.raises(errors.StateError, match="seed was 5, is 0"):
        train(run.configuration(), resume=True, quiet=True)


@pytest.fixture
def images(tmp_path):
    """A data folder of two classes; with it a trained run."""
    for split, count in (("train", 12), ("test", 4)):
        for label in ("cat", "dog"):
            folder = tmp_path / "data" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                shade = 7 * number + 100 * (label == "dog")
                Image.new("L", (8, 8), shade).save(folder / f"{number}.png")
    values = configuration(tmp_path / "run", limit=None, batch_size=8).to_dict()
    values["data"] |= {"name": str(tmp_path / "data"), "validation": 4}
    (tmp_path / "given.yaml").write_text(yaml.safe_dump(values))
    assert main(["train", "--config", str(tmp_path / "given.yaml")]) == 0
    return tmp_path


def test_changed_data_are_seen_and_moved_data_are_not_minded(images, capsys):
    data, run = images / "data", RunFolder(images / "run")
    resume = ["train", "--out", str(run.path), "--resume"]
    measure = ["evaluate", str(run.path), "--epsilons", "0.1", "--steps", "1"]
    data.rename(images / "moved")
    assert main(resume) == 2
    assert "There is no data set, folder or file" in capsys.readouterr().err
    assert main([*measure, "--data", str(images / "moved")]) == 0
    assert main([*resume, "--data", str(images / "moved")]) == 0
    assert run.configuration().data.name == str(images / "moved")
    assert main([*resume]) == 0

    picture = images / "moved" / "train" / "cat" / "3.png"
    Image.new("L", (8, 8), 255).save(picture)
    capsys.readouterr()
    assert main(resume) == 2
    assert "images); give those that it began with" in capsys.readouterr().err
    assert main(measure) == 0  # the test images are those that they were
    (images / "moved" / "test" / "cat" / "3.png").rename(
        images / "moved" / "test" / "dog" / "9.png"
    )
    assert main(measure) == 2
    assert "have changed (test images)" in capsys.readouterr().err
    whole = picture.read_bytes()
    picture.write_bytes(whole[: len(whole) // 2])  # cut since the run began
    assert main(resume) == 2
    assert "3.png cannot be read as a PNG" in capsys.readouterr().err
    picture.write_bytes(whole)
    for split in ("train", "test"):
        (images / "moved" / split / "cat").rename(images / "moved" / split / "bird")
    assert main(measure) == 2
    assert "classes" in capsys.readouterr().err


def test_a_lost_checkpoint_is_not_taken_for_a_new_run(run):
    run.last.unlink()
    run.previous(1).unlink()
    best = run.best.read_bytes()
    with pytest.raises(errors.RunError, match=r"last\.pt is missing, although"):
        train(run.configuration(), resume=True, quiet=True)
    assert run.best.read_bytes() == best


OWNER = """
import fcntl, os, sys, time
with open(sys.argv[1], "w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    file.write(f"process {os.getpid()} on this machine")
    file.flush()
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_and_a_dead_one_is_not_waited_for(run):
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(run.lock.path)], stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout.readline() == b"held\n"
        with pytest.raises(errors.RunError, match=f"in use by process {owner.pid} on "):
            train(run.configuration(), resume=True, quiet=True)
        owner.kill()
    assert run.lock.path.exists()
    train(run.configuration(), resume=True, quiet=True)
    assert not run.lock.path.exists()


def test_of_two_new_runs_in_one_folder_one_is_refused(tmp_path):
    with Lock(tmp_path / "a"), pytest.raises(errors.RunError, match="in use"):
        train(configuration(tmp_path / "a"), quiet=True)


@pytest.mark.parametrize("ended", [False, True])
def test_a_run_that_began_while_this_one_was_being_built_is_not_disturbed(
    tmp_path, monkeypatch, ended
):
    other, session = Lock(tmp_path / "a"), loop.Session

    def build(*given):
        with ExitStack() as stack:
            stack.enter_context(other)
            (tmp_path / "a" / "config.yaml").write_text("out: a")
            if not ended:
                stack.pop_all()
        return session(*given)

    monkeypatch.setattr(loop, "Session", build)
    with pytest.raises(errors.RunError, match="is not empty" if ended else "in use"):
        train(configuration(tmp_path / "a"), quiet=True)
    assert (tmp_path / "a" / "config.yaml").read_text() == "out: a"


def test_a_full_disk_stops_the_run_and_keeps_what_is_there(tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "a")
    limits = []

    def fill():
        limits.append(file_limit(20_000))
        limits[0].__enter__()

    after(monkeypatch, 3, fill)  # in the second epoch
    try:
        with pytest.raises(errors.RunError, match=r"cannot be written \(File too large\).*kept"):
            train(configuration(run.path), quiet=True)
    finally:
        limits[0].__exit__(None, None, None)
    assert whole(run) == 1
    monkeypatch.undo()
    assert len(train(configuration(run.path), resume=True, quiet=True).metrics) == 2


def test_metrics_that_cannot_be_written_are_a_sentence(run):
    run.metrics.unlink()
    run.metrics.symlink_to("/dev/full")
    with pytest.raises(errors.RunError, match=r"No space left on device.*make room"):
        run.add_metrics({"epoch": 1})


@pytest.mark.parametrize("replaced", [False, True])
def test_a_folder_removed_or_replaced_in_mid_run_is_a_sentence(tmp_path, monkeypatch, replaced):
    out = tmp_path / "a"

    def move():
        out.rename(tmp_path / "elsewhere")
        if replaced:
            out.mkdir()

    after(monkeypatch, 3, move)
    with pytest.raises(errors.RunError, match="removed or replaced"):
        train(configuration(out), quiet=True)
    kept = RunFolder(tmp_path / "elsewhere")
    assert kept.load(kept.last)["tally"]["epoch"] == 1
    assert not out.exists() or not list(out.iterdir())


def test_a_read_only_folder_is_refused_before_anything_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)  # a superuser may write everywhere
    with pytest.raises(errors.RunError, match="cannot be written to"):
        train(configuration(tmp_path), quiet=True)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.undo()
    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(errors.RunError, match="Permission denied"):
        train(configuration(tmp_path), quiet=True)


def test_a_folder_of_a_run_killed_before_its_first_file_can_be_started(tmp_path):
    half = tmp_path / ".config.yaml.some.host.123.tmp"
    half.write_text("out: ")
    (tmp_path / ".lock").write_text("process 123 on some.host")
    assert len(train(configuration(tmp_path), quiet=True).metrics) == 2
    assert not half.exists()


def test_a_run_killed_before_its_first_checkpoint_can_be_resumed(run):
    for path in (run.last, run.previous(1), run.best, run.metrics):
        path.unlink()
    assert len(train(run.configuration(), resume=True, quiet=True).metrics) == 2


@pytest.mark.parametrize("line", ["{", '{"epoch": "1"}', "[]", "\xff", "[" * 9999])
def test_a_broken_line_of_the_metrics_is_named(run, line):
    text = run.metrics.read_text().splitlines()
    run.metrics.write_text("\n".join([text[0], line, text[1], ""]), encoding="latin-1")
    with pytest.raises(errors.RunError, match="Line 2 of"):
        train(run.configuration(), resume=True, quiet=True)


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "last.pt", "best.pt"])
def test_a_folder_in_a_files_place_is_a_sentence(run, name):
    (run.path / name).unlink()
    (run.path / name).mkdir()
    for path in (run.previous(1),) if name == "last.pt" else ():
        path.unlink()
    with pytest.raises((errors.AdvregError, errors.DamagedCheckpointWarning), match=name):
        train(configuration(run.path, epochs=2), resume=True, quiet=True)


@pytest.mark.parametrize("name", ["a" * 300, "a/" * 2000, "bad\udcff", "nul\0", "tab\t"])
def test_names_that_no_folder_can_have_are_refused(name):
    with pytest.raises(errors.ConfigurationError, match=r"^out is"):
        configuration(name)


@pytest.mark.full  # imports torch in a process of its own
def test_a_reader_that_goes_away_stops_the_run_and_saves_it(tmp_path):
    options = "--limit 64 --epochs 3 --batch_size 32 --device cpu --tensorboard false --threads 1"
    program = "import sys; from advreg.cli import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "train", *options.split(), "--out", str(tmp_path / "a")],
        env={**os.environ, "PYTHONUNBUFFERED": ""},  # what is printed first waits in the buffer
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait() == 141
    assert said.startswith("advreg: The output was closed; the run is saved. Go on with: ")
    assert said.count("\n") == 1
    assert whole(RunFolder(tmp_path / "a")) == 1


@contextmanager
def hangups(handler):
    """What a hangup does meanwhile; whoever runs the tests may have nohup ignore it."""
    before = signal.signal(signal.SIGHUP, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    "numbers",
    [
        [signal.SIGTERM],
        [signal.SIGINT],
        [signal.SIGUSR1],
        [signal.SIGHUP, signal.SIGHUP],  # by the shell and by the system
    ],
)
def test_signals_save_and_say_how_to_go_on(tmp_path, monkeypatch, numbers):
    after(monkeypatch, 1, lambda: [signal.raise_signal(number) for number in numbers])
    with (
        hangups(signal.SIG_DFL),
        pytest.raises(Interrupted, match=r"advreg train --out .* --resume"),
    ):
        train(configuration(tmp_path / "a"), quiet=True)
    run = RunFolder(tmp_path / "a")
    assert run.load(run.last)["tally"]["updates"] == 1


def test_under_nohup_a_hangup_stops_nothing(tmp_path, monkeypatch):
    after(monkeypatch, 1, lambda: signal.raise_signal(signal.SIGHUP))
    with hangups(signal.SIG_IGN):
        try:
            train(configuration(tmp_path / "a"), quiet=True)
        except Interrupted:  # which would end the tests
            pytest.fail("the run was stopped")
    assert whole(RunFolder(tmp_path / "a")) > 1


def test_a_checkpoint_is_due_after_so_many_minutes_whatever_the_clock_says(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.time", lambda: -1e9)  # the wall clock jumps
    steps = []

    def pass_time():
        now[0] += 40
        run = RunFolder(tmp_path / "a")
        steps.append(run.load(run.last)["tally"]["updates"])

    plain = loop.update

    def update(session, group):
        plain(session, group)
        pass_time()

    monkeypatch.setattr(loop, "update", update)
    given = configuration(tmp_path / "a", epochs=1, batch_size=16, checkpoint_minutes=1)
    train(given, quiet=True)
    assert steps == [0, 0, 2, 2]


def test_too_little_memory_is_a_sentence_with_the_batch_size(tmp_path, monkeypatch):
    plain = loop.update

    def update(session, group):
        if session.tally.updates == 3:
            torch.empty(10**15)
        plain(session, group)

    monkeypatch.setattr(loop, "update", update)
    with pytest.raises(errors.RunError, match="step with batch_size 32; lower it"):
        train(configuration(tmp_path / "a"), quiet=True)
    assert whole(RunFolder(tmp_path / "a")) == 1


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), ValueError("their own code's")])
def test_a_run_whose_first_step_fails_frees_its_folder(tmp_path, monkeypatch, error):
    def fail():
        raise error

    for step, left in ((1, {"config.yaml", "last.pt", "metrics.jsonl"}), (0, set())):
        out = tmp_path / str(step)
        with monkeypatch.context() as patch:
            instead(patch, step, fail)
            with pytest.raises((errors.RunError, ValueError)) as caught:
                train(configuration(out), quiet=True)
        assert ("kept" in str(caught.value)) == (step == 1 and "memory" in str(error))
        assert {path.name for path in out.iterdir()} >= left
        assert bool(list(out.iterdir())) == bool(left)
    train(configuration(out), quiet=True)  # with what was mended


def test_what_somebody_else_wrote_meanwhile_stays(tmp_path, monkeypatch):
    def fail():
        (tmp_path / "run" / "notes.txt").write_text("mine")
        raise ValueError

    instead(monkeypatch, 0, fail)
    with pytest.raises(ValueError):
        train(configuration(tmp_path / "run"), quiet=True)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["weight gradient", "input gradient", "input"])
def test_what_is_not_finite_stops_the_run_or_leaves_no_trace(tmp_path, monkeypatch, number, where):
    """Policy: the run stops with a sentence, and the last good checkpoint is kept."""
    plain, run = loop.update, RunFolder(tmp_path / "a")

    def update(session, group):
        if session.tally.updates < 2:
            return plain(session, group)
        hooks = []
        if where == "weight gradient":
            hooks.append(session.model.linear.weight.register_hook(lambda g: g * number))
        if where == "input":
            group[0].inputs[0, 0, 0, 0] = number
        if where == "input gradient":
            first = next(m for m in session.model.modules() if isinstance(m, torch.nn.Conv2d))
            hooks.append(first.register_full_backward_hook(lambda m, i, o: (i[0] * number,)))
        plain(session, group)
        return [hook.remove() for hook in hooks]

    monkeypatch.setattr(loop, "update", update)
    method = MethodSettings("layerwise", {"sites": ["input"], "epsilon": 0.1})
    if where == "input gradient":  # only a sign of it is kept
        train(configuration(run.path, method=method), quiet=True)
    else:
        with pytest.raises(errors.AdvregError, match=r"kept|finite"):
            train(configuration(run.path, method=method), quiet=True)
        assert whole(run) == 1
    kept = run.load(run.last)
    assert all(is_finite(kept[part]) for part in ("model", "method", "optimizer"))


def test_a_hostile_run_folder_runs_no_code_when_evaluated(run, capsys, monkeypatch):
    (run.path / "hostile.py").write_text("open('ran', 'w')\nclass Method: pass\n")
    monkeypatch.chdir(run.path)
    edit(run, method={"name": "hostile:Method"})
    assert main(["evaluate", "."]) == 2
    assert main(["train", "--out", ".", "--resume"]) == 2
    assert "code that is not advreg's" in capsys.readouterr().err
    run.config.write_text("out: !!python/object/apply:os.system ['touch ran']\n")
    assert main(["evaluate", "."]) == 2
    assert not os.path.exists("ran")


def test_an_evaluation_is_refused_where_it_could_not_be_written(run, capsys, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    assert main(["evaluate", str(run.path), "--limit", "4"]) == 2
    assert "cannot be written to" in capsys.readouterr().err


def test_a_disk_full_at_an_evaluations_end_loses_nothing(run, capsys, monkeypatch):
    write = SuiteEvaluation.write

    def full(*arguments, **more):
        with file_limit(100):
            return write(*arguments, **more)

    monkeypatch.setattr(SuiteEvaluation, "write", full)
    command = ["evaluate", str(run.path), "--limit", "8", "--steps", "1", "--epsilons", "0.1"]
    assert main(command) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert (run.path / "evaluation.partial.npz").exists()
    monkeypatch.undo()
    done = []
    put = Pieces.put
    monkeypatch.setattr(Pieces, "put", lambda *a: (done.append(a[1]), put(*a)))
    assert main(command) == 0
    assert not done  # all was measured before
    assert json.loads((run.path / "evaluation.json").read_text())["examples"] == 8
