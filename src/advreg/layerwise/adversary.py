"""The adversary: attached to a network, it perturbs the sites and remembers their gradients."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from advreg.batch import LossyView, View
from advreg.checks import check_budget
from advreg.errors import AttachmentError, StateError
from advreg.layerwise.attach import Attachment
from advreg.layerwise.budget import BUDGET_SPLITS, Epsilon, epsilon_of
from advreg.layerwise.compiled import CompiledForm
from advreg.layerwise.config import LayerwiseConfig
from advreg.layerwise.indices import as_indices
from advreg.layerwise.inspection import Diagnostics, SiteDescription, SiteProbe, describe_sites
from advreg.layerwise.kernels import buffers
from advreg.layerwise.memory import MEMORIES, BatchInfo, Mask
from advreg.layerwise.perturbation import NO_LIMITS, ForwardPass
from advreg.layerwise.registry import adversary_of, register_adversary, unwrap_model
from advreg.layerwise.site import Site, idle_defaults
from advreg.layerwise.sites import DEFAULTS, INPUT, default_sites, parts_of, resolve_sites
from advreg.randomness import Generators
from advreg.tensors import is_finite
from advreg.units import non_negative


class LayerwiseAdversary:
    """Layerwise adversarial training (Sankaranarayanan et al., AAAI 2018, arXiv 1705.07819).

    While attached, every forward pass in training mode adds epsilon * rho * S to the sites, S
    being the direction of the loss gradient that the previous mini-batch's backward pass left
    there, and every backward pass renews S. One forward and one backward pass a step; the loop
    around it stays as it is. `advreg.layerwise.reference` has the same in plain lines.

    A copy or a pickle of it is a detached adversary.

    Args:
        epsilon: The budget, one number for all sites or a mapping from site glob to number.
        settings: The other fields of `LayerwiseConfig`, by position or by name.

    Attributes:
        config: The settings.
        sites: While attached and after that, the sites.
        step: Mini-batches begun.
        probe: Where one is set, it sees every perturbation and gradient from the next forward
            pass on; no part of the state.

    Raises:
        ConfigurationError: A setting has a type or a value that cannot work.
    """

    def __init__(self, epsilon: Epsilon, *settings: Any, **named: Any) -> None:
        self._prepare(LayerwiseConfig(epsilon, *settings, **named))

    @classmethod
    def from_config(cls, config: LayerwiseConfig) -> LayerwiseAdversary:
        """An adversary with these settings."""
        adversary = cls.__new__(cls)
        adversary._prepare(config)
        return adversary

    def _prepare(self, config: LayerwiseConfig) -> None:
        self.config = config
        self.sites: list[Site] = []
        self.step = 0
        self.probe: SiteProbe | None = None
        self._counted = False  # whether the next gradients of compiled code are counted already
        self._attachment: Attachment | None = None
        self._compiled: CompiledForm | None = None
        self._loaded: dict[str, Any] | None = None  # a state that attaching will restore
        self._batch = BatchInfo()
        self._pauses = 0
        self._generators = Generators(config.seed)
        self._diagnostics = Diagnostics()
        self._scale = 1.0

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.config.arguments()})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_attachment": None, "_compiled": None}

    def attach(self, model: nn.Module) -> Attachment:
        """Attaches to a network, with fresh memories unless a state was loaded before.

        What `torch.compile` has compiled so far, in the whole process, is compiled again on its
        next call, since such code need not notice hooks; and so again on detaching.

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
        if adversary_of(network) is not None:
            raise AttachmentError(
                "This network has an adversary already; detach that one first, with"
                " advreg.detach(model) where it was lost."
            )
        config, self.sites = self.config, build_sites(network, self.config)
        if self._loaded is not None:
            self._add_parts(network, self._loaded["parts"])
        self.step, self._counted, self._batch = 0, False, BatchInfo()
        self._diagnostics, self._generators = Diagnostics(), Generators(config.seed)
        if self._loaded is not None:
            self._restore(self._loaded)
            self._loaded = None
        self._compiled = compiled = CompiledForm(
            network,
            self.sites,
            generators=self._generators,
            factor=self._next_factor,
            answered=self._count_compiled,
            is_paused=self._is_paused,
            input_name=config.input_name,
            in_graph=config.rms_interval == 1,
            is_masked=self._is_masked,
        )
        self._attachment = Attachment(
            network,
            self.sites,
            compiled,
            begin=self._begin,
            is_paused=self._is_paused,
            not_training=self._diagnostics.not_training,
            detach=self.detach,
            input_name=config.input_name,
            input_required=any(site.name == INPUT and not site.default for site in self.sites),
        )
        register_adversary(network, self)
        return self._attachment

    def detach(self) -> None:
        """Leaves the network as it was; without one it does nothing.

        What the memories hold can still be read by `statistics` and `state_dict`.
        """
        attachment, self._attachment = self._attachment, None
        if attachment is None:
            return
        register_adversary(attachment.network, None)
        try:
            self._diagnostics.finish(self.step, self.sites, self._in_compiled_code)
        finally:
            attachment.close()
            buffers.release()

    @property
    def scale(self) -> float:
        """What every epsilon is multiplied by, at least 0; for a schedule of one's own.

        Set it between a backward pass and the next forward pass. It is part of the state.
        """
        return self._scale

    @scale.setter
    def scale(self, value: float) -> None:
        self._scale = non_negative(value, "scale")
        if self._compiled is not None:
            self._compiled.rescale()

    @property
    def factor(self) -> float:
        """What every epsilon was multiplied by in the last mini-batch: scale, warm-up and split."""
        return self._factor(self.step)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within it the attached network is the untouched one, bit for bit; it nests."""
        self._pauses += 1
        try:
            yield
        finally:
            self._pauses -= 1

    def set_batch(
        self,
        indices: Any = None,
        view: View | LossyView | None = None,
        mask: Mask = None,
    ) -> None:
        """Says which examples the next forward pass in training mode has.

        Args:
            indices: (B,) integers, the index of each example in the training data; None where
                unknown, as slot memory need not know them.
            view: The crop and flip that made the inputs; None is the identity. One that cannot be
                undone is refused where it would have to be.
            mask: (B, ...), true or 1 where examples are perturbed, such as (B, L) with 0 at a
                sequence's padding. It counts at every site whose shape begins with its shape; a
                mapping has a mask for each site by its name, or a tuple of one for each of its
                calls. In compiled code the sites then run between the parts of the graph.

        Raises:
            StateError: The indices are not integers, or negative.
        """
        self._batch = BatchInfo(None if indices is None else as_indices(indices), view, mask)
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
        sites = build_sites(network, self.config)
        found = describe_sites(network, sites, example_input)
        idle = {each.name for each in found if not each.shapes}
        blocks = {site.name: site for site in sites if site.name in idle}
        parts = default_parts(network, list(blocks.values()))
        if not parts:
            return found
        sites += [blocks[block].part(name) for name, block in parts.items()]
        found = describe_sites(network, sites, example_input)
        # A part that runs stands for its block, and the other way round.
        ran = {each.name for each in found if each.shapes}
        left_out = {parts[name] if name in ran else name for name in parts}
        return [each for each in found if each.name not in left_out]

    def statistics(self) -> dict[str, dict[str, float]]:
        """What each site has seen: for people, made when asked for.

        Returns:
            By site: `epsilon` (in effect), `rho` (NaN where absolute), `zeros` (share of exact
            zeros in the memory), `nonfinite` (gradient values so far), `runs`, `records` and
            `resets`. Of a site called several times, rho and zeros are those of its first call.
            Default sites are left out that no gradient has reached while it reached others.
        """
        factor = self.factor
        idle = {site.name for site in idle_defaults(self.sites)}
        sites = [site for site in self.sites if site.alias is None and site.name not in idle]
        return {site.name: site.statistics(factor) for site in sites}

    def state_dict(self) -> dict[str, Any]:
        """The memories and all else that training must restore to go on bit for bit.

        Returns:
            Tensors, numbers and names alone, so that `torch.load(weights_only=True)` reads it. As
            a module's, it may share memory with the live one: copy it to keep it over a step.
        """
        if self._loaded is not None:
            return self._loaded
        return {
            "kind": self.config.kind,
            "step": self.step,
            "scale": self.scale,
            "generators": self._generators.state_dict(),
            "parts": {site.name: site.part_of for site in self.sites if site.part_of},
            "sites": {site.name: site.state_dict() for site in self.sites},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` returned; before attaching, it takes effect on attaching.

        Raises:
            StateError: The state is of another kind of adversary or of other sites.
        """
        if state.get("kind") != self.config.kind:
            raise StateError(
                f"The state is of an adversary with {state.get('kind')}, this one has"
                f" {self.config.kind}; use the settings that the state was made with."
            )
        step = state["step"]
        if not isinstance(step, int) or step < 0:
            raise StateError(f"The state's step is {step!r}; load one that state_dict() returned.")
        if self._attachment is None:
            self._loaded = dict(state)
        else:
            self._restore(state)

    def _restore(self, state: Mapping[str, Any]) -> None:
        if self._attachment is not None:
            self._add_parts(self._attachment.network, state["parts"])
        sites = [site for site in self.sites if not site.part_of or site.name in state["parts"]]
        theirs, mine = set(state["sites"]), {site.name for site in sites}
        if theirs and theirs != mine:
            raise StateError(
                f"The state has sites {sorted(theirs)}, the adversary {sorted(mine)};"
                " attach with the sites that the state was made with."
            )
        for name, one in state["sites"].items():
            if not is_finite(one):
                raise StateError(
                    f"The state's memory at site {name!r} holds infinity or NaN; load one from"
                    " before it was damaged."
                )
        for site in self.sites:
            if site.name in theirs:
                site.load_state_dict(state["sites"][site.name])
            elif site.part_of:
                site.calls, site.runs, site.records = [], 0, 0
        self.step = state["step"]
        self.scale = state.get("scale", 1.0)  # which older states do not have
        self._generators.load_state_dict(state["generators"])

    def _begin(self, traced: bool) -> ForwardPass:
        """Begins a forward pass; `traced`: of what compiled code has left to eager code."""
        config, batch = self.config, self._batch
        needs_indices = MEMORIES[config.memory].needs_indices and config.direction != "random"
        if needs_indices and batch.indices is None:
            raise StateError(
                "Example memory must know which examples the mini-batch has;"
                " call adversary.set_batch(indices, view) before each forward pass, or, under a"
                " framework's integration, wrap the data set by advreg.data.with_indices."
            )
        self._look(traced)
        self._batch = BatchInfo()
        self.step, self._counted = self.step + 1, traced
        factor = self.factor
        if self.probe is not None:
            self.probe.begin()
        return ForwardPass(factor, config.rms_interval, batch, self._generators, self.probe)

    def _look(self, compiled: bool) -> None:
        """Sees, after the first pass and now and then, which sites work, and warns of others."""
        seen = self.step > self._diagnostics.next_step
        if self.step == 1 or seen:
            idle = {site.name for site in idle_defaults(self.sites)}
            for site in self.sites:
                site.idle = site.name in idle
            if self._attachment is not None and not compiled and self.step == 1:
                network = self._attachment.network
                self._add_parts(network, default_parts(network, self.sites))
        if seen:
            self._diagnostics.check(self.step, self.sites, self._in_compiled_code)

    def _add_parts(self, network: nn.Module, parts: Mapping[str, Any]) -> None:
        """Makes parts of blocks sites, as far as the network has them and they are none yet."""
        sites, modules = {site.name: site for site in self.sites}, dict(network.named_modules())
        for name, block in parts.items():
            if name in modules and name not in sites and block in sites:
                site = sites[block].part(name)
                self.sites.append(site)
                if self._attachment is not None:
                    self._attachment.add(site)

    def _factor(self, step: int) -> float:
        """What every epsilon is multiplied by in a mini-batch, from 1: scale, warm-up, split."""
        warmup, split = self.config.warmup, self.config.budget_split
        factor = self.scale * (min(1.0, step / warmup) if warmup else 1.0)
        if split is None:
            return factor
        ran = sum(site.runs > 0 and not site.idle for site in self.sites) or len(self.sites)
        return factor * BUDGET_SPLITS[split](ran)

    def _is_paused(self) -> bool:
        return self._pauses > 0

    def _is_masked(self) -> bool:
        return self._batch.mask is not None

    def _next_factor(self) -> float:
        return self._factor(self.step + (not self._counted))

    def _count_compiled(self) -> None:
        """A compiled network's mini-batch is counted when its gradients come."""
        self._look(True)
        self.step, self._counted = self.step + (not self._counted), False
        if self._compiled is not None:
            self._compiled.inside = False  # an interrupt may have skipped the end of the pass

    def _in_compiled_code(self, site: Site) -> bool:
        return self._compiled is not None and self._compiled.reached(site)


# Said once, in the configuration; tools and readers see all settings here too.
LayerwiseAdversary.__signature__ = inspect.signature(LayerwiseConfig)  # type: ignore[attr-defined]


def build_sites(network: nn.Module, config: LayerwiseConfig) -> list[Site]:
    """The sites that a configuration names, with empty memories.

    Raises:
        SiteError: A site or a budget's glob matches nothing.
        ConfigurationError: A combination of settings cannot work.
    """
    names = resolve_sites(network, config.patterns)
    chosen = [pattern for pattern in config.patterns or () if pattern not in DEFAULTS]
    named = resolve_sites(network, chosen) if chosen else []
    if isinstance(config.epsilon, Mapping):
        resolve_sites(network, config.epsilon)  # a budget for a site that is not there
    declared = config.input_range or getattr(network, "input_range", None) or NO_LIMITS
    sites = [_site(name, config, declared if name == INPUT else NO_LIMITS) for name in names]
    for site in sites:
        site.default = site.name not in named
    return sites


def default_parts(network: nn.Module, sites: list[Site]) -> dict[str, str]:
    """What takes the place of default sites that never ran, see `parts_of`; of none if any works.

    Some networks call `block.forward(x)`, which no hook notices, and not `block(x)`.
    """
    blocks = set(default_sites(network)[1:])
    hidden = [site for site in sites if site.default and site.name in blocks and not site.alias]
    if any(int(site.records) for site in hidden):
        return {}
    return parts_of(network, [site.name for site in hidden if not site.runs])


def _site(name: str, config: LayerwiseConfig, limits: tuple[float, float]) -> Site:
    epsilon, relative = epsilon_of(name, config.epsilon), config.relative_at(name)
    if name == INPUT and not relative and limits != NO_LIMITS:
        check_budget(epsilon, limits)
    site = Site(name, epsilon, relative, limits, config.memory, config.rule(epsilon))
    site.new_memory()  # a combination that cannot work is refused on attaching
    return site
