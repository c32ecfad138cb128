"""Images a second of three training loops: `advreg train`'s, a plain torch loop, Lightning's.

An epoch of each in turn, over the same images (crop and flip), with the same network and
optimizer. The plain loop and Lightning take what their users take, a `DataLoader` that crops and
flips image by image in this process; beside it a plain loop over images that are augmented as a
mini-batch, as ours are.

    python benchmarks/loops.py

The result file is benchmarks/results/loops.json.
"""

from __future__ import annotations

import copy
import logging
import tempfile
import warnings
from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from harness import RESULTS, arguments, count, figures, result_file, run, write
from loop_steps import in_turn, loop_epoch, made_session
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from advreg.training.builders import build_optimizer
from advreg.training.session import Session

PLAIN = "plain torch loop"


class Images(Dataset[Any]):
    """The session's images, each cropped and flipped by itself."""

    def __init__(self, session: Session) -> None:
        self.data = session.loader.data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = F.pad(self.data.images[index].float() / 255, (4, 4, 4, 4))
        top, left = torch.randint(9, (2,)).tolist()
        image = image[:, top : top + 32, left : left + 32]
        return image.flip(-1) if torch.rand(()) < 0.5 else image, self.data.targets[index]


def plain_epoch(session: Session, batches: Callable[[], Any]) -> Callable[[], None]:
    """An epoch of the loop that torch's tutorials have."""
    model = copy.deepcopy(session.model).train()
    optimizer = build_optimizer(session.configuration.optimizer, model)

    def epoch() -> None:
        total, right = 0.0, 0
        for inputs, targets in batches():
            logits = model(inputs)
            loss = F.cross_entropy(logits, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
            right += int((logits.argmax(1) == targets).sum())

    return epoch


def lightning_epoch(session: Session, loader: DataLoader[Any]) -> Callable[[], None]:
    """An epoch of Lightning's loop; what `fit` does before and after it is part of it."""
    from lightning import LightningModule, Trainer

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")

    class Network(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = copy.deepcopy(session.model)

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            return F.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return build_optimizer(session.configuration.optimizer, self.network)

    module, quiet = Network(), {"logger": False, "enable_checkpointing": False}
    quiet |= {"enable_progress_bar": False, "enable_model_summary": False}

    def epoch() -> None:
        Trainer(max_epochs=1, accelerator="cpu", **quiet).fit(module.train(), loader)

    return epoch


def measure(options: Namespace) -> dict[str, Any]:
    """Seconds of an epoch of each loop, in turn, and their ratios to the plain loop's."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        session = made_session(folder, options)
        loader = DataLoader(Images(session), options.batch_size, shuffle=True, drop_last=True)

        def whole_batches() -> Any:
            return ((b.inputs, b.targets) for b in map(session.prepare, session.loader.epoch(0)))

        arms = {
            PLAIN: plain_epoch(session, lambda: loader),
            "plain torch loop, mini-batches augmented": plain_epoch(session, whole_batches),
            "Lightning": lightning_epoch(session, loader),
        }
        stack.enter_context(session.attached())
        arms["advreg train"] = loop_epoch(session, folder, stack)
        seconds = in_turn(arms, options)
    found = figures(seconds, PLAIN)
    images = options.steps * options.batch_size
    for label, row in found.items():
        row["images a second"] = images / sorted(seconds[label])[len(seconds[label]) // 2]
    return found


def main() -> None:
    """Reads the options, measures and writes the result file."""
    parser = arguments(__doc__ or "", rounds=20, batch_size=128, threads=1)
    parser.add_argument("--model", default="resnet20", help="a name of advreg.models (resnet20)")
    parser.add_argument("--steps", type=count, default=8, help="mini-batches an epoch (8)")
    parser.add_argument("--out", type=result_file, default=RESULTS / "loops.json")
    options = parser.parse_args()
    write(options.out, vars(options), loops=measure(options))


if __name__ == "__main__":
    run(main)
