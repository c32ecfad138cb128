"""What a mini-batch of transformers says: which part is the input, and which positions count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from advreg.layerwise import register_site_rule


def takes_tokens(network: Any) -> bool:
    """Whether a network's main input are tokens, which cannot be perturbed themselves."""
    return getattr(network, "main_input_name", None) == "input_ids" and (
        embedding_of(network) is not None
    )


def embedding_of(network: Any) -> nn.Module | None:
    """The module that embeds tokens; None where there is none."""
    try:
        found = network.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    return found if isinstance(found, nn.Module) else None


def sites_of(network: nn.Module) -> list[str]:
    """The sites where none are named: for tokens the embeddings' output stands for the input."""
    if takes_tokens(network):
        return ["@embeddings", "@hidden"]
    if any(getattr(module, "_requires_grad", None) is True for module in network.modules()):
        # Feature encoders of audio set `requires_grad` on their input, which then must be a leaf.
        return ["@hidden"]
    return ["@default"]


@register_site_rule("embeddings", default=True)
def embeddings(network: nn.Module) -> list[str]:
    """The modules that embed a transformers network's tokens, an encoder's and a decoder's."""
    weight = getattr(embedding_of(network), "weight", None)
    modules = network.named_modules()
    return [
        name
        for name, module in modules
        if weight is not None
        and getattr(module, "weight", None) is weight
        and isinstance(module, nn.Embedding)
    ]


def masks_of(network: Any, batch: Mapping[str, Any], sites: Iterable[str]) -> Any:
    """Where the sites are perturbed, (B, L), as `LayerwiseAdversary.set_batch` takes it.

    Args:
        network: Whose configuration says whether it has a decoder of its own.
        batch: Its keyword arguments: the attention mask leaves padding out, in a decoder its own
            mask or the labels that the loss ignores.
        sites: Their names.
    """
    mask = _mask(batch.get("attention_mask"))
    if not getattr(getattr(network, "config", None), "is_encoder_decoder", False):
        return mask
    decoder, labels = _mask(batch.get("decoder_attention_mask")), batch.get("labels")
    if decoder is None and isinstance(labels, Tensor) and labels.dim() == 2:
        decoder = labels != -100
    # A module outside of both, such as embeddings that they share, is called by both in turn.
    both = (mask, decoder)
    masks: dict[str, Any] = {}
    for name in sites:
        inside = [part for part in ("encoder", "decoder") if part in name.split(".")]
        masks[name] = both if not inside else mask if inside == ["encoder"] else decoder
    return {name: found for name, found in masks.items() if found is not None}


def _mask(value: Any) -> Tensor | None:
    """A mask with an entry a position; masks of pairs of positions leave none out."""
    return value != 0 if isinstance(value, Tensor) and value.dim() == 2 else None
