"""Under Lightning: a callback is layerwise training, a mixin is any method that owns its passes.

The LightningModule, its training step and its data loader stay as they are. For the callback's
example memory the data set is wrapped, so that mini-batches carry the numbers of their examples.

pip install 'advreg[lightning,data]'
python examples/lightning_digits.py [EPOCHS]
"""

import logging
import sys
import warnings

import lightning
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from advreg.data import with_indices
from advreg.integrations.lightning import AdversaryCallback, MethodMixin
from advreg.methods import build_method


class Classifier(lightning.LightningModule):
    """Any LightningModule: nothing in it knows of advreg."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Conv2d(1, 32, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(32, 64, 3, stride=2, padding=1),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(64 * 4 * 4, 10),
        )

    def forward(self, images):
        return self.net(images)

    def training_step(self, batch, batch_idx):
        images, classes = batch
        return F.cross_entropy(self(images), classes)

    def validation_step(self, batch, batch_idx):
        images, classes = batch
        self.log("accuracy", (self(images).argmax(1) == classes).float().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class FGSMClassifier(MethodMixin, Classifier):
    """The same by FGSM training, whose two backward passes Lightning cannot run."""

    def __init__(self) -> None:
        super().__init__()
        self.method = build_method("fgsm", epsilon=0.2, input_range=(0, 1))


def loaders():
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
    classes = torch.tensor(digits.target)
    train = with_indices(TensorDataset(images[:512], classes[:512]))  # the one line for the data
    test = TensorDataset(images[512:], classes[512:])
    return DataLoader(train, 64, shuffle=True), DataLoader(test, 512)


def fit(model, callbacks, epochs):
    torch.manual_seed(0)
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, *loaders())
    return trainer.callback_metrics["accuracy"].item()


def main(epochs: int = 20) -> float:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")  # digits need no workers
    torch.manual_seed(0)
    adversary = AdversaryCallback(
        epsilon=0.2, memory="example", input_range=(0, 1), module="net"
    )  # the one line for the trainer
    layerwise = fit(Classifier(), [adversary], epochs)
    print(f"layerwise, example memory: test accuracy {layerwise:.2%}")
    print(adversary.adversary.statistics())

    torch.manual_seed(0)
    fgsm = fit(FGSMClassifier(), [], epochs)
    print(f"FGSM training: test accuracy {fgsm:.2%}")
    return min(layerwise, fgsm)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
