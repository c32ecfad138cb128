"""What the pieces share: the time that is left, and where the figures are from."""

from __future__ import annotations

import argparse
import platform
import time
from typing import Any

import torch

import advreg

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Clock:
    """Counts down."""

    def __init__(self, minutes: float) -> None:
        self.end = time.monotonic() + 60 * minutes

    def left(self) -> float:
        """Seconds left."""
        return self.end - time.monotonic()


def describe(options: argparse.Namespace) -> dict[str, Any]:
    """The card, the versions and the options of a result file."""
    return {
        "device": torch.cuda.get_device_name() if DEVICE == "cuda" else platform.processor(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "advreg": advreg.__version__,
        "toy": options.toy,
        "minutes": options.minutes,
    }
