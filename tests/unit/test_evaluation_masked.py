"""Networks that mask their gradients look robust; the evidence says that they are not."""

import pytest
import torch
from evaluated import Images
from torch import nn
from torch.nn import functional

from advreg.attacks import has_autoattack
from advreg.evaluation import evaluate_suite


class Changed(nn.Module):
    """A network with its inputs or its logits changed."""

    def __init__(self, model, before=None, after=None):
        super().__init__()
        self.model = model
        self.before = before or nn.Identity()
        self.after = after or nn.Identity()

    def forward(self, inputs):
        return self.after(self.model(self.before(inputs)))


class Saturated(nn.Module):
    """Logits so far apart that the softmax is one and zeros, and its gradient zero."""

    def forward(self, logits):
        return logits * 1e4


class Quantised(nn.Module):
    """Eight levels of brightness: the gradient is zero wherever there is one."""

    def forward(self, inputs):
        return (inputs * 8).round() / 8


@pytest.fixture(scope="module")
def trained():
    """A network that tells three blobs apart, and images of them."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(240) % 3
    centres = torch.rand(3, 1, 6, 6, generator=generator)
    noise = 0.25 * torch.randn(240, 1, 6, 6, generator=generator)
    pixels = ((centres[targets] + noise).clamp(0, 1) * 255).round().to(torch.uint8)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 32), nn.ReLU(), nn.Linear(32, 3))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        loss = functional.cross_entropy(model(pixels / 255), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval(), Images(pixels, targets)


def rows(model, data):
    found = evaluate_suite(
        model,
        data,
        epsilons=[0.1, 0.2],
        batch_size=240,
        weights=model.state_dict(),
    )
    return found, {row.name: row for row in found.evidence}


def failed(found):
    return {name for name, row in found.items() if row.verdict == "does not hold"}


def test_an_honest_network_is_called_nothing(trained):
    found, evidence = rows(*trained)
    assert not failed(evidence)
    at = found.to_dict()["epsilons"]
    assert found.to_dict()["clean"]["accuracy"] > 0.95
    assert at["0.2"]["pgd"]["accuracy"] < 0.7


@pytest.mark.parametrize(
    ("change", "zeros"), [({"after": Saturated()}, 0.5), ({"before": Quantised()}, 0.99)]
)
def test_a_masked_gradient_is_called_out(trained, change, zeros):
    model, data = trained
    honest, _ = rows(model, data)
    masked, evidence = rows(Changed(model, **change).eval(), data)
    before, after = (
        found.to_dict()["epsilons"]["0.2"]["pgd"]["accuracy"] for found in (honest, masked)
    )
    assert after > before + 0.1  # it does look robust
    assert evidence["gradients are not zero"].figure > zeros
    assert {"gradients are not zero", "large epsilon reaches chance"} <= failed(evidence)
    if has_autoattack():
        assert "white box at least as strong as square" in failed(evidence)


def test_a_random_network_is_called_out(trained):
    class Noisy(nn.Module):
        def forward(self, logits):
            return logits + 0.1 * torch.randn_like(logits)

    model, data = trained
    _, evidence = rows(Changed(model, after=Noisy()).eval(), data)
    assert "the same input gives the same answer" in failed(evidence)
