"""What a trained network is worth: accuracy, calibration and robustness, with their evidence."""

from advreg.evaluation.accuracy import accuracy_and_loss
from advreg.evaluation.evidence import Figures, Row, evidence
from advreg.evaluation.invariance import Arrivals, arrivals, class_pairs, invariance
from advreg.evaluation.labels import evaluate_labels
from advreg.evaluation.results import Evaluation, Robustness
from advreg.evaluation.robustness import evaluate, evaluate_examples
from advreg.evaluation.suite import SuiteEvaluation, evaluate_suite
from advreg.evaluation.suites import SUITES
from advreg.progress import Progress

__all__ = [
    "SUITES",
    "Arrivals",
    "Evaluation",
    "Figures",
    "Progress",
    "Robustness",
    "Row",
    "SuiteEvaluation",
    "accuracy_and_loss",
    "arrivals",
    "class_pairs",
    "evaluate",
    "evaluate_examples",
    "evaluate_labels",
    "evaluate_suite",
    "evidence",
    "invariance",
]
