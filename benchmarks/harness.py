"""What the scripts here share: options, networks, plain steps, and result files."""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from itertools import cycle
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from advreg import Batch, LayerwiseAdversary
from advreg.errors import AdvregError
from advreg.files import check_folder, replace_file
from advreg.layerwise import default_sites
from advreg.models import MODELS
from advreg.progress import Clock, ProgressBar
from advreg.study.cost import Cost, Seconds, Step, device_clock, relative, time_steps
from advreg.study.environment import environment
from advreg.study.peak import Build
from advreg.study.plan import Outcome

RESULTS = Path(__file__).parent / "results"

Compile = Callable[[nn.Module], Callable[[Tensor], Tensor]]

PLAIN, WITH_INPUT = "plain", "plain with the input's gradient"
"""What arms are divided by: steps without a perturbation."""

CONSOLE = Console(highlight=False, soft_wrap=True, force_terminal=sys.stdout.isatty())


def count(text: str) -> int:
    """A number of things, at least one."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1; give one")
    return int(text)


def known_models(text: str) -> str:
    """Names of networks, with commas between them, before the first of them is measured."""
    for name in text.split(","):
        if name not in MODELS:
            choices = ", ".join(MODELS)
            raise argparse.ArgumentTypeError(f"there is no model {name!r}; choose from {choices}")
    return text


def result_file(text: str) -> Path:
    """A file that can be written once the figures are there."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a folder; name a file")
    check_folder(path.parent)
    return path


def labelled(text: str) -> tuple[str, list[str]]:
    """A label and the runs that it stands for."""
    label, _, paths = text.rpartition("=")
    if not label or not all(paths.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is not LABEL=RUN,RUN,...; give it so")
    return label, paths.split(",")


def present_file(text: str) -> str:
    """A file that is there."""
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text!r}")
    return text


KINDS: dict[str, Callable[[str], Any]] = {"models": known_models}


def run(main: Callable[[], None]) -> None:
    """Runs a script; a mistake is one sentence and exit code 2, an interrupt 130."""
    try:
        main()
    except AdvregError as error:
        sys.exit(_said(f"error: {error}", 2))
    except KeyboardInterrupt:
        sys.exit(_said("interrupted; result files are whole, as they last were", 130))


def _said(sentence: str, code: int) -> int:
    print(sentence, file=sys.stderr)
    return code


def arguments(description: str, **defaults: Any) -> argparse.ArgumentParser:
    """A parser with the options that scripts share; those without a default are left out."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    texts = {
        "models": "names of advreg.models, with commas between them",
        "rounds": "how often each arm has its turn, at least 20",
        "repeats": "steps a turn",
        "batch_size": "images in a mini-batch",
        "threads": "threads of the CPU",
        "device": "cpu or cuda",
        "out": "the result file",
    }
    for name, value in defaults.items():
        kind = KINDS.get(name, count if isinstance(value, int) else str)
        parser.add_argument(f"--{name}", type=kind, default=value, help=f"{texts[name]} ({value})")
    return parser


def step_of(
    stack: ExitStack,
    model: nn.Module,
    batches: tuple[Batch, ...],
    adversary: LayerwiseAdversary | None = None,
    *,
    input_gradient: bool = False,
    compile_as: Compile | None = None,
    amp: bool = False,
) -> Step:
    """A training step of a network's copy in the simplest loop there is.

    Without an adversary nothing of this package touches the copy, so that the baseline is plain
    PyTorch.

    Args:
        stack: Detaches the adversary when it is closed.
        model: The network to copy.
        batches: Met in turn.
        adversary: Attached to the copy; None is plain training.
        input_gradient: Whether the inputs ask for their gradient.
        compile_as: What compiles the copy.
        amp: Whether the forward pass runs under bfloat16 autocast.
    """
    model = copy.deepcopy(model).train()
    if adversary is not None:
        stack.enter_context(adversary.attach(model))
    network = model if compile_as is None else compile_as(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
    turns = cycle(batches)
    device = batches[0].inputs.device.type

    def step() -> None:
        batch = next(turns)
        inputs = batch.inputs
        if input_gradient:
            inputs = inputs.detach().requires_grad_()
        if adversary is not None and adversary.config.memory == "example":
            adversary.set_batch(batch.indices, batch.view)
        with torch.autocast(device, torch.bfloat16, enabled=amp):
            loss = F.cross_entropy(network(inputs), batch.targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def hidden_sites(model: nn.Module) -> list[str]:
    """The default sites without the input."""
    return default_sites(model)[1:]


def in_layout(
    model: nn.Module, batches: tuple[Batch, ...], channels_last: bool
) -> tuple[nn.Module, tuple[Batch, ...]]:
    """Network and inputs in one memory format."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    moved = [b.with_inputs(b.inputs.contiguous(memory_format=layout)) for b in batches]
    return model.to(memory_format=layout), tuple(moved)  # type: ignore[call-overload]


def compiler(model: nn.Module, batch: Batch, **options: Any) -> tuple[Compile, bool]:
    """What compiles copies of a network, and whether as one graph.

    Plain training is to be compiled as the attached network can be, so that is tried first.

    Args:
        model: The network.
        batch: What to try it with.
        options: Of the compiler.
    """
    compile_as = partial(compiled_alone, options=options)
    # Without guards on hooks a network meets what was compiled for its copy, attached or not.
    torch._dynamo.config.skip_nnmodule_hook_guards = False
    torch._dynamo.config.recompile_limit = 64
    model.train()
    try:
        with LayerwiseAdversary(0.05).attach(model):
            network = compile_as(model, fullgraph=True)
            F.cross_entropy(network(batch.inputs), batch.targets).backward()
    except Exception as error:  # whatever the compiler cannot do
        reason = " ".join(str(error).split())[:200]
        CONSOLE.print(f"fullgraph is not possible: {reason}", markup=False)
        return compile_as, False
    finally:
        model.zero_grad()
    return partial(compile_as, fullgraph=True), True


def compiled_alone(
    model: nn.Module, fullgraph: bool = False, options: dict[str, Any] | None = None
) -> Callable[[Tensor], Tensor]:
    """A network compiled from code of its own.

    torch keeps what it has compiled with the code object, which all copies of a network share:
    each would look through the others' entries first.
    """

    def call(inputs: Tensor) -> Tensor:
        return model(inputs)

    code = call.__code__.replace()
    own = FunctionType(code, call.__globals__, closure=call.__closure__)
    return torch.compile(own, fullgraph=fullgraph, options=options)


def timed(builds: dict[str, Build], device: str = "cpu", **settings: Any) -> dict[str, list[float]]:
    """The seconds of a step, a round at a time, of every arm.

    Shows the time left, and every fifth round the medians over the first arm so far.

    Args:
        builds: For each label what makes its step.
        device: Where the networks are.
        settings: Of `advreg.study.cost.time_steps`.
    """
    with ExitStack() as stack, ProgressBar(CONSOLE, "timing steps") as bar:
        steps = {label: build(stack) for label, build in builds.items()}
        clock = Clock(bar)

        def report(done: int, total: int, seconds: Seconds) -> None:
            clock.at(done, total, "timing steps")
            rounds = len(next(iter(seconds.values())))
            if done % (5 * len(steps)) == 0 and rounds > 1:
                costs = relative(seconds, next(iter(steps)))
                found = ", ".join(f"{label} {cost.median:.3f}" for label, cost in costs.items())
                CONSOLE.print(f"  after {rounds} rounds: {found}")

        return time_steps(steps, clock=device_clock(device), progress=report, **settings)


def figures(seconds: dict[str, list[float]], *baselines: str) -> dict[str, Any]:
    """For each label the milliseconds of a step and its ratios to each baseline."""
    costs = {baseline: relative(seconds, baseline) for baseline in baselines}
    return {
        label: {
            "milliseconds": costs[baselines[0]][label].milliseconds,
            **{f"over {baseline}": ratio(costs[baseline][label]) for baseline in baselines},
        }
        for label in seconds
    }


def finished(outcome: Outcome) -> Outcome:
    """What a plan gave, where every run of it did."""
    if outcome.failures or outcome.interrupted:
        raise SystemExit(f"Nothing is written: {outcome.failures or 'interrupted'}.")
    return outcome


def ratio(cost: Cost) -> dict[str, float | int]:
    """Median, quartiles and rounds."""
    return {name: value for name, value in asdict(cost).items() if name != "milliseconds"}


def show(ratios: dict[str, float | int]) -> str:
    """Median and quartiles for people."""
    return f"{ratios['median']:.3f} ({ratios['lower']:.3f} to {ratios['upper']:.3f})"


def write(path: Path, settings: dict[str, Any], **contents: Any) -> None:
    """Writes a result file with its settings and where it was measured."""
    places = ("out", "image", "plot")
    plain = {name: value for name, value in settings.items() if name not in places}
    # Told to keep what it has, an allocator spares every step, of all arms, page faults at random.
    plain |= {name: value for name, value in os.environ.items() if name.startswith("MALLOC_")}
    save(path, settings=plain, **contents)


def save(path: Path, **contents: Any) -> None:
    """Writes a result file with where it was measured."""
    text = json.dumps({**contents, "environment": environment()}, indent=1, default=str) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, partial(Path.write_text, data=text, encoding="utf-8"))
    print(f"written: {path}")
