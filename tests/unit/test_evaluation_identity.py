"""Which network and which data figures belong to."""

import pytest
import torch

from advreg.evaluation.identity import content_hash


def state():
    return {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(7), "c": torch.zeros(0)}


def test_the_same_contents_have_the_same_hash():
    other = dict(reversed(state().items()))
    other["a"] = torch.arange(6.0).view(3, 2).flatten().view(2, 3).t().contiguous().t()
    assert content_hash(other) == content_hash(state())


@pytest.mark.parametrize(
    "change",
    [
        {"a": torch.tensor([[0.0, 1, 2], [3, 4, 5.001]])},
        {"a": torch.arange(6.0).view(3, 2)},
        {"a": torch.arange(6).view(2, 3)},
        {"b": torch.tensor(8)},
        {"d": torch.zeros(0)},
    ],
    ids=["last value", "shape", "type", "number", "name"],
)
def test_any_change_is_another_hash(change):
    assert content_hash({**state(), **change}) != content_hash(state())
