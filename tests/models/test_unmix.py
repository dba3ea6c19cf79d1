"""Un-Mix: mixtures, their draws and losses; by hand and against loops over pixels."""

from __future__ import annotations

import copy
import itertools
import math
from unittest import mock

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel

from mmssl_ext.models.algorithms import Step
from mmssl_ext.models.layers import mixing
from mmssl_ext.models.layers.mixing import Mixture, MixtureSampler, cutmix
from mmssl_ext.models.layers.region import Region
from tests.distributed import run_ranks

from .bases import build, losses, method, sgd, term, total, train, views
from .common import assert_same_gradients, double, freeze_norms, losses_of
from .loops import info_nce, unit
from .shapes import largest
from .test_terms_on_bases import DOUBLE, agrees, online_and_target, unlike_target

BOTH = ((0, 1), (1, 0))
CO2 = method("MoCo") | dict(type="CO2", consistency=dict(temperature=0.1, weight=0.3))


def rows(*vectors):
    return torch.tensor(vectors, dtype=torch.double)


def drawn(model, share, box=None):
    """Let every step of a model draw this mixture."""
    sampler = model.terms.mixture.sampler
    return mock.patch.object(sampler, "draw", return_value=Mixture(share, box))


# The sheet's cases by hand


@pytest.mark.parametrize(
    ("share", "centre", "size", "box", "left"),
    [
        (0.75, (2, 2), 4, (1, 1, 2, 2), 0.75),
        (0.75, (0, 0), 4, (0, 0, 1, 1), 0.9375),
        (0.3, (100, 10), 224, (7, 0, 186, 103), 0.618184),
    ],
)
def test_box_by_hand(share, centre, size, box, left):
    mixture = cutmix(share, centre, (size, size))
    assert mixture.box == Region(*box)
    assert mixture.share == pytest.approx(left, abs=1e-6)


def test_an_empty_box_leaves_the_images():
    mixture = cutmix(0.96, (2, 2), (4, 4))
    assert mixture.share == 1 and mixture.box.height == mixture.box.width == 0
    images = views(3, size=4)[0]
    assert torch.equal(mixture.of(images), images)


def test_blend_by_hand():
    images = rows(1, 2, 4)[:, None, None, None]
    mixed = Mixture(0.25).of(images)
    assert mixed.flatten().tolist() == [3.25, 2, 1.75]
    assert torch.equal(Mixture(0.75).of(images), mixed.flip(0))
    assert torch.equal(Mixture(1.0).of(images), images)


Q, QM = rows((0.8, 0.6), (0.6, 0.8)), rows((0.6, 0.8), (1, 0))
K, QUEUE = rows((1, 0), (0, 1)), rows((-1, 0), (0, -1))


def by_hand(model, share):
    """Sum of the losses of these vectors."""
    model.terms.mixture.mixture = Mixture(share)
    online = {0: {"embedding": Q, "mixture": QM}}
    return total(
        losses_of(model, Step({}, None, None, online, {1: {"embedding": K}}, {}))
    )


def narrow(base, **changes):
    neck = dict(
        type="LinearNeck", in_channels=64, out_channels=2, gap_dim=2, norm_cfg=None
    )
    return method(base, "UnMix", neck=neck, **changes)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.7, 0.247411), (1, 0.351194), (0, 0.005250)]
)
def test_loss_on_moco_by_hand(share, expected):
    model = double(build(narrow("MoCo", queue_len=2)))
    model.compare.queue.keys.copy_(QUEUE)
    assert by_hand(model, share).item() == pytest.approx(expected, abs=1e-6)


def test_loss_of_features_that_know_nothing():
    """Those of an untrained network: twice that of MoCo, ln(K + 1) = 11.1."""
    neck = dict(
        type="LinearNeck", in_channels=64, out_channels=128, gap_dim=2, norm_cfg=None
    )
    model = build(method("MoCo", "UnMix", neck=neck, queue_len=65536))
    model.terms.mixture.mixture = Mixture(0.4)
    q, k, mixed = (unit(64, 128, seed=i, dtype=torch.float) for i in range(3))
    online = {0: {"embedding": q, "mixture": mixed}}
    found = losses_of(model, Step({}, None, None, online, {1: {"embedding": k}}, {}))
    assert total(found).item() == pytest.approx(2 * math.log(65537), abs=0.5)


def test_loss_on_byol_by_hand():
    predictor = dict(type="LinearNeck", in_channels=2, out_channels=2)
    model = double(build(narrow("BYOL", predictor=predictor, pairs=((0, 1),))))
    model.compare.predict = lambda z: z
    assert by_hand(model, 0.7).item() == pytest.approx(1.44, abs=1e-6)


def test_gradients_numerically():
    model = double(build(narrow("MoCo", queue_len=2)))
    model.terms.mixture.mixture = Mixture(0.3)

    def loss(z):
        step = Step({}, None, None, {0: {"mixture": z}}, {1: {"embedding": K}}, {})
        return model.terms.mixture(model, step)

    assert torch.autograd.gradcheck(loss, 3 * unit(2, 2, seed=4).requires_grad_())


# Draws


def test_draws_follow_the_options():
    size = 40, 56
    for probability, kinds in {0: {False}, 1: {True}, 0.5: {False, True}}.items():
        sampler = MixtureSampler(mixup_prob=probability)
        found = [sampler.draw(*size) for _ in range(400)]
        assert {m.box is None for m in found} == kinds
        for mixture in found:  # a box leaves exactly the share of pixels that counts
            ones = torch.stack([torch.ones(1, *size), torch.zeros(1, *size)])
            ones = ones.double()
            assert mixture.of(ones)[0].mean().item() == pytest.approx(mixture.share)
            assert 0 <= mixture.share <= 1
    blends = [m.share for m in found if m.box is None]
    assert 150 < len(blends) < 250
    assert np.quantile(blends, [0.25, 0.5, 0.75]) == pytest.approx(
        [0.25, 0.5, 0.75], abs=0.1
    )
    peaked = MixtureSampler(1, alpha=50)
    assert all(abs(peaked.draw(8, 8).share - 0.5) < 0.3 for _ in range(50))


def test_boxes_reach_every_pixel_of_an_oblong_image():
    sampler, seen = MixtureSampler(mixup_prob=0), np.zeros((6, 9), int)
    for _ in range(600):
        seen[sampler.draw(6, 9).box.window] += 1
    assert seen.min() > 20  # a place that boxes miss would have 0


def test_draws_follow_from_step_and_rank_alone(monkeypatch):
    found = {}
    for rank in (0, 1):
        monkeypatch.setattr(mixing, "get_rank", lambda rank=rank: rank)
        sampler = MixtureSampler()
        found[rank] = [sampler.draw(32, 32) for _ in range(40)]
        sampler.eval()
        assert sampler.draw(32, 32) == sampler.draw(32, 32)
        assert sampler.num_steps == 40
    assert len({*found[0], *found[1]}) == 80
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()
    MixtureSampler().draw(32, 32)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]


# The term on its bases


def loop_mix(images, mixture):
    """Pixel by pixel, the partner of image i is image N - 1 - i."""
    mixed = images.clone()
    count, _, height, width = images.shape
    for i, y, x in itertools.product(range(count), range(height), range(width)):
        other = images[count - 1 - i, :, y, x]
        if mixture.box is None:
            own = images[i, :, y, x]
            mixed[i, :, y, x] = mixture.share * own + (1 - mixture.share) * other
        else:
            top, left, rows_, columns = mixture.box
            if top <= y < top + rows_ and left <= x < left + columns:
                mixed[i, :, y, x] = other
    return mixed


CASES = [
    ("MoCo", {}, Mixture(0.3), 4),
    ("MoCo", dict(pairs=BOTH, reduce="sum"), Mixture(0.8), 3),
    ("BYOL", {}, Mixture(1 - 20 * 12 / 1024, Region(4, 20, 20, 12)), 5),
    ("SimSiam", {}, Mixture(0.6), 4),
    ("SimCLR", {}, Mixture(0.25), 3),
]


@pytest.mark.parametrize(("base", "changes", "mixture", "count"), CASES)
def test_loss_and_gradient_equal_the_loop(base, changes, mixture, count):
    model = unlike_target(base, "UnMix", **changes)
    inputs = views(count, **(DOUBLE | dict(size=32)))

    def pair(q, k, n):
        """Loss of a query and the target of image n."""
        if base == "BYOL":
            return 2 - 2 * q @ k[n]
        if base == "SimSiam":
            return -q @ k[n]
        others = [k[m] for m in range(count) if m != n]
        negatives = others if base == "SimCLR" else twin.compare.queue.keys
        return info_nce(q, k[n], negatives, model.compare.temperature)

    def truth(twin):
        maps = twin.backbone(loop_mix(inputs[0], mixture))
        q = normalize(twin.compare.predict(twin.neck(maps)[0]))
        if base == "SimCLR":  # targets have a gradient
            k = twin.neck(twin.backbone(torch.cat(inputs)))[0].chunk(2)
        else:
            _, k = online_and_target(twin, inputs)
        lam, loss = mixture.share, 0
        targets = model.target_views
        for b, j in itertools.product(targets, range(count)):
            rows_ = normalize(k[b])
            loss = loss + lam * pair(q[j], rows_, j) / count
            loss = loss + (1 - lam) * pair(q[j], rows_, count - 1 - j) / count
        return loss if model.reduce == "sum" else loss / len(targets)

    twin = copy.deepcopy(model)
    with drawn(model, *mixture):
        agrees(model, "mixture", inputs, truth)
    if base == "MoCo":  # whole images alone are remembered
        _, k = online_and_target(twin, inputs)
        keys = torch.cat([k[b] for b in model.target_views])
        queue = model.compare.queue
        torch.testing.assert_close(queue.keys[: len(keys)], keys)
        assert queue.ptr == len(keys)


def test_reversed_mixtures_need_no_pass():
    model, images = double(build(method("BYOL", "UnMix"))), views(5, **DOUBLE)[0]
    for mixture in (Mixture(0.2), Mixture(0.75, Region(0, 0, 32, 32))):
        mixed = mixture.of(images)
        ours = model.neck(model.backbone(mixed))[0].flip(0)
        theirs = model.neck(model.backbone(mixed.flip(0)))[0]
        torch.testing.assert_close(ours, theirs)  # in training mode


def test_a_share_of_one_is_twice_the_base():
    inputs = views(6, **DOUBLE)
    pair = [
        double(build(method("MoCo", *terms, momentum=1.0))) for terms in (["UnMix"], [])
    ]
    with drawn(pair[0], 1.0):
        ours, base = (total(losses(model, inputs)) for model in pair)
    assert ours.item() == pytest.approx(2 * base.item(), rel=1e-12)
    ours.backward()
    (2 * base).backward()
    assert_same_gradients(*pair, 1e-12, 1e-15)


def test_weight_zero_is_the_base():
    models = [
        double(build(CO2 | dict(terms=terms)))
        for terms in ([term("UnMix", weight=0)], [])
    ]
    ours, base = (
        [train(m, views(4, s, dtype=torch.double), sgd(m)) for s in range(2)]
        for m in models
    )
    for one, other in zip(ours, base, strict=True):
        assert one.pop("raw_mixture", 0) == one.pop("loss_mixture", 0) == 0
        assert one == other
    state = models[0].state_dict()
    assert state.pop("terms.mixture.sampler.steps") == 0
    for name, value in models[1].state_dict().items():
        assert torch.equal(state[name], value), name


def test_the_consistency_of_co2_sees_whole_images_alone():
    model, plain = (
        double(build(CO2 | dict(momentum=1.0, terms=terms)))
        for terms in ([term("UnMix")], [])
    )
    inputs = views(4, **DOUBLE)
    ours, base = (losses(m, inputs) for m in (model, plain))
    assert ours.keys() - base.keys() == {"raw_mixture", "loss_mixture"}
    for name, value in base.items():
        assert torch.equal(ours[name], value), name


def test_no_matrix_of_queries_and_queue():
    model = build(method("MoCo", "UnMix", queue_len=65536))
    inputs = views(64, size=32)
    assert largest(lambda: total(losses(model, inputs)).backward()) < 64 * 65536
    with torch.autocast("cpu", torch.bfloat16):
        found = losses(model, inputs)
    assert all(torch.isfinite(value) for value in found.values())


# Two ranks, each with a mixture of its own


def one_step(rank, world_size, part):
    model = freeze_norms(double(build(method("MoCo", "UnMix", queue_len=12))))
    call = DistributedDataParallel(model) if world_size > 1 else model
    inputs = [x.chunk(2)[part] for x in views(12, 1, 32, dtype=torch.double)]
    with mock.patch.object(mixing, "get_rank", return_value=part):
        found = losses(call, inputs)
    total(found).backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    figures = {name: value.item() for name, value in found.items()}
    return figures, gradients, model.compare.queue.keys


def on_a_rank(rank):
    torch.use_deterministic_algorithms(True)
    return one_step(rank, 2, rank)


def test_two_ranks_equal_one_process():
    ranks, halves = run_ranks(on_a_rank, 2), [one_step(0, 1, part) for part in (0, 1)]
    for rank, half in zip(ranks, halves, strict=True):
        assert rank[0] == pytest.approx(half[0], rel=1e-9)
        assert torch.equal(rank[2], ranks[0][2])
        for name, value in rank[1].items():  # their mean
            mean = (halves[0][1][name] + halves[1][1][name]) / 2
            torch.testing.assert_close(value, mean, msg=name)
    keys = torch.cat([half[2][:6] for half in halves])
    torch.testing.assert_close(ranks[0][2], keys)


def test_the_mixture_that_is_drawn_comes_next():
    model, inputs = build(method("SimSiam", "UnMix")), views(4)
    losses(model, inputs)
    model.eval()
    shown = model(inputs, mode="inspect")
    assert shown.keys() == {"mixture", "share", "box"}
    model.train()
    twin = Mixture(shown["share"], shown["box"])
    assert torch.equal(shown["mixture"], twin.of(inputs[0]))
    losses(model, inputs)
    assert model.terms.mixture.mixture == twin
