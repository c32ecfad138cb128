"""Hashing runs: the loop's, with codes, generated images and a split that is kept."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from advreg.cli import main
from advreg.errors import CollapseWarning, ConfigurationError, DataError, RunError, StateError
from advreg.hashing.gallery import Gallery, index_folder, read_image
from advreg.hashing.generator import GeneratorSettings, train_generator
from advreg.hashing.losses import GENERATED
from advreg.hashing.run import load_hash_run, train_hash
from advreg.hashing.session import HashSession, load_split
from advreg.hashing.settings import HashConfiguration
from advreg.hashing.stage_one import train_fingerprint
from advreg.training import Interrupted, load_run, loop


def configuration(out, **changes):
    values = {
        "out": str(out), "epochs": 2, "batch_size": 30, "tensorboard": False, "device": "cpu",
        "data": {"name": "digits", "query": 4, "train": 6}, "code": {"bits": 8},
    }  # fmt: skip
    return HashConfiguration.from_dict({**values, **changes})


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    out = tmp_path_factory.mktemp("generated") / "generator"
    images, split = load_split(configuration(out))
    settings = GeneratorSettings(steps=2, batch_size=8, width=2, latent=4)
    facts = {"train_images": train_fingerprint(split)}
    train_generator(images.images[split.train], settings, out, pool=50, facts=facts)
    return str(out)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("hashing") / "run"
    train_hash(configuration(out), quiet=True)
    return out


def test_a_run_keeps_its_split_and_uses_its_last_epoch(finished):
    run = load_hash_run(finished)
    split = run.split()
    assert [len(part) for part in (split.query, split.train)] == [40, 60]
    assert not set(split.query.tolist()) & set((split.train.tolist(), split.database.tolist())[0])
    assert not (finished / "best.pt").exists()
    last = torch.load(finished / "last.pt", weights_only=True)
    assert all(
        torch.equal(last["model"][name], value) for name, value in run.network.state_dict().items()
    )
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert lines[-1]["train_loss"] < lines[0]["train_loss"]


@pytest.mark.parametrize(
    "changes",
    [
        {"method": {"name": "layerwise", "epsilon": 0.1, "memory": "example"}},
        {"loss": {"name": "greedyhash"}, "optimizer": {"name": "adamw", "ema": 0.9}},
        {
            "loss": {"name": "hashnet"},
            "data": {"name": "digits", "query": 4, "train": 6, "augment": "crop"},
        },
    ],
    ids=["example memory", "a loss that learns, ema", "a slope that grows, crops"],
)
@pytest.mark.full
def test_an_interrupted_run_goes_on_to_the_bit(changes, generator, tmp_path, monkeypatch):
    changes = {**changes, "generated": {"folder": generator}}
    whole = configuration(tmp_path / "whole", **changes)
    train_hash(whole, quiet=True)
    cut, calls = configuration(tmp_path / "cut", **changes), []

    def stop(*_):
        calls.append(1)
        if len(calls) == 2:
            raise Interrupted("now")

    with monkeypatch.context() as patch:
        patch.setattr(loop, "stop_if_requested", stop)
        cut = replace(cut, run=replace(cut.run, checkpoint_every=1))
        with pytest.raises(Interrupted):
            train_hash(cut, quiet=True)
    train_hash(cut, resume=True, quiet=True)
    one, other = (
        torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "cut")
    )
    for part in ("model", "criterion"):
        assert one[part].keys() == other[part].keys()
        assert all(torch.equal(one[part][name], other[part][name]) for name in one[part])
    assert one["tally"]["epoch"] == other["tally"]["epoch"] == 2


def test_the_loader_has_the_views_that_were_asked_for(tmp_path):
    views = {
        "augment": "crop_flip",
        "padding": 4,
        "crop_step": 2,
        "view_epochs": 2,
        "view_block": 2,
    }
    data = {"name": "digits", "query": 4, "train": 6, **views}
    loader = HashSession(configuration(tmp_path / "run", data=data)).loader
    assert {name: getattr(loader, name) for name in views} == views


def test_generated_images_follow_the_real_ones_with_indices_of_their_own(generator, tmp_path):
    session = HashSession(
        configuration(tmp_path / "run", generated={"folder": generator, "share": 0.25})
    )
    batch = next(session.loader.epoch(0))
    prepared = session.prepare(batch)
    assert (len(batch), len(prepared)) == (30, 40)
    assert (prepared.targets[30:] == GENERATED).all()
    assert torch.equal(prepared.targets[:30], session.labels[batch.indices])
    assert prepared.indices[30:].min() >= len(session.split.train)
    assert session.examples == 60 + 50
    again = session.prepare(batch)  # of one epoch and mini-batch the same ones, as resuming needs
    assert torch.equal(again.inputs, prepared.inputs)
    session.tally.epoch = 1
    assert not torch.equal(session.prepare(batch).indices, prepared.indices)
    session.loader.view_epochs, session.loader.view_block = 2, 1  # the same block comes again
    assert torch.equal(session.prepare(batch).indices, prepared.indices)


def test_the_term_raises_the_entropy_of_generated_images(generator, tmp_path):
    entropies = []
    for name, weight in (("without", 0.0), ("with", 4.0)):
        generated = {"folder": generator, "weight": weight}
        found = train_hash(
            configuration(tmp_path / name, generated=generated, epochs=6), quiet=True
        )
        entropies.append(found.metrics[-1]["generated_entropy"])
    assert entropies[1] > entropies[0]


@pytest.mark.parametrize("method", ["dropout", "fgsm", "sam", "free", "advreg.hashing.hag:HAG"])
@pytest.mark.full
def test_methods_of_one_and_more_passes_train_codes(method, generator, tmp_path):
    chosen = configuration(
        tmp_path / "run", method={"name": method}, generated={"folder": generator}, epochs=1
    )
    assert np.isfinite(train_hash(chosen, quiet=True).metrics[-1]["train_loss"])


def test_several_labels_train_too(tmp_path):
    random = np.random.default_rng(0)
    targets = random.integers(0, 2, (120, 3))
    targets[:, 0] |= targets.sum(1) == 0
    images = (targets[:, :, None] * np.full(8, 200)).repeat(2, 1)[:, :6]
    images = np.pad(images, ((0, 0), (1, 1), (0, 0))).astype(np.uint8)
    np.savez(tmp_path / "labels.npz", images=images, targets=targets)
    data = {"name": str(tmp_path / "labels.npz"), "query": 5, "train": 20}
    found = train_hash(configuration(tmp_path / "run", data=data), quiet=True)
    assert found.metrics[-1]["train_map"] > 0.5


def test_one_code_for_all_is_called_a_collapse(tmp_path, monkeypatch):
    monkeypatch.setattr(HashSession, "build_network", lambda self, train: _Constant())
    with pytest.warns(CollapseWarning, match="one code"):
        train_hash(configuration(tmp_path / "run", epochs=1), quiet=True)


class _Constant(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 8)

    def forward(self, inputs):
        return self.linear(torch.ones(len(inputs), 1)) * (
            1 + 0 * inputs.flatten(1).mean(1, keepdim=True)
        )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimizer": {"label_smoothing": 0.1}}, "label_smoothing is 0.1"),
        ({"code": {"bits": 15}}, "multiple of 8"),
        ({"loss": "tripplet"}, "No loss is called"),
        ({"batch_size": 1}, "no triplet"),
        ({"data": {"name": "digits", "split": "cifar10"}}, "is of cifar10"),
        ({"generated": {"share": 1.0}}, "below 1"),
        ({"generated": {"folder": "nowhere"}}, "name the folder of a generator"),
    ],
)
def test_runs_that_cannot_work_are_refused(changes, words, tmp_path):
    with pytest.raises((ConfigurationError, DataError, RunError), match=words):
        train_hash(configuration(tmp_path / "run", **changes), quiet=True)


def test_a_run_whose_first_step_fails_frees_its_folder(tmp_path):
    with pytest.raises(DataError, match="larger batch_size"):
        train_hash(configuration(tmp_path / "run", batch_size=2), quiet=True)
    assert not list((tmp_path / "run").iterdir())


def test_a_generator_of_other_images_is_refused(generator, tmp_path):
    data = {"name": "digits", "query": 4, "train": 6, "seed": 1}
    with pytest.raises(StateError, match="trained on other images"):
        train_hash(configuration(tmp_path, data=data, generated={"folder": generator}), quiet=True)


def test_runs_of_the_two_kinds_are_kept_apart(finished, tmp_path):
    with pytest.raises(ConfigurationError, match="holds a run of codes"):
        load_run(finished)
    (tmp_path / "config.yaml").write_text("out: x\n")
    with pytest.raises(ConfigurationError, match="holds no run of advreg hash train"):
        load_hash_run(tmp_path)


def test_code_of_one_s_own_is_imported_only_where_it_is_named(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_backbones.py").write_text(
        "from advreg.models import build_model\n"
        "def small(): return build_model('convnet', 10, 1, 8)\n"
    )
    train_hash(configuration(tmp_path / "run", model="my_backbones:small", epochs=1), quiet=True)
    with pytest.raises(ConfigurationError, match="--model my_backbones:small"):
        load_hash_run(tmp_path / "run")
    assert load_hash_run(tmp_path / "run", "my_backbones:small").network.bits == 8


def test_image_files_are_indexed_and_found_by_their_own_codes(finished, tmp_path):
    run = load_hash_run(finished)
    images = run.images()
    for number in range(12):
        pixels = np.pad(images.images[number, 0].numpy(), ((0, 0), (3, 3)))  # wider than high
        Image.fromarray(pixels).save(tmp_path / f"{number:02}.png")
    index = index_folder(run, tmp_path)
    gallery = Gallery(run)
    asked = gallery.load(["7", str(tmp_path / "07.png")])
    assert torch.equal(asked[0], asked[1])
    found = index.search(run.network.encode(asked), 12)
    assert found.distances[:, 0].tolist() == [0, 0]
    assert str(tmp_path / "07.png") in {
        index.name(place) for place in found.places[0][found.distances[0] == 0]
    }
    (tmp_path / "no.png").write_text("no image")
    with pytest.raises(DataError, match="cannot be read as a PNG"):
        read_image(tmp_path / "no.png", run.image_shape)


@pytest.mark.full
def test_the_command_line_from_generator_to_search(tmp_path, capsys):
    few = ["--data.query", "4", "--data.train", "6"]
    out = [str(tmp_path / name) for name in ("a generator", "a run", "other", "found")]
    settings = ["--steps", "2", "--batch_size", "8", "--width", "2", "--pool", "20"]
    assert main(["hash", "generate", "--out", out[0], "--device", "cpu", *settings, *few]) == 0
    options = ["--epochs", "1", "--batch_size", "30", "--bits", "8", "--tensorboard", "false", *few]
    train = ["hash", "train", *options, "--device", "cpu"]
    layerwise = ["--method", "layerwise", "--method.epsilon", "0.1", "--loss.mining", "hard"]
    assert main([*train, "--out", out[1], "--generated.folder", out[0], *layerwise]) == 0
    assert main(["hash", "train", "--out", out[1], "--resume"]) == 0
    assert main([*train, "--out", out[2], "--seed", "1"]) == 0
    attack = ["--epsilons", "0.3", "--steps", "3", "--attacked", "20"]
    assert main(["hash", "evaluate", out[1], *attack]) == 0
    found = json.loads((tmp_path / "a run" / "evaluation.json").read_text())
    bounds = found["retrieval"]["map"]
    assert bounds["pessimistic"] <= bounds["expected"] <= bounds["optimistic"]
    assert found["attack"]["attacks"][0]["map"] <= found["attack"]["clean"] + 1e-9
    assert found["generated_bits"]["entropy"] > 0
    assert main(["hash", "index", out[1]]) == 0
    said = capsys.readouterr().out
    for following in (
        f"train --generated.folder '{out[0]}'",
        f"evaluate '{out[1]}'",
        f"search '{out[1]}' IMAGE --index '{out[1]}/index'",
    ):
        assert f"ext: advreg hash {following}" in said
    assert main(["hash", "search", out[1], "3", "1203", "--k", "4", "--out", out[3]]) == 0
    rows = json.loads((tmp_path / "found" / "search.json").read_text())
    assert [len(row["nearest"]) for row in rows] == [4, 4]
    with Image.open(tmp_path / "found" / "search.png") as picture:
        assert picture.height > 2 * 72
    capsys.readouterr()
    for wrong, words in (
        (["search", out[2], "3", "--index", f"{out[1]}/index"], "made by another network"),
        (["search", out[1], "9999", "--out", out[3]], "no image 9999"),
        (["search", out[1]], "No image is named"),
        (["index", out[1]], "holds results already"),
        (["train", "--loss", "dtsh", "--loss.margin", "1"], "has no setting 'margin'"),
        (["nothing"], "no command hash 'nothing'"),
    ):
        assert main(["hash", *wrong]) == 2
        assert words in capsys.readouterr().err
    assert main(["hash", "--help"]) == 0
    assert main(["hash", "train", "--help"]) == 0
