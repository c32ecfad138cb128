"""Semantic 11: networks of the transformers library."""

import pytest
import torch
from settings import sgd

from advreg import LayerwiseAdversary


def vit():
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(
        ViTConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            image_size=8,
            patch_size=4,
            num_labels=3,
        )
    ), {"pixel_values": torch.rand(4, 3, 8, 8)}


def bert():
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(
        BertConfig(
            vocab_size=20,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=16,
            num_labels=3,
        )
    ), {"input_ids": torch.randint(0, 20, (4, 6))}


@pytest.mark.parametrize("checkpoints", [False, True], ids=["plain", "checkpoints"])
@pytest.mark.parametrize("build", [vit, bert])
def test_transformers(build, checkpoints):
    pytest.importorskip("transformers", reason="needs the transformers extra")
    torch.manual_seed(0)
    model, batch = build()
    model.train()
    if checkpoints:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    keys = list(model.state_dict())
    adversary = LayerwiseAdversary(0.05)
    optimizer = sgd(model)
    targets = torch.tensor([0, 1, 2, 0])
    with adversary.attach(model):
        for _ in range(4):
            output = model(**batch, labels=targets)
            output.loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        statistics = adversary.statistics()
        assert list(model.state_dict()) == keys
    blocks = [name for name in statistics if name[-1].isdigit()]
    assert len(blocks) >= 2
    assert ("input" in statistics) == (build is vit)
    for site in statistics.values():
        assert site["runs"] == site["records"] == 4
        assert site["resets"] == 0
    # Of the last block only the token that is classified has a gradient.
    assert min(site["zeros"] for site in statistics.values()) < 0.1
