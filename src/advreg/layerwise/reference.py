"""The whole method in plain lines: to be read, and to compare every fast form with.

Sites l = 0..L (0 is the input), mini-batches t, examples i = 1..B; S_l is the memory, zero before
the first mini-batch (Sankaranarayanan et al., AAAI 2018, arXiv 1705.07819):

    forward   a_l[i]  <-  a_l[i] + epsilon * rho_l * S_l^(t-1)[row(i)]     at every site
    loss      J_t = mean_i criterion(model(x_i), y_i)
    backward  S_l^t[i] = direction( dJ_t / d a_l[i] )                      as the gradient passes

It keeps dense tensors, adds and records by two hooks a site, and knows no compiler, checkpoint or
half precision: for those there is `LayerwiseAdversary`, which is tested to give the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from advreg.batch import View


class ReferenceAdversary:
    """Layerwise adversarial training of a network whose sites hand on plain tensors.

    Args:
        network: Its input is the first argument of `forward`.
        epsilon: The budget of every site.
        sites: "input" and dotted names of modules, in the order of the forward pass.
        memory: "slot": row(i) is position i of the previous mini-batch, which had the same shape;
            "example": row(i) is the same example, when it was last seen in the same shape.
        direction: "sign", "l2" or "max" of the gradient.
        relative: The sites whose epsilon is in units of the root mean square rho of the
            activation; None is all but the input.
        input_range: What the perturbed input is clamped to.
        step_size: Accumulation, S <- clip(S + step_size / epsilon * sign(g), -1, 1); None replaces.

    Attributes:
        memories: S by site, row and shape of one example.
    """

    def __init__(
        self,
        network: nn.Module,
        epsilon: float,
        sites: Sequence[str],
        memory: str = "slot",
        direction: str = "sign",
        relative: Sequence[str] | None = None,
        input_range: tuple[float, float] | None = None,
        step_size: float | None = None,
    ) -> None:
        self.network, self.epsilon, self.memory = network, epsilon, memory
        self.direction, self.input_range, self.step_size = direction, input_range, step_size
        hidden = [site for site in sites if site != "input"]
        self.relative = hidden if relative is None else relative
        self.memories: dict[tuple[str, int, tuple[int, ...]], Tensor] = {}
        self.rows: list[int] = []
        self.view: View | None = None
        self.handles = []
        for site in sites:
            if site == "input":
                before = lambda module, args: (self.perturb("input", args[0]), *args[1:])  # noqa: E731
                self.handles.append(network.register_forward_pre_hook(before))
            else:
                after = lambda module, args, output, site=site: self.perturb(site, output)  # noqa: E731
                self.handles.append(network.get_submodule(site).register_forward_hook(after))

    def remove(self) -> None:
        """Takes the hooks off."""
        for handle in self.handles:
            handle.remove()

    def set_batch(self, indices: Tensor, view: View | None = None) -> None:
        """Says which examples the next mini-batch has, and the crops and flips that made it."""
        self.rows, self.view = indices.tolist(), view

    def perturb(self, site: str, activation: Tensor) -> Tensor:
        """a + epsilon * rho * S, (B, ...); its gradient will be recorded."""
        if not (self.network.training and torch.is_grad_enabled()):
            return activation
        rho = activation.detach().square().mean().sqrt().float() if site in self.relative else 1.0
        slots = range(len(activation)) if self.memory == "slot" else self.rows
        S = [self.read(site, row, i, activation[i]) for i, row in enumerate(slots)]
        perturbed = activation + self.epsilon * rho * torch.stack(S)
        if site == "input" and self.input_range is not None:
            perturbed = perturbed.clamp(*self.input_range)
        perturbed = perturbed if perturbed.requires_grad else perturbed.requires_grad_()
        perturbed.register_hook(lambda gradient: self.record(site, list(slots), gradient))
        return perturbed

    def record(self, site: str, rows: list[int], gradient: Tensor) -> None:
        """S[row(i)] <- direction of the gradient of row i, (B, ...)."""
        if self.memory == "slot":  # of the batch before, a sum of all batches of this shape
            keeps = None if self.step_size is None else tuple(gradient.shape[1:])
            self.memories = {
                key: S for key, S in self.memories.items() if key[0] != site or key[2] == keeps
            }
        for i, row in enumerate(rows):
            d = self.direction_of(gradient[i])
            if self.step_size is not None:  # kept in steps of 1 / 127, so that a byte holds it
                step = round(self.step_size / self.epsilon * 127) / 127
                d = (self.read(site, row, i, d) + step * d).clamp(-1, 1)
            self.write(site, row, i, d)

    def direction_of(self, gradient: Tensor) -> Tensor:
        """The direction of one example's gradient; the sign of zero is zero."""
        if self.direction == "sign":
            return gradient.sign()
        size = gradient.abs().max()
        if self.direction == "l2":
            size = gradient.norm() / gradient.numel() ** 0.5
        return gradient / size if size > 0 else torch.zeros_like(gradient)

    def read(self, site: str, row: int, i: int, like: Tensor) -> Tensor:
        """S of a row, seen through the crop and flip that made example i; zero where unseen."""
        frame = self.memories.get((site, row, self.frame(site, like)))
        if frame is None:
            return torch.zeros_like(like)
        cut, flip = self.window(site, i, like)
        return frame[cut].flip(-1) if flip else frame[cut]

    def write(self, site: str, row: int, i: int, S: Tensor) -> None:
        """Puts S in its row, the crop and flip undone; what lies outside the crop stays."""
        cut, flip = self.window(site, i, S)
        shape = self.frame(site, S)
        frame = self.memories.setdefault((site, row, shape), S.new_zeros(shape))
        frame[cut] = S.flip(-1) if flip else S

    def frame(self, site: str, like: Tensor) -> tuple[int, ...]:
        """The shape of one example, at the input padded."""
        if self.view is None or site != "input":
            return tuple(like.shape)
        height, width = (size + 2 * self.view.padding for size in like.shape[-2:])
        return (*like.shape[:-2], height, width)

    def window(self, site: str, i: int, like: Tensor) -> tuple[Any, bool]:
        """Where in its padded frame (C, H, W) example i lies, and whether it is mirrored."""
        if self.view is None or site != "input":
            return ..., False
        top, left = int(self.view.top[i]), int(self.view.left[i])
        height, width = like.shape[-2:]
        return (..., slice(top, top + height), slice(left, left + width)), bool(self.view.flip[i])
