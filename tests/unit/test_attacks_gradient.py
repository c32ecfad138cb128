"""FGSM and PGD against a slow, plain twin, and what they leave as it was."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from advreg.attacks import L2, Linf, cross_entropies, fgsm, input_gradient, pgd
from advreg.errors import EmptyPerturbationWarning


def network(dtype=torch.float64):
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3)
    )
    return model.to(dtype).eval()


def examples(count=6, dtype=torch.float64):
    generator = torch.Generator().manual_seed(2)
    inputs = torch.rand(count, 1, 4, 4, generator=generator, dtype=dtype)
    return inputs, torch.arange(count) % 3


def plain_pgd(model, inputs, targets, threat, steps, size, starts, momentum, targeted):
    """Projected gradient ascent one example and one step at a time; yields after each step."""
    deltas = [(x + d).clamp(0, 1) - x for x, d in zip(inputs, starts, strict=True)]
    velocities = [torch.zeros_like(x) for x in inputs]
    for _ in range(steps):
        for i, (x, y) in enumerate(zip(inputs, targets, strict=True)):
            leaf = (x + deltas[i]).requires_grad_()
            loss = functional.cross_entropy(model(leaf[None])[0], y)
            loss = -loss if targeted else loss
            loss.backward()
            g = leaf.grad
            if momentum:
                velocities[i] = g = momentum * velocities[i] + g / g.abs().sum()
            if isinstance(threat, Linf):
                moved = deltas[i] + size * g.sign()
                moved = moved.clip(-threat.epsilon, threat.epsilon)
            else:
                moved = deltas[i] + size * g / g.norm()
                moved = moved * min(1.0, threat.epsilon / moved.norm().item())
            deltas[i] = (x + moved).clip(0, 1) - x
        yield torch.stack([x + d for x, d in zip(inputs, deltas, strict=True)])


@pytest.mark.parametrize(
    ("threat", "momentum", "targeted", "random_start"),
    [
        (Linf(0.1), 0.0, False, True),
        (Linf(0.1), 0.7, True, False),
        (L2(0.8), 0.0, True, True),
        (L2(0.8), 0.7, False, False),
    ],
)
def test_pgd_equals_its_plain_twin_step_by_step(threat, momentum, targeted, random_start):
    model, (inputs, targets) = network(), examples()
    starts = torch.zeros_like(inputs)
    if random_start:
        starts = threat.start(inputs, torch.Generator().manual_seed(5))
    size = 0.3 * threat.epsilon
    twin = plain_pgd(model, inputs, targets, threat, 8, size, starts, momentum, targeted)
    for steps, expected in enumerate(twin, start=1):
        attacked = pgd(
            model, inputs, targets, threat, steps, size, random_start=random_start,
            momentum=momentum, targeted=targeted, generator=torch.Generator().manual_seed(5),
        )  # fmt: skip
        torch.testing.assert_close(attacked, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("targeted", [False, True])
def test_fgsm_is_one_sign_step(targeted):
    model, (inputs, targets) = network(), examples()
    gradient = input_gradient(model, inputs, targets) * (-1 if targeted else 1)
    expected = (inputs + 0.1 * gradient.sign()).clamp(0, 1)
    attacked = fgsm(model, inputs, targets, Linf(0.1), targeted=targeted)
    assert attacked.equal(expected)
    assert attacked.equal(
        pgd(model, inputs, targets, Linf(0.1), 1, 0.1, random_start=False, targeted=targeted)
    )


@pytest.mark.parametrize("threat", [Linf("8/255"), L2(0.5)], ids=repr)
@pytest.mark.parametrize("attack", [fgsm, pgd])
def test_the_result_is_in_the_ball_and_in_the_range(threat, attack):
    model, (inputs, targets) = network(torch.float32), examples(dtype=torch.float32)
    attacked = attack(model, inputs, targets, threat)
    order = float("inf") if isinstance(threat, Linf) else 2
    reach = (attacked - inputs).flatten(1).norm(p=order, dim=1)
    assert (reach <= threat.epsilon + 1e-6).all()
    assert (reach > 0.5 * threat.epsilon).all()
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    assert attacked.dtype == torch.float32
    assert not attacked.requires_grad


def test_pgd_raises_the_loss_more_than_fgsm_and_a_targeted_attack_lowers_it():
    model, (inputs, targets) = network(), examples(60)
    attacked = (
        pgd(model, inputs, targets, Linf(0.2), targeted=True),
        inputs,
        fgsm(model, inputs, targets, Linf(0.2)),
        pgd(model, inputs, targets, Linf(0.2), generator=torch.Generator()),
    )
    losses = [cross_entropies(model(x), targets).mean().item() for x in attacked]
    assert losses == sorted(set(losses))


def test_the_default_step_size_is_two_and_a_half_epsilon_over_the_steps():
    model, (inputs, targets) = network(), examples()
    attacked = [
        pgd(model, inputs, targets, Linf(0.1), 5, size, random_start=False)
        for size in (None, "1/20")
    ]
    assert attacked[0].equal(attacked[1])


@pytest.mark.parametrize("targeted", [False, True])
def test_of_restarts_the_worst_of_each_example_is_kept(targeted):
    model, (inputs, targets) = network(), examples(40)

    def run(restarts, generator):
        settings = {"targeted": targeted, "generator": generator}
        return pgd(model, inputs, targets, Linf(0.15), 1, 0.02, restarts, **settings)

    generator = torch.Generator().manual_seed(7)
    singles = torch.stack([run(1, generator) for _ in range(4)])
    together = run(4, torch.Generator().manual_seed(7))
    kept = []
    for i, target in enumerate(targets):
        outputs = model(singles[:, i])
        losses = functional.cross_entropy(outputs, target.expand(4), reduction="none")
        successes = (outputs.argmax(1) == target) == targeted
        ranks = [
            (s.item(), -loss if targeted else loss)
            for s, loss in zip(successes, losses.tolist(), strict=True)
        ]
        kept.append(max(range(4), key=ranks.__getitem__))
        torch.testing.assert_close(together[i], singles[kept[-1], i], rtol=0, atol=1e-12)
    assert len(set(kept)) > 2


def test_of_restarts_a_success_beats_a_higher_loss():
    """Minus the cross entropy as criterion: the successes have the lower values."""
    model, (inputs, targets) = network(), examples(40)
    settings = {"steps": 1, "step_size": 0.001, "criterion": lambda o, t: -cross_entropies(o, t)}

    def missed(restarts):
        settings["generator"] = torch.Generator().manual_seed(0)
        attacked = pgd(model, inputs, targets, Linf(0.3), restarts=restarts, **settings)
        return model(attacked).argmax(1) != targets

    first, five = missed(1), missed(5)
    assert (five | ~first).all()
    assert five.sum() > first.sum()


def test_an_example_is_attacked_alike_in_any_batch():
    model, (inputs, targets) = network(), examples()
    together = pgd(model, inputs, targets, L2(0.5), random_start=False)
    alone = [
        pgd(model, inputs[i : i + 1], targets[i : i + 1], L2(0.5), random_start=False)
        for i in range(6)
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-12)


def test_a_mean_criterion_gives_the_gradient_of_the_sum():
    model, (inputs, targets) = network(), examples()
    mean = input_gradient(model, inputs, targets, functional.cross_entropy)
    torch.testing.assert_close(mean, input_gradient(model, inputs, targets))


def test_everything_is_left_as_it_was():
    model, (inputs, targets) = network(), examples()
    model.train()
    model[1].eval()
    model[0].weight.requires_grad = False
    inputs.requires_grad_()
    before = inputs.detach().clone()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    modes = [module.training for module in model.modules()]
    pgd(model, inputs, targets, Linf(0.1), 3, restarts=2)
    assert inputs.requires_grad
    assert inputs.grad is None
    assert inputs.detach().equal(before)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted
    assert [module.training for module in model.modules()] == modes
    assert all(value.equal(state[name]) for name, value in model.state_dict().items())


def test_gradients_that_the_parameters_hold_are_kept():
    model, (inputs, targets) = network(), examples()
    cross_entropies(model(inputs), targets).sum().backward()
    held = [parameter.grad.clone() for parameter in model.parameters()]
    pgd(model, inputs, targets, Linf(0.1), 2)
    assert all(p.grad.equal(g) for p, g in zip(model.parameters(), held, strict=True))


def test_inference_mode_around_does_not_matter():
    model, (inputs, targets) = network(), examples()
    expected = fgsm(model, inputs, targets, Linf(0.1))
    with torch.inference_mode():
        inputs, targets = inputs.clone(), targets.clone()
        assert fgsm(model, inputs, targets, Linf(0.1)).equal(expected)
        pgd(model, inputs, targets, L2(0.1), 2, restarts=2)
        assert not torch.is_grad_enabled()


def test_gradients_that_are_not_finite_leave_finite_inputs():
    class Broken(nn.Module):
        def forward(self, x):
            return torch.cat([x.flatten(1)[:, :1].sqrt(), x.flatten(1)[:, 1:3]], 1)

    inputs, targets = torch.zeros(2, 4), torch.tensor([0, 1])
    assert not input_gradient(Broken(), inputs, targets).isfinite().all()
    for threat in (Linf(0.5), L2(0.5)):
        attacked = pgd(Broken(), inputs, targets, threat, 3, random_start=False, momentum=0.5)
        assert attacked.isfinite().all()
        assert attacked[0, 1] > 0


def test_a_network_that_cuts_the_gradient_has_a_gradient_of_zero():
    class Cut(nn.Linear):
        def forward(self, x):
            return super().forward(x.detach())

    for model in (Cut(4, 3), Cut(4, 3).requires_grad_(False)):
        inputs = torch.rand(2, 4)
        assert input_gradient(model, inputs, torch.tensor([0, 1])).equal(torch.zeros(2, 4))
        with pytest.warns(EmptyPerturbationWarning, match="follows none"):
            assert fgsm(model, inputs, torch.tensor([0, 1]), Linf(0.1)).equal(inputs)


def test_without_a_range_nothing_is_clamped():
    model, (inputs, targets) = network(), examples()
    attacked = fgsm(model, inputs, targets, Linf(8), input_range=None)
    assert (attacked - inputs).abs().max().item() == pytest.approx(8)
