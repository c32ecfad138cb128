"""Under Lightning's trainer training is what it is in a loop of one's own, to the bit."""

import copy
import logging
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from advreg import Batch, LayerwiseAdversary, LayerwiseConfig
from advreg.data import in_blocks, with_indices
from advreg.errors import (
    ConfigurationError,
    MemoryResetWarning,
    MissingExtraError,
    SiteError,
    UnsupportedError,
)
from advreg.layerwise import adversary_of
from advreg.methods import build_method

lightning = pytest.importorskip("lightning")

from advreg.integrations.lightning import AdversaryCallback, MethodMixin, package  # noqa: E402
from advreg.integrations.ranks import state_of_rank  # noqa: E402

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning:lightning")

SETTINGS = {"epsilon": 0.1, "sites": ("input", "0", "1")}
METHODS = {
    "fgsm": {"epsilon": 0.1},
    "sam": {},
    "free": {"epsilon": 0.1, "replays": 3},
    "trades": {"epsilon": 0.1, "steps": 2},
    "datagrad": {"exact": False},
    "previous_fgsm": {"epsilon": 0.1, "start": "batch"},
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def data(count=40):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(count, 6, generator=generator)
    return TensorDataset(inputs, torch.randint(0, 3, (count,), generator=generator))


def loader(indexed=False):
    return DataLoader(with_indices(data()) if indexed else data(), 8)


class Plain(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = network()
        self.batches, self.validated = [], []

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        self.batches.append(batch)
        x, y = batch
        return F.cross_entropy(self(x), y)

    def validation_step(self, batch, batch_idx):
        x, _ = batch
        self.validated.append(torch.equal(self(x), copy.deepcopy(self.net)(x)))

    def test_step(self, batch, batch_idx):
        self.validation_step(batch, batch_idx)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]


class Trained(MethodMixin, Plain):
    def __init__(self, name, **options):
        super().__init__()
        self.method = build_method(name, **options)


def trainer(tmp_path=None, epochs=2, package=lightning, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    folder = None if tmp_path is None else str(tmp_path)
    return package.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        default_root_dir=folder,
        enable_checkpointing=tmp_path is not None,
        **quiet,
        **options,
    )


def by_hand(step, accumulate=1, clip=None, bf16=False, replays=1, epochs=2):
    """A loop of one's own; `step` leaves the gradient of a mini-batch, times a share."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    with step.attach(model):
        for _ in range(epochs):
            for number, batch in enumerate(loader()):
                due = (number + 1) % accumulate == 0 or number == 4
                for _ in range(replays):
                    step.run(model, batch, 1 / accumulate, bf16)
                    if due:
                        if clip is not None:
                            nn.utils.clip_grad_norm_(model.parameters(), clip)
                        optimizer.step()
                        optimizer.zero_grad()
            schedule.step()
    return model


class ByAdversary:
    def __init__(self):
        self.adversary = LayerwiseAdversary(**SETTINGS)

    def attach(self, model):
        return self.adversary.attach(model)

    def run(self, model, batch, share, bf16):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(model(batch[0]), batch[1])
        (loss * share).backward()


class ByMethod:
    def __init__(self, method):
        self.method = method

    def attach(self, model):
        return self.method.attach(model)

    def run(self, model, batch, share, bf16):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            self.method.step(
                model, Batch(*batch), F.cross_entropy, lambda loss: (loss * share).backward()
            )


def same(one, other):
    states = one.state_dict(), other.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def equal(one, other):
    """Whether two states are the same to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("bf16", [False, True])
def test_a_callback_trains_as_a_loop_does(accumulate, bf16):
    model, callback = Plain(), AdversaryCallback(module="net", **SETTINGS)
    options = {"accumulate_grad_batches": accumulate, "gradient_clip_val": 0.5}
    precision = "bf16-mixed" if bf16 else "32-true"
    fit = trainer(callbacks=[callback], precision=precision, **options)
    fit.fit(model, loader(), loader())
    step = ByAdversary()
    assert same(model.net, by_hand(step, accumulate, 0.5, bf16))
    assert equal(callback.adversary.state_dict(), step.adversary.state_dict())
    assert not same(model.net, network())
    assert callback.adversary.step == 10
    assert model.validated
    assert all(model.validated)
    assert adversary_of(model.net) is None


@pytest.mark.parametrize("name", METHODS)
def test_a_mixin_trains_as_a_loop_does(name):
    options = METHODS[name]
    replays = options.get("replays", 1)
    for accumulate in (1,) if replays > 1 else (1, 2):
        model = Trained(name, **options)
        model.accumulate_grad_batches, model.gradient_clip_val = accumulate, 0.5
        fit = trainer(precision="bf16-mixed" if name == "fgsm" else "32-true")
        fit.fit(model, loader(), loader())
        method = build_method(name, **options)
        hand = by_hand(ByMethod(method), accumulate, 0.5, name == "fgsm", replays)
        assert same(model.net, hand)
        assert equal(model.method.state_dict(), method.state_dict())
        assert fit.global_step == 2 * (3 if accumulate == 2 else 5) * replays
        assert fit.callback_metrics["train_loss"] > 0
        assert all(model.validated)


@pytest.mark.parametrize("kind", ["adversary", "previous_fgsm"])
def test_a_resumed_fit_equals_one_that_was_not_interrupted(kind, tmp_path):
    def made():
        if kind == "adversary":
            return Plain(), AdversaryCallback(**{**SETTINGS, "sites": ("input", "net.1")})
        return Trained(kind, **METHODS[kind]), lightning.Callback()

    def state(model, callback):
        return (callback.adversary if kind == "adversary" else model.method).state_dict()

    model, callback = made()
    trainer(epochs=3, callbacks=[callback]).fit(model, loader())
    first = trainer(tmp_path, epochs=1, callbacks=[made()[1]])
    first.fit(made()[0], loader())
    path = tmp_path / "one.ckpt"
    first.save_checkpoint(path)
    torch.load(path, weights_only=True)
    again, resumed = made()
    trainer(epochs=3, callbacks=[resumed]).fit(again, loader(), ckpt_path=path)
    assert same(model, again)
    assert equal(state(model, callback), state(again, resumed))
    # Without its state it differs, so that the comparison can fail.
    kept = torch.load(path, weights_only=True)
    for part in kept["callbacks"].values():
        part.get("ranks", []).clear()
    kept["callbacks"].clear()
    torch.save(kept, path)
    other, forgetful = made()
    trainer(epochs=3, callbacks=[forgetful]).fit(other, loader(), ckpt_path=path)
    assert not same(model, other)


@pytest.mark.parametrize("items", ["tuple", "mapping"])
def test_example_memory_is_given_its_indices_and_the_steps_see_none(items):
    class Mappings(TensorDataset):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return {"x": x, "y": y}

    class ByName(Plain):
        def training_step(self, batch, batch_idx):
            return super().training_step([batch["x"], batch["y"]], batch_idx)

        def validation_step(self, batch, batch_idx):
            return super().validation_step([batch["x"], batch["y"]], batch_idx)

    mappings = items == "mapping"
    examples = Mappings(*data().tensors) if mappings else data()
    model = ByName() if mappings else Plain()
    callback = AdversaryCallback(LayerwiseConfig(0.1, memory="example"), module="net")
    loaders = [DataLoader(with_indices(examples), 8, shuffle=True) for _ in range(2)]
    fit = trainer(callbacks=[callback])
    fit.fit(model, *loaders)
    fit.test(model, loaders[1], verbose=False)
    store = callback.adversary.state_dict()["sites"]["input"]["calls"][0]["memory"]["stores"][0]
    assert store["visits"].tolist() == [2] * 40
    assert all(len(batch) == 2 for batch in model.batches)


def test_example_memory_is_given_its_indices_at_every_visit_of_a_block():
    torch.manual_seed(1)
    model = Plain()
    callback = AdversaryCallback(LayerwiseConfig(0.1, memory="example"), module="net")
    epochs = in_blocks(DataLoader(with_indices(data()), 8, shuffle=True), 2)
    trainer(epochs=2, callbacks=[callback]).fit(model, epochs)
    store = callback.adversary.state_dict()["sites"]["input"]["calls"][0]["memory"]["stores"][0]
    assert store["visits"][:40].tolist() == [4] * 40
    order = [float(batch[0][0, 0]) for batch in model.batches]
    assert len(order) == 20
    assert order[:2] == order[2:4]
    assert order[:10] != order[10:]


def test_a_method_that_keeps_examples_is_given_their_indices():
    model = Trained("atta", epsilon=0.1)
    trainer().fit(model, loader(indexed=True))
    assert model.method.state_dict()["examples"]["visits"][:40].tolist() == [2] * 40


def test_an_exception_detaches():
    class Failing(Plain):
        def training_step(self, batch, batch_idx):
            if batch_idx == 1:
                raise RuntimeError("stop")
            return super().training_step(batch, batch_idx)

    model, callback = Failing(), AdversaryCallback(**SETTINGS, module="net")
    with pytest.raises(RuntimeError, match="stop"):
        trainer(callbacks=[callback]).fit(model, loader())
    assert adversary_of(model.net) is None
    callback.adversary.attach(model.net).detach()


def test_the_network_in_a_module_is_found_or_asked_for():
    class Headless(lightning.LightningModule):
        def __init__(self, *names):
            super().__init__()
            for name in names:
                setattr(self, name, network())

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    callback = AdversaryCallback(**SETTINGS)
    trainer(callbacks=[callback]).fit(Headless("net"), loader())
    assert callback.adversary.step == 10
    for module, names, said in [
        (None, ("net", "other"), "name the one"),
        ("body", ("net",), "net"),
    ]:
        with pytest.raises(SiteError, match=said):
            trainer(callbacks=[AdversaryCallback(**SETTINGS, module=module)]).fit(
                Headless(*names), loader()
            )


@pytest.mark.parametrize("name", METHODS)
def test_automatic_optimisation_is_refused_by_a_sentence(name):
    method = build_method(name, **METHODS[name])
    with pytest.raises(ConfigurationError, match="MethodMixin"):
        AdversaryCallback(method)

    class Automatic(Plain):
        def training_step(self, batch, batch_idx):
            method.step(self, Batch(*batch), F.cross_entropy, torch.Tensor.backward)

    model = Automatic()
    with method.attach(model), pytest.raises(UnsupportedError, match="MethodMixin"):
        trainer().fit(model, loader())
    losses = []
    x, y = data()[:8]
    plain = network()
    with method.attach(plain), pytest.raises(UnsupportedError, match="has not run the backward"):
        method.step(plain, Batch(x, y), F.cross_entropy, losses.append)


def test_what_a_mixin_cannot_do_is_refused_by_a_sentence():
    model = Trained("free", epsilon=0.1)
    model.accumulate_grad_batches = 2
    with pytest.raises(ConfigurationError, match="replays"):
        trainer().fit(model, loader())
    with pytest.raises(Exception, match="accumulate_grad_batches"):  # Lightning's own sentence
        trainer(accumulate_grad_batches=2).fit(Trained("fgsm"), loader())
    model = Trained("fgsm")
    model.method = None
    with pytest.raises(ConfigurationError, match="build_method"):
        trainer().fit(model, loader())
    with pytest.raises(ConfigurationError, match="not both"):
        AdversaryCallback(LayerwiseConfig(0.1), epsilon=0.2)


def test_schedules_move_as_under_automatic_optimisation():
    class Scheduled(Plain):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            steps = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
            return [optimizer], [
                {"scheduler": steps, "interval": "step", "frequency": 2},
                {"scheduler": plateau, "monitor": "figure"},
            ]

        def validation_step(self, batch, batch_idx):
            self.log("figure", 1.0)

    class ByMixin(MethodMixin, Scheduled):
        def __init__(self):
            super().__init__()
            self.method = build_method("standard")

    rates, models = [], [Scheduled(), ByMixin()]
    for model in models:
        fit = trainer(epochs=4)
        fit.fit(model, loader(), loader())
        rates.append(fit.optimizers[0].param_groups[0]["lr"])
    assert rates[0] == rates[1] < 0.05
    assert same(*models)


def test_the_older_package_takes_the_same_callback():
    older = pytest.importorskip("pytorch_lightning")

    class Old(older.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network()

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    callback = AdversaryCallback(**SETTINGS)
    trainer(package=older, callbacks=[callback]).fit(Old(), loader())
    assert callback.adversary.step == 10


def test_another_number_of_ranks_keeps_the_counters_and_says_so():
    step = ByAdversary()
    by_hand(step, epochs=1)
    state = step.adversary.state_dict()
    with pytest.warns(MemoryResetWarning, match="2 ranks and this run has 1"):
        kept = state_of_rank({"ranks": [state, state]})
    assert kept["step"] == 5
    assert kept["sites"] == {}
    fresh = LayerwiseAdversary(**SETTINGS)
    fresh.load_state_dict(kept)
    model = network()
    with fresh.attach(model):
        assert fresh.step == 5
        F.cross_entropy(model(data()[:8][0]), data()[:8][1]).backward()


def test_either_package_serves_and_without_both_there_is_a_command(monkeypatch):
    older = pytest.importorskip("pytorch_lightning")
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    assert package._package() is older
    monkeypatch.setitem(sys.modules, "pytorch_lightning", None)
    with pytest.raises(MissingExtraError, match=r'pip install "advreg\[lightning\]"'):
        package._package()
