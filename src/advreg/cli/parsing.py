"""The command line's grammar, a thin layer over jsonargparse."""

from __future__ import annotations

import argparse
import difflib
import json
import re
from collections.abc import Sequence
from types import UnionType
from typing import Any, NoReturn, Union, get_args, get_origin

from advreg.errors import ConfigurationError
from advreg.extras import needs

with needs("cli", "the command line"):
    import docstring_parser  # noqa: F401  (a command imports it, and rich, when it runs)
    import rich  # noqa: F401
    from jsonargparse import ArgumentParser, Namespace
    from jsonargparse import DefaultHelpFormatter as JsonargparseFormatter

SHORT = {
    "data": "data.name",
    "model": "model.name",
    "method": "method.name",
    "loss": "loss.name",
    "bits": "code.bits",
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
        settings["print_config"] = None
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

    def read(self, arguments: Sequence[str], *, defaults: bool = True) -> Namespace:
        """The options' values.

        Args:
            arguments: Options in their long form.
            defaults: Whether those that are not given are there too.

        Raises:
            ConfigurationError: There is no such option, or its value is missing or cannot work.
        """
        return self.parse_args(self._complete(arguments), defaults=defaults)

    def _complete(self, arguments: Sequence[str]) -> list[str]:
        """Spares the user JSON: a switch alone is true, and `a,b` is a list."""
        completed, rest = [], list(arguments)
        while rest:
            argument = rest.pop(0)
            option, equals, value = argument.partition("=")
            action = self._option_string_actions.get(option)
            if action is None or action.nargs == 0:
                completed.append(argument)
                continue
            kinds = _kinds(getattr(action, "_typehint", None))
            if not equals and bool in kinds and starts_option(rest[:1]):
                value = "true"
            elif not equals:
                value = value_after(option, rest)
                del rest[0]
            elif not value:
                value_after(option, [value])  # says so
            if (list in kinds or tuple in kinds) and not value.startswith("[") and value != "null":
                value = json_list(value)
            completed.append(f"{option}={value}")
        return completed

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
        message = message.replace(f"; see {self.prog} --help.", "")  # of a file within the options
        message = re.sub(r"Expected an? (?:typing\.)?", "expected ", message)
        message = re.sub(  # one of several words
            r"Literal\[(.*?)\]",
            lambda found: found[1].replace("'", "").replace(",", " or"),
            message,
        )
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


def _kinds(hint: Any) -> set[Any]:
    """The types that an option's value may have, of lists and tuples without their items'."""
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else [hint]
    return {get_origin(part) or part for part in parts}


def starts_option(arguments: Sequence[str]) -> bool:
    """Whether no value comes next: an option, or nothing more."""
    return not arguments or arguments[0].startswith("--")


def value_after(option: str, arguments: Sequence[str]) -> str:
    """The value that follows an option.

    Raises:
        ConfigurationError: There is none, or it is empty.
    """
    if starts_option(arguments) or not arguments[0].strip(" ,"):
        raise ConfigurationError(f"{option} has no value; write one after it, or leave it out.")
    return arguments[0]


def json_list(text: str) -> str:
    """Items between commas as a JSON list; numbers stay numbers."""
    items = [item.strip() for item in text.split(",") if item.strip()]
    return "[" + ", ".join(item if is_number(item) else json.dumps(item) for item in items) + "]"


def is_number(text: str) -> bool:
    """Whether JSON would read it as a number."""
    return re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", text) is not None


def values_of(arguments: Sequence[str], option: str) -> list[str]:
    """What an option is given before there is a parser, every time that it is given.

    Raises:
        ConfigurationError: It has no value.
    """
    found = []
    for index, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == f"--{option}":
            found.append(value_after(name, [value] if equals else arguments[index + 1 :]))
    return found
