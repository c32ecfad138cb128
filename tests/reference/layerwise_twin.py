"""The slowest, plainest form of the layerwise algorithm: no hooks, one example at a time."""

import torch
import torch.nn.functional as F


class Twin:
    """S of every site and row, by its slot or example: tensors in a dictionary."""

    def __init__(self, epsilon, relative, direction, example, step_size, limits):
        self.epsilon, self.relative, self.direction = epsilon, relative, direction
        self.example, self.step_size, self.limits, self.memory = example, step_size, limits, {}

    def window(self, site, i, view, shape):
        """The part of a padded frame that row i shows, the frame, and whether it is mirrored."""
        if view is None or site > 0:
            return tuple(slice(None) for _ in shape), shape, False
        top, left, pad = int(view.top[i]), int(view.left[i]), 2 * view.padding
        cut = (slice(None), slice(top, top + shape[1]), slice(left, left + shape[2]))
        return cut, (shape[0], shape[1] + pad, shape[2] + pad), view.flip[i]

    def perturb(self, site, a, batch, signs):
        """a[i] + epsilon * rho * S[row(i)]; `signs` are the random control's own."""
        rho = a.detach().square().mean().sqrt().float() if self.relative[site] else 1.0
        S = []
        for i in range(len(a)):
            cut, frame, flip = self.window(site, i, batch.view, a[i].shape)
            key = (site, int(batch.indices[i]) if self.example else i)
            s = self.memory.get(key, torch.zeros(frame, dtype=a.dtype))[cut]
            S.append(s.flip(-1) if flip else s)
        S = signs[site] if self.direction == "random" else torch.stack(S)
        perturbed = a + self.epsilon * rho * S
        return perturbed.clamp(*self.limits) if site == 0 and self.limits else perturbed

    def record(self, site, gradient, batch):
        """S[i] <- direction of the gradient of row i; slots that the batch lacks are forgotten."""
        if not self.example and self.step_size is None:
            self.memory = {key: S for key, S in self.memory.items() if key[0] != site}
        for i, g in enumerate(gradient):
            scale = {"l2": g.norm() / g.numel() ** 0.5, "max": g.abs().max()}.get(self.direction)
            d = g.sign() if scale is None else g / scale
            cut, frame, flip = self.window(site, i, batch.view, g.shape)
            key = (site, int(batch.indices[i]) if self.example else i)
            S = self.memory.setdefault(key, torch.zeros(frame, dtype=g.dtype))
            d = d.flip(-1) if flip else d
            if self.step_size is not None:  # kept in steps of 1/127
                d = (S[cut] + round(self.step_size / self.epsilon * 127) / 127 * d).clamp(-1, 1)
            S[cut] = d


def step(twin, weights, batch, rate, norm, signs):
    """One step of plain gradient descent; returns the loss and the perturbed activations."""
    images = twin.perturb(0, batch.inputs, batch, signs).detach().requires_grad_()
    sites, a = [images], images
    for site, name in enumerate(("first", "second"), start=1):
        a = F.conv2d(a, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1)
        if norm:
            mean = a.mean((0, 2, 3), keepdim=True)
            a = (a - mean) / (a.var((0, 2, 3), keepdim=True, correction=0) + 1e-5).sqrt()
        a = twin.perturb(site, F.relu(a), batch, signs)
        sites.append(a)
    logits = F.linear(a.mean((2, 3)), weights["head.weight"], weights["head.bias"])
    loss = F.cross_entropy(logits, batch.targets)
    gradients = torch.autograd.grad(loss, [*sites, *weights.values()])
    for site, gradient in enumerate(gradients[:3]):
        twin.record(site, gradient, batch)
    for weight, gradient in zip(weights.values(), gradients[3:], strict=True):
        weight.data -= rate * gradient
    return loss.detach(), [site.detach() for site in sites]
