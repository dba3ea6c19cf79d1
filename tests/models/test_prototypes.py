"""Prototypes, what of them is frozen, and how their use is summed up."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from mmssl_ext.models.layers.prototypes import Prototypes
from mmssl_ext.models.memory import Clock, CodeUsage


@pytest.mark.parametrize("in_place", [True, False])
def test_cosines_and_their_gradient(in_place):
    torch.manual_seed(0)
    layer = Prototypes(3, 4, in_place).double()
    with torch.no_grad():
        layer.weight.mul_(5)
    z = normalize(torch.randn(6, 4).double())
    layer.normalise()
    cosines = torch.stack([z @ w / w.norm() for w in layer.weight], 1)
    torch.testing.assert_close(layer(z), cosines)
    assert (layer.weight.norm(dim=1) - 1).abs().max() < 1e-12 or not in_place
    target = torch.randn(6, 3).double()
    (found,) = torch.autograd.grad((layer(z) * target).sum(), layer.weight)
    plain = target.T @ z
    if not in_place:  # no part along the prototype, divided by its length
        rows, length = normalize(layer.weight), layer.weight.norm(dim=1, keepdim=True)
        plain = (plain - (plain * rows).sum(1, keepdim=True) * rows) / length
    torch.testing.assert_close(found, plain)


def test_autocast_leaves_cosines_alone():
    layer, z = Prototypes(3, 4), normalize(torch.randn(6, 4))
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(z)
    assert found.dtype == torch.float and torch.equal(found, layer(z))


def test_frozen_for_a_part_of_the_epochs():
    layer, clock = Prototypes(3, 4, frozen_epochs=1.5), Clock()
    clock.epoch_length = 4
    frozen = [bool(layer.frozen_at(i, clock)) for i in range(8)]
    assert frozen == 6 * [True] + 2 * [False]
    assert not Prototypes(3, 4).frozen_at(0, Clock())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(number=1), "num_prototypes=1 must be a whole number of 2 or more"),
        (dict(number=2.0), "num_prototypes=2.0 must"),
        (dict(number=3, frozen_epochs=-1), "frozen_epochs=-1 must be a number of"),
        (dict(number=3, frozen_epochs=None), "frozen_epochs=None must"),
    ],
)
def test_numbers_out_of_range(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Prototypes(dim=4, **options)


def test_usage_of_codes():
    usage = CodeUsage(4)
    usage.add(torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0]]))
    usage.add(torch.tensor([[[0.25, 0.25, 0.25, 0.25]]]))
    found = {name: value.item() for name, value in usage.read().items()}
    mean = torch.tensor([1.75, 0.75, 0.25, 0.25]) / 3
    assert found == pytest.approx(
        {
            "prototypes_used": 1 / 3,
            "code_entropy": (0 + math.log(2) + math.log(4)) / 3 / math.log(4),
            "mean_code_entropy": -(mean * mean.log()).sum().item() / math.log(4),
        }
    )
    assert not usage.sums.any() and not any(usage.read().values())
