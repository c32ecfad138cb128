"""The adversary: attached to a network, it perturbs the sites and remembers their gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from advreg.batch import View
from advreg.errors import AttachmentError, StateError
from advreg.layerwise import registry
from advreg.layerwise.assembly import build_sites
from advreg.layerwise.attachment import Attachment, unwrap_model
from advreg.layerwise.budget import SHARES, Epsilon, parse_epsilon, warmed_up
from advreg.layerwise.checks import check_settings, shown
from advreg.layerwise.compiled import fits_compiled_code
from advreg.layerwise.describe import SiteDescription, describe_sites
from advreg.layerwise.directions import Direction
from advreg.layerwise.doors import Doors
from advreg.layerwise.kernels import buffers
from advreg.layerwise.memory import MemoryKind, Start, Told
from advreg.layerwise.site import Forward, Site
from advreg.layerwise.sites import INPUT
from advreg.layerwise.state import restore_sites, sites_state
from advreg.layerwise.watch import Watch
from advreg.randomness import Generators
from advreg.units import Number, non_negative


class LayerwiseAdversary:
    """Layerwise adversarial training (Sankaranarayanan et al., AAAI 2018, arXiv 1705.07819).

    While attached, every forward pass in training mode adds epsilon * rho * S to the sites, S
    being the direction of the loss gradient that the previous mini-batch's backward pass left
    there, and every backward pass renews S. One forward and one backward pass a step; the loop
    around it stays as it is.

    Args:
        epsilon: The budget: one number for all sites, or a mapping from site glob to number, of
            which the last that matches a site counts. Fractions such as "8/255" are read.
        sites: Globs over dotted module names, and "input"; None chooses the keys of an epsilon
            mapping, else the input and the outputs of stages and blocks (`default_sites`), for
            example memory the input alone.
        memory: "slot", the paper's: row i meets what position i of the previous mini-batch
            left; or "example": each example meets what its own last visit left, for which
            `set_batch` must be called before each forward pass.
        direction: "sign", "l2" or "max" of the gradient (see `direction`), or "random": fresh
            signs and no memory, the control.
        relative: Whether epsilon is in units of the activation's root mean square; None is
            absolute at the input and relative at hidden sites.
        input_range: Range to clamp the perturbed input to; None takes the network's own
            `input_range` attribute, without which nothing is clamped.
        batch_dim: The dimension that counts examples.
        start: "zero", or "random": a random direction within the budget before the first one.
        step_size: Accumulation, in the units of epsilon: the perturbation becomes
            clip(perturbation + step_size * sign(gradient), -epsilon, epsilon), kept in steps of
            epsilon / 127; None replaces it.
        rms_interval: Mini-batches between two measurements of the relative budget's scale.
        budget_split: None gives each site its whole epsilon; "sum" divides it by the number of sites,
            "root" by its square root.
        warmup: Mini-batches over which epsilon grows linearly from zero.
        examples: The number of training examples, for an example memory that need not grow.
        seed: Of the random start and the random signs.

    Raises:
        ConfigurationError: A setting has a value that cannot work.
    """

    def __init__(
        self,
        epsilon: Epsilon,
        sites: Iterable[str] | str | None = None,
        memory: MemoryKind = "slot",
        direction: Direction = "sign",
        relative: bool | None = None,
        input_range: tuple[float, float] | None = None,
        *,
        batch_dim: int = 0,
        start: Start = "zero",
        step_size: Number | None = None,
        rms_interval: int = 1,
        budget_split: str | None = None,
        warmup: int = 0,
        examples: int | None = None,
        seed: int = 0,
    ) -> None:
        self.epsilon = parse_epsilon(epsilon)
        if sites is None and isinstance(self.epsilon, dict):
            sites = tuple(self.epsilon)
        elif sites is None and memory == "example":
            sites = (INPUT,)
        self.patterns = (sites,) if isinstance(sites, str) else sites and tuple(sites)
        self.memory, self.direction, self.relative = memory, direction, relative
        self.input_range = input_range
        self.batch_dim, self.start, self.rms_interval, self.budget_split = (
            batch_dim,
            start,
            rms_interval,
            budget_split,
        )
        self.step_size = None if step_size is None else non_negative(step_size, "step_size")
        self.warmup, self.examples, self.seed = warmup, examples, seed
        check_settings(self)
        self.sites: list[Site] = []
        self.step = 0  # mini-batches begun
        self._counted = False  # whether what compiled code answers next is counted already
        self._attachment: Attachment | None = None
        self._pending: dict[str, Any] | None = None
        self._told: Told | None = None
        self._pauses = 0
        self._generators = Generators(seed)
        self._watch = Watch()

    def __repr__(self) -> str:
        return shown(self, epsilon=self.epsilon, sites=self.patterns)

    def __getstate__(self) -> dict[str, Any]:
        """A copy is a detached one."""
        return {**self.__dict__, "_attachment": None}

    def attach(self, model: nn.Module) -> Attachment:
        """Attaches to a network, with fresh memories unless a state was loaded before.

        What `torch.compile` has compiled so far, in the whole process, is compiled anew on its
        next call, for such code need not notice hooks; and so again on detaching.

        Args:
            model: Any network; a compiled or data-parallel wrapper is looked through.

        Returns:
            A handle with `detach()`; as a context manager it detaches on leaving.

        Raises:
            AttachmentError: This adversary is attached already, or another one to this model.
            SiteError: A site or a budget's glob matches nothing.
            UnsupportedError: The network is of a kind that cannot be perturbed.
        """
        network = unwrap_model(model)
        if self._attachment is not None:
            raise AttachmentError("This adversary is attached already; detach it first.")
        if registry.adversary_of(network) is not None:
            raise AttachmentError("This network has an adversary already; detach that one first.")
        self.sites = build_sites(network, self)
        self.step, self._watch, self._told = 0, Watch(), None
        self._generators = Generators(self.seed)
        if self._pending is not None:
            self._restore(self._pending)
            self._pending = None
        self._attachment = Attachment(
            network,
            self.sites,
            input_required=self.patterns is not None,
            begin=self._begin,
            paused=lambda: self._pauses > 0,
            ended=self._end,
            doors=self._doors(),
        )
        registry.enter(network, self)
        return self._attachment

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within it the attached network is the untouched one, bit for bit; it nests."""
        self._pauses += 1
        try:
            yield
        finally:
            self._pauses -= 1

    def set_batch(self, indices: Tensor, view: View | None = None) -> None:
        """Says which examples the next forward pass in training mode sees.

        Args:
            indices: (B,) int64, each example's place in the training data.
            view: The crop and flip that made the inputs; None is the identity.
        """
        self._told = Told(indices, view)
        if self._attachment is not None:
            self._attachment.next_pass()

    def describe(self, model: nn.Module, example_input: Any) -> list[SiteDescription]:
        """Which sites attaching would perturb, from a forward pass that changes nothing.

        Args:
            model: The network.
            example_input: A mini-batch's input: a tensor, a tuple of positional arguments or a
                mapping of keyword arguments.

        Returns:
            One description a site, in the order of the forward pass; sites that did not run last.
        """
        network = unwrap_model(model)
        return describe_sites(network, build_sites(network, self), example_input)

    def statistics(self) -> dict[str, dict[str, float]]:
        """What each site has seen: a reading for people, made when asked for.

        Returns:
            By site: `epsilon` (in effect), `rho` (NaN where absolute), `zeros` (share of exact
            zeros in the memory), `nonfinite` (gradient values so far), `runs`, `records` and
            `restarts`. Of a site called several times, rho and zeros are those of its first call.
        """
        factor = self._factor(self.step)
        return {site.name: site.statistics(factor) for site in self.sites if site.alias is None}

    def state_dict(self) -> dict[str, Any]:
        """The memories and all else that training must restore to go on bit for bit.

        Returns:
            Tensors, numbers and names alone, so that `torch.load(weights_only=True)` reads it. As
            a module's, it may share memory with the live one: copy it to keep it over a step.
        """
        if self._pending is not None:
            return self._pending
        return {
            "kind": self._kind(),
            "step": self.step,
            "generators": self._generators.state_dict(),
            "sites": sites_state(self.sites),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned; before attaching, it takes effect on attaching.

        Raises:
            StateError: The state is of another kind of adversary or of other sites.
        """
        if state.get("kind") != self._kind():
            raise StateError(
                f"The state is of an adversary with {state.get('kind')}, this one has"
                f" {self._kind()}; use the settings that the state was made with."
            )
        if self._attachment is None:
            self._pending = state
        else:
            self._restore(state)

    def _restore(self, state: dict[str, Any]) -> None:
        restore_sites(self.sites, state["sites"])
        self.step = state["step"]
        self._generators.load_state_dict(state["generators"])

    def _kind(self) -> dict[str, Any]:
        kind = {name: getattr(self, name) for name in ("memory", "direction", "batch_dim")}
        return {**kind, "accumulates": self.step_size is not None}

    def _begin(self, traced: bool) -> Forward:
        """Begins a forward pass; `traced`: of what compiled code has left to eager code."""
        told = self._told or Told(None, None)
        if self.memory == "example" and self.direction != "random" and told.indices is None:
            raise StateError(
                "Example memory must know which examples it meets;"
                " call adversary.set_batch(indices, view) before each forward pass."
            )
        self._watch.forward(self.step, self.sites)
        self._told = None
        self.step, self._counted = self.step + 1, traced
        return Forward(self._factor(self.step), self.rms_interval, told, self._generators)

    def _factor(self, step: int) -> float:
        factor = warmed_up(step, self.warmup)
        if self.budget_split is None:
            return factor
        ran = sum(site.runs > 0 for site in self.sites) or len(self.sites)
        return factor * SHARES[self.budget_split](ran)

    def _doors(self) -> Doors | None:
        if self.rms_interval > 1 or not all(map(fits_compiled_code, self.sites)):
            return None

        def factor() -> float:
            return self._factor(self.step + (not self._counted))

        return Doors(self.sites, self._generators, factor, self._answered)

    def _answered(self) -> None:
        """A compiled network's mini-batch is counted when its gradients come."""
        self._watch.forward(self.step, self.sites)
        self.step, self._counted = self.step + (not self._counted), False

    def _end(self) -> None:
        assert self._attachment is not None
        registry.leave(self._attachment.network)
        self._attachment = None
        buffers.release()
        if self.step > 1 or any(call.door for site in self.sites for call in site.calls):
            self._watch.look(self.sites)
