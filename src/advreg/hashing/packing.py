"""The layout of binary codes in bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from advreg.errors import ConfigurationError, DataError

LONGEST = 256
"""Bits of the longest code."""


@dataclass(frozen=True)
class CodeFormat:
    """How codes of q bits lie in bytes.

    Bit j is bit 7 - j % 8 of byte j // 8 (the first bit is the most significant one, as
    `numpy.packbits` has it), 1 where the relaxed bit is over 1/2. Bits that fill up the last byte
    are 0 in every code, so that they add nothing to a Hamming distance.

    Args:
        bits: q, a multiple of 8 up to 256; or 12, for comparison with older tables.

    Raises:
        ConfigurationError: Codes cannot have so many bits.
    """

    bits: int

    def __post_init__(self) -> None:
        whole = isinstance(self.bits, int) and not isinstance(self.bits, bool)
        if not (whole and 0 < self.bits <= LONGEST and (self.bits % 8 == 0 or self.bits == 12)):
            raise ConfigurationError(
                f"bits is {self.bits!r}; give a multiple of 8 up to {LONGEST}, or 12."
            )

    @property
    def bytes(self) -> int:
        """Bytes of a code."""
        return -(-self.bits // 8)

    @property
    def padding(self) -> int:
        """Bits at the end of the last byte that are 0 in every code."""
        return 8 * self.bytes - self.bits

    def describe(self) -> str:
        """The layout in a sentence."""
        end = f", of which the last {self.padding} bits are always 0" if self.padding else ""
        size = "1 byte" if self.bytes == 1 else f"{self.bytes} bytes"
        return f"{self.bits} bits in {size}{end}; bit 0 is the most significant bit of byte 0."

    def pack(self, bits: np.ndarray | Tensor) -> np.ndarray:
        """Bits as bytes.

        Args:
            bits: (N, q) bool.

        Returns:
            (N, q / 8) uint8, the quotient rounded up.

        Raises:
            DataError: The shape or the type is another.
        """
        given = bits.cpu().numpy() if isinstance(bits, Tensor) else bits
        if given.ndim != 2 or given.shape[1] != self.bits or given.dtype != np.bool_:
            raise DataError(
                f"Bits are {given.dtype} of shape {given.shape}; give bool of shape"
                f" (N, {self.bits})."
            )
        return np.packbits(given, axis=1)

    def unpack(self, codes: np.ndarray) -> np.ndarray:
        """The (N, q) bool bits of (N, q / 8) uint8 codes.

        Raises:
            DataError: They are not codes of this format.
        """
        return np.unpackbits(self.check(codes), axis=1, count=self.bits).astype(np.bool_)

    def check(self, codes: np.ndarray) -> np.ndarray:
        """The codes themselves, once they are seen to have this format.

        Raises:
            DataError: The shape or the type is another, or a bit that pads is set.
        """
        if codes.dtype != np.uint8 or codes.ndim != 2 or codes.shape[1] != self.bytes:
            raise DataError(
                f"Codes are {codes.dtype} of shape {codes.shape}; codes of {self.bits} bits are"
                f" uint8 of shape (N, {self.bytes})."
            )
        if self.padding and np.any(codes[:, -1] & ((1 << self.padding) - 1)):
            raise DataError(
                f"Some codes have bits beyond the {self.bits} that they may have; pack them with"
                f" CodeFormat({self.bits}).pack."
            )
        return codes
