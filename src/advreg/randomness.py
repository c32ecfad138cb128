"""The adversary's own random numbers, apart from the loop's, so that both can be restored."""

from __future__ import annotations

import torch
from torch import Tensor


class Generators:
    """One generator a device, each seeded alike.

    Args:
        seed: Of every generator.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._generators: dict[str, torch.Generator] = {}

    def on(self, device: torch.device) -> torch.Generator:
        """The generator of a device, made on first use."""
        name = str(device)
        if name not in self._generators:
            self._generators[name] = torch.Generator(device).manual_seed(self.seed)
        return self._generators[name]

    def state_dict(self) -> dict[str, Tensor]:
        """Each generator's state, by device."""
        return {name: generator.get_state() for name, generator in self._generators.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores what `state_dict` returned, for the devices that are there."""
        self._generators.clear()
        for name, numbers in state.items():
            try:
                generator = self.on(torch.device(name))
            except RuntimeError:  # made on a machine with another device
                continue
            generator.set_state(numbers.cpu())
