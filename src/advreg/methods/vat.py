"""Virtual adversarial training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from advreg.attacks import L2, input_gradient
from advreg.batch import Batch
from advreg.inputs import logits_of
from advreg.losses import Task, task_of
from advreg.methods.base import Backward, Carried, Criterion, Method
from advreg.methods.output import StepOutput
from advreg.modes import frozen_statistics
from advreg.randomness import Generators
from advreg.tensors import wide
from advreg.units import Number, non_negative


@dataclass
class VAT(Method):
    """J(f(x)) + KL(p || f(x + epsilon u)), p = f(x) held fixed, u where the answer turns fastest.

    Miyato et al., TPAMI 2018, arXiv 1704.03976. One power iteration on the divergence's Hessian:
    u is the direction of the divergence's gradient at x + xi d, d a random unit vector. The
    labels enter J alone. Batch statistics are the clean pass's.

    Args:
        epsilon: The L2 length of the perturbation in units of the input.
        xi: The length of the probe. Rounding would swallow it where it is shorter than the square
            root of the precision a value (float32: 3.5e-4); the probe has that length then.
        input_range: Perturbed inputs are clamped to it; None takes the network's own.
        seed: Of the random unit vectors.
    """

    name: ClassVar[str] = "vat"
    epsilon: Number = 1.0
    xi: Number = 1e-6
    input_range: tuple[float, float] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self.epsilon = non_negative(self.epsilon, "epsilon")
        self.xi = non_negative(self.xi, "xi")

    @property
    def passes(self) -> float:
        """The clean loss, the power iteration, the divergence."""
        return 3.0

    @property
    def threat(self) -> L2:
        """See `Method.threat`."""
        return L2(self.epsilon)

    def carries(self) -> dict[str, Carried]:
        """See `Method.carries`."""
        return {"generators": Generators(self.seed)}

    def step(
        self, model: nn.Module, batch: Batch, criterion: Criterion, backward: Backward
    ) -> StepOutput:
        """See `Method.step`; the loss is the whole sum, the outputs are the clean inputs'."""
        outputs = model(batch.inputs)
        clean = criterion(outputs, batch.targets)
        backward(clean)
        task, expected = task_of(criterion, outputs, batch.targets), logits_of(outputs).detach()
        gradient = self._turning(batch.inputs.detach(), expected, task)
        gradient = wide(gradient)
        virtual = self.threat.step(torch.zeros_like(gradient), gradient, self.threat.epsilon)
        inputs = self.perturbed(batch.inputs, virtual)
        with frozen_statistics(self.network):
            smoothness = task.divergence(expected, model(inputs))
            self.notice(smoothness)
            backward(smoothness)
        return StepOutput.of(clean + smoothness, outputs, batch.targets, criterion)

    def _turning(self, inputs: Tensor, expected: Tensor, task: Task) -> Tensor:
        """The divergence's gradient at the probe, (B, ...), in the inputs' precision."""
        kind = inputs.device.type
        lowered = torch.is_autocast_enabled(kind)
        with self.extra_pass() as network, torch.autocast(kind, enabled=False):
            if lowered:
                # The probe changes the answer by far less than the autocast type resolves.
                inputs = inputs.float()
                with torch.no_grad():
                    expected = logits_of(network(inputs))
            noise = torch.empty_like(inputs).normal_(
                generator=self.carried["generators"].on(inputs.device)
            )
            least = math.sqrt(torch.finfo(inputs.dtype).eps * inputs[0].numel())
            unit = L2(1.0).step(torch.zeros_like(noise), noise, 1.0)
            probe = inputs + max(float(self.xi), least) * unit
            # In double: a confident answer's probabilities differ by less than float32 resolves.
            return input_gradient(
                network, probe, expected.double(), lambda outputs, p: task.divergence(p, outputs)
            )
