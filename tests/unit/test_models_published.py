"""Published layouts load, and equal the same network written out from its keys."""

import pytest
import torch
import torch.nn.functional as F

from advreg.errors import StateError
from advreg.models import load_robustbench
from advreg.models.robustbench import FAST_AT_MEAN, FAST_AT_STD

NORMAL = {"mean": FAST_AT_MEAN, "std": FAST_AT_STD}
random = torch.Generator()


def weight(*shape):
    return torch.randn(*shape, generator=random) / shape[-1]


def norm(name, width):
    return {
        f"{name}.weight": 1 + weight(width),
        f"{name}.bias": weight(width),
        f"{name}.running_mean": weight(width),
        f"{name}.running_var": 1 + weight(width).abs(),
        f"{name}.num_batches_tracked": torch.tensor(3),
    }


def head(name, width, classes):
    return {f"{name}.weight": weight(classes, width), f"{name}.bias": weight(classes)}


def stages(prefix, base, counts, expansion=1, stem=None):
    """(name, in, out, stride) of each block."""
    width = stem or base
    for stage, blocks in enumerate(counts):
        for block in range(blocks):
            out = base * 2**stage * expansion
            yield f"{prefix}{stage + 1}", block, width, out, 2 if stage and not block else 1
            width = out


def preact_state(width=4, classes=5, final=False):
    """Fast AT's layout."""
    state = {"conv1.weight": weight(width, 3, 3, 3)}
    for stage, block, inner, out, stride in stages("layer", width, (2, 2, 2, 2)):
        name = f"{stage}.{block}"
        state |= norm(f"{name}.bn1", inner) | norm(f"{name}.bn2", out)
        state[f"{name}.conv1.weight"] = weight(out, inner, 3, 3)
        state[f"{name}.conv2.weight"] = weight(out, out, 3, 3)
        if stride != 1 or inner != out:
            state[f"{name}.shortcut.0.weight"] = weight(out, inner, 1, 1)
    return state | (norm("bn", 8 * width) if final else {}) | head("linear", 8 * width, classes)


def residual_state(width=4, classes=5, counts=(2, 2, 2, 2), torchvision=False, bottleneck=False):
    """The layout of CIFAR's ResNets, or torchvision's."""
    side, shortcut = (7, "downsample") if torchvision else (3, "shortcut")
    state = {"conv1.weight": weight(width, 3, side, side)} | norm("bn1", width)
    expansion = 4 if bottleneck else 1
    for stage, block, inner, out, stride in stages("layer", width, counts, expansion, width):
        name, middle = f"{stage}.{block}", out // expansion
        kernels = [(middle, inner, 1), (middle, middle, 3), (out, middle, 1)]
        kernels = kernels if bottleneck else [(out, inner, 3), (out, out, 3)]
        for index, (to, of, side) in enumerate(kernels, 1):
            state[f"{name}.conv{index}.weight"] = weight(to, of, side, side)
            state |= norm(f"{name}.bn{index}", to)
        if stride != 1 or inner != out:
            state[f"{name}.{shortcut}.0.weight"] = weight(out, inner, 1, 1)
            state |= norm(f"{name}.{shortcut}.1", out)
    linear = "fc" if torchvision else "linear"
    return state | head(linear, 8 * width * expansion, classes)


def wide_state(count=1, classes=5):
    """The layout of TRADES's WideResNets, as wide as WRN-10-1."""
    state = {"conv1.weight": weight(16, 3, 3, 3)}
    for stage, block, inner, out, _ in stages("block", 16, (count,) * 3, stem=16):
        name = f"{stage}.layer.{block}"
        state |= norm(f"{name}.bn1", inner) | norm(f"{name}.bn2", out)
        state[f"{name}.conv1.weight"] = weight(out, inner, 3, 3)
        state[f"{name}.conv2.weight"] = weight(out, out, 3, 3)
        if inner != out:
            state[f"{name}.convShortcut.weight"] = weight(out, inner, 1, 1)
    return state | norm("bn1", 64) | head("fc", 64, classes)


class Twin:
    """The published forward passes, from the keys alone."""

    def __init__(self, state):
        self.state = state

    def norm(self, name, inputs):
        parts = (
            self.state[f"{name}.{part}"]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(inputs, *parts)

    def conv(self, name, inputs, stride=1):
        kernel = self.state[f"{name}.weight"]
        return F.conv2d(inputs, kernel, None, stride, kernel.shape[-1] // 2)

    def linear(self, name, features):
        pooled = features.mean((2, 3))
        return F.linear(pooled, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def preact(self, x, activated_shortcut=False):
        x = self.conv("conv1", x)
        for stage in range(1, 5):
            for block in range(2):
                name, stride = f"layer{stage}.{block}", 2 if stage > 1 and not block else 1
                out = self.norm(f"{name}.bn1", x).relu()
                shortcut = x
                if f"{name}.shortcut.0.weight" in self.state:
                    taken = out if activated_shortcut else x
                    shortcut = self.conv(f"{name}.shortcut.0", taken, stride)
                out = self.conv(f"{name}.conv1", out, stride)
                x = self.conv(f"{name}.conv2", self.norm(f"{name}.bn2", out).relu()) + shortcut
        x = self.norm("bn", x).relu() if "bn.weight" in self.state else x
        return self.linear("linear", x)

    def residual(self, x, counts, torchvision=False):
        x = self.norm("bn1", self.conv("conv1", x, 2 if torchvision else 1)).relu()
        x = F.max_pool2d(x, 3, 2, 1) if torchvision else x
        part = "downsample" if torchvision else "shortcut"
        for stage, blocks in enumerate(counts, 1):
            for block in range(blocks):
                name, stride = f"layer{stage}.{block}", 2 if stage > 1 and not block else 1
                last = 3 if f"{name}.conv3.weight" in self.state else 2
                out = x
                for index in range(1, last + 1):
                    own = stride if index == last - 1 else 1
                    out = self.norm(f"{name}.bn{index}", self.conv(f"{name}.conv{index}", out, own))
                    out = out.relu() if index < last else out
                if f"{name}.{part}.0.weight" in self.state:
                    x = self.norm(f"{name}.{part}.1", self.conv(f"{name}.{part}.0", x, stride))
                x = (out + x).relu()
        return self.linear("fc" if torchvision else "linear", x)

    def wide(self, x, count):
        x = self.conv("conv1", x)
        for stage in range(1, 4):
            for block in range(count):
                name, stride = f"block{stage}.layer.{block}", 2 if stage > 1 and not block else 1
                out = self.norm(f"{name}.bn1", x).relu()
                if f"{name}.convShortcut.weight" in self.state:
                    x = self.conv(f"{name}.convShortcut", out, stride)
                out = self.norm(f"{name}.bn2", self.conv(f"{name}.conv1", out, stride)).relu()
                x = x + self.conv(f"{name}.conv2", out)
        return self.linear("fc", self.norm("bn1", x).relu())


def agree(model, twin, size=8):
    images = torch.rand(3, 3, size, size)
    mean, std = (torch.tensor(part)[:, None, None] for part in (FAST_AT_MEAN, FAST_AT_STD))
    assert not model.training
    torch.testing.assert_close(model(images), twin((images - mean) / std), rtol=1e-4, atol=1e-5)


@pytest.fixture(autouse=True)
def _seeded():
    random.manual_seed(0)


@pytest.mark.parametrize(("final", "activated"), [(False, False), (True, True)])
def test_preactresnet_is_its_twin(final, activated):
    state = preact_state(final=final)
    model = load_robustbench(state, activated_shortcut=activated, **NORMAL)
    agree(model, lambda x: Twin(state).preact(x, activated))


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({}, 8),
        ({"torchvision": True}, 32),
        ({"torchvision": True, "bottleneck": True, "counts": (3, 4, 6, 3)}, 32),
        ({"counts": (3, 4, 6, 3)}, 8),
    ],
    ids=["resnet18", "resnet18-imagenet", "resnet50-imagenet", "resnet34"],
)
def test_resnet_is_its_twin(settings, size):
    state = residual_state(**settings)
    counts, torchvision = settings.get("counts", (2,) * 4), settings.get("torchvision", False)
    model = load_robustbench(state, **NORMAL)
    agree(model, lambda x: Twin(state).residual(x, counts, torchvision), size)


def test_wideresnet_is_its_twin():
    state = wide_state(2) | {"sub_block1.layer.0.bn1.weight": torch.ones(3)}
    agree(load_robustbench(state, **NORMAL), lambda x: Twin(state).wide(x, 2))


@pytest.mark.parametrize("names", [("mu", "sigma"), ("normalize.mean", "normalize.std")])
def test_a_file_with_prefixes_and_its_own_normalisation(tmp_path, names):
    state = preact_state()
    buffers = [torch.tensor(part).reshape(1, 3, 1, 1) for part in (FAST_AT_MEAN, FAST_AT_STD)]
    published = {f"module.model.{key}": value.half() for key, value in state.items()}
    published |= dict(zip(names, buffers, strict=True))
    path = tmp_path / "model.pt"
    torch.save({"epoch": 3, "last": {"state_dict": published}, "best": {}}, path)
    model = load_robustbench(path, entry="last")
    rounded = {key: value.half().float() for key, value in state.items()}
    agree(model, Twin(rounded).preact)
    assert model.normalize.mean.shape == (3, 1, 1)


class Module(torch.nn.Module):
    pass


def changed(**others):
    return {**preact_state(), **others}


def test_what_does_not_fit_is_refused():
    for state, mend in (
        (preact_state, "holds no normalisation; give mean and std"),
        (lambda: {"blocks.0.weight": torch.ones(1)}, "Keys such as blocks.0.weight are of no"),
        (lambda: changed(extra=torch.ones(1)), "missing none, unknown extra; give the whole"),
        (lambda: {k: v for k, v in preact_state().items() if k != "layer1.0.bn1.bias"},
         "missing layer1.0.norm1.bias, unknown none"),
        (lambda: changed(**{"layer2.0.conv1.weight": torch.ones(8, 4, 5, 5)}),
         r"layer2.0.conv1.weight has shape \(8, 4, 5, 5\) .* needs \(8, 4, 3, 3\)"),
        (lambda: {k: v for k, v in preact_state().items() if "linear" not in k},
         "no linear.weight"),
        (lambda: residual_state(counts=(2, 2, 2, 1)), r"\(2, 2, 2, 1\) blocks in its stages"),
        (lambda: {"last": {}, "best": {}}, "give entry, one of last, best"),
    ):  # fmt: skip
        normal = {} if state is preact_state else NORMAL
        with pytest.raises(StateError, match=mend):
            load_robustbench(state(), **normal)


def test_unreadable_files_are_refused(tmp_path):
    path = tmp_path / "model.pt"
    with pytest.raises(StateError, match=r"model.pt does not exist; name the file"):
        load_robustbench(path)
    torch.save(Module(), path)
    with pytest.raises(StateError, match=r"cannot be read as weights alone .*; save its state"):
        load_robustbench(path)
    torch.save([1], path)
    with pytest.raises(StateError, match="holds a list"):
        load_robustbench(path)
    torch.save({"last": {}}, path)
    with pytest.raises(StateError, match="no entry 'best'; choose one of last"):
        load_robustbench(path, entry="best")
