"""Each loss against a plain twin that follows its paper's sums, in value and gradient."""

import math
from itertools import combinations

import pytest
import torch

from advreg.errors import ConfigurationError, DataError
from advreg.hashing.losses import (
    LOSSES,
    WithGenerated,
    build_loss,
    generated_count,
    hash_centres,
    maximum_entropy,
)

BITS, CLASSES = 8, 3
CLASS_TARGETS = torch.tensor([0, 1, 0, 2, 1, 0, 2])
LABEL_TARGETS = torch.tensor(
    [[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1], [0, 1, 1], [1, 0, 0], [0, 0, 1]]
)


def similar(one, two):
    return bool(one == two) if one.ndim == 0 else bool((one * two).any())


def triplets(targets):
    places = range(len(targets))
    for a in places:
        for p in places:
            for n in places:
                if (
                    p != a
                    and similar(targets[a], targets[p])
                    and not similar(targets[a], targets[n])
                ):
                    yield a, p, n


def average(values):
    values = list(values)
    return sum(values) / len(values)


def distance(one, two):
    return sum((a - b) ** 2 for a, b in zip(one, two, strict=True))


def triplet(loss, u, targets):
    h = 1 / (1 + (-u).exp())
    return average(
        (loss.margin + distance(h[a], h[p]) - distance(h[a], h[n])).clamp(min=0)
        for a, p, n in triplets(targets)
    )


def hard(loss, u, targets):
    h = 1 / (1 + (-u).exp())
    found = list(triplets(targets))
    return average(
        (
            loss.margin
            + max(distance(h[a], h[p]) for b, p, _ in found if b == a)
            - min(distance(h[a], h[n]) for b, _, n in found if b == a)
        ).clamp(min=0)
        for a in sorted({a for a, _, _ in found})
    )


def semi_hard(loss, u, targets):
    h = 1 / (1 + (-u).exp())
    found = list(triplets(targets))
    losses = []
    for a, p in sorted({(a, p) for a, p, _ in found}):
        near = distance(h[a], h[p])
        others = [distance(h[a], h[n]) for b, q, n in found if (b, q) == (a, p)]
        beyond = [other for other in others if other > near]
        losses.append((loss.margin + near - (min(beyond) if beyond else max(others))).clamp(min=0))
    return average(losses)


def dsh(loss, u, targets):
    losses = []
    for i, j in combinations(range(len(u)), 2):
        apart = distance(u[i], u[j])
        same = similar(targets[i], targets[j])
        pair = apart / 2 if same else (loss.margin - apart).clamp(min=0) / 2
        away = sum((value.abs() - 1).abs() for row in (u[i], u[j]) for value in row)
        losses.append(pair + loss.alpha * away)
    return average(losses)


def hashnet(loss, u, targets):
    g = (math.sqrt(1 + (loss.slope**2 - 1) * loss.progress) * u).tanh()
    all_pairs = list(combinations(range(len(u)), 2))
    ones = sum(similar(targets[i], targets[j]) for i, j in all_pairs)
    losses = []
    for i, j in all_pairs:
        same = similar(targets[i], targets[j])
        z = loss.alpha * sum(g[i] * g[j])
        weight = len(all_pairs) / (ones if same else len(all_pairs) - ones)
        losses.append(weight * ((1 + z.exp()).log() - same * z))
    return average(losses)


def off_signs(u):
    return average((value - value.sign()) ** 2 for row in u for value in row)


def dpsh(loss, u, targets):
    losses = []
    for i, j in combinations(range(len(u)), 2):
        theta = sum(u[i] * u[j]) / 2
        losses.append((1 + theta.exp()).log() - similar(targets[i], targets[j]) * theta)
    return average(losses) + loss.eta * off_signs(u)


def dtsh(loss, u, targets):
    losses = []
    for a, p, n in triplets(targets):
        z = sum(u[a] * u[p]) / 2 - sum(u[a] * u[n]) / 2 - loss.alpha
        losses.append(-(z - (1 + z.exp()).log()))
    return average(losses) + loss.weight * off_signs(u)


def classification(logits, targets):
    losses = []
    for row, target in zip(logits, targets, strict=True):
        if target.ndim == 0:
            losses.append(-(row[target].exp() / row.exp().sum()).log())
        else:
            for value, label in zip(row, target, strict=True):
                p = 1 / (1 + (-value).exp())
                losses.append(-(p if label else 1 - p).log())
    return average(losses)


def greedyhash(loss, u, targets):
    # The sign as the outputs plus a constant has the identity's gradient.
    codes = u + (u.sign() - u).detach()
    penalty = average((value.abs() - 1).abs() ** 3 for row in u for value in row)
    return classification(loss.classifier(codes), targets) + loss.alpha * penalty


def centre_of(loss, target):
    if target.ndim == 0:
        return loss.centres[target]
    votes = sum(loss.centres[k] for k in range(CLASSES) if target[k])
    return torch.stack([loss.split[j] if votes[j] == 0 else votes[j].sign() for j in range(BITS)])


def csq(loss, u, targets):
    h = 1 / (1 + (-u).exp())
    losses = []
    for row, target in zip(h, targets, strict=True):
        for value, sign in zip(row, centre_of(loss, target), strict=True):
            right = value if sign > 0 else 1 - value
            losses.append(-right.log() + loss.weight * ((2 * value - 1).abs() - 1).cosh().log())
    return average(losses)


def orthohash(loss, u, targets):
    losses = []
    for row, target in zip(u, targets, strict=True):
        own = [k for k in range(CLASSES) if (target == k if target.ndim == 0 else target[k])]
        logits = []
        for k in range(CLASSES):
            centre = loss.centres[k].double()
            cosine = sum(row * centre) / (row.norm() * centre.norm())
            logits.append(loss.scale * (cosine - loss.margin * (k in own)))
        total = sum(value.exp() for value in logits)
        losses.append(average(-(logits[k].exp() / total).log() for k in own))
    return average(losses)


TWINS = {
    "triplet": (triplet, {"margin": 0.7}),
    "hard": (hard, {"margin": 0.7, "mining": "hard"}),
    "semi-hard": (semi_hard, {"margin": 0.7, "mining": "semi-hard"}),
    "dsh": (dsh, {"margin": 12.0, "alpha": 0.3}),
    "hashnet": (hashnet, {"slope": 3.0}),
    "dpsh": (dpsh, {"eta": 0.3}),
    "dtsh": (dtsh, {"alpha": 2.0, "weight": 0.3}),
    "greedyhash": (greedyhash, {"alpha": 0.3}),
    "csq": (csq, {"weight": 0.3}),
    "orthohash": (orthohash, {"margin": 0.3}),
}


@pytest.mark.parametrize("name", TWINS)
def test_value_and_gradient_are_the_twin_s(name):
    for targets in (CLASS_TARGETS, LABEL_TARGETS):
        twin, settings = TWINS[name]
        kind = name if name in LOSSES else "triplet"
        loss = build_loss(kind, BITS, CLASSES, **settings).double()
        loss.progress = 0.25
        u = torch.randn(len(targets), BITS, dtype=torch.float64, requires_grad=True)
        value, wanted = loss(u, targets), twin(loss, u, targets)
        torch.testing.assert_close(value, wanted)
        found, right = torch.autograd.grad(value, u)[0], torch.autograd.grad(wanted, u)[0]
        assert right.abs().max() > 1e-3
        torch.testing.assert_close(found, right)


def test_maximum_entropy_is_the_twin_s_and_survives_confident_bits():
    u = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    h = 1 / (1 + (-u).exp())
    wanted = average(v * v.log() + (1 - v) * (1 - v).log() for row in h for v in row)
    value = maximum_entropy(u)
    torch.testing.assert_close(value, wanted)
    torch.testing.assert_close(*(torch.autograd.grad(v, u)[0] for v in (value, wanted)))
    assert maximum_entropy(torch.zeros(1, 4)).item() == pytest.approx(-math.log(2))
    assert maximum_entropy(torch.full((1, 4), 300.0)).item() == 0  # h rounds to 1


@pytest.mark.parametrize("targets", [CLASS_TARGETS, LABEL_TARGETS], ids=["classes", "labels"])
def test_generated_images_have_their_term_and_no_other(targets):
    loss = WithGenerated(build_loss("triplet", BITS, CLASSES), weight=0.5)
    u, generated = torch.randn(len(targets), BITS), torch.randn(4, BITS)
    both = loss(torch.cat([generated, u]), torch.cat([torch.full_like(targets[:4], -1), targets]))
    assert both.item() == pytest.approx(
        (loss.base(u, targets) + maximum_entropy(generated) / 2).item()
    )
    assert loss(u, targets) == loss.base(u, targets)


def test_share_of_generated_images_is_of_the_whole_mini_batch():
    assert [generated_count(share, 60) for share in (0, 0.25, "1/3")] == [0, 20, 30]


@pytest.mark.parametrize(
    ("classes", "bits", "apart"), [(10, 16, 8), (10, 48, 20), (10, 12, 4), (64, 32, 16)]
)
def test_centres_are_far_apart(classes, bits, apart):
    centres = hash_centres(classes, bits)
    distances = [(one != two).sum().item() for one, two in combinations(centres, 2)]
    assert min(distances) >= apart
    assert torch.equal(centres, hash_centres(classes, bits))


def test_the_slope_of_hashnet_grows_with_training():
    loss = build_loss("hashnet", BITS, CLASSES)
    slopes = []
    for loss.progress in (0.0, 0.5, 1.0):
        slopes.append(loss.beta)
    assert slopes[0] == 1
    assert slopes[2] == 10
    assert slopes[0] < slopes[1] < slopes[2]


REFUSED = {
    "no similar pair": ("triplet", torch.tensor([0, 1, 2]), "has a similar one"),
    "one class": ("dtsh", torch.tensor([1, 1, 1]), "has a dissimilar one"),
    "one image": ("dsh", torch.tensor([1]), "no pairs"),
    "probabilities": ("csq", torch.full((3,), 0.5), "0/1 labels"),
    "another width": ("csq", torch.ones(3, 7, dtype=torch.int64), "0/1 labels"),
}


def test_targets_that_cannot_work_are_refused():
    for case in REFUSED:
        name, targets, words = REFUSED[case]
        with pytest.raises(DataError, match=words):
            build_loss(name, BITS, CLASSES)(torch.zeros(len(targets), BITS), targets)


@pytest.mark.parametrize(
    ("name", "classes", "settings", "words"),
    [
        ("tripplet", 3, {}, "choose from triplet"),
        ("dsh", 3, {"eta": 1}, "choose from margin, alpha"),
        ("triplet", 1, {}, "at least two"),
        ("triplet", 3, {"mining": "none"}, "semi-hard"),
        ("csq", 300, {}, "more bits"),
        ("hashnet", 3, {"slope": 0.5}, "at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(name, classes, settings, words):
    with pytest.raises(ConfigurationError, match=words):
        build_loss(name, BITS, classes, **settings)


def test_generated_images_alone_are_refused():
    loss = WithGenerated(build_loss("triplet", BITS, CLASSES))
    with pytest.raises(DataError, match="share of them below 1"):
        loss(torch.zeros(2, BITS), torch.tensor([-1, -1]))
    with pytest.raises(ConfigurationError, match="below 1"):
        generated_count(1.0, 60)
