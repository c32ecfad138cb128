"""A network from code of the user's own."""

from __future__ import annotations

from importlib import import_module

from torch import nn

from advreg.errors import ConfigurationError


def own_model(name: str) -> nn.Module:
    """A network of the user's own.

    Args:
        name: `module:function`, the module on Python's path; the function takes nothing.

    Raises:
        ConfigurationError: There is no such module or function, or it returns no network.
    """
    module, _, function = name.partition(":")
    mend = "give module:function, a function without arguments that returns the network"
    try:
        model = getattr(import_module(module), function)()
    except Exception as error:  # the user's code runs
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigurationError(f"model {name!r} cannot be built ({reason}); {mend}.") from error
    if not isinstance(model, nn.Module):
        raise ConfigurationError(f"model {name!r} is a {type(model).__name__}; {mend}.")
    return model
