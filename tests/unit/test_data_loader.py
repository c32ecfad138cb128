import copy
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from advreg.batch import View
from advreg.data import ImageData, Loader, in_blocks, take_indices, with_indices
from advreg.data.augment import WINDOWS
from advreg.data.loader import epoch_generator
from advreg.errors import ConfigurationError


def numbered(count=23, shape=(3, 8, 8)):
    pixels = torch.randint(0, 256, (count, *shape), dtype=torch.uint8)
    return ImageData(pixels, torch.arange(count) % 5, tuple("abcde"))


def cut_by_hand(frame, top, left, flip, padding):
    """The view of one frame (C, H, W), pixel by pixel."""
    channels, height, width = frame.shape
    height, width = height - 2 * padding, width - 2 * padding
    window = torch.empty(channels, height, width, dtype=frame.dtype)
    for row in range(height):
        for column in range(width):
            across = width - 1 - column if flip else column
            window[:, row, column] = frame[:, top + row, left + across]
    return window


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_view_is_its_slow_twin(draw):
    size = st.integers(1, 5)
    count, channels, height, width = (draw.draw(size) for _ in range(4))
    padding = draw.draw(st.integers(0, 3))
    frames = torch.randint(0, 256, (count, channels, height + 2 * padding, width + 2 * padding))
    offsets = st.lists(st.integers(0, 2 * padding), min_size=count, max_size=count)
    top, left = draw.draw(offsets), draw.draw(offsets)
    flip = draw.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    view = View(torch.tensor(top), torch.tensor(left), torch.tensor(flip), padding)
    expected = [
        cut_by_hand(frame, *place, padding)
        for frame, *place in zip(frames, top, left, flip, strict=True)
    ]
    for dtype in (torch.uint8, torch.float32):
        assert torch.equal(view.apply(frames.to(dtype)), torch.stack(expected).to(dtype))


@pytest.mark.parametrize("augment", WINDOWS)
def test_batches_are_the_views_of_their_examples(augment):
    data = numbered()
    for batch in Loader(data, 5, augment=augment, padding=2, seed=3).epoch(1):
        assert batch.inputs.dtype == torch.float32
        assert torch.equal(batch.targets, data.targets[batch.indices])
        frames = torch.nn.functional.pad(data.images[batch.indices], (2, 2, 2, 2))
        for i, frame in enumerate(frames):
            if augment == "none":
                assert batch.view is None
                expected = frame[:, 2:-2, 2:-2]
            else:
                view = batch.view
                expected = cut_by_hand(frame, view.top[i], view.left[i], view.flip[i], 2)
            assert torch.equal(batch.inputs[i], expected / 255)


def test_crops_and_flips_take_every_value():
    data = numbered(400, (1, 8, 8))
    (batch,) = Loader(data, 400, augment="crop_flip", padding=1).epoch(0)
    for offset in (batch.view.top, batch.view.left):
        assert offset.unique().tolist() == [0, 1, 2]
    assert 150 < batch.view.flip.sum() < 250
    (batch,) = Loader(data, 400, augment="crop", padding=1).epoch(0)
    assert not batch.view.flip.any()


@pytest.mark.parametrize(
    ("padding", "step", "places"), [(4, 4, [0, 4, 8]), (4, 3, [1, 4, 7]), (1, 1, [0, 1, 2])]
)
def test_crops_lie_on_a_grid(padding, step, places):
    data = numbered(200, (1, 8, 8))
    settings = {"augment": "crop_flip", "padding": padding, "crop_step": step}
    (batch,) = Loader(data, 200, **settings).epoch(0)
    assert batch.view.top.unique().tolist() == batch.view.left.unique().tolist() == places


def views_of(loader, epoch):
    """Of each example its view."""
    return {
        index: view
        for batch in loader.epoch(epoch)
        for index, *view in zip(
            batch.indices.tolist(),
            batch.view.top.tolist(),
            batch.view.left.tolist(),
            batch.view.flip.tolist(),
            strict=True,
        )
    }


def test_an_image_keeps_its_view_for_some_epochs():
    settings = {"augment": "crop_flip", "padding": 4, "seed": 5}
    usual, kept = (Loader(numbered(), 5, view_epochs=k, **settings) for k in (1, 3))
    for epoch in range(7):
        assert views_of(kept, epoch) == views_of(usual, epoch - epoch % 3)
        orders = [[batch.indices.tolist() for batch in each.epoch(epoch)] for each in (usual, kept)]
        assert orders[0] == orders[1]
    assert views_of(usual, 0) != views_of(usual, 1)
    assert views_of(kept, 2) != views_of(kept, 3)


@pytest.mark.parametrize("augment", ["none", "crop_flip", "crop_flip+cutout"])
def test_blocks_of_batches_come_again_as_they_were(augment):
    data, settings = numbered(), {"augment": augment, "seed": 5}
    usual = Loader(data, 5, **settings)
    kept = Loader(data, 5, view_epochs=2, view_block=2, **settings)
    for first in (0, 2):
        drawn = list(usual.epoch(first))
        given = [batch for epoch in (first, first + 1) for batch in kept.epoch(epoch)]
        wanted = [drawn[number] for number in (0, 1, 0, 1, 2, 3, 2, 3, 4, 4)]
        assert all(same(*pair) for pair in zip(given, wanted, strict=True))
        assert all(same(*pair) for pair in zip(kept.each_once(first + 1), drawn, strict=True))
    assert not same(next(kept.epoch(0)), next(kept.epoch(2)))


def test_batches_of_one_s_own_come_in_blocks():
    assert "".join(in_blocks("abcde", 2)) == "ababcdcdee"
    assert "".join(in_blocks(iter("abc"), 2, times=3)) == "abababccc"
    assert not list(in_blocks([], 2))
    alive = weakref.WeakSet()

    def made():
        for _ in range(6):
            alive.add(one := torch.zeros(1))
            yield one

    assert max(len(alive) for _ in in_blocks(made(), 2)) <= 3
    for wrong in ({"block": 0}, {"block": 2, "times": 0}):
        with pytest.raises(ConfigurationError, match="is 0"):
            in_blocks("abc", **wrong)


def test_blocks_of_a_loader_are_a_loader():
    rows = with_indices(TensorDataset(torch.arange(10.0)))
    loader = DataLoader(rows, 2, shuffle=True)
    blocks = in_blocks(loader, 2)
    assert len(blocks) == 10
    once = in_blocks(iter("abc"), 2)
    with pytest.raises(TypeError, match="no len"):
        len(once)
    assert "".join(once) == "ababcc"
    with pytest.raises(ConfigurationError, match="give it the loader itself"):
        list(once)
    for _ in range(2):  # another order in each epoch, and each visit has its numbers
        indices = [take_indices(batch).tolist() for batch in blocks]
        assert indices[:2] == indices[2:4]
        assert sorted(number for batch in indices for number in batch) == sorted([*range(10)] * 2)
    assert [int(item) for item in copy.deepcopy(in_blocks(torch.arange(3), 2))] == [
        0,
        1,
        0,
        1,
        2,
        2,
    ]


def test_blocks_come_again_on_each_rank():
    settings = {"view_epochs": 2, "view_block": 2, "by_example": True, "world_size": 2}
    data = numbered()
    for rank in (0, 1):
        loader = Loader(data, 4, rank=rank, **settings)
        seen = [batch.indices.tolist() for epoch in (0, 1) for batch in loader.epoch(epoch)]
        assert [len(part) for part in seen] == [2] * 9 + [1, 2, 1]
        assert [seen[place] for place in (0, 1, 4, 5, 8, 9)] == [
            seen[place] for place in (2, 3, 6, 7, 10, 11)
        ]


def test_every_example_once_an_epoch():
    for shuffle in (True, False):
        loader = Loader(numbered(), 5, shuffle=shuffle)
        batches = list(loader.epoch(0))
        seen = torch.cat([batch.indices for batch in batches]).tolist()
        assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3]
        assert len(loader) == 5
        assert (seen == list(range(23))) is not shuffle
        assert sorted(seen) == list(range(23))
    loader = Loader(numbered(), 5, drop_last=True)
    assert [len(batch) for batch in loader.epoch(0)] == [5] * 4
    assert len(loader) == 4


def same(first, second):
    pairs = [(first.inputs, second.inputs), (first.targets, second.targets),
             (first.indices, second.indices)]  # fmt: skip
    if isinstance(first.view, View):
        pairs += [(getattr(first.view, name), getattr(second.view, name))
                  for name in ("top", "left", "flip")]  # fmt: skip
    return all(torch.equal(one, other) for one, other in pairs)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 30),
    st.integers(1, 8),
    st.integers(0, 50),
    st.integers(0, 2**63 - 1),
    st.sampled_from(WINDOWS),
    st.data(),
)
def test_resuming_gives_the_tail_of_the_epoch(count, size, epoch, seed, augment, draw):
    data = numbered(count, (1, 4, 4))
    kept = 1 if augment == "none" else draw.draw(st.integers(1, 3))
    block = draw.draw(st.integers(1, 4)) if kept > 1 else None
    given_settings = {"augment": augment, "seed": seed, "view_epochs": kept, "view_block": block}
    whole = list(Loader(data, size, **given_settings).epoch(epoch))
    start = draw.draw(st.integers(0, len(whole)))
    torch.rand(3)  # the global random state plays no part
    tail = list(Loader(data, size, **given_settings).epoch(epoch, start))
    assert len(tail) == len(whole) - start
    assert all(same(one, other) for one, other in zip(whole[start:], tail, strict=True))


def test_epochs_and_seeds_differ():
    data = numbered(200)
    orders = {
        (seed, epoch): tuple(next(Loader(data, 200, seed=seed).epoch(epoch)).indices.tolist())
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(set(orders.values())) == 16
    # Large seeds must not run into other epochs' states.
    states = {epoch_generator(seed, epoch).initial_seed()
              for seed in (0, 1, 2**32, 2**33, 2**62) for epoch in (0, 1, 2)}  # fmt: skip
    assert len(states) == 15


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_each_batch(world_size):
    data = numbered(23)
    settings = {"augment": "crop_flip", "seed": 5}
    alone = Loader(data, 6, **settings)
    ranks = [
        Loader(data, 6, rank=rank, world_size=world_size, **settings) for rank in range(world_size)
    ]
    shares = [list(loader.epoch(2)) for loader in ranks]
    assert {len(loader) for loader in ranks} == {len(alone)} == {len(shares[0])}
    for step, batch in enumerate(alone.epoch(2)):
        parts = [share[step] for share in shares]
        assert len({len(part) for part in parts}) == 1
        joined = torch.cat([part.inputs for part in parts])
        kept = len(batch) // world_size * world_size
        assert torch.equal(joined, batch.inputs[:kept])
        assert torch.equal(torch.cat([part.view.flip for part in parts]), batch.view.flip[:kept])


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("augment", ["crop_flip", "randaugment"])
def test_examples_stay_with_their_rank_in_an_order_of_each_epoch(world_size, augment):
    data = numbered(23)
    loaders = [
        Loader(data, 6, augment=augment, rank=rank, world_size=world_size, by_example=True)
        for rank in range(world_size)
    ]
    orders = []
    for epoch in (0, 1):
        shares = [list(loader.epoch(epoch)) for loader in loaders]
        for parts in zip(*shares, strict=True):
            assert len({len(part) for part in parts}) == 1
        for rank, share in enumerate(shares):
            numbers = torch.cat([batch.indices for batch in share]) * world_size + rank
            assert len(numbers.unique()) == len(numbers) == 23 // world_size
            assert numbers.max() < 23
            assert torch.equal(data.targets[numbers], torch.cat([b.targets for b in share]))
            assert all(batch.indices.max() < loaders[rank].examples for batch in share)
            resumed = list(loaders[rank].epoch(epoch, start=2))
            assert torch.equal(resumed[0].inputs, share[2].inputs)
        orders.append(numbers)
    assert not torch.equal(*orders)


def test_batch_too_small_to_share_is_no_step():
    loaders = [Loader(numbered(9), 4, rank=rank, world_size=2) for rank in (0, 1)]
    assert [len(list(loader.epoch(0))) for loader in loaders] == [2, 2] == [*map(len, loaders)]


def test_default_padding_is_four_for_cifar():
    assert Loader(numbered(4, (3, 32, 32)), 2, augment="crop").padding == 4
    assert Loader(numbered(4, (3, 32, 32)), 2).padding == 0


def test_settings_that_cannot_work_are_refused():
    for given_settings, mend in (
        ({"augment": "jitter"}, "no augmentation 'jitter'; choose one of none, crop, crop_flip"),
        ({"padding": -1}, "padding is -1"),
        ({"crop_step": 0}, "crop_step is 0"),
        ({"view_epochs": 0}, "view_epochs is 0"),
        ({"view_epochs": 2}, "view_epochs 2 where nothing is cropped; set augment to crop or"),
        ({"view_block": 2}, "view_block is 2 and view_epochs 1, so that no block would come again"),
        ({"view_block": 0, "view_epochs": 2}, "view_block is 0"),
        ({"crop_step": 2, "augment": "cutout"}, "crop_step is 2 and view_epochs 1 where nothing"),
        ({"crop_step": 2, "augment": "crop", "padding": 1}, "a crop_step of at most the padding"),
        ({"batch_size": 0}, "give a positive multiple"),
        ({"batch_size": 5, "world_size": 2}, "multiple of the number of ranks"),
        ({"rank": 2, "world_size": 2}, "counted from 0"),
        ({"batch_size": 24, "drop_last": True}, "23 images make no batch of 24"),
        ({"seed": -1}, "seed is -1"),
    ):
        with pytest.raises(ConfigurationError, match=mend):
            Loader(numbered(), **{"batch_size": 4, **given_settings})
    for start in (-1, 7):
        with pytest.raises(ConfigurationError, match="the epoch has 6 steps"):
            Loader(numbered(), 4).epoch(0, start)
