"""Calls that a user may make by mistake: each a sentence that names the mend."""

import copy

import numpy as np
import pytest
import torch
from evaluated import Images, images, network
from test_attacks_inputs import Changed
from test_reliability_folder import after, whole
from test_training_loop import configuration
from torch import nn

from advreg import Batch, LayerwiseAdversary
from advreg.cli import main
from advreg.data import ImageData, load_data
from advreg.errors import AdvregError, ConfigurationError, DataError, RunError, StateError
from advreg.evaluation import accuracy_and_loss, evaluate, evaluate_suite
from advreg.methods import build_method
from advreg.study.reading import read_study
from advreg.training import RunFolder, RunSettings, builders, loop, train
from advreg.training.configuration import read_yaml

DATA = images()
LABELS = torch.randint(0, 2, (len(DATA.targets), 3))
PIXELS = DATA.targets[:, None, None].expand(-1, *DATA.images.shape[2:])


class Pixels(nn.Module):
    """Segmentation: a class for each pixel."""

    def forward(self, inputs):
        return inputs.repeat(1, 3, 1, 1)


def measured(model=None, targets=DATA.targets, pixels=DATA.images, epsilons=(0.1,), **more):
    model = network() if model is None else model
    return evaluate(model, Images(pixels, targets), epsilons=epsilons, steps=1, **more)


REFUSED = {
    "fewer targets than images": ({"targets": DATA.targets[:9]}, "one target for each image"),
    "more targets than images": ({"targets": DATA.targets.repeat(2)}, "one target for each image"),
    "targets in a list": ({"targets": DATA.targets.tolist()}, "targets to evaluate are list"),
    "an array of images": ({"pixels": DATA.images.numpy()}, "images to evaluate are ndarray"),
    "one number for epsilons": ({"epsilons": 0.1}, r"give a list, such as \[0.1\]"),
    "one text for epsilons": ({"epsilons": "8/255"}, r"give a list, such as \['8/255'\]"),
    "no such device": ({"device": "gpu"}, "device is 'gpu'.*give cpu"),
    "a function": ({"model": lambda inputs: inputs}, "The network is a function"),
    "other channels": ({"model": nn.Conv2d(3, 3, 1)}, "images of shape.*made for"),
    "complex weights": ({"model": network().to(torch.complex64)}, "The network cannot take"),
    "pixel by pixel": ({"model": Pixels(), "targets": PIXELS}, "evaluation.evaluate_labels"),
    "a class for many pixels": ({"model": Pixels()}, "give one class an example"),
    "several labels": ({"targets": LABELS}, "one class an example.*their criterion"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_evaluation_that_cannot_be_right_is_refused(case):
    given, message = REFUSED[case]
    with pytest.raises(AdvregError, match=message):
        measured(**given)
    if not {"epsilons", "device"} & given.keys():
        given = {"model": network(), "targets": DATA.targets, "pixels": DATA.images, **given}
        with pytest.raises(AdvregError, match=message):
            evaluate_suite(
                given["model"], Images(given["pixels"], given["targets"]), epsilons=[0.1]
            )


def test_a_sigmoid_before_the_logistic_loss_is_refused():
    """Its second sigmoid would say yes to everything, and find nothing to attack."""
    yes = (DATA.targets > 0).long()
    one = Changed(network(), lambda logits: logits[:, :1].sigmoid().squeeze(1)).eval()
    for run in (
        lambda: measured(one, yes),
        lambda: accuracy_and_loss(one, Images(DATA.images, yes)),
    ):
        with pytest.raises(ConfigurationError, match=r"without its sigmoid"):
            run()
    several = Changed(network(), torch.sigmoid).eval()
    with pytest.raises(ConfigurationError, match=r"without its sigmoid"):
        accuracy_and_loss(several, Images(DATA.images, LABELS), criterion=nn.BCEWithLogitsLoss())


def test_probabilities_have_no_likelihood():
    data = Images(DATA.images, DATA.targets)
    with pytest.raises(ConfigurationError, match="without its softmax"):
        accuracy_and_loss(Changed(network(), lambda logits: logits.softmax(1)), data)


PICTURES = np.zeros((9, 8, 8))


@pytest.mark.parametrize(
    ("pixels", "labels", "message"),
    [
        (PICTURES, np.array(list("abcabcabc")), "Labels are no numbers"),
        (PICTURES, np.arange(9) * 1j, "not whole numbers"),
        (PICTURES, np.array([0, 10**6] + [0] * 7), "run to 1000000 and the number of images is 9"),
        (PICTURES.astype(np.uint8) + 1, np.arange(9), "bytes from 0 to 1"),
    ],
)
def test_arrays_that_say_something_else_are_refused(pixels, labels, message):
    with pytest.raises(DataError, match=message):
        ImageData.from_arrays(pixels, labels)


@pytest.mark.parametrize(("label", "message"), [(10**9, "run to 1000000000"), (2**63, "from -9")])
def test_a_label_of_parquet_that_is_no_class_is_refused(tmp_path, label, message):
    """A damaged one would make names of a thousand million classes."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    labels = pyarrow.array([0, 1, 0, label], pyarrow.uint64())
    table = pyarrow.table({"img": [b"\x89PNG"] * 4, "label": labels})
    parquet.write_table(table, tmp_path / "train-0.parquet")
    with pytest.raises(DataError, match=message):
        load_data(tmp_path)


def test_one_image_or_one_class_is_too_few(tmp_path, capsys):
    np.savez(tmp_path / "one.npz", images=PICTURES[:1], targets=np.zeros(1, int))
    with pytest.raises(DataError, match="holds one image"):
        load_data(tmp_path / "one.npz")
    np.savez(tmp_path / "alike.npz", images=PICTURES, targets=np.zeros(9, int))
    options = ["--data", str(tmp_path / "alike.npz"), "--data.validation", "2"]
    assert main(["train", *options, "--device", "cpu", "--out", str(tmp_path / "out")]) == 2
    assert "All images are of one class, '0'; give" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_network_is_told_the_smaller_side_of_its_images():
    wide = ImageData.from_arrays(np.random.default_rng(0).random((4, 3, 64)), [0, 1, 0, 1])
    assert builders.architecture(configuration("a").model, wide)["image_size"] == 3


def test_a_class_behind_a_broken_link_is_not_left_out(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
    (tmp_path / "emu").symlink_to("nowhere")
    with pytest.raises(DataError, match="emu is a link to nothing"):
        load_data(tmp_path)


def test_data_that_may_not_be_read_are_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "cat").mkdir()

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.iterdir", refuse)
    with pytest.raises(DataError, match=r"cannot be read \(Permission denied"):
        load_data(tmp_path)


def test_a_folder_of_a_run_that_may_not_be_read_is_a_sentence(tmp_path, monkeypatch, capsys):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.is_dir", refuse)
    assert main(["evaluate", str(tmp_path)]) == 2
    assert capsys.readouterr().err.endswith("cannot be used (Permission denied); mend that.\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: 1\nepochs: 2\n", "'epochs' stands twice"),
        ("data: {name: a, name: b}\n", "'name' stands twice"),
        ("seed: &a 1\nepochs: *a\n", r"aliases such as \*name are not read"),
        (f"seed: {'9' * 5000}\n", "is not YAML; mend it: Exceeds"),
        ("seed: 2024-99-99\n", "is not YAML; mend it: month"),
    ],
)
def test_a_configuration_that_says_two_things_or_none_is_refused(tmp_path, text, message):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        read_yaml(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("evaluation: {epsilons: [9]}", "wider than the whole input range"),
        ("seeds: 1000000000", "give at most 10,000"),
        ("sizes: 5", "sizes is 5"),
    ],
)
def test_a_study_that_would_fail_after_its_runs_is_refused_before_them(tmp_path, line, message):
    (tmp_path / "a.yaml").write_text(f"arms: {{a: {{method: standard}}}}\n{line}\n")
    with pytest.raises(ConfigurationError, match=message):
        read_study(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("settings", "message"), [({"seed": 2**63}, "at most 92"), ({"threads": 9999}, "at most 1024")]
)
def test_numbers_that_torch_cannot_take_are_refused(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        RunSettings("out", **settings)


def test_a_mistake_in_ones_own_code_is_raised_as_it_is_and_costs_nothing(tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "a")

    def fail():
        raise ValueError("mine")

    with monkeypatch.context() as patched:
        after(patched, 3, fail)  # in the second epoch
        with pytest.raises(ValueError, match=r"^mine$"):
            train(configuration(run.path), quiet=True)
    assert whole(run) == 1
    assert len(train(configuration(run.path), resume=True, quiet=True).metrics) == 2

    def told(*_):
        raise ValueError("mine")

    model, data = network().train(), Images(DATA.images, DATA.targets)
    with pytest.raises(ValueError, match=r"^mine$"):
        evaluate_suite(model, data, epsilons=[0.1], progress=told, folder=tmp_path)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


SHORT = [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")]


@pytest.mark.parametrize("error", SHORT, ids=["Python's", "torch's"])
def test_too_little_memory_names_the_size_of_the_batch(tmp_path, monkeypatch, error):
    def short(*_):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(loop, "update", short)
        with pytest.raises(RunError, match="a step with batch_size 32; lower it"):
            train(configuration(tmp_path / "a"), quiet=True)
    model = Changed(network(), short)
    with pytest.raises(RunError, match="batches of 500 images; lower batch_size"):
        measured(model)
    with pytest.raises(RunError, match="batches of 500 images; lower batch_size"):
        accuracy_and_loss(model, Images(DATA.images, DATA.targets))


def attached(settings=(), dtype=torch.float32, epsilon=0.1, state=None, steps=2):
    """The adversary after some steps, and the network's last outputs."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)).to(dtype)
    adversary = LayerwiseAdversary(epsilon, ["0"], **dict(settings))
    with adversary.attach(net):
        if state is not None:
            adversary.load_state_dict(state)
        for _ in range(steps):
            outputs = net(torch.randn(3, 4).to(dtype))
            outputs.float().logsumexp(1).sum().backward()
    return adversary, outputs


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["memory", "rho"])
def test_a_damaged_memory_is_never_added(number, where):
    settings = {"direction": "l2", "relative": True}
    state = copy.deepcopy(attached(settings)[0].state_dict())
    (call,) = state["sites"]["0"]["calls"]
    (call["rho"] if where == "rho" else call["memory"]["store"]["rows"]).fill_(number)
    with pytest.raises(StateError, match="memory at site '0' holds infinity or NaN"):
        attached(settings, state=state)
    method = build_method("atta", epsilon=0.1)
    damaged = {"deltas": torch.full((2,), number)}
    with pytest.raises(StateError):
        method.load_state_dict(dict.fromkeys(method.state_dict(), damaged))


@pytest.mark.parametrize(
    ("dtype", "epsilon"), [(torch.float16, 4e4), (torch.bfloat16, 1e39), (torch.float32, 1e39)]
)
def test_a_budget_that_overflows_is_refused(dtype, epsilon):
    for settings in ({}, {"direction": "l2"}, {"relative": True}):
        with pytest.raises(ConfigurationError, match=f"too much for {dtype}.*lower it"):
            attached(settings, dtype, epsilon)
        _, outputs = attached(settings, dtype, torch.finfo(dtype).max / 1e3)
        assert outputs.isfinite().all()


def test_a_wrong_data_set_is_caught_at_the_first_step_of_an_accelerator():
    """There every twentieth step is looked at, the first one among them."""
    for name, settings in (("layerwise", {"sites": ["input"]}), ("fgsm", {}), ("standard", {})):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        net.input_range = (0.0, 1.0)
        seen = Elsewhere(torch.full((4, 1, 4, 4), 2.0))
        method = build_method(name, **settings)
        with method.attach(net), pytest.raises(ConfigurationError, match="outside the range"):
            method.step(
                net, Batch(seen, torch.arange(4) % 3), nn.CrossEntropyLoss(), torch.Tensor.backward
            )


class Elsewhere(torch.Tensor):
    """Says of itself that it lies on a GPU, where a look at its values has to wait."""

    @property
    def is_cpu(self):
        return False

    @property
    def device(self):
        return torch.device("cuda")
