"""FGSM training, mixed with the clean loss, beside its equation."""

import pytest
import torch.nn.functional as F
from attack_twins import assert_twins, epochs, gradient, passes

from advreg.errors import ConfigurationError
from advreg.methods import FGSM, SLAT


def twin(epsilon, clean_weight):
    def loss(model, batch):
        x, y = batch.inputs, batch.targets
        sign = gradient(model, x, lambda outputs: F.cross_entropy(outputs, y)).sign()
        clean = F.cross_entropy(model(x), y)
        return clean_weight * clean + (1 - clean_weight) * F.cross_entropy(
            model((x + epsilon * sign).clamp(0, 1)), y
        )

    return loss


@pytest.mark.parametrize("clean_weight", [0.2, 1.0])
def test_equals_its_equation(clean_weight):
    assert_twins(FGSM(0.2, clean_weight), twin(0.2, clean_weight), epochs())


@pytest.mark.parametrize("method", [FGSM, SLAT])
def test_an_epsilon_in_the_wrong_unit_is_refused(method):
    with pytest.raises(ConfigurationError, match="8/255 instead of 8"):
        passes(method(epsilon=8), epochs(1))


def test_bad_settings_are_named():
    for settings in ({"clean_weight": 0}, {"clean_weight": 1.1}, {"epsilon": -0.1}):
        with pytest.raises(ConfigurationError, match=next(iter(settings))):
            FGSM(**settings)
