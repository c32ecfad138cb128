"""The command line: `advreg train`, `evaluate`, `compare` and the others."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.metadata import version
from io import TextIOWrapper
from platform import python_version
from types import FrameType
from typing import Any

from advreg.cli.output import guarded_output, say
from advreg.errors import AdvregError, AdvregWarning, ConfigurationError, OutputError
from advreg.version import __version__

COMMANDS = {
    "train": "train a network into a run folder",
    "evaluate": "measure a run, clean and under attack",
    "sites": "list what layerwise training would perturb in a network",
    "bench": "measure what each method costs on this machine, in time and memory",
    "compare": "run a study: ways of training by seeds, on one machine or many, with a page",
    "tune": "find the settings of a study's arms, with equal effort for each",
    "hash": "train, measure and search binary codes of images",
    "lots": "draw what a network's layers look at, and how far images must move for them",
    "demo": "compare methods on digits in a few minutes, with a report",
    "completion": "print what makes a shell complete these commands",
}

HELP = """\
usage: advreg COMMAND [options]

Adversarial regularisation of deep networks in the passes of plain training.

commands:
{commands}

examples:
  advreg demo
  advreg train --data digits --method layerwise --epochs 40 --out runs/first
  advreg evaluate runs/first --epsilons 2/255,8/255
  advreg sites --model resnet20
  advreg bench --model resnet20 --methods layerwise,fgsm,pgd
  advreg compare studies/claim_b_layers.yaml --size smoke --out runs/layers
  advreg hash demo

Each command explains itself: advreg COMMAND --help
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: The command line after the program's name; None takes the process's.

    Returns:
        The exit code: 0, 2 for a mistake (one sentence on stderr) or a full output, 130 after an
        interrupt, 141 when what it prints is not read.
    """
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        # A file's name may be no text, and printing it is no reason to fail.
        sys.stdout.reconfigure(errors="backslashreplace")
    command, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if sys.stdout is None:  # as of `advreg ... >&-`; a file opened next would take its place
        say("The output is closed; send it to a file, or to /dev/null for none.")
        return 2
    with warnings.catch_warnings(), own_code(rest), interruptible(), guarded_output() as output:
        warnings.showwarning = _show_warning  # type: ignore[assignment]
        try:
            code = _run(command, rest)
            output.finish()
            return code
        except OutputError as error:
            say(error)
            return error.code
        except AdvregError as error:
            say(error)
            return 2
        except KeyboardInterrupt as interrupt:
            say(str(interrupt) or "Interrupted.")
            return getattr(interrupt, "code", 130)
        except OSError as error:
            if error.filename is None:  # not of a file: a fault of the program
                raise
            name, reason = os.fsdecode(error.filename), error.strerror or error
            say(f"{name} cannot be used ({reason}); mend that.")
            return 2


@contextmanager
def interruptible() -> Iterator[None]:
    """Ends the program at once on a Ctrl-C that comes while modules are imported.

    Raised in there, a KeyboardInterrupt comes out as whatever the half of a module fails with.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupted(number: int, frame: FrameType | None) -> None:
    while frame is not None and frame.f_code is not main.__code__:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            with suppress(Exception):
                sys.stdout.flush()
            say("Interrupted.")
            os._exit(130)
        frame = frame.f_back
    raise KeyboardInterrupt


@contextmanager
def own_code(arguments: Sequence[str]) -> Iterator[None]:
    """Lets the user's modules in the current folder be imported, where an argument names one.

    The folder comes last, so that nothing in it takes the place of an installed module.
    """
    before = list(sys.path)
    if any(re.search(r"(^|[=,])[A-Za-z_][\w.]*:[A-Za-z_]", argument) for argument in arguments):
        sys.path.append(os.getcwd())
    try:
        yield
    finally:
        sys.path[:] = before


def _run(command: str, arguments: list[str]) -> int:
    if command in ("--help", "-h"):
        width = max(map(len, COMMANDS))
        lines = [f"  {name:{width}}  {what}" for name, what in COMMANDS.items()]
        print(HELP.format(commands="\n".join(lines)), end="")
        return 0
    if command == "--version":
        print(f"advreg {__version__}, torch {version('torch')}, Python {python_version()}")
        return 0
    if command not in COMMANDS:
        raise ConfigurationError(
            f"There is no command {command!r}; take one of {', '.join(COMMANDS)}."
        )
    try:
        # A command's imports (torch above all) cost seconds: only the one asked for pays them.
        code: int = import_module(f"advreg.cli.{command}").run(arguments)
    except SystemExit as leaving:  # argparse leaves so after printing a help
        return int(leaving.code or 0)
    return code


def _show_warning(message: Any, category: type[Warning], filename: str, *rest: Any) -> None:
    """Our own warnings as one line; others with their file."""
    where = "" if issubclass(category, AdvregWarning) else f"{filename}: {category.__name__}: "
    say(f"{where}{message}")
