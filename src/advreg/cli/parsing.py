"""The command line's grammar, a thin layer over jsonargparse."""

from __future__ import annotations

import argparse
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser
from jsonargparse import DefaultHelpFormatter as JsonargparseFormatter

from advreg.errors import ConfigurationError

SHORT = {
    "data": "data.name",
    "model": "model.name",
    "method": "method.name",
    "optimizer": "optimizer.name",
    "schedule": "schedule.name",
    "limit": "data.limit",
    "download": "data.download",
}
"""What may be written for short: `--data digits` is `--data.name digits`."""


class Formatter(JsonargparseFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, and keeps the examples' lines as they are."""


class Parser(ArgumentParser):
    """A parser whose mistakes are one sentence, raised as `ConfigurationError`."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        # Without abbreviations a misspelt option is a mistake, not another option.
        settings |= {"exit_on_error": False, "formatter_class": Formatter, "allow_abbrev": False}
        super().__init__(*args, **settings)

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        """The help, with the short form of what has one."""
        text = super().format_help(formatter)
        # The name's column keeps its width, so that the helps stay in line.
        return re.sub(
            r"--(\w+)\.name( \S+)( {2})?",
            lambda found: f"--{found[1]}{found[2]}" + (" " * 7 if found[3] else ""),
            text,
        )

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises instead of printing the usage."""
        raise ConfigurationError(self._sentence(str(message))) from ex

    def _sentence(self, message: str) -> str:
        unknown = re.search(r"unrecognized arguments: (\S+)", message)
        if unknown:
            option = unknown.group(1).split("=")[0]
            near = difflib.get_close_matches(option, self._option_string_actions, n=1)
            hint = f"did you mean {near[0]}?" if near else f"see {self.prog} --help."
            return f"There is no option {option}; {hint}"
        message = re.sub(r'Parser key "([^"]+)":', r"--\1:", " ".join(message.split()))
        message = re.sub(  # the reasons why each type of a union was refused say nothing more
            r"Does not validate against any of .*? Subtypes: \[(.*)\] Errors: .* Given value: ",
            lambda found: f"expected {found[1].replace(',', ' or')}. Got value: ",
            message.replace("<class 'NoneType'>", "null"),
        )
        message = re.sub(r"<class '(\w+)'>", r"\1", message)
        message = re.sub(r"Expected an? (?:typing\.)?", "expected ", message)
        message = message[0].upper() + message[1:].rstrip(".")
        return f"{message}; see {self.prog} --help."


def write_out(arguments: Sequence[str]) -> list[str]:
    """Options in their long form: `--data` becomes `--data.name`."""
    long = []
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if option.startswith("--"):
            argument = f"--{SHORT.get(option[2:], option[2:])}{equals}{value}"
        long.append(argument)
    return long


def complete(arguments: Sequence[str], types: Mapping[str, Any]) -> list[str]:
    """Spares the user JSON: a switch alone is true, and `a,b` is a list.

    Args:
        arguments: Options in their long form.
        types: The type of each option, as its dataclass says.
    """
    completed = list(arguments)
    for place, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        kind = str(types.get(option[2:], ""))
        after = arguments[place + 1] if place + 1 < len(arguments) else "--"
        if kind in ("bool", "<class 'bool'>") and not equals and after.startswith("--"):
            completed[place] = f"{option}=true"
        elif re.match(r"(list|tuple)\[", kind):
            text = value if equals else after
            listed = text if text.startswith("[") or text == "null" else json_list(text)
            completed[place if equals else place + 1] = f"{option}={listed}" if equals else listed
    return completed


def json_list(text: str) -> str:
    """Items between commas as a JSON list; numbers stay numbers."""
    items = [item.strip() for item in text.split(",") if item.strip()]
    return "[" + ", ".join(item if is_number(item) else json.dumps(item) for item in items) + "]"


def is_number(text: str) -> bool:
    """Whether JSON would read it as a number."""
    return re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", text) is not None


def values_of(arguments: Sequence[str], option: str) -> list[str]:
    """What an option is given before there is a parser, every time that it is given."""
    found = []
    for place, argument in enumerate(arguments):
        if argument == f"--{option}" and place + 1 < len(arguments):
            found.append(arguments[place + 1])
        elif argument.startswith(f"--{option}="):
            found.append(argument.partition("=")[2])
    return found
