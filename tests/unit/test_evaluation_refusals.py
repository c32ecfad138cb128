"""Evaluations that cannot work say so and name the mend."""

from types import SimpleNamespace

import pytest
import torch
from evaluated import Returns
from torch import nn
from torch.utils.data import TensorDataset

from advreg.errors import ConfigurationError, DataError
from advreg.evaluation import accuracy_and_loss, evaluate


def images(count=50):
    pixels = torch.zeros(count, 1, 4, 4, dtype=torch.uint8)
    return SimpleNamespace(images=pixels, targets=torch.arange(count) % 3)


def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


def test_settings_that_cannot_work_are_refused_before_anything_runs():
    def never(x):
        raise AssertionError("ran")

    for settings, message in (
        ({"epsilons": []}, "No epsilons"),
        ({"epsilons": [0.1, 8]}, "8/255 instead of 8"),
        ({"epsilons": ["-1/255"]}, "at least 0"),
        ({"epsilons": ["much"]}, "such as 8/255"),
        ({"limit": 0}, "limit is 0"),
        ({"limit": -3}, "limit is -3"),
        ({"steps": 0}, "steps is 0"),
        ({"restarts": 0}, "restarts is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            evaluate(Returns(never), images(), **{"epsilons": [0.1], **settings})


def test_outputs_that_are_no_logits_are_refused():
    for function, message in (
        (lambda x: x, "give one target for each logit|one class an example"),
        (lambda x: x.flatten(1)[:, 0], "give 0 or 1, or a network with a logit for each class"),
        (lambda x: x.flatten(1)[:1], "class for each example|one class an example"),
        (lambda x: x.flatten(1).argmax(1), "without logits"),
    ):
        with pytest.raises(DataError, match=message):
            accuracy_and_loss(Returns(function), images())
        with pytest.raises(DataError, match=message):
            evaluate(Returns(function), images(), epsilons=[0.1])


def test_data_that_would_be_misread_are_refused():
    for change, message in (
        ({"images": torch.rand(50, 1, 4, 4)}, "give uint8 from 0 to 255"),
        ({"targets": torch.arange(50) % 3 + 0.0}, r"such as targets.long\(\)"),
        ({"targets": torch.tensor([0] * 49 + [-100])}, "hold -100; give classes from 0 up"),
        ({"targets": torch.ones(50, 3)}, "one class an example"),
        ({"targets": torch.ones(50, 2, 2).long()}, "one class an example"),
        ({"targets": torch.tensor([0] * 49 + [3])}, "A target is 3 but the network tells 3 cla"),
        ({"targets": torch.tensor([0] * 49 + [-1])}, "hold -1; give"),
    ):
        data = SimpleNamespace(**{**vars(images()), **change})
        with pytest.raises(DataError, match=message):
            evaluate(network(), data, epsilons=[0.1], batch_size=10)
    with pytest.raises(DataError, match="are a TensorDataset; give images and targets"):
        evaluate(network(), TensorDataset(*vars(images()).values()), epsilons=[0.1])
    data = images(0)
    with pytest.raises(DataError, match="no images"):
        accuracy_and_loss(network(), data)
    with pytest.raises(DataError, match="no images"):
        evaluate(network(), data, epsilons=[0.1])
