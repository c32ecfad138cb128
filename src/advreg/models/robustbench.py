"""Published networks: state dicts in the layouts of Fast AT, RobustBench and torchvision.

| layout | keys | read as |
| --- | --- | --- |
| PreActResNet-18 (Fast AT, Rice 2020, ...) | `conv1`, `layer1.0.bn1`, no `bn1`, `linear` | `PreActResNet` |
| ResNet-18, -34, -50 for CIFAR | `conv1` (3x3), `bn1`, `layer1.0`, `linear` | `ResidualNetwork` |
| ResNet-18, -34, -50 of torchvision | `conv1` (7x7), `bn1`, `layer1.0`, `fc` | `ImageNetResNet` |
| WideResNet (TRADES and after) | `conv1`, `block1.layer.0`, `bn1`, `fc` | `WideResNet` |

The normalisation is read from the buffers `mu` and `sigma` (or `mean` and `std`, or
`normalize.mean` and `normalize.std`). Many files hold none, for their authors normalised in the
evaluation's code, or did not normalise: then the caller says which.
"""  # noqa: E501

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from advreg.errors import StateError
from advreg.models.layers import Classifier, Constants
from advreg.models.preact import PreActResNet
from advreg.models.residual import COUNTS, ImageNetResNet, ResidualNetwork
from advreg.models.wideresnet import WideResNet

FAST_AT_MEAN = (0.4914, 0.4822, 0.4465)
"""CIFAR-10's channel means as Fast AT and RobustBench's `Wong2020Fast` write them."""

FAST_AT_STD = (0.2471, 0.2435, 0.2616)
"""CIFAR-10's channel standard deviations likewise."""

COMMON = {
    r"(?:mu|(?:normalize\.)?mean)": "normalize.mean",
    r"(?:sigma|(?:normalize\.)?std)": "normalize.std",
    r"(?:linear|fc)\.(weight|bias)": r"linear.\1",
}
BLOCKS = {
    r"(layer\d\.\d+)\.bn(\d)\.(\w+)": r"\1.norm\2.\3",
    r"(layer\d\.\d+\.conv\d)\.weight": r"\1.weight",
}
RULES: dict[type[Classifier], dict[str, str]] = {
    PreActResNet: {
        **COMMON,
        **BLOCKS,
        r"conv1\.weight": "stem.weight",
        r"(layer\d\.\d+)\.shortcut\.0\.weight": r"\1.shortcut.weight",
        r"bn\.(\w+)": r"norm.\1",
    },
    ResidualNetwork: {
        **COMMON,
        **BLOCKS,
        r"conv1\.weight": "stem.conv.weight",
        r"bn1\.(\w+)": r"stem.norm.\1",
        r"(layer\d\.\d+)\.(?:shortcut|downsample)\.(\d\.\w+)": r"\1.shortcut.\2",
    },
    WideResNet: {
        **COMMON,
        r"conv1\.weight": "stem.weight",
        r"block(\d)\.layer\.(\d+)\.bn(\d)\.(\w+)": r"layer\1.\2.norm\3.\4",
        r"block(\d)\.layer\.(\d+)\.conv(\d)\.weight": r"layer\1.\2.conv\3.weight",
        r"block(\d)\.layer\.(\d+)\.convShortcut\.weight": r"layer\1.\2.shortcut.weight",
        r"bn1\.(\w+)": r"norm.\1",
        r"sub_block1\..*": "",  # saved by many, run by none
    },
}
"""From a published key to ours, by regular expression; what becomes empty is left out."""


def load_robustbench(
    source: Mapping[str, Any] | str | os.PathLike[str],
    *,
    entry: str | None = None,
    mean: Constants = None,
    std: Constants = None,
    activated_shortcut: bool = False,
) -> Classifier:
    """Builds the network of a published state dict and loads it, the normalisation inside.

    Depth, width, channels and classes are the weights'. Prefixes `module.` and `model.` are
    removed, and an enclosing `state_dict` is opened.

    Args:
        source: A state dict, or the path of a file that `torch.load` reads with
            `weights_only=True`.
        entry: Which of several networks in a file, such as `last` of `last` and `best`.
        mean: Channel means in [0, 1], where the state holds none; `FAST_AT_MEAN` is Fast AT's,
            0 that of a network which takes pixels as they are.
        std: Channel standard deviations likewise; `FAST_AT_STD`, or 1.
        activated_shortcut: Of a PreActResNet, which the keys do not show: False is Fast AT's
            form (RobustBench's `PreActBlock`), True that of `PreActBlockV2` and
            `out_shortcut=True` (Rice 2020, Kireev 2021).

    Returns:
        The network from (B, C, H, W) in [0, 1] to (B, K) logits, in evaluation mode on the CPU.

    Raises:
        StateError: The file cannot be read, or keys or shapes are none of the layouts'.
    """
    state = _state_dict(_read(source), entry)
    form = _form(state)
    renamed = _renamed(state, RULES[ResidualNetwork if form is ImageNetResNet else form])
    for name, given in (("mean", mean), ("std", std)):
        if given is None and f"normalize.{name}" not in renamed:
            raise StateError(
                "The state holds no normalisation; give mean and std: FAST_AT_MEAN and FAST_AT_STD"
                " for a network trained as Fast AT's, 0 and 1 for one that takes pixels as they"
                " are."
            )
    model = _build(form, renamed, mean, std, activated_shortcut)
    return _filled(model, renamed).eval()


def _read(source: Mapping[str, Any] | str | os.PathLike[str]) -> Mapping[str, Any]:
    if isinstance(source, Mapping):
        return source
    try:
        contents = torch.load(source, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise StateError(f"{source} does not exist; name the file of a state dict.") from None
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:200]
        raise StateError(
            f"{source} cannot be read as weights alone ({reason}); save its state_dict() by"
            " torch.save."
        ) from error
    if not isinstance(contents, Mapping):
        raise StateError(f"{source} holds a {type(contents).__name__}; save its state_dict().")
    return contents


def _state_dict(contents: Mapping[str, Any], entry: str | None) -> dict[str, Tensor]:
    if entry is not None:
        if not isinstance(contents.get(entry), Mapping):
            raise StateError(f"There is no entry {entry!r}; choose one of {_listed(contents)}.")
        return _state_dict(contents[entry], None)
    if isinstance(contents.get("state_dict"), Mapping):
        contents = contents["state_dict"]
    state = {
        re.sub(r"^(module\.|model\.)+", "", key): value
        for key, value in contents.items()
        if isinstance(value, Tensor)
    }
    if not state:
        raise StateError(
            f"There are no weights at the top of the state; give entry, one of {_listed(contents)}."
        )
    return state


def _form(state: Mapping[str, Tensor]) -> type[Classifier]:
    if "block1.layer.0.conv1.weight" in state:
        return WideResNet
    if "conv1.weight" in state and "layer1.0.conv1.weight" in state:
        if "bn1.weight" not in state:
            return PreActResNet
        return ImageNetResNet if state["conv1.weight"].shape[-1] == 7 else ResidualNetwork
    raise StateError(
        f"Keys such as {_listed(state)} are of no layout that is known; give the weights of a"
        " PreActResNet-18, a ResNet-18, -34 or -50, or a WideResNet."
    )


def _renamed(state: Mapping[str, Tensor], rules: Mapping[str, str]) -> dict[str, Tensor]:
    """Our keys; a key that no rule knows keeps its name, and is refused later."""
    renamed = {}
    for key, value in state.items():
        match = next((found for rule in rules if (found := re.fullmatch(rule, key))), None)
        name = key if match is None else match.expand(rules[match.re.pattern])
        if name:
            renamed[name] = value
    return renamed


def _build(
    form: type[Classifier],
    state: Mapping[str, Tensor],
    mean: Constants,
    std: Constants,
    activated_shortcut: bool,
) -> Classifier:
    stem = state["stem.conv.weight" if issubclass(form, ResidualNetwork) else "stem.weight"]
    if "linear.weight" not in state:
        raise StateError("The state has no linear.weight or fc.weight; give a whole network.")
    classes, channels = len(state["linear.weight"]), stem.shape[1]
    blocks = [key.split(".")[:2] for key in state if re.fullmatch(r"layer\d\..*", key)]
    counts = tuple(
        len({block for layer, block in blocks if layer == f"layer{stage}"})
        for stage in range(1, 4 if form is WideResNet else 5)
    )
    if form is WideResNet:
        width = len(state["layer1.0.conv1.weight"]) // 16
        return WideResNet(6 * counts[0] + 4, width, classes, channels, mean, std)
    factor = len(stem) / 64
    if form is PreActResNet:
        return PreActResNet(
            classes, channels, mean, std, final_norm="norm.weight" in state,
            activated_shortcut=activated_shortcut, width_factor=factor,
        )  # fmt: skip
    depths = (50,) if "layer1.0.conv3.weight" in state else (18, 34)
    depth = next((depth for depth in depths if COUNTS[depth] == counts), None)
    if depth is None:
        raise StateError(
            f"The network has {counts} blocks in its stages; give a ResNet-18, -34 or -50."
        )
    assert issubclass(form, ResidualNetwork)
    return form(depth, classes, channels, mean, std, width_factor=factor)


def _filled(model: Classifier, state: Mapping[str, Tensor]) -> Classifier:
    own = model.state_dict()
    # Counters of batches, which old files lack, play no part at a fixed momentum.
    given = {"normalize.mean", "normalize.std", *(key for key in own if key.endswith("_tracked"))}
    missing = [key for key in own if key not in state and key not in given]
    unknown = [key for key in state if key not in own]
    if missing or unknown:
        raise StateError(
            f"The state does not fit {type(model).__name__}: missing {_listed(missing)}, unknown"
            f" {_listed(unknown)}; give the whole state dict of one of the known layouts."
        )
    for key, value in state.items():
        if value.numel() != own[key].numel():
            raise StateError(
                f"{key} has shape {tuple(value.shape)} and {type(model).__name__} needs"
                f" {tuple(own[key].shape)}; give the weights of an unchanged network."
            )
    shaped = {key: value.reshape(own[key].shape) for key, value in state.items()}
    model.load_state_dict({**own, **shaped})
    return model


def _listed(names: Any, most: int = 6) -> str:
    shown = [str(name) for name in names]
    if len(shown) > most:
        return f"{', '.join(shown[:most])} and {len(shown) - most} more"
    return ", ".join(shown) or "none"
