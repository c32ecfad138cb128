"""Plain training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from advreg.methods.base import Method


@dataclass
class Standard(Method):
    """Plain training: one forward and one backward pass, nothing added. The yardstick."""

    name: ClassVar[str] = "standard"
