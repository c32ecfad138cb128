"""Finding and replacing a tensor in whatever a module returns."""

import collections
import dataclasses

import pytest
import torch

from advreg.inputs import find_tensor, whole_of

Pair = collections.namedtuple("Pair", "left right")
TENSOR, INTEGERS = torch.zeros(2, 3), torch.arange(2)


@dataclasses.dataclass(frozen=True)
class Held:
    count: int
    value: torch.Tensor


VALUES = {
    "tensor": TENSOR,
    "tuple": (INTEGERS, TENSOR, TENSOR + 1),
    "list": [None, TENSOR],
    "named tuple": Pair("text", TENSOR),
    "dict": {"count": 1, "value": TENSOR},
    "ordered dict": collections.OrderedDict(value=TENSOR),
    "default dict": collections.defaultdict(list, value=TENSOR),
    "dataclass": Held(1, TENSOR),
    "nested": ({"a": [Pair(INTEGERS, Held(2, TENSOR))]}, TENSOR + 1),
    "return type": torch.max(torch.rand(2, 3), 0),
}


def leaves(value):
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    if isinstance(value, (tuple, list)):
        return [leaf for item in value for leaf in leaves(item)]
    if dataclasses.is_dataclass(value):
        return leaves([value.count, value.value])
    return [value]


@pytest.mark.parametrize("kind", VALUES)
def test_the_first_tensor_is_found_and_replaced_in_a_copy(kind):
    value = VALUES[kind]
    before = leaves(value)
    tensor, rebuild = find_tensor(value)
    assert tensor is next(
        leaf for leaf in before if torch.is_tensor(leaf) and leaf.is_floating_point()
    )
    new = torch.ones(2, 3)
    changed = rebuild(new)
    assert type(changed) is type(value)
    replaced = [new if leaf is tensor else leaf for leaf in before]
    assert all(a is b for a, b in zip(leaves(changed), replaced, strict=True))
    assert all(a is b for a, b in zip(leaves(value), before, strict=True))


@pytest.mark.parametrize(
    "value",
    [
        INTEGERS,
        None,
        "text",
        [],
        {},
        (1, {"a": INTEGERS}),
        torch.tensor(1.0),
        Held,
        3.0,
        torch.zeros(2, dtype=torch.complex64),
        torch.zeros(2, dtype=torch.bool),
    ],
    ids=str,
)
def test_nothing_is_found_where_nothing_is(value):
    assert find_tensor(value) is None


def test_a_scalar_is_passed_over():
    assert find_tensor({"loss": torch.tensor(1.0), "value": TENSOR})[0] is TENSOR


def test_views_of_all_of_a_tensor_are_that_tensor():
    tensor = torch.zeros(2, 3)
    assert whole_of(tensor) is tensor
    assert whole_of(tensor.view_as(tensor)) is tensor
    for part in (tensor[:1], tensor.t(), tensor.view(3, 2), tensor[:, :2], tensor.t().t()[1:]):
        assert whole_of(part) is part
