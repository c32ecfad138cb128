"""Compiling the kernels, where that can be done, and where it is kept."""

import os
import shutil
import stat
import tempfile
import warnings
from pathlib import Path

import pytest
import torch

from advreg.errors import SlowKernelsWarning
from advreg.layerwise.kernels import cpu, pack_signs, toolchain

needs_a_compiler = pytest.mark.skipif(
    not any(map(shutil.which, toolchain._COMPILERS)), reason="no C++ compiler here"
)
HELLO = 'extern "C" int hello() { return 42; }'
GOODBYE = 'extern "C" int hello() { return 0; }'


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """The user's cache, empty; temporary folders lie elsewhere."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    return tmp_path / "cache" / "advreg"


@pytest.fixture
def fresh(cache, monkeypatch):
    """As in a process that has not looked for kernels yet."""
    monkeypatch.delenv("ADVREG_KERNELS", raising=False)
    cpu.library.cache_clear()
    yield cache
    cpu.library.cache_clear()


@pytest.fixture
def source(tmp_path):
    source = tmp_path / "hello.cpp"
    source.write_text(HELLO)
    return source


def kept(folder):
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def test_without_a_compiler_it_is_said_once(fresh, monkeypatch):
    monkeypatch.setenv("CXX", str(fresh / "no-such-compiler"))
    given = torch.randn(4, 3), [0, 1], 4, 1
    with pytest.warns(SlowKernelsWarning, match=r"install a C\+\+ compiler"):
        first, counts = pack_signs(*given)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again, _ = pack_signs(*given)
    assert counts.tolist() == [1, 0, 1]
    assert again.view(torch.int32).equal(first.view(torch.int32))


def test_a_compiler_that_fails_is_no_harm(fresh, monkeypatch):
    monkeypatch.setenv("CXX", "false")
    with pytest.warns(SlowKernelsWarning, match="exit code 1"):
        assert not cpu.library()
    assert kept(fresh) == []
    cpu.library.cache_clear()
    monkeypatch.setenv("CXX", '"g++')
    with pytest.warns(SlowKernelsWarning, match="No closing quotation"):
        assert not cpu.library()


@needs_a_compiler
def test_a_compiler_that_is_too_slow_is_not_said_to_be_missing(fresh, monkeypatch):
    monkeypatch.setattr(toolchain, "_PATIENCE", 0.001)
    with pytest.warns(SlowKernelsWarning, match="start again on a less busy machine"):
        assert not cpu.library()


@needs_a_compiler
def test_it_is_compiled_once_and_kept(cache, source, monkeypatch):
    assert toolchain.load(source).hello() == 42
    (name,) = kept(cache)
    assert name.startswith("hello-")
    assert stat.S_IMODE((cache / name).stat().st_mode) == 0o700
    monkeypatch.setattr(toolchain.subprocess, "run", None)  # not called again
    assert toolchain.load(source).hello() == 42


@needs_a_compiler
def test_a_compiler_may_be_named_with_its_arguments(cache, source, monkeypatch):
    compiler = next(filter(None, map(shutil.which, toolchain._COMPILERS)))
    monkeypatch.setenv("CXX", f"{compiler} -Dhello=other")
    assert toolchain.load(source).other() == 42


@needs_a_compiler
@pytest.mark.parametrize("mode", [0o770, 0o500])
def test_a_folder_that_others_may_write_to_is_not_trusted(cache, source, mode):
    """Nor one that cannot be written to: compiled for this once, and nothing is left."""
    if os.getuid() == 0 and mode == 0o500:
        pytest.skip("root may write to every folder")
    cache.mkdir(parents=True)
    cache.chmod(mode)
    assert toolchain.load(source).hello() == 42
    assert kept(cache) == kept(Path(tempfile.gettempdir())) == []


@needs_a_compiler
def test_a_library_that_others_may_write_to_is_not_loaded(cache, source, tmp_path):
    toolchain.load(source)
    (name,) = kept(cache)
    planted = tmp_path / "goodbye.cpp"
    planted.write_text(GOODBYE)
    toolchain._compile(toolchain._command(planted), cache / name)
    assert toolchain.load(source).hello() == 42  # this process has it loaded already
    (cache / name).chmod(0o722)
    before = (cache / name).stat().st_ino
    assert toolchain.load(source).hello() == 42
    assert (cache / name).stat().st_ino != before


@needs_a_compiler
def test_a_user_without_a_home(cache, source, monkeypatch):
    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(toolchain.Path, "home", nowhere)
    assert toolchain.load(source).hello() == 42
    assert kept(Path(tempfile.gettempdir())) == []
