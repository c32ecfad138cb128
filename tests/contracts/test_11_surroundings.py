"""Semantic 11: foreign hooks, outputs of any kind, precisions, layouts; the rest is refused."""

import dataclasses
import warnings
from collections import namedtuple

import pytest
import torch
import torch.nn.functional as F
from probes import Functional, probing
from settings import ADVERSARIES, identical, sgd, tiny, walk, weights
from torch import nn

from advreg import LayerwiseAdversary, Tap
from advreg.errors import SiteError, SiteNeverRanWarning, UnsupportedError

BUDGET = 0.1
Pair = namedtuple("Pair", "count value")


@dataclasses.dataclass
class Held:
    count: int
    value: torch.Tensor


@dataclasses.dataclass(frozen=True)
class Frozen:
    count: int
    value: torch.Tensor


def steps(model, adversary, site, inputs, loss, count=2):
    """Probed steps; returns what the last one added and what the one before left."""
    with probing(model, adversary, site) as probe:
        for step in range(count):
            if step:
                left = probe.gradients()[0].sign()
            probe.clear()
            loss(model(inputs)).backward()
        return probe.deltas()[0], left


# Outputs


class Wrapped(nn.Module):
    """Its body's output travels in another object."""

    def __init__(self, wrap, unwrap):
        super().__init__()
        self.body = Body(wrap)
        self.head = nn.Linear(4, 3)
        self.unwrap = unwrap

    def forward(self, inputs):
        return self.head(self.unwrap(self.body(inputs)))


class Body(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.wrap, self.last = wrap, None

    def forward(self, inputs):
        self.last = self.wrap(self.linear(inputs))
        return self.last


WRAPPINGS = {
    "tuple": (lambda value: (value, 1), lambda output: output[0]),
    "integers first": (lambda value: (torch.arange(3), value), lambda output: output[1]),
    "none first": (lambda value: (None, value, value * 2), lambda output: output[1]),
    "list": (lambda value: [3, value], lambda output: output[1]),
    "named tuple": (lambda value: Pair(3, value), lambda output: output.value),
    "dict": (lambda value: {"count": 3, "value": value}, lambda output: output["value"]),
    "nested": (
        lambda value: {"all": [Pair(1, (None, value))]},
        lambda output: output["all"][0].value[1],
    ),
    "dataclass": (lambda value: Held(3, value), lambda output: output.value),
    "frozen dataclass": (lambda value: Frozen(3, value), lambda output: output.value),
}


@pytest.mark.parametrize("kind", WRAPPINGS)
def test_outputs_of_any_kind(kind):
    torch.manual_seed(0)
    model = Wrapped(*WRAPPINGS[kind])
    adversary = LayerwiseAdversary(BUDGET, ["body"], relative=False)
    inputs = torch.randn(5, 4)
    perturbed = []
    model.head.register_forward_pre_hook(lambda _, args: perturbed.append(args[0]))
    with adversary.attach(model):
        for _ in range(2):
            output = model(inputs)
            perturbed[-1].retain_grad()
            output.square().sum().backward()
        original = model.unwrap(model.body.last)
    assert type(model.body.last) is type(WRAPPINGS[kind][0](original))
    delta = perturbed[1] - original
    assert torch.allclose(delta, BUDGET * perturbed[0].grad.sign(), atol=1e-6)
    # What the module itself holds is left as it was.
    assert torch.allclose(original, model.body.linear(inputs))


def test_model_outputs():
    transformers = pytest.importorskip("transformers", reason="needs the transformers extra")

    def wrap(value):
        return transformers.utils.ModelOutput(loss=None, logits=value)

    torch.manual_seed(0)
    model = Wrapped(wrap, lambda output: output.logits)
    adversary = LayerwiseAdversary(BUDGET, ["body"], relative=False)
    inputs, seen = torch.randn(5, 4), []
    model.head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with adversary.attach(model):
        for _ in range(2):
            model(inputs).square().sum().backward()
        original = model.body.last.logits
    assert torch.allclose((seen[1] - original).abs(), torch.tensor(BUDGET), atol=1e-6)


def test_recurrent_networks():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(4, 5)
            self.head = nn.Linear(5, 3)

        def forward(self, inputs):
            return self.head(self.lstm(inputs)[0][-1])

    torch.manual_seed(0)
    model, seen = Recurrent(), []
    model.head.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    adversary = LayerwiseAdversary(BUDGET, ["lstm"], relative=False, rows=1)
    with adversary.attach(model):
        for size in (6, 4):
            model(torch.ones(3, size, 4)).sum().backward()
    assert torch.allclose((seen[1] - seen[0][:4]).abs(), torch.tensor(BUDGET), atol=1e-6)


@pytest.mark.parametrize("output", [torch.arange(3), None, "text", {"loss": None}])
def test_a_site_without_a_floating_point_tensor_is_named(output):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = Body(lambda value: output), nn.Linear(4, 3)

        def forward(self, inputs):
            self.body(inputs)
            return self.head(inputs)

    model = Odd()
    adversary = LayerwiseAdversary(BUDGET, ["body"])
    with pytest.warns(SiteNeverRanWarning, match="body"), adversary.attach(model):  # noqa: PT031
        for _ in range(3):
            model(torch.randn(5, 4)).sum().backward()


def test_a_scalar_is_no_site():
    """A module may return its loss beside its output; a scalar has no rows."""
    torch.manual_seed(0)
    model = Wrapped(lambda value: {"loss": value.mean(), "value": value}, lambda out: out["value"])
    adversary = LayerwiseAdversary(BUDGET, ["body"], relative=False)
    seen = []
    model.head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with adversary.attach(model):
        for _ in range(2):
            model(torch.ones(5, 4)).square().sum().backward()
        original = model.body.last["value"]
    assert torch.allclose((seen[1] - original).abs(), torch.tensor(BUDGET), atol=1e-6)


def test_an_activation_without_the_rows_dimension_is_refused_by_name():
    model = nn.Sequential(nn.Linear(4, 3), Tap())
    handle = LayerwiseAdversary(BUDGET, ["1"], rows=2).attach(model)
    with pytest.raises(SiteError, match=r"'1' has shape \(5, 3\)"):
        model(torch.ones(5, 4))
    handle.detach()


def test_keyword_inputs_and_dictionaries():
    class Keyword(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, mask, *, batch):
            return self.head(batch["image"] * mask)

    model, seen = Keyword(), []
    model.head.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    images = torch.ones(5, 4)
    with LayerwiseAdversary(BUDGET, ["input"]).attach(model):
        for _ in range(2):
            model(torch.ones(1, dtype=torch.int64), batch={"image": images}).sum().backward()
    assert torch.allclose((seen[1] - 1).abs(), torch.tensor(BUDGET), atol=1e-6)
    assert images.equal(torch.ones(5, 4))


def text():
    return nn.Sequential(nn.Embedding(7, 4), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3))


def test_text_has_no_input_site():
    tokens = torch.randint(0, 7, (5, 3))
    model = text()
    with warnings.catch_warnings(), LayerwiseAdversary(BUDGET).attach(model):
        warnings.simplefilter("error")
        for _ in range(12):
            model(tokens).sum().backward()
    with (
        LayerwiseAdversary(BUDGET, ["input", "0"]).attach(model),
        pytest.raises(SiteError, match="no floating-point input"),
    ):
        model(tokens)


# Hooks of others


@pytest.mark.parametrize("first", [True, False], ids=["before ours", "after ours"])
def test_foreign_hooks_go_on_working(first):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    adversary = LayerwiseAdversary(BUDGET, ["0"], relative=False)
    seen, gradients = [], []

    def register():
        model[0].register_forward_hook(lambda _, args, output: output * 2)
        model[0].register_forward_hook(lambda _, args, output: seen.append(output))
        model[0].register_full_backward_hook(lambda *args: gradients.append(args[2][0]))
        model[0].weight.register_hook(lambda gradient: gradients.append(gradient))

    inputs = torch.ones(2, 4)
    plain = model[0](inputs).detach()
    if first:
        register()
    handle = adversary.attach(model)
    if not first:
        register()
    for _ in range(2):
        model(inputs).square().sum().backward()
    handle.detach()
    assert len(gradients) == 4
    if first:
        assert all(value.equal(plain * 2) for value in seen)
    else:
        assert seen[0].equal(plain * 2)
        assert torch.allclose((seen[1] - plain * 2).abs(), torch.tensor(2 * BUDGET), atol=1e-6)
    seen.clear()
    assert model[0](inputs).equal(plain * 2)
    assert len(seen) == 1


def test_forward_hooks_with_keywords_and_module_wide_hooks():
    model, adversary = tiny(), ADVERSARIES["slot"].adversary()
    calls = []
    handles = [
        nn.modules.module.register_module_forward_hook(lambda *_: calls.append("all")),
        model.stage.register_forward_hook(lambda *_: calls.append("stage"), with_kwargs=True),
        model.register_forward_pre_hook(lambda *_: calls.append("pre"), prepend=True),
    ]
    with adversary.attach(model):
        losses = walk(model, adversary, ADVERSARIES["slot"].batches(3))
    for handle in handles:
        handle.remove()
    assert calls.count("stage") == calls.count("pre") == 3
    other, again = tiny(), ADVERSARIES["slot"].adversary()
    with again.attach(other):
        assert walk(other, again, ADVERSARIES["slot"].batches(3)).equal(losses)


# Networks


@pytest.mark.parametrize("sites", [["0"], ["1"], ["0", "1"]])
def test_relu_in_place(sites):
    """In place or not, the perturbed values and the gradients are the same."""
    ends = []
    for inplace in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace), nn.Linear(6, 3))
        adversary = LayerwiseAdversary(BUDGET, sites)
        with adversary.attach(model):
            for step in range(4):
                model(torch.full((5, 4), float(step))).square().sum().backward()
        ends.append([weights(model), [p.grad for p in model.parameters()], adversary.state_dict()])
    assert identical(*ends)


def test_in_place_arithmetic_right_after_a_site():
    class Adds(nn.Module):
        def __init__(self, inplace):
            super().__init__()
            self.body, self.tap, self.head = nn.Linear(4, 4), Tap(), nn.Linear(4, 3)
            self.inplace = inplace

        def forward(self, inputs):
            value = self.tap(self.body(inputs))
            value = value.add_(1).relu_() if self.inplace else (value + 1).relu()
            return self.head(value)

    ends = []
    for inplace in (False, True):
        torch.manual_seed(0)
        model, adversary = Adds(inplace), LayerwiseAdversary(BUDGET, ["tap"])
        with adversary.attach(model):
            for _ in range(3):
                model(torch.ones(5, 4)).square().sum().backward()
        ends.append([[p.grad for p in model.parameters()], adversary.state_dict()])
    assert identical(*ends)


def test_a_functional_network_with_a_tap():
    class Formula(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 4))
            self.tap = Tap()

        def forward(self, inputs):
            return F.linear(self.tap(torch.tanh(F.linear(inputs, self.weight))), self.weight)

    torch.manual_seed(0)
    adversary = LayerwiseAdversary(BUDGET, ["tap"], relative=False)
    met, left = steps(Formula(), adversary, "tap", torch.ones(5, 4), lambda out: out.square().sum())
    assert left.all()
    assert torch.allclose(met, BUDGET * left, atol=1e-6)


def test_one_module_shared_in_two_places():
    torch.manual_seed(0)
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.Tanh(), shared, nn.Linear(4, 3))
    adversary = LayerwiseAdversary(BUDGET, ["0"], relative=False)
    with probing(model, adversary, "0") as probe:
        model(torch.ones(5, 4)).square().sum().backward()
        left = [gradient.sign() for gradient in probe.gradients()]
        probe.clear()
        model(torch.ones(5, 4))
        for delta, direction in zip(probe.deltas(), left, strict=True):
            assert torch.allclose(delta, BUDGET * direction, atol=1e-6)


@pytest.mark.parametrize("sites", [["input", "stem"], ["stage.*"]])
def test_a_frozen_backbone(sites):
    """Nothing before the site asks for a gradient; the site records one all the same."""
    model = tiny()
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.startswith("head")
    adversary = LayerwiseAdversary(BUDGET, sites, relative=False)
    with probing(model, adversary, sites[0].replace("*", "0")) as probe:
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
        for batch in ADVERSARIES["slot"].batches(3):
            probe.clear()
            F.cross_entropy(model(batch.inputs), batch.targets).backward()
            optimizer.step()
        assert probe.deltas()[0].any()
        assert all(site["records"] == 3 for site in adversary.statistics().values())
    assert all(p.grad is None for n, p in model.named_parameters() if not n.startswith("head"))


def test_the_input_asks_for_its_own_gradient_and_leaves_the_users_alone():
    model, images = tiny(), torch.rand(4, 3, 6, 6)
    with LayerwiseAdversary(BUDGET, ["input"]).attach(model):
        model(images).sum().backward()
        assert not images.requires_grad
        assert images.grad is None
        asked = images.clone().requires_grad_()
        model(asked).sum().backward()
        assert asked.grad is not None


def test_a_clamped_inputs_own_gradient_is_the_clamps():
    model = nn.Linear(2, 1, bias=False)
    model.input_range = (0.0, 1.0)
    images = torch.tensor([[1.0, 0.5]], requires_grad=True)
    nn.init.ones_(model.weight)
    adversary = LayerwiseAdversary(BUDGET, ["input"])
    with probing(model, adversary, "input") as probe:
        for _ in range(2):
            images.grad = None
            probe.clear()
            model(images).sum().backward()
        assert probe.perturbed[0].tolist() == [[1.0, pytest.approx(0.6)]]
        assert images.grad.tolist() == [[0.0, 1.0]]
        probe.clear()
        model(images)
        # Recorded at the clamped input, so that a saturated pixel is not forgotten.
        assert model(images.detach() - 0.5).item() == pytest.approx(0.7)


# Layouts and precisions


@pytest.mark.parametrize("name", ADVERSARIES)
def test_channels_last_changes_nothing_but_the_layout(name):
    setting = ADVERSARIES[name]
    if "random" in str(setting.arguments):
        pytest.skip("random signs are drawn in the order of memory")
    ends = []
    for layout in (torch.contiguous_format, torch.channels_last):
        model, adversary = tiny(dtype=torch.float64).to(memory_format=layout), setting.adversary()
        seen = []
        with adversary.attach(model):
            model.stage.register_forward_hook(lambda *args, seen=seen: seen.append(args[2]))
            stream = [
                dataclasses.replace(batch, inputs=batch.inputs.to(memory_format=layout))
                for batch in setting.batches(5, dtype=torch.float64)
            ]
            losses = walk(model, adversary, stream)
        assert seen[-1].is_contiguous(memory_format=layout)
        ends.append(losses)
    assert torch.allclose(*ends, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ADVERSARIES)
def test_autocast(name, dtype):
    """The perturbed activation keeps its type, and losses follow float32's."""
    setting = ADVERSARIES[name]
    ends = []
    for enabled in (False, True):
        model, adversary = tiny(), setting.adversary()

        def loss(model, batch, adversary, enabled=enabled):
            adversary.batch(batch.indices, batch.view)
            with torch.autocast("cpu", dtype, enabled=enabled):
                output = model(batch.inputs)
            return F.cross_entropy(output.float(), batch.targets)

        site = (setting.arguments.get("sites") or ["input"])[0].replace("*", "0")
        with probing(model, adversary, site) as probe:
            losses = walk(model, adversary, setting.batches(4), loss)
            assert all(d.isfinite().all() for d in probe.deltas())
            assert [a.dtype for a in probe.raw] == [b.dtype for b in probe.perturbed]
            assert probe.deltas()[3].any()
        assert all(value.isfinite().all() for value in model.state_dict().values())
        ends.append(losses)
    assert torch.allclose(*ends, rtol=0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_perturbations_have_their_size(dtype):
    model, adversary = tiny(), LayerwiseAdversary(BUDGET, ["stem"])
    with probing(model, adversary, "stem") as probe:
        for batch in ADVERSARIES["slot"].batches(2):
            probe.clear()
            with torch.autocast("cpu", dtype):
                output = model(batch.inputs)
            F.cross_entropy(output.float(), batch.targets).backward()
        raw = probe.raw[0].float()
    assert probe.perturbed[0].dtype == dtype
    size = (probe.perturbed[0].float() - raw).abs().mean()
    assert size.item() == pytest.approx(BUDGET * raw.square().mean().sqrt().item(), rel=0.05)


# Refused by name


def ready(sites=("stem",)):
    model, adversary = tiny(norm=False), LayerwiseAdversary(BUDGET, sites)
    handle = adversary.attach(model)
    return model, adversary, handle, torch.rand(4, 3, 6, 6)


def parameters(model):
    return {name: value.detach() for name, value in model.named_parameters()}


def per_example(model, images):
    def loss(weights, image):
        return torch.func.functional_call(model, weights, (image[None],)).sum()

    return torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters(model), images)


TRANSFORMS = {
    "vmap": lambda model, images: torch.func.vmap(lambda image: model(image[None]))(images),
    "grad": lambda model, images: torch.func.grad(lambda x: model(x).sum())(images),
    "per-example gradients": per_example,
    "jvp": lambda model, images: torch.func.jvp(model, (images,), (images,)),
    "jacrev": lambda model, images: torch.func.jacrev(model)(images),
    "trace": lambda model, images: torch.jit.trace(model, images),
    "export": lambda model, images: torch.export.export(model, (images,)),
    "strict export": lambda model, images: torch.export.export(model, (images,), strict=True),
    "make_fx": lambda model, images: torch.fx.experimental.proxy_tensor.make_fx(model)(images),
}


def forward_mode(model, images):
    with torch.autograd.forward_ad.dual_level():
        return model(torch.autograd.forward_ad.make_dual(images, images))


TRANSFORMS["forward mode"] = forward_mode


@pytest.mark.parametrize("sites", [("stem",), ("input",)])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms_and_tracing_are_refused_by_name(transform, sites):
    import torch.fx.experimental.proxy_tensor

    model, _, handle, images = ready(sites)
    with pytest.raises(Exception, match=r"paused\(\)|attached adversary") as caught:
        TRANSFORMS[transform](model, images)
    assert isinstance(caught.value, UnsupportedError) or "export" in transform
    torch.compiler.reset()
    model(images).sum().backward()  # and nothing is left behind
    handle.detach()


@pytest.mark.parametrize("transform", ["vmap", "grad", "per-example gradients", "jvp", "trace"])
def test_transforms_of_a_paused_network_are_those_of_a_plain_one(transform):
    model, adversary, handle, images = ready()
    with adversary.paused():
        seen = TRANSFORMS[transform](model, images)
    handle.detach()
    plain = TRANSFORMS[transform](model, images)
    if transform == "trace":
        seen, plain = seen(images), plain(images)
    assert identical(seen, plain)


def test_data_parallel_is_refused_by_name():
    with pytest.raises(UnsupportedError, match="DistributedDataParallel"):
        LayerwiseAdversary(BUDGET).attach(nn.DataParallel(tiny()))


@pytest.mark.parametrize("sites", [("stem",), ("input",)])
def test_replicas_are_refused_by_name(sites):
    """What `nn.DataParallel` makes, in every step, of a network that is attached already."""
    model, _, handle, images = ready(sites)
    replica = model._replicate_for_data_parallel()
    replica._modules = {
        name: child._replicate_for_data_parallel() for name, child in model.named_children()
    }
    with pytest.raises(UnsupportedError, match="DistributedDataParallel"):
        replica(images)
    handle.detach()


def test_scripted_networks_are_refused_by_name():
    scripted = torch.jit.script(nn.Sequential(nn.Linear(4, 3)))
    with pytest.raises(UnsupportedError, match="scripted"):
        LayerwiseAdversary(BUDGET, ["0"]).attach(scripted)


def test_sharded_parameters_are_refused_by_name():
    """A stand-in of the same name: real ones need a process group."""

    class DTensor(nn.Parameter):
        pass

    model = nn.Linear(4, 3)
    model.weight = DTensor(model.weight.detach())
    with pytest.raises(UnsupportedError, match="sharded"):
        LayerwiseAdversary(BUDGET, ["input"]).attach(model)


def test_sparse_and_nested_activations_are_refused_by_name():
    for layout in (
        lambda value: value.to_sparse(),
        lambda value: torch.nested.as_nested_tensor([value, value[:1]]),
    ):
        model = nn.Sequential(Tap())
        handle = LayerwiseAdversary(BUDGET, ["0"]).attach(model)
        with pytest.raises(UnsupportedError, match="sparse"):
            model(layout(torch.ones(2, 3)))
        handle.detach()


# transformers


def vit():
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(
        ViTConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            image_size=8,
            patch_size=4,
            num_labels=3,
        )
    ), {"pixel_values": torch.rand(4, 3, 8, 8)}


def bert():
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(
        BertConfig(
            vocab_size=20,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=16,
            num_labels=3,
        )
    ), {"input_ids": torch.randint(0, 20, (4, 6))}


@pytest.mark.parametrize("checkpoints", [False, True], ids=["plain", "checkpoints"])
@pytest.mark.parametrize("build", [vit, bert])
def test_transformers(build, checkpoints):
    pytest.importorskip("transformers", reason="needs the transformers extra")
    torch.manual_seed(0)
    model, batch = build()
    model.train()
    if checkpoints:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    keys = list(model.state_dict())
    adversary = LayerwiseAdversary(0.05)
    optimizer = sgd(model)
    targets = torch.tensor([0, 1, 2, 0])
    with adversary.attach(model):
        for _ in range(4):
            output = model(**batch, labels=targets)
            output.loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        statistics = adversary.statistics()
        assert list(model.state_dict()) == keys
    blocks = [name for name in statistics if name[-1].isdigit()]
    assert len(blocks) >= 2
    assert ("input" in statistics) == (build is vit)
    for site in statistics.values():
        assert site["runs"] == site["records"] == 4
        assert site["restarts"] == 0
    # Of the last block only the token that is classified has a gradient.
    assert min(site["zeros"] for site in statistics.values()) < 0.1


def test_a_whole_functional_network_in_one():
    """Functional, in-place ReLU, tuple outputs and a shared module, all at once."""

    class Everything(Functional):
        def __init__(self):
            super().__init__(calls=2)
            self.tap = Tap()
            self.both = Body(lambda value: (value, None))
            self.both.linear = nn.Linear(5, 5)

        def forward(self, inputs):
            value = F.relu_(self.stem(inputs))
            for _ in range(self.calls):
                value = self.shared(value)
            return self.head(self.tap(F.relu_(self.both(value)[0])))

    torch.manual_seed(0)
    model = Everything()
    adversary = LayerwiseAdversary(BUDGET, ["input", "stem", "shared", "both", "tap"])
    with adversary.attach(model):
        for _ in range(3):
            model(torch.randn(6, 4)).square().sum().backward()
        statistics = adversary.statistics()
    assert statistics["shared"]["records"] == 6
    assert all(site["records"] >= 3 for site in statistics.values())
