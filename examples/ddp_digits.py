"""Under plain DistributedDataParallel: each rank has an adversary of its own, and saves it.

python examples/ddp_digits.py [EPOCHS]
pip install 'advreg[data]'
torchrun --nproc-per-node 2 examples/ddp_digits.py [EPOCHS]
"""

import os
import sys

import torch
import torch.distributed as distributed
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import advreg
from advreg.data import with_indices


def main(epochs: int = 20) -> float:
    if "RANK" in os.environ:  # as torchrun sets it
        distributed.init_process_group("gloo")  # "nccl" on GPUs
        rank, ranks = distributed.get_rank(), distributed.get_world_size()
    else:
        rank, ranks = 0, 1
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
    classes = torch.tensor(digits.target)
    data = with_indices(TensorDataset(images[:512], classes[:512]))
    sampler = DistributedSampler(data, ranks, rank)
    loader = DataLoader(data, 64 // ranks, sampler=sampler)

    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 32, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(32, 64, 3, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(64 * 4 * 4, 10),
    )
    wrapped = DistributedDataParallel(model) if ranks > 1 else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    # Each rank remembers what its own visits of an example have left; nothing is exchanged.
    adversary = advreg.LayerwiseAdversary(epsilon=0.2, memory="example", input_range=(0, 1))
    with adversary.attach(wrapped):
        for epoch in range(epochs):
            sampler.set_epoch(epoch)
            for x, y, indices in loader:
                adversary.set_batch(indices)
                F.cross_entropy(wrapped(x), y).backward()
                optimizer.step()
                optimizer.zero_grad()
    # To go on later each rank saves its own: torch.save(adversary.state_dict(), f"{rank}.pt")

    model.eval()
    with torch.no_grad():
        accuracy = (model(images[512:]).argmax(1) == classes[512:]).float().mean().item()
    if rank == 0:
        print(f"{ranks} rank(s), test accuracy {accuracy:.2%}")
    if ranks > 1:
        distributed.destroy_process_group()
    return accuracy


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
