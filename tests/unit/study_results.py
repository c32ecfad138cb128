"""Makes results of studies that nobody ran, to test pages with."""

import base64
import json

import numpy as np

from advreg.study.comparisons import compare_arms

SITES = ["input", "stem", "blocks.0", "blocks.1", "blocks.2", "blocks.3"]


def study_results(
    arms=3, seeds=5, groups=("",), epsilons=("2/255", "8/255"), images=200, epochs=6, **more
):
    """The contents of a `results.json`: arm k is k points better than the first one."""
    generator = np.random.default_rng(0)
    labels = ["plain", *(f"hidden {0.01 * arm:.2f}" for arm in range(1, arms))]
    rows = [
        _row(generator, group, arm, place, seed, epsilons, images, epochs)
        for group in groups
        for place, arm in enumerate(labels)
        for seed in range(seeds)
    ]
    results = {
        "kind": "advreg study",
        "format": 1,
        "title": "Hidden sites at several budgets",
        "question": "When do hidden sites help?",
        "goal": "accuracy",
        "command": "advreg compare studies/made_up.yaml --size cpu --out runs/made_up",
        "environment": {"advreg": "0.1", "torch": "2.13", "processor": "a made-up one"},
        "seconds": 5000.0,
        "study": {"title": "Hidden sites at several budgets", "budget": "epochs"},
        "size": "cpu",
        "baseline": "plain",
        "groups": list(groups),
        "arms": [
            {"label": label, "method": "layerwise", "settings": {"epsilon": 0.01 * place}}
            for place, label in enumerate(labels)
        ],
        "seeds": list(range(seeds)),
        "epsilons": list(epsilons),
        "rows": rows,
        "failures": [],
        "missing": [],
        "tuning": [],
        **more,
    }
    results["comparisons"] = compare_arms(results["rows"], "plain", labels, groups, epsilons)
    return json.loads(json.dumps(results, allow_nan=False))


def _row(generator, group, arm, place, seed, epsilons, images, epochs):
    chance = 0.45 + 0.01 * place + 0.02 * generator.random()
    correct = {"clean": generator.random(images) < chance}
    for strength, epsilon in enumerate(epsilons, 1):
        keeps = generator.random(images) < (0.1 + 0.06 * place) / strength**2
        correct[epsilon] = correct["clean"] & keeps
    shares = {figure: float(hits.mean()) for figure, hits in correct.items()}
    return {
        "id": f"{group}-{arm}-{seed}",
        "group": group,
        "arm": arm,
        "seed": seed,
        "clean": shares.pop("clean"),
        "robust": shares,
        "nll": 1.6 - 0.02 * place + 0.05 * generator.random(),
        "ece": max(0.12 - 0.005 * place, 0.01),
        "passes": 3000.0,
        "seconds": 60.0 + 3 * place + generator.random(),
        "step_seconds": 0.02,
        "correct": {
            figure: base64.b64encode(np.packbits(hits).tobytes()).decode()
            for figure, hits in correct.items()
        },
        "images": images,
        "epochs": [_epoch(generator, epoch, epochs, place) for epoch in range(1, epochs + 1)],
    }


def _epoch(generator, epoch, epochs, place):
    line = {
        "epoch": epoch,
        "train_loss": 2.3 * np.exp(-2.5 * epoch / epochs) + 0.05 * generator.random(),
        "validation_accuracy": 0.5 - 0.4 * np.exp(-3 * epoch / epochs) + 0.02 * generator.random(),
    }
    if place:
        line["first_order_share"] = 0.02 * place
        line["sites"] = {
            site: {
                "relative": 0.01 * place * (0.9 + 0.02 * depth),
                "cosine": 0.1 * np.exp(-depth / 3) * epoch / epochs + 0.005 * generator.random(),
                "rise": 0.003,
            }
            for depth, site in enumerate(SITES)
        }
    return line
