"""The same weights give the same outputs in a library that has these networks."""

import pytest
import torch
import transformers

from advreg.models import build_model

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


@pytest.mark.parametrize("depth", [18, 50])
def test_resnet_beside_transformers(depth):
    kind = "bottleneck" if depth == 50 else "basic"
    expansion = 4 if depth == 50 else 1
    config = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8 * 2**stage * expansion for stage in range(4)],
        depths=[3, 4, 6, 3] if depth == 50 else [2, 2, 2, 2],
        layer_type=kind,
        num_labels=5,
    )
    other = unsettled(transformers.ResNetForImageClassification(config))
    state = {}
    for key, value in other.state_dict().items():
        name = key.removeprefix("resnet.").replace("embedder.embedder", "stem")
        name = name.replace("classifier.1", "linear").replace("shortcut.convolution", "shortcut.0")
        name = name.replace("shortcut.normalization", "shortcut.1")
        parts = name.split(".")
        if parts[0] == "encoder":  # encoder.stages.0.layers.0.layer.0.convolution.weight
            stage, block, rest = int(parts[2]) + 1, parts[4], parts[5:]
            if rest[0] == "layer":
                kind = "conv" if rest[2] == "convolution" else "norm"
                rest = [f"{kind}{int(rest[1]) + 1}", *rest[3:]]
            name = ".".join([f"layer{stage}", block, *rest])
        state[name.replace("convolution", "conv").replace("normalization", "norm")] = value
    model = build_model(f"resnet{depth}-imagenet", 5, width_factor=0.125, **PLAIN)
    model.load_state_dict({**model.state_dict(), **state})
    assert model.state_dict().keys() - state.keys() == {"normalize.mean", "normalize.std"}
    agree(model, other, 32)


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
