"""Evaluations of data in odd orders and types and of networks of other kinds."""

import pytest
import torch
from evaluated import SETTINGS, Images, images, network, timeless, without_square
from test_attacks_inputs import Changed
from torch import nn

from advreg.attacks import L2, has_autoattack, square
from advreg.errors import ConfigurationError
from advreg.evaluation import accuracy_and_loss, evaluate, evaluate_examples, evaluate_suite

needs_autoattack = pytest.mark.skipif(not has_autoattack(), reason="pip install 'advreg[attacks]'")


def sorted_by_class():
    """Sixty images a class, in the order of the classes; the first class alone is recognised."""
    pixels = images(180).images
    targets = torch.arange(180) // 60
    return Images(pixels, targets)


class First(nn.Module):
    def forward(self, inputs):
        return inputs.flatten(1)[:, :3] * 0 + torch.tensor([5.0, 0.0, 0.0])


def test_a_limit_draws_every_class_in_proportion(monkeypatch):
    without_square(monkeypatch)
    data = sorted_by_class()
    found = evaluate_examples(First(), data, epsilons=[0.1], limit=60, steps=1)
    assert found.targets.bincount().tolist() == [20, 20, 20]
    assert found.to_dict()["clean"]["accuracy"] == pytest.approx(1 / 3)
    assert found.indices.equal(found.indices.sort().values)
    assert data.targets[found.indices].equal(found.targets)
    again, other = (
        evaluate_examples(First(), data, epsilons=[0.1], limit=60, steps=1, seed=seed)
        for seed in (0, 1)
    )
    assert again.indices.equal(found.indices)
    assert not other.indices.equal(found.indices)


def test_probes_are_of_every_class(monkeypatch):
    """The curve, on 60 of the 180 images, begins at the accuracy of all."""
    without_square(monkeypatch)
    found = evaluate_suite(First(), sorted_by_class(), epsilons=[0.1], probe=60, batch_size=60)
    assert found.curve[0]["accuracy"] == pytest.approx(1 / 3)


def test_labels_of_odd_types_and_outputs_in_containers_are_the_same():
    data, one_hot = images(), nn.functional.one_hot(images().targets, 3)
    expected = timeless(evaluate(network(), data, epsilons=[0.1], steps=2))
    for targets in (data.targets.to(torch.uint8)[:, None], one_hot, one_hot.bool()):
        found = evaluate(network(), Images(data.images, targets), epsilons=[0.1], steps=2)
        assert timeless(found) == expected
    held = Changed(network(), lambda outputs: {"features": outputs + 1, "logits": outputs})
    assert timeless(evaluate(held, data, epsilons=[0.1], steps=2)) == expected


def test_one_logit_is_the_network_of_two_classes():
    """Logits z against (0, z): each figure and each piece of evidence, Square's among them."""
    data = images()
    labels = Images(data.images, (data.targets > 0).long())
    one = Changed(network(), lambda o: o[:, 1] - o[:, 0]).eval()
    two = Changed(network(), lambda o: torch.stack([0 * o[:, 0], o[:, 1] - o[:, 0]], 1)).eval()
    found, expected = (
        timeless(evaluate_suite(model, labels, **SETTINGS).to_dict()) for model in (one, two)
    )
    assert 0 < found["epsilons"]["0.1"]["worst"]["accuracy"] < found["clean"]["accuracy"]
    for name in ("clean", "epsilons", "curve", "evidence"):
        assert found[name] == expected[name]
    assert accuracy_and_loss(one, labels) == pytest.approx(accuracy_and_loss(two, labels))


def test_accuracy_of_several_labels_is_by_the_criterion():
    data = images()
    labels = torch.stack([data.targets > 0, data.targets > 1, data.targets < 1], 1)
    outputs = network()(data.images / 255)
    accuracy, loss = accuracy_and_loss(
        network(), Images(data.images, labels), criterion=nn.BCEWithLogitsLoss()
    )
    assert accuracy == pytest.approx(((outputs > 0) == labels).float().mean().item())
    assert loss == pytest.approx(nn.BCEWithLogitsLoss()(outputs, labels.float()).item(), rel=1e-5)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64], ids=["bfloat16", "double"])
def test_networks_of_other_precisions_are_measured(kind):
    expected = evaluate(network(), images(), epsilons=["8/255"], steps=3)
    found = evaluate_suite(network().to(kind), images(), epsilons=["8/255"], steps=3)
    figures = found.to_dict()
    assert figures["clean"]["accuracy"] == pytest.approx(expected["clean"]["accuracy"], abs=0.05)
    worst = (f["epsilons"]["8/255"]["worst"]["accuracy"] for f in (figures, expected))
    assert next(worst) == pytest.approx(next(worst), abs=0.1)
    sentence = found.evidence[-1].sentence
    if kind != torch.float64 and has_autoattack():
        assert "give the model and its inputs in float32" in sentence


def test_a_network_of_nan_is_measured_and_says_so(monkeypatch):
    without_square(monkeypatch)
    model = Changed(network(), lambda outputs: outputs * float("nan"))
    figures = evaluate_suite(model, images(), **SETTINGS).to_dict()
    assert [figures["clean"][name] for name in ("accuracy", "nll", "ece")] == [0, None, None]
    row = next(row for row in figures["evidence"] if "same input" in row["name"])
    assert row["sentence"] == "The network's outputs are not all finite."


def test_attacks_are_transferred_from_a_network_of_another_precision(monkeypatch):
    without_square(monkeypatch)
    shares = []
    for source in (network(2), network(2).bfloat16()):
        found = evaluate_suite(network(), images(), transfer=source, **SETTINGS).to_dict()
        shares.append(found["epsilons"]["0.1"]["transfer"]["accuracy"])
    assert shares[0] == pytest.approx(shares[1], abs=0.06)
    other = nn.Sequential(nn.Flatten(), nn.Linear(16, 7))
    with pytest.raises(ConfigurationError, match="tells 7 classes apart, the evaluated one 3"):
        evaluate_suite(network(), images(), transfer=other, **SETTINGS)


def sized(height, width, classes=3):
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (12, 1, height, width), dtype=torch.uint8)
    model = nn.Sequential(nn.Flatten(), nn.Linear(height * width, classes)).eval()
    return model, Images(pixels, model(pixels / 255).argmax(1))


@needs_autoattack
@pytest.mark.parametrize("size", [(22, 40), (4, 4)], ids=str)
def test_images_that_square_cannot_tile_leave_a_row_that_says_so(size):
    model, data = sized(*size)
    settings = {"epsilons": [0.3], "threat": "L2", "steps": 2}
    row = evaluate_suite(model, data, **settings).evidence[-1]
    assert row.verdict == "not measured"
    assert f"images of {size[0]} x {size[1]} pixels" in row.sentence
    with pytest.raises(ConfigurationError, match="Square under L2"):
        evaluate_suite(*sized(*size, 5), suite="headline", **settings)


@pytest.mark.full
@needs_autoattack
def test_the_sizes_that_square_is_refused_for_are_those_that_it_cannot_tile():
    from pyautoattack.square import SquareAttack

    for height in (*range(4, 26), 28, 32, 36, 39):
        for width in {height, height + 3, 2 * height}:
            model, data = sized(height, width)
            inputs, targets = data.images[:2] / 255, data.targets[:2]
            try:
                SquareAttack(model, "L2", n_queries=1, eps=1e-4).perturb(inputs, targets)
            except (RuntimeError, ZeroDivisionError):
                with pytest.raises(ConfigurationError, match="cannot tile"):
                    square(model, inputs, targets, L2(1e-4), queries=1)
            else:
                square(model, inputs, targets, L2(1e-4), queries=1)


@needs_autoattack
def test_a_headline_of_three_classes_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(ConfigurationError, match="at least 4 classes and there are 3"):
        evaluate_suite(network(), images(), suite="headline", folder=tmp_path, **SETTINGS)
    assert not list(tmp_path.iterdir())


def test_under_l2_the_first_run_starts_at_the_input(monkeypatch):
    starts = []

    def recording(model, inputs, *args, random_start, **settings):
        starts.append(random_start)
        return inputs

    monkeypatch.setattr("advreg.evaluation.suites.pgd", recording)
    without_square(monkeypatch)
    settings = {**SETTINGS, "epsilons": [0.3], "limit": 20, "probe": 1, "restarts": 2}
    evaluate_suite(network(), images(), threat="L2", **settings)
    assert starts[:2] == [False, True]
    starts.clear()
    evaluate(network(), images(), epsilons=[0.3], restarts=2)
    assert starts == [True, True]
