"""Mini-batches that carry their examples' numbers, and lose them where they are taken."""

from collections import namedtuple

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from advreg import LayerwiseAdversary
from advreg.data import keep_indices, take_indices, with_indices
from advreg.errors import DataError

PAIRS = TensorDataset(torch.arange(10.0), torch.arange(10) + 100)


class Items(Dataset):
    def __init__(self, make):
        self.make = make
        self.items = [make(float(number)) for number in range(10)]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def pair(number):
    return number, int(number) + 100


def entries(number):
    return {"x": number, "y": int(number) + 100}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("data", [PAIRS, Items(pair)], ids=["tensors", "pairs"])
def test_tuples_gain_a_last_entry_which_is_taken_once(data, workers):
    loader = DataLoader(with_indices(data), 4, shuffle=True, num_workers=workers)
    found = []
    for batch in loader:
        x, y, shown = batch
        indices = take_indices(batch)
        assert indices is shown
        assert indices.dtype == torch.int64
        assert (x == indices).all()
        assert (y == indices + 100).all()
        assert len(batch) == 2
        assert take_indices(batch) is None
        found += indices.tolist()
    assert sorted(found) == list(range(10))


def test_mappings_gain_an_entry_and_the_data_set_s_own_stay_as_they_are():
    data = Items(entries)
    for _ in range(2):
        for batch in DataLoader(with_indices(data), 4):
            assert (batch["example_index"] == batch["x"]).all()
            take_indices(batch)
            assert batch.keys() == {"x", "y"}
    assert data[0].keys() == {"x", "y"}


def test_a_mini_batch_without_indices_is_left_alone():
    for batch in ([torch.rand(3), torch.arange(3)], {"x": torch.rand(3)}, torch.arange(3), None):
        length = len(batch) if batch is not None else 0
        assert take_indices(batch) is None
        assert batch is None or len(batch) == length


def padded(examples):
    assert all(type(example) is tuple and len(example) == 2 for example in examples)
    return tuple(torch.tensor(part) for part in zip(*examples, strict=True))


def named(examples):
    assert all(example.keys() == {"x", "y"} for example in examples)
    return {"x": torch.tensor([example["x"] for example in examples])}


@pytest.mark.parametrize(("make", "collate"), [(pair, padded), (entries, named)])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_collate_function_of_one_s_own_never_sees_them(make, collate, workers):
    data = with_indices(Items(make))
    for batch in DataLoader(data, 4, collate_fn=keep_indices(collate), num_workers=workers):
        indices = take_indices(batch)
        first = batch["x"] if isinstance(batch, dict) else batch[0]
        assert (first == indices).all()
        assert len(batch) == (1 if make is entries else 2)


def test_examples_are_fetched_together_where_the_data_set_can():
    class Together(Items):
        calls = 0

        def __getitems__(self, indices):
            self.calls += 1
            return [self.items[index] for index in indices]

    data = Together(pair)
    batches = list(DataLoader(with_indices(data), 5))
    assert data.calls == len(batches) == 2


def test_a_part_of_a_wrapped_data_set_keeps_its_numbers():
    batch = next(iter(DataLoader(Subset(with_indices(PAIRS), [7, 3]), 2)))
    assert take_indices(batch).tolist() == [7, 3]


def test_moving_a_mini_batch_keeps_the_indices_known():
    from lightning.pytorch.utilities import move_data_to_device

    batch = next(iter(DataLoader(with_indices(PAIRS), 4)))
    assert take_indices(move_data_to_device(batch, torch.device("cpu"))).tolist() == [0, 1, 2, 3]


def test_an_adversary_takes_what_a_loop_of_one_s_own_sees():
    model = torch.nn.Linear(1, 2)
    adversary = LayerwiseAdversary(0.1, memory="example", examples=10)
    with adversary.attach(model):
        for x, y, indices in DataLoader(with_indices(PAIRS), 4, shuffle=True):
            adversary.set_batch(indices)
            torch.nn.functional.cross_entropy(model(x[:, None]), y % 2).backward()
    store = adversary.state_dict()["sites"]["input"]["calls"][0]["memory"]["stores"][0]
    assert store["visits"].tolist() == [1] * 10


class Stream(IterableDataset):
    def __iter__(self):
        return iter([])


Pair = namedtuple("Pair", "x y")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (Items(lambda number: torch.tensor(number)), "return a tuple"),
        (Items(lambda number: Pair(number, number)), "return a tuple"),
        (with_indices(PAIRS), "once"),
        (with_indices(Items(entries)), "once"),
        (Items(lambda number: {"example_index": number}), "rename"),
    ],
)
def test_an_example_that_cannot_carry_its_index_is_a_sentence(data, said):
    with pytest.raises(DataError, match=said):
        with_indices(data)[0]


def test_a_data_set_without_numbers_is_a_sentence():
    with pytest.raises(DataError, match="map-style"):
        with_indices(Stream())
