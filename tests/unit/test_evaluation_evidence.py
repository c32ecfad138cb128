"""From figures to rows, with made-up figures on both sides of every threshold."""

from dataclasses import replace

import pytest

from advreg.evaluation import Figures, evidence
from advreg.evaluation.evidence import FAILS, HOLDS, UNKNOWN

SOUND = Figures(
    epsilon="8/255",
    single_step=0.52,
    iterative=0.45,
    doubled=(0.45, 0.448),
    curve=((0.0, 0.9), (0.03, 0.45), (0.06, 0.2), (0.12, 0.0)),
    chance=0.1,
    against={"transfer": (0.45, 0.7), "noise": (0.45, 0.88), "square": (0.45, 0.5)},
    zero_gradient=0.0,
    repeat=0.0,
    evaluated=True,
    detached=True,
    same_weights=True,
)


def verdicts(figures):
    return {row.name: row.verdict for row in evidence(figures)}


def test_sound_figures_hold_row_by_row():
    assert set(verdicts(SOUND).values()) == {HOLDS}
    assert len(verdicts(SOUND)) == 10


def test_nothing_measured_is_said_row_by_row():
    rows = evidence(Figures())
    assert {row.verdict for row in rows} == {UNKNOWN}
    assert all(row.figure is None for row in rows)


def test_each_weakness_is_called_out_by_its_row():
    for name, change, figure in (
        ("iterative attack at least as strong as single-step", {"iterative": 0.526}, 0.006),
        ("success grows with epsilon", {"curve": ((0.0, 0.9), (0.1, 0.3), (0.2, 0.4))}, 0.1),
        ("success grows with epsilon", {"curve": ((0.0, 0.9), (0.1, 0.9))}, 0.0),
        ("large epsilon reaches chance", {"curve": ((0.0, 0.9), (1.0, 0.12))}, 0.12),
        ("doubling the steps changes under half a point", {"doubled": (0.45, 0.44)}, -0.01),
        ("doubling the steps changes under half a point", {"doubled": (0.45, 0.46)}, 0.01),
        ("white box at least as strong as transfer", {"against": {"transfer": (0.5, 0.4)}}, 0.1),
        ("white box at least as strong as noise", {"against": {"noise": (0.5, 0.49)}}, 0.01),
        ("white box at least as strong as square", {"against": {"square": (0.5, 0.3)}}, 0.2),
        ("gradients are not zero", {"zero_gradient": 0.02}, 0.02),
        ("the same input gives the same answer", {"repeat": 0.1}, 0.1),
        ("the attacked model is the deployed one", {"evaluated": False}, 0.0),
        ("the attacked model is the deployed one", {"detached": False}, 0.0),
        ("the attacked model is the deployed one", {"same_weights": False}, 0.0),
    ):
        row = next(row for row in evidence(replace(SOUND, **change)) if row.name == name)
        assert row.verdict == FAILS
        assert row.figure == pytest.approx(figure)


def test_less_than_half_a_point_is_no_difference():
    figures = replace(
        SOUND,
        iterative=0.5249,
        doubled=(0.45, 0.4451),
        curve=((0.0, 0.9), (0.1, 0.3), (0.2, 0.304), (0.3, 0.1049)),
        against={"transfer": (0.4549, 0.45), "noise": (0.45, 0.45), "square": (0.45, 0.45)},
        zero_gradient=0.0049,
    )
    assert set(verdicts(figures).values()) == {HOLDS}


def test_a_weakness_moves_only_its_own_row():
    changed = verdicts(replace(SOUND, against={**SOUND.against, "square": (0.45, 0.1)}))
    assert [name for name, verdict in changed.items() if verdict != HOLDS] == [
        "white box at least as strong as square"
    ]


def test_unknown_weights_leave_the_deployed_model_unknown_but_a_failure_stays_one():
    name = "the attacked model is the deployed one"
    assert verdicts(replace(SOUND, same_weights=None))[name] == UNKNOWN
    assert verdicts(replace(SOUND, same_weights=None, detached=False))[name] == FAILS


def test_sentences_hold_the_figures():
    rows = {row.name: row for row in evidence(SOUND)}
    sentence = rows["white box at least as strong as square"].sentence
    assert "8/255" in sentence
    assert "45.0 %" in sentence
    assert "50.0 %" in sentence
    assert rows["gradients are not zero"].to_dict() == {
        "name": "gradients are not zero",
        "figure": 0.0,
        "verdict": HOLDS,
        "sentence": "The gradient at the input is zero for 0.0 % of the examples.",
    }
