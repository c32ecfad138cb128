"""A shell completes commands and options; bash itself is asked."""

import shutil
import subprocess

import pytest

from advreg.cli import COMMANDS, main

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "advreg.bash"
    with pytest.MonkeyPatch.context() as patch, path.open("w") as file:
        patch.setattr("sys.stdout", file)
        assert main(["completion", "bash"]) == 0
    return path


def completed(script, *words):
    """What bash offers for the last of the words."""
    line = " ".join(f"'{word}'" for word in ("advreg", *words))
    asked = (
        f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words)};"
        ' _advreg; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
    assert not done.stderr
    return done.stdout.split()


def test_commands_are_completed(script):
    assert completed(script, "ev") == ["evaluate"]
    assert set(COMMANDS) < set(completed(script, ""))
    assert set(completed(script, "hash", "se")) == {"search"}
    assert completed(script, "completion", "z") == ["zsh"]


def test_options_are_those_of_the_command(script):
    assert "--method.epsilon" in completed(script, "train", "--method.e")
    assert completed(script, "train", "--dat")[0] == "--data"
    assert completed(script, "train", "--data", "digits", "--quic") == []
    assert completed(script, "demo", "--out", "folder", "--quic") == ["--quick"]
    assert "--seeds" in completed(script, "hash", "demo", "--se")


def test_zsh_reads_bash_s_script(capsys, script):
    assert main(["completion", "zsh"]) == 0
    printed = capsys.readouterr().out
    assert printed.endswith(script.read_text())
    assert "bashcompinit" in printed


@pytest.mark.parametrize("arguments", [[], ["fish"], ["bash", "zsh"]])
def test_another_shell_is_refused(capsys, arguments):
    assert main(["completion", *arguments]) == 2
    assert capsys.readouterr().err == "advreg: Name the shell: advreg completion bash, or zsh.\n"
