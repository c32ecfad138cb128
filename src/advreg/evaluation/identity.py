"""Which network and which data figures belong to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from advreg.layerwise import adversary_of, unwrap_model


def content_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, types, shapes and bytes of tensors, whatever their device.

    Args:
        tensors: Such as a model's `state_dict`.
    """
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        value = value.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def is_detached(model: nn.Module) -> bool:
    """Whether no adversary is attached to the network."""
    return adversary_of(unwrap_model(model)) is None


def found_notes(model: nn.Module) -> list[str]:
    """What is wrong with a model that is about to be evaluated, and what is done about it."""
    notes = []
    if any(module.training for module in model.modules()):
        notes.append("The model was in training mode; it was put into evaluation mode to measure.")
    if not is_detached(model):
        notes.append("An adversary is attached to the model; in evaluation mode it does nothing.")
    return notes
