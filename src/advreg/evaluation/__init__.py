"""What a trained network is worth: its accuracy on clean and on attacked images."""

from advreg.evaluation.accuracy import accuracy_and_loss
from advreg.evaluation.results import Evaluation, Robustness
from advreg.evaluation.robustness import evaluate, evaluate_examples

__all__ = ["Evaluation", "Robustness", "accuracy_and_loss", "evaluate", "evaluate_examples"]
