"""Every algorithm in channels_last memory and under bfloat16 autocast."""

import copy
from unittest import mock

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .common import (
    ALGORITHMS,
    MOMENTUM_ALGORITHMS,
    QUEUE_ALGORITHMS,
    boxes,
    build,
    losses_of,
    samples,
    sgd,
    total,
    views,
)

pytestmark = pytest.mark.filterwarnings("ignore:bn_splits=1")
# Layers that look at regions, at the cells of an encoded map, or at earlier embeddings
LATER = ("RegionCLS", "PixPro", "DenseSiam", "TKC")
every_algorithm = pytest.mark.parametrize("name", ALGORITHMS)
AS_OTHERS = ("CO2", "InterCLR", "RegionCLM")  # encode as MoCo and RegionCLD do
every_encoder = pytest.mark.parametrize(
    "name", [name for name in ALGORITHMS if name not in AS_OTHERS]
)


def channels_last(x):
    """The same images, or sets of patches, with the channels innermost in memory."""
    return x.movedim(-3, -1).contiguous().movedim(-1, -3)


def splits(name):
    return dict(bn_splits=4) if name in QUEUE_ALGORITHMS else {}


def update(model, inputs, seed):
    """Losses and gradients of a step, whose weights it then takes."""
    optimizer = sgd(model)
    count = len(inputs[0])
    numbers = range(count * seed, count * seed + count)
    where = boxes(len(numbers))
    losses = model(inputs, samples(numbers), mode="loss", boxes=where)
    optimizer.zero_grad()
    total(losses).backward()
    gradients = {
        n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
    }
    optimizer.step()
    return losses, gradients


@every_encoder
def test_channels_last_changes_nothing(name):
    plain = build(name, **splits(name))
    predictor = getattr(plain.compare, "predictor", nn.Identity())
    heads = [term for term in plain.terms.values() if [*term.parameters()]]
    shared = plain.compare.parts().values()  # of which the target has copies
    for part in (plain.backbone, plain.neck, plain.target, predictor, *heads, *shared):
        part.double()
    model = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    for seed in range(2):
        inputs = [x.double() for x in views(8, seed, type_=name)]
        expected = update(plain, inputs, seed)
        found = update(model, [channels_last(x) for x in inputs], seed)
        for ours, theirs in zip(found, expected, strict=True):
            assert_close(ours, theirs)
    assert_close(model.state_dict(), plain.state_dict())


def assert_close(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=1e-6)


@every_encoder
def test_maps_stay_in_channels_last(name):
    model = build(name, **splits(name)).to(memory_format=torch.channels_last)
    seen = set()

    def watch(key, x):
        if x.ndim == 4 and min(x.shape[2:]) > 1:
            seen.add(key)
            assert x.is_contiguous(memory_format=torch.channels_last), key

    def watch_both(key, y):
        watch(f"result of {key}", y)
        if y.requires_grad:
            y.register_hook(lambda slope: watch(f"gradient of {key}", slope))

    for key, module in model.named_modules():
        if name == "PixPro" and key == "neck.conv2":  # its cells meet as a matrix
            continue
        if name == "DenseSiam" and key.startswith("terms."):  # read at points
            continue
        if isinstance(module, (nn.Conv2d, _BatchNorm, nn.ReLU, nn.MaxPool2d)):
            module.register_forward_pre_hook(lambda m, x, key=key: watch(key, x[0]))
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda m, x, y, key=key: watch_both(key, y))
    update(model, [channels_last(x) for x in views(8, type_=name)], 0)
    assert seen >= {"backbone.bn1", "gradient of backbone.conv1"}
    assert ("target.backbone.conv1" in seen) == (name in MOMENTUM_ALGORITHMS)


def round_operands(model):
    """Let every layer with weights compute with bf16 operands and results, in fp32."""

    def rounded(x):
        return x.bfloat16().float()

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.weight.data = rounded(module.weight.data)
            module.register_forward_pre_hook(lambda m, x: (rounded(x[0]),))
            module.register_forward_hook(lambda m, x, y: rounded(y))
    return model


def distance(gradients, truth):
    ours, theirs = (
        torch.cat([g.ravel() for g in x.values()]) for x in (gradients, truth)
    )
    return (ours - theirs).norm() / theirs.norm()


@every_algorithm
def test_bfloat16_autocast(name):
    """Encoders in bf16; what is compared, losses, queues and gradients in fp32."""
    plain = build(name, **splits(name))
    model, rounded = copy.deepcopy(plain), round_operands(copy.deepcopy(plain))
    inputs = views(16, size=64, type_=name)
    expected, slopes = update(plain, inputs, 0)
    remember, again = model.remember, {}

    def spy(made):
        """The same features once more, without autocast."""
        if name not in LATER:
            with torch.autocast("cpu", enabled=False), torch.no_grad():
                again.update(losses_of(model, made))
        remember(made)

    with (
        mock.patch.object(model, "remember", spy),
        torch.autocast("cpu", dtype=torch.bfloat16),
    ):
        losses, gradients = update(model, inputs, 0)
    assert losses.keys() == expected.keys()
    for key, value in losses.items():
        if key != "raw_consistency":  # that is loss_consistency, not weighted
            assert abs(value - expected[key]) < 0.03 * max(1, abs(expected[key])), key
    assert again.keys() == losses.keys() or name in LATER
    for key, value in again.items():
        torch.testing.assert_close(losses[key].detach(), value, rtol=1e-6, atol=0)
    # Not further from the truth than rounding of the operands explains.
    assert {g.dtype for g in gradients.values()} == {torch.float32}
    noise = distance(update(rounded, inputs, 0)[1], slopes)
    assert distance(gradients, slopes) < 1.5 * noise
    state = plain.state_dict()
    for key, value in model.state_dict().items():
        assert value.dtype == state[key].dtype, key
    if name in QUEUE_ALGORITHMS:  # keys were not rounded to bf16 on their way
        keys = model.negatives[:16]
        assert torch.equal(keys, model.last_embeddings["key"])
        assert not torch.equal(keys, keys.bfloat16().float())
