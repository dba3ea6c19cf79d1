"""SimCLR against mmpretrain's, against a loss written in loops, and by hand."""

import copy
import math
from functools import partial

import pytest
import torch
from mmengine.registry import init_default_scope
from torch.nn.functional import normalize
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from mmssl_ext.models.comparisons import BatchSoftmax
from mmssl_ext.models.losses import info_nce
from mmssl_ext.registry import MODELS

from ..distributed import run_ranks
from .common import BACKBONE, views

NECK = dict(
    type="NonLinearNeck",
    in_channels=64,
    hid_channels=32,
    out_channels=16,
    num_layers=2,
    norm_cfg=dict(type="BN1d"),
)
SIMCLR = dict(type="SimCLR", backbone=BACKBONE, neck=NECK, temperature=0.2)
MOCO_V3 = dict(
    type="Method",
    backbone=BACKBONE,
    neck=NECK,
    target=dict(type="MomentumTarget", momentum=0.9),
    compare=dict(type="BatchSoftmax", temperature=0.2),
    pairs=((0, 1), (1, 0)),
)


def build(config=SIMCLR, **changes):
    """A model of 1/8 width in double precision."""
    init_default_scope("mmssl_ext")
    torch.manual_seed(0)
    model = MODELS.build(config | changes)
    model._dump_init_info = lambda: None  # a line for every tensor
    model.init_weights()
    return model.double().train()


def images(count=6, seed=0):
    return [view.double() for view in views(count, seed)]


def nt_xent(first, second, temperature):
    first, second = (torch.as_tensor(x, dtype=torch.double) for x in (first, second))
    return BatchSoftmax(temperature).nt_xent(first, second)


def unit_rows(count, size=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(2, count, size, dtype=torch.double, generator=generator)
    return normalize(rows, dim=2)


# --- the loss


def slow_nt_xent(first, second, temperature):
    """Equation 1 of the paper, pair by pair, in Python's own numbers."""
    z = [*first.tolist(), *second.tolist()]
    n = len(first)

    def similarity(i, j):
        product = sum(a * b for a, b in zip(z[i], z[j], strict=True))
        return math.exp(product / temperature)

    losses = []
    for i in range(2 * n):
        pair = i + n if i < n else i - n
        others = sum(similarity(i, j) for j in range(2 * n) if j != i)
        losses.append(-math.log(similarity(i, pair) / others))
    return sum(losses) / (2 * n)


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_loss_equals_the_definition(n, temperature):
    first, second = unit_rows(n)
    loss = nt_xent(first, second, temperature).item()
    assert loss == pytest.approx(slow_nt_xent(first, second, temperature))
    bound = 1 / temperature  # cosines of 1 with the pair and -1 with all others
    floor = -bound + math.log(math.exp(bound) + (2 * n - 2) * math.exp(-bound))
    assert loss >= floor - 1e-12


def test_loss_by_hand():
    a, b = [[1, 0], [0, 1]], [[0.6, 0.8], [-0.8, 0.6]]
    # Rows of 0.308957, 1.027123, 1.027123 and 0.308957
    assert nt_xent(a, b, 0.5).item() == pytest.approx(0.668040, abs=1e-6)
    assert nt_xent(a, b, 0.1).item() == pytest.approx(1.064850, abs=1e-6)
    # The pair has cosine 1, the two views of the other image have 0.
    assert nt_xent(a, a, 0.5).item() == pytest.approx(math.log(1 + 2 / math.e**2))
    # All are equal: 2N - 1 candidates.
    point = torch.eye(256)[:1].expand(256, -1)
    assert nt_xent(point, point, 0.1).item() == pytest.approx(math.log(511))
    # Positives of 1 and negatives of 0
    rows = torch.eye(256)
    expected = math.log(1 + 510 * math.exp(-10))
    assert nt_xent(rows, rows, 0.1).item() == pytest.approx(expected)
    # A single image: nothing to be confused with
    assert nt_xent(a[:1], b[:1], 0.1).item() == 0


def test_rotation_and_order_do_not_count():
    first, second = unit_rows(7)
    loss = nt_xent(first, second, 0.2)
    torch.manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.double))[0]
    order = torch.randperm(7)
    for a, b in (
        (first @ rotation, second @ rotation),
        (second, first),
        (first[order], second[order]),
    ):
        torch.testing.assert_close(nt_xent(a, b, 0.2), loss)
    mixed = nt_xent(first, second[order.roll(1)], 0.2)
    assert mixed != loss  # which belong together does


def test_a_row_is_infonce_with_the_other_images_as_queue():
    first, second = unit_rows(7)
    losses = []
    for i in range(7):
        others = torch.arange(7) != i
        queue = torch.cat([first[others], second[others]])  # 2N - 2 negatives
        for q, k in ((first[i], second[i]), (second[i], first[i])):
            losses.append(info_nce(q[None], k[None], queue, 0.2).item())
    assert sum(losses) / 14 == pytest.approx(nt_xent(first, second, 0.2).item())


def test_gradient_and_precision():
    torch.manual_seed(0)
    first, second = torch.randn(2, 3, 4, dtype=torch.double, requires_grad=True)
    compare = BatchSoftmax(0.5)
    assert torch.autograd.gradcheck(compare.nt_xent, (first, second))
    for grad in torch.autograd.grad(compare.nt_xent(first, second), (first, second)):
        assert grad.abs().sum(1).min() > 0
    assert torch.autograd.gradcheck(compare.pair, (first, second))
    rows = unit_rows(16, 32).float()
    for loss in (compare.nt_xent, compare.pair):
        with torch.autocast("cpu", torch.bfloat16):
            mixed = loss(*rows)
        assert torch.equal(mixed, loss(*rows))


def test_candidates_of_a_target_network_are_its_views_of_all_images():
    """As in MoCo v3: N candidates, and whatever a term adds for each query."""
    q, k = unit_rows(4)
    extra = unit_rows(4, seed=1)[0]
    plain, more = [], []
    for i in range(4):
        logits = [math.exp(float(q[i] @ k[j]) / 0.2) for j in range(4)]
        plain.append(-math.log(logits[i] / sum(logits)))
        logits.append(math.exp(float(q[i] @ extra[i]) / 0.2))
        more.append(-math.log(logits[i] / sum(logits)))
    compare = BatchSoftmax(0.2)
    assert compare.pair(q, k).item() == pytest.approx(sum(plain) / 4)
    assert compare.pair(q, k, extra).item() == pytest.approx(sum(more) / 4)
    twice = compare.pair(torch.cat([q, q]), k)  # row m belongs to target m modulo N
    assert twice.item() == pytest.approx(sum(plain) / 4)


# --- the step


def test_sum_of_the_directions_is_the_official_scale():
    """Twice the mean over the 2N views."""
    inputs = images()
    mean, total = (
        build(reduce=reduce)(inputs, mode="loss")["loss_instance"]
        for reduce in ("mean", "sum")
    )
    torch.testing.assert_close(total, 2 * mean)


def test_every_parameter_learns_from_both_views():
    model, (first, second) = build(), images()
    twin = copy.deepcopy(model)
    losses = model([first, second], mode="loss")
    assert losses.keys() == {"loss_instance", "raw_instance"}
    losses["loss_instance"].backward()
    z = normalize(twin.neck(twin.backbone(torch.cat([first, second])))[0], dim=1)
    nt_xent(*z.chunk(2), 0.2).backward()
    peers = zip(model.named_parameters(), twin.parameters(), strict=True)
    for (name, ours), theirs in peers:
        assert ours.grad.abs().sum() > 0, name
        torch.testing.assert_close(ours.grad, theirs.grad)
    for part, expected in zip(("query", "key"), z.chunk(2), strict=True):
        found = model.last_embeddings[part]
        assert not found.requires_grad
        torch.testing.assert_close(found, expected.detach())
    for take in (model.check_inputs, partial(model, mode="loss")):
        with pytest.raises(ValueError, match="SimCLR takes 2 views per image, not 3"):
            take([first, second, first])


def test_mixed_precision_trains():
    model = build().float()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(views(6), mode="loss")["loss_instance"]
    assert loss.dtype == torch.float
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_refuses_more_than_two_views_and_temperatures_that_are_none():
    pairs = ((0, 1), (1, 0), (0, 2))
    with pytest.raises(ValueError, match="compares two views in both directions"):
        build(pairs=pairs)
    with pytest.raises(ValueError, match="temperature=0 is not a temperature"):
        build(temperature=0)


def test_equals_mmpretrain_step_for_step():
    ours = build()
    init_default_scope("mmpretrain")
    loss = dict(type="CrossEntropyLoss")
    head = dict(type="ContrastiveHead", loss=loss, temperature=0.2)
    theirs = MODELS.build(
        dict(type="mmpretrain.SimCLR", backbone=BACKBONE, neck=NECK, head=head)
    )
    assert type(theirs).__module__.startswith("mmpretrain.")
    theirs = theirs.double().train()
    start = copy.deepcopy(dict(ours.named_parameters()))
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            value.copy_(start[name])
    pair = (ours, theirs)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9) for m in pair]
    for k in range(3):
        losses = []
        for model, optimizer in zip(pair, optimizers, strict=True):
            found = model(images(seed=k), [], mode="loss")
            losses.append(found["loss" if model is theirs else "loss_instance"])
            optimizer.zero_grad()
            losses[-1].backward()
            optimizer.step()
        torch.testing.assert_close(*losses)
        for name, value in theirs.named_parameters():
            torch.testing.assert_close(ours.get_parameter(name), value, msg=name)
    conv = ours.backbone.conv1.weight
    assert not torch.equal(conv, start["backbone.conv1.weight"])


# --- several ranks


def three_steps(rank, world_size, config):
    """Loss, first gradients and weights, of this rank's part of eight images.

    BatchNorm is frozen: its statistics are those of a rank.
    """
    model = build(config)
    call = DistributedDataParallel(model) if world_size > 1 else model
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(trained.values(), lr=0.1, momentum=0.9)
    losses, first = [], {}
    for seed in range(3):
        part = [view.chunk(world_size)[rank] for view in images(8, seed)]
        losses.append(call(part, mode="loss")["loss_instance"])
        optimizer.zero_grad()
        losses[-1].backward()
        first = first or {name: p.grad.clone() for name, p in trained.items()}
        optimizer.step()
    return torch.stack(losses).detach(), first, model.state_dict()


def both(rank, world_size):
    return [three_steps(rank, world_size, config) for config in (SIMCLR, MOCO_V3)]


def test_two_ranks_equal_one():
    """Mean loss, gradients and weights: candidates are those of all ranks."""
    expected = both(0, 1)
    for truth, *found in zip(expected, *run_ranks(both, 2, 2), strict=True):
        losses = torch.stack([rank[0] for rank in found])
        assert not torch.equal(*losses)
        torch.testing.assert_close(losses.mean(0), truth[0])
        for _, gradients, state in found:
            torch.testing.assert_close(gradients, truth[1])
            torch.testing.assert_close(state, truth[2])
