"""Ways of training, each a dataclass of its settings behind one shape."""

from dataclasses import fields

from advreg.errors import ConfigurationError
from advreg.methods.base import Backward, Criterion, Method
from advreg.methods.dropout import Dropout
from advreg.methods.fgsm import FGSM
from advreg.methods.layerwise import Layerwise
from advreg.methods.standard import Standard

METHODS: dict[str, type[Method]] = {
    method.name: method for method in (Standard, Dropout, FGSM, Layerwise)
}

__all__ = [
    "FGSM",
    "METHODS",
    "Backward",
    "Criterion",
    "Dropout",
    "Layerwise",
    "Method",
    "Standard",
    "build_method",
]


def build_method(name: str, **settings: object) -> Method:
    """A method by its name on the command line.

    Raises:
        ConfigurationError: There is no such method, or it has no such setting.
    """
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
