"""The probe of sites, against a slow twin in plain autograd; in training, and where it is off."""

import json
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from advreg import LayerwiseAdversary
from advreg.layerwise import SiteProbe
from advreg.training import Configuration, train

EPSILON, STEPS = 0.2, 7


def network():
    torch.manual_seed(1)
    layers = nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5), nn.ReLU(inplace=True), nn.Linear(5, 3)
    return nn.Sequential(*layers).double()


def batches(examples=10, size=5):
    """Mini-batches of random order over the same examples, with their indices."""
    generator = torch.Generator().manual_seed(2)
    inputs = torch.rand(examples, 6, generator=generator, dtype=torch.float64)
    targets = torch.randint(3, (examples,), generator=generator)
    order = torch.cat([torch.randperm(examples, generator=generator) for _ in range(STEPS)])
    return [(inputs[at], targets[at], at) for at in order.split(size)][:STEPS]


class Twin:
    """Perturbations as leaves that autograd gives the gradient of, and averages by hand."""

    def __init__(self, direction, memory):
        self.direction, self.memory = direction, memory
        self.model, self.kept, self.last = network(), {}, {}
        self.seen = {name: [] for name in ("relative", "cosine", "rise", "age", "loss")}

    def step(self, number, inputs, targets, indices):
        rows = range(len(inputs)) if self.memory == "slot" else indices.tolist()
        added = {}

        def perturbed(site, tensor):
            scale = tensor.detach().square().mean().sqrt().float() if site != "input" else 1.0
            S = [self.kept.get((site, row), torch.zeros(tensor.shape[1:])) for row in rows]
            d = EPSILON * scale * torch.stack(S).double()
            if site == "input":
                d = (tensor + d).clamp(0, 1) - tensor
            added[site] = d.detach().requires_grad_()
            self.note(site, "relative", (d.norm() / tensor.norm()).item())
            return tensor + added[site]

        hidden = self.model[0](perturbed("input", inputs))
        if self.memory == "slot":
            hidden = perturbed("0", hidden)
        loss = F.cross_entropy(self.model[1:](hidden), targets)
        gradients = torch.autograd.grad(loss, list(added.values()), retain_graph=True)
        self.seen["loss"].append(loss.item())
        for (site, d), g in zip(added.items(), gradients, strict=True):
            self.note(site, "rise", (d * g).sum().item())
            for i, row in enumerate(rows):
                if d[i].norm() > 0 and g[i].norm() > 0:
                    cosine = ((d[i] * g[i]).sum() / d[i].norm() / g[i].norm()).item()
                    self.note(site, "cosine", cosine)
                    if self.memory == "example":
                        age = round((number - self.last[row]) / 2 * 2) / 2  # 2 steps an epoch
                        self.note(site, "age", (f"{age:g}", cosine))
                unit = g[i] / g[i].norm() * g[i].numel() ** 0.5
                self.kept[site, row] = (g[i].sign() if self.direction == "sign" else unit).detach()
                self.last[row] = number
        loss.backward()
        descend(self.model)

    def note(self, site, name, value):
        self.seen[name].append((site, value))

    def mean(self, site, name):
        values = [value for where, value in self.seen[name] if where == site]
        return sum(values) / len(values)


def descend(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.1 * parameter.grad
            parameter.grad = None


@pytest.mark.parametrize(
    ("direction", "memory"), [("sign", "slot"), ("l2", "slot"), ("sign", "example")]
)
def test_the_probe_is_its_slow_twin(direction, memory):
    model, twin, probe = network(), Twin(direction, memory), SiteProbe(steps_per_epoch=2)
    sites = ("input", "0") if memory == "slot" else "input"
    adversary = LayerwiseAdversary(
        EPSILON, sites, direction=direction, memory=memory, input_range=(0.0, 1.0)
    )
    adversary.probe = probe
    with adversary.attach(model):
        for number, (inputs, targets, indices) in enumerate(batches()):
            adversary.set_batch(indices)
            F.cross_entropy(model(inputs), targets).backward()
            descend(model)
            twin.step(number, inputs, targets, indices)
    found = probe.figures()
    assert list(found) == ["input", "0"][: len(found)]
    assert len(found) == (2 if memory == "slot" else 1)
    for site, figures in found.items():
        for name in ("relative", "cosine", "rise"):
            assert figures[name] == pytest.approx(twin.mean(site, name), rel=1e-5), (site, name)
        assert abs(figures["cosine"]) > 0.01
    assert probe.rises() == pytest.approx(sum(value for _, value in twin.seen["rise"]), rel=1e-5)
    if memory == "example":
        ages = [pair for _, pair in twin.seen["age"]]
        expected = {age: [value for other, value in ages if other == age] for age, _ in ages}
        assert len(expected) > 1
        assert found["input"]["by_age"] == pytest.approx(
            {age: sum(values) / len(values) for age, values in expected.items()}, rel=1e-5
        )
    probe.clear()
    assert probe.figures() == {}


def test_the_direction_of_the_gradient_itself_has_the_cosine_that_is_said():
    probe, g = SiteProbe(), torch.randn(4, 50_000)
    change = probe.applied("a", torch.zeros_like(g), 0.1 * g.sign())
    probe.returned("a", change, g, 0, None)
    assert probe.figures()["a"]["cosine"] == pytest.approx(math.sqrt(2 / math.pi), abs=0.01)
    change = probe.applied("b", torch.zeros_like(g), 0.1 * torch.randn_like(g).sign())
    probe.returned("b", change, g, 0, None)
    assert probe.figures()["b"]["cosine"] == pytest.approx(0, abs=0.01)


def test_what_is_zero_or_not_finite_or_tiny_spoils_no_average():
    probe = SiteProbe()
    g = torch.full((5, 3), 1e-12)
    g[1], g[2, 0], g[3] = 0, math.inf, 1e-30  # whose square is zero in float32
    change = probe.applied("a", torch.zeros(5, 3), torch.ones(5, 3))
    probe.returned("a", change, g, 0, None)
    found = probe.figures()["a"]
    assert found == {"relative": 0, "cosine": pytest.approx(1), "rise": pytest.approx(6e-12)}
    probe.clear()
    probe.returned("a", torch.zeros(4, 3), torch.ones(4, 3), 0, None)
    assert probe.figures()["a"]["cosine"] is None


@pytest.mark.parametrize("shape", [(5,), (7, 5, 3)])
def test_examples_are_counted_in_the_batch_dimension(shape):
    probe, dim = SiteProbe(), len(shape) // 2
    change, g = torch.rand(shape) + 0.1, torch.rand(shape) + 0.1
    probe.returned("a", change, g, dim, None)
    expected = [
        F.cosine_similarity(d.flatten(), e.flatten(), dim=0)
        for d, e in zip(change.unbind(dim), g.unbind(dim), strict=True)
    ]
    mean = sum(expected) / len(expected)
    assert probe.figures()["a"]["cosine"] == pytest.approx(mean.item(), rel=1e-5)


def configuration(out, **run):
    method = {"epsilon": 0.1, **run.pop("method", {})}
    return Configuration.from_dict(
        {
            "data": {"name": "digits", "limit": 96},
            "method": {"name": "layerwise", **method},
            "out": str(out),
            "epochs": 2,
            "batch_size": 32,
            "tensorboard": False,
            "threads": 1,
            **run,
        }
    )


def lines(out):
    """An epoch each, without times."""
    found = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if "second" not in k} for line in found]


def test_training_writes_what_the_probe_saw_and_trains_as_without_it(tmp_path):
    train(configuration(tmp_path / "with", probe=True), quiet=True)
    train(configuration(tmp_path / "without"), quiet=True)
    probed, plain = lines(tmp_path / "with"), lines(tmp_path / "without")
    for line, other in zip(probed, plain, strict=True):
        sites, share = line.pop("sites"), line.pop("first_order_share")
        assert line == other
        assert len(sites) > 1
        assert all(set(site) == {"relative", "cosine", "rise"} for site in sites.values())
        assert share == pytest.approx(
            sum(site["rise"] for site in sites.values()) / line["train_loss"], rel=1e-6
        )
    assert 0 < probed[0]["epoch"] < probed[1]["epoch"]


def test_a_probed_run_that_is_resumed_says_the_same(tmp_path, monkeypatch):
    settings = {"probe": True, "method": {"memory": "example", "sites": "input"}}
    train(configuration(tmp_path / "whole", **settings), quiet=True)
    split = configuration(tmp_path / "split", checkpoint_every=1, **settings)
    from advreg.training import loop

    update, calls = loop.update, []

    def stopped(session, group):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        update(session, group)

    monkeypatch.setattr(loop, "update", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(split, quiet=True)
    monkeypatch.undo()
    train(split, resume=True, quiet=True)
    assert lines(tmp_path / "split") == lines(tmp_path / "whole")
    assert lines(tmp_path / "split")[1]["sites"]["input"]["by_age"]
