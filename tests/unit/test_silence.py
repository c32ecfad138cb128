"""What would go on without a word, or end in torch's own error, is one sentence."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from advreg.attacks import Linf, fgsm, lots, pgd, square
from advreg.batch import Batch
from advreg.errors import ConfigurationError, DataError, EmptyPerturbationWarning, StateError
from advreg.layerwise import LayerwiseAdversary
from advreg.methods import METHODS, build_method

INPUTS, TARGETS = torch.rand(6, 1, 3, 1), torch.tensor([0, 1, 2, 0, 1, 2])
EVERY = sorted(METHODS)


def network(*last):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3), *last)


def step(name, criterion, model=None, inputs=INPUTS, targets=TARGETS):
    model, indices = model or network(), torch.arange(6)
    method = build_method(name)
    with method.attach(model.train(), steps_per_epoch=1, examples=6, epochs=2):
        return method.step(model, Batch(inputs, targets, indices), criterion, torch.Tensor.backward)


def detached(outputs, targets):
    return F.cross_entropy(outputs, targets).detach()


def number(outputs, targets):
    return F.cross_entropy(outputs, targets).item()


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    ("criterion", "said"),
    [
        (detached, "lost its gradient"),
        (number, "returns float"),
        (None, "The criterion is None"),
        (nn.CrossEntropyLoss(reduction="sum"), "reduction='mean'"),
    ],
    ids=["detached", "a number", "none", "a sum"],
)
def test_a_criterion_that_trains_nothing_is_refused(name, criterion, said):
    with pytest.raises(ConfigurationError, match=said):
        step(name, criterion)


@pytest.mark.parametrize("name", ["standard", "pgd", "layerwise"])
def test_a_likelihood_of_logits_is_refused_and_one_of_their_logarithms_trains(name):
    with pytest.raises(ConfigurationError, match=r"nn.CrossEntropyLoss, or end the model"):
        step(name, nn.NLLLoss())
    step(name, nn.NLLLoss(), network(nn.LogSoftmax(1)))


@pytest.mark.parametrize("name", EVERY)
def test_what_is_no_tensor_is_refused(name):
    loss = nn.CrossEntropyLoss()
    with pytest.raises(DataError, match="inputs are ndarray; give a tensor"):
        step(name, loss, inputs=INPUTS.numpy())
    for targets in (None, [0, 1, 2, 0, 1, 2]):
        with pytest.raises(DataError, match=r"targets are \w+; give a tensor"):
            step(name, loss, targets=targets)


@pytest.mark.parametrize("attack", [fgsm, pgd])
def test_an_attack_without_a_gradient_says_so(attack):
    class Hidden(nn.Module):
        def forward(self, inputs):
            return network()(inputs.detach())

    with pytest.warns(EmptyPerturbationWarning, match="follows none"):
        attack(Hidden(), INPUTS, TARGETS, Linf(0.1))
    with pytest.warns(EmptyPerturbationWarning, match="follows none"):
        attack(network(), INPUTS, torch.full((6,), -100), Linf(0.1))
    with pytest.raises(ConfigurationError, match="lost its gradient"):
        attack(network(), INPUTS, TARGETS, Linf(0.1), criterion=detached)


def test_square_knows_a_sigmoid():
    pytest.importorskip("pyautoattack")
    images = torch.rand(4, 1, 4, 4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 1), nn.Sigmoid()).eval()
    with pytest.raises(ConfigurationError, match="of a sigmoid"):
        square(model, images, torch.tensor([0, 1, 0, 1]), Linf(0.1), queries=5)


def test_lots_leaves_batch_statistics_alone():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3), nn.Linear(3, 3)).train()
    before = model[1].running_mean.clone()
    with pytest.raises(ConfigurationError, match="batch statistics"):
        lots(model, INPUTS[:3], INPUTS[3:], "1", steps=2)
    assert torch.equal(model[1].running_mean, before)
    lots(model.eval(), INPUTS[:3], INPUTS[3:], "1", steps=2)


@pytest.mark.parametrize("indices", ["x", {"a": 1}, np.array(["a", "b"])])
def test_indices_that_are_no_numbers_are_refused(indices):
    with pytest.raises(StateError, match="indices are"):
        LayerwiseAdversary(0.1, memory="example").set_batch(indices)


def test_an_index_that_no_memory_reaches_is_refused():
    model, adversary = network(), LayerwiseAdversary(0.1, memory="example")
    with adversary.attach(model):
        adversary.set_batch(torch.tensor([0, 10**14]))
        with pytest.raises(StateError, match="no memory for the rows of 100,000,000,000,001"):
            model(INPUTS[:2]).sum().backward()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("name", EVERY)
def test_inputs_of_another_type_than_the_network_s_are_a_sentence(name, dtype):
    said = rf"inputs are {dtype} and the network's parameters torch.float32; convert"
    with pytest.raises(ConfigurationError, match=said):
        step(name, nn.CrossEntropyLoss(), inputs=INPUTS.to(dtype))


@pytest.mark.parametrize("attack", [fgsm, pgd])
def test_what_is_no_network_no_threat_or_of_another_type_is_refused(attack):
    with pytest.raises(ConfigurationError, match=r"model is a function; give an nn.Module"):
        attack(lambda inputs: inputs, INPUTS, TARGETS, Linf(0.1))
    with pytest.raises(ConfigurationError, match=r"threat is 0.1; give Linf"):
        attack(network(), INPUTS, TARGETS, 0.1)
    with pytest.raises(ConfigurationError, match=r"inputs are torch.float64 and the network's"):
        attack(network(), INPUTS.double(), TARGETS, Linf(0.1))
