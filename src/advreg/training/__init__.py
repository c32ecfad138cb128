"""One run: its configuration, the loop, the folder it leaves, and loading it again."""

from advreg.extras import needs

with needs("cli", "advreg.training"):
    from advreg.training.builders import resolve
    from advreg.training.configuration import Configuration
    from advreg.training.folder import RunFolder
    from advreg.training.interrupts import Interrupted
    from advreg.training.loading import load_run
    from advreg.training.loop import TrainingResult, train
    from advreg.training.recipes import find_recipe
    from advreg.training.settings import (
        DataSettings,
        MethodSettings,
        ModelSettings,
        OptimizerSettings,
        RunSettings,
        ScheduleSettings,
    )

__all__ = [
    "Configuration",
    "DataSettings",
    "Interrupted",
    "MethodSettings",
    "ModelSettings",
    "OptimizerSettings",
    "RunFolder",
    "RunSettings",
    "ScheduleSettings",
    "TrainingResult",
    "find_recipe",
    "load_run",
    "resolve",
    "train",
]
