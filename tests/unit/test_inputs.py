"""Which tensor is the network's input, and which inputs and budgets are refused."""

import functools
import gc
import types
import weakref

import pytest
import torch
from torch import nn

from advreg.checks import check_budget, check_inputs, check_logits, check_range, check_targets
from advreg.errors import ConfigurationError, DataError, SiteError
from advreg.inputs import InputArgument, logits_of, network_input

X, MASK, LABELS = torch.rand(4, 3), torch.ones(4, 3), torch.rand(4)
TOKENS = torch.arange(4)


class Masked(nn.Module):
    def forward(self, x, mask=None, *, labels=None):
        return x


class Anything(nn.Module):
    def forward(self, *args, **kwargs):
        return args


class Keywords(nn.Module):
    def forward(self, **kwargs):
        return kwargs


def wrapped():
    """As libraries replace a network's forward on the instance."""
    network = Masked()
    inner = network.forward

    @functools.wraps(inner)
    def forward(*args, **kwargs):
        return inner(*args, **kwargs)

    network.forward = forward
    return network


def rebound():
    network = Masked()

    @functools.wraps(Masked.forward)
    def forward(self, *args, **kwargs):
        return Masked.forward(self, *args, **kwargs)

    network.forward = types.MethodType(forward, network)
    return network


def test_the_input_is_chosen_by_the_signature():
    for network, args, kwargs, name, expected in (
        (Masked(), (X,), {}, None, X),
        (Masked(), (X, MASK), {}, None, X),
        (Masked(), (TOKENS, MASK), {}, None, None),
        (Masked(), (), {"labels": LABELS, "x": X}, None, X),
        (wrapped(), (), {"labels": LABELS, "x": X}, None, X),
        (rebound(), (), {"labels": LABELS, "x": X}, None, X),
        (Masked(), (TOKENS, MASK), {}, "mask", MASK),
        (Masked(), (TOKENS,), {"mask": MASK}, "mask", MASK),
        (Masked(), (TOKENS,), {"labels": LABELS}, "labels", LABELS),
        (Masked(), (TOKENS,), {}, "mask", None),
        (Masked(), ({"a": TOKENS, "b": X},), {}, None, X),
        (Masked(), ({"labels": LABELS, "b": X},), {}, "x.b", X),
        (Masked(), ((X, MASK),), {}, None, X),
        (Anything(), (X, LABELS), {"mask": MASK}, None, X),
        (Anything(), (TOKENS, LABELS), {}, None, None),
        (Anything(), (), {"x": X, "tokens": TOKENS}, None, X),
        (Anything(), (TOKENS,), {"x": X}, None, None),
        (Anything(), (), {"x": X, "labels": LABELS}, "x", X),
        (Keywords(), (), {"x": X}, None, X),
        (Keywords(), (), {}, None, None),
    ):
        found = network_input(network, args, kwargs, name)
        if expected is None:
            assert found is None
            continue
        assert found[0] is expected
        new = expected + 1
        new_args, new_kwargs = found[1](new)
        assert network_input(network, new_args, new_kwargs, name)[0] is new
        assert (len(new_args), new_kwargs.keys()) == (len(args), kwargs.keys())
        assert network_input(network, args, kwargs, name)[0] is expected


def test_where_the_input_is_not_clear_a_name_is_asked_for():
    for network, args, kwargs, name, message in (
        (Anything(), (), {"x": X, "labels": LABELS}, None, "input_name='x'"),
        (Masked(), ({"x": X, "labels": LABELS},), {}, None, "input_name='x.x'"),
        (Masked(), (X,), {}, "y", "no parameter 'y'; choose input_name from: x, mask, labels"),
        (Masked(), (X,), {}, "x.y", "no entry 'y'"),
    ):
        with pytest.raises(SiteError, match=message):
            network_input(network, args, kwargs, name)


def test_a_transformers_model_keeps_its_labels():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=8, num_labels=1,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config)
    call = {"labels": LABELS, "input_ids": TOKENS[:, None], "attention_mask": MASK}
    assert network_input(model, (), call) is None
    embedded = torch.rand(4, 3, 8)
    call = {"labels": LABELS, "inputs_embeds": embedded}
    assert network_input(model, (), call, "inputs_embeds")[0] is embedded
    assert logits_of(model(**call)).shape == (4, 1)
    assert logits_of(model(**call, return_dict=False)).shape == (4, 1)


def test_networks_are_not_kept_alive_by_the_reading_of_their_signature():
    network = wrapped()
    network_input(network, (X,), {})
    alive = weakref.ref(network)
    del network
    gc.collect()
    assert alive() is None


def test_the_input_is_found_within_compiled_code():
    argument = InputArgument.of(Masked())

    @torch.compile(fullgraph=True, backend="eager")
    def doubled(args, kwargs):
        tensor, rebuild = argument.find(args, kwargs)
        return rebuild(2 * tensor)

    (x,), kwargs = doubled((X,), {"labels": LABELS})
    assert x.equal(2 * X)
    assert kwargs["labels"].equal(LABELS)
    assert doubled((), {"labels": LABELS, "x": X})[1]["x"].equal(2 * X)


def test_logits_are_found_in_what_networks_return():
    logits = torch.rand(4, 3)
    loss = torch.tensor(1.0)
    holder = types.SimpleNamespace(logits=logits)
    outputs = (
        logits,
        (loss, logits, X),
        {"features": X, "logits": logits},
        {"loss": loss, "out": logits},
        holder,
    )
    for output in outputs:
        assert logits_of(output) is logits
    for output in (None, TOKENS, loss, {"loss": loss}, "text"):
        with pytest.raises(DataError, match="without logits"):
            logits_of(output)


def test_probabilities_are_no_logits():
    for shape in ((4, 3), (4, 3, 2)):
        logits = torch.randn(shape)
        check_logits(logits)
        check_logits(logits[:0])
        with pytest.raises(ConfigurationError, match="without its softmax"):
            check_logits(logits.softmax(1))


def test_inputs_that_do_not_fit_are_refused():
    for inputs, input_range, message in (
        (torch.zeros(2, 3, dtype=torch.uint8), (0, 1), "convert images to floating point"),
        (torch.zeros(2, 3, dtype=torch.int64), None, "convert images to floating point"),
        (255 * X, (0, 1), "outside the range from 0 to 1"),
        (X - 0.5, (0, 1), "normalise inside the model"),
        (X + float("nan"), None, "without NaN"),
        (X * float("inf"), (0, 1), "give finite ones"),
        (X[:0], (0, 1), "at least one example"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            check_inputs(inputs, input_range)
    check_inputs(X + 1e-5, (0, 1.0))
    check_inputs(100 * X, None)
    check_inputs(X.bfloat16(), (0, 1))


def test_targets_that_belong_to_no_input_are_refused():
    for targets in (LABELS[:3], torch.tensor(1), LABELS.to(torch.complex64)):
        with pytest.raises(DataError, match="one target for each input"):
            check_targets(X, targets)
    check_targets(X, LABELS)


def test_a_budget_in_another_unit_is_refused():
    with pytest.raises(ConfigurationError, match="8/255 instead of 8"):
        check_budget(8.0, (0, 1))
    check_budget(8.0, None)
    check_budget(8.0, (0, 255))
    check_budget(8.0, (0, 1), diameter=8.0)


def test_a_range_that_is_none_is_refused():
    for value in (5, (1, 0), (0, 0), (0,), "ab", (0, float("nan")), (0, "x")):
        with pytest.raises(ConfigurationError, match="its low end, then its high end"):
            check_range(value)
    assert check_range(None) is None
    assert check_range([0, 255]) == (0.0, 255.0)
