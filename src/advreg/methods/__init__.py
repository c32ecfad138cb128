"""Ways of training, each a dataclass of its settings behind one shape."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from advreg.errors import ConfigurationError
from advreg.methods.atta import ATTA
from advreg.methods.base import Backward, Criterion, Method
from advreg.methods.composed import Composed
from advreg.methods.datagrad import DataGrad
from advreg.methods.dropout import Dropout
from advreg.methods.fgsm import FGSM
from advreg.methods.free import Free
from advreg.methods.input_gradient import InputGradient
from advreg.methods.label_smoothing import LabelSmoothing
from advreg.methods.layerwise import Layerwise
from advreg.methods.lots import LOTS
from advreg.methods.mixup import Mixup
from advreg.methods.n_fgsm import NFGSM
from advreg.methods.pgd import PGD
from advreg.methods.previous_fgsm import PreviousFGSM
from advreg.methods.rs_fgsm import RSFGSM
from advreg.methods.sam import SAM
from advreg.methods.slat import SLAT
from advreg.methods.standard import Standard
from advreg.methods.trades import TRADES
from advreg.methods.vat import VAT

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        Standard,
        Dropout,
        FGSM,
        RSFGSM,
        NFGSM,
        PGD,
        Free,
        TRADES,
        VAT,
        PreviousFGSM,
        ATTA,
        SLAT,
        DataGrad,
        InputGradient,
        LOTS,
        SAM,
        Mixup,
        LabelSmoothing,
        Layerwise,
    )
}

__all__ = [
    "ATTA",
    "FGSM",
    "LOTS",
    "METHODS",
    "NFGSM",
    "PGD",
    "RSFGSM",
    "SAM",
    "SLAT",
    "TRADES",
    "VAT",
    "Backward",
    "Composed",
    "Criterion",
    "DataGrad",
    "Dropout",
    "Free",
    "InputGradient",
    "LabelSmoothing",
    "Layerwise",
    "Method",
    "Mixup",
    "PreviousFGSM",
    "Standard",
    "build_method",
]


def build_method(name: str, **settings: object) -> Method:
    """A method by its name on the command line, or two composed: "layerwise+mixup".

    Args:
        name: A key of `METHODS`, or two joined by a plus.
        settings: Of the method; of a composed one a mapping for each part, by its name.

    Raises:
        ConfigurationError: There is no such method, or it has no such setting.
    """
    if "+" in name:
        return _compose(name, settings)
    if name not in METHODS:
        raise ConfigurationError(f"No method is called {name!r}; choose from {', '.join(METHODS)}.")
    known = [field.name for field in fields(METHODS[name]) if field.init]
    for setting in settings:
        if setting not in known:
            raise ConfigurationError(
                f"Method {name!r} has no setting {setting!r};"
                f" choose from {', '.join(known) or 'none'}."
            )
    return METHODS[name](**settings)


def _compose(name: str, settings: Mapping[str, Any]) -> Composed:
    parts = name.split("+")
    for part in settings:
        if part not in parts or not isinstance(settings[part], Mapping):
            raise ConfigurationError(
                f"Method {name!r} takes a mapping of settings for each of {' and '.join(parts)},"
                f" not {part}={settings[part]!r}."
            )
    return Composed([build_method(part, **settings.get(part, {})) for part in parts])
