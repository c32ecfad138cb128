"""A text classifier, trained by `Trainer` with an adversary: one line more than plain training.

pip install 'advreg[transformers]'
python examples/transformers_text.py [STEPS]

The network has random weights and the texts are made up, so that it runs without a network: with a
network of the hub and a data set of your own, the line with the callback stays as it is.
"""

import sys
import tempfile

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

import advreg
from advreg.integrations.transformers import AdversaryCallback

SUBJECTS = ["the film", "the book", "this play", "the song", "that long story"]
GOOD = ["great", "lovely", "clever", "moving", "good fun"]
BAD = ["dull", "poor", "weak", "a bore", "too long and flat"]


def texts() -> list[tuple[str, int]]:
    """Sentences and whether they praise."""
    return [
        (f"{subject} is {middle} {word}", label)
        for subject in SUBJECTS
        for middle in ("", "really", "in the end")
        for label, words in enumerate((BAD, GOOD))
        for word in words
    ]


def build_tokenizer(sentences: list[str]) -> PreTrainedTokenizerFast:
    """A token for each word."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[PAD]", "[UNK]", *sorted({word for line in sentences for word in line.split()})]
    own = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=own, pad_token="[PAD]", unk_token="[UNK]")


def main(steps: int = 40) -> float:
    torch.manual_seed(0)
    pairs = texts()
    tokenizer = build_tokenizer([line for line, _ in pairs])
    rows = [{**tokenizer(line), "labels": label} for line, label in pairs]
    train = [row for number, row in enumerate(rows) if number % 7]
    test = rows[::7]
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = BertForSequenceClassification(
        BertConfig(vocab_size=len(tokenizer), intermediate_size=64, num_labels=2, **sizes)
    )

    adversary = advreg.LayerwiseAdversary(epsilon=0.05)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                folder,
                max_steps=steps,
                per_device_train_batch_size=16,
                learning_rate=3e-3,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
            ),
            train_dataset=train,
            eval_dataset=test,
            # Slot memory wants mini-batches of one length; the padding itself is not perturbed.
            data_collator=DataCollatorWithPadding(tokenizer, padding="max_length", max_length=12),
            compute_metrics=lambda found: {
                "accuracy": float((found.predictions.argmax(1) == found.label_ids).mean())
            },
            callbacks=[AdversaryCallback(adversary)],
        )
        trainer.train()
        accuracy: float = trainer.evaluate()["eval_accuracy"]
    for site, figures in adversary.statistics().items():
        print(site, figures)
    print(f"test accuracy {accuracy:.2%}")
    return accuracy


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
