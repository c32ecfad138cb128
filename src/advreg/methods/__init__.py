"""Ways of training, each a dataclass of its settings behind one shape."""

from collections.abc import Mapping
from importlib import import_module
from inspect import Parameter, signature
from operator import attrgetter
from typing import Any, TypeVar

from advreg.errors import ConfigurationError
from advreg.methods.adversarial import AdversarialTraining
from advreg.methods.atta import ATTA
from advreg.methods.awp import AWP
from advreg.methods.base import (
    AttachedMethod,
    Backward,
    Criterion,
    Method,
    training_pass,
)
from advreg.methods.composed import Composed
from advreg.methods.cutmix import CutMix
from advreg.methods.datagrad import DataGrad
from advreg.methods.dropout import Dropout
from advreg.methods.fgsm import FGSM
from advreg.methods.fgsm_pgi import FGSMPGI
from advreg.methods.free import Free
from advreg.methods.gat import GAT
from advreg.methods.gradalign import GradAlign
from advreg.methods.input_gradient import InputGradient
from advreg.methods.label_smoothing import LabelSmoothing
from advreg.methods.layerwise import Layerwise
from advreg.methods.lots import LOTS
from advreg.methods.mart import MART
from advreg.methods.mixup import Mixup
from advreg.methods.n_fgsm import NFGSM
from advreg.methods.nuat import NuAT
from advreg.methods.output import StepOutput
from advreg.methods.pgd import PGD
from advreg.methods.previous_fgsm import PreviousFGSM
from advreg.methods.rs_fgsm import RSFGSM
from advreg.methods.sam import SAM
from advreg.methods.slat import SLAT
from advreg.methods.standard import Standard
from advreg.methods.tdat import TDAT
from advreg.methods.trades import TRADES
from advreg.methods.vat import VAT

M = TypeVar("M", bound=Method)

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
        FGSMPGI,
        TDAT,
        GAT,
        NuAT,
        GradAlign,
        MART,
        SLAT,
        DataGrad,
        InputGradient,
        LOTS,
        SAM,
        AWP,
        Mixup,
        CutMix,
        LabelSmoothing,
        Layerwise,
    )
}

__all__ = [
    "ATTA",
    "AWP",
    "FGSM",
    "FGSMPGI",
    "GAT",
    "LOTS",
    "MART",
    "METHODS",
    "NFGSM",
    "PGD",
    "RSFGSM",
    "SAM",
    "SLAT",
    "TDAT",
    "TRADES",
    "VAT",
    "AdversarialTraining",
    "AttachedMethod",
    "Backward",
    "Composed",
    "Criterion",
    "CutMix",
    "DataGrad",
    "Dropout",
    "Free",
    "GradAlign",
    "InputGradient",
    "LabelSmoothing",
    "Layerwise",
    "Method",
    "Mixup",
    "NuAT",
    "PreviousFGSM",
    "Standard",
    "StepOutput",
    "build_method",
    "method_class",
    "register_method",
    "settings_of",
    "training_pass",
]


def register_method(method: type[M]) -> type[M]:
    """Adds a method of one's own to `METHODS`, under its `name`; also as a decorator.

    A method in full, which `build_method` finds as "noise", and unregistered as "its.module:Noise":

        @register_method
        @dataclass
        class Noise(Method):
            name = "noise"
            deviation: float = 0.1

            def step(self, model, batch, criterion, backward):
                noise = self.deviation * torch.randn_like(batch.inputs)
                noisy = batch.with_inputs(batch.inputs + noise)
                return training_pass(model, noisy, criterion, backward)

    Raises:
        ConfigurationError: It is not a `Method` with a name that a command line can give, or the
            name is another method's.
    """
    if not (isinstance(method, type) and issubclass(method, Method)):
        raise ConfigurationError(f"{method!r} is not a subclass of advreg.methods.Method.")
    name = getattr(method, "name", None)
    if not isinstance(name, str) or not name.replace("-", "_").isidentifier():
        raise ConfigurationError(
            f"{method.__name__}.name is {name!r}; give letters, digits and underscores."
        )
    holder = METHODS.get(name, method)
    if (holder.__module__, holder.__qualname__) != (method.__module__, method.__qualname__):
        raise ConfigurationError(
            f"A method is called {name!r} already, {holder.__name__}; choose another name."
        )
    METHODS[name] = method
    return method


def method_class(name: str) -> type[Method]:
    """The class of a method.

    Args:
        name: A key of `METHODS`, or "package.module:Class" of one's own, which is imported.

    Raises:
        ConfigurationError: There is no such method.
    """
    if ":" not in name:
        if name not in METHODS:
            raise ConfigurationError(
                f"No method is called {name!r}; choose from {', '.join(METHODS)}, or give"
                " package.module:Class of one of your own."
            )
        return METHODS[name]
    module, _, attribute = name.partition(":")
    try:
        found = attrgetter(attribute)(import_module(module))
    except Exception as error:  # the user's module runs
        raise ConfigurationError(
            f"Method {name!r} cannot be imported ({type(error).__name__}: {error}); give"
            " package.module:Class with the package on Python's path."
        ) from error
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise ConfigurationError(f"{name!r} is not a subclass of advreg.methods.Method.")
    return found


def settings_of(method: type[Method] | Method) -> dict[str, Parameter]:
    """The settings of a method, by name: what its `__init__` takes."""
    kind = method if isinstance(method, type) else type(method)
    _, *parameters = signature(kind.__init__).parameters.values()
    named = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    return {parameter.name: parameter for parameter in parameters if parameter.kind in named}


def build_method(name: str, **settings: object) -> Method:
    """A method by its name on the command line, or two composed: "layerwise+mixup", "pgd+awp".

    Args:
        name: A key of `METHODS`, two of them joined by a plus, or "package.module:Class".
        settings: Of the method; of a composed one a mapping for each part, by its name.

    Raises:
        ConfigurationError: There is no such method, or it has no such setting.
    """
    if "+" in name:
        return _compose(name, settings)
    method = method_class(name)
    known = settings_of(method)
    for setting in settings:
        if setting not in known:
            raise ConfigurationError(
                f"Method {name!r} has no setting {setting!r};"
                f" choose from {', '.join(known) or 'none'}."
            )
    missing = [key for key, one in known.items() if one.default is one.empty]
    missing = [key for key in missing if key not in settings]
    if missing:
        raise ConfigurationError(f"Method {name!r} needs its setting {', '.join(missing)}.")
    try:
        return method(**settings)
    except TypeError as error:  # a comparison with text, say
        raise ConfigurationError(
            f"A setting of method {name!r} has the wrong type: {error}."
        ) from error


def _compose(name: str, settings: Mapping[str, Any]) -> Composed:
    parts = name.split("+")
    for part in settings:
        if part not in parts or not isinstance(settings[part], Mapping):
            raise ConfigurationError(
                f"Method {name!r} takes a mapping of settings for each of {' and '.join(parts)},"
                f" not {part}={settings[part]!r}."
            )
    return Composed([build_method(part, **settings.get(part, {})) for part in parts])
