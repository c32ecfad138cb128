"""A vision transformer, trained by `Trainer` with FGSM: a method that owns its backward passes.

pip install 'advreg[transformers,data]'
python examples/transformers_vision.py [STEPS]
"""

import sys
import tempfile

import torch
from sklearn.datasets import load_digits
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

from advreg.integrations.transformers import MethodMixin
from advreg.methods import build_method


class MethodTrainer(MethodMixin, Trainer):
    """`Trainer` whose steps are a method's."""


def main(steps: int = 320) -> float:
    torch.manual_seed(0)
    digits = load_digits()
    rows = [
        {"pixel_values": torch.tensor(image / 16, dtype=torch.float32)[None], "labels": int(label)}
        for image, label in zip(digits.images, digits.target, strict=True)
    ]
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = ViTForImageClassification(
        ViTConfig(
            image_size=8,
            patch_size=2,
            num_channels=1,
            intermediate_size=96,
            num_labels=10,
            **sizes,
        )
    )

    with tempfile.TemporaryDirectory() as folder:
        trainer = MethodTrainer(
            method=build_method("fgsm", epsilon=0.05, input_range=(0, 1)),
            model=model,
            args=TrainingArguments(
                folder,
                max_steps=steps,
                per_device_train_batch_size=64,
                per_device_eval_batch_size=512,
                learning_rate=3e-3,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
            ),
            train_dataset=rows[:1200],
            eval_dataset=rows[1200:],
            compute_metrics=lambda found: {
                "accuracy": float((found.predictions.argmax(1) == found.label_ids).mean())
            },
        )
        trainer.train()
        accuracy: float = trainer.evaluate()["eval_accuracy"]
    print(f"test accuracy {accuracy:.2%}")
    return accuracy


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
