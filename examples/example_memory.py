"""Example memory with random crops: the adversary must know what made the inputs.

pip install 'advreg[data]'
python examples/example_memory.py [EPOCHS]
"""

import sys

import torch
import torch.nn.functional as F

import advreg
from advreg.data import Loader, load_data
from advreg.models import build_model


def main(epochs: int = 10) -> float:
    torch.manual_seed(0)
    data = load_data("digits", limit=256)
    loader = Loader(data.train, 64, augment="crop", padding=1)
    model = build_model("convnet", num_classes=10, in_channels=1, image_size=8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)

    adversary = advreg.LayerwiseAdversary(epsilon=0.2, memory="example", examples=256)
    with adversary.attach(model):
        for epoch in range(epochs):
            for batch in loader.epoch(epoch):
                adversary.set_batch(batch.indices, batch.view)  # which examples, and their crops
                loss = F.cross_entropy(model(batch.inputs), batch.targets)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
    for site, figures in adversary.statistics().items():
        print(site, figures)

    model.eval()
    with torch.no_grad():
        outputs = model(data.test.images.float() / 255)
    accuracy = (outputs.argmax(1) == data.test.targets).float().mean().item()
    print(f"test accuracy {accuracy:.2%}")
    return accuracy


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
