"""The pure parts of training: schedules, the collapse watch, configurations, recipes, files."""

import math

import pytest
import torch
import yaml
from torch import nn

from advreg.errors import ConfigurationError, RunError, StateError
from advreg.training import (
    Configuration,
    DataSettings,
    MethodSettings,
    OptimizerSettings,
    RunFolder,
    RunSettings,
    ScheduleSettings,
)
from advreg.training.averaging import build_average
from advreg.training.builders import build_criterion
from advreg.training.collapse import SHORTEST_WINDOW, CollapseWatch
from advreg.training.configuration import read_yaml
from advreg.training.schedules import START, build_schedule, factor


def test_one_cycle_rises_to_the_peak_and_falls_to_nothing():
    settings = ScheduleSettings("one_cycle")
    values = [factor(settings, step / 100) for step in range(101)]
    assert values[0] == pytest.approx(START)
    assert values[30] == pytest.approx(1.0)
    assert values[:31] == sorted(values[:31])
    assert values[30:] == sorted(values[30:], reverse=True)
    assert values[100] == pytest.approx(0.0)


def test_cosine_begins_at_the_peak_and_is_half_way_down_at_half_time():
    settings = ScheduleSettings("cosine")
    assert factor(settings, 0.0) == 1.0
    assert factor(settings, 0.5) == pytest.approx(0.5)
    assert factor(settings, 1.0) == pytest.approx(0.0)


def test_steps_fall_at_their_milestones():
    settings = ScheduleSettings("step", milestones=(0.5, 0.75), factor=0.1)
    values = [factor(settings, progress) for progress in (0.0, 0.49, 0.5, 0.74, 0.75, 0.99)]
    assert values == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.01, 0.01])


def test_a_warm_up_is_a_straight_line_to_the_peak():
    for name in ("cosine", "step"):
        settings = ScheduleSettings(name, warmup=0.2)
        assert factor(settings, 0.1) == pytest.approx(START + (1 - START) / 2)
        assert factor(settings, 0.2) == pytest.approx(1.0)


def test_the_scheduler_counts_optimizer_steps():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.5)
    schedule = build_schedule(ScheduleSettings("cosine"), optimizer, 4)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.5 * (1 + math.cos(math.pi * k / 4)) / 2 for k in range(4)])


def collapse_at(losses, classes=10, steps_per_epoch=60):
    watch = CollapseWatch(classes, steps_per_epoch)
    return [step for step, loss in enumerate(losses, 1) if watch.observe(loss)]


def test_a_loss_that_stays_at_chance_is_said_once_after_an_epoch_of_it():
    assert collapse_at([math.log(10)] * 200) == [120]
    assert collapse_at([2.5] * 200) == [120]
    assert collapse_at([0.5] * 90 + [2.31] * 90) == [149]
    assert collapse_at([2.31] * 100, steps_per_epoch=2) == [2 + SHORTEST_WINDOW]


def test_a_training_that_learns_slowly_or_late_is_left_alone():
    assert collapse_at([2.30] * 60 + [2.2] * 170) == []
    assert collapse_at([2.40] * 105 + [2.1] * 100) == []
    assert collapse_at([2.4] * 200, classes=100) == []


def test_a_restored_watch_goes_on_where_it_was():
    first, second = CollapseWatch(10, 60), CollapseWatch(10, 60)
    for _ in range(110):
        first.observe(2.31)
    second.load_state_dict(first.state_dict())
    assert [second.observe(2.31) for _ in range(10)].index(True) == 9


def test_a_configuration_survives_its_yaml():
    configuration = Configuration(
        RunSettings(out="x", epochs=3),
        DataSettings("cifar10", limit=5),
        method=MethodSettings("layerwise", {"epsilon": "8/255", "sites": ["input"]}),
        optimizer=OptimizerSettings("adamw", ema=0.99),
        schedule=ScheduleSettings("step"),
    )
    text = yaml.safe_dump(configuration.to_dict())
    assert Configuration.from_dict(yaml.safe_load(text)) == configuration


def test_a_part_may_be_named_alone():
    configuration = Configuration.from_dict({"out": "x", "model": "resnet20", "method": "fgsm"})
    assert configuration.model.name == "resnet20"
    assert configuration.method.name == "fgsm"


def test_what_cannot_work_is_refused_by_name():
    for values, words in (
        ({"epochs": 0}, "epochs is 0"),
        ({"epochs": 2.5}, "epochs is 2.5"),
        ({"batch_size": True}, "batch_size is True"),
        ({"out": ""}, "--out"),
        ({"precision": "8-bit"}, "bf16-mixed"),
        ({"device": "tpu"}, "cuda"),
        ({"colour": 1}, "colour"),
        ({"data": {"limit": 0}}, "data.limit is 0"),
        ({"data": {"validation": 0}}, "data.validation is 0"),
        ({"data": 3}, "data is 3"),
        ({"optimizer": {"learning_rate": -1.0}}, "learning_rate is -1.0"),
        ({"optimizer": {"learning_rate": math.nan}}, "learning_rate is nan"),
        ({"optimizer": {"weight_decay": "much"}}, "optimizer"),
        ({"optimizer": {"momentum": 0.0}}, "nesterov"),
        ({"optimizer": {"ema": 1.0}}, "ema is 1.0"),
        ({"optimizer": {"swa": 1.0}}, "swa is 1.0"),
        ({"optimizer": {"swa": 0.5, "ema": 0.9}}, "not both"),
        ({"optimizer": {"clip": 0.0}}, "clip is 0.0"),
        ({"optimizer": {"label_smoothing": 1.0}}, "label_smoothing is 1.0"),
        ({"schedule": {"warmup": 1.0}}, "warmup is 1.0"),
        ({"schedule": {"milestones": [2]}}, "milestones"),
        ({"schedule": "linear"}, "one_cycle"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            Configuration.from_dict({"out": "x", **values})


def test_the_learning_rate_follows_the_optimizer():
    assert OptimizerSettings("sgd").learning_rate == 0.1
    assert OptimizerSettings("adamw").learning_rate == 0.001


def test_a_file_that_is_no_mapping_is_refused(tmp_path):
    path = tmp_path / "c.yaml"
    deep = ("a: " + "[" * depth + "]" * depth for depth in (100, 5000))
    tricks = "a: &x [*x]", "a: &x [1]\nb: *x", "a: !!python/name:os.system", "a: \x00"
    for text in ("a: [", "- 1", "3", *deep, *tricks):
        path.write_text(text)
        with pytest.raises(ConfigurationError, match=r"c\.yaml"):
            read_yaml(path)


def test_the_average_forgets_its_beginning_and_keeps_batch_statistics():
    model = nn.BatchNorm1d(1)
    average = build_average(OptimizerSettings(ema=0.5), model, 1)
    expected = None
    for step in range(5):
        with torch.no_grad():
            model.weight.fill_(step)
            model.running_mean.fill_(10 * step)
        average.after_step(model)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = step if expected is None else decay * expected + (1 - decay) * step
    assert average.network.weight.item() == pytest.approx(expected)
    assert average.network.running_mean.item() == pytest.approx(10 * expected)


def test_label_smoothing_spreads_the_target():
    outputs, targets = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    logs = outputs.log_softmax(1)
    chosen, spread = -logs[torch.arange(4), targets].mean(), -logs.mean()
    expected = 0.9 * chosen + 0.1 * spread
    criterion = build_criterion(OptimizerSettings(label_smoothing=0.1))
    torch.testing.assert_close(criterion(outputs, targets), expected)


def test_damaged_missing_and_foreign_checkpoints_are_named(tmp_path):
    folder = RunFolder(tmp_path)
    with pytest.raises(RunError, match="does not exist"):
        folder.load(folder.last)
    folder.last.write_bytes(b"PK nonsense")
    with pytest.raises(RunError, match="damaged"):
        folder.load(folder.last)
    torch.save({"format": 99, "architecture": {}, "model": {}}, folder.last)
    with pytest.raises(StateError, match="99"):
        folder.load(folder.last)


def test_a_setting_that_no_file_can_hold_is_refused_before_the_folder_is_made(tmp_path):
    method = MethodSettings("fgsm", {"epsilon": torch.float32})
    with pytest.raises(ConfigurationError, match=r"written to config\.yaml"):
        RunFolder(tmp_path / "a").create(Configuration(RunSettings(out="x"), method=method))
    assert not (tmp_path / "a").exists()


def test_metrics_are_cut_back_to_the_checkpoint_and_lose_a_torn_line(tmp_path):
    folder = RunFolder(tmp_path)
    folder.metrics.write_text('{"epoch": 1}\n{"epoch": 2}\n{"epoch": 3}\n{"epo')
    folder.cut_metrics(2)
    assert folder.metrics.read_text() == '{"epoch": 1}\n{"epoch": 2}\n'


def test_names_of_a_wrong_type_are_a_sentence():
    for part in ("method", "model", "data"):
        for name in ({}, True, ["a"], 3):
            with pytest.raises(ConfigurationError, match=f"{part}.name"):
                Configuration.from_dict({"out": "run", part: {"name": name}})
