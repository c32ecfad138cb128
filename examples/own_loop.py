"""Layerwise adversarial training in a loop of one's own: one line more than plain training.

pip install 'advreg[data]'
python examples/own_loop.py [EPOCHS]
"""

import sys

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

import advreg


def main(epochs: int = 30) -> float:
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
    classes = torch.tensor(digits.target)
    train, test = slice(0, 256), slice(256, None)

    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 32, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(32, 64, 3, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(64 * 4 * 4, 10),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    adversary = advreg.LayerwiseAdversary(epsilon={"input": 0.2, "1": 0.05}, input_range=(0, 1))
    for site in adversary.describe(model, images[:64]):
        print(f"site {site.name}: {site.shapes[0]}, {site.memory_bytes:,} bytes of memory")

    with adversary.attach(model):  # the one line
        for _ in range(epochs):
            for batch in torch.randperm(256).split(64):
                loss = F.cross_entropy(model(images[train][batch]), classes[train][batch])
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()

    model.eval()
    with torch.no_grad():
        accuracy = (model(images[test]).argmax(1) == classes[test]).float().mean().item()
    print(f"test accuracy {accuracy:.2%}")
    return accuracy


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
