"""Augmentations of batches equal Pillow, image by image, and are a function of seed and epoch."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from advreg import LayerwiseAdversary
from advreg.batch import LossyView
from advreg.data import AUGMENTATIONS, ImageData, Loader
from advreg.data.augment import (
    CIFAR10_POLICY,
    OPERATIONS,
    RANDAUGMENT,
    SIGNED,
    Plan,
    apply_plan,
    cutout,
    draw_autoaugment,
    draw_cutout,
    draw_randaugment,
    magnitude,
)
from advreg.errors import ConfigurationError, UnsupportedError

COUNT = 9


def images(channels=3, count=COUNT, height=12, width=16):
    """Smooth and rough ones, a dark one, a bright one and one without any contrast."""
    smooth = torch.rand(count, channels, 3, 4) * 255
    smooth = torch.nn.functional.interpolate(smooth, (height, width), mode="bilinear")
    pixels = (smooth + torch.randn(count, channels, height, width) * 8).clamp(0, 255)
    pixels[0] /= 4
    pixels[1] = 255 - pixels[1] / 3
    pixels[2] = 77
    return pixels.to(torch.uint8)


def by_pillow(pixels, name, strength):
    """One operation on one image (C, H, W) of bytes, as AutoAugment's authors wrote it."""
    array = pixels.permute(1, 2, 0).numpy()
    image = Image.fromarray(array[:, :, 0] if len(pixels) == 1 else array)
    enhance = {"Brightness": ImageEnhance.Brightness, "Color": ImageEnhance.Color,
               "Contrast": ImageEnhance.Contrast, "Sharpness": ImageEnhance.Sharpness}  # fmt: skip
    affine = {"ShearX": (1, strength, 0, 0, 1, 0), "ShearY": (1, 0, 0, strength, 1, 0),
              "TranslateX": (1, 0, strength, 0, 1, 0),
              "TranslateY": (1, 0, 0, 0, 1, strength)}  # fmt: skip
    if name in enhance:
        image = enhance[name](image).enhance(1 + strength)
    elif name in affine:
        image = image.transform(image.size, Image.Transform.AFFINE, affine[name])
    elif name == "Rotate":
        image = image.rotate(strength)
    elif name == "Posterize":
        image = ImageOps.posterize(image, int(strength))
    elif name == "Solarize":
        image = ImageOps.solarize(image, strength)
    elif name != "Identity":
        plain = {"AutoContrast": ImageOps.autocontrast, "Equalize": ImageOps.equalize,
                 "Invert": ImageOps.invert}  # fmt: skip
        image = plain[name](image)
    return torch.from_numpy(np.array(image).reshape(*array.shape)).permute(2, 0, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_operations_are_pillows(channels):
    for name in OPERATIONS:
        check_operation(name, images(channels))


def check_operation(name, pixels):
    strengths = [magnitude(name, share, 12, 16) for share in torch.linspace(0, 1, COUNT).tolist()]
    if name in SIGNED:
        strengths = [value * (-1) ** index for index, value in enumerate(strengths)]
    places = torch.full((1, COUNT), OPERATIONS.index(name))
    plan = Plan(places, torch.tensor([strengths], dtype=torch.float64))
    found = apply_plan(pixels, plan)
    expected = torch.stack([by_pillow(*pair) for pair in
                            zip(pixels, [name] * COUNT, strengths, strict=True)])  # fmt: skip
    assert torch.equal(found, expected), name
    assert torch.equal(apply_plan(pixels / 255, plan), found / 255)


def test_images_of_one_batch_get_their_own_operations_in_turn():
    pixels = images(count=40)
    plan = draw_randaugment(40, 12, 16, torch.Generator().manual_seed(2), number=3, level=20)
    found = apply_plan(pixels, plan)
    for index, image in enumerate(pixels):
        for place, strength in zip(plan.operations, plan.magnitudes, strict=True):
            image = by_pillow(image, OPERATIONS[place[index]], float(strength[index]))
        assert torch.equal(found[index], image), index


def test_randaugment_draws_every_operation_alike_at_one_strength():
    plan = draw_randaugment(7000, 32, 32, torch.Generator(), level=15)
    assert {OPERATIONS[place] for place in plan.operations.unique()} == {*RANDAUGMENT}
    assert len(RANDAUGMENT) == 14
    shares = plan.operations.flatten().bincount() / plan.operations.numel()
    assert (shares[shares > 0] - 1 / 14).abs().max() < 0.01
    rotations = plan.magnitudes[plan.operations == OPERATIONS.index("Rotate")]
    assert rotations.unique().tolist() == [-15, 15]
    assert (rotations > 0).double().mean() == pytest.approx(0.5, abs=0.06)
    translations = plan.magnitudes[plan.operations == OPERATIONS.index("TranslateX")]
    assert translations.unique().tolist() == [-7, 7]  # 150 / 331 of 32 pixels at most
    posterized = plan.magnitudes[plan.operations == OPERATIONS.index("Posterize")]
    assert posterized.unique().tolist() == [6]


def test_autoaugment_follows_its_policy():
    plan = draw_autoaugment(50_000, 32, 32, torch.Generator())
    assert len(CIFAR10_POLICY) == 25
    first, second = plan.operations
    names = [OPERATIONS.index(name) for name in ("Rotate", "TranslateX", "Identity")]
    # The second of 25 pairs alone rotates, with chance 0.7 and magnitude 2, then moves with 0.3.
    rotated = first == names[0]
    assert rotated.double().mean() == pytest.approx(0.7 / 25, abs=0.003)
    assert plan.magnitudes[0, rotated].abs().unique().tolist() == [pytest.approx(30 * 2 / 9)]
    assert (second[rotated] == names[1]).double().mean() == pytest.approx(0.3, abs=0.05)
    assert {*second[rotated].unique().tolist()} == {*names[1:]}


@pytest.mark.parametrize("side", [4, 5])
def test_cutout_is_its_slow_twin(side):
    pixels = images(count=90)
    centres = draw_cutout(90, 12, 16, torch.Generator())
    assert centres.amax(1).tolist() == [11, 15]
    assert centres.amin(1).tolist() == [0, 0]
    fill = torch.tensor([3.0, 5.0, 250.0])[:, None, None]
    found = cutout(pixels, centres, side, fill)
    for image, changed, row, column in zip(pixels, found, *centres.tolist(), strict=True):
        expected = image.clone()
        for down in range(max(0, row - side // 2), min(12, row - side // 2 + side)):
            for across in range(max(0, column - side // 2), min(16, column - side // 2 + side)):
                expected[:, down, across] = fill[:, 0, 0]
        assert torch.equal(changed, expected)


def data(count=23, channels=3):
    return ImageData(images(channels, count), torch.arange(count) % 5, tuple("abcde"))


def test_names_are_a_window_a_policy_and_cutout():
    assert len(AUGMENTATIONS) == 18
    named = {"none", "crop", "crop_flip", "crop_flip+cutout", "randaugment", "autoaugment+cutout"}
    assert named <= {*AUGMENTATIONS}


@pytest.mark.parametrize("augment", ["autoaugment", "crop+randaugment+cutout"])
def test_loader_augments_its_cropped_batches(augment):
    source = data()
    loader = Loader(source, 5, augment=augment, padding=2, seed=3)
    window = "crop" if augment.startswith("crop") else "none"
    plain = [*Loader(source, 5, augment=window, padding=2, seed=3).epoch(1)]
    for batch, before in zip(loader.epoch(1), plain, strict=True):
        assert torch.equal(batch.indices, before.indices)
        assert isinstance(batch.view, LossyView)
        assert len(batch.view) == len(batch)
        assert batch.inputs.dtype == torch.float32
        if "cutout" in augment:
            mean = torch.tensor(source.statistics()[0])[:, None, None]
            cut = (batch.inputs == mean).all(1).flatten(1).sum(1)
            assert (cut >= 9).all()  # a corner of a square of 6
            assert (cut <= 36).all()
    changed = [
        not torch.equal(one, other)
        for batch, before in zip(loader.epoch(1), plain, strict=True)
        for one, other in zip(batch.inputs, before.inputs, strict=True)
    ]
    assert sum(changed) >= 11


@pytest.mark.parametrize("augment", ["crop_flip+randaugment+cutout", "autoaugment"])
def test_resuming_sharing_and_seeds(augment):
    source = data()

    def inputs(seed=4, start=0, epoch=2, **ranks):
        loader = Loader(source, 4, augment=augment, seed=seed, **ranks)
        return [batch.inputs for batch in loader.epoch(epoch, start)]

    whole = inputs()
    torch.rand(3)  # the global random state plays no part
    assert all(map(torch.equal, whole[2:], inputs(start=2)))
    assert not torch.equal(whole[0], inputs(seed=5)[0])
    assert not torch.equal(whole[0], inputs(epoch=3)[0])
    shares = [inputs(rank=rank, world_size=2) for rank in (0, 1)]
    assert torch.equal(torch.cat([shares[0][1], shares[1][1]]), whole[1])


def test_example_memory_refuses_what_cannot_be_undone():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 12 * 16, 5))
    adversary = LayerwiseAdversary(0.1, sites="input", memory="example")
    (batch,) = Loader(data(), 23, augment="crop_flip+cutout").epoch(0)
    with adversary.attach(model):
        adversary.set_batch(batch.indices, batch.view)
        with pytest.raises(
            UnsupportedError, match=r"cannot be undone.*describe crops and flips.*slot"
        ):
            model(batch.inputs)
    with (slot := LayerwiseAdversary(0.1, sites="input")).attach(model):
        slot.set_batch(batch.indices, batch.view.select(torch.arange(3)).to("cpu"))
        model(batch.inputs[:3]).sum().backward()


def test_unknown_augmentations_are_refused():
    for augment in ("cutout+crop", "crop+flip", "crop+crop", "none+cutout", "+"):
        with pytest.raises(ConfigurationError, match="one of none, crop, crop_flip, then one"):
            Loader(data(), 5, augment=augment)
    with pytest.raises(ConfigurationError, match="have 2 channels and the policies are for 1 or 3"):
        next(Loader(data(channels=2), 5, augment="randaugment").epoch(0))
