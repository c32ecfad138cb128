from collections import Counter

import pytest
import torch

from advreg.errors import ConfigurationError
from advreg.study import measure_cost
from advreg.study.cost import relative, time_steps


class Machine:
    """A clock that steps move on, and that runs slower and slower."""

    def __init__(self, drift=1.0):
        self.now = 0.0
        self.speed = 1.0
        self.drift = drift
        self.made = []

    def step(self, label, seconds):
        def make():
            self.made.append(label)
            self.now += seconds * self.speed
            self.speed *= self.drift

        return make


def test_steps_take_turns_forth_and_back_and_ratios_are_of_the_same_round():
    machine = Machine(drift=1.01)
    steps = {"plain": machine.step("plain", 1.0), "twice": machine.step("twice", 2.0)}
    cost = measure_cost(steps, "plain", rounds=21, repeats=1, clock=lambda: machine.now)
    assert machine.made[2:6] == ["plain", "twice", "twice", "plain"]  # after the warm-up
    # The machine has become 1.5 times slower on the way; neighbours differ by a step's drift,
    # one round this way and one that way.
    assert cost["twice"].lower == pytest.approx(2 / 1.01, rel=1e-6)
    assert cost["twice"].upper == pytest.approx(2 * 1.01, rel=1e-6)
    assert cost["plain"].median == 1
    assert cost["twice"].rounds == 21


def test_each_begins_ends_and_follows_itself_as_often_as_another():
    machine = Machine()
    steps = {label: machine.step(label, 1.0) for label in "ABC"}
    time_steps(steps, rounds=24, repeats=1, warmup=0, clock=lambda: machine.now)
    rounds = ["".join(machine.made[place : place + 3]) for place in range(0, 72, 3)]
    assert rounds[:6] == ["ABC", "CBA", "BCA", "ACB", "CAB", "BAC"]
    assert Counter(order[0] for order in rounds) == dict.fromkeys("ABC", 8)
    assert Counter(order[-1] for order in rounds) == dict.fromkeys("ABC", 8)
    pairs = zip(machine.made, machine.made[1:], strict=False)
    assert Counter(one for one, other in pairs if one == other) == dict.fromkeys("ABC", 4)


def test_the_warm_up_is_not_counted():
    machine = Machine()
    slow_once = iter([100.0])

    def first_is_slow():
        machine.now += next(slow_once, 3.0)

    steps = {"plain": machine.step("plain", 1.0), "other": first_is_slow}
    cost = measure_cost(steps, "plain", rounds=20, repeats=2, clock=lambda: machine.now)
    assert machine.made[:3] == ["plain"] * 3
    assert cost["other"].median == cost["other"].upper == 3
    assert cost["other"].milliseconds == 3000


def test_the_spread_is_the_quartiles_and_bears_an_outlier():
    machine = Machine()
    seconds = iter([0.0, *range(1, 21), 1000.0])

    def varying():
        machine.now += next(seconds)

    steps = {"plain": machine.step("plain", 1.0), "other": varying}
    cost = measure_cost(steps, "plain", rounds=21, repeats=1, clock=lambda: machine.now)
    assert (cost["other"].lower, cost["other"].median, cost["other"].upper) == (6, 11, 16)


def test_progress_ends_at_the_whole_with_every_second_measured():
    machine, reports = Machine(), []
    steps = {"plain": machine.step("plain", 1.0), "other": machine.step("other", 2.0)}
    seconds = time_steps(
        steps,
        repeats=1,
        rounds=20,
        warmup=3,
        clock=lambda: machine.now,
        progress=lambda *given: reports.append(given),
    )
    assert [done for done, _, _ in reports] == list(range(1, 47))
    assert {total for _, total, _ in reports} == {46}
    assert reports[-1][2] == seconds == {"plain": [1.0] * 20, "other": [2.0] * 20}
    assert relative(seconds, "other")["plain"].median == 0.5


def test_one_thread_while_measuring_and_as_before_afterwards():
    torch.set_num_threads(2)
    seen = set()
    measure_cost({"plain": lambda: seen.add(torch.get_num_threads())}, "plain", rounds=20)
    assert seen == {1}
    assert torch.get_num_threads() == 2


def test_what_cannot_be_measured_is_refused():
    for wrong in ({"baseline": "none"}, {"rounds": 19}, {"repeats": 0}):
        with pytest.raises(ConfigurationError, match=r"choose one of|give at least 20"):
            measure_cost({"plain": lambda: None}, **{"baseline": "plain", **wrong})
