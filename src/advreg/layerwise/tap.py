"""A place for a site where no module is."""

from __future__ import annotations

from torch import Tensor, nn


class Tap(nn.Module):
    """Returns its input unchanged, so that a functional value has a name to be a site by.

    Example:
        `self.tap = advreg.Tap()` in the constructor and `x = self.tap(F.relu(x))` in `forward`
        make `tap` a site; call one `Tap` a place, or one several times for a memory a call.
    """

    def forward(self, activation: Tensor) -> Tensor:
        """Returns `activation`, any shape, itself."""
        return activation
