"""Results that are the same from run to run on a GPU, or one sentence that says why not."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from advreg.errors import UnsupportedError


def make_deterministic() -> None:
    """Lets torch refuse, in this process, operations whose result differs from run to run."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS refuses without
    torch.use_deterministic_algorithms(True)


@contextmanager
def refusals_named() -> Iterator[None]:
    """Turns such a refusal into one sentence.

    Raises:
        UnsupportedError: An operation has no form on this device that is deterministic.
    """
    try:
        yield
    except RuntimeError as error:
        found = re.match(r"(\S+) does not have a deterministic implementation", str(error))
        if found is None:
            raise
        raise UnsupportedError(
            f"deterministic is true, and the result of {found[1]}, an operation of the network,"
            " differs from run to run on this device; leave deterministic out, or replace the"
            " operation."
        ) from error
