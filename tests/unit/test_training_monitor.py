"""The PGD monitor: when it speaks, what it measures, what it leaves alone."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from advreg.batch import Batch
from advreg.errors import CatastrophicOverfittingWarning, UnprotectedWarning
from advreg.methods import PGD, RSFGSM, Layerwise, Standard, build_method
from advreg.training.monitor import IMAGES, OverfittingWatch, PGDMonitor


def calls(*accuracies):
    """The epochs, from 0, in which a sequence of (FGSM, PGD) is called catastrophic."""
    watch = OverfittingWatch()
    return [epoch for epoch, pair in enumerate(accuracies) if watch.observe(*pair)]


def test_when_it_speaks():
    for accuracies, called in (
        ([(0.4, 0.3), (0.5, 0.4), (0.8, 0.0)], [2]),
        ([(0.4, 0.3), (0.5, 0.4), (0.8, 0.0), (0.9, 0.0)], [2]),  # once
        ([(0.4, 0.3), (0.8, 0.0), (0.5, 0.4), (0.8, 0.0)], [1]),
        ([(0.5, 0.4), (0.5, 0.21)], []),  # not yet half
        ([(0.5, 0.4), (0.5, 0.19)], [1]),
        ([(0.25, 0.12), (0.3, 0.03)], []),  # 9 points: noise of a small sample
        ([(0.25, 0.14), (0.3, 0.03)], [1]),
        ([(0.5, 0.4), (0.1, 0.1)], []),  # the whole training has collapsed, not to PGD alone
        ([(0.1, 0.1), (0.3, 0.25), (0.4, 0.35)], []),
        ([(0.6, 0.02), (0.8, 0.0)], []),  # there never was a robustness to lose
    ):
        assert calls(*accuracies) == called


class Pixel(nn.Module):
    """Tells dark from bright images by their first pixel; `masked` hides the first gradient.

    Masked, the gradient at a clean image points the wrong way and everywhere else the right
    way, so that FGSM fails where PGD succeeds.
    """

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.masked = False

    def forward(self, images):
        value = self.scale * (images[:, 0, 0, 0] - 0.5)
        if self.masked:
            clean = torch.isin(images[:, 0, 0, 0], torch.tensor([114.0, 140.0]) / 255)
            value = torch.where(clean, 2 * value.detach() - value, value)
        return torch.stack([-value, value], 1)


class Data:
    def __init__(self, count=300):
        self.targets = torch.arange(count) % 2
        # 0.05 on either side of the middle grey.
        self.images = (self.targets * 26 + 114).to(torch.uint8)[:, None, None, None]


def test_it_calls_a_model_that_masks_its_gradient():
    monitor, model, said = PGDMonitor(RSFGSM(epsilon=0.04), Data(), 9), Pixel().train(), []
    assert monitor.look(model, said, 1) == {"monitor_fgsm": 1.0, "monitor_pgd": 1.0}
    assert not said
    monitor.method.epsilon = 0.1
    model.masked = True
    with pytest.warns(CatastrophicOverfittingWarning, match=r"FGSM leaves 100% right and PGD 0%"):
        record = monitor.look(model, said, 2)
    assert record == {"monitor_fgsm": 1.0, "monitor_pgd": 0.0}
    assert len(said) == 1
    assert model.training
    assert monitor.look(model, said, 9) == record
    assert len(said) == 1


def test_it_attacks_images_of_each_class_without_touching_the_random_state():
    monitor = PGDMonitor(RSFGSM(), Data(300), 9)
    assert len(monitor.images) == len(monitor.targets) == IMAGES
    assert monitor.targets.sum() == IMAGES // 2
    assert len(PGDMonitor(RSFGSM(), Data(5), 9).images) == 5
    state = torch.get_rng_state()
    first = monitor.look(Pixel(), [], 1)
    assert torch.get_rng_state().equal(state)
    assert monitor.look(Pixel(), [], 1) == first


def test_it_counts_a_network_of_one_logit_right():
    class OneLogit(Pixel):
        def forward(self, images):
            return super().forward(images)[:, 1:]

    wide, narrow = (PGDMonitor(RSFGSM(epsilon=size), Data(), 9) for size in (0.1, 0.04))
    whole, one = (wide.look(model, [], 1) for model in (Pixel(), OneLogit()))
    assert whole == one == {"monitor_fgsm": 0.0, "monitor_pgd": 0.0}
    assert narrow.look(OneLogit(), [], 1)["monitor_pgd"] == 1


def test_other_methods_are_not_watched():
    hidden = Layerwise(epsilon=0.1, memory="example", sites=["0"])
    relative = Layerwise(epsilon=0.1, memory="example", sites=["input"], relative=True)
    other_norm = Layerwise(epsilon=0.1, memory="example", sites=["input"], direction="l2")
    slot = Layerwise(epsilon=0.1, sites=["input"])
    for method in (Standard(), PGD(), hidden, relative, other_norm, slot):
        with method.attach(nn.Sequential(Pixel()), examples=8):
            assert PGDMonitor(method, Data(), 1).look(None, [], 1) == {}


def test_example_memory_at_the_input_is_warned_of_once():
    method, model, said = Layerwise(epsilon=0.1, memory="example"), Pixel(), []
    with method.attach(model, examples=8):
        monitor = PGDMonitor(method, Data(), 5)
        assert [monitor.look(model, said, epoch) for epoch in (1, 2)] == [{}, {}]
        assert not said
        with pytest.warns(UnprotectedWarning, match=r"PGD leaves 0% right of 100% .*view_block"):
            record = monitor.look(model, said, 3)
        assert record == {"monitor_fgsm": 0.0, "monitor_pgd": 0.0}
        again = PGDMonitor(method, Data(), 5)
        again.load_state_dict(monitor.state_dict())
        assert again.look(model, said, 5) == record
    assert len(said) == 1


@pytest.mark.parametrize(
    ("steps", "looks"), [(40, [6, 9, 12]), (120, [6, 7, 8, 9, 10, 11, 12]), (8, [6, 12])]
)
def test_looks_at_example_memory_cost_a_tenth_of_the_time_at_most(steps, looks):
    method, model = Layerwise(epsilon=0.01, memory="example"), Pixel()
    with method.attach(model, examples=8, steps_per_epoch=steps):
        monitor = PGDMonitor(method, Data(), 12)
        assert [epoch for epoch in range(1, 13) if monitor.look(model, [], epoch)] == looks


def test_the_budget_is_that_of_the_mini_batches_so_far():
    split = Layerwise(0.1, memory="example", sites=["input", "0"], budget_split="sum")
    warm = Layerwise(0.1, memory="example", warmup_epochs=2)
    for method, budget in ((split, 0.05), (warm, 0.075)):
        model = nn.Sequential(Pixel())
        with method.attach(model, examples=8, steps_per_epoch=2):
            batches = [Batch(torch.rand(4, 1, 1, 1), torch.arange(4) % 2, torch.arange(4))] * 3
            for batch in batches:
                method.step(model, batch, functional.cross_entropy, lambda loss: loss.backward())
            assert method.monitored == pytest.approx(budget)


def test_images_are_attacked_in_parts_as_all_at_once():
    said, data = [], Data()
    whole, parts = (
        PGDMonitor(RSFGSM(epsilon=0.05), data, 9, batch_size=size) for size in (IMAGES, 50)
    )
    assert whole.look(Pixel(), said, 1) == parts.look(Pixel(), said, 1)


def test_a_network_that_is_protected_or_has_not_learnt_is_no_matter_for_a_warning():
    def warned(epsilon, model, epoch=2, steps=50):
        method, said = RSFGSM(epsilon=epsilon), []
        with method.attach(model, steps_per_epoch=steps):
            PGDMonitor(method, Data(), 3).look(model, said, epoch)
        return len(said)

    class Guess(Pixel):
        def forward(self, images):
            return torch.zeros(len(images), 2) + 0 * super().forward(images)

    assert warned(0.04, Pixel()) == 0
    assert warned(0.1, Guess()) == 0
    assert warned(0.1, Pixel(), epoch=1) == 0  # it may come to that yet
    assert warned(0.1, Pixel(), steps=40) == 0
    with pytest.warns(UnprotectedWarning):
        assert warned(0.1, Pixel()) == 1


def test_in_a_composed_method_it_is_the_part_that_is_looked_at():
    parts = {"layerwise": {"epsilon": 0.1, "memory": "example"}, "sam": {}}
    method = build_method("layerwise+sam", **parts)
    with method.attach(Pixel(), examples=8):
        assert method.monitored == 0.1
    assert build_method("rs_fgsm+awp", rs_fgsm={"epsilon": 0.2}, awp={}).monitored == 0.2


def test_its_state_is_plain_and_comes_back():
    monitor = PGDMonitor(RSFGSM(), Data(), 9)
    monitor.watch.observe(0.5, 0.4)
    other = PGDMonitor(RSFGSM(), Data(), 9)
    other.load_state_dict(monitor.state_dict())
    assert other.watch.observe(0.5, 0.1)
    state = {"best_fgsm": 0.5, "best_pgd": 0.4, "said": False}
    assert monitor.state_dict() == {**state, "unprotected": False}
    other.load_state_dict(state)  # of a version before
