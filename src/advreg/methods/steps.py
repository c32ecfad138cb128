"""How far a training has come, for settings that change over it."""

from __future__ import annotations


class Steps:
    """Counts the mini-batches that a method has trained on.

    Attributes:
        count: So far.
    """

    def __init__(self) -> None:
        self.count = 0

    def share(self, total: int | None) -> float:
        """The share of the training that is done, from 0 to 1.

        Args:
            total: Mini-batches of the whole training; None, where it is not known, counts as its
                end.
        """
        return min(self.count / total, 1.0) if total else 1.0

    def state_dict(self) -> dict[str, int]:
        """The count."""
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Restores what `state_dict` returned."""
        self.count = state["count"]
