"""How often a study's intervals cover and its verdicts are wrong, in studies made by a simulation.

    python benchmarks/study_statistics.py --out benchmarks/results/study_statistics.json

A network has an image right with the chance Phi(level + image + taste + seed + own), where Phi is
the normal distribution function, `image` an image's ease (standard deviation 1.5), `taste` an
arm's liking of an image (0 or 0.3), `seed` what all arms of a seed share and `own` what one network
has alone (0.03 each). The true difference of two arms, over all images or on the test images at
hand, then has a closed form. Simulated are:

- the coverage of the 95 % intervals by Student's t and by the bootstrap, for a true difference of
  two points;
- studies of equal arms (4 arms, 3 figures, so 12 comparisons): how often one or more is called
  better or worse, how often without Holm's correction, and how often each is called equal;
- studies whose arms truly differ by half a point, little as runs differ: how often one or more is
  called equal, which would be wrong;
- the seeds needed to see half a point, where the spread is known: how often as many do see it.
"""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np
from harness import arguments, count, result_file, run, write
from numpy.typing import NDArray
from scipy.stats import norm

from advreg.study.comparisons import BOUND, FEWEST_SEEDS, compare_arms
from advreg.study.statistics import p_value, seeds_needed

IMAGE, SEED, OWN = 1.5, 0.03, 0.03
PLAIN = "plain"
LEVELS = (0.8, 0.0, -0.8)
"""Of the figures clean, 2/255 and 8/255."""

EPSILONS = ("2/255", "8/255")
Rows = list[dict[str, Any]]


def level_of(gain: float, taste: float) -> float:
    """The level whose accuracy over all images is so much above a level of 0.8's."""
    spread = math.sqrt(1 + IMAGE**2 + taste**2 + SEED**2 + OWN**2)
    return float(spread * norm.ppf(norm.cdf(0.8 / spread) + gain))


def study(
    levels: dict[str, tuple[float, ...]],
    taste: float,
    seeds: int,
    images: int,
    generator: np.random.Generator,
) -> tuple[Rows, dict[str, float]]:
    """The rows of a simulated study.

    Args:
        levels: The arms' levels of each figure.
        taste: Standard deviation of an arm's liking of an image.
        seeds: Runs of each arm.
        images: Test images.
        generator: Of the random numbers.

    Returns:
        The rows, and each arm's expected clean accuracy on these very images.
    """
    ease = generator.normal(0, IMAGE, images)
    shared = generator.normal(0, SEED, seeds)
    rows, expected = [], {}
    for arm, figures in levels.items():
        liked = ease + generator.normal(0, taste, images)
        noise = math.sqrt(1 + SEED**2 + OWN**2)
        expected[arm] = float(norm.cdf((figures[0] + liked) / noise).mean())
        for seed in range(seeds):
            skill = shared[seed] + generator.normal(0, OWN)
            luck = generator.normal(0, 1, images)
            correct = [level + liked + skill + luck > 0 for level in figures]
            rows.append(row(arm, seed, correct))
    return rows, expected


def row(arm: str, seed: int, correct: list[NDArray[np.bool_]]) -> dict[str, Any]:
    """A run's row from which images it has right, clean first."""
    robust = {name: float(one.mean()) for name, one in zip(EPSILONS, correct[1:], strict=False)}
    clean = base64.b64encode(np.packbits(correct[0]).tobytes()).decode()
    return {
        "group": "",
        "arm": arm,
        "seed": seed,
        "clean": float(correct[0].mean()),
        "robust": robust,
        "images": len(correct[0]),
        "correct": {"clean": clean},
    }


def share(found: list[bool]) -> dict[str, Any]:
    """How often, with its binomial standard error."""
    mean = float(np.mean(found))
    error = math.sqrt(mean * (1 - mean) / len(found))
    return {"share": mean, "standard_error": error, "of": len(found)}


def coverage(
    seeds: int, taste: float, studies: int, images: int, generator: np.random.Generator
) -> dict[str, Any]:
    """How often the intervals of one comparison cover a true difference of two points."""
    gain = 0.02
    levels = {PLAIN: (0.8,), "arm": (level_of(gain, taste),)}
    hits: dict[str, list[bool]] = {name: [] for name in ("t, these", "t, all", "bootstrap, all")}
    for _ in range(studies):
        rows, expected = study(levels, taste, seeds, images, generator)
        (one,) = compare_arms(rows, PLAIN, list(levels), [""], [])
        here = expected["arm"] - expected[PLAIN]
        hits["t, these"].append(one["low"] <= here <= one["high"])
        hits["t, all"].append(one["low"] <= gain <= one["high"])
        hits["bootstrap, all"].append(one["bootstrap_low"] <= gain <= one["bootstrap_high"])
    names = {"t, these": "t, on these images", "t, all": "t, over all images"}
    names["bootstrap, all"] = "bootstrap, over all images"
    shares = {names[name]: share(found) for name, found in hits.items()}
    return {"seeds": seeds, "taste": taste, **shares}


def equal_arms(
    seeds: int, studies: int, images: int, generator: np.random.Generator
) -> dict[str, Any]:
    """How often a study of arms that do not differ finds one better or worse, or equal."""
    levels = dict.fromkeys((PLAIN, "a", "b", "c", "d"), LEVELS)
    corrected, uncorrected, equal = [], [], []
    for _ in range(studies):
        rows, _ = study(levels, 0.0, seeds, images, generator)
        without = [{**one, "correct": {}} for one in rows]  # verdicts need no bootstrap
        found = compare_arms(without, PLAIN, list(levels), [""], EPSILONS)
        corrected.append(any(one["verdict"] in ("better", "worse") for one in found))
        uncorrected.append(any(one["p"] < 0.05 for one in found))
        equal += [one["verdict"] == "equal" for one in found]
    return {
        "seeds": seeds,
        "one or more better or worse": share(corrected),
        "the same without Holm's correction": share(uncorrected),
        "a comparison called equal": share(equal),
    }


def half_a_point(seeds: int, studies: int, generator: np.random.Generator) -> dict[str, Any]:
    """How often one or more of four arms that differ by the bound itself is called equal."""
    wrong = []
    for _ in range(studies):
        base = generator.normal(0.7, 0.001, seeds)
        arms = {PLAIN: base}
        for name in ("a", "b", "c", "d"):
            arms[name] = base + BOUND + generator.normal(0, 0.001, seeds)
        rows = [
            {"group": "", "arm": arm, "seed": seed, "clean": value, "robust": {}}
            for arm, values in arms.items()
            for seed, value in enumerate(values)
        ]
        found = compare_arms(rows, PLAIN, list(arms), [""], [])
        # The verdict would be "better" first, so the test of equality is looked at by itself.
        wrong.append(any(one["p_equal_holm"] < 0.05 for one in found))
    return {"seeds": seeds, "one or more shown equal": share(wrong)}


def enough_seeds(deviation: float, studies: int, generator: np.random.Generator) -> dict[str, Any]:
    """How often the number of seeds needed does see half a point."""
    pattern = np.array([-1.0, 1.0]) * deviation / math.sqrt(2)  # its standard deviation is exact
    needed = seeds_needed(pattern.tolist(), BOUND)
    values = generator.normal(BOUND, deviation, (studies, needed))
    seen = [p_value(one.tolist()) < 0.05 for one in values]
    return {"deviation": deviation, "seeds": needed, "seen": share(seen)}


def simulate(studies: int, images: int, seed: int = 0) -> dict[str, Any]:
    """All figures of the result file."""
    generator = np.random.default_rng(seed)
    return {
        "coverage": [
            coverage(seeds, taste, studies, images, generator)
            for seeds in (FEWEST_SEEDS, 2 * FEWEST_SEEDS)
            for taste in (0.0, 0.3)
        ],
        "equal_arms": [
            equal_arms(seeds, studies, images, generator)
            for seeds in (FEWEST_SEEDS, 2 * FEWEST_SEEDS)
        ],
        "half_a_point": [half_a_point(FEWEST_SEEDS, studies, generator)],
        "seeds_needed": [enough_seeds(one, studies, generator) for one in (0.003, 0.01)],
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--studies", type=count, default=2000, help="of each kind (2000)")
    parser.add_argument("--images", type=count, default=1000, help="test images (1000)")
    parser.add_argument("--out", required=True, type=result_file, help="the JSON file to write")
    options = parser.parse_args()
    found = simulate(options.studies, options.images)
    for name, several in found.items():
        for one in several:
            texts = [
                f"{key}: {100 * value['share']:.1f} % (standard error"
                f" {100 * value['standard_error']:.1f})"
                if isinstance(value, dict)
                else f"{key} {value}"
                for key, value in one.items()
            ]
            print(f"{name}: {', '.join(texts)}")
    write(options.out, vars(options), **found)


if __name__ == "__main__":
    run(main)
