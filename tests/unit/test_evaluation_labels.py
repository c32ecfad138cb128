"""Networks of several labels or positions an example, measured as plain loops measure them."""

import math
import random

import pytest
import torch
from evaluated import Images
from test_attacks_inputs import Changed
from torch import nn
from torch.nn import functional as F

from advreg.errors import ConfigurationError, DataError
from advreg.evaluation import evaluate_labels

EPSILONS, STEPS, RESTARTS = {"8/255": 8 / 255, "0.1": 0.1}, 3, 2
SETTINGS = {"epsilons": ["8/255", 0.1], "steps": STEPS, "restarts": RESTARTS, "batch_size": 16}
GENERATOR = torch.Generator().manual_seed(0)
PIXELS = torch.randint(0, 256, (24, 1, 5, 4), dtype=torch.uint8, generator=GENERATOR)
INPUTS = (PIXELS.float() / 255).double()
IGNORED = 7


def curved(layer):
    """So that the runs of an attack end in different places."""
    with torch.no_grad():
        layer.weight *= 10


def labels():
    """A network of three yes or no, and labels of which it gets most right."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(20, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    curved(model[1])
    targets = model(INPUTS) > 0
    targets[::5, 1] ^= True
    return model, targets, nn.BCEWithLogitsLoss()


def positions():
    """A network with three classes at each pixel, and classes some of which are left out."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 3, 1)).double()
    curved(model[0])
    targets = model(INPUTS).argmax(1)
    targets[::3, 2] = 0
    targets[:, 0, 1:] = IGNORED
    return model, targets, nn.CrossEntropyLoss(ignore_index=IGNORED)


def pairs(logits, targets):
    """Of one example, (right, loss) of each label or position that counts."""
    if logits.ndim == 1:
        signs = [1 if yes else -1 for yes in targets]
        return [(z * s > 0, F.softplus(-z * s)) for z, s in zip(logits, signs, strict=True)]
    places = [(r, c) for r in range(5) for c in range(4) if targets[r, c] != IGNORED]
    return [
        (logits[:, r, c].argmax() == targets[r, c], -logits[:, r, c].log_softmax(0)[targets[r, c]])
        for r, c in places
    ]


def ascent(model, image, target):
    leaf = image.clone().requires_grad_()
    sum(loss for _, loss in pairs(model(leaf[None])[0], target)).backward()
    return leaf.grad.sign()


def attacked(model, number, targets, epsilon, drawn=None):
    """One image after FGSM, or after PGD from the start that is drawn."""
    clean = INPUTS[number]
    if drawn is None:
        return (clean + epsilon * ascent(model, clean, targets[number])).clamp(0, 1)
    image = (clean + drawn * 2 * epsilon - epsilon).clamp(0, 1)
    for _ in range(STEPS):
        step = 2.5 * epsilon / STEPS * ascent(model, image, targets[number])
        image = (clean + (image - clean + step).clamp(-epsilon, epsilon)).clamp(0, 1)
    return image


def twin(model, targets):
    """The figures, image by image and label by label."""
    starts = {}
    for run in range(RESTARTS):
        for first in (0, 16):
            seed = random.Random(f"0 {run} {first}").getrandbits(63)
            shape = INPUTS[first : first + 16].shape
            drawn = torch.rand(
                shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
            )
            starts |= {(run, first + place): one for place, one in enumerate(drawn)}
    shares, differed = {}, False
    for number in range(24):

        def share(image, number=number):
            right = [bool(hit) for hit, _ in pairs(model(image[None])[0], targets[number])]
            return sum(right) / len(right)

        shares.setdefault("clean", []).append(share(INPUTS[number]))
        for text, epsilon in EPSILONS.items():
            one = share(attacked(model, number, targets, epsilon))
            runs = [
                share(attacked(model, number, targets, epsilon, starts[run, number]))
                for run in range(RESTARTS)
            ]
            differed |= len({one, *runs}) > 1
            several = min(runs)
            for name, value in {"fgsm": one, "pgd": several, "worst": min(one, several)}.items():
                shares.setdefault(f"{text} {name}", []).append(value)
    assert differed
    return {
        name: {
            "accuracy": (mean := sum(values) / 24),
            "standard_error": math.sqrt(sum((v - mean) ** 2 for v in values) / 24 / 24),
            "all_right": sum(value == 1 for value in values) / 24,
        }
        for name, values in shares.items()
    }


@pytest.mark.parametrize("kind", [labels, positions])
def test_figures_are_those_of_plain_loops(kind):
    model, targets, criterion = kind()
    model.train()
    found = evaluate_labels(model, Images(PIXELS, targets), criterion, **SETTINGS)
    expected = twin(model, targets)
    losses = [pairs(one, target) for one, target in zip(model(INPUTS), targets, strict=True)]
    nll = sum(sum(loss.item() for _, loss in one) / len(one) for one in losses) / 24
    assert found["clean"].pop("nll") == pytest.approx(nll)
    assert found["clean"] == pytest.approx(expected["clean"])
    for text in EPSILONS:
        for name in ("fgsm", "pgd", "worst"):
            assert found["epsilons"][text][name] == pytest.approx(expected[f"{text} {name}"])
    worst = found["epsilons"]["0.1"]["worst"]["accuracy"]
    assert 0 < worst < found["clean"]["accuracy"] < 1
    assert (found["not_finite"], found["zero_gradient"], found["examples"]) == (0, 0, 24)
    assert all(reason.startswith("Not measured: ") for reason in found["unmeasured"].values())
    assert found["unmeasured"].keys() == {"autoattack", "square"}
    assert model.training


def test_under_l2_with_a_limit_and_targets_of_other_types():
    model, targets, criterion = labels()
    settings = {**SETTINGS, "threat": "L2", "limit": 9, "seed": 3, "epsilons": [0.5]}
    first, second = (
        evaluate_labels(model, Images(PIXELS, targets.to(kind)), criterion, **settings)
        for kind in (torch.int32, torch.float32)
    )
    assert first == second
    assert first["examples"] == 9
    clean, attack = first["clean"]["accuracy"], first["epsilons"]["0.5"]
    assert attack["worst"]["accuracy"] <= attack["pgd"]["accuracy"] < clean


def test_what_says_nothing_is_reported():
    model, targets, criterion = labels()
    data = Images(PIXELS, targets)
    cut = Changed(model, lambda logits: logits.detach())
    assert evaluate_labels(cut, data, criterion, **SETTINGS)["zero_gradient"] == 1
    lost = Changed(model, lambda logits: logits * float("nan"))
    found = evaluate_labels(lost, data, criterion, **SETTINGS)
    assert (found["not_finite"], found["clean"]["accuracy"], found["clean"]["nll"]) == (1, 0, None)


def nothing_counts(model, targets, criterion):
    return model, torch.full_like(targets, IGNORED), criterion


REFUSED = {
    "one class": (positions, lambda m, t, c: (Head(), t[:, 1, 0], c), "evaluate\\."),
    "sigmoid": (labels, lambda m, t, c: (Changed(m, torch.sigmoid), t, c), "without its sigmoid"),
    "softmax": (
        positions,
        lambda m, t, c: (Changed(m, lambda z: z.softmax(1)), t, c),
        "without its softmax",
    ),
    "regression": (labels, lambda m, t, c: (m, t.double(), nn.MSELoss()), "regression"),
    "classes as labels": (labels, lambda m, t, c: (m, t.long() * 3, c), "yes or no"),
    "labels as classes": (labels, lambda m, t, c: (m, t, nn.CrossEntropyLoss()), "BCEWithLogits"),
    "nothing counts": (positions, nothing_counts, "leave them out"),
}


class Head(nn.Module):
    def forward(self, inputs):
        return inputs.flatten(1)[:, :3]


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_right_is_refused(case):
    kind, change, message = REFUSED[case]
    model, targets, criterion = change(*kind())
    with pytest.raises((ConfigurationError, DataError), match=message):
        evaluate_labels(model, Images(PIXELS, targets), criterion, **SETTINGS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"steps": 0}, "steps"), ({"limit": 0}, "limit"), ({"epsilons": [8]}, "wider"),
     ({"threat": "L1"}, "no threat")],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(settings, message):
    model, targets, criterion = labels()
    with pytest.raises(ConfigurationError, match=message):
        evaluate_labels(model, Images(PIXELS, targets), criterion, **{**SETTINGS, **settings})
