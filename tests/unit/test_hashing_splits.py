"""Splits by name and by numbers, as ids."""

from dataclasses import replace

import pytest
import torch

from advreg.errors import ConfigurationError, DataError, RunError, StateError
from advreg.hashing.splits import PROTOCOLS, HashSplit, Protocol, draw_split, fingerprint

CIFAR = torch.cat([torch.arange(10).repeat(5000), torch.arange(10).repeat(1000)])


def sets(split):
    return {part: set(getattr(split, part).tolist()) for part in ("query", "database", "train")}


@pytest.mark.parametrize(
    ("name", "sizes", "inside"),
    [
        ("cifar10", (1000, 54_000, 5000), False),
        ("cifar10-1", (1000, 59_000, 5000), True),
        ("cifar10-2", (10_000, 50_000, 50_000), True),
    ],
)
def test_cifar_splits_have_the_literature_s_sizes(name, sizes, inside):
    split = draw_split(name, CIFAR, PROTOCOLS[name], test=10_000)
    found = sets(split)
    assert tuple(map(len, found.values())) == sizes
    assert not found["query"] & (found["database"] | found["train"])
    assert found["query"] | found["database"] | found["train"] == set(range(60_000))
    assert (found["train"] <= found["database"]) == inside
    assert CIFAR[split.query].bincount().tolist() == [len(split.query) // 10] * 10
    assert f"{'in' if inside else 'not in'} the database" in split.describe()


def test_the_two_drawn_splits_of_a_seed_differ_in_the_database_alone():
    one, other = (draw_split(name, CIFAR, PROTOCOLS[name]) for name in ("cifar10", "cifar10-1"))
    assert torch.equal(one.query, other.query)
    assert torch.equal(one.train, other.train)
    later = draw_split("cifar10", CIFAR, PROTOCOLS["cifar10"], seed=1)
    assert not torch.equal(one.query, later.query)


def test_several_labels_are_drawn_alike_from_all():
    labels = (torch.rand(200, 4) < 0.4).long()
    split = draw_split("own images", labels, Protocol("inside", 5, 10))
    assert (len(split.query), len(split.train), len(split.database)) == (20, 40, 180)


def test_a_saved_split_is_the_same_and_knows_its_images(tmp_path):
    targets = torch.arange(3).repeat(30)
    split = draw_split("mine", targets, Protocol("inside", 2, 5), seed=3)
    split.save(tmp_path / "split.npz")
    loaded = HashSplit.load(tmp_path / "split.npz")
    for part in ("query", "database", "train"):
        assert torch.equal(getattr(loaded, part), getattr(split, part))
    assert (loaded.name, loaded.seed, loaded.train_in_database) == ("mine", 3, True)
    assert (loaded.query_in_database, loaded.query_in_train) == (False, False)
    loaded.check_images(targets)
    with pytest.raises(StateError, match="other images"):
        loaded.check_images(targets.flip(0))
    with pytest.raises(RunError, match="does not exist"):
        HashSplit.load(tmp_path / "nowhere.npz")
    (tmp_path / "split.npz").write_bytes(b"half a fi")
    with pytest.raises(RunError, match="damaged"):
        HashSplit.load(tmp_path / "split.npz")


def test_a_split_with_a_changed_byte_is_the_same_or_a_sentence(tmp_path):
    split = draw_split("mine", torch.arange(3).repeat(30), Protocol("inside", 2, 5), seed=3)
    path = tmp_path / "split.npz"
    split.save(path)
    whole = path.read_bytes()
    said = []
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 8]) + whole[place + 1 :])
        try:
            found = HashSplit.load(path)
            assert all(torch.equal(getattr(found, k), getattr(split, k)) for k in sets(split))
        except RunError as error:
            said.append(str(error))
    assert set(said) == {f"{path} is damaged; train the run again."}
    assert len(said) > 300


BASE = HashSplit(
    "mine",
    torch.tensor([0, 1]),
    torch.tensor([2, 3]),
    torch.tensor([4, 5]),
    fingerprint(torch.arange(6)),
)

REFUSED = {
    "query in database": ({"query": [0, 2]}, "query_in_database=True"),
    "query in training": ({"query": [0, 4]}, "query_in_train=True"),
    "training in database": ({"train": [2]}, "train_in_database=True"),
    "twice": ({"query": [0, 0]}, "twice"),
    "empty": ({"query": []}, "no list of ids"),
}


def test_overlap_against_the_split_s_word_is_refused():
    for case in REFUSED:
        given, words = REFUSED[case]
        changes = {part: torch.tensor(ids, dtype=torch.int64) for part, ids in given.items()}
        with pytest.raises(DataError, match=words):
            replace(BASE, **changes)
        if "=True" in words:
            assert replace(BASE, **changes, **{words.split("=")[0]: True})


@pytest.mark.parametrize(
    ("targets", "protocol", "error", "words"),
    [
        (torch.zeros(30).long(), Protocol("inside", 1, 1), DataError, "of one class"),
        (torch.arange(3).repeat(5), Protocol("inside", 2, 3), DataError, "ask for fewer"),
        (torch.ones(9, 2), Protocol("inside", 2, 3), DataError, "takes 10 images and there are 9"),
        (torch.arange(3).repeat(5), Protocol("own"), DataError, "own test images"),
        (torch.arange(3).repeat(5), Protocol("inside", 0, 3), ConfigurationError, "query is 0"),
        (torch.arange(3).repeat(5), Protocol("beside"), ConfigurationError, "rule is 'beside'"),
    ],
)
def test_splits_that_cannot_be_drawn_are_refused(targets, protocol, error, words):
    with pytest.raises(error, match=words):
        draw_split("mine", targets, protocol)
