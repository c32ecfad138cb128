"""Pairing a mini-batch with other classes than the memory's."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advreg import Batch, View, pair
from advreg.errors import ConfigurationError, DataError
from advreg.layerwise import pairing_order
from advreg.layerwise.pairing import alike_order, exchange_order
from advreg.methods import Layerwise


def misses(targets, previous, order):
    moved = targets if order is None else targets[order]
    common = min(len(moved), len(previous))
    return int((moved[:common] == previous[:common]).sum())


def unavoidable(targets, previous):
    """The fewest misses of any order, by Hall's condition, for any two sizes."""
    common = min(len(targets), len(previous))
    previous = previous[:common]
    worst = 0
    for kind in set(previous.tolist()):
        held, others = int((previous == kind).sum()), int((targets != kind).sum())
        worst = max(worst, held - others)
    return worst


classes = st.lists(st.integers(0, 4), min_size=1, max_size=24)


@given(classes, classes)
def test_exactly_the_unavoidable_number_of_misses(targets, previous):
    targets, previous = torch.tensor(targets), torch.tensor(previous)
    order = pairing_order(targets, previous)
    if order is not None:
        assert sorted(order.tolist()) == list(range(len(targets)))
    assert misses(targets, previous, order) == unavoidable(targets, previous)


@given(classes, classes)
def test_no_more_moves_than_it_must(targets, previous):
    """A position without a miss moves only to make room for one."""
    targets, previous = torch.tensor(targets), torch.tensor(previous)
    order = pairing_order(targets, previous)
    before = misses(targets, previous, None)
    moved = 0 if order is None else int((order != torch.arange(len(order))).sum())
    assert moved <= 2 * before


def batch(size=12):
    generator = torch.Generator().manual_seed(0)
    numbers = torch.arange(size)
    view = View(numbers, numbers + 1, numbers % 2 == 0, size)
    targets = torch.randint(0, 3, (size,), generator=generator)
    return Batch(numbers[:, None].float(), targets, numbers, view)


def test_everything_moves_together():
    first = batch()
    paired = pair(first, first.targets)
    assert not paired.indices.equal(first.indices)
    for place, index in enumerate(paired.indices.tolist()):
        assert paired.inputs[place, 0] == index
        assert paired.targets[place] == first.targets[index]
        assert paired.view.top[place] == index
        assert paired.view.left[place] == index + 1
        assert paired.view.flip[place] == (index % 2 == 0)
    assert misses(paired.targets, first.targets, None) < misses(first.targets, first.targets, None)


def test_nothing_moves_before_the_first_batch_or_without_a_miss():
    first = batch()
    assert pair(first, None) is first
    assert pair(first, first.targets + 10) is first


def test_class_probabilities_are_refused_by_name():
    soft = Batch(torch.zeros(4, 2), torch.eye(4)[:, :3])
    with pytest.raises(DataError, match="class"):
        pair(soft, soft.targets)


@given(classes, classes)
def test_positions_keep_their_class_where_there_is_one(targets, previous):
    now, before = torch.tensor(targets), torch.tensor(previous)
    order = alike_order(now, before)
    assert sorted(order.tolist()) == list(range(len(targets)))
    held = previous[: len(targets)]
    most = sum(min(held.count(kind), targets.count(kind)) for kind in set(held))
    assert misses(now, before, order) == most


@given(classes)
def test_rows_are_exchanged_within_classes_or_across_them(targets):
    now = torch.tensor(targets)
    within, across = (exchange_order(now, one).tolist() for one in (True, False))
    assert sorted(within) == sorted(across) == list(range(len(targets)))
    for place, owner in enumerate(within):
        assert targets[owner] == targets[place]
        assert (owner == place) == (targets.count(targets[place]) == 1)
    stay = sum(targets[owner] == targets[place] for place, owner in enumerate(across))
    assert stay == max(0, max(2 * targets.count(kind) for kind in targets) - len(targets))


def test_rows_that_mean_nothing_are_refused():
    for settings in ({"exchange": "other"}, {"exchange": "class", "pair": True}):
        with pytest.raises(ConfigurationError, match="has no meaning"):
            Layerwise(**settings)
    with pytest.raises(ConfigurationError, match="exchange"):
        Layerwise(exchange="mine")
