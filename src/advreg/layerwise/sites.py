"""Sites by name: globs over dotted module names, rules, and a default for any network."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from torch import Tensor, nn

from advreg.errors import SiteError

INPUT = "input"

SiteRule = Callable[[nn.Module], list[str]]
"""Chooses the names of a network's sites."""

SITE_RULES: dict[str, SiteRule] = {}
"""The rules by name; `@name` among the sites of an adversary is what the rule chooses."""

DEFAULTS: set[str] = set()
"""What stands for the rules of which sites that do nothing are left out, not warned of."""


def register_site_rule(name: str, default: bool = False) -> Callable[[SiteRule], SiteRule]:
    """A decorator that makes a rule known by a name.

    Args:
        name: Its name, without the "@".
        default: Whether its sites are guesses, so that those that do nothing are left out once a
            first pass shows it, where sites that somebody named are warned of.
    """

    def register(rule: SiteRule) -> SiteRule:
        SITE_RULES[name] = rule
        if default:
            DEFAULTS.add(f"@{name}")
        return rule

    return register


class Tap(nn.Module):
    """Returns its input unchanged, so that a functional value has a name to be a site by.

    Example:
        `self.tap = advreg.Tap()` in the constructor and `x = self.tap(F.relu(x))` in `forward`
        make `tap` a site; call one `Tap` a place, or one several times for a memory a call.
    """

    def forward(self, activation: Tensor) -> Tensor:
        """Returns `activation`, any shape, itself."""
        return activation


def matches(pattern: str, name: str) -> bool:
    """Whether a dotted name fits a glob.

    `*` stands for any text within one component, `**` for any number of components, none
    included: `layer*` is `layer1` but not `layer1.0`; `layer1.**` is `layer1` and all within.
    """
    return _fits(pattern.split("."), name.split("."))


def _fits(pattern: list[str], name: list[str]) -> bool:
    if not pattern:
        return not name
    if pattern[0] == "**":
        return _fits(pattern[1:], name) or (bool(name) and _fits(pattern, name[1:]))
    if not name:
        return False
    component = ".*".join(re.escape(part) for part in pattern[0].split("*"))
    return re.fullmatch(component, name[0]) is not None and _fits(pattern[1:], name[1:])


def resolve_sites(model: nn.Module, patterns: Iterable[str] | str | None) -> list[str]:
    """The names of the sites that patterns choose, `input` first, then in the model's order.

    Args:
        model: The network.
        patterns: Globs over `model.named_modules()` and `"input"`, and rules such as
            `"@default"`; None is `default_sites`.

    Raises:
        SiteError: A pattern matches nothing, or there are no patterns.
    """
    if patterns is None:
        return default_sites(model)
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    patterns = [name for pattern in patterns for name in _by_rule(model, pattern)]
    # A module may have several names, each of which finds it; the first that is chosen counts.
    # "input" is the network's own, even where a module is called so.
    modules = dict(model.named_modules(remove_duplicate=False)) | {"": None, INPUT: None}
    names = [INPUT, *(name for name in modules if name not in ("", INPUT))]
    # A thousand plain names are looked up, not compared with a thousand names each.
    globs = [pattern for pattern in patterns if "*" in pattern]
    plain = set(patterns).difference(globs)
    for pattern in patterns:
        found = pattern in modules if pattern in plain else any(matches(pattern, n) for n in names)
        if not found or not pattern:
            raise SiteError(f"No site is called {pattern!r}; choose from: {_listed(names)}.")
    chosen = [
        name for name in names if name in plain or any(matches(pattern, name) for pattern in globs)
    ]
    if not chosen:
        raise SiteError(f"No sites are named; choose from: {_listed(names)}.")
    return list({id(modules[name]): name for name in reversed(chosen)}.values())[::-1]


def _by_rule(model: nn.Module, pattern: str) -> list[str]:
    """What a rule chooses; a glob itself."""
    if not pattern.startswith("@"):
        return [pattern]
    if pattern[1:] not in SITE_RULES:
        known = ", ".join(f"@{name}" for name in SITE_RULES)
        raise SiteError(f"There is no site rule {pattern!r}; choose from: {known}.")
    return SITE_RULES[pattern[1:]](model)


@register_site_rule("default", default=True)
def default_sites(model: nn.Module) -> list[str]:
    """The input, the outputs of top-level stages, and the outputs of blocks.

    A stage is a child of the network that has children itself; a block is such a module inside
    an `nn.Sequential` or `nn.ModuleList`, blocks within blocks not counted. Where a network has
    no blocks, the outputs of its activation modules stand in for them. Whatever contains the
    last layer with parameters (the head) is none of these, since its output is the logits; a block
    among others of its class is no head.
    """
    head = _head(model)
    stages = {
        name
        for name, child in model.named_children()
        if _is_composite(child) and not head.startswith(f"{name}.")
    }
    blocks: set[str] = set()
    modules = dict(model.named_modules())
    for name, module in modules.items():
        parent = modules[name.rpartition(".")[0]]
        within = not blocks.isdisjoint(_above(name))
        listed = isinstance(parent, (nn.Sequential, nn.ModuleList))
        holds_head = f"{head}.".startswith(f"{name}.") and not _has_twin(parent, module)
        if name and listed and not within and not holds_head and _is_composite(module):
            blocks.add(name)
    if not blocks - stages:
        blocks |= {name for name, module in model.named_modules() if _is_activation(module)}
    chosen = stages | blocks
    return [INPUT, *(name for name in modules if name in chosen)]


@register_site_rule("hidden", default=True)
def hidden_default_sites(model: nn.Module) -> list[str]:
    """The default sites without the input."""
    return default_sites(model)[1:]


def parts_of(model: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """For blocks whose own call is passed over, as `block.forward(x)` does, the last child of each.

    Returns:
        By the name of the child that of its block, in the order given.
    """
    parts = {}
    for name in names:
        children = [child for child, _ in model.get_submodule(name).named_children()]
        if children:
            parts[f"{name}.{children[-1]}"] = name
    return parts


def _above(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _head(model: nn.Module) -> str:
    names = [name for name, _ in model.named_parameters()]
    return names[-1].rpartition(".")[0] if names else ""


def _has_twin(parent: nn.Module, module: nn.Module) -> bool:
    """Whether a list holds other modules of a module's class, which says what they are."""
    kinds = [type(child) for child in parent.children()]
    return type(module) is not nn.Sequential and kinds.count(type(module)) > 1


def _is_composite(module: nn.Module) -> bool:
    return any(True for _ in module.children()) and not isinstance(module, nn.ModuleList)


def _is_activation(module: nn.Module) -> bool:
    softmax = (nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.Softmax2d, nn.MultiheadAttention)
    known = type(module).__module__ == nn.ReLU.__module__
    return known and not isinstance(module, softmax)


def _listed(names: list[str], most: int = 40) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
