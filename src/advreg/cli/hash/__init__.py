"""The command line: `advreg hash generate`, `train`, `evaluate`, `index`, `search` and `demo`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from advreg.errors import ConfigurationError

COMMANDS = {
    "generate": "train a generator of images, for regularising codes",
    "train": "train a network whose codes are near for similar images",
    "evaluate": "measure a run's retrieval, its bits, and both under attack",
    "index": "encode images into an index",
    "search": "find the images nearest to some of your own",
    "compare": "run a study of ways of training codes, with a report",
    "demo": "compare ways of training codes of digits, with a report",
}

HELP = """\
usage: advreg hash COMMAND [options]

Deep hashing: short binary codes of images, by which similar images are found in microseconds.

commands:
{commands}

examples:
  advreg hash demo
  advreg hash generate --data digits --out runs/generator
  advreg hash train --data digits --generated.folder runs/generator --out runs/codes
  advreg hash evaluate runs/codes
  advreg hash index runs/codes
  advreg hash search runs/codes photo.png

Each command explains itself: advreg hash COMMAND --help
"""


def run(arguments: Sequence[str]) -> int:
    """Runs one of the commands."""
    command, *rest = list(arguments) or ["--help"]
    if command in ("--help", "-h"):
        width = max(map(len, COMMANDS))
        lines = [f"  {name:{width}}  {what}" for name, what in COMMANDS.items()]
        print(HELP.format(commands="\n".join(lines)), end="")
        return 0
    if command not in COMMANDS:
        raise ConfigurationError(
            f"There is no command hash {command!r}; take one of {', '.join(COMMANDS)}."
        )
    code: int = import_module(f"advreg.cli.hash.{command}").run(rest)
    return code
