"""Under Accelerate: an adversary in a loop of one's own, saved and restored with everything else.

The loop trains half of its epochs, saves, and goes on from what was saved, as after an interrupt.
It runs on one process, or on several: accelerate launch examples/accelerate_digits.py

pip install 'advreg[accelerate,data]'
python examples/accelerate_digits.py [EPOCHS]
"""

import sys
import tempfile

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

import advreg
from advreg.data import with_indices
from advreg.integrations.accelerate import AcceleratedAdversary


def network():
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 32, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(32, 64, 3, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(64 * 4 * 4, 10),
    )


def main(epochs: int = 20) -> float:
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
    classes = torch.tensor(digits.target)
    data = with_indices(TensorDataset(images[:512], classes[:512]))  # for example memory

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, loader = network(), DataLoader(data, 32, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    adversary = AcceleratedAdversary(
        accelerator, advreg.LayerwiseAdversary(epsilon=0.2, memory="example", input_range=(0, 1))
    )

    def train(count):
        with adversary.attach(model):
            for _ in range(count):
                for x, y in adversary.batches(loader):
                    with accelerator.accumulate(model):
                        accelerator.backward(F.cross_entropy(model(x), y))
                        optimizer.step()
                        optimizer.zero_grad()

    with tempfile.TemporaryDirectory() as folder:
        shared = broadcast_object_list([folder])[0]  # every rank saves to the first one's
        train(epochs // 2)
        accelerator.save_state(shared)
        accelerator.wait_for_everyone()
        accelerator.load_state(shared)  # weights, optimizer, and each rank's memories
        train(epochs - epochs // 2)
        accelerator.wait_for_everyone()

    accelerator.unwrap_model(model).eval()
    with torch.no_grad():
        outputs = model(images[512:].to(accelerator.device))
    accuracy = (outputs.argmax(1).cpu() == classes[512:]).float().mean().item()
    accelerator.print(f"test accuracy {accuracy:.2%}")
    accelerator.print(adversary.part.statistics())
    accelerator.end_training()
    return accuracy


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
