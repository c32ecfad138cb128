"""Adding a method, a site rule or a memory kind takes one file each, written here and imported."""

import sys
from importlib import import_module

import pytest
from settings import batches, tiny, train, walk

from advreg import LayerwiseAdversary
from advreg.cli import main
from advreg.errors import ConfigurationError, SiteError
from advreg.layerwise.memory import MEMORIES
from advreg.layerwise.sites import SITE_RULES
from advreg.methods import METHODS, build_method
from advreg.training import RunFolder

METHOD = """
from dataclasses import dataclass

from advreg.methods import Method, register_method, training_pass


@register_method
@dataclass
class Shrink(Method):
    name = "shrink"
    by: float = 0.5

    def step(self, model, batch, criterion, backward):
        self.check(batch.inputs)
        smaller = batch.with_inputs(self.by * batch.inputs)
        return training_pass(model, smaller, criterion, backward)
"""

RULE = """
from torch import nn

from advreg.layerwise import register_site_rule


@register_site_rule("convolutions")
def convolutions(model):
    return [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
"""

MEMORY = """
from advreg.layerwise import Memory, direction, register_memory


@register_memory("mean")
class MeanMemory(Memory):
    '''The direction of the mini-batch's mean gradient, for every row of the next one.'''

    kept = None

    def read(self, activation, batch, generators):
        return None if self.kept is None else self.kept.expand_as(activation)

    def write(self, gradient, batch, before):
        self.kept = direction(gradient.mean(0, keepdim=True), self.rule.direction)

    def nbytes(self, activation):
        return activation[0].numel()

    def state_dict(self):
        return {**super().state_dict(), "kept": self.kept}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.kept = state["kept"]
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a module of a user's own into a folder on Python's path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = [dict(table) for table in (METHODS, SITE_RULES, MEMORIES)]
    names = []

    def write(name, text):
        names.append(name)
        (tmp_path / f"{name}.py").write_text(text)

    yield write
    for table, kept in zip((METHODS, SITE_RULES, MEMORIES), before, strict=True):
        table.clear()
        table.update(kept)
    for name in names:
        sys.modules.pop(name, None)


def test_a_method(write, tmp_path):
    """By its module and class, from Python and the command line, and by its name once imported."""
    write("shrinking", METHOD)
    options = ["--data", "digits", "--limit", "40", "--data.validation", "20", "--epochs", "1"]
    options += ["--batch_size", "20", "--tensorboard", "false", "--out", str(tmp_path / "run")]
    named = ["--method.name", "shrinking:Shrink", "--method.by", "0.25"]
    assert main(["train", *options, *named]) == 0
    assert len(RunFolder(tmp_path / "run").read_metrics()) == 1
    losses = []
    for name in ("shrinking:Shrink", "shrink"):
        method, model = build_method(name, by=0.25), tiny()
        with method.attach(model):
            losses.append(train(model, method, batches(3)))
    assert losses[0].equal(losses[1])
    assert losses[0].isfinite().all()
    with pytest.raises(ConfigurationError, match="has no setting 'to'; choose from by"):
        build_method("shrink", to=1)


def test_a_site_rule(write):
    model, adversary = tiny(), LayerwiseAdversary(0.1, "@convolutions")
    with pytest.raises(SiteError, match="no site rule '@convolutions'; choose from: @default"):
        adversary.attach(model)
    write("convolutions", RULE)
    import_module("convolutions")
    with adversary.attach(model):
        walk(model, adversary, batches(3))
        statistics = adversary.statistics()
    assert list(statistics) == ["stem", "stage.0.conv", "stage.1.conv"]
    assert all(site["records"] == 3 for site in statistics.values())


def test_a_memory_kind(write):
    with pytest.raises(ConfigurationError, match="memory is 'mean'"):
        LayerwiseAdversary(0.1, memory="mean")
    write("averaging", MEMORY)
    import_module("averaging")
    stream, runs = list(batches(6)), []
    for memory, resumes in (("mean", False), ("mean", True), ("slot", False)):
        model, adversary = tiny(), LayerwiseAdversary(0.1, ["input", "stage.*"], memory)
        with adversary.attach(model):
            walk(model, adversary, stream[:3])
            state, weights = adversary.state_dict(), model.state_dict()
            assert all(site["records"] == 3 for site in adversary.statistics().values())
        if resumes:
            model, adversary = tiny(), LayerwiseAdversary(0.1, ["input", "stage.*"], memory)
            model.load_state_dict(weights)
        adversary.load_state_dict(state)
        with adversary.attach(model):
            runs.append(walk(model, adversary, stream[3:]))
    assert runs[0].isfinite().all()
    assert runs[0].equal(runs[1])
    assert not runs[0].equal(runs[2])
