"""The fast form equals its slow twin, step by step: losses, weights and perturbed activations."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from advreg import Batch, LayerwiseAdversary, View
from advreg.layerwise.reference import ReferenceAdversary
from advreg.methods import Layerwise

STEPS, EXAMPLES, RATE, BUDGET = 20, 12, 0.1, 0.1


class Network(nn.Module):
    """Two convolutions and a head."""

    def __init__(self, norm):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        kind = nn.BatchNorm2d if norm else nn.Identity
        options = {"affine": False} if norm else {}
        self.body = nn.Sequential(kind(3, **options), nn.ReLU())
        self.tail = nn.Sequential(kind(3, **options), nn.ReLU(inplace=True))
        self.head = nn.Linear(3, 3)

    def forward(self, images):
        value = self.tail(self.second(self.body(self.first(images))))
        return self.head(value.mean((2, 3)))


SITES = ["input", "body", "tail"]


def stream(views, dtype, shapes=1):
    """Twenty mini-batches of five, some smaller, in epochs over twelve examples.

    Of several shapes, each lasts two epochs.
    """
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(EXAMPLES, 2, 5, 5, generator=generator).to(dtype)
    targets = torch.randint(0, 3, (EXAMPLES,), generator=generator)
    for number in range(STEPS):
        if number % 3 == 0:
            order = torch.randperm(EXAMPLES, generator=generator)
        indices = order[5 * (number % 3) : 5 * (number % 3 + 1)]  # the third has two
        inputs, view = images[indices], None
        inputs = inputs[..., : 5 - number // 6 % shapes, :]
        if views:
            corners = torch.randint(0, 5, (2, len(indices)), generator=generator)
            flip = torch.rand(len(indices), generator=generator) < 0.5
            view = View(corners[0], corners[1], flip, 2)
            inputs = torch.stack(
                [
                    (image.flip(-1) if mirrored else image)
                    for image, mirrored in zip(
                        [
                            F.pad(image, (2, 2, 2, 2))[:, top : top + 5, left : left + 5]
                            for image, top, left in zip(inputs, *corners.tolist(), strict=True)
                        ],
                        flip,
                        strict=True,
                    )
                ]
            )
        yield Batch(inputs, targets[indices], indices, view)


CASES = {
    "sign": {},
    "l2": {"direction": "l2"},
    "max": {"direction": "max"},
    "accumulating": {"step_size": BUDGET / 3},
    "absolute": {"relative": False},
    "relative": {"relative": True},
    "clamped": {"input_range": (0.0, 1.0)},
}


def compare(case, memory, dtype, views=False, shapes=1):
    settings = CASES[case]
    torch.manual_seed(0)
    model = Network(norm=True).to(dtype)
    twin = copy.deepcopy(model)
    sites = SITES[:1] if views else SITES
    relative = {None: None, False: [], True: sites}[settings.get("relative")]
    adversary = LayerwiseAdversary(BUDGET, sites, memory, **settings)
    tolerance = {"atol": 1e-9 if dtype == torch.float64 else 2e-5, "rtol": 1e-5}
    raw, perturbed, expected = {}, {}, {}
    record(model, raw)
    reference = ReferenceAdversary(twin, BUDGET, sites, memory, **settings | {"relative": relative})
    record(twin, expected)
    moved = 0.0
    with adversary.attach(model):
        record(model, perturbed)
        for number, batch in enumerate(stream(views, dtype, shapes)):
            adversary.set_batch(batch.indices, batch.view)
            reference.set_batch(batch.indices, batch.view)
            losses = []
            for network in (model, twin):
                loss = F.cross_entropy(network(batch.inputs), batch.targets)
                loss.backward()
                losses.append(loss.detach())
                for parameter in network.parameters():
                    parameter.data -= RATE * parameter.grad
                    parameter.grad = None
            torch.testing.assert_close(*losses, **tolerance)
            for site in sites:
                torch.testing.assert_close(
                    perturbed[site], expected[site], **tolerance, msg=f"step {number}, {site}"
                )
                moved += (perturbed[site] - raw[site]).abs().max().item()
            for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
                torch.testing.assert_close(mine, theirs, **tolerance)
    assert moved > STEPS * BUDGET / 3  # or there was nothing to compare


def record(model, seen):
    def note(site, tensor):
        seen[site] = tensor.detach().clone()

    model.register_forward_pre_hook(lambda _, args: note("input", args[0]))
    for site in SITES[1:]:
        module = model.get_submodule(site)
        module.register_forward_hook(lambda _, args, output, site=site: note(site, output))


@pytest.mark.parametrize(
    ("case", "memory", "dtype"),
    [
        *[(case, memory, torch.float64) for case in CASES for memory in ("slot", "example")],
        *[("clamped", memory, torch.float32) for memory in ("slot", "example")],
        ("l2", "slot", torch.float32),
    ],
    ids=str,
)
def test_fast_equals_slow(case, memory, dtype):
    compare(case, memory, dtype)


@pytest.mark.parametrize("case", ["sign", "l2", "accumulating", "clamped"])
@pytest.mark.parametrize("memory", ["slot", "example"])
def test_fast_equals_slow_in_several_shapes(case, memory):
    compare(case, memory, torch.float64, shapes=3)


@pytest.mark.parametrize("case", ["sign", "l2", "accumulating", "clamped"])
def test_fast_equals_slow_through_crops_and_flips(case):
    compare(case, "example", torch.float64, views=True)


def test_random_signs_are_fresh_fair_and_seeded():
    def signs(seed):
        model = nn.Sequential(nn.Linear(1, 1))
        adversary = LayerwiseAdversary(1.0, ["input"], direction="random", seed=seed)
        model.register_forward_pre_hook(lambda _, args: None)
        seen = []
        with adversary.attach(model):
            model.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
            for _ in range(3):
                model(torch.zeros(1000, 1)).sum().backward()
        return torch.stack(seen)

    drawn = signs(0)
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    assert drawn.mean().abs() < 0.1
    assert (drawn[0] * drawn[1]).mean().abs() < 0.15
    assert drawn.equal(signs(0))
    assert not drawn.equal(signs(1))


def owners(targets, held, rows, memory):
    """Example by example: who has whose row, or for slot memory which position."""
    if memory == "slot":  # the first example left of the class that a position held
        order, left = [None] * len(targets), list(range(len(targets)))
        for place, kind in enumerate(held[: len(targets)]):
            found = next((one for one in left if targets[one] == kind), None)
            if found is not None:
                order[place] = found
                left.remove(found)
        return [left.pop(0) if one is None else one for one in order]
    kinds = {}
    for place, kind in enumerate(targets):
        kinds.setdefault(kind, []).append(place)
    order = [None] * len(targets)
    for members in kinds.values():
        for place, member in enumerate(members):
            order[member] = members[place - 1]
    if rows == "class":
        return order
    sequence = [member for members in kinds.values() for member in members]
    most = max(len(members) for members in kinds.values())
    for place, member in enumerate(sequence):
        order[member] = sequence[(place + most) % len(sequence)]
    return order


@pytest.mark.parametrize(
    ("memory", "rows"), [("slot", "class"), ("example", "class"), ("example", "other")]
)
def test_controls_of_whose_row_it_is_equal_their_twin(memory, rows):
    torch.manual_seed(0)
    model = Network(norm=True).double()
    twin = copy.deepcopy(model)
    method = Layerwise(epsilon=BUDGET, sites=SITES, memory=memory, exchange=rows)
    reference = ReferenceAdversary(twin, BUDGET, SITES, memory)
    held, moved = [], 0
    with method.attach(model):
        for batch in stream(False, torch.float64):
            targets = batch.targets.tolist()
            order = owners(targets, held, rows, memory)
            moved += order != list(range(len(order)))
            inputs, labels = batch.inputs, batch.targets
            if memory == "slot":
                inputs, labels, held = inputs[order], labels[order], [targets[one] for one in order]
            reference.set_batch(batch.indices[order])
            F.cross_entropy(twin(inputs), labels).backward()
            method.step(model, batch, F.cross_entropy, torch.Tensor.backward)
            for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
                torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-9, rtol=1e-5)
                for one in (mine, theirs):
                    one.data -= RATE * one.grad
                    one.grad = None
    assert moved > STEPS / 2
