"""Attacks that cannot work say so and name the mend."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from advreg.attacks import L2, Linf, pgd
from advreg.errors import ConfigurationError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threat": Linf(8)}, "8/255 instead of 8"),
        ({"threat": L2(5)}, "8/255 instead of 8"),
        ({"steps": 0}, "steps is 0"),
        ({"restarts": 1.5}, "restarts is 1.5"),
        ({"step_size": -1}, "step_size"),
        ({"momentum": -1}, "momentum"),
        ({"restarts": 2, "random_start": False}, "random_start"),
        ({"restarts": 2, "criterion": functional.cross_entropy}, "without reduction"),
        ({"inputs": torch.zeros(6, 1, 4, 4, dtype=torch.uint8)}, "floating point"),
    ],
)
def test_what_cannot_work_is_refused_with_the_mend(settings, message):
    inputs, targets = torch.rand(6, 1, 4, 4), torch.arange(6) % 3
    arguments = {"inputs": inputs, "targets": targets, "threat": Linf(0.1), **settings}
    with pytest.raises(ConfigurationError, match=message):
        pgd(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), **arguments)
