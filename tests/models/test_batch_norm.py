"""SplitBatchNorm."""

import copy

import pytest
import torch
from torch import nn

from mmssl_ext.models.layers import SplitBatchNorm, split_batch_norm

both_formats = pytest.mark.parametrize(
    "memory_format", [torch.contiguous_format, torch.channels_last]
)


def reference(x, groups, bn):
    """One plain BatchNorm call per group, all from the same running statistics."""
    y, means, variances = torch.empty_like(x), [], []
    for n in range(groups):
        clone = copy.deepcopy(bn)
        clone.weight, clone.bias = bn.weight, bn.bias
        y[n::groups] = clone(x[n::groups])
        means.append(clone.running_mean)
        variances.append(clone.running_var)
    return y, torch.stack(means).mean(0), torch.stack(variances).mean(0)


@both_formats
@pytest.mark.parametrize(("batch", "groups"), [(16, 4), (10, 4), (5, 2)])
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
    assert y.is_contiguous(memory_format=memory_format)
    expected, mean, var = reference(x, groups, plain)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(split.running_mean, mean)
    torch.testing.assert_close(split.running_var, var)
    assert not torch.allclose(y, copy.deepcopy(plain)(x), atol=0.1)

    x2, slope = x.clone().requires_grad_(), torch.randn_like(x)
    y.backward(slope)
    reference(x2, groups, plain)[0].backward(slope)
    close = dict(rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(leaf.grad, x2.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(split.weight.grad, plain.weight.grad, **close)
    torch.testing.assert_close(split.bias.grad, plain.bias.grad, **close)
    assert leaf.grad.is_contiguous(memory_format=memory_format)


def standardised(x):
    """From the definition, over all but the channels."""
    mean = x.mean((0, 2, 3), keepdim=True)
    return (x - mean) / (x.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()


@both_formats
@pytest.mark.parametrize("batch", [8, 7])
def test_bfloat16_has_statistics_in_fp32(batch, memory_format):
    """The mean of many values near 100, where bf16 has steps of one half."""
    torch.manual_seed(0)
    split = SplitBatchNorm(2, 2)
    x = (100 + 3 * torch.randn(batch, 2, 32, 32)).bfloat16()
    groups = [x[n::2].float() for n in range(2)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = split(x.contiguous(memory_format=memory_format))
    assert y.dtype == torch.bfloat16
    mean = sum(g.mean((0, 2, 3)) for g in groups) / 2
    var = sum(g.var((0, 2, 3)) for g in groups) / 2
    torch.testing.assert_close(split.running_mean, 0.1 * mean, rtol=1e-5, atol=0)
    torch.testing.assert_close(split.running_var, 0.9 + 0.1 * var, rtol=1e-4, atol=0)
    for n, group in enumerate(groups):
        # Within half a step of bf16, whose mantissa has 8 bits.
        torch.testing.assert_close(
            y[n::2].float(), standardised(group), rtol=2**-8, atol=1e-4
        )


@pytest.mark.parametrize("shape", [(12, 5), (12, 5, 7), (12, 5, 3, 2, 2)])
@pytest.mark.parametrize("innermost", [False, True])
def test_any_number_of_dimensions(shape, innermost):
    torch.manual_seed(0)
    x = torch.randn(shape)
    given = x.movedim(1, -1).contiguous().movedim(-1, 1) if innermost else x
    split = SplitBatchNorm(5, 3, affine=False, track_running_stats=False)
    expected = torch.empty_like(x)
    for n in range(3):
        group = x[n::3].flatten(2) if x.ndim > 2 else x[n::3, :, None]
        expected[n::3] = standardised(group[..., None]).view_as(x[n::3])
    y = split(given)
    torch.testing.assert_close(y, expected)
    assert y.stride() == given.stride() or len(shape) == 3


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


def test_the_activation_of_a_fused_layer_stays():
    """timm's BatchNormAct2d is a BatchNorm2d by its class, and does more."""
    layers = pytest.importorskip("timm.layers")
    fused = layers.BatchNormAct2d(4)
    torch.nn.init.normal_(fused.bias)
    x = torch.randn(6, 4, 3, 3)
    plain = copy.deepcopy(fused)
    split = split_batch_norm(fused, 2)
    assert list(split.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(split.eval()(x), plain.eval()(x))
    parts = [plain.train()(x[i::2]) for i in range(2)]
    whole = split.train()(x)
    for i, part in enumerate(parts):
        torch.testing.assert_close(whole[i::2], part)
    assert whole.min() == 0

    class Odd(torch.nn.BatchNorm2d):
        def forward(self, x):
            return 2 * super().forward(x)

    with pytest.raises(ValueError, match="Odd is a BatchNorm and something else"):
        split_batch_norm(torch.nn.Sequential(Odd(4)), 2)
