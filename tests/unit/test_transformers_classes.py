"""Default sites of transformers' classes, tiny and random: perturbed without a warning."""

import warnings

import pytest
import torch
import transformers
from transformers import CONFIG_MAPPING

from advreg import LayerwiseAdversary
from advreg.errors import AdvregWarning
from advreg.integrations.transformers.batches import sites_of


def words(text):
    return text.split()


WIDE = (
    "hidden_size d_model n_embd embedding_size emb_dim dim kv_channels",
    "num_hidden_layers n_layers n_layer num_layers encoder_layers decoder_layers",
    "num_attention_heads n_heads n_head num_heads encoder_attention_heads num_key_value_heads",
    "intermediate_size d_ff n_inner hidden_dim encoder_ffn_dim decoder_ffn_dim ffn_dim",
)
SIZES = {
    **dict.fromkeys(words(WIDE[0]), 16),
    **dict.fromkeys(words(WIDE[1]), 2),
    **dict.fromkeys([*words(WIDE[2]), "decoder_attention_heads"], 2),
    **dict.fromkeys(words(WIDE[3]), 32),
    **dict.fromkeys(["vocab_size", "max_position_embeddings", "n_positions"], 64),
    "head_dim": 8,
}
WINDOWS = {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "patch_size": 4}
PYRAMID = {"hidden_sizes": [8] * 4, "depths": [1] * 4, "num_attention_heads": [1] * 4}
BLOCKS = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
STAGES = {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1], "patch_size": 4}

TEXT = words(
    "albert bert big_bird biogpt bloom camembert convbert deberta deberta-v2 distilbert electra"
    " ernie flaubert fnet gemma gpt2 gpt_neox ibert llama longformer mistral mobilebert modernbert"
    " mpnet mpt nystromformer opt phi qwen2 rembert roberta roformer squeezebert xlm xlm-roberta"
    " yoso"
)
IMAGES = {
    **{name: {} for name in words("vit beit data2vec-vision dinov2 vit_msn ijepa")},
    **dict.fromkeys(words("swin swinv2 donut-swin"), WINDOWS),
    "focalnet": {
        "embed_dim": 8,
        "depths": [1, 1],
        "focal_levels": [1, 1],
        "focal_windows": [3, 3],
        "patch_size": 4,
    },
    **dict.fromkeys(["convnext", "convnextv2"], STAGES),
    "resnet": {**BLOCKS, "layer_type": "basic"},
    "regnet": BLOCKS,
    "bit": {**BLOCKS, "num_groups": 2},
    "mobilenet_v1": {"depth_multiplier": 0.1, "classifier_dropout_prob": 0.0},
    "mobilenet_v2": {"depth_multiplier": 0.1},
    "mobilevit": {
        "hidden_sizes": [16] * 3,
        "neck_hidden_sizes": [8, 8, 16, 16, 16, 16, 16],
        "patch_size": 2,
        "image_size": 64,
    },
    "cvt": {"embed_dim": [8, 16, 16], "num_heads": [1, 2, 2], "depth": [1, 2, 3]},
    "efficientnet": {"width_coefficient": 0.1, "depth_coefficient": 0.1, "hidden_dim": 128},
    "poolformer": {"hidden_sizes": [8] * 4, "depths": [1] * 4, "patch_sizes": [7, 3, 3, 3]},
    **{name: {**PYRAMID, "image_size": 64} for name in ["pvt", "pvt_v2"]},
    "segformer": {**PYRAMID, "decoder_hidden_size": 8},
    "swiftformer": {"depths": [1] * 4, "embed_dims": [8] * 4},
}
AUDIO = words(
    "wav2vec2 hubert wavlm sew sew-d unispeech unispeech-sat data2vec-audio wav2vec2-conformer"
    " whisper audio-spectrogram-transformer wav2vec2-bert"
)
SOUND = {
    "conv_dim": (8, 8),
    "conv_kernel": (10, 3),
    "conv_stride": (5, 2),
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "num_feat_extract_layers": 2,
    "squeeze_factor": 2,
    "classifier_proj_size": 8,
    "mask_time_prob": 0.0,
    "max_length": 64,
    "num_mel_bins": 16,
    "max_source_positions": 20,
    "feature_projection_input_dim": 16,
}
CASES = [
    *[("SequenceClassification", name, {}) for name in TEXT],
    *[("ImageClassification", name, sizes) for name, sizes in IMAGES.items()],
    *[("AudioClassification", name, SOUND) for name in AUDIO],
]


def build(task, name, sizes):
    """A network of a class with random weights, and a mini-batch for it."""
    usual, labels = CONFIG_MAPPING[name](), torch.tensor([0, 2])
    usable = SIZES | {"image_size": 32, "patch_size": 8, "num_channels": 3}
    if task == "SequenceClassification":
        usable = SIZES | {"pad_token_id": 0}
    chosen = {
        key: value
        for key, value in usable.items()
        if hasattr(usual, key) and not isinstance(getattr(usual, key), (list, tuple))
    }
    known = (
        sizes
        if task != "AudioClassification"
        else {k: v for k, v in sizes.items() if hasattr(usual, k)}
    )
    config = CONFIG_MAPPING[name](**chosen | known)
    config.num_labels = 3
    model = getattr(transformers, f"AutoModelFor{task}").from_config(config)
    if task == "SequenceClassification":
        return model, {"input_ids": torch.randint(3, 60, (2, 12)), "labels": labels}
    if task == "ImageClassification":
        size = getattr(config, "image_size", 32)
        size = size[0] if isinstance(size, (list, tuple)) else size
        return model, {"pixel_values": torch.randn(2, 3, size, size), "labels": labels}
    shape = {
        "whisper": (16, 40),
        "wav2vec2-bert": (20, 16),
        "audio-spectrogram-transformer": (64, 16),
    }
    key = "input_features" if name in ("whisper", "wav2vec2-bert") else "input_values"
    return model, {key: torch.randn(2, *shape.get(name, (400,))), "labels": labels}


@pytest.mark.full
@pytest.mark.parametrize(("task", "name", "sizes"), CASES, ids=lambda value: str(value)[:20])
def test_its_default_sites_are_perturbed_without_a_warning(task, name, sizes):
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    model, batch = build(task, name, sizes)
    model.train()
    adversary = LayerwiseAdversary(0.05, None if task == "ImageClassification" else sites_of(model))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", AdvregWarning)
        with adversary.attach(model):
            for _ in range(12):
                model(**batch).loss.backward()
            found = adversary.statistics()
    assert len(found) >= 2
    assert sum(site["records"] > 5 and site["zeros"] < 1 for site in found.values()) >= 2, found


def test_there_are_fifty_classes():
    assert len({name for _, name, _ in CASES}) >= 50
