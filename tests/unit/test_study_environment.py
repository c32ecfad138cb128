"""Where figures come from: the commit of a checkout, and of nothing else."""

import subprocess

from advreg.study import environment


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_of_a_checkout_and_whether_its_sources_differ(tmp_path):
    git(tmp_path, "init")
    source = tmp_path / "src" / "a.py"
    source.parent.mkdir()
    source.write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert environment._commit(tmp_path) == commit
    (tmp_path / "results.json").write_text("{}")  # writing a result changes no source
    assert environment._commit(tmp_path) == commit
    source.write_text("2")
    assert environment._commit(tmp_path) == f"{commit}+changes"


def test_without_a_checkout_or_without_git_no_commit_is_named(tmp_path, monkeypatch):
    assert environment._commit(tmp_path) == ""
    (tmp_path / ".git").mkdir()  # damaged
    assert environment._commit(tmp_path) == ""
    git(tmp_path, "init")
    assert environment._commit(tmp_path) == ""  # nothing committed
    monkeypatch.setenv("PATH", "")
    assert environment._commit(tmp_path) == ""


def test_no_machine_or_user_is_named():
    known = {"advreg", "torch", "python", "system", "processor", "vectors", "cores", "date"}
    assert set(environment.environment()) <= known | {"commit", "gpu"}
