"""LOTS takes the steps of its equation, image by image, and training on it is the mixed loss."""

import pytest
import torch
import torch.nn.functional as F
from attack_twins import assert_twins, epochs, keeping_statistics, network

from advreg.attacks import lots
from advreg.errors import ConfigurationError, SiteError
from advreg.layerwise import pairing_order
from advreg.losses import Task
from advreg.methods import LOTS
from advreg.modes import frozen_statistics

STEP = 0.02


def trained():
    """A network that knows something, in evaluation mode."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for batch in epochs(3):
        optimizer.zero_grad()
        F.cross_entropy(model(batch.inputs), batch.targets).backward()
        optimizer.step()
    return model.eval()


def pairs():
    """Images, and as targets those of other predicted classes as far as there are some."""
    images = torch.cat([batch.inputs for batch in epochs(1)])
    return images, images.flip(0)


def slow(model, origin, target, layer, steps, threshold, until_class):
    """One image: the image, steps taken, distance, whether it stopped before the limit."""
    until = int(layer) + 1
    features = model[:until](target[None])
    image, taken = origin[None], 0
    while True:
        image = image.detach().requires_grad_()
        loss = (model[:until](image) - features.detach()).square().sum() / 2
        distance = (2 * loss).sqrt()
        same = model(image).argmax() == model(target[None]).argmax()
        stop = (until_class and same) or (threshold is not None and distance <= threshold)
        if stop or taken == steps:
            return image[0].detach(), taken, distance.item(), bool(stop)
        (gradient,) = torch.autograd.grad(loss, image)
        image, taken = (image - STEP * gradient / gradient.abs().max()).clamp(0, 1), taken + 1


@pytest.mark.parametrize(
    ("layer", "near", "stops"),
    [("2", 2.8, "class"), ("2", 2.8, "distance"), ("2", 2.8, "either"), ("7", 0.1, "either")],
)
def test_attack_equals_its_equation(layer, near, stops):
    threshold, until_class = None if stops == "class" else near, stops != "distance"
    model, (origins, targets) = trained(), pairs()
    result = lots(
        model, origins, targets, layer, 12, threshold, until_class=until_class, step_size=STEP
    )
    for i, (origin, target) in enumerate(zip(origins, targets, strict=True)):
        image, taken, distance, stop = slow(
            model, origin, target, layer, 12, threshold, until_class
        )
        torch.testing.assert_close(result.images[i], image)
        assert result.steps[i] == taken
        assert result.distances[i].item() == pytest.approx(distance)
        assert result.success[i] == stop
        assert result.moved[i].item() == pytest.approx((image - origin).norm().item())
    assert 0 < result.success.sum() < len(origins)
    assert result.steps.unique().numel() > 2


def test_the_step_limit_holds_and_is_no_success():
    model, (origins, targets) = trained(), pairs()
    result = lots(model, origins, targets, "2", 3, until_class=False)
    assert (result.steps == 3).all()
    assert not result.success.any()
    assert ((result.images - origins).abs() <= 3 / 255 + 1e-12).all()


def test_matching_the_input_is_going_to_the_target():
    model, (origins, targets) = trained(), pairs()
    result = lots(model, origins, targets, "input", 400, 0.05, until_class=False)
    assert result.success.all()
    torch.testing.assert_close(result.images, targets, atol=0.05, rtol=0)


def test_leaves_the_network_as_it_was():
    model, (origins, targets) = trained(), pairs()
    with torch.no_grad():
        lots(model, origins, targets, "2", 3)
    assert all(parameter.grad is None for parameter in network().parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_layer_that_does_not_see_the_input_moves_nothing():
    model, (origins, targets) = trained(), pairs()
    with torch.no_grad():
        model[0].weight.zero_()
    result = lots(model, origins, targets, "2", 3, until_class=False)
    assert result.images.equal(origins)


def test_a_share_is_that_of_each_examples_own_first_distance():
    model, (origins, targets) = trained(), pairs()
    result = lots(model, origins, targets, "2", 40, share=0.5, until_class=False, step_size=STEP)
    first = (model[:3](origins) - model[:3](targets)).flatten(1).norm(dim=1)
    torch.testing.assert_close(result.curve[:, 0], first)
    for i, (origin, target) in enumerate(zip(origins, targets, strict=True)):
        image, taken, _, stop = slow(
            model, origin, target, "2", 40, 0.5 * first[i].item(), until_class=False
        )
        torch.testing.assert_close(result.images[i], image)
        assert (result.steps[i], result.success[i]) == (taken, stop)
    assert result.success.any()
    assert result.steps.unique().numel() > 2


def test_the_curve_has_the_distance_of_every_step():
    model, (origins, targets) = trained(), pairs()
    result = lots(model, origins, targets, "2", 12, 2.8, step_size=STEP)
    assert result.curve.shape == (len(origins), 13)
    for steps in (1, 5):
        short = lots(model, origins, targets, "2", steps, 2.8, step_size=STEP)
        torch.testing.assert_close(result.curve[:, steps], short.distances)
    torch.testing.assert_close(result.curve[:, -1], result.distances)


def test_what_has_stopped_leaves_the_batch_but_where_examples_are_coupled():
    model, (origins, targets) = trained(), pairs()
    sizes = []
    handle = model[0].register_forward_hook(lambda *call: sizes.append(len(call[2])))
    result = lots(model, origins, targets, "2", 12, 2.8, step_size=STEP)
    # An example with t steps is in the t passes before them and in the one that finds it arrived.
    passes = min(12, int(result.steps.max()) + 1)
    moving = [int((result.steps >= before).sum()) for before in range(passes)]
    assert sizes == [len(origins), *moving, len(origins)]
    assert len(set(moving)) > 3
    sizes.clear()
    with frozen_statistics(model.train()):
        lots(model, origins, targets, "2", 12, 2.8, step_size=STEP)
    handle.remove()
    assert set(sizes) == {len(origins)}


def test_matches_a_layer_as_it_was_before_one_in_place():
    model, (origins, targets) = trained(), pairs()
    expected = lots(model, origins, targets, "1", 5, until_class=False)
    model[2].inplace = True
    result = lots(model, origins, targets, "1", 5, until_class=False)
    assert result.images.equal(expected.images)
    assert result.distances.equal(expected.distances)


def test_bad_input_is_named():
    model, (origins, targets) = trained(), pairs()
    with pytest.raises(ConfigurationError, match="one target image for each"):
        lots(model, origins, targets[:-1], "2")
    with pytest.raises(SiteError, match="nowhere"):
        lots(model, origins, targets, "nowhere")
    with pytest.raises(SiteError, match="name one"):
        lots(model, origins, targets, "*")
    with pytest.raises(ConfigurationError, match="share"):
        lots(model, origins, targets, "2", share=1)
    with pytest.raises(ConfigurationError, match="steps"):
        lots(model, origins, targets, "2", 0)


def test_training_equals_its_equation():
    def step(model, batch):
        hidden = model[:3](batch.inputs)
        clean = F.cross_entropy(model[3:](hidden), batch.targets)
        order = pairing_order(batch.targets, batch.targets)
        images = batch.inputs
        for _ in range(4):
            images = images.detach().requires_grad_()
            with keeping_statistics(model):
                now = model[:3](images)
                outputs = model[3:](now)
                loss = (now - hidden[order].detach()).square().sum() / 2
                (gradient,) = torch.autograd.grad(loss, images)
            for i in range(len(batch)):
                if outputs[i].argmax() != batch.targets[order[i]]:
                    step = STEP * gradient[i] / gradient[i].abs().max()
                    images = images.detach().clone()
                    images[i] = (images[i] - step).clamp(0, 1)
        moved = F.cross_entropy(model(images.detach()), batch.targets)
        return 0.6 * clean + 0.4 * moved

    assert_twins(LOTS("2", 4, STEP, 0.6), step, epochs())


def test_targets_are_of_other_classes():
    batch, model, method = next(epochs()), network(), LOTS("2", 3)
    seen = []
    with method.attach(model):
        features = model[:3](batch.inputs).detach()
        moved = method.moved(batch, features, batch.targets, Task())
        method.step(
            model, batch, F.cross_entropy, lambda loss: seen.append(loss) or loss.backward()
        )
    assert moved.shape == batch.inputs.shape
    assert not moved.equal(batch.inputs)
    assert len(seen) == 2


def test_default_layer_is_the_last_of_the_default_sites():
    method = LOTS()
    with method.attach(network()):
        assert method._layer == "5"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clean_weight": 1}, "clean_weight"),
        ({"steps": 0}, "steps"),
        ({"step_size": -1}, "step_size"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        LOTS(**settings)
