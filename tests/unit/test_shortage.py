"""How much memory there is, where a control group limits it."""

import pytest

from advreg import shortage
from advreg.shortage import all_memory, free_memory


def group(folder, limit, used, cache):
    (folder / "memory.max").write_text(limit)
    (folder / "memory.current").write_text(used)
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cache}\n")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(shortage, "GROUPS", tmp_path)
    return tmp_path


def test_a_group_s_cache_of_files_is_free(folder):
    group(folder, "1000000\n", "990000\n", 900000)
    assert (all_memory(), free_memory()) == (1000000, 910000)


def test_without_a_limit_it_is_the_machine_s(folder):
    whole, free = all_memory(), free_memory()
    assert whole > free > 0
    group(folder, "max\n", "990000\n", 900000)
    assert all_memory() == whole
    assert free_memory() > 1000000
