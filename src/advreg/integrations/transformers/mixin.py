"""The methods that own their backward pass, such as FGSM, in `Trainer` and trainers made of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from advreg.batch import Batch
from advreg.data.indices import INDEX_KEY
from advreg.errors import ConfigurationError, DataError
from advreg.inputs import logits_of
from advreg.integrations.transformers.batches import embedding_of, takes_tokens
from advreg.integrations.transformers.callback import AdversaryCallback
from advreg.methods import Method


class MethodMixin:
    """Trains by a method of `advreg.methods`: `class MyTrainer(MethodMixin, Trainer)`.

    `MyTrainer(method=build_method("fgsm", epsilon=0.05), model=..., args=...)` is used as `Trainer`
    is. Accumulation, half precision, clipping and checkpoints are the trainer's own. Images and
    other floating-point inputs are perturbed themselves; of tokens their embeddings are, through
    which the embeddings' weights are trained too. `method.replays` optimizer steps are made on a
    mini-batch.

    Args:
        method: The method.
        arguments: The trainer's.
        named: The trainer's.
    """

    def __init__(self, *arguments: Any, method: Method, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.method = method
        self._calls = _MethodCallback(method)
        self.add_callback(self._calls)  # type: ignore[attr-defined]

    def training_step(
        self: Any, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """The method's passes on one mini-batch.

        Returns:
            The loss, scaled as `Trainer` scales it for accumulation.

        Raises:
            ConfigurationError: The trainer's settings do not fit the method.
            DataError: The mini-batch lacks its labels or its input.
        """
        model.train()
        if callable(getattr(self.optimizer, "train", None)):
            self.optimizer.train()
        task = MethodTask(self, self._prepare_inputs(inputs), num_items_in_batch)
        steps = 1 if task.scaled else self.current_gradient_accumulation_steps
        if self.method.replays > 1 and self.args.gradient_accumulation_steps > 1:
            raise ConfigurationError(
                f"Method {self.method.name!r} makes an optimizer step each time that it replays a"
                " mini-batch; set gradient_accumulation_steps to 1."
            )

        def backward(loss: Tensor) -> None:
            self.accelerator.backward(loss / steps)

        with self.compute_loss_context_manager(), self._calls.of(task):
            for replay in range(self.method.replays):
                if replay:
                    if self.args.max_grad_norm:
                        parameters = model.parameters()
                        self.accelerator.clip_grad_norm_(parameters, self.args.max_grad_norm)
                    self.optimizer.step()
                    model.zero_grad()
                output = self.method.step(model, task.batch, task.criterion, backward)
        return output.loss / steps


class _MethodCallback(AdversaryCallback):
    """Attaches a method, whose calls of the network with one input have the whole mini-batch."""

    def __init__(self, method: Any) -> None:
        super().__init__(method)
        self._task: MethodTask | None = None

    def _attach(self, network: nn.Module, loader: Any) -> None:
        steps = len(loader) if hasattr(loader, "__len__") else None
        self._handles.append(self.part.attach(network, steps_per_epoch=steps))
        self._before_each_call(network, self._complete)

    @contextmanager
    def of(self, task: MethodTask) -> Iterator[None]:
        """Within it, the mini-batch is this one."""
        self._task = task
        try:
            yield
        finally:
            self._task = None

    def _complete(self, network: nn.Module, args: Any, kwargs: Any) -> Any:
        return None if self._task is None else self._task.complete(args, kwargs)


class MethodTask:
    """A mini-batch of keyword arguments as a method sees it: one input, targets, a criterion.

    Args:
        trainer: Whose settings say how the loss is computed.
        inputs: The mini-batch.
        num_items: As `Trainer` counts the labels of an accumulated mini-batch.

    Attributes:
        batch: What the method's step takes.
        scaled: Whether the criterion divides by `num_items`, and not by this mini-batch's labels.
    """

    def __init__(self, trainer: Any, inputs: dict[str, Any], num_items: Any) -> None:
        if trainer.label_smoother is not None:
            raise ConfigurationError(
                "label_smoothing_factor cannot be combined with a method; leave it out, or use the"
                " method 'label_smoothing'."
            )
        self._rest, network = dict(inputs), trainer.method.network
        self._config: Any = network.config
        self._loss: Any = trainer.compute_loss_func
        self._name = network.main_input_name
        label = next((name for name in trainer.label_names if name in inputs), "labels")
        missing = [name for name in (self._name, label) if name not in inputs]
        if missing:
            raise DataError(
                f"The mini-batch has {', '.join(inputs)} and no {' and '.join(missing)}; give the"
                " network's main input and the labels."
            )
        main = self._rest.pop(self._name)
        self._targets, indices = self._rest[label], self._rest.pop(INDEX_KEY, None)
        self._items = num_items
        self.scaled = self._loss is not None or (
            trainer.model_accepts_loss_kwargs and num_items is not None
        )
        if self._loss is not None:
            del self._rest[label]
        elif self.scaled:
            self._rest["num_items_in_batch"] = num_items
        self._tokens = main if takes_tokens(network) else None
        self._embed: Any = embedding_of(network)
        if self._tokens is not None:
            main = self._embedded().detach()
        self._clean = main
        self.batch = Batch(main, self._targets, indices)

    def _embedded(self) -> Tensor:
        found: Tensor = self._embed(self._tokens)
        return found

    def complete(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The arguments of a call with one input alone: those of the whole mini-batch."""
        if kwargs or len(args) != 1:
            return None
        if self._tokens is None:
            return (), {self._name: args[0], **self._rest}
        # The same numbers as the input, and the embeddings' weights have their gradient as well.
        embedded = self._embedded()
        moved = embedded + (args[0] - self._clean).to(embedded.dtype)
        return (), {"inputs_embeds": moved, **self._rest}

    def criterion(self, outputs: Any, targets: Tensor) -> Tensor:
        """The loss that the trainer computes; of other targets, as mixup has, one of its kind.

        Raises:
            ConfigurationError: A loss of other targets is not known.
        """
        if self._loss is not None and not isinstance(outputs, Tensor):
            loss: Tensor = self._loss(outputs, targets, num_items_in_batch=self._items)
            return loss
        if targets is self._targets and not isinstance(outputs, (Tensor, tuple)):
            found: Tensor = outputs["loss"]
            return found
        logits = logits_of(outputs)
        kind = getattr(self._config, "problem_type", None)
        if kind == "regression":
            loss = F.mse_loss(logits.squeeze(), targets.squeeze().to(logits.dtype))
        elif kind == "multi_label_classification":
            loss = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))
        elif logits.dim() == 2:
            loss = F.cross_entropy(logits, targets)
        else:
            raise ConfigurationError(
                "The method changes the targets, which is known for classification and regression"
                " of whole examples alone; use another method, or give compute_loss_func."
            )
        return loss * len(logits) / self._items if self.scaled and self._loss is None else loss
