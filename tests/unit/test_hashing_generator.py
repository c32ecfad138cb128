"""Generators: shapes, spectral norms, augmentation, training, exact resuming, warnings."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from advreg.data import ImageData
from advreg.errors import (
    ConfigurationError,
    GeneratorCollapseWarning,
    GeneratorMemoryWarning,
    RunError,
)
from advreg.hashing.generator import (
    GeneratorFolder,
    GeneratorSession,
    GeneratorSettings,
    TrainingImages,
    build_critic,
    build_generator,
    load_generator,
    measure_quality,
    sample,
    train_features,
    train_generator,
)
from advreg.hashing.generator.augment import coloured, cutout, diff_augment, translated
from advreg.hashing.generator.likeness import COMPARED
from advreg.hashing.generator.objectives import OBJECTIVES
from advreg.hashing.generator.training import Inspector
from advreg.training import Interrupted

TINY = {"latent": 4, "width": 2, "batch_size": 4}


def images(count=12, size=8, channels=1):
    return torch.randint(256, (count, channels, size, size), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("kind", "size", "channels"),
    [("sn-dcgan", 8, 1), ("sn-dcgan", 28, 1), ("sn-dcgan", 64, 3), ("sngan-resnet", 32, 3)],
)
def test_generators_and_critics_fit_the_images(kind, size, channels):
    generator = build_generator(kind, size, channels, 5, 2)
    critic = build_critic(kind, size, channels, 5, 2)
    made = generator(torch.randn(3, 5))
    assert made.shape == (3, channels, size, size)
    assert made.abs().max() <= 1
    assert critic(made).shape == (3,)
    critic.train()
    for _ in range(30):  # the power iteration settles
        critic(made)
    weights = [m.weight for m in critic.modules() if hasattr(m, "parametrizations")]
    assert weights
    for weight in weights:
        assert torch.linalg.matrix_norm(weight.flatten(1), 2).item() == pytest.approx(1, abs=0.02)


def test_the_default_critic_for_32_pixels_has_the_paper_s_channels():
    critic = build_critic(**GeneratorSettings().architecture(32, 3))
    assert [m.out_channels for m in critic.blocks if hasattr(m, "out_channels")] == [
        64, 64, 128, 128, 256, 256, 512
    ]  # fmt: skip


def test_objectives_by_hand():
    real, generated = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0])
    assert OBJECTIVES["hinge"].critic(real, generated).item() == pytest.approx(0.25 + 0.5)
    wanted = -(torch.sigmoid(real).log().mean() + (1 - torch.sigmoid(generated)).log().mean())
    found = OBJECTIVES["feature_matching"].critic(real, generated)
    torch.testing.assert_close(found, wanted)
    critic = build_critic("sn-dcgan", 8, 1, 4, 2).eval()
    one, two = torch.rand(3, 1, 8, 8), torch.rand(3, 1, 8, 8)
    matched = OBJECTIVES["feature_matching"].generator(critic, one, two)
    means = [critic.features(part).mean(0) for part in (one, two)]
    torch.testing.assert_close(matched, functional.mse_loss(*means))
    raised = OBJECTIVES["hinge"].generator(critic, one, two)
    torch.testing.assert_close(raised, -critic(two).mean())


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def test_augmentation_is_what_it_says():
    pixels = torch.rand(24, 3, 16, 16) * 2 - 1
    moved = translated(pixels, draws())
    reach = range(-2, 3)
    fits = [moved_by(pixels, down, right) == moved for down in reach for right in reach]
    chosen = torch.stack(fits).all((2, 3, 4))
    assert chosen.sum(0).tolist() == [1] * 24
    assert chosen.any(1).sum() > 12  # many different moves
    holes = (cutout(torch.ones(64, 1, 16, 16), draws()) == 0).sum((1, 2, 3))
    assert holes.max() == 64
    assert holes.min() >= 16  # a corner may hang outside
    grey = coloured(torch.full((64, 1, 4, 4), 0.25), draws())
    assert grey.std((2, 3)).max() < 1e-6
    assert (grey - 0.25).abs().max() <= 0.5
    assert grey.std() > 0.1


def moved_by(pixels, down, right):
    result = torch.zeros_like(pixels)
    size = pixels.shape[-1]
    for row in range(max(down, 0), size + min(down, 0)):
        for column in range(max(right, 0), size + min(right, 0)):
            result[:, :, row, column] = pixels[:, :, row - down, column - right]
    return result


def test_the_gradient_goes_through_augmentation():
    pixels = torch.rand(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: diff_augment(x, draws()), pixels)


def test_averaged_weights_follow_the_warmed_up_decay():
    session = GeneratorSession(GeneratorSettings(**TINY, ema=0.2), images())
    batches, wanted = session.batches(), session.generator.linear.weight.detach().clone()
    for step in (1, 2, 3):
        session.update(batches)
        decay = min(0.2, (1 + step) / (10 + step))
        wanted = decay * wanted + (1 - decay) * session.generator.linear.weight.detach()
        torch.testing.assert_close(session.averaged.linear.weight, wanted)


@pytest.mark.parametrize("objective", ["hinge", "feature_matching"])
def test_each_step_moves_both_networks_and_leaves_them_trainable(objective):
    settings = GeneratorSettings(**TINY, objective=objective, critic_steps=2)
    session = GeneratorSession(settings, images())
    before = [
        p.detach().clone() for n in (session.generator, session.critic) for p in n.parameters()
    ]
    session.update(session.batches())
    after = [p for n in (session.generator, session.critic) for p in n.parameters()]
    moved = [not torch.equal(one, two) for one, two in zip(before, after, strict=True)]
    # Feature matching does not use the critic's last layer, whose own loss moves it all the same.
    assert sum(moved) >= len(moved) - 1
    assert all(p.requires_grad for p in after)


def state_of(folder):
    return folder.load(folder.last)


@pytest.mark.full
def test_a_training_that_was_interrupted_and_resumed_is_the_same_to_the_bit(tmp_path):
    settings = GeneratorSettings(**TINY, steps=7, inspect_every=3, critic_steps=2)
    data = images(10)
    whole = train_generator(data, settings, tmp_path / "whole", pool=9)

    def interrupt(step, text):
        if step == 4:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="advreg hash generate"):
        train_generator(data, settings, tmp_path / "cut", pool=9, report=interrupt)
    cut = train_generator(data, settings, tmp_path / "cut", pool=9, resume=True)
    one, two = state_of(whole.folder), state_of(cut.folder)
    for part in ("generator", "critic", "averaged"):
        for name, value in one[part].items():
            assert torch.equal(value, two[part][name]), (part, name)
    assert torch.equal(whole.folder.load_pool(), cut.folder.load_pool())

    def figures(result):
        return [{k: v for k, v in line.items() if k != "seconds"} for line in result.metrics]

    assert figures(whole) == figures(cut)
    assert [line["step"] for line in whole.metrics] == [3, 6, 7]


def test_the_folder_holds_grids_a_pool_and_the_averaged_generator(tmp_path):
    settings = GeneratorSettings(**TINY, steps=2, inspect_every=1)
    data, said = images(10), []
    features = train_features(ImageData(data, torch.arange(10) % 2, ("even", "odd")), epochs=1)
    result = train_generator(
        data,
        settings,
        tmp_path / "run",
        pool=16,
        features=lambda: features,
        report=lambda step, text: said.append(text),
    )
    latents = torch.Generator().manual_seed(settings.seed + 1)
    last = sample(load_generator(tmp_path / "run"), torch.randn(COMPARED, 4, generator=latents))
    apart = measure_quality(features, last, data)
    assert result.metrics[-1]["own_fid"] == pytest.approx(apart.own_fid)
    assert result.metrics[-1]["own_kid"] == pytest.approx(apart.own_kid)
    assert result.metrics[0]["own_fid"] != result.metrics[-1]["own_fid"]
    assert f"own-FID {apart.own_fid:.2f}" in said[-1]
    assert sorted(path.name for path in (tmp_path / "run" / "samples").iterdir()) == [
        "000001.png",
        "000002.png",
    ]
    assert Image.open(tmp_path / "run" / "nearest.png").size == (8 * 34 - 2, 4 * 34 - 2)
    assert "step 2/2" in said[-1]
    pool = result.folder.load_pool()
    assert (pool.shape, pool.dtype) == ((16, 1, 8, 8), torch.uint8)
    generator = load_generator(tmp_path / "run")
    drawn = sample(generator, generator.latents(16, torch.Generator().manual_seed(2)))
    assert torch.equal((drawn * 255).round().byte(), pool)
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])["step"] == 1
    with pytest.raises(RunError, match=r"not empty; .* --resume"):
        train_generator(images(10), settings, tmp_path / "run")
    with pytest.raises(RunError, match=r"not empty; .* \(generator.yaml is missing\)"):
        train_generator(images(10), settings, tmp_path / "run" / "samples", resume=True)
    with pytest.raises(RunError, match="steps was 2, is 3"):
        train_generator(
            images(10), GeneratorSettings(**TINY, steps=3, inspect_every=1), tmp_path / "run",
            pool=16, resume=True,
        )  # fmt: skip


FEW = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(
    ("kind", "made"),
    [
        (GeneratorCollapseWarning, lambda data: data[:1].float().expand(60, -1, -1, -1) / 255),
        (GeneratorCollapseWarning, lambda data: FEW.repeat(20, 1, 1, 1)),
        (GeneratorMemoryWarning, lambda data: data.float() / 255),
    ],
    ids=["collapse", "a few images", "memory"],
)
def test_a_bad_generator_is_warned_of_while_the_run_is_young(kind, made, tmp_path, monkeypatch):
    data = images(60)
    folder = GeneratorFolder(tmp_path)
    settings = GeneratorSettings(**TINY, steps=1000, inspect_every=10)
    session = GeneratorSession(settings, data)
    monkeypatch.setattr(session, "samples", lambda latents: made(data))
    inspector = Inspector(folder, session, TrainingImages(data))
    session.step = 240
    inspector.inspect()  # the start is not judged
    session.step = 250
    with pytest.warns(kind, match="train it"):
        inspector.inspect()
    session.step = 260
    inspector.inspect()  # and said once
    kinds = [line.get("warning_kind") for line in folder.read_metrics()]
    assert kinds == [None, kind.__name__, kind.__name__]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "dcgan"}, "sn-dcgan, sngan-resnet"),
        ({"objective": "wasserstein"}, "hinge, feature_matching"),
        ({"batch_size": 1}, "batch_size is 1"),
        ({"width": 0}, "width is 0"),
        ({"learning_rate": 2}, "learning_rate is 2"),
        ({"ema": 1.0}, "ema is 1.0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, words):
    with pytest.raises(ConfigurationError, match=words):
        GeneratorSettings(**settings)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (images(12, 9), "9 pixels a side"),
        (images(12, 8)[:, :, :4], "squares"),
        (images(3), "smaller batch_size"),
    ],
)
def test_images_that_cannot_work_are_refused(data, words):
    with pytest.raises(ConfigurationError, match=words):
        GeneratorSession(GeneratorSettings(**TINY), data)


def test_a_folder_without_a_generator_is_refused(tmp_path):
    with pytest.raises(RunError, match="does not exist"):
        load_generator(tmp_path)
    with pytest.raises(RunError, match=r"holds no generator\.yaml"):
        GeneratorFolder(tmp_path).settings()
    (tmp_path / "generator.pt").write_bytes(b"half")
    with pytest.raises(RunError, match="damaged"):
        load_generator(tmp_path)


def test_few_images_are_augmented_unless_it_is_said_otherwise():
    assert GeneratorSettings().augments(9999)
    assert not GeneratorSettings().augments(10_000)
    assert not GeneratorSettings(augment=False).augments(100)


def test_damaged_generated_images_are_a_sentence(tmp_path):
    folder, pool = GeneratorFolder(tmp_path), images(4)
    folder.save_pool(pool)
    whole = folder.pool.read_bytes()
    assert torch.equal(folder.load_pool(), pool)
    np.savez(folder.pool, images=np.zeros(3))
    odd = folder.pool.read_bytes()
    middle = len(whole) // 2
    for contents in (odd, whole[:middle], whole[:middle] + b"odd" + whole[middle + 3 :], b""):
        folder.pool.write_bytes(contents)
        with pytest.raises(RunError, match="is damaged; train the generator again"):
            folder.load_pool()
