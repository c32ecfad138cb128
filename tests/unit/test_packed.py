"""Packed words: the layout by hand, and what memories do with them."""

import io

import pytest
import torch

from advreg.errors import StateError
from advreg.layerwise.kernels import add_signs, layout, pack_signs
from advreg.layerwise.packed import (
    PackedWords,
    as_differentiable,
    compiled_order,
    from_differentiable,
    order_of,
    word_of,
    words_for,
)

CPU = torch.device("cpu")
CHANNELS_LAST = (0, 2, 3, 1)


@pytest.fixture(params=[torch.float32, torch.uint8], ids=["float32", "uint8"])
def word(request, monkeypatch):
    """The words of a CPU, and those of a GPU."""
    if request.param == torch.uint8:
        monkeypatch.setattr(layout, "PACKS_BY_OPERATOR", ())
    assert word_of(CPU) == request.param
    return request.param


def signs(*shape):
    return torch.randint(-1, 2, shape, dtype=torch.int8)


def test_the_layout_by_hand(monkeypatch):
    """Value i of a group is in word i % M at the bits 2 * (i // M): 01, 10 for negative, 00."""
    monkeypatch.setattr(layout, "PACKS_BY_OPERATOR", ())
    values = torch.tensor([[1, 0, -1, 1, 1, 0], [-1, -1, 0, 0, 1, 0]], dtype=torch.int8)
    one = PackedWords.of(values, (0, 1), 0)  # 12 values in a unit of 6, and a unit more
    assert one.codes.tolist() == [[1, 0, 2, 1, 1, 0, 2, 2, 0, 0, 1, 0]]
    by_row = PackedWords.of(values, (0, 1), 0, groups=2)
    assert by_row.codes.tolist() == [[0b0101, 0, 2, 1], [0b0110, 2, 0, 0]]
    columns = PackedWords.of(values, (1, 0), 1, groups=6)
    assert columns.codes[:, :2].tolist() == [[1, 2], [0, 2], [2, 0], [1, 0], [1, 1], [0, 0]]


def test_packing_is_undone_by_unpacking(word):
    for shape, order, groups in (
        ((4, 3, 5, 7), (0, 1, 2, 3), 1),
        ((4, 3, 5, 7), CHANNELS_LAST, 4),
        ((6, 3, 5), (1, 0, 2), 3),
        ((37,), (0,), 1),
        ((37,), (0,), 37),
        ((1, 9), (0, 1), 1),
        ((0, 4), (0, 1), 0),
        ((2,) * 9, tuple(range(9)), 1),
    ):
        values = signs(*shape)
        packed = PackedWords.of(values, order, order[0], groups)
        assert packed.codes.dtype == word
        assert packed.codes.shape == (groups, words_for(shape, order, word, groups))
        assert packed.values().equal(values)
        assert packed.count_nonzero() == int(values.count_nonzero())
        assert packed.clone().values().equal(values)
        empty = PackedWords.zeros(shape, order, order[0], CPU, groups)
        assert empty.codes.shape == packed.codes.shape
        assert empty.count_nonzero() == 0


def test_memories_take_two_bits_a_value(word):
    shape = (128, 16, 32, 32)
    for groups, most in ((1, 1.001), (128, 1.0)):
        packed = PackedWords.zeros(shape, (0, 1, 2, 3), 0, CPU, groups)
        assert packed.nbytes <= most * 128 * 16 * 32 * 32 / 4


def test_no_word_is_not_a_number(word):
    """Anomaly detection would complain of a gradient that is one."""
    for sign in (1.0, -1.0):
        packed = PackedWords.of(torch.full((3, 40), sign), (0, 1), 0)
        carrier = as_differentiable(packed.codes)
        assert carrier.is_floating_point()
        assert not carrier.float().isnan().any()
        assert from_differentiable(carrier).equal(packed.codes)


def test_rows_are_selected_replaced_and_joined(word):
    values, fresh = signs(5, 3, 4), signs(2, 3, 4)
    packed = PackedWords.of(values, (0, 1, 2), 0, groups=5)
    indices = torch.tensor([3, 0])
    chosen = packed.index_select(0, indices)
    assert chosen.shape == (2, 3, 4)
    assert chosen.values().equal(values[indices])
    packed.index_copy_(0, indices, PackedWords.of(fresh, (0, 1, 2), 0, groups=2))
    values[indices] = fresh
    assert packed.values().equal(values)
    other = PackedWords.of(fresh, (0, 2, 1), 0, groups=2)
    assert packed.joined(other).values().equal(torch.cat([values, fresh]))
    single = packed.index_select(0, indices[:1])  # the words of one row are those of several
    assert packed.joined(single).values().equal(torch.cat([values, fresh[:1]]))
    assert packed.index_copy_(0, indices[1:], single).values()[0].equal(fresh[0])


@pytest.mark.parametrize("batch_dim", [0, 1])
def test_further_rows_are_zeros(word, batch_dim):
    values = signs(4, 4, 30)
    order = compiled_order(3, batch_dim)
    packed = PackedWords.of(values, order, batch_dim)
    assert packed.grown(4) is packed
    grown = packed.grown(9)
    assert grown.rows == 9
    assert grown.codes.shape[1] == words_for(grown.shape, order, word)
    assert grown.values().narrow(batch_dim, 0, 4).equal(values)
    assert grown.count_nonzero() == packed.count_nonzero()


@pytest.mark.parametrize("groups", [1, 4])
def test_another_order(word, groups):
    packed = PackedWords.of(signs(4, 3, 5, 7), (0, 1, 2, 3), 0, groups)
    assert packed.ordered((0, 1, 2, 3)) is packed
    other = packed.ordered(CHANNELS_LAST)
    assert other.order == CHANNELS_LAST
    assert other.codes.shape[0] == groups
    assert other.values().equal(packed.values())


@pytest.mark.parametrize("groups", [1, 4])
def test_a_state_is_loaded_where_words_are_of_another_type(groups, monkeypatch):
    values = signs(4, 3, 5, 7)
    stored = PackedWords.of(values, CHANNELS_LAST, 0, groups)
    for types, word in ((), torch.uint8), (("cpu",), torch.float32):
        file = io.BytesIO()
        torch.save(stored.state_dict(), file)
        file.seek(0)
        monkeypatch.setattr(layout, "PACKS_BY_OPERATOR", types)
        stored = PackedWords.from_state(torch.load(file, weights_only=True))
        assert stored.codes.dtype == word
        assert len(stored.codes) == groups
        assert stored.order == CHANNELS_LAST
        assert stored.values().equal(values)
        assert stored.to(CPU) is stored
        again = PackedWords.from_state(stored.state_dict())
        assert again.codes.data_ptr() != stored.codes.data_ptr()  # others may share the state


def test_orders():
    last = torch.empty(2, 3, 4, 5).to(memory_format=torch.channels_last)
    assert order_of(torch.empty(2, 3, 4, 5), 0) == (0, 1, 2, 3)
    assert order_of(last, 0) == CHANNELS_LAST
    assert order_of(torch.empty(3, 2).t(), 1) == (1, 0)
    assert order_of(torch.empty(7, 2, 3), 1) == (1, 0, 2)
    assert order_of(last[:, :2], 0) == (0, 1, 2, 3)  # not dense
    assert order_of(torch.empty(2, 3, 1, 1).to(memory_format=torch.channels_last), 0)[1] == 1
    assert compiled_order(4, 0) == CHANNELS_LAST
    assert compiled_order(4, 1) == (1, 2, 3, 0)
    assert compiled_order(3, 1) == (1, 0, 2)


@pytest.mark.parametrize(("rows", "groups"), [(99, 1), (5, 4)])
def test_more_rows_than_there_are_words_for(rows, groups):
    packed = PackedWords.of(signs(4, 64), (0, 1), 0, groups)
    with pytest.raises(StateError, match="grow the memory"):
        add_signs(torch.zeros(rows, 64), packed.codes, None, 1.0, (0, 1), -1.0, 1.0)
    with pytest.raises(StateError, match="grow the memory"):
        pack_signs(torch.zeros(rows, 64), (0, 1), packed.codes.shape[1], groups)
