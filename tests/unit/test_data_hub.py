"""Data sets by the name that the hub knows them by."""

import pytest
from test_data_sources import write_parquet

from advreg.data import load_data
from advreg.errors import DataError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub, and no network behind it."""

    def refuse(*args, **settings):
        raise AssertionError("asked the network")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    return tmp_path / "hub"


def test_hub_data_are_not_downloaded_unasked(cache):
    for name in ("cifar10", "cifar100", "mnist", "fashion_mnist", "svhn"):
        message = f"{name} is not on this machine; add --data.download true"
        with pytest.raises(DataError, match=message):
            load_data(name)


def test_hub_data_are_read_from_the_cache(cache):
    repository = cache / "datasets--uoft-cs--cifar100"
    place = repository / "snapshots" / "abc" / "cifar100"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    names = ("img", "fine_label")
    write_parquet(place / "train-00000-of-00001.parquet", [0, 1, 2] * 5, names=names)
    with pytest.raises(DataError, match="is not on this machine"):
        load_data("cifar100")  # half a download is none
    write_parquet(place / "test-00000-of-00001.parquet", [0, 1], names=names)
    splits = load_data("cifar100", validation=3)
    assert (splits.name, len(splits.train), len(splits.test)) == ("cifar100", 12, 2)


def test_no_network_is_one_sentence(monkeypatch):
    asked = {}

    def unreachable(repository, **settings):
        asked.update(settings, repository=repository)
        raise ConnectionError("Name or service not known\nand much more")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(DataError, match=r"svhn cannot be downloaded .* network") as raised:
        load_data("svhn", download=True)
    assert "\n" not in str(raised.value)
    assert asked["local_files_only"] is False
    assert asked["repository"] == "ufldl-stanford/svhn"
    assert asked["allow_patterns"] == ["cropped_digits/train-*", "cropped_digits/test-*"]


@pytest.mark.parametrize("name", ["../../etc", "a/..", "..a/b", "a/b/c", "a", "/etc/passwd"])
def test_a_path_is_no_repository(cache, name):
    with pytest.raises(DataError, match="is no repository; write hub:OWNER/NAME"):
        load_data(f"hub:{name}")
