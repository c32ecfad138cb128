"""Writes and executes examples/quickstart.ipynb, whose cells are below.

python tools/notebook.py
"""

from __future__ import annotations

from pathlib import Path

OUT = Path(__file__).parents[1] / "examples" / "quickstart.ipynb"

CELLS = [
    """
# Layerwise adversarial training in one line

Two networks are trained on 128 of scikit-learn's digits: one plainly, one with an adversary
attached. Both are then attacked. It takes some seconds a seed on one core.
""",
    """
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import advreg
from advreg.attacks import Linf, fgsm, pgd

digits = load_digits()
images = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]  # in [0, 1]
classes = torch.tensor(digits.target)


def network():
    def block(channels, out, stride=1):
        layers = nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()
        return nn.Sequential(*layers)

    body = block(1, 16), block(16, 16), block(16, 32, 2)
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
""",
    """
## The loop

It is a plain training loop. `adversary.attach(model)` is the only line that adversarial training
adds, so that plain training is the same loop with nothing attached.
""",
    """
from contextlib import nullcontext

EPOCHS, TRAINED, TESTED = 40, 128, 400


def train(seed, adversary=None):
    torch.manual_seed(seed)
    order = torch.randperm(len(images))
    training, test = order[:TRAINED], order[-TESTED:]
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=2 * EPOCHS)
    with adversary.attach(model) if adversary else nullcontext():  # the one line
        for _ in range(EPOCHS):
            for batch in training[torch.randperm(TRAINED)].split(64):
                F.cross_entropy(model(images[batch]), classes[batch]).backward()
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
    return model.eval(), images[test], classes[test]


def layerwise():
    return advreg.LayerwiseAdversary(epsilon=0.2, sites=("input",), input_range=(0, 1))
""",
    """
What the adversary would perturb, and the memory that it needs for it:
""",
    """
for site in layerwise().describe(network(), images[:64]):
    print(site.name, site.shapes[0], f"{site.memory_bytes} bytes")
""",
    """
## Clean and attacked

PGD takes ten steps from a random start. One seed says little about so small a data set, so that
there are three. Each seed has its own training and test images, the same for both networks.
""",
    """
SEEDS, BUDGETS = range(3), (0.0, 0.05, 0.1, 0.15, 0.2)


def accuracy(model, inputs, targets):
    with torch.no_grad():
        return 100 * (model(inputs).argmax(1) == targets).float().mean().item()


def curve(model, inputs, targets):
    found = []
    for budget in BUDGETS:
        attacked = pgd(model, inputs, targets, Linf(budget), steps=10) if budget else inputs
        found.append(accuracy(model, attacked, targets))
    return found


curves = {"plain": [], "layerwise": []}
for seed in SEEDS:
    for name, adversary in (("plain", None), ("layerwise", layerwise())):
        model, inputs, targets = train(seed, adversary)
        curves[name].append(curve(model, inputs, targets))
        one_step = accuracy(model, fgsm(model, inputs, targets, Linf(0.1)), targets)
        clean, _, attacked, *_ = curves[name][-1]
        print(
            f"seed {seed} {name:9}  clean {clean:.1f} %   FGSM 0.1 {one_step:.1f} %"
            f"   PGD-10 0.1 {attacked:.1f} %"
        )
""",
    """
for name, color in (("plain", "tab:gray"), ("layerwise", "tab:blue")):
    for found in curves[name]:
        plt.plot(BUDGETS, found, color=color, alpha=0.35, linewidth=1)
    mean = torch.tensor(curves[name]).mean(0)
    plt.plot(BUDGETS, mean, color=color, marker="o", label=f"{name}, mean of {len(SEEDS)} seeds")
plt.xlabel("size of the attack, PGD-10, pixels in [0, 1]")
plt.ylabel("test accuracy in percent")
plt.xticks(BUDGETS)
plt.ylim(0, 100)
plt.legend()
plt.show()
""",
    """
## What an attack does to a picture

The last layerwise network, clean digits above and attacked ones below, with its answers:
""",
    """
attacked = pgd(model, inputs[:8], targets[:8], Linf(0.1), steps=10)
figure, axes = plt.subplots(2, 8, figsize=(10, 3))
for row, shown in zip(axes, (inputs[:8], attacked), strict=True):
    for axis, picture, answer in zip(row, shown, model(shown).argmax(1), strict=True):
        axis.imshow(picture[0], cmap="gray", vmin=0, vmax=1)
        axis.set_title(int(answer))
        axis.axis("off")
plt.show()
""",
    """
## What the figures say, and what they do not

- On these digits the layerwise network withstands PGD at 0.1 better than the plain one, with
  every seed, at one forward and one backward pass a step. It is more accurate on clean digits
  with one seed and less with the two others, so that nothing is shown about those.
- It is not robust: at 0.2, the size that it was trained with, little is left.
- Three seeds, 128 images and one small network are an illustration. The ten seeds of `advreg
  demo` have intervals, and random signs of the same size as a control, which explain more than
  half of the gain under FGSM.
- Other data and networks want their own budget: see *Choosing budget and sites* in the
  documentation.
- FGSM is printed beside PGD because one step alone would overstate what is withstood. A claim
  needs more than ten steps of PGD: see *Attacks and credible numbers*.
""",
]

SOURCES = [cell.strip() for cell in CELLS]


def main() -> None:
    """Executes the cells; those without code are text."""
    import nbformat
    from nbclient import NotebookClient

    cells = []
    for number, source in enumerate(SOURCES):
        code = any(word in source for word in ("import ", "plt.", "print("))
        make = nbformat.v4.new_code_cell if code else nbformat.v4.new_markdown_cell
        cells.append(make(source, id=f"cell-{number}"))
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    NotebookClient(notebook, timeout=300, coalesce_streams=True).execute()
    notebook.metadata.pop("language_info", None)  # the version of whoever ran it
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # and their clock
    nbformat.write(notebook, OUT)


if __name__ == "__main__":
    main()
