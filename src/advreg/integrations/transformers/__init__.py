"""Hugging Face transformers: an adversary or a method in `Trainer` and trainers made of it."""

from advreg.integrations.transformers.callback import AdversaryCallback
from advreg.integrations.transformers.mixin import MethodMixin

__all__ = ["AdversaryCallback", "MethodMixin"]
