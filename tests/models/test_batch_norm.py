"""SplitBatchNorm and the key shuffle."""

import pytest
import torch
from torch import nn

from mmssl_ext.models.layers import (
    SplitBatchNorm,
    shuffle_batch,
    split_batch_norm,
    unshuffle_batch,
)

from ..distributed import run_ranks


def reference(x, groups, bn):
    """One plain BatchNorm call per group, all from the same running statistics."""
    y, means, variances = torch.empty_like(x), [], []
    for n in range(groups):
        clone = nn.BatchNorm2d(x.shape[1])
        clone.load_state_dict(bn.state_dict())
        y[n::groups] = clone(x[n::groups])
        means.append(clone.running_mean)
        variances.append(clone.running_var)
    return y, torch.stack(means).mean(0), torch.stack(variances).mean(0)


@pytest.mark.parametrize(
    "memory_format", [torch.contiguous_format, torch.channels_last]
)
@pytest.mark.parametrize(
    ("batch", "groups"), [(16, 4), (16, 8), (10, 4), (7, 3), (5, 2)]
)
def test_equals_one_call_per_group(batch, groups, memory_format):
    torch.manual_seed(0)
    plain = nn.BatchNorm2d(3)
    nn.init.uniform_(plain.weight)
    nn.init.uniform_(plain.bias)
    split = SplitBatchNorm(3, groups)
    split.load_state_dict(plain.state_dict())
    x = torch.randn(batch, 3, 5, 4) * 2 + torch.arange(batch).view(-1, 1, 1, 1)
    leaf = x.clone().to(memory_format=memory_format).requires_grad_()
    y = split(leaf)
    expected, mean, var = reference(x, groups, plain)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(split.running_mean, mean)
    torch.testing.assert_close(split.running_var, var)
    assert not torch.allclose(y, plain(x), atol=0.1)

    x2 = x.clone().requires_grad_()
    out = torch.randn_like(x)
    plain2 = nn.BatchNorm2d(3)
    plain2.load_state_dict(split.state_dict())
    (y * out).sum().backward()
    (reference(x2, groups, plain2)[0] * out).sum().backward()
    torch.testing.assert_close(leaf.grad, x2.grad, atol=1e-5, rtol=1e-4)


def test_tiny_batches_and_evaluation_equal_plain_batch_norm():
    torch.manual_seed(0)
    plain, split = nn.BatchNorm2d(3), SplitBatchNorm(3, 8)
    for batch in (1, 2, 3):
        x = torch.randn(batch, 3, 4, 4)
        torch.testing.assert_close(split(x), plain(x))
    assert split.state_dict().keys() == plain.state_dict().keys()
    x = torch.randn(16, 3, 4, 4)
    torch.testing.assert_close(split.eval()(x), plain.eval()(x))


def test_conversion_shares_parameters_and_spares_other_norms():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sequential(nn.SyncBatchNorm(4))
    )
    weight, state = net[1].weight, net.state_dict()
    split_batch_norm(net, 4)
    assert isinstance(net[1], SplitBatchNorm) and net[1].num_splits == 4
    assert net[1].weight is weight
    assert type(net[2][0]) is nn.SyncBatchNorm
    assert net.state_dict().keys() == state.keys()


def test_bad_values():
    with pytest.raises(ValueError, match="num_splits"):
        SplitBatchNorm(3, 0)
    with pytest.raises(ValueError, match="momentum"):
        SplitBatchNorm(3, 4, momentum=None)


def test_shuffle_on_one_device_restores_and_is_keyed():
    x = torch.arange(16)
    shuffled, inverse = shuffle_batch(x, seed=3)
    assert not torch.equal(shuffled, x)
    assert torch.equal(unshuffle_batch(shuffled, inverse), x)
    assert torch.equal(shuffle_batch(x, seed=3)[0], shuffled)
    assert not torch.equal(shuffle_batch(x, seed=4)[0], shuffled)
    state = torch.get_rng_state()
    shuffle_batch(x, seed=5)
    assert torch.equal(torch.get_rng_state(), state)


def shuffle_on_a_rank(rank):
    x = torch.arange(8) + 8 * rank
    shuffled, inverse = shuffle_batch(x, seed=1)
    return shuffled, unshuffle_batch(shuffled * 10, inverse)


def test_shuffle_mixes_ranks_and_restores():
    (first, first_back), (second, second_back) = run_ranks(shuffle_on_a_rank, 2)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(16))
    assert (first >= 8).any() and (first < 8).any()  # images did change ranks
    assert torch.equal(first_back, 10 * torch.arange(8))
    assert torch.equal(second_back, 10 * torch.arange(8, 16))
