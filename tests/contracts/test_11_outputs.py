"""Semantic 11: outputs and inputs of any kind."""

import dataclasses
import warnings
from collections import namedtuple
from operator import itemgetter

import pytest
import torch
from probes import Body
from settings import sgd
from torch import nn

from advreg import LayerwiseAdversary, Tap
from advreg.errors import SiteError, SiteNeverRanWarning

try:
    import transformers
except ImportError:
    transformers = None

BUDGET = 0.1

Pair = namedtuple("Pair", "count value")


@dataclasses.dataclass
class Held:
    count: int
    value: torch.Tensor


@dataclasses.dataclass(frozen=True)
class Frozen:
    count: int
    value: torch.Tensor


class Wrapped(nn.Module):
    """Its body's output travels in another object."""

    def __init__(self, wrap, unwrap):
        super().__init__()
        self.body = Body(wrap)
        self.head = nn.Linear(4, 3)
        self.unwrap = unwrap

    def forward(self, inputs):
        return self.head(self.unwrap(self.body(inputs)))


WRAPPINGS = {
    "tuple": (lambda value: (value, 1), lambda output: output[0]),
    "integers first": (lambda value: (torch.arange(3), value), lambda output: output[1]),
    "none first": (lambda value: (None, value, value * 2), lambda output: output[1]),
    "list": (lambda value: [3, value], lambda output: output[1]),
    "named tuple": (lambda value: Pair(3, value), lambda output: output.value),
    "dict": (lambda value: {"count": 3, "value": value}, lambda output: output["value"]),
    "nested": (
        lambda value: {"all": [Pair(1, (None, value))]},
        lambda output: output["all"][0].value[1],
    ),
    "dataclass": (lambda value: Held(3, value), lambda output: output.value),
    "frozen dataclass": (lambda value: Frozen(3, value), lambda output: output.value),
    # A module may return its loss beside its output; a scalar has no rows.
    "scalar first": (lambda value: {"loss": value.mean(), "value": value}, itemgetter("value")),
    "model output": (
        lambda value: transformers.utils.ModelOutput(loss=None, logits=value),
        lambda output: output.logits,
    ),
}


@pytest.mark.parametrize("kind", WRAPPINGS)
def test_outputs_of_any_kind(kind):
    if kind == "model output" and transformers is None:
        pytest.skip("needs transformers")
    torch.manual_seed(0)
    model = Wrapped(*WRAPPINGS[kind])
    adversary = LayerwiseAdversary(BUDGET, ["body"], relative=False)
    inputs = torch.randn(5, 4)
    perturbed = []
    model.head.register_forward_pre_hook(lambda _, args: perturbed.append(args[0]))
    with adversary.attach(model):
        for _ in range(2):
            output = model(inputs)
            perturbed[-1].retain_grad()
            output.square().sum().backward()
        original = model.unwrap(model.body.last)
    assert type(model.body.last) is type(WRAPPINGS[kind][0](original))
    delta = perturbed[1] - original
    assert torch.allclose(delta, BUDGET * perturbed[0].grad.sign(), atol=1e-6)
    # What the module itself holds is left as it was.
    assert torch.allclose(original, model.body.linear(inputs))


def test_recurrent_networks():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(4, 5)
            self.head = nn.Linear(5, 3)

        def forward(self, inputs):
            return self.head(self.lstm(inputs)[0][-1])

    torch.manual_seed(0)
    model, seen = Recurrent(), []
    model.head.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    adversary = LayerwiseAdversary(BUDGET, ["lstm"], relative=False, batch_dim=1)
    with adversary.attach(model):
        for size in (6, 4):
            model(torch.ones(3, size, 4)).sum().backward()
    assert torch.allclose((seen[1] - seen[0][:4]).abs(), torch.tensor(BUDGET), atol=1e-6)


@pytest.mark.parametrize("output", [torch.arange(3), {"loss": None}], ids=str)
def test_a_site_without_a_floating_point_tensor_is_named(output):
    model = Wrapped(lambda value: output, lambda output: torch.ones(5, 4))
    adversary = LayerwiseAdversary(BUDGET, ["body"])
    with pytest.warns(SiteNeverRanWarning, match="body"), adversary.attach(model):  # noqa: PT031
        for _ in range(3):
            model(torch.randn(5, 4)).sum().backward()


def test_an_activation_without_the_rows_dimension_is_refused_by_name():
    model = nn.Sequential(nn.Linear(4, 3), Tap())
    handle = LayerwiseAdversary(BUDGET, ["1"], batch_dim=2).attach(model)
    with pytest.raises(SiteError, match=r"'1' has shape \(5, 3\)"):
        model(torch.ones(5, 4))
    handle.detach()


def test_keyword_inputs_and_dictionaries():
    class Keyword(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, mask, *, batch):
            return self.head(batch["image"] * mask)

    model, seen = Keyword(), []
    model.head.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    images = torch.ones(5, 4)
    with LayerwiseAdversary(BUDGET, ["input"], input_name="batch").attach(model):
        for _ in range(2):
            model(torch.ones(1, dtype=torch.int64), batch={"image": images}).sum().backward()
    assert torch.allclose((seen[1] - 1).abs(), torch.tensor(BUDGET), atol=1e-6)
    assert images.equal(torch.ones(5, 4))


def text():
    return nn.Sequential(nn.Embedding(7, 4), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3))


def test_text_has_no_input_site():
    tokens = torch.randint(0, 7, (5, 3))
    model = text()
    with warnings.catch_warnings(), LayerwiseAdversary(BUDGET).attach(model):
        warnings.simplefilter("error")
        for _ in range(12):
            model(tokens).sum().backward()
    with (
        LayerwiseAdversary(BUDGET, ["input", "0"]).attach(model),
        pytest.raises(SiteError, match="no floating-point input"),
    ):
        model(tokens)


# Networks of the transformers library


def vit():
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            image_size=8,
            patch_size=4,
            num_labels=3,
        )
    ), {"pixel_values": torch.rand(4, 3, 8, 8)}


def bert():
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=20,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=16,
            num_labels=3,
        )
    ), {"input_ids": torch.randint(0, 20, (4, 6))}


@pytest.mark.full
@pytest.mark.skipif(transformers is None, reason="needs transformers")
@pytest.mark.parametrize(("build", "checkpoints"), [(vit, False), (vit, True), (bert, False)])
def test_transformers(build, checkpoints):
    torch.manual_seed(0)
    model, batch = build()
    model.train()
    if checkpoints:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    keys = list(model.state_dict())
    adversary = LayerwiseAdversary(0.05)
    optimizer = sgd(model)
    targets = torch.tensor([0, 1, 2, 0])
    with adversary.attach(model):
        for _ in range(4):
            output = model(**batch, labels=targets)
            output.loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        statistics = adversary.statistics()
        assert list(model.state_dict()) == keys
    blocks = [name for name in statistics if name[-1].isdigit()]
    assert len(blocks) >= 2
    assert ("input" in statistics) == (build is vit)
    for site in statistics.values():
        assert site["runs"] == site["records"] == 4
        assert site["resets"] == 0
    # Of the last block only the token that is classified has a gradient.
    assert min(site["zeros"] for site in statistics.values()) < 0.1
