"""One run on two devices: every method trains, its ranks agree, and it resumes to the bit."""

import shutil
import signal

import pytest
import torch
from ranks import in_two
from test_resume import assert_same, outcome

from advreg.errors import MemoryResetWarning
from advreg.methods import METHODS
from advreg.training import (
    Configuration,
    DataSettings,
    Interrupted,
    MethodSettings,
    ModelSettings,
    OptimizerSettings,
    RunFolder,
    RunSettings,
    loop,
    resolve,
    train,
)
from advreg.training.session import Session
from advreg.training.team import Team

EPOCHS, STOP = 2, 4
EXAMPLE = {"epsilon": 0.1, "memory": "example", "sites": ["input"]}
SETTINGS = {
    **{name: {} for name in METHODS},
    "free": {"replays": 2},
    "pgd": {"steps": 2},
    "trades": {"steps": 2},
    "layerwise": {"epsilon": 0.1},
    "layerwise-paired": {"epsilon": 0.1, "pair": True},
    "layerwise-example": EXAMPLE,
    "layerwise-random": {"epsilon": 0.1, "direction": "random"},
    "layerwise-accumulating": {**EXAMPLE, "step_size": 0.05, "start": "random"},
    "previous_fgsm-batch": {"start": "batch"},
    "layerwise+sam": {"layerwise": {"epsilon": 0.1}},
    "layerwise+mixup": {"layerwise": {"epsilon": 0.1}},
    "awp+pgd": {"pgd": {"steps": 2}},
}
SETTINGS["standard-flat"] = {}
QUICK = ["layerwise", "layerwise-example", "standard-flat"]


def configuration(out, name, **run):
    flat = name.endswith("flat")
    return Configuration(
        RunSettings(
            str(out), EPOCHS, batch_size=20, tensorboard=False, device="cpu", threads=1, **run
        ),
        # The last batch is smaller and, but for one, odd: an example of it is nobody's.
        DataSettings("digits", limit=77 + flat, validation=30, augment="crop_flip", padding=1),
        ModelSettings("ranks:flat" if flat else "convnet"),
        MethodSettings(name.partition("-")[0], SETTINGS[name]),
        OptimizerSettings(ema=0.9, clip=1.0),
    )


def train_each(rank, folder, names):
    """What each process does: a whole run, and one that a signal to the second rank stops."""
    torch.set_num_threads(1)
    finish = loop.finish_epoch
    for name in names:

        def finish_epoch(session, *rest, name=name):
            finish(session, *rest)
            torch.save(session.model.state_dict(), folder / f"{name} {rank}.pt")

        loop.finish_epoch = finish_epoch
        train(configuration(folder / name, name, devices=2), quiet=True)
        loop.finish_epoch = finish
        stopped = configuration(folder / f"{name} stopped", name, devices=2)
        with_signal(rank, stopped)
        if rank == 0 and name == "layerwise-example":
            shutil.copytree(folder / f"{name} stopped", folder / "early")
        train(stopped, resume=True, quiet=True)


WAYS = {
    "accumulated": ("layerwise-example", {"accumulate": 2}),
    "bfloat16": ("layerwise", {"precision": "bf16-mixed"}),
    "both": ("layerwise-accumulating", {"accumulate": 2, "precision": "bf16-mixed"}),
}


def train_ways(rank, folder):
    """Each way whole, and stopped in the middle of its second epoch."""
    torch.set_num_threads(1)
    for way, (name, run) in WAYS.items():
        train(configuration(folder / way, name, devices=2, **run), quiet=True)
        stopped = configuration(folder / f"{way} stopped", name, devices=2, **run)
        with_signal(rank, stopped, updates=3 if "accumulate" in run else 6)
        train(stopped, resume=True, quiet=True)


@pytest.mark.full
def test_accumulated_and_in_bfloat16_two_devices_resume_to_the_bit(tmp_path):
    assert in_two(train_ways, tmp_path) == [0, 0]
    for way in WAYS:
        assert_same_but_names(outcome(tmp_path / way), outcome(tmp_path / f"{way} stopped"))


def assert_same_but_names(whole, stopped):
    """Outcomes of two ranks in two folders."""
    for one in (whole, stopped):
        for part in (one["last"], one["best"]):
            part["identity"] = None  # names its folder
        for part in one["last"]["ranks"]:
            part["tally"].pop("seconds")
    assert_same(whole, stopped)


def with_signal(rank, stopped, updates=STOP):
    update = loop.update

    def signalled(session, group):
        update(session, group)
        if rank == 1 and session.tally.updates == updates:
            signal.raise_signal(signal.SIGTERM)

    loop.update = signalled
    with pytest.raises(SystemExit if rank else Interrupted) as leaving:
        train(stopped, quiet=True)
    assert rank == 0 or leaving.value.code == 130
    loop.update = update


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("quick"), QUICK)


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("others"), [n for n in SETTINGS if n not in QUICK])


def trained(folder, names):
    assert in_two(train_each, folder, names) == [0, 0]
    return folder


def average(*networks):
    """Each gradient is the networks' mean, in one piece: the last bit of a norm hangs on that."""
    flat = [torch.cat([one.grad.reshape(-1) for one in net.parameters()]) for net in networks]
    for net in networks:
        mean, begin = sum(flat) / len(networks), 0
        for one in net.parameters():
            one.grad = mean[begin : begin + one.numel()].view_as(one)
            begin += one.numel()


def twin(chosen):
    """The weights that one process comes to which plays both ranks, one after the other."""
    sessions, random = [], []
    for rank in (0, 1):
        sessions.append(Session(chosen, Team(rank, 2)))
        random.append(torch.get_rng_state())
    networks = [session.model.train() for session in sessions]
    handles = [session.attached() for session in sessions]
    for epoch in range(EPOCHS):
        for halves in zip(*(session.loader.epoch(epoch) for session in sessions), strict=True):
            for _ in range(sessions[0].method.replays):
                for rank, (session, half) in enumerate(zip(sessions, halves, strict=True)):
                    torch.set_rng_state(random[rank])
                    session.method.step(
                        session.model,
                        session.prepare(half),
                        session.criterion,
                        torch.Tensor.backward,
                    )
                    random[rank] = torch.get_rng_state()
                average(*networks)
                for one, other in zip(*(net.buffers() for net in networks), strict=True):
                    other.copy_(one)
                for session in sessions:
                    torch.nn.utils.clip_grad_norm_(session.model.parameters(), 1.0)
                    session.optimizer.step()
                    session.optimizer.zero_grad()
                    session.schedule.step()
    for handle in handles:
        handle.detach()
    return networks[0].state_dict()


@pytest.mark.parametrize(
    "name",
    [*QUICK, *[pytest.param(n, marks=pytest.mark.full) for n in SETTINGS if n not in QUICK]],
)
def test_two_devices(name, request):
    folder = request.getfixturevalue("quick" if name in QUICK else "others")
    first, second = (torch.load(folder / f"{name} {rank}.pt") for rank in (0, 1))
    assert_same(first, second)
    whole, stopped = outcome(folder / name), outcome(folder / f"{name} stopped")
    assert_same_but_names(whole, stopped)
    expected = twin(resolve(configuration(folder / "unused", name, devices=2)))
    for key, value in expected.items():
        assert torch.allclose(value.double(), first[key].double(), rtol=1e-4, atol=1e-6), key
    last = whole["last"]
    assert len(last["ranks"]) == 1
    if remembers(last["method"]):
        assert not same(last["method"], last["ranks"][0]["method"])


def test_without_memory_or_batch_statistics_two_devices_are_one(quick, tmp_path):
    train(configuration(tmp_path / "run", "standard-flat"), quiet=True)
    one, two = RunFolder(tmp_path / "run"), RunFolder(quick / "standard-flat")
    weights, others = one.load(one.last)["model"], two.load(two.last)["model"]
    for name, weight in weights.items():
        assert torch.allclose(weight, others[name], rtol=1e-4, atol=1e-6)
    for alone, shared in zip(one.read_metrics(), two.read_metrics(), strict=True):
        assert alone["train_loss"] == pytest.approx(shared["train_loss"], rel=1e-4)
        assert alone["train_accuracy"] == shared["train_accuracy"]
        assert alone["validation_accuracy"] == shared["validation_accuracy"]


def remembers(state):
    """Whether a state holds a tensor anywhere."""
    if isinstance(state, dict):
        return any(map(remembers, state.values()))
    return isinstance(state, torch.Tensor)


def same(first, second):
    try:
        assert_same(first, second)
    except AssertionError:
        return False
    return True


def test_example_memory_follows_its_examples_to_one_device(quick, tmp_path):
    """The rows of two ranks, interleaved, are those that one device goes on with."""
    shutil.copytree(quick / "early", tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    state = folder.load(folder.last)
    chosen = configuration(tmp_path / "run", "layerwise-example")
    session = Session(chosen)
    with pytest.warns(MemoryResetWarning, match="with 1 devices and was saved with 2"):
        session.load_state_dict(state)

    def visits(part):
        return part["adversary"]["sites"]["input"]["calls"][0]["memory"]["stores"][0]["visits"]

    both = [visits(part["method"]) for part in (state, *state["ranks"])]
    with session.attached():
        now = visits(session.method.state_dict())
    assert torch.equal(now[0::2], both[0][: len(now[0::2])])
    assert torch.equal(now[1::2], both[1][: len(now[1::2])])
    assert session.tally.examples == sum(
        part["tally"]["examples"] for part in (state, *state["ranks"])
    )
    with pytest.warns(MemoryResetWarning):
        result = train(chosen, resume=True, quiet=True)
    assert len(result.metrics) == EPOCHS
