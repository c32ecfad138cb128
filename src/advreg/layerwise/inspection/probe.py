"""What an adversary's memories are worth: what they add, held against the gradient that follows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from advreg.layerwise.memory import BatchInfo

CALLS, RELATIVE, EXAMPLES, COSINE, RISE = range(5)
LEAST = 1e-15
"""The norm of a smaller vector cannot be relied on in float32."""

AGES = 5
"""Ages of an example's memory are counted in half epochs, those of two epochs and more as one."""


class SiteProbe:
    """Averages, site by site, of what perturbations are and of what they do.

    Set as an adversary's `probe`, it sees every forward pass that is perturbed and every gradient
    that comes back. Both are at hand then, so that no pass is added; a site's perturbation is kept
    until the backward pass. Sites in compiled code are not seen.

    With d the perturbation that was added to a site's activation a (within the input's range, if
    it has one) and g the loss gradient that came back to a + d:

    - `relative` is the mean over mini-batches of |d| / |a|, norms over the whole tensor;
    - `cosine` is the mean over examples of <d, g> / (|d| |g|), an example's own d and g, where
      neither's norm is below 1e-15. d has the direction of what was remembered, for a memory of
      signs that of the signs. Along a remembered direction that is the gradient's own the cosine is
      1 for the directions `l2` and `max` and, for `sign`, the ratio of the gradient's L1 norm to
      its L2 norm and the root of its size, about 0.8 for values drawn from a normal distribution;
      it is about 0 for random signs;
    - `rise` is the mean over mini-batches of <d, g> over the whole tensor: what the perturbation
      adds to the loss to first order, in the loss' unit, divided like the loss if that is.

    Args:
        steps_per_epoch: Mini-batches an epoch. Where it is given, example memories' cosines are
            also kept by how long ago, in epochs, the example was last visited.

    Attributes:
        step: Mini-batches begun.
    """

    def __init__(self, steps_per_epoch: int | None = None) -> None:
        self.steps_per_epoch = steps_per_epoch
        self.step = 0
        self._sums: dict[str, Tensor] = {}
        self._by_age: dict[str, Tensor] = {}  # (2, AGES): examples, sums of cosines
        self._visited: dict[str, Tensor] = {}  # the step of each example's last visit, from 1

    def begin(self) -> None:
        """A forward pass begins."""
        self.step += 1

    def applied(self, site: str, activation: Tensor, perturbed: Tensor) -> Tensor:
        """Takes what a forward pass has made of an activation.

        Args:
            site: The site's name.
            activation: Any shape.
            perturbed: Of the same shape.

        Returns:
            The perturbation, detached, in float32 or wider; to be handed to `returned`.
        """
        wide = torch.promote_types(activation.dtype, torch.float32)
        before = activation.detach().to(wide)
        change = perturbed.detach().to(wide) - before
        size = torch.linalg.vector_norm(before)
        added = torch.linalg.vector_norm(change)
        sums = self._of(site, change)
        sums[CALLS] += 1
        sums[RELATIVE] += (added / size).nan_to_num(0.0, 0.0, 0.0)
        return change

    def returned(
        self, site: str, change: Tensor, gradient: Tensor, batch_dim: int, batch: BatchInfo | None
    ) -> None:
        """Takes the gradient that has come back to a perturbed activation.

        Args:
            site: The site's name.
            change: What `applied` returned.
            gradient: Of the same shape.
            batch_dim: The dimension that counts examples.
            batch: Which examples these are, if their memory is kept by example.
        """
        change, gradient = (
            tensor.detach().movedim(batch_dim, 0).flatten(1)
            if tensor.dim() > 1
            else tensor[:, None]
            for tensor in (change, gradient.to(change.dtype))
        )
        products = (change * gradient).sum(1).double()
        sizes = [torch.linalg.vector_norm(rows, dim=1).double() for rows in (change, gradient)]
        lengths = sizes[0] * sizes[1]
        counted = (torch.minimum(*sizes) >= LEAST) & products.isfinite() & lengths.isfinite()
        cosines = torch.where(counted, products / lengths, 0.0)
        sums = self._of(site, change)
        sums[EXAMPLES] += counted.sum()
        sums[COSINE] += cosines.sum()
        sums[RISE] += products.nan_to_num(0.0, 0.0, 0.0).sum()
        if batch is not None and batch.indices is not None and self.steps_per_epoch:
            self._note_ages(site, batch.indices.to(cosines.device), cosines, counted)

    def _of(self, site: str, like: Tensor) -> Tensor:
        zeros = torch.zeros(5, dtype=torch.float64, device=like.device)
        self._sums[site] = self._sums.get(site, zeros).to(like.device)
        return self._sums[site]

    def _note_ages(self, site: str, indices: Tensor, cosines: Tensor, counted: Tensor) -> None:
        assert self.steps_per_epoch
        need = int(indices.max()) + 1 if len(indices) else 0
        visited = self._visited.get(site, indices.new_zeros(0)).to(indices.device)
        if need > len(visited):
            visited = torch.cat([visited, visited.new_zeros(need - len(visited))])
        half_epochs = 2 * (self.step - visited[indices]) / self.steps_per_epoch
        ages = half_epochs.round().long().clamp(max=AGES - 1)
        counted = counted & (visited[indices] > 0)
        kept = torch.zeros(2, AGES, dtype=torch.float64, device=indices.device)
        kept[0].index_add_(0, ages, counted.double())
        kept[1].index_add_(0, ages, cosines * counted)
        self._by_age[site] = kept + self._by_age[site].to(kept) if site in self._by_age else kept
        visited[indices] = self.step
        self._visited[site] = visited

    def figures(self) -> dict[str, dict[str, Any]]:
        """The averages since `clear`.

        Returns:
            By site `relative`, `cosine` and `rise`; of example memories also `by_age`, the cosines
            by epochs since the last visit ("0", "0.5", ...). None where there is no such value.
        """
        found: dict[str, dict[str, Any]] = {}
        for site, sums in self._sums.items():
            calls, relative, examples, cosine, rise = sums.tolist()
            found[site] = {
                "relative": relative / calls if calls else None,
                "cosine": cosine / examples if examples else None,
                "rise": rise / calls if calls else None,
            }
            if site in self._by_age:
                counts, totals = self._by_age[site].tolist()
                found[site]["by_age"] = {
                    f"{age / 2:g}": total / count
                    for age, (count, total) in enumerate(zip(counts, totals, strict=True))
                    if count
                }
        return found

    def rises(self) -> float:
        """The sum of <d, g> over all sites and mini-batches since `clear`."""
        return sum(float(sums[RISE]) for sums in self._sums.values())

    def clear(self) -> None:
        """Begins the averages again."""
        self._sums, self._by_age = {}, {}

    def state_dict(self) -> dict[str, Any]:
        """All that goes on after a restart."""
        return {
            "step": self.step,
            "sums": dict(self._sums),
            "by_age": dict(self._by_age),
            "visited": dict(self._visited),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned, copied."""
        self.step = state["step"]
        copies = [
            {site: tensor.clone() for site, tensor in state[name].items()}
            for name in ("sums", "by_age", "visited")
        ]
        self._sums, self._by_age, self._visited = copies
