"""`advreg completion`: what makes a shell complete advreg's commands and options."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from types import ModuleType

from advreg.cli.parsing import SHORT
from advreg.errors import ConfigurationError

BASH = """\
_advreg() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" typed words
    typed=" ${{COMP_WORDS[*]:1:COMP_CWORD-1}} "
    case "$typed" in
{cases}
    esac
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _advreg advreg
"""

ZSH = """\
autoload -U +X compinit && compinit
autoload -U +X bashcompinit && bashcompinit
"""
"""Zsh runs what is written for bash."""

HELP = """\
usage: advreg completion SHELL

Prints what makes bash or zsh complete advreg's commands and options.

examples:
  advreg completion bash >> ~/.bashrc
  advreg completion zsh >> ~/.zshrc
"""


def run(arguments: Sequence[str]) -> int:
    """Prints a shell's script."""
    if list(arguments) in (["--help"], ["-h"]):
        print(HELP, end="")
        return 0
    if list(arguments) not in (["bash"], ["zsh"]):
        raise ConfigurationError("Name the shell: advreg completion bash, or zsh.")
    cases = [f'        " {typed}"*) words="{words}" ;;' for typed, words in choices()]
    script = BASH.format(cases="\n".join(cases))
    print(ZSH + script if arguments[0] == "zsh" else script, end="")
    return 0


def choices() -> Iterator[tuple[str, str]]:
    """What is typed already, and the words that may follow it; the longest comes first."""
    top = import_module("advreg.cli")
    yield from _within(top, "")
    yield "", " ".join([*top.COMMANDS, "--help", "--version"])


def _within(group: ModuleType, typed: str) -> Iterator[tuple[str, str]]:
    for command in group.COMMANDS:
        module = import_module(f"{group.__name__}.{command}")
        if hasattr(module, "COMMANDS"):
            yield from _within(module, f"{typed}{command} ")
            yield f"{typed}{command} ", " ".join([*module.COMMANDS, "--help"])
        elif hasattr(module, "build_parser"):
            known = module.build_parser()._option_string_actions
            short = [f"--{name}" for name, whole in SHORT.items() if f"--{whole}" in known]
            yield f"{typed}{command} ", " ".join(sorted({*known, *short}))
        else:
            yield f"{typed}{command} ", "bash zsh"
