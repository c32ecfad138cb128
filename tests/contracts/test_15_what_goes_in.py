"""Odd networks, targets and criteria in every method: each right against a twin, or refused.

A twin says the same by other means: two logits for one, one position for several that are alike, a
criterion written out for one of torch's.
"""

import math
import warnings
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from settings import SETTINGS, TinyNet, batches
from torch import nn

from advreg import Batch, LayerwiseAdversary
from advreg.errors import AdvregError, EmptyPerturbationWarning
from advreg.layerwise import attach
from advreg.losses import Task, unexamined
from advreg.methods import METHODS, LabelSmoothing, Method, Standard, base, build_method

CHOSEN = {"layerwise": "layerwise-slot-input", "datagrad": "datagrad-exact"}
"""Where it is not the first setting of a method."""

FIRST = {getattr(s.build, "name", None): s for s in reversed(SETTINGS.values())}
GRID = {name: SETTINGS[CHOSEN[name]] if name in CHOSEN else FIRST[name] for name in METHODS}
GRID["input_gradient_uniform"] = SETTINGS["input-gradient-uniform"]
GRID["datagrad_difference"] = SETTINGS["datagrad"]
every = pytest.mark.parametrize("name", GRID)
SMOOTH = ("label_smoothing", "input_gradient_uniform", "fgsm_pgi", "tdat")


class Net(TinyNet):
    """The tiny network with another head, and its logits in another form."""

    def __init__(self, outputs=3, form=lambda logits: logits, dtype=torch.float64):
        torch.manual_seed(0)
        super().__init__(norm=False)
        self.head, self.form = nn.Linear(4, outputs), form
        self.to(dtype)

    def forward(self, images):
        return self.form(super().forward(images))


def batch(targets=None, dtype=torch.float64):
    (found,) = batches(1, dtype=dtype, views=True)
    return found if targets is None else replace(found, targets=targets)


CLASSES = batch().targets
BITS = (CLASSES > 0).long()
LABELS = torch.stack([BITS, 1 - BITS, CLASSES % 2], 1)
CROSS, BINARY = nn.CrossEntropyLoss(), nn.BCEWithLogitsLoss()


def trained(name, net, given, criterion=CROSS, steps=2):
    """Losses, gradients and right answers of some steps on one mini-batch."""
    method = name if isinstance(name, Method) else GRID[name].method()
    found = []
    with method.attach(net, steps_per_epoch=4):
        for _ in range(steps):
            torch.manual_seed(1)
            output = method.step(net, given, criterion, torch.Tensor.backward)
            found += [output.loss, output.correct()]
    return [*found, *(parameter.grad for parameter in net.parameters())]


def assert_same(found, expected, **tolerance):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, check_dtype=False, equal_nan=True, **tolerance)


@every
def test_labels_of_any_type_outputs_in_any_container_and_any_precision(name):
    expected = trained(name, Net(), batch())
    hot = F.one_hot(CLASSES, 3)
    for targets in (CLASSES.int(), CLASSES.byte()[:, None], hot.bool(), hot.float()):
        assert_same(trained(name, Net(), batch(targets)), expected)
    in_tuple, in_mapping = lambda z: (z, z.exp()), lambda z: {"features": z.exp(), "logits": z}
    for form, criterion in ((in_tuple, CROSS), (in_mapping, F.cross_entropy)):
        assert_same(trained(name, Net(form=form), batch(), criterion), expected)
    own = trained(name, Net(form=in_tuple), batch(), lambda o, t: F.cross_entropy(o[0], t))
    assert_same(own, expected)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):  # random numbers differ
        found = trained(name, Net(dtype=dtype), batch(dtype=dtype))
        assert found[-1].dtype == dtype
        assert_same(found[:1], expected[:1], rtol=0.15, atol=0)


def two(logits):
    """The two-class network that one yes or no is."""
    return torch.stack([torch.zeros_like(logits), logits], 1)


@every
def test_one_logit_is_two_classes_and_several_labels_are_one_such_pair_each(name):
    expected = trained(name, Net(1, lambda z: two(z.squeeze(1))), batch(BITS))
    forms = (lambda z: z, lambda z: z.squeeze(1), lambda z: (z, z), lambda z: z)
    kinds = (BITS, BITS.int()[:, None], BITS.bool(), BITS.float())
    for form, targets in zip(forms, kinds, strict=True):
        assert_same(trained(name, Net(1, form), batch(targets), BINARY), expected)
    expected = trained(name, Net(3, two), batch(LABELS))
    for targets in (LABELS, LABELS.float()):
        assert_same(trained(name, Net(), batch(targets), BINARY), expected)


@every
def test_positions_that_are_alike_are_one(name):
    expected = trained(name, Net(), batch())
    for shape in ((5,), (2, 3)):

        def spread(tensor, shape=shape):
            return tensor[(..., *[None] * len(shape))].expand(*tensor.shape, *shape)

        assert_same(trained(name, Net(form=spread), batch(spread(CLASSES.int()))), expected)
    with pytest.raises(AdvregError, match="classes along dimension 1"):  # (B, T, K)
        trained(name, Net(form=lambda z: spread(z).movedim(1, -1)), batch(spread(CLASSES)))


WEIGHTS = torch.tensor([0.2, 1.0, 9.0], dtype=torch.float64)


def weighted(outputs, targets):
    losses = -outputs.log_softmax(1)[range(len(targets)), targets]
    return (WEIGHTS[targets] * losses).sum() / WEIGHTS[targets].sum()


def counted(outputs, targets):
    kept = targets != -100
    return F.cross_entropy(outputs[kept], targets[kept])


@every
def test_class_weights_and_ignored_classes(name):
    holes = CLASSES.clone()
    holes[::3] = -100
    own = {"class weights": (CROSS_WEIGHTED := nn.CrossEntropyLoss(WEIGHTS), CLASSES, weighted)}
    own["ignored"] = (CROSS, holes, counted)
    for criterion, targets, written_out in own.values():
        found = trained(name, Net(), batch(targets), criterion)
        if name not in SMOOTH:
            assert_same(found, trained(name, Net(), batch(targets), written_out))
    if name == "label_smoothing":
        for settings in ({"weight": WEIGHTS}, {"ignore_index": 7}):
            targets = holes.where(holes >= 0, settings.get("ignore_index", 0))
            torchs = nn.CrossEntropyLoss(**settings, label_smoothing=0.1)
            for criterion in (
                nn.CrossEntropyLoss(**settings),
                partial(F.cross_entropy, **settings),
            ):
                found = trained(name, Net(), batch(targets), criterion)
                assert_same(found, trained(Standard(), Net(), batch(targets), torchs))
    if name == "input_gradient_uniform":
        # The penalty is blind to the targets, but for the weights that divide it.
        assert_same(found, trained(name, Net(), batch(targets), criterion))
        penalty = penalty_of(CROSS_WEIGHTED, CLASSES)
        uniform = WEIGHTS / WEIGHTS[CLASSES].sum() / 3
        assert penalty == pytest.approx(written_penalty(uniform), rel=1e-9)
    sevens = holes.where(holes >= 0, 7)
    ignoring = nn.CrossEntropyLoss(ignore_index=7)
    assert_same(
        trained(name, Net(), batch(sevens), ignoring), trained(name, Net(), batch(holes), CROSS)
    )


def penalty_of(criterion, targets):
    loss = trained("input_gradient_uniform", Net(), batch(targets), criterion, steps=1)[0]
    return (loss - trained("standard", Net(), batch(targets), criterion, steps=1)[0]).item()


def written_penalty(uniform):
    """0.01 * mean_i |d (B * sum_k u_k J_k) / d x_i|^2."""
    inputs = batch().inputs.requires_grad_()
    loss = -(Net()(inputs).log_softmax(1) * uniform).sum() * len(inputs)
    (gradient,) = torch.autograd.grad(loss, inputs)
    return 0.01 * gradient.flatten(1).square().sum(1).mean().item()


def test_a_regression_is_right_or_refused():
    for name in GRID:
        check_regression(name)


def check_regression(name):
    values = torch.linspace(-1, 2, 8, dtype=torch.float64)
    if name in SMOOTH or name in ("trades", "vat", "lots", "gat", "nuat", "mart"):
        with pytest.raises(AdvregError, match=r"regression.*classifier"):
            pytest.fail(f"{name}: {trained(name, Net(1), batch(values), nn.MSELoss())}")
        return

    def squares(outputs, targets):
        return (outputs.flatten() - targets.flatten()).square().mean()

    found = trained(name, Net(1), batch(values), nn.MSELoss())
    assert_same(found, trained(name, Net(1), batch(values), squares))
    assert math.isnan(found[1])


class Tokens(nn.Module):
    """A network of integer inputs."""

    def __init__(self, sparse=False):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(9, 4, sparse=sparse)
        self.stage, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, tokens):
        return self.head(self.stage(self.embedding(tokens).mean(1)).relu())


REFUSED = {
    "not a number": (Net(), batch().inputs.log().log(), CLASSES, CROSS, "NaN"),
    "infinite": (Net(), batch().inputs / 0, CLASSES, CROSS, "finite"),
    "empty": (Net(), torch.empty(0, 3, 6, 6).double(), CLASSES[:0], CROSS, "empty"),
    "no reduction": (Net(), None, CLASSES, nn.CrossEntropyLoss(reduction="none"), "mean"),
    "probabilities": (Net(1), None, BITS, nn.BCELoss(), "nn.BCEWithLogitsLoss"),
    "one logit": (Net(1), None, BITS, CROSS, "always zero"),
    "no such class": (Net(), None, CLASSES + 1, CROSS, "A target is 3"),
    "floats": (Net(), None, CLASSES.float(), CROSS, "classes as integers"),
    "several labels": (Net(), None, LABELS, CROSS, "nn.BCEWithLogitsLoss"),
    "complex": (Net(), None, CLASSES.cfloat(), CROSS, "one target"),
    "no logits": (Net(form=lambda z: z.argmax(1)), None, CLASSES, CROSS, "without logits"),
}


@every
def test_what_cannot_be_right_is_refused_with_the_mend(name):
    normalised = Net()
    normalised.input_range = (0.0, 1.0)
    refused = {
        **REFUSED,
        "normalised": (normalised, batch().inputs * 4 - 2, CLASSES, CROSS, "normalise inside"),
    }
    for case, (net, inputs, targets, criterion, message) in refused.items():
        given = batch().inputs if inputs is None else inputs
        one = Batch(given, targets, torch.arange(len(given)))
        with pytest.raises(AdvregError, match=message):
            pytest.fail(f"{case}: {trained(name, net, one, criterion)}")
    cut = trained(name, Cut(), batch(), steps=1)
    assert all(bool(value.isfinite().all()) for value in cut)
    tokens = Batch(torch.arange(32).view(8, 4) % 9, CLASSES, torch.arange(8))
    setting = GRID[name]
    method = setting.method() if name != "layerwise" else build_method(name, sites=["stage"])
    if name in ("standard", "dropout", "sam", "awp", "label_smoothing", "layerwise"):
        found = trained(method, Tokens(), tokens)
        assert all(bool(value.isfinite().all()) for value in found)
        sparse = trained(method, Tokens(sparse=True), tokens)
        assert_same([value.to_dense() for value in sparse], found)
    else:
        with pytest.raises(AdvregError):
            trained(method, Tokens(), tokens)


NOTHING = {
    "fgsm": {"epsilon": 0},
    "rs_fgsm": {"epsilon": 0},
    "n_fgsm": {"epsilon": 0},
    "pgd": {"epsilon": 0},
    "free": {"epsilon": 0},
    "trades": {"epsilon": 0},
    "vat": {"epsilon": 0},
    "previous_fgsm": {"epsilon": 0, "start": "batch"},
    "atta": {"epsilon": 0},
    "fgsm_pgi": {"epsilon": 0},
    "tdat": {"epsilon": 0},
    "gat": {"epsilon": 0},
    "nuat": {"epsilon": 0},
    "gradalign": {"epsilon": 0},
    "mart": {"epsilon": 0},
    "awp": {"gamma": 0},
    "slat": {"epsilon": 0, "eta": 0},
    "datagrad": {"weight": 0},
    "input_gradient": {"weight": 0},
    "lots": {"layer": "stage", "step_size": 0},
}


FROM_GRADIENTS = [
    "fgsm",
    "free",
    "input_gradient",
    "datagrad",
    "datagrad_difference",
    "vat",
    "lots",
    "gradalign",
]
"""What perturbs nothing where gradients end before the input."""


class Cut(Net):
    """A network whose outputs do not depend on its inputs differentiably."""

    def forward(self, images):
        return super().forward(images.detach())


def test_an_empty_perturbation_is_said_once():
    from_gradients = [(name, GRID[name].method(), Cut()) for name in FROM_GRADIENTS]
    without_budget = [(name, build_method(name, **one), Net()) for name, one in NOTHING.items()]
    for name, method, net in from_gradients + without_budget:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", EmptyPerturbationWarning)
            trained(method, net, batch(), steps=9)
            assert not caught, name
            trained(method, net, batch(), steps=12)
        assert [one.category for one in caught] == [EmptyPerturbationWarning], name
        assert "plain training" in str(caught[0].message)


def test_between_two_looks_no_value_is_waited_for():
    class Unread:
        def any(self):
            raise AssertionError

    method = Standard()
    method._looks = False
    method.notice(Unread())
    with unexamined():
        assert Task().class_targets(torch.zeros(2, 3), torch.tensor([1, 7])).tolist() == [1, 7]
        with pytest.raises(AdvregError):
            Task().class_targets(torch.zeros(2, 3), torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize(("sites", "counts"), [(["input"], (0, 1)), (["stage"], (1, 0))])
def test_the_adversary_or_the_method_checks_the_range_once(monkeypatch, sites, counts):
    seen = {attach: 0, base: 0}
    for module in seen:
        count = partial(lambda module, *_: seen.update({module: seen[module] + 1}), module)
        monkeypatch.setattr(module, "check_inputs", count)
    method = build_method("layerwise", sites=sites, input_range=(0, 1))
    trained(method, Net(), batch(), steps=1)
    assert (seen[base], seen[attach]) == counts


def test_smoothing_by_a_criterion_without_probabilities_is_a_sentence():
    def focal(outputs, targets):
        return -outputs.log_softmax(1).gather(1, targets[:, None]).mean()

    for criterion, message in ((focal, "probabilities"), (nn.NLLLoss(), "give class indices")):
        with pytest.raises(AdvregError, match=message):
            trained(LabelSmoothing(), Net(), batch(), criterion)


@every
def test_a_softmax_before_the_cross_entropy_is_refused(name):
    with pytest.raises(AdvregError, match=r"returns probabilities.*without its softmax"):
        trained(name, Net(form=lambda logits: logits.softmax(1)), batch())


@pytest.mark.parametrize("settings", [{}, {"memory": "example"}, {"direction": "l2"}])
def test_an_adversary_whose_gradients_are_all_zero_says_so_once(settings):
    net = Net(1, dtype=torch.float32)
    adversary = LayerwiseAdversary(0.1, ["input", "stem"], **settings)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with adversary.attach(net):
            for _ in range(12):
                adversary.set_batch(torch.arange(8))
                logits = net(batch(dtype=torch.float32).inputs)
                F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long)).backward()
    said = [one for one in seen if one.category is EmptyPerturbationWarning]
    assert len(said) == 1
    assert "does not" in str(said[0].message)
