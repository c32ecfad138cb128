"""Confidence, Brier score and calibration error."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from advreg.evaluation.calibration import brier_scores, calibration_error, confidences


def test_confidence_and_brier_score_by_hand():
    outputs = torch.tensor([[0.8, 0.2], [0.4, 0.6]]).log()
    assert confidences(outputs).tolist() == pytest.approx([0.8, 0.6], abs=1e-7)
    scores = brier_scores(outputs, torch.tensor([0, 0]))
    assert scores.tolist() == pytest.approx([2 * 0.2**2, 2 * 0.6**2], abs=1e-7)


def plain_error(confidence, correct, bins=15):
    """Bin by bin, from the definition."""
    total, edges = 0.0, np.linspace(0, 1, bins + 1)
    for place in range(bins):
        last = place == bins - 1
        inside = [
            (c, h)
            for c, h in zip(confidence, correct, strict=True)
            if edges[place] <= c and (c < edges[place + 1] or last)
        ]
        if inside:
            gap = np.mean([h for _, h in inside]) - np.mean([c for c, _ in inside])
            total += len(inside) / len(confidence) * abs(gap)
    return total


def test_the_calibration_error_is_the_definitions():
    torch.manual_seed(0)
    outputs, targets = 3 * torch.randn(500, 10), torch.randint(0, 10, (500,))
    confidence, correct = confidences(outputs), outputs.argmax(1) == targets
    expected = plain_error(confidence.tolist(), correct.tolist())
    assert calibration_error(confidence, correct) == pytest.approx(expected, abs=1e-12)
    assert expected > 0.3


def test_a_confidence_of_exactly_one_is_in_the_last_bin():
    """With 0.95 beside it: one bin, so that the two gaps cancel out."""
    confidence = torch.tensor([1.0, 0.95, 0.95, 1.0])
    correct = torch.tensor([True, True, True, False])
    assert calibration_error(confidence, correct) == pytest.approx(abs(0.75 - 0.975))


def test_a_bin_holds_its_lower_edge():
    confidence = torch.tensor([0.2, 0.19999], dtype=torch.float64)
    correct = torch.tensor([True, False])
    assert calibration_error(confidence, correct) == pytest.approx((0.8 + 0.19999) / 2)


def test_without_a_confidence_there_is_no_calibration():
    confidence = torch.tensor([0.7, float("nan")])
    assert math.isnan(calibration_error(confidence, torch.tensor([False, False])))


def test_a_sharp_and_right_network_is_calibrated():
    outputs = 1e4 * functional.one_hot(torch.arange(10), 10).float()
    confidence = confidences(outputs)
    assert calibration_error(confidence, outputs.argmax(1) == torch.arange(10)) == 0
    assert calibration_error(confidence, torch.zeros(10, dtype=torch.bool)) == 1
