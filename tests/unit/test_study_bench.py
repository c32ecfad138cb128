"""What `advreg bench` measures and writes, with a clock that counts instead of timing."""

import io
import json
from contextlib import ExitStack
from itertools import count

import pytest
import torch
from rich.console import Console
from torch import nn

from advreg.cli import main
from advreg.errors import ConfigurationError, RunError
from advreg.methods import METHODS, Standard
from advreg.models import build_model
from advreg.report import bench_chart, print_bench
from advreg.report.bench import caption
from advreg.study import bench
from advreg.study.bench import BenchSettings, bench_arms, run_bench
from advreg.study.workload import count_classes, synthetic_batches, training_step

TINY = {"model": "convnet", "batch_size": 2, "image_size": 8, "in_channels": 1}


def quiet():
    return Console(file=io.StringIO(), width=80)


def measured(*methods, **settings):
    ticks = count()
    chosen = BenchSettings(methods=methods, **TINY, **settings)
    return bench.bench(chosen, quiet(), clock=lambda: float(next(ticks)))


@pytest.fixture(scope="module")
def results():
    return measured("layerwise", "layerwise-hidden", "free", threads=1)


def test_every_method_has_a_row_plain_training_first(results):
    rows = {row["label"]: row for row in results["rows"]}
    assert list(rows) == ["standard", "layerwise", "layerwise-hidden", "free"]
    assert rows["standard"]["peak_ratio"] == 1
    assert rows["layerwise"]["peak_ratio"] > 1
    assert rows["layerwise-hidden"]["settings"]["sites"][-1] == "blocks.3"
    assert "input" not in rows["layerwise-hidden"]["settings"]["sites"]
    assert (rows["free"]["passes"], rows["free"]["replays"]) == (1, 8)
    # Between two readings of the clock a tick passes, whatever the step took.
    assert {row["time"]["median"] for row in rows.values()} == {1}
    assert rows["free"]["time"]["rounds"] == 20


class OnceDifferentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs):
        return inputs.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return gradient


@pytest.mark.full
def test_a_method_that_torch_cannot_do_is_left_out_and_said(monkeypatch):
    class Network(nn.Sequential):
        def forward(self, inputs):
            return OnceDifferentiable.apply(super().forward(inputs))

    network = Network(nn.Flatten(), nn.Linear(64, 3))
    monkeypatch.setattr(bench, "build_model", lambda *given: network)
    found = measured("input_gradient", "fgsm", threads=1)
    assert [row["label"] for row in found["rows"]] == ["standard", "fgsm"]
    assert "once_differentiable" in found["left_out"]["input_gradient"]


def test_a_network_that_cannot_be_trained_is_an_error(monkeypatch):
    class Network(nn.Sequential):
        def forward(self, inputs):
            outputs = super().forward(inputs)
            return outputs.detach() if self.training else outputs

    network = Network(nn.Flatten(), nn.Linear(64, 3))
    monkeypatch.setattr(bench, "build_model", lambda *given: network)
    with pytest.raises(ConfigurationError, match=r"Plain training fails: .*does not require grad"):
        measured("fgsm", threads=1)


def test_a_method_that_the_network_cannot_have_is_left_out_and_said(monkeypatch):
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    monkeypatch.setattr(bench, "build_model", lambda *given: linear)
    found = measured("layerwise-hidden", "fgsm", threads=1)
    assert [row["label"] for row in found["rows"]] == ["standard", "fgsm"]
    assert list(found["left_out"]) == ["layerwise-hidden"]
    console = quiet()
    print_bench(found, console)
    assert "Left out: layerwise-hidden. " in console.file.getvalue()


def test_settings_and_environment_are_in_the_file(results):
    assert results["settings"]["threads"] == 1
    assert results["settings"]["device"] == "cpu" or torch.cuda.is_available()
    assert results["environment"]["torch"] == torch.__version__
    json.dumps(results, allow_nan=False)


def test_nothing_of_the_users_random_state_is_used():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    measured()
    assert torch.rand(4).equal(expected)


def test_all_methods_are_measured_by_default_but_for_two():
    model = build_model("convnet", 10, 1, 8)
    arms = bench_arms(bench.DEFAULT, model)
    assert {arm.method for arm in arms} == set(METHODS) - set(bench.LEFT_OUT)
    assert len({arm.label for arm in arms}) == len(arms)


def test_a_step_trains_a_copy_in_turn_over_the_batches():
    model = build_model("convnet", 3, 1, 8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batches = synthetic_batches((1, 8, 8), 3, 2, count=3)
    seen = []

    class Watching(Standard):
        def step(self, network, batch, *rest):
            seen.append((network, batch, next(network.parameters()).detach().clone()))
            return super().step(network, batch, *rest)

    with ExitStack() as stack:
        step = training_step(stack, model, batches, Watching())
        for _ in range(4):
            step()
    assert [batch for _, batch, _ in seen] == [*batches, batches[0]]
    assert seen[0][0] is not model
    assert not seen[0][2].equal(seen[1][2])
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_batches_are_the_same_each_time_and_hold_every_example_once():
    first, again = (synthetic_batches((3, 8, 8), 5, 4, count=3) for _ in range(2))
    assert all(a.inputs.equal(b.inputs) for a, b in zip(first, again, strict=True))
    assert torch.cat([batch.indices for batch in first]).sort().values.equal(torch.arange(12))
    assert all(batch.inputs.min() >= 0 and batch.inputs.max() <= 1 for batch in first)


def test_the_classes_of_a_network_are_counted_by_a_forward_pass():
    model = nn.Sequential(nn.Flatten(), nn.Linear(27, 4))
    assert count_classes(model, (3, 3, 3)) == 4
    assert model.training
    with pytest.raises(ConfigurationError, match="image_size"):
        count_classes(model, (3, 4, 4))


def test_the_table_and_the_chart_show_every_row(results):
    console = quiet()
    print_bench(results, console)
    printed = console.file.getvalue()
    assert max(map(len, printed.splitlines())) <= 80
    assert "…" not in printed
    svg = bench_chart(results)
    for row in results["rows"]:
        assert row["label"] in printed
        assert f"{row['peak_ratio']:.2f}" in printed
    assert svg.startswith("<svg")
    assert svg == bench_chart(results)
    assert "A step of free is one replay." in caption(results)


def test_a_measurement_is_not_replaced_unless_asked(tmp_path, monkeypatch, results):
    made = []
    monkeypatch.setattr(bench, "bench", lambda *given: made.append(given) or results)
    settings = BenchSettings(**TINY)
    run_bench(settings, tmp_path / "a")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["bench.json", "bench.svg"]
    assert json.loads((tmp_path / "a" / "bench.json").read_text())["kind"] == "advreg bench"
    with pytest.raises(RunError, match="--overwrite"):
        run_bench(settings, tmp_path / "a")
    run_bench(settings, tmp_path / "a", overwrite=True)
    assert len(made) == 2
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="is a file"):
        run_bench(settings, tmp_path / "file")


def test_a_mistake_is_one_sentence_and_writes_nothing(tmp_path, capsys):
    for options, words in (
        (["--methods", "layerwise,nothing"], "nothing"),
        (["--model", "nothing"], "resnet20"),
        (["--model", "nothing:build"], "module:function"),
        (["--batch_size", "0"], "batch_size is 0"),
        (["--rounds", "5"], "at least 20"),
        (["--device", "tpu"], "auto, cpu or cuda"),
        (["--image_size", "4"], "8 pixels"),
    ):
        assert main(["bench", "--model", "convnet", "--out", str(tmp_path / "a"), *options]) == 2
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1
        assert words in said
        assert not (tmp_path / "a").exists()


def test_the_command_line_says_what_is_measured(monkeypatch):
    reports = []
    monkeypatch.setattr(bench, "run_bench", lambda *given: reports.append(given))
    options = ["--model", "vgg11", "--methods", "layerwise,layerwise+sam"]
    assert main(["bench", *options, "--batch_size=64", "--out", "x"]) == 0
    expected = BenchSettings("vgg11", ("layerwise", "layerwise+sam"), batch_size=64)
    assert reports == [(expected, "x", False)]
    assert main(["bench"]) == 0
    assert reports[1] == (BenchSettings(), "runs/bench", False)
