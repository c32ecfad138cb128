"""Semantic 3: sites by name, one site a tensor, errors that list what there is, named warnings."""

import warnings
from functools import partial

import pytest
import torch
from probes import probing
from settings import ADVERSARIES, MEMORIES, TinyNet, batches, loss_of, tiny, walk
from torch import nn

from advreg import LayerwiseAdversary, Tap
from advreg.errors import (
    AttachmentError,
    MemoryResetWarning,
    NoGradientWarning,
    SiteError,
    SiteNeverRanWarning,
)

HIDDEN = ["stem", "stage", "stage.0", "stage.1"]


def site_names(adversary):
    return list(adversary.statistics())


def hooks(model):
    return [
        hook
        for module in model.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    ]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ("stage", ["stage"]),
        ("stage*", ["stage"]),
        ("stage.*", ["stage.0", "stage.1"]),
        ("stage.**", ["stage", "stage.0", "stage.0.conv", "stage.1.relu"]),
        (["input", "st*"], ["input", "stem", "stage"]),
        ("**.relu", ["stage.0.relu", "stage.1.relu"]),
        ("stage.[01]", None),
    ],
)
def test_globs_choose_components(patterns, expected):
    adversary = LayerwiseAdversary(0.1, patterns)
    if expected is None:
        with pytest.raises(SiteError):
            adversary.attach(tiny())
        return
    with adversary.attach(tiny()):
        assert set(expected) <= set(site_names(adversary))
        assert len(site_names(adversary)) == len(expected) or "**" in str(patterns)


@pytest.mark.parametrize(
    "settings",
    [
        {"sites": ["stage", "sage.0"]},
        {"epsilon": {"stage": 0.1, "sage.0": 0.1}},
        {"epsilon": {"**": 0.1, "sage.0": 0.1}, "sites": ["stage"]},
    ],
)
def test_nothing_matched_lists_what_there_is(settings):
    model = tiny()
    with pytest.raises(SiteError, match=r"'sage\.0'.*input.*stem.*stage\.0.*head"):
        LayerwiseAdversary(**{"epsilon": 0.1} | settings).attach(model)
    assert not hooks(model)
    LayerwiseAdversary(0.1, "stage").attach(model).detach()


def test_a_site_without_a_budget_is_named():
    with pytest.raises(SiteError, match="stem"):
        LayerwiseAdversary({"stage": 0.1}, ["stage", "stem"]).attach(tiny())


@pytest.mark.parametrize("hooked", [False, True], ids=["", "full backward hook"])
def test_stage_and_its_last_block_are_one_site(hooked):
    """A full backward hook hands on a view of the tensor, another object."""
    model = tiny()
    if hooked:
        model.stage[1].register_full_backward_hook(lambda *_: None)
    adversary = LayerwiseAdversary(0.1, HIDDEN, relative=False)
    with probing(model, adversary, "stage.1", "stage") as (block, stage):
        walk(model, adversary, batches(2))
        assert block.deltas()[1].abs().max().item() == pytest.approx(0.1, abs=1e-6)
        assert not stage.deltas()[1].any()
        assert hooked or all(map(lambda a, b: a is b, block.perturbed, stage.perturbed))
        assert site_names(adversary) == ["stem", "stage.0", "stage.1"]


def test_one_tensor_stays_one_site_where_parts_are_called_on_their_own():
    class Parts(TinyNet):
        def forward(self, images):
            raise NotImplementedError

    torch.manual_seed(0)
    model = Parts()
    adversary = LayerwiseAdversary(0.1, HIDDEN, relative=False)
    with probing(model, adversary, "stage.1", "stage") as (block, stage):
        for batch in batches(2):
            features = model.stage(model.stem(batch.inputs))
            model.head(features.mean((2, 3))).square().mean().backward()
        assert block.deltas()[1].any()
        assert not stage.deltas()[1].any()


def test_a_tensor_changed_in_place_is_another_site():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 3))
    adversary = LayerwiseAdversary(0.1, ["0", "1"], relative=False)
    with probing(model, adversary, "0", "1") as (first, second):
        for _ in range(2):
            model(torch.ones(2, 4)).sum().backward()
        assert first.deltas()[1].any()
        assert second.deltas()[1].any()
        assert site_names(adversary) == ["0", "1"]


def test_input_that_passes_through_is_one_site():
    model = nn.Sequential(Tap(), nn.Linear(4, 3))
    adversary = LayerwiseAdversary(0.1, ["input", "0"])
    with probing(model, adversary, "input", "0") as (image, tap):
        for _ in range(2):
            model(torch.ones(2, 4)).square().sum().backward()
        assert image.deltas()[1].any()
        assert not tap.deltas()[1].any()
        assert site_names(adversary) == ["input"]


def test_one_tensor_with_two_budgets_is_an_error():
    model = tiny()
    adversary = LayerwiseAdversary({"stage.*": 0.1, "stage": 0.2}, ["stage", "stage.1"])
    with adversary.attach(model), pytest.raises(SiteError, match=r"one tensor.*0\.1 and 0\.2"):
        loss_of(model, next(batches(1)))


def test_two_names_of_one_module_are_one_site():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.second = self.first

        def forward(self, inputs):
            return self.second(inputs)

    with LayerwiseAdversary(0.1, ["second"]).attach(Twice()):
        pass


def test_input_is_the_networks_input_even_where_a_module_has_that_name():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.input = nn.Linear(4, 4)

        def forward(self, values):
            return self.input(values)

    model, adversary = Named(), LayerwiseAdversary(0.1, ["input"])
    with probing(model, adversary, "input") as probe:
        for _ in range(2):
            probe.clear()
            model(torch.ones(2, 4)).sum().backward()
        assert probe.deltas()[0].any()
        assert adversary.statistics()["input"]["runs"] == 2


def test_attaching_twice_is_an_error():
    model, adversary = tiny(), ADVERSARIES["slot"].adversary()
    handle = adversary.attach(model)
    count = len(hooks(model))
    with pytest.raises(AttachmentError, match="detach"):
        adversary.attach(tiny())
    with pytest.raises(AttachmentError, match="detach"):
        ADVERSARIES["slot"].adversary().attach(model)
    assert len(hooks(model)) == count
    handle.detach()
    handle.detach()
    assert not hooks(model)
    with adversary.attach(model), ADVERSARIES["slot"].adversary().attach(tiny()):
        pass


def test_hooks_come_off_on_an_exception():
    model, adversary = tiny(), ADVERSARIES["slot"].adversary()
    with pytest.raises(KeyError), adversary.attach(model):  # noqa: PT012
        walk(model, adversary, batches(1))
        raise KeyError
    assert not hooks(model)
    with adversary.attach(model):
        pass


def test_a_failed_forward_pass_leaves_the_next_one_right():
    """The call counter and the alias table start over."""
    stream = list(batches(3))
    losses = []
    for fails in (False, True):
        model, adversary = tiny(), ADVERSARIES["slot"].adversary()
        with adversary.attach(model):
            first = walk(model, adversary, stream[:1])
            if fails:
                with pytest.raises(RuntimeError):
                    model.head(model.stage(stream[0].inputs))
                broken = model.head
                model.head = nn.Linear(5, 3)
                with pytest.raises(RuntimeError):
                    model(stream[0].inputs)
                model.head = broken
            losses.append(torch.cat([first, walk(model, adversary, stream[1:])]))
    assert losses[0].equal(losses[1])


class Partial(nn.Module):
    """One branch never runs, one brings no gradient back."""

    def __init__(self):
        super().__init__()
        self.used, self.idle, self.cut = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, inputs):
        return self.head(self.used(inputs) + self.cut(inputs).detach())


def warned(model, sites, steps, inputs=lambda step: torch.ones(2, 4), **settings):
    """The warnings of a training: of twenty steps and more within it, else on leaving."""
    adversary = LayerwiseAdversary(0.1, sites, **settings)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with adversary.attach(model):
            for step in range(steps):
                model(inputs(step)).square().mean().backward()
            within = len(caught)
    assert within == (len(caught) if steps >= 20 else 0)
    return [(warning.category, str(warning.message)) for warning in caught]


@pytest.mark.parametrize("steps", [2, 30], ids=["on detaching", "while training"])
def test_sites_that_do_nothing_are_named_once(steps):
    seen = warned(Partial(), ["used", "idle", "cut"], steps)
    assert [kind for kind, _ in seen] == [SiteNeverRanWarning, NoGradientWarning]
    assert "'idle'" in seen[0][1]
    assert "'cut'" in seen[1][1]


def test_a_memory_that_is_reset_more_often_than_not_is_named_once():
    seen = warned(Partial(), ["used"], 40, lambda step: torch.ones(2, 4 + step % 2, 4))
    assert [kind for kind, _ in seen] == [MemoryResetWarning]
    assert "'used'" in seen[0][1]
    assert not warned(Partial(), ["used"], 40, lambda step: torch.ones(2, 4 + (step == 20), 4))


def drawn(count, step, generator):
    return int(torch.randint(1, count, (), generator=generator))


def shaped(widths, examples=40, batch=4):
    """The warnings of an example memory whose step i has the width `widths(i)`, and its figures."""
    model, adversary = Tap().train(), LayerwiseAdversary(0.1, ["input"], memory="example")
    generator, found = torch.Generator().manual_seed(0), []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with adversary.attach(model):
            for step in range(120):
                if step % (examples // batch) == 0:
                    order = torch.randperm(examples, generator=generator)
                adversary.set_batch(order[batch * (step % (examples // batch)) :][:batch])
                output = model(torch.zeros(batch, widths(step, generator)))
                found.append(output.detach().ne(0).float().mean().item())
                output.sum().backward()
    return [warning.category for warning in caught], sum(found[20:]) / 100


def test_example_memory_follows_a_few_shapes_and_names_many():
    """One mini-batch in twenty of another shape: the rest is perturbed as if it were not there."""
    seen, share = shaped(lambda step, _: 8 if step % 20 == 7 else 12)
    assert not seen
    assert share > 0.9
    for count in (8, 30):
        seen, share = shaped(partial(drawn, count))
        assert seen == [MemoryResetWarning]
        assert share < 0.5


def test_a_healthy_training_warns_of_nothing():
    for name in MEMORIES:
        setting, model = ADVERSARIES[name], tiny()
        adversary = setting.adversary()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with adversary.attach(model):
                walk(model, adversary, setting.batches(12))
