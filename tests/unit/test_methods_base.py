"""A method of one's own, and what holds a method to a network."""

import copy
import pickle
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from advreg import Batch
from advreg.attacks import Linf
from advreg.errors import ConfigurationError, StateError
from advreg.methods import (
    ATTA,
    FGSM,
    METHODS,
    AdversarialTraining,
    Composed,
    Dropout,
    Free,
    Layerwise,
    Method,
    Mixup,
    PreviousFGSM,
    StepOutput,
    base,
    build_method,
    register_method,
    settings_of,
    training_pass,
)


def batch():
    return Batch(torch.rand(6, 4), torch.randint(0, 3, (6,)), torch.arange(6))


def step(method, model):
    with method.attach(model):
        return method.step(model, batch(), F.cross_entropy, torch.Tensor.backward)


OWN = """
from dataclasses import dataclass

from advreg.methods import Method, training_pass


@dataclass
class Shrink(Method):
    name = "shrink"
    by: float = 0.5

    def step(self, model, batch, criterion, backward):
        smaller = batch.with_inputs(self.by * batch.inputs)
        return training_pass(model, smaller, criterion, backward)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of a user's own on Python's path."""
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "broken.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    for name in ("mine", "broken"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("own")
def test_a_method_of_ones_own_is_imported_by_its_name():
    method = build_method("mine:Shrink", by=0.25)
    assert method.by == 0.25
    assert isinstance(step(method, nn.Linear(4, 3)), StepOutput)


@pytest.mark.usefixtures("own")
def test_what_cannot_be_built_is_said_in_a_sentence():
    for name, settings, message in (
        ("nothing", {}, "No method is called 'nothing'.*package.module:Class"),
        ("nowhere:Shrink", {}, "cannot be imported.*No module named 'nowhere'"),
        ("mine:Other", {}, "cannot be imported.*'Other'"),
        ("broken:Shrink", {}, "cannot be imported.*ZeroDivisionError"),
        ("mine:dataclass", {}, "not a subclass of advreg.methods.Method"),
        ("mine:Shrink", {"per": 1}, "no setting 'per'; choose from by"),
        ("mine:Method", {}, "not a whole training method; define the method step"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            build_method(name, **settings)


def test_a_registered_method_is_built_by_its_name(monkeypatch):
    monkeypatch.setattr("advreg.methods.METHODS", METHODS.copy())

    @register_method
    class Plain(Method):
        name = "my_own"

        def __init__(self, strength, *, seed=0):
            self.strength, self.seed = strength, seed

        def step(self, model, batch, criterion, backward):
            return training_pass(model, batch, criterion, backward)

    assert build_method("my_own", strength=2).strength == 2
    with pytest.raises(ConfigurationError, match="needs its setting strength"):
        build_method("my_own")
    register_method(Plain)  # as a notebook's cell does that is run again
    for bad, message in [
        (type("Fgsm", (Plain,), {"name": "fgsm"}), "'fgsm' already, FGSM; choose another"),
        (type("Two", (Plain,), {"name": "a+b"}), "letters, digits and underscores"),
        (nn.Linear, "not a subclass"),
    ]:
        with pytest.raises(ConfigurationError, match=message):
            register_method(bad)


def test_an_unfinished_method_is_refused():
    for parent, contents, message in (
        (Method, {"name": "a"}, "define the method step"),
        (Method, {"step": Free.step}, "define the class attribute name"),
        (AdversarialTraining, {"name": "a"}, "define the method attacked"),
    ):
        unfinished = type("Unfinished", (parent,), contents)
        with pytest.raises(ConfigurationError, match=f"^Unfinished .*{message}"):
            unfinished()


def test_an_attack_of_ones_own_takes_its_settings_and_random_numbers():
    @dataclass
    class Noise(AdversarialTraining):
        name = "noise"

        def attacked(self, network, batch, criterion):
            start = self.threat.start(batch.inputs, self.generator(batch.inputs))
            return self.perturbed(batch.inputs, start)

    model, seen = nn.Linear(4, 3), []
    model.input_range = (0.0, 1.0)
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    step(Noise("8/255", seed=1), model)
    assert 0 <= seen[0].min() <= seen[0].max() <= 1
    with pytest.raises(ConfigurationError, match="8/255"):
        step(Noise(8), model)


def test_a_state_of_another_method_is_refused():
    with pytest.raises(StateError, match="holds generators and method 'free' carries slots"):
        Free().load_state_dict(Mixup().state_dict())
    with pytest.raises(StateError, match="carries generators, batch"):
        PreviousFGSM(start="batch").load_state_dict(PreviousFGSM().state_dict())


@pytest.mark.parametrize("method", [Free(), FGSM(), ATTA(), Dropout()], ids=lambda m: m.name)
def test_a_copy_of_an_attached_method_is_detached(method):
    with method.attach(nn.Sequential(nn.Linear(4, 3))):
        for other in (copy.deepcopy(method), pickle.loads(pickle.dumps(method))):
            with other.attach(nn.Sequential(nn.Linear(4, 3))):
                pass


@pytest.mark.full
def test_a_method_that_is_left_attached_ends_quietly():
    code = """
from torch import nn
from advreg.methods import FGSM, Layerwise
for method in (FGSM(), Layerwise(sites=["input"])):
    method.attach(nn.Linear(2, 2)).__enter__()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_wrapper_is_unwrapped():
    model, method = nn.Linear(4, 3), FGSM()
    with method.attach(torch.compile(model)):
        assert method.network is model


def test_on_an_accelerator_the_range_is_checked_now_and_then(monkeypatch):
    """Each check waits for what is queued; the device without data stands in for one."""
    checks, method = [], FGSM()
    monkeypatch.setattr(base, "check_inputs", lambda *_: checks.append(0))
    for device, count in (("meta", 2), ("cpu", 2 * base.CHECK_EVERY)):
        checks.clear()
        with method.attach(nn.Linear(4, 3)):
            for _ in range(2 * base.CHECK_EVERY):
                method.check(torch.empty(2, 4, device=device), Linf(0.1))
        assert len(checks) == count


class Recurrent(nn.Module):
    """A network whose site returns a tuple."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, inputs):
        values, (_, _) = self.lstm(inputs[:, None])
        return self.head(values[:, -1])


def test_dropout_finds_the_tensor_in_a_tuple_and_drops_once_under_two_names():
    model, seen = Recurrent(), []
    model.head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    step(Dropout(0.5, ["lstm"]), model)
    assert 0.2 < (seen[0] == 0).float().mean() < 0.8
    nested = nn.Sequential(nn.Sequential(nn.Identity()))
    method = Dropout(0.5, ["0", "0.0"])
    with method.attach(nested):
        dropped = nested(torch.ones(1000, 1))
    assert sorted(dropped.unique().tolist()) == [0.0, 2.0]


def test_parts_of_a_composed_method_are_attached_with_it():
    method = Composed([Layerwise(0.1, sites=["input"]), Mixup()])
    model = nn.Linear(4, 3)
    attached = method.attach(model)
    assert [part.network for part in method.methods] == [model, model]
    attached.detach()
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def test_settings_of_a_wrong_type_are_a_sentence():
    for name, method in METHODS.items():
        for setting in settings_of(method):
            for value in ("much", [], {}, object()):
                with suppress(ConfigurationError):
                    build_method(name, **{setting: value})
    with pytest.raises(ConfigurationError, match="warmup_epochs is 'much'"):
        build_method("layerwise", warmup_epochs="much")
