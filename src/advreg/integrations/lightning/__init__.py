"""Lightning: an adversary as a callback, and a mixin for methods that own their backward pass.

Works with the packages `lightning` and `pytorch_lightning`.
"""

from advreg.integrations.lightning.callback import AdversaryCallback
from advreg.integrations.lightning.mixin import MethodMixin

__all__ = ["AdversaryCallback", "MethodMixin"]
