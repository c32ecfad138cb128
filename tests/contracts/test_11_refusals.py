"""Semantic 11: what cannot be right is refused by name."""

import pytest
import torch
from settings import identical, tiny
from torch import nn

from advreg import LayerwiseAdversary, Tap
from advreg.errors import UnsupportedError

BUDGET = 0.1


def ready():
    model, adversary = tiny(norm=False), LayerwiseAdversary(BUDGET, ["stem"])
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


@pytest.mark.parametrize(
    "transform",
    [
        pytest.param(name, marks=[pytest.mark.full] * ("export" in name or name == "make_fx"))
        for name in TRANSFORMS
    ],
)
def test_transforms_and_tracing_are_refused_by_name(transform):
    import torch.fx.experimental.proxy_tensor

    model, _, handle, images = ready()
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


def test_replicas_are_refused_by_name():
    """What `nn.DataParallel` makes, in every step, of a network that is attached already."""
    model, _, handle, images = ready()
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
