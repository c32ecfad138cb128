"""Accuracy, clean and attacked, and what a bad evaluation says."""

import json
import math

import pytest
import torch
from evaluated import Images, Returns, images, network, timeless
from torch import nn
from torch.nn import functional

from advreg.attacks import Linf, fgsm, pgd
from advreg.data.splits import stratified_order
from advreg.errors import ConfigurationError
from advreg.evaluation import accuracy_and_loss, evaluate, evaluate_examples


@pytest.mark.parametrize("batch_size", [7, 500])
def test_accuracy_and_loss_are_those_of_the_whole(batch_size):
    model, data = network().train(), images()
    accuracy, loss = accuracy_and_loss(model, data, batch_size)
    assert accuracy == 0.8
    assert all(module.training for module in model.modules())
    outputs = model.eval()(data.images / 255)
    assert loss == pytest.approx(functional.cross_entropy(outputs, data.targets).item(), rel=1e-5)


def test_a_network_that_diverged_is_wrong_and_has_no_loss():
    model = Returns(lambda x: x.flatten(1)[:, :3] / 0)
    accuracy, loss = accuracy_and_loss(model, Images(images().images, torch.zeros(50).long()))
    assert accuracy == 0
    assert math.isnan(loss)


def test_the_figures_are_those_of_the_attacks():
    model, data = network(), images()
    result = evaluate(model, data, epsilons=["8/255", 0.1], steps=5)
    assert list(result["epsilons"]) == ["8/255", "0.1"]
    inputs = data.images / 255
    at = result["epsilons"]["8/255"]
    assert at["epsilon"] == 8 / 255
    model.eval()
    attacked = fgsm(model, inputs, data.targets, Linf("8/255"))
    hits = model(attacked).argmax(1) == data.targets
    assert at["fgsm"]["accuracy"] == pytest.approx(hits.double().mean().item(), abs=1e-12)
    assert result["clean"]["accuracy"] == 0.8
    assert result["clean"]["standard_error"] == pytest.approx(math.sqrt(0.8 * 0.2 / 50))
    assert result["clean"]["nll"] == pytest.approx(accuracy_and_loss(model, data)[1])
    assert result["examples"] == 50
    assert result["zero_gradient"] == result["not_finite"] == 0
    assert (at["fgsm"]["passes"], at["pgd"]["passes"]) == (1, 5)
    for figures in result["epsilons"].values():
        accuracies = [figures[name]["accuracy"] for name in ("worst", "pgd", "fgsm")]
        assert accuracies[0] <= min(accuracies[1:]) <= result["clean"]["accuracy"]
        assert figures["seconds"] > 0
    assert at["worst"]["accuracy"] > result["epsilons"]["0.1"]["worst"]["accuracy"]


def test_examples_are_recorded_one_by_one():
    model, data = network(), images()
    settings = {"epsilons": [0.1], "steps": 3, "batch_size": 20}
    whole = evaluate_examples(model, data, **settings)
    hits = whole.attacked["0.1"].correct
    assert whole.attacked["0.1"].worst.equal(hits["fgsm"] & hits["pgd"])
    assert whole.clean["correct"].equal(torch.arange(50) % 5 != 0)
    assert whole.indices.equal(torch.arange(50))
    some = evaluate_examples(model, data, limit=20, **settings)
    assert some.clean["correct"].equal(whole.clean["correct"][some.indices])
    found = some.attacked["0.1"].correct
    assert all(found[name].equal(hits[name][some.indices]) for name in hits)


def test_worst_is_by_example_and_not_the_lower_average(monkeypatch):
    """Two attacks that fool a half each, and together everybody."""
    model = Returns(lambda x: functional.pad(5 * x.flatten(1)[:, :1], (0, 1)))
    data = Images(torch.full((10, 1, 4, 4), 255, dtype=torch.uint8), torch.zeros(10).long())

    def fooling(rows):
        def attack(model, inputs, *_, **__):
            return torch.where((torch.arange(10) % 2 == rows)[:, None, None, None], -1.0, inputs)

        return attack

    monkeypatch.setattr("advreg.evaluation.suites.fgsm", fooling(0))
    monkeypatch.setattr("advreg.evaluation.suites.pgd", fooling(1))
    at = evaluate(model, data, epsilons=[0.1])["epsilons"]["0.1"]
    assert [at[name]["accuracy"] for name in ("fgsm", "pgd", "worst")] == [0.5, 0.5, 0.0]


def test_everything_follows_from_the_seed():
    model, data = network(), images(200)
    settings = {"epsilons": [0.05, 0.08], "steps": 1, "batch_size": 70}
    first = evaluate_examples(model, data, seed=5, **settings)
    torch.rand(3)
    again = evaluate_examples(model, data, seed=5, **settings)
    other = evaluate_examples(model, data, seed=6, **settings)
    assert timeless(first.to_dict()) == timeless(again.to_dict())
    assert not other.attacked["0.05"].correct["pgd"].equal(first.attacked["0.05"].correct["pgd"])
    alone = evaluate_examples(model, data, seed=5, **{**settings, "epsilons": [0.08]})
    assert alone.attacked["0.08"].correct["pgd"].equal(first.attacked["0.08"].correct["pgd"])


def test_the_model_is_attacked_deployed_and_left_as_it_was():
    model, data = network().train(), images()
    model.train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    seen, stream = [], torch.get_rng_state()
    hook = model.register_forward_pre_hook(
        lambda module, _: seen.append(any(part.training for part in module.modules()))
    )
    evaluate(model, data, epsilons=[0.1], steps=2)
    hook.remove()
    assert torch.get_rng_state().equal(stream)
    assert not any(seen)
    assert not model._forward_hooks
    assert [module.training for module in model.modules()] == modes
    assert all(value.equal(state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_autocast_around_an_evaluation_does_not_matter():
    model, data = network(), images()
    expected = evaluate_examples(model, data, epsilons=[0.1], steps=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = evaluate_examples(model, data, epsilons=[0.1], steps=2)
    assert found.clean["loss"].equal(expected.clean["loss"])


@pytest.mark.parametrize("restarts", [1, 3])
def test_the_passes_are_counted_right(restarts):
    model, data = network(), images(10)
    backward = []

    def count(module, inputs, outputs):
        if outputs.requires_grad and torch.is_grad_enabled():
            outputs.register_hook(lambda gradient: backward.append(len(gradient)))

    model[0].register_forward_hook(count)
    at = evaluate(model, data, epsilons=[0.1], steps=4, restarts=restarts)["epsilons"]["0.1"]
    stated = at["fgsm"]["passes"] + at["pgd"]["passes"]
    clean = 1
    assert sum(backward) == 10 * (stated + clean)


def test_zero_gradients_are_reported():
    """A quantised input masks the gradient of all; a saturated softmax that of some."""
    data = images()
    masked = nn.Sequential(Returns(lambda x: (x * 4).round() / 4), *network())
    assert evaluate(masked, data, epsilons=[0.1], steps=1)["zero_gradient"] == 1

    def saturated(x):
        return functional.pad(x.flatten(1)[:, :1] * 1e4, (0, 2))

    pixels = torch.zeros(4, 1, 4, 4, dtype=torch.uint8)
    pixels[1] = 200
    found = evaluate_examples(
        Returns(saturated), Images(pixels, torch.zeros(4).long()), epsilons=[0.1], steps=1
    )
    assert found.clean["zero_gradient"].tolist() == [False, True, False, False]
    assert found.to_dict()["zero_gradient"] == 0.25


def test_logits_that_are_not_finite_are_reported():
    def broken(x):
        logits = x.flatten(1)[:, :3]
        return torch.where(torch.arange(len(x))[:, None] < 5, logits, float("nan"))

    result = evaluate(Returns(broken), images(), epsilons=[0.1], steps=2)
    assert result["not_finite"] == 0.9
    assert result["clean"]["nll"] is None
    assert result["clean"]["ece"] is None
    assert result["clean"]["accuracy"] <= 0.1
    json.dumps(result, allow_nan=False)


def test_progress_reaches_the_end_in_order():
    seen, settings = [], {"steps": 1, "batch_size": 20, "limit": 30}
    evaluate(
        network(), images(), epsilons=["4/255", 0.1], progress=lambda *args: seen.append(args),
        **settings,
    )  # fmt: skip
    done, totals, texts = zip(*seen, strict=True)
    assert list(dict.fromkeys(texts)) == [
        "clean",
        *(f"{name} at {text}" for text in ("4/255", "0.1") for name in ("fgsm", "pgd")),
    ]
    assert list(done) == sorted(set(done))
    assert set(totals) == {done[-1]}


def test_pgd_in_an_evaluation_is_the_one_asked_for(monkeypatch):
    model, data, kept = network(), images(), []

    def recording(*args, **settings):
        kept.append((args[3:], pgd(*args, **settings)))
        return kept[-1][-1]

    monkeypatch.setattr("advreg.evaluation.suites.pgd", recording)
    found = evaluate_examples(model, data, epsilons=[0.1], steps=7, restarts=3)
    assert [arguments for arguments, _ in kept] == [(Linf(0.1), 7)] * 3
    order = stratified_order(data.targets, 0)
    runs = [model.eval()(attacked).argmax(1) == data.targets[order] for _, attacked in kept]
    assert not kept[0][1].equal(kept[1][1])
    assert found.attacked["0.1"].correct["pgd"][order].equal(torch.stack(runs).all(0))


def test_a_batch_starts_alike_at_every_budget_and_batches_and_restarts_differ(monkeypatch):
    seeds = []

    def recording(*args, generator, **settings):
        seeds.append(generator.initial_seed())
        return pgd(*args, generator=generator, **settings)

    monkeypatch.setattr("advreg.evaluation.suites.pgd", recording)
    evaluate(network(), images(), epsilons=[0.05, 0.1], steps=1, batch_size=25)
    assert seeds[:2] == seeds[2:]
    assert len(set(seeds)) == 2
    seeds.clear()
    evaluate(network(), images(), epsilons=[0.1], steps=1, restarts=3, batch_size=25)
    assert len(set(seeds)) == 6


def test_a_network_that_returns_probabilities_is_refused():
    with pytest.raises(ConfigurationError, match="returns probabilities"):
        evaluate(nn.Sequential(network(), nn.Softmax(1)), images(), epsilons=[0.1])
    evaluate(nn.Sequential(network(), nn.LogSoftmax(1)), images(), epsilons=[0.1], steps=1)
