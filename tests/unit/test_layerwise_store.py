"""What is carried from step to step, by position and by example, dense and packed."""

import copy
from functools import partial

import pytest
import torch

from advreg import View
from advreg.errors import StateError, UnsupportedError
from advreg.layerwise.example_store import ExampleStore
from advreg.layerwise.packed import PackedWords, order_of
from advreg.layerwise.store import SlotStore


def packed(like):
    """Rows of two bits a value, all zero."""
    return PackedWords.zeros(like.shape, order_of(like, 0), 0, like.device, len(like))


DENSE = {"dtype": torch.float16}
PACKED = {"first": packed}
kinds = pytest.mark.parametrize("kind", [DENSE, PACKED], ids=["dense", "packed"])


def numbers(*shape):
    """Values that every kind keeps exactly."""
    return torch.randint(-1, 2, shape).float()


@pytest.mark.parametrize("keeps", [True, False])
def test_positions_keep_what_was_written_through_other_batch_sizes(keeps):
    store, held = SlotStore(torch.float16, keeps=keeps), {}
    for size in (4, 2, 6, 3, 6):
        fresh = numbers(size, 3, 2)
        expected = torch.stack([held.get(i, fresh[i]) for i in range(size)])
        assert store.read(fresh).equal(expected)
        values = numbers(size, 3, 2)
        store.write(values)
        held = (held if keeps else {}) | dict(enumerate(values.clone()))
        values.zero_()  # the store has copies
    assert store.resets == 0
    assert not store.read(fresh).requires_grad


def test_rows_may_be_counted_in_another_dimension():
    store = SlotStore(batch_dim=1)
    values = numbers(3, 4, 2)
    store.write(values)
    assert store.read(torch.ones(3, 5, 2)).equal(torch.cat([values, torch.ones(3, 1, 2)], 1))
    store.room(torch.empty(3, 2, 2)).zero_()
    assert store.held(values).equal(torch.cat([torch.zeros(3, 2, 2), values[:, 2:]], 1))
    assert store.resets == 0


@kinds
def test_another_shape_resets_and_is_counted(kind):
    slots, examples = SlotStore(), ExampleStore(**kind)
    for shape in ((4, 3), (4, 2), (4, 2), (4, 3)):
        slots.write(numbers(*shape))
        examples.read(range(4), None, numbers(*shape))
        examples.write(range(4), None, numbers(*shape))
    assert slots.resets == examples.resets == 2
    assert int(examples.visits.sum()) == 4
    fresh = numbers(4, 2)
    assert slots.read(fresh).equal(fresh)


@pytest.mark.parametrize("moves", [True, False])
def test_another_device_moves_rows_or_resets(moves):
    """The device without data stands in for a second one; a state's rows always move."""
    slots, examples = SlotStore(moves=moves), ExampleStore(moves=moves)
    state = None
    for device in ("cpu", "meta"):
        values = torch.ones(4, 3, device=device)
        assert slots.read(values).device == values.device
        slots.write(values)
        examples.read(torch.arange(4), None, values)
        examples.write(torch.arange(4), None, values)
        state = state or copy.deepcopy((slots.state_dict(), examples.state_dict()))
    assert slots.resets == examples.resets == (0 if moves else 1)
    for store, saved in zip((slots, examples), state, strict=True):
        store.load_state_dict(saved)
        store._reach(torch.device("meta"))
        assert (store.rows.device.type, store.resets) == ("meta", 0)


def views(count, padding=1):
    corners = torch.randint(0, 2 * padding + 1, (2, count))
    return View(corners[0], corners[1], torch.rand(count) < 0.5, padding)


@kinds
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_examples_find_their_frames_through_crops_and_flips(kind, layout):
    store, frames = ExampleStore(**kind), {}
    for step in range(8):
        size = 5 + step % 2
        indices = torch.randint(0, 4 + 2 * step, (size,))  # grows, and one may be there twice
        view, fresh = views(size), numbers(size, 2, 4, 4).contiguous(memory_format=layout)
        expected = fresh.clone()
        for i, index in enumerate(indices.tolist()):
            if index in frames:
                expected[i] = view.select(torch.tensor([i])).apply(frames[index][None])[0]
        assert store.read(indices, view, fresh).equal(expected)
        chosen = store.select(indices, view, fresh)
        values = numbers(size, 2, 4, 4).contiguous(memory_format=layout)
        assert chosen.shape == values.shape
        store.write(indices, view, values)
        for i, index in enumerate(indices.tolist()):
            frame = frames.setdefault(index, torch.zeros(2, 6, 6))
            top, left = int(view.top[i]), int(view.left[i])
            cut = values[i].flip(2) if view.flip[i] else values[i]
            frame[:, top : top + 4, left : left + 4] = cut
    assert store.resets == 0
    assert store.visits.gt(0).nonzero().flatten().tolist() == sorted(frames)


@kinds
def test_without_a_view_rows_are_whole_and_packed_ones_stay_packed(kind):
    store, values = ExampleStore(**kind), numbers(3, 4)
    store.read([2, 0, 5], None, values)
    store.write([2, 0, 5], None, values)
    chosen = store.select(torch.tensor([5, 1], dtype=torch.int32), None, values[:2])
    assert isinstance(chosen, PackedWords) == (kind is PACKED)
    dense = chosen.values() if kind is PACKED else chosen
    assert dense.equal(torch.stack([values[2], torch.zeros(4)]).to(dense.dtype))
    store.write([1, 5], None, chosen)
    assert store.read([5, 1], None, values[:2]).tolist() == [[0.0] * 4, values[2].tolist()]


def test_room_for_the_expected_is_made_at_once_and_others_are_refused():
    store = ExampleStore(**DENSE)
    store.expected = 20
    store.read([3], None, numbers(1, 4))
    assert store.rows.shape == (20, 4)
    with pytest.raises(StateError, match="index 23 and examples is 20; give the number of all"):
        store.read([3, 23], None, numbers(2, 4))
    assert store.rows.shape == (20, 4)


def test_rows_grow_under_autocast_where_nothing_is_expected():
    store = ExampleStore(**DENSE)
    with torch.autocast("cpu", torch.bfloat16):
        store.read([19], None, numbers(1, 4))
        store.read([23], None, numbers(1, 4))
    assert store.rows.shape == (40, 4)
    assert store.rows.dtype == torch.float16


def test_rows_begin_again_after_so_many_visits():
    store, seen = ExampleStore(renew=2), []
    for visit in range(5):
        found = store.read([0, 1], views(2), torch.full((2, 1, 4, 4), -1.0))
        seen.append(found[0, 0, 1, 1].item())
        store.write([0, 1], views(2), torch.full((2, 1, 4, 4), float(visit)))
    assert seen == [-1.0, 0.0, -1.0, 2.0, -1.0]


def test_what_rows_hold_at_first_can_be_said():
    ones = partial(torch.ones_like, dtype=torch.int8)
    assert SlotStore(first=ones).room(numbers(2, 3)).tolist() == [[1] * 3] * 2
    assert ExampleStore(first=ones).select([1], None, numbers(1, 3)).tolist() == [[1] * 3]


@kinds
def test_a_state_goes_on_and_shares_nothing(kind):
    def run(slots, examples, steps):
        seen = []
        for step in steps:
            torch.manual_seed(step)
            indices, view, fresh = torch.randperm(6)[:4], views(4), numbers(4, 2, 3, 3)
            seen += [slots.read(fresh), examples.read(indices, view, fresh)]
            slots.write(numbers(4, 2, 3, 3))
            examples.write(indices, view, numbers(4, 2, 3, 3))
        return torch.stack(seen)

    whole = SlotStore(), ExampleStore(**kind)
    run(*whole, range(3))
    live = [store.state_dict() for store in whole]
    again = SlotStore(), ExampleStore(**kind)
    for store, state in zip(again, live, strict=True):
        store.load_state_dict(state)
    rest = run(*whole, range(3, 6))
    assert run(*again, range(3, 6)).equal(rest)


def test_a_write_for_a_frame_that_is_gone_is_dropped():
    store = ExampleStore()
    store.read([0], None, torch.ones(1, 3))
    store.read([0], None, torch.ones(1, 4))
    store.write([0], None, torch.ones(1, 3))
    assert store.visits.tolist() == [0]


def test_indices_that_name_no_examples_are_refused():
    for indices, message in (
        (None, "needs to know the examples"),
        ([0.0, 1.0], "float32.*integers"),
        (torch.tensor([[0, 1]]), r"shape \(1, 2\).*integers"),
        (torch.tensor([True, False]), "a mask"),
        ([0, 1, 2], "3 indices for 2 examples"),
        ([0, -1], "an index -1"),
    ):
        with pytest.raises(StateError, match=message):
            ExampleStore().read(indices, None, numbers(2, 3))


def test_views_that_cannot_be_undone_are_refused():
    with pytest.raises(UnsupportedError, match=r"range made cannot be undone.*advreg\.View"):
        ExampleStore().read([0, 1], range(2), numbers(2, 3, 4, 4))
    with pytest.raises(UnsupportedError, match=r"\(B, C, H, W\)"):
        ExampleStore().read([0, 1], views(2), numbers(2, 3))


def test_an_empty_mini_batch_is_no_harm():
    slots, examples = SlotStore(), ExampleStore()
    for size in (2, 0, 2):
        values = numbers(size, 3)
        slots.read(values)
        slots.write(values)
        examples.read(list(range(size)), None, values)
        examples.write(list(range(size)), None, values)
    assert slots.read(numbers(2, 3)).equal(values)
