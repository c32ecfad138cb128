"""What the twins of attacking methods share: a network, a stream, and both ways to train."""

from collections import Counter
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from advreg import Batch, View

EXAMPLES = 20


def network(dtype=torch.float64):
    """Two convolutions with batch normalisation on 6x6 images, the same weights each time."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, stride=2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 3),
    ).to(dtype)
    model.input_range = (0.0, 1.0)
    return model


def epochs(count=2, views=False, dtype=torch.float64, size=6):
    """Batches of 6, 6, 6 and 2 examples an epoch, cropped and flipped where `views`.

    Some pixels are 0 and some are 1, so that the clamp to the input range has work to do.
    """
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(EXAMPLES, 3, 6, 6, generator=generator, dtype=dtype) * 1.4 - 0.2
    images = images.clamp(0, 1)
    targets = torch.randint(0, 3, (EXAMPLES,), generator=generator)
    for _ in range(count):
        for indices in torch.randperm(EXAMPLES, generator=generator).split(size):
            inputs, view = images[indices], None
            if views:
                corners = torch.randint(0, 3, (2, len(indices)), generator=generator)
                flip = torch.rand(len(indices), generator=generator) < 0.5
                view = View(corners[0], corners[1], flip, 1)
                inputs = view.apply(F.pad(inputs, (1, 1, 1, 1)))
            yield Batch(inputs, targets[indices], indices, view)


def train(model, method, batches):
    """The method's losses; the weights are the model's."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    losses = []
    for batch in batches:
        for _ in range(method.replays):
            losses.append(method.step(model, batch, F.cross_entropy, torch.Tensor.backward).loss)
            optimizer.step()
            optimizer.zero_grad()
    return torch.stack(losses)


def assert_twins(method, step, batches, replays=1, **known):
    """Trains by the method and by `step(model, batch) -> loss`; compares every loss and weight.

    What else is known of the training goes to `attach`.
    """
    batches = list(batches)
    fast, slow = network(), network()
    with method.attach(fast, examples=EXAMPLES, **known):
        losses = train(fast, method, batches)
    optimizer = torch.optim.SGD(slow.parameters(), 0.1, momentum=0.9)
    expected = []
    for batch in batches:
        for _ in range(replays):
            loss = step(slow, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            expected.append(loss.detach())
    torch.testing.assert_close(losses, torch.stack(expected), rtol=1e-9, atol=1e-12)
    for name, value in slow.state_dict().items():
        torch.testing.assert_close(fast.state_dict()[name], value, rtol=1e-8, atol=1e-10, msg=name)


@contextmanager
def keeping_statistics(model):
    """Passes in here leave the batch statistics as they were."""
    before = [buffer.clone() for buffer in model.buffers()]
    yield
    for buffer, value in zip(model.buffers(), before, strict=True):
        buffer.data.copy_(value)  # through .data: a graph may hold the buffer


def gradient(model, inputs, loss):
    """The gradient of `loss(outputs)` at the inputs, the batch statistics untouched."""
    leaf = inputs.clone().requires_grad_()
    with keeping_statistics(model):
        return torch.autograd.grad(loss(model(leaf)), leaf)[0]


def divergence(outputs, adversarial):
    """KL(softmax(outputs) || softmax(adversarial)) from its definition, the mean over examples."""
    p, q = outputs.softmax(1), adversarial.softmax(1)
    return (p * (p / q).log()).sum(1).mean()


def signs(x, generator):
    """Plus or minus one for each value, at random."""
    below = torch.rand(x.shape, generator=generator, dtype=x.dtype) < 0.5
    return torch.where(below, torch.ones_like(x), -torch.ones_like(x))


def cut(frame, view, i):
    """Example i's 6x6 view of its frame, (3, 8, 8)."""
    window = frame[:, view.top[i] : view.top[i] + 6, view.left[i] : view.left[i] + 6]
    return window.flip(2) if view.flip[i] else window


def put(frame, view, i, value):
    """Writes what example i's view shows back into its frame."""
    value = value.flip(2) if view.flip[i] else value
    frame[:, view.top[i] : view.top[i] + 6, view.left[i] : view.left[i] + 6] = value


def passes(method, batches):
    """Forward and backward passes of the whole network a step, as its last layer sees them."""
    model, calls = network(), Counter()
    model[-1].register_forward_hook(lambda *_: calls.update(["forward"]))
    model[-1].register_full_backward_hook(lambda *_: calls.update(["backward"]))
    batches = list(batches)
    with method.attach(model):
        steps = len(train(model, method, batches))
    return calls["forward"] / steps, calls["backward"] / steps


def assert_seeded(build):
    """Equal seeds train alike, another seed does not."""
    losses = []
    for seed in (3, 3, 4):
        method, model = build(seed=seed), network()
        with method.attach(model, examples=EXAMPLES):
            losses.append(train(model, method, epochs(1)))
    assert losses[0].equal(losses[1])
    assert not losses[0].equal(losses[2])
