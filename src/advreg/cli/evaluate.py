"""`advreg evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from advreg.cli.parsing import Parser
from advreg.errors import ConfigurationError

if TYPE_CHECKING:  # imports torch
    from torch import nn

    from advreg.data import DataSplits
    from advreg.models import Classifier

EXAMPLES = """\
examples:
  Accuracy, calibration, FGSM and PGD-20 at two budgets, on 1,000 test images drawn
  class by class:
    advreg evaluate runs/first --epsilons 2/255,8/255 --limit 1000

  A number to publish, with AutoAttack, attacks found on another run, and corruptions:
    advreg evaluate runs/first --suite headline --transfer runs/plain --corruptions CIFAR-10-C

  A published network, from a RobustBench checkpoint; Fast AT's files want its constants:
    advreg evaluate fast_at.pt --data cifar10 --mean 0.4914,0.4822,0.4465 \\
        --std 0.2471,0.2435,0.2616 --out runs/fast_at

  Without such a folder, a small set of corruptions computed here:
    advreg evaluate runs/first --corruptions own

The figures are written to evaluation.json in the run's folder, each example's fate to
evaluation-examples.npz. After an interrupt the same command goes on where it was.
"""

PUBLISHED = ("out", "entry", "mean", "std", "activated_shortcut")
"""Options that a run has no use for."""

TITLES = {"fgsm": "FGSM", "pgd": "PGD", "autoattack": "AutoAttack", "worst": "worst of all"}
"""Of a table's columns, where they are not an attack's name."""


def build_parser() -> Parser:
    """The parser of `advreg evaluate`."""
    parser = Parser(
        prog="advreg evaluate",
        description="Measures the network that a run deploys, clean and under attack.",
        epilog=EXAMPLES,
    )
    parser.add_argument("folder", type=str, help="The run's folder, or published weights.")
    parser.add_argument(
        "--suite",
        type=str,
        default="quick",
        help="quick (FGSM, PGD-20), standard (PGD-50 with 10 restarts, noise) or headline"
        " (AutoAttack on top).",
    )
    parser.add_argument(
        "--epsilons",
        type=str,
        default="2/255,8/255",
        help="Budgets of the attacks, pixels being in [0, 1]; commas between them.",
    )
    parser.add_argument("--threat", type=str, default="Linf", help="Linf or L2.")
    parser.add_argument(
        "--limit",
        type=int | None,
        default=None,
        help="So many test images, drawn class by class.",
    )
    parser.add_argument(
        "--weights",
        type=Literal["best", "last"],
        default="best",
        help="Of the run's best epoch by validation images, or of its last one.",
    )
    parser.add_argument("--steps", type=int | None, default=None, help="Of PGD; the suite's.")
    parser.add_argument("--restarts", type=int | None, default=None, help="Of PGD; the suite's.")
    parser.add_argument(
        "--transfer", type=str | None, default=None, help="Another run, to find attacks on."
    )
    parser.add_argument(
        "--corruptions", type=str | None, default=None, help="A CIFAR-10-C folder, or own."
    )
    parser.add_argument(
        "--data", type=str | None, default=None, help="Where the run's data are now, if moved."
    )
    parser.add_argument(
        "--model",
        type=str | None,
        default=None,
        help="The run's own network, module:function, whose code is imported if named here.",
    )
    published = parser.add_argument_group("published weights")
    published.add_argument("--out", type=str | None, default=None, help="Where results go.")
    published.add_argument(
        "--entry", type=str | None, default=None, help="Which of a file's networks, such as last."
    )
    published.add_argument(
        "--mean", type=list[float] | None, default=None, help="Of a file that holds none; or 0."
    )
    published.add_argument("--std", type=list[float] | None, default=None, help="Likewise; or 1.")
    published.add_argument(
        "--activated_shortcut", type=bool, default=False, help="Of a PreActResNet of that form."
    )
    parser.add_argument("--batch_size", type=int, default=250, help="Images a pass.")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu or cuda.")
    parser.add_argument("--seed", type=int, default=0, help="Of the attacks' random draws.")
    parser.add_argument(
        "--fresh", action="store_true", help="Drop what an unfinished evaluation left."
    )
    return parser


def attack_table(results: dict[str, Any], title: str) -> Any:
    """Accuracy under each attack, for a terminal."""
    from rich.table import Table
    from rich.text import Text

    first = next(iter(results["epsilons"].values()))
    attacks = [name for name, part in first.items() if isinstance(part, dict)]
    table = Table("budget", *[TITLES.get(name, name) for name in attacks], title=Text(title))
    clean = results["clean"]["accuracy"]
    table.add_row("clean", *[f"{clean:.2%}"] * len(attacks))
    for epsilon, found in results["epsilons"].items():
        table.add_row(epsilon, *[f"{found[name]['accuracy']:.2%}" for name in attacks])
    return table


def evidence_table(rows: list[dict[str, Any]]) -> Any:
    """What stands behind the accuracies, row by row."""
    from rich.table import Table
    from rich.text import Text

    table = Table("evidence", "verdict", "figures")
    for row in rows:
        table.add_row(*(Text(row[part]) for part in ("name", "verdict", "sentence")))
    return table


def clean_line(results: dict[str, Any]) -> str:
    """Calibration, and corruptions where they were measured."""
    clean = results["clean"]
    nll = "not finite" if clean["nll"] is None else f"{clean['nll']:.3f}"
    brier = "not finite" if clean["brier"] is None else f"{clean['brier']:.3f}"
    line = f"Clean: negative log-likelihood {nll}, Brier score {brier},"
    ece = "not finite" if clean["ece"] is None else f"{clean['ece']:.2%}"
    line += f" calibration error {ece}."
    corrupted = results["corruptions"]
    if corrupted is not None:
        line += f" Mean accuracy under {corrupted['set']}: {corrupted['mean_accuracy']:.2%}."
    return line


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Args:
        load: Reads the network.
        data: The images.
        folder: Where results go.
        epoch: Of a run, the epoch whose weights these are.
    """

    load: Callable[[], nn.Module]
    data: DataSplits
    folder: Path
    epoch: int | None = None


def subject_of(options: Any) -> Subject:
    """The network of a run or of published weights, and its images.

    Raises:
        AdvregError: They cannot be read, are another run's, or an option does not fit.
    """
    published = Path(options.folder).is_file()
    if published and options.weights != "best":
        raise ConfigurationError(
            f"--weights {options.weights} is for a run's folder and {options.folder} is a file;"
            " name one of its networks with --entry."
        )
    given = [name for name in PUBLISHED if options[name]]
    if given and not published:
        raise ConfigurationError(
            f"--{given[0]} {options[given[0]]} is for published weights and {options.folder} is no"
            " file; leave it out."
        )
    return _published(options) if published else _run(options)


def _run(options: Any) -> Subject:
    from advreg.training.builders import build_data
    from advreg.training.folder import RunFolder
    from advreg.training.loading import check_test_data, deployed_epoch, load_run

    weights = options.weights
    _, configuration = load_run(options.folder, options.model, weights)
    settings = configuration.data
    data = build_data(replace(settings, name=options.data or settings.name))
    folder = RunFolder(options.folder)
    check_test_data(folder, data, weights)
    epoch = deployed_epoch(folder, weights)
    return Subject(
        lambda: load_run(options.folder, options.model, weights)[0], data, folder.path, epoch
    )


def _published(options: Any) -> Subject:
    from advreg.data import load_data
    from advreg.models import check_network, load_robustbench

    for name in ("data", "out"):
        if not options[name]:
            raise ConfigurationError(f"Published weights need --{name}; add it.")

    def load() -> Classifier:
        return load_robustbench(
            options.folder,
            entry=options.entry,
            mean=_constants(options.mean),
            std=_constants(options.std),
            activated_shortcut=options.activated_shortcut,
        )

    data, network = load_data(options.data), load()
    check_network(network, options.folder, data.test.shape, len(data.test.classes))
    channels = len(network.normalize.mean)  # grey images would be spread over them silently
    if channels != data.test.shape[0]:
        raise ConfigurationError(
            f"{options.folder} takes images of {channels} channels and {options.data} has"
            f" {data.test.shape[0]}; give the data that it was trained for."
        )
    Path(options.out).mkdir(parents=True, exist_ok=True)
    return Subject(load, data, Path(options.out))


def _constants(given: list[float] | None) -> float | list[float] | None:
    """One number is every channel's."""
    return given[0] if given is not None and len(given) == 1 else given


def _other_run(options: Any) -> nn.Module:
    """The network to find attacks on; it is trusted where the command line names it."""
    from advreg.training.folder import RunFolder
    from advreg.training.loading import load_run

    name = RunFolder(options.transfer).configuration().model.name
    return load_run(options.transfer, options.model if options.model == name else None)[0]


def run(arguments: Sequence[str]) -> int:
    """Evaluates a run and writes `evaluation.json` into its folder."""
    options = build_parser().read(arguments)
    from rich.console import Console

    from advreg.evaluation import evaluate_suite
    from advreg.files import check_folder
    from advreg.progress import ProgressBar
    from advreg.training.builders import choose_device

    subject = subject_of(options)
    data, folder, console = subject.data, subject.folder, Console()
    check_folder(folder)  # before hours of attacks
    try:
        with ProgressBar(console, "evaluating") as bar:
            found = evaluate_suite(
                subject.load(),
                data.test,
                suite=options.suite,
                epsilons=[part.strip() for part in options.epsilons.split(",") if part.strip()],
                steps=options.steps,
                restarts=options.restarts,
                threat=options.threat,
                limit=options.limit,
                batch_size=options.batch_size,
                device=choose_device(options.device),
                seed=options.seed,
                transfer=_other_run(options) if options.transfer else None,
                corruptions=options.corruptions,
                weights=subject.load().state_dict(),
                folder=folder,
                fresh=options.fresh,
                progress=bar,
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("Interrupted; the same command goes on where it was.") from None
    results = found.write(folder, data=data.name, epoch=subject.epoch)
    title = f"{options.folder}: {results['examples']} test images of {data.name}"
    if subject.epoch is not None:
        title += f", weights of epoch {subject.epoch}"
    console.print(attack_table(results, title))
    console.print(clean_line(results), markup=False)
    console.print(evidence_table(results["evidence"]))
    for note in results["notes"]:
        console.print(note, markup=False)
    console.print(
        f"Written to {folder / 'evaluation.json'}", soft_wrap=True, highlight=False, markup=False
    )
    return 0
