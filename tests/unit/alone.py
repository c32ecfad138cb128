"""Run by itself: advreg where nothing but torch, numpy and what they bring is installed.

python alone.py step      # a step of every method, and an attack
python alone.py sites …   # the command line, with these arguments
"""

import sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder

BROUGHT = {
    "torch", "torchgen", "numpy", "filelock", "typing_extensions", "sympy", "mpmath", "networkx",
    "jinja2", "markupsafe", "fsspec", "triton", "setuptools", "pkg_resources", "nvidia",
}  # fmt: skip
"""Packages that `pip install torch numpy` leaves."""


class Alone:
    """Finds no package but those."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        root = name.partition(".")[0]
        known = root in BROUGHT | sys.stdlib_module_names | {"advreg", "settings"}
        known = known or root.startswith("_sysconfigdata")
        return PathFinder.find_spec(name, path, target) if known else None


sys.meta_path[:] = [BuiltinImporter, FrozenImporter, Alone]


def step():
    import torch
    from settings import SETTINGS, tiny, train

    import advreg.data
    import advreg.evaluation
    import advreg.losses
    import advreg.models
    from advreg.attacks import Linf, pgd
    from advreg.methods import METHODS

    stepped = set()
    for setting in SETTINGS.values():
        model, method = tiny(), setting.method()
        with method.attach(model, steps_per_epoch=2):
            assert train(model, method, setting.batches(2)).isfinite().all()
        stepped.add(type(method).name)
    assert stepped >= set(METHODS), set(METHODS) - stepped
    model, batch = tiny().eval(), next(SETTINGS["pgd"].batches(1))
    attacked = pgd(model, batch.inputs, batch.targets, Linf(0.1), steps=2)
    assert (attacked - batch.inputs).abs().max() > 0.09
    network = advreg.models.build_model("resnet20", num_classes=10)
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 10)


if __name__ == "__main__":
    if sys.argv[1:] == ["step"]:
        step()
    else:
        from advreg.cli import main

        sys.exit(main(sys.argv[1:]))
