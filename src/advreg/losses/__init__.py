"""What outputs and targets mean: losses, divergence and agreement, example by example.

`task` says what a network's outputs mean, `targets` which targets fit them, and `criteria` finds
the meaning by the criterion and gives a criterion what it takes.
"""

from advreg.losses.criteria import (
    Criterion,
    accuracy,
    adapt_criterion,
    correct,
    cross_entropies,
    divergence,
    is_cross_entropy,
    single_labels,
    smoothed,
    takes_log_probabilities,
    task_of,
)
from advreg.losses.targets import IGNORED, unexamined
from advreg.losses.task import Kind, Task

__all__ = [
    "IGNORED",
    "Criterion",
    "Kind",
    "Task",
    "accuracy",
    "adapt_criterion",
    "correct",
    "cross_entropies",
    "divergence",
    "is_cross_entropy",
    "single_labels",
    "smoothed",
    "takes_log_probabilities",
    "task_of",
    "unexamined",
]
