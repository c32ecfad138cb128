"""The budget that sets itself, and its control, as the study has them."""

import pytest
import torch
from torch import nn

from advreg.batch import Batch

INPUTS, TARGETS = torch.rand(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def test_the_budget_follows_the_loss_and_its_state(script):
    method = script("auto_epsilon").AutoEpsilon(sites=["0"], epsilon=0.2, floor=0.5, rate=0.1)
    model, losses = network(), iter([0.0, 0.25, 0.5, 1.0, 9.0])

    def criterion(outputs, targets):
        loss = nn.functional.cross_entropy(outputs, targets)
        return loss - loss.detach() + next(losses)

    budgets = []
    with method.attach(model.train()):
        for _ in range(5):
            method.step(model, Batch(INPUTS, TARGETS), criterion, torch.Tensor.backward)
            budgets.append(method.adversary.sites[0].epsilon)
            share = method.state_dict()["share"]
    assert budgets == pytest.approx([0.0, 0.02, 0.03, 0.03, 0.01])
    assert share == {"value": 0.0}
    other = script("auto_epsilon").AutoEpsilon(sites=["0"], epsilon=0.2)
    other.load_state_dict({**method.state_dict(), "share": {"value": 0.5}})
    with other.attach(network().train()):
        assert other.carried["share"].value == 0.5


@pytest.mark.parametrize(("floor", "sign"), [(0.0, 1), (9.0, -1)])
def test_flooding_climbs_below_the_floor(script, floor, sign):
    method, plain, model = script("auto_epsilon").Flooding(floor=floor), network(), network()
    nn.functional.cross_entropy(plain(INPUTS), TARGETS).backward()
    with method.attach(model.train()):
        batch = Batch(INPUTS, TARGETS)
        method.step(model, batch, nn.CrossEntropyLoss(), torch.Tensor.backward)
    for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(mine.grad, sign * theirs.grad)
