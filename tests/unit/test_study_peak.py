"""The peak of memory: exact, the same each time, and of the last step alone."""

import math

import pytest
import torch
from torch import nn

from advreg import LayerwiseAdversary
from advreg.methods import Layerwise, Standard
from advreg.models import build_model
from advreg.study.peak import Allocation, peak_bytes, peak_of
from advreg.study.workload import synthetic_batches, training_step

KILO = 256  # float32 values in 1,024 bytes


def test_releases_give_back_and_only_later_peaks_count():
    events = [
        Allocation(1, 0xA, 100),
        Allocation(2, 0xB, 50),
        Allocation(3, 0xB, -50),
        Allocation(4, 0xC, 20),
        Allocation(5, 0xA, -100),
        Allocation(6, 0xD, 10),
    ]
    assert peak_of(reversed(events), since=0) == 150
    assert peak_of(events, since=4) == 120
    assert peak_of(events, since=5) == 30


def test_a_block_from_before_is_none_of_ours():
    assert peak_of([Allocation(1, 0xF, -500), Allocation(2, 0xA, 8)], since=0) == 8


@pytest.mark.full
def test_what_is_alive_at_once_is_counted_to_the_byte():
    def build(stack):
        kept = torch.zeros(4 * KILO)

        def step():
            first = torch.zeros(8 * KILO)
            del first
            return kept + torch.zeros(4 * KILO)  # the sum, the zeros and what was kept

        return step

    assert peak_bytes(build, steps=1) == 12 * 1024
    assert peak_bytes(build, steps=3) == 12 * 1024


def test_only_the_last_step_is_measured():
    def build(stack):
        sizes = iter([64 * KILO, KILO])
        return lambda: torch.zeros(next(sizes)).sum().item()

    assert peak_bytes(build, steps=2) == pytest.approx(1024, abs=64)


def test_threads_are_as_before_and_what_was_attached_is_detached():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    batches = synthetic_batches((3, 2, 2), 3, 4, augment="none")
    closed = []

    def build(stack):
        stack.callback(closed.append, True)
        return training_step(stack, model, batches, Standard())

    torch.set_num_threads(2)
    peak_bytes(build)
    assert torch.get_num_threads() == 2
    assert closed == [True]


@pytest.mark.full
def test_a_step_has_the_same_peak_each_time_and_a_site_is_in_it_to_the_byte():
    torch.manual_seed(0)
    model = build_model("resnet20", 3, image_size=8)
    batches = synthetic_batches((3, 8, 8), 3, 16)

    def peak(method):
        return peak_bytes(lambda stack: training_step(stack, model, batches, method()))

    plain = peak(Standard)
    assert plain == peak(Standard)
    (site,) = LayerwiseAdversary(0.1, "layer1.0").describe(model, batches[0].inputs)
    activation = 4 * math.prod(site.shapes[0])  # the next layer keeps the perturbed one
    unexplained = peak(lambda: Layerwise(0.1, ["layer1.0"])) - plain - activation
    assert 0 <= unexplained - site.memory_bytes <= 16  # two float32 scalars
