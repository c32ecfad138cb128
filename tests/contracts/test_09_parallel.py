"""Semantic 9: two ranks train as one process that accumulates their halves; memories stay local."""

import copy
import tempfile
import time

import pytest
import torch
import torch.distributed as distributed
import torch.nn.functional as F
from settings import ADVERSARIES, MEMORIES, SETTINGS, STEPS, identical, sgd, tiny
from torch.nn.parallel import DistributedDataParallel

NAMES = [
    name
    for name in [*STEPS, *(f"layerwise-{name}" for name in MEMORIES if name != "slot")]
    if name != "dropout"  # draws from PyTorch's own random state, which each process has
]

STEPS = 3


def halves(setting):
    """Each step's batch of eight as two of four."""
    for batch in setting.batches(STEPS, dtype=torch.float64):
        yield [batch.select(torch.arange(4)), batch.select(torch.arange(4, 8))]


def rank_trains(rank, folder):
    """One of two processes: every name in turn."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    for name in NAMES:
        setting = SETTINGS[name]
        model, method = tiny(norm=False, dtype=torch.float64), setting.method()
        optimizer = sgd(model)
        losses = []
        with method.attach(model, steps_per_epoch=STEPS):
            wrapped = DistributedDataParallel(model)
            for batch in halves(setting):
                output = method.step(wrapped, batch[rank], F.cross_entropy, torch.Tensor.backward)
                optimizer.step()
                optimizer.zero_grad()
                losses.append(output.loss)
            state = copy.deepcopy(method.state_dict())
        torch.save([torch.stack(losses), model.state_dict(), state], f"{folder}/{name}-{rank}.pt")
    distributed.destroy_process_group()


PATIENCE = 150
"""Seconds for both ranks, which take twenty."""


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """What each rank has after training every name."""
    folder = tmp_path_factory.mktemp("ranks")
    ranks = torch.multiprocessing.spawn(rank_trains, (str(folder),), nprocs=2, join=False)
    deadline = time.monotonic() + PATIENCE
    while not ranks.join(timeout=5) and time.monotonic() < deadline:
        pass
    for process in ranks.processes:  # a rank was once seen to hang after all was saved
        process.kill()
    return {
        name: [torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in range(2)]
        for name in NAMES
    }


def one_process(name):
    """Accumulates the halves, a method of its own for each half."""
    setting = SETTINGS[name]
    model = tiny(norm=False, dtype=torch.float64)
    optimizer = sgd(model)
    losses, states = [[], []], [None, None]
    for batch in halves(setting):
        for half in range(2):
            method = setting.method()
            with method.attach(model, steps_per_epoch=STEPS):
                if states[half] is not None:
                    method.load_state_dict(states[half])
                output = method.step(
                    model, batch[half], F.cross_entropy, lambda loss: (loss / 2).backward()
                )
                states[half] = copy.deepcopy(method.state_dict())
            losses[half].append(output.loss)
        optimizer.step()
        optimizer.zero_grad()
    return [[torch.stack(losses[half]), model.state_dict(), states[half]] for half in range(2)]


@pytest.mark.full
@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_train_as_one_process(two_ranks, name):
    ranks, halves = two_ranks[name], one_process(name)
    for rank, half in zip(ranks, halves, strict=True):
        assert torch.allclose(rank[0], half[0], atol=1e-12)
        for key in rank[1]:
            assert torch.allclose(rank[1][key], half[1][key], atol=1e-12)
        assert identical(rank[2], half[2])
    assert identical(ranks[0][1], ranks[1][1])
    assert not ranks[0][0].equal(ranks[1][0])
    if name.startswith("layerwise"):
        assert not identical(ranks[0][2], ranks[1][2])


def test_a_wrapper_finds_no_memory_to_share():
    """What is in no buffer, parameter or module is neither reduced nor broadcast."""
    for name in MEMORIES:
        setting, model = ADVERSARIES[name], tiny()
        adversary = setting.adversary()

        def held(model=model):
            return {id(tensor) for tensor in [*model.parameters(), *model.buffers()]}

        before = held()
        with adversary.attach(model):
            for batch in setting.batches(2):
                adversary.set_batch(batch.indices, batch.view)
                F.cross_entropy(model(batch.inputs), batch.targets).backward()
            assert held() == before


def test_attaching_to_a_wrapper_attaches_to_the_network_within():
    with tempfile.TemporaryDirectory() as folder:
        distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1
        )
        try:
            setting, model = ADVERSARIES["slot"], tiny()
            adversary = setting.adversary()
            wrapped = DistributedDataParallel(model)
            with adversary.attach(wrapped):
                for batch in setting.batches(2):
                    F.cross_entropy(wrapped(batch.inputs), batch.targets).backward()
                sites = adversary.statistics()
        finally:
            distributed.destroy_process_group()
    assert "stem" in sites or "stage" in sites or "stage.0" in sites
    assert all(site["records"] == 2 for site in sites.values())
