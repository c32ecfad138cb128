"""Our FGSM and PGD beside those of torchattacks, foolbox and ART, on one network and its images.

    pip install 'advreg[parity]'
    python benchmarks/parity.py

torchattacks asks for torchvision, which may bring another torch; where the present one is to
stay: pip install --no-deps torchattacks foolbox eagerpy adversarial-robustness-toolbox six
GitPython gitdb smmap requests urllib3 certifi charset-normalizer.

Without a random start all of them make the same moves: x <- clip(x + step * sign(g)). What may
differ is the order of the additions, hence the last place of a value. Writes
benchmarks/results/parity.json.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from itertools import pairwise
from typing import Any

import torch
from harness import RESULTS, arguments, result_file, run, save
from torch import Tensor, nn

from advreg.attacks import Linf, correct, fgsm, pgd
from advreg.models import build_model

SETTINGS: dict[str, Any] = {
    "model": "resnet20, untrained, evaluation mode",
    "images": 16,
    "epsilon": "8/255",
    "step_size": "2/255",
    "steps": 10,
    "random_start": False,
    "dtype": "float32",
    "seed": 0,
}

EPSILON, STEP = 8 / 255, 2 / 255

UNIT = 2.0**-24
"""The unit in the last place of a float32 just below 1, the end of the input range."""

Attack = Callable[[nn.Module, Tensor, Tensor, int], Tensor]
"""Takes a model, inputs, targets and the steps of PGD, 0 for FGSM; returns attacked inputs."""


def ours(model: nn.Module, inputs: Tensor, targets: Tensor, steps: int) -> Tensor:
    if not steps:
        return fgsm(model, inputs, targets, Linf(EPSILON))
    return pgd(model, inputs, targets, Linf(EPSILON), steps, STEP, random_start=False)


def torchattacks(model: nn.Module, inputs: Tensor, targets: Tensor, steps: int) -> Tensor:
    library = import_module("torchattacks")
    if not steps:
        return library.FGSM(model, eps=EPSILON)(inputs, targets)
    attack = library.PGD(model, eps=EPSILON, alpha=STEP, steps=steps, random_start=False)
    return attack(inputs, targets)


def foolbox(model: nn.Module, inputs: Tensor, targets: Tensor, steps: int) -> Tensor:
    library = import_module("foolbox")
    attacked = library.PyTorchModel(model, bounds=(0, 1), device=inputs.device)
    if not steps:
        attack = library.attacks.LinfFastGradientAttack(random_start=False)
    else:
        attack = library.attacks.LinfProjectedGradientDescentAttack(
            abs_stepsize=STEP, steps=steps, random_start=False
        )
    return attack.run(attacked, inputs, targets, epsilon=EPSILON)


def art(model: nn.Module, inputs: Tensor, targets: Tensor, steps: int) -> Tensor:
    estimators = import_module("art.estimators.classification")
    attacks = import_module("art.attacks.evasion")
    classifier = estimators.PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(inputs.shape[1:]),
        nb_classes=10,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    if not steps:
        attack = attacks.FastGradientMethod(classifier, eps=EPSILON, batch_size=len(inputs))
    else:
        attack = attacks.ProjectedGradientDescent(
            classifier,
            eps=EPSILON,
            eps_step=STEP,
            max_iter=steps,
            num_random_init=0,
            batch_size=len(inputs),
            verbose=False,
        )
    return torch.from_numpy(attack.generate(inputs.numpy(), targets.numpy()))


LIBRARIES: dict[str, tuple[str, Attack]] = {
    "torchattacks": ("torchattacks", torchattacks),
    "foolbox": ("foolbox", foolbox),
    "art": ("adversarial-robustness-toolbox", art),
}
"""For each library, as it is imported: its package's name and its attacks."""


def subject() -> tuple[nn.Module, Tensor, Tensor]:
    """The network, images in [0, 1] from bytes, and their true classes."""
    torch.manual_seed(SETTINGS["seed"])
    model = build_model("resnet20", num_classes=10).eval()
    images = torch.randint(0, 256, (SETTINGS["images"], 3, 32, 32))
    inputs = images.float() / 255
    with torch.no_grad():
        return model, inputs, model(inputs).argmax(1)


def compare(name: str) -> dict[str, Any]:
    """How far a library's attacks are from ours.

    Returns:
        `same_signs`, whether FGSM and every step of PGD moved every value the same way;
        `fgsm_units` and `pgd_units`, the largest difference in units in the last place of 1; and
        for both how many of the values differ at all.
    """
    _, theirs = LIBRARIES[name]
    model, inputs, targets = subject()
    single = [attack(model, inputs, targets, 0).detach() for attack in (ours, theirs)]
    runs = [
        [inputs, *(attack(model, inputs, targets, k).detach() for k in range(1, 11))]
        for attack in (ours, theirs)
    ]
    walks = [_moves(run, STEP) for run in runs]
    signs = [_moves([inputs, attacked], EPSILON) for attacked in single]
    with torch.no_grad():
        left = [correct(model(run[-1]), targets).sum().item() for run in runs]
    return {
        "same_signs": walks[0].equal(walks[1]) and signs[0].equal(signs[1]),
        "fgsm_units": ((single[0] - single[1]).abs().max() / UNIT).item(),
        "fgsm_values_apart": (single[0] != single[1]).sum().item(),
        "pgd_units": max(((a - b).abs().max() / UNIT).item() for a, b in zip(*runs, strict=True)),
        "pgd_values_apart": (runs[0][-1] != runs[1][-1]).sum().item(),
        "values": inputs.numel(),
        "correct_after_pgd": {"ours": left[0], name: left[1]},
    }


def _moves(run: list[Tensor], step: float) -> Tensor:
    """Each value's move from image to image in steps: mostly -1, 0 and 1, less at a border."""
    return torch.stack([b - a for a, b in pairwise(run)]).div(step).round()


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--out", type=result_file, default=RESULTS / "parity.json", help="result file"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    libraries: dict[str, Any] = {}
    for name, (package, _) in LIBRARIES.items():
        try:
            import_module(name)
        except ImportError as error:
            libraries[name] = {"not_compared": f"It cannot be imported: {error}"}
            continue
        libraries[name] = {"package": package, "version": version(package), **compare(name)}
        print(name, libraries[name])
    save(options.out, settings=SETTINGS, libraries=libraries)


if __name__ == "__main__":
    run(main)
