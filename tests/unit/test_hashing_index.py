"""Search and index folders, ours and faiss's."""

import json
import os
from itertools import product

import numpy as np
import pytest

from advreg.errors import (
    AdvregError,
    ConfigurationError,
    DataError,
    MissingExtraError,
    RunError,
    StateError,
)
from advreg.hashing import faiss_index
from advreg.hashing.distances import hamming
from advreg.hashing.index import KINDS, HammingIndex
from advreg.hashing.search import nearest

OF_FAISS = KINDS[1:]


def random_codes(count, seed, width=2):
    return np.random.default_rng(seed).integers(0, 256, (count, width), dtype=np.uint8)


def slow_nearest(queries, database, k):
    bits = np.unpackbits(queries, axis=1)[:, None] != np.unpackbits(database, axis=1)
    distances = bits.sum(2)
    places = [
        sorted(range(len(database)), key=lambda place, row=row: (row[place], place))[:k]
        for row in distances
    ]
    return np.array(places), np.take_along_axis(distances, np.array(places), 1)


def test_search_is_the_sorted_list_s_beginning():
    for k, chunk in product((1, 7, 60, 61, 500), (7, 1000)):
        queries, database = random_codes(4, 0, 9), random_codes(60, 1, 9)
        database[20:30] = database[0]  # ties
        found = nearest(queries, database, k, chunk)
        places, distances = slow_nearest(queries, database, k)
        assert np.array_equal(found.places, places)
        assert np.array_equal(found.distances, distances)
        assert found.exact
        assert np.array_equal(np.take_along_axis(hamming(queries, database), places, 1), distances)


@pytest.fixture
def faiss():
    return pytest.importorskip("faiss")


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_is_saved_and_loaded_and_finds_the_same(kind, tmp_path, request):
    if kind != "exact":
        request.getfixturevalue("faiss")
    database = random_codes(300, 1)
    names = [f"image {place}.png" for place in range(300)]
    index = HammingIndex(database, 16, "abc", names, kind)
    index.save(tmp_path / "index")
    loaded = HammingIndex.load(tmp_path / "index")
    assert loaded.facts == index.facts
    assert loaded.name(7) == "image 7.png"
    assert isinstance(loaded.codes, np.memmap)
    found, again = index.search(database[:5], 10), loaded.search(database[:5], 10)
    assert np.array_equal(found.places, again.places)
    assert np.array_equal(found.distances, again.distances)
    assert found.distances[:, 0].tolist() == [0] * 5


def test_flat_finds_what_exact_does(faiss):
    database, queries = random_codes(300, 1), random_codes(20, 2)
    wanted = HammingIndex(database, 16, "abc").search(queries, 5)
    found = HammingIndex(database, 16, "abc", kind="flat").search(queries, 5)
    assert found.exact
    assert np.array_equal(found.distances, wanted.distances)
    assert np.mean(found.places == wanted.places) > 0.9


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_approximate_indexes_find_most_and_say_that_they_are(kind, faiss):
    database, queries = random_codes(2000, 1, 4), random_codes(20, 2, 4)
    wanted = nearest(queries, database, 10)
    found = HammingIndex(database, 32, "abc", kind=kind).search(queries, 10)
    assert not found.exact
    near = np.mean(found.distances <= wanted.distances[:, -1:])
    assert near > 0.6
    more = HammingIndex(database[:3], 32, "abc", kind=kind).search(queries, 10)
    assert more.places.shape == (20, 3)


def test_what_is_not_found_is_marked(faiss):
    database = np.zeros((64, 4), dtype=np.uint8)
    database[32:] = 255
    index = HammingIndex(database, 32, "abc", kind="ivf")
    index._faiss.nprobe = 1
    found = index.search(database[:1], 64)
    assert (found.places < 0).sum() == 32
    assert (found.distances[found.places < 0] == -1).all()


def test_an_index_of_another_network_is_refused():
    index = HammingIndex(random_codes(3, 0), 16, "a" * 64)
    index.check_network("a" * 64)
    with pytest.raises(StateError, match="made by another network"):
        index.check_network("b" * 64)


def test_without_faiss_the_mend_is_said(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"install \"advreg\[faiss\]\""):
        HammingIndex(random_codes(3, 0), 16, "abc", kind="flat")


@pytest.mark.parametrize("file", ["index.json", "codes.npy"])
def test_damaged_folders_are_refused(file, tmp_path):
    HammingIndex(random_codes(30, 0), 16, "abc").save(tmp_path)
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:20])
    with pytest.raises(RunError, match="damaged"):
        HammingIndex.load(tmp_path)


def test_every_byte_that_changes_is_noticed(tmp_path):
    names = ["a.png", "b c.png", "d\u2028e.png", os.fsdecode(b"\xff.png")]
    HammingIndex(random_codes(4, 0), 16, "abc", names).save(tmp_path)
    assert HammingIndex.load(tmp_path).names == names
    for path in sorted(tmp_path.iterdir()):
        whole = path.read_bytes()
        for place in range(len(whole)):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(AdvregError, match=r"make the index again|make it again"):
                HammingIndex.load(tmp_path)
        path.unlink()
        with pytest.raises(RunError, match=r"damaged; make it again|holds no index"):
            HammingIndex.load(tmp_path)
        path.write_bytes(whole)
    assert HammingIndex.load(tmp_path).names == names


def test_an_index_of_the_format_without_checksums_is_refused(tmp_path):
    HammingIndex(random_codes(4, 0), 16, "abc").save(tmp_path)
    facts = json.loads((tmp_path / "index.json").read_text())
    del facts["sha256"], facts["checksum"]
    (tmp_path / "index.json").write_text(json.dumps({**facts, "format": 1}, indent=1))
    with pytest.raises(StateError, match=r"format 1, not 2; make the index again with advreg hash"):
        HammingIndex.load(tmp_path)


def test_a_damaged_faiss_file_is_refused(tmp_path, faiss):
    HammingIndex(random_codes(30, 0), 16, "abc", kind="flat").save(tmp_path)
    (tmp_path / "faiss.index").write_bytes(b"nothing")
    with pytest.raises(RunError, match="damaged"):
        HammingIndex.load(tmp_path)
    faiss_index.write(faiss_index.build("flat", random_codes(5, 0)), tmp_path / "faiss.index")
    with pytest.raises(RunError, match="damaged"):
        HammingIndex.load(tmp_path)


REFUSED = {
    "kind": (ConfigurationError, "choose one of exact", {"kind": "tree"}),
    "names": (DataError, "one for each code", {"names": ["a"]}),
    "bits": (DataError, "of 24 bits", {"bits": 24}),
    "none": (DataError, "at least one", {"codes": random_codes(0, 0)}),
}


def test_what_cannot_be_indexed_is_refused():
    for case in REFUSED:
        error, words, given = REFUSED[case]
        with pytest.raises(error, match=words):
            HammingIndex(**{"codes": random_codes(3, 0), "bits": 16, "network": "abc", **given})


def test_what_cannot_be_searched_is_refused(tmp_path):
    index = HammingIndex(random_codes(3, 0), 16, "abc")
    with pytest.raises(DataError, match="uint8 of shape"):
        index.search(random_codes(1, 0, 3), 1)
    with pytest.raises(ConfigurationError, match="k is 0"):
        index.search(random_codes(1, 0), 0)
    with pytest.raises(RunError, match="holds no index"):
        HammingIndex.load(tmp_path / "nowhere")
