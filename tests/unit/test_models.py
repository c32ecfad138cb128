import pytest
import torch
import transformers
from torch import nn

from advreg.errors import ConfigurationError, DataError
from advreg.layerwise import default_sites
from advreg.models import MODELS, Normalize, build_model
from advreg.models.preact import PreActResNet
from advreg.models.resnet import BasicBlock
from advreg.models.vit import VisionTransformer
from advreg.models.wideresnet import PreactivationBlock

# Exact counts for ten classes and three channels, and millions as the papers round them.
COUNTS = {
    "convnet": (76_010, None),
    "resnet8": (75_290, None),
    "resnet20": (269_722, "0.27"),
    "resnet32": (464_154, "0.46"),
    "resnet44": (658_586, "0.66"),
    "resnet56": (853_018, "0.85"),
    "resnet110": (1_727_962, "1.7"),
    "wrn-16-4": (2_748_890, "2.7"),
    "wrn-28-10": (36_479_194, "36.5"),
    "wrn-34-10": (46_160_474, "46.16"),
    "resnet18": (11_173_962, "11.17"),
    "preactresnet18": (11_172_170, "11.17"),
    # With 1,000 classes torchvision's 11,689,512 and 25,557,032.
    "resnet18-imagenet": (11_181_642, None),
    "resnet50-imagenet": (23_528_522, None),
    "vit-tiny": (5_362_762, None),
    "vgg11": (9_228_362, None),
    "vgg16": (14_724_042, None),
    "alexnet": (2_472_266, None),
}
SMALL = [name for name in MODELS if name not in ("resnet110", "resnet56")]
FACTORS = {"wrn-28-10": 0.1, "wrn-34-10": 0.1, "resnet18": 0.125, "preactresnet18": 0.125,
           "resnet18-imagenet": 0.125, "resnet50-imagenet": 0.125, "vit-tiny": 0.125}  # fmt: skip
"""Widths that a test has time for."""


def on_meta(name, *args, **settings):
    with torch.device("meta"):
        return build_model(name, *args, **settings)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameter_counts_are_those_of_the_papers_and_repositories():
    assert {name: count(on_meta(name, 10)) for name in MODELS} == {
        name: exact for name, (exact, _) in COUNTS.items()
    }
    for exact, millions in COUNTS.values():
        if millions is not None:
            assert f"{exact / 1e6:.{len(millions.split('.')[1])}f}" == millions
    assert count(on_meta("resnet18-imagenet", 1000)) == 11_689_512  # torchvision's
    assert count(on_meta("resnet50-imagenet", 1000)) == 25_557_032
    with torch.device("meta"):
        vit = VisionTransformer(1000, 3, image_size=224, patch=16)  # DeiT's tiny one
        assert count(vit) == 5_717_416
        assert count(PreActResNet(10, 3, final_norm=False)) == 11_171_146


def test_width_factor_keeps_depth_and_sites():
    for name in ("wrn-28-10", "resnet18", "resnet50-imagenet", "vit-tiny"):
        small, full = on_meta(name, 10, width_factor=FACTORS[name]), on_meta(name, 10)
        assert count(small) < count(full) / 20
        assert default_sites(small) == default_sites(full)


def test_vit_refuses_images_of_another_size():
    model = build_model("vit-tiny", 10, width_factor=0.125)
    with pytest.raises(DataError, match="have 4 patches and the network was built for 64"):
        model(torch.rand(2, 3, 8, 8))


def test_vgg_with_the_papers_linear_layers_has_the_papers_count():
    # Simonyan and Zisserman, table 2: their convolutions and biases, ours before the linear layer
    # without the normalisation's scale, and their three linear layers.
    for name, millions in (("vgg11", 133), ("vgg16", 138)):
        model = on_meta(name, 10)
        scales = sum(len(m.weight) for m in model.modules() if isinstance(m, nn.BatchNorm2d))
        convolutions = count(model.blocks) - scales
        linear = (512 * 49 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 1000
        assert round((convolutions + linear) / 1e6) == millions


# VGG has one linear layer where the paper has three.
DEPTHS = {"vgg11": 11 - 2, "vgg16": 16 - 2, "resnet20": 20, "resnet110": 110, "alexnet": 6}


def test_depth_counts_layers_with_weights():
    for name, depth in DEPTHS.items():
        layers = [m for m in on_meta(name, 10).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        assert len(layers) == depth, name


@pytest.mark.parametrize("name", SMALL)
def test_maps_images_to_logits_and_trains(name):
    model = build_model(name, 7, width_factor=FACTORS.get(name, 1.0))
    assert isinstance(next(model.children()), Normalize)
    assert model.input_range == (0.0, 1.0)
    inputs = torch.rand(2, 3, 32, 32)
    logits = model(inputs)
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()
    nn.functional.cross_entropy(logits, torch.tensor([0, 3])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert learns(model, inputs)


def learns(model, inputs):
    """Whether a few steps at a usual rate bring the loss down, which also needs a good start."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        losses.append(nn.functional.cross_entropy(model(inputs), torch.tensor([0, 3])))
        losses[-1].backward()
        optimizer.step()
    return losses[-1] < losses[0]


def test_small_grey_images():
    for name in ("convnet", "resnet20", "wrn-16-4", "resnet18", "preactresnet18", "vit-tiny"):
        factor = FACTORS.get(name, 1.0)
        for size in (8, 28):
            model = build_model(name, 10, in_channels=1, image_size=size, width_factor=factor)
            assert model(torch.rand(2, 1, size, size)).shape == (2, 10)


def test_convnet_is_the_first_studys():
    convolutions = [m for m in build_model("convnet", 10).modules() if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [32, 32, 64, 64]
    assert [m.stride[0] for m in convolutions] == [1, 1, 2, 1]


def test_activations_keep_their_scale_at_the_start():
    # He's initialisation keeps AlexNet's activations alive without normalisation layers.
    model = build_model("alexnet", 10)
    for block in list(model.blocks)[1:3]:
        inputs = torch.randn(16, block.conv.in_channels, 8, 8)
        output = block.conv(inputs)[:, :, 3:5, 3:5]  # away from the padding
        assert 1.3 < output.std() < 1.55  # sqrt(2), which ReLU brings back to 1
    assert all((m.bias == 0).all() for m in model.modules() if isinstance(m, nn.Conv2d))


def test_residual_block_without_residual_is_the_shortcut():
    block = BasicBlock(4, 8, 2)
    nn.init.zeros_(block.norm2.weight)
    inputs = torch.rand(2, 4, 6, 6)
    output = block(inputs)
    assert torch.equal(output[:, :4], inputs[:, :, ::2, ::2])
    assert not output[:, 4:].any()


def test_preactivation_block_projects_the_activated_input():
    block = PreactivationBlock(4, 8, 2).eval()
    nn.init.zeros_(block.conv2.weight)
    inputs = torch.randn(2, 4, 6, 6)
    expected = block.shortcut(torch.relu(block.norm1(inputs)))
    assert torch.equal(block(inputs), expected)
    same = PreactivationBlock(4, 4, 1)
    nn.init.zeros_(same.conv2.weight)
    assert torch.equal(same(inputs), inputs)


def test_normalize_uses_the_data_sets_constants():
    model = build_model("convnet", 10, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0))
    inputs = torch.rand(2, 3, 8, 8)
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0, 4.0])
    expected = (inputs - mean[:, None, None]) / std[:, None, None]
    assert torch.allclose(model.normalize(inputs), expected)
    assert {"normalize.mean", "normalize.std"} <= model.state_dict().keys()
    assert not any("normalize" in name for name, _ in model.named_parameters())
    assert torch.equal(Normalize(2)(torch.tensor([0.5, 0.75]).reshape(1, 2, 1, 1)).flatten(),
                       torch.tensor([0.0, 1.0]))  # fmt: skip


def test_what_cannot_work_is_refused():
    for settings, mend in (
        ({"name": "resnet19"}, r"no model 'resnet19'; choose one of convnet, resnet8, resnet20"),
        ({"num_classes": 1}, "num_classes is 1; give a whole number of at least 2"),
        ({"num_classes": 10.0}, "whole number"),
        ({"in_channels": 0}, "in_channels is 0"),
        ({"name": "vgg16", "image_size": 28}, "vgg16 needs images of at least 32 pixels"),
        ({"name": "alexnet", "image_size": 8}, "choose convnet"),
        ({"image_size": 4}, "at least 8 pixels"),
        ({"name": "resnet18-imagenet", "image_size": 28}, "at least 32 pixels"),
        ({"name": "vit-tiny", "image_size": 30}, "image_size is 30; give a multiple of"),
        ({"name": "resnet18", "width_factor": 0.0}, "width_factor is 0.0; give a number above 0"),
        ({"width_factor": 0.5}, "convnet has one width only; .* choose one of resnet18, preact"),
        ({"mean": (0.5, 0.5)}, "mean has 2 numbers and the input 3 channels"),
        ({"std": 0.0}, "standard deviations above 0"),
        ({"mean": float("nan")}, "give finite numbers"),
    ):
        with pytest.raises(ConfigurationError, match=mend):
            build_model(**{"name": "convnet", "num_classes": 10, **settings})


PLAIN = {"mean": 0.0, "std": 1.0}
THEIRS = {
    "cls_token": "token",
    "position_embeddings": "position",
    "patch_embeddings.projection": "conv",
    "layers.": "blocks.",
    "o_proj": "proj",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "layernorm": "norm",
    "fc1": "0",
    "fc2": "2",
    "classifier": "linear",
}
"""Transformers' names of a vision transformer's parts, and ours."""


def agree(model, other, size):
    """Equal logits in evaluation mode of 3 images."""
    images = torch.rand(3, 3, size, size)
    with torch.no_grad():
        found = other.eval()(images)
        found = getattr(found, "logits", found)
        torch.testing.assert_close(model.eval()(images), found, rtol=1e-4, atol=1e-5)


def unsettled(model):
    """The model, its norms no longer 0 and 1, its matrices large enough for attention to choose."""
    for name, value in model.state_dict().items():
        if value.ndim == 2:
            value.normal_(std=2 / value.shape[1] ** 0.5)
        if value.is_floating_point() and value.ndim == 1:
            noise = torch.rand_like(value) / 2
            value.copy_(0.5 + noise if name.endswith(("var", "weight")) else noise)
    return model


def test_vit_beside_transformers():
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=12, num_attention_heads=3, intermediate_size=96,
        image_size=16, patch_size=4, layer_norm_eps=1e-6, num_labels=5,
    )  # fmt: skip
    other = unsettled(transformers.ViTForImageClassification(config))
    state = {}
    for key, value in other.state_dict().items():
        name = key.replace("vit.embeddings.", "stem.").removeprefix("vit.")
        for theirs, ours in THEIRS.items():
            name = name.replace(theirs, ours)
        state[name] = value
    for name in [name for name in state if ".q_proj." in name]:
        parts = [state.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        state[name.replace("q_proj", "qkv")] = torch.cat(parts)
    model = build_model("vit-tiny", 5, image_size=16, width_factor=0.125, **PLAIN)
    model.load_state_dict({**model.state_dict(), **state})
    assert model.state_dict().keys() - state.keys() == {"normalize.mean", "normalize.std"}
    agree(model, other, 16)
