"""Two processes: each has memories of its own, which a checkpoint holds and a resumed run finds."""

import os
import time

import pytest
import torch
import torch.distributed as distributed
import torch.nn.functional as F
from test_integrations_lightning import Plain, Trained, data, equal, network, trainer
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

from advreg import Batch, LayerwiseAdversary
from advreg.data import with_indices
from advreg.errors import UnsupportedError
from advreg.integrations import ranks as gathering
from advreg.integrations.lightning import AdversaryCallback
from advreg.methods import build_method

accelerate = pytest.importorskip("accelerate")

from advreg.integrations.accelerate import AcceleratedAdversary  # noqa: E402

SETTINGS = {"epsilon": 0.1, "sites": ("input", "0", "1")}
PATIENCE = 300
"""Seconds for both ranks, which take twenty."""

pytestmark = pytest.mark.full


def first_rank_alone(state):
    """What Lightning and Accelerate do without the gathering: every rank has the first one's."""
    _, size = gathering.rank_and_size()
    held = [gathering.on_the_cpu(state)]
    distributed.broadcast_object_list(held)
    return {gathering.RANKS: held * size}


class sabotaged:
    """Within it the ranks' states are not gathered."""

    def __enter__(self):
        from advreg.integrations import accelerate as one
        from advreg.integrations.lightning import callback as other

        self.modules = one, other
        for module in self.modules:
            module.gather_states = first_rank_alone

    def __exit__(self, *error):
        for module in self.modules:
            module.gather_states = gathering.gather_states


def by_lightning(folder, resume=False):
    """Weights and states after three epochs, the last two perhaps from a checkpoint."""

    def fit(epochs, path=None, save=None):
        model, callback = Plain(), AdversaryCallback(**SETTINGS, module="net")
        options = {"devices": 2, "strategy": "ddp", "callbacks": [callback]}
        trains = trainer(folder if save else None, epochs, **options)
        trains.fit(model, DataLoader(data(), 4, shuffle=True), ckpt_path=path)
        if save:
            trains.save_checkpoint(save)
        return {"model": model.net.state_dict(), "adversary": callback.adversary.state_dict()}

    if not resume:
        return fit(3)
    path = f"{folder}/lightning.ckpt"
    fit(1, save=path)
    return fit(3, path)


def by_accelerate(folder, resume=False):
    """The same by Accelerate."""

    def prepared():
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        loader = DataLoader(data(), 4)
        part = AcceleratedAdversary(accelerator, LayerwiseAdversary(**SETTINGS))
        return accelerator, part, *accelerator.prepare(model, optimizer, loader)

    def train(accelerator, part, model, optimizer, loader, epochs):
        with part.attach(model):
            for _ in range(epochs):
                for x, y in part.batches(loader):
                    with accelerator.accumulate(model):
                        accelerator.backward(F.cross_entropy(model(x), y))
                        optimizer.step()
                        optimizer.zero_grad()
        state = accelerator.unwrap_model(model).state_dict()
        return {"model": state, "adversary": part.part.state_dict()}

    parts = prepared()
    if not resume:
        return train(*parts, epochs=3)
    train(*parts, epochs=1)
    parts[0].save_state(f"{folder}/accelerate")
    parts[0].wait_for_everyone()
    parts = prepared()
    parts[0].load_state(f"{folder}/accelerate")
    return train(*parts, epochs=2)


def by_method(name, under_lightning):
    """A method's weights after two epochs of a rank's mini-batches."""
    options = {"epsilon": 0.1} if name == "fgsm" else {}
    if under_lightning:
        model = Trained(name, **options)
        model.accumulate_grad_batches = 2
        trainer(devices=2, strategy="ddp").fit(model, DataLoader(data(), 4, shuffle=True))
        return model.net.state_dict()
    model, method = network(), build_method(name, **options)
    wrapped = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    sampler = DistributedSampler(data())
    with method.attach(wrapped):
        for epoch in range(2):
            sampler.set_epoch(epoch)
            for number, batch in enumerate(DataLoader(data(), 4, sampler=sampler)):
                method.step(
                    wrapped, Batch(*batch), F.cross_entropy, lambda loss: (loss / 2).backward()
                )
                if number % 2 or number == 4:
                    optimizer.step()
                    optimizer.zero_grad()
            schedule.step()
    return model.state_dict()


def by_sharding(when):
    """Losses and memories with `fully_shard` before or after attaching, or with DDP."""
    from torch.distributed.fsdp import fully_shard

    model, adversary = network(), LayerwiseAdversary(**SETTINGS)
    wrapped = DistributedDataParallel(model) if when is None else model

    def shard():
        for part in (model[0], model[2], model):
            fully_shard(part, mesh=distributed.init_device_mesh("cpu", (2,)))

    if when == "before":
        shard()
    handle = adversary.attach(wrapped)
    if when == "after":
        shard()
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.1), []
    rank = distributed.get_rank()
    for x, y in DataLoader(data(), 8):
        loss = F.cross_entropy(wrapped(x[rank::2]), y[rank::2])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    handle.detach()
    return {"losses": torch.stack(losses), "adversary": adversary.state_dict()}


class Block(torch.nn.Module):
    """A part of a network that is sharded by itself, and has parts that are not."""

    def __init__(self, width=8):
        super().__init__()
        self.norm, self.up = torch.nn.LayerNorm(width), torch.nn.Linear(width, 2 * width)
        self.down = torch.nn.Linear(2 * width, width)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(self.norm(x))))


def by_blocks(when, sites, **settings):
    """Losses, weights and memories, with `fully_shard` of the blocks and then of the root."""
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), Block(), Block(), torch.nn.Linear(8, 3))
    adversary = LayerwiseAdversary(epsilon=0.1, sites=sites, **settings)
    wrapped = DistributedDataParallel(model) if when is None else model

    def shard():
        mesh = distributed.init_device_mesh("cpu", (2,))
        for part in (model[1], model[2], model):
            fully_shard(part, mesh=mesh)

    if when == "before":
        shard()
    handle = adversary.attach(wrapped)
    if when == "after":
        shard()
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), []
    rank = distributed.get_rank()
    for x, y in DataLoader(data(), 8):
        if settings:
            adversary.set_batch(torch.arange(rank, 8, 2))
        loss = F.cross_entropy(wrapped(x[rank::2]), y[rank::2])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    state = adversary.state_dict()
    handle.detach()
    whole = {
        name: weight.full_tensor().detach() if hasattr(weight, "full_tensor") else weight.detach()
        for name, weight in model.named_parameters()
    }
    return {"losses": torch.stack(losses), "weights": whole, "adversary": state}


BLOCKS = {
    "sharded": (("1", "2"), {}),
    "inside the sharded": (("1.norm", "1.up", "2.down"), {}),
    "of the root": (("input", "0"), {}),
    "all": (("input", "0", "1", "1.up", "2"), {}),
    "by example": (("input", "1", "1.up"), {"memory": "example", "examples": 8}),
}
"""Sites whose module is sharded by itself, inside one that is, and sharded with the root."""


def refusals():
    """What is said where a network is sharded in another way, before or after attaching."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    said = {}
    mesh = distributed.init_device_mesh("cpu", (2,))
    x = torch.randn(4, 6)

    def attempt(name, action):
        try:
            action()
        except UnsupportedError as error:
            said[name] = str(error)

    model = network()
    parallelize_module(model, mesh, {"0": ColwiseParallel()})
    attempt("tensor before", lambda: LayerwiseAdversary(**SETTINGS).attach(model))
    model = network()
    handle = LayerwiseAdversary(**SETTINGS).attach(model)
    parallelize_module(model, mesh, {"0": ColwiseParallel()})
    attempt("tensor after", lambda: model(x))
    handle.close()
    model = network()
    fully_shard(model, mesh=mesh)
    attempt("method before", lambda: build_method("sam").attach(model))
    model, method = network(), build_method("sam")
    batch = Batch(x, torch.zeros(4, dtype=torch.int64))
    with method.attach(model):
        fully_shard(model, mesh=mesh)
        attempt(
            "method after",
            lambda: method.step(model, batch, F.cross_entropy, torch.Tensor.backward),
        )
    return said


def seen():
    """How often a rank's example memory has seen each example."""
    callback = AdversaryCallback(epsilon=0.1, memory="example", examples=40, module="net")
    loader = DataLoader(with_indices(data()), 4, shuffle=True)
    trainer(devices=2, strategy="ddp", callbacks=[callback]).fit(Plain(), loader)
    return callback.adversary.state_dict()["sites"]["input"]["calls"][0]["memory"]["stores"][0][
        "visits"
    ]


def run_rank(rank, folder):
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        GROUP_RANK="0",
        WORLD_SIZE="2",
        LOCAL_WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT="29500",  # unused: the group is made here
        TORCHELASTIC_RUN_ID="test",
    )
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    results = {}
    for name, train in (("lightning", by_lightning), ("accelerate", by_accelerate)):
        results[name] = [train(folder), train(folder, resume=True)]
        with sabotaged():
            results[name].append(train(folder, resume=True))
    for name in ("sam", "fgsm"):
        results[name] = [by_method(name, under_lightning) for under_lightning in (True, False)]
    results["sharding"] = [by_sharding(when) for when in (None, "before", "after")]
    for name, (sites, settings) in BLOCKS.items():
        ways = (None, "before", "after")
        results[name] = [by_blocks(when, sites, **settings) for when in ways]
    results["refusals"], results["visits"] = refusals(), seen()
    torch.save(results, f"{folder}/{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two processes has found."""
    folder = tmp_path_factory.mktemp("ranks")
    processes = torch.multiprocessing.spawn(run_rank, (str(folder),), nprocs=2, join=False)
    deadline = time.monotonic() + PATIENCE
    while not processes.join(timeout=5) and time.monotonic() < deadline:
        pass
    for process in processes.processes:
        process.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", ["lightning", "accelerate"])
def test_a_resumed_run_of_two_ranks_equals_one_that_was_not_interrupted(ranks, name):
    for rank in ranks:
        whole, resumed, first_alone = rank[name]
        assert equal(whole, resumed)
        assert not equal(whole["model"], first_alone["model"])  # the fault that this is for
    assert equal(ranks[0][name][0]["model"], ranks[1][name][0]["model"])
    assert not equal(ranks[0][name][0]["adversary"], ranks[1][name][0]["adversary"])


@pytest.mark.parametrize("name", ["sam", "fgsm"])
def test_a_mixin_on_two_ranks_trains_as_a_loop_does(ranks, name):
    for rank in ranks:
        mixin, loop = rank[name]
        for key in loop:
            assert torch.allclose(mixin[key], loop[key], atol=1e-6)
    assert equal(ranks[0][name][0], ranks[1][name][0])


def test_fully_shard_before_and_after_attaching_trains_as_data_parallel(ranks):
    for rank in ranks:
        plain, before, after = rank["sharding"]
        assert torch.allclose(plain["losses"], before["losses"], atol=1e-6)
        assert equal(before, after)
        assert equal(plain["adversary"]["sites"]["0"], before["adversary"]["sites"]["0"])
    assert not equal(ranks[0]["sharding"][1]["adversary"], ranks[1]["sharding"][1]["adversary"])


@pytest.mark.parametrize("name", BLOCKS)
def test_sharding_the_blocks_and_then_the_root_trains_as_data_parallel(ranks, name):
    """Up to the order of sums, which two ranks leave no choice of."""
    for rank in ranks:
        plain, before, after = rank[name]
        assert torch.allclose(plain["losses"], before["losses"], atol=1e-6)
        for weight, same in zip(plain["weights"].values(), before["weights"].values(), strict=True):
            assert torch.allclose(weight, same, atol=1e-6)
        assert equal(before, after)
        assert equal(plain["adversary"], before["adversary"])
    assert not equal(ranks[0][name][1]["adversary"], ranks[1][name][1]["adversary"])


def test_other_ways_to_shard_are_refused_before_and_after_attaching(ranks):
    said = ranks[0]["refusals"]
    assert "tensor parallelism" in said["tensor before"]
    assert said["tensor before"] == said["tensor after"]
    assert "passes of its own" in said["method before"]
    assert said["method before"] == said["method after"]


def test_example_memory_knows_its_own_rank_s_visits_alone(ranks):
    visits = [rank["visits"] for rank in ranks]
    assert (visits[0] + visits[1] == 2).all()
    assert (visits[0] != 2).any()
