"""LC-loss: the sheet's cases by hand, its invariants, and loops over its definition."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel

from mmssl_ext.models.layers.geometry import overlap_grid, sample
from mmssl_ext.models.losses import across_images, point_contrast
from tests.distributed import run_ranks

from .bases import build, losses, method, sgd, term, total, train, views
from .common import assert_same_gradients, boxes, double, freeze_norms
from .loops import info_nce, unit
from .test_pixpro import DISJOINT, where_cut
from .test_terms_on_bases import DOUBLE, moved_target

R = torch.tensor([[[1, 0], [0.6, 0.8], [0, 1]]], dtype=torch.double)
T = torch.tensor([[[1, 0], [0.8, 0.6], [0.6, 0.8]]], dtype=torch.double)
ALL = torch.ones(1, 3, 3, dtype=torch.bool)
WHOLE = torch.tensor([[0.0, 0, 1, 1]], dtype=torch.double)


def local(base="MoCo", seed=0, **changes):
    """A base with the term, whose target is another network."""
    still = {} if base == "SimSiam" else dict(momentum=1.0)
    options = dict(exclude_near=True) | changes
    model = build(method(base, term("LocalContrast", **options), **still), seed)
    return moved_target(double(model))


def contrast(r=R, t=T, allowed=ALL, temperature=0.2):
    return point_contrast(r, t, allowed, temperature)[0][0].tolist()


def test_loss_by_hand():
    rows = [0.407606, 0.869912, 0.326563]
    assert contrast() == pytest.approx(rows, abs=1e-6)
    assert contrast(r=T, t=R) == pytest.approx([0.132845, 0.479104, 1.407606], abs=1e-6)
    assert sum(contrast(temperature=0.1)) / 3 == pytest.approx(0.398025, abs=1e-6)
    # The third point is outside of the overlap: neither anchor nor negative.
    valid = torch.tensor([[True, True, False]])
    allowed = valid[:, None] & valid[:, :, None]
    losses_, counted = point_contrast(R, T, allowed, 0.2)
    assert losses_[0].tolist() == pytest.approx([0.313262, 0.152978, 0], abs=1e-6)
    assert torch.equal(counted, valid)
    pair = torch.eye(2, dtype=torch.double)[None]
    for temperature, expected in ((0.2, 0.006715), (0.1, 0.0000453989)):
        found = contrast(pair, pair, ALL[:, :2, :2], temperature)
        assert found == pytest.approx([expected] * 2, abs=1e-6)


def test_gradients_numerically():
    r, t = 2 * unit(2, 4, 3, seed=1), unit(2, 4, 3, seed=2)
    allowed = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.6
    allowed[0, 1], allowed[1] = False, False

    def loss(r):
        return point_contrast(r, t, allowed, 0.3)[0]

    assert torch.autograd.gradcheck(loss, r.requires_grad_())
    assert not point_contrast(r, t, allowed, 0.3)[1][1].any()


def pair_loss(model, maps, where_a, where_b):
    """The term on maps of D channels as they are."""
    lc = model.terms.point
    lc.predictor = None
    return lc.pair(*maps, where_a, where_b).item()


@pytest.fixture(scope="module")
def lattice():
    return local(points=7)


def test_identical_views(lattice):
    basis = torch.eye(49, dtype=torch.double)[None].view(1, 49, 7, 7)
    expected = torch.log1p(48 * torch.tensor(-1 / 0.2).exp()).item()
    found = pair_loss(lattice, (basis, basis), WHOLE, WHOLE)
    assert found == pytest.approx(expected, abs=1e-6)
    same = torch.ones_like(basis)
    found = pair_loss(lattice, (same, same), WHOLE, WHOLE)
    assert found == pytest.approx(3.891820, abs=1e-6)


def test_mirrors_and_scales(lattice):
    generator = torch.Generator().manual_seed(0)
    x, k = (torch.randn(5, 8, 7, 7, generator=generator).double() for _ in "xk")
    a, b = where_cut(5, 1).double().unbind(1)
    base = pair_loss(lattice, (x, k), a, b)
    turned = b[:, [2, 1, 0, 3]]
    found = pair_loss(lattice, (x, k.flip(-1)), a, turned)
    assert found == pytest.approx(base, abs=1e-6)
    assert abs(pair_loss(lattice, (x, k.flip(-1)), a, b) - base) > 1e-3
    assert pair_loss(lattice, (3 * x, 5 * k), a, b) == pytest.approx(base, abs=1e-9)
    # Images that do not meet are left out, those that do count as before.
    some = [v[:4] for v in (x, k, a, b)]
    assert pair_loss(lattice, some[:2], *some[2:]) == pytest.approx(base, abs=1e-12)


def test_neighbours_are_no_negatives():
    """In an overlap of 3 x 3 cells a lattice of 6 is finer than the cells."""
    a = torch.tensor([[0.0, 0, 0.7, 0.7]]).double()
    b = torch.tensor([[0.4, 0.4, 1.1, 1.1]]).double()
    maps = [
        torch.randn(1, 4, 7, 7, generator=torch.Generator().manual_seed(s)).double()
        for s in (0, 1)
    ]
    found = pair_loss(local(points=6), maps, a, b)
    grids = overlap_grid(a, b, 6)[:2]
    r, t = (
        normalize(sample(m, g), dim=1).flatten(2)[0].mT
        for m, g in zip(maps, grids, strict=True)
    )
    rows = []
    for i in range(36):
        others = []
        for j in range(36):
            gap = max(abs(i // 6 - j // 6), abs(i % 6 - j % 6)) / 2  # in cells
            if gap >= 1:
                others.append(t[j])
        rows.append(info_nce(r[i], t[i], others, 0.2))
    assert found == pytest.approx(sum(rows).item() / 36, abs=1e-9)
    every = pair_loss(local(points=6, exclude_near=False), maps, a, b)
    assert every > found + 0.1
    # An overlap of less than a cell has no negatives: nothing is compared.
    assert pair_loss(local(points=2), maps, a, a + 0.65) == 0


def loop(model, inputs, where, points, across):
    """The definition, one point at a time; the points are those of geometry.py."""
    lc, rows = model.terms.point, []
    target = model.target if model.target.encodes else None
    for a, b in model.pairs:
        x = lc.head.project(model.backbone(inputs[a])[-1])
        x = x if lc.predictor is None else lc.predictor.project(x)
        head = target.point_head if target else lc.head
        k = head.project((target or model).backbone(inputs[b])[-1]).detach()
        boxes_ = where[:, a].double(), where[:, b].double()
        found = []  # by image: r, t of its points
        for n in range(len(x)):
            if points == "cells":
                r, t = [], []
                for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
                    (x0, y0, x1, y1), (s0, t0, s1, t1) = boxes_[0][n], boxes_[1][n]
                    u = (x0 + (j + 0.5) / 2 * (x1 - x0) - s0) / (s1 - s0)
                    v = (y0 + (i + 0.5) / 2 * (y1 - y0) - t0) / (t1 - t0)
                    if 0 <= u <= 1 and 0 <= v <= 1:
                        place = torch.stack([2 * u - 1, 2 * v - 1]).view(1, 1, 1, 2)
                        r.append(x[n, :, i, j])
                        t.append(sample(k[n : n + 1], place).flatten())
                found.append((r, t))
                continue
            *grids, valid = overlap_grid(*(y[n : n + 1] for y in boxes_), points)
            maps = x[n : n + 1], k[n : n + 1]
            both = [
                sample(m, g)[0].flatten(1).mT for m, g in zip(maps, grids, strict=True)
            ]
            found.append([list(y) for y in both] if valid.item() else ([], []))
        found = [[[normalize(v, dim=0) for v in y] for y in pair] for pair in found]
        per_image = []
        for n, (r, t) in enumerate(found):
            rest = [v for m, (_, y) in enumerate(found) if across and m != n for v in y]
            own = [
                info_nce(r[i], t[i], [*t[:i], *t[i + 1 :], *rest], lc.temperature)
                for i in range(len(r))
                if len(t) > 1 or rest
            ]
            per_image += [sum(own) / len(own)] if own else []
        rows.append(sum(per_image) / len(per_image))
    return sum(rows) / len(rows)


CASES = [
    ("MoCo", 3, "image"),
    ("BYOL", "cells", "image"),
    ("SimSiam", 3, "image"),
    ("MoCo", 2, "batch"),
]


@pytest.mark.parametrize(("base", "points", "negatives"), CASES)
def test_loss_and_gradient_equal_the_loop(base, points, negatives):
    model = local(base, points=points, negatives=negatives, exclude_near=False)
    inputs, where = views(4, **DOUBLE), where_cut(4, 3).double()
    twin = copy.deepcopy(model)
    found = model(inputs, mode="loss", index=torch.arange(4), boxes=where)
    truth = loop(twin, inputs, where, points, negatives == "batch")
    assert found["raw_point"].item() == pytest.approx(truth.item(), abs=1e-9)
    found["loss_point"].backward()
    truth.backward()
    assert_same_gradients(model, twin, 1e-7, 1e-9)


def test_batch_of_one_has_the_negatives_of_its_image():
    allowed = torch.rand(1, 5, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    valid = torch.ones(1, 5, dtype=torch.bool)
    assert torch.equal(across_images(allowed, valid), allowed)


@pytest.mark.parametrize("base", ["MoCo", "BYOL", "SimSiam"])
def test_weight_zero_is_the_base(base):
    models = [
        double(build(method(base, *terms)))
        for terms in ([term("LocalContrast", weight=0)], [])
    ]
    models[0].load_state_dict(models[1].state_dict(), strict=False)
    inputs, figures = views(4, **DOUBLE), []
    for model in models:
        model.zero_grad()
        found = losses(model, inputs)
        total(found).backward()
        figures.append(found["loss_instance"].item())
    assert figures[0] == pytest.approx(figures[1], rel=1e-12)
    ours, base_ = (dict(m.named_parameters()) for m in models)
    for name, parameter in base_.items():
        if parameter.grad is not None:
            torch.testing.assert_close(
                ours[name].grad, parameter.grad, rtol=1e-12, atol=1e-14
            )
    assert not any(p.grad.any() for p in models[0].terms.point.parameters())
    assert not any("point" in n for n in base_)


def test_no_overlap_is_nothing():
    model = build(method("BYOL", "LocalContrast"))
    for where in (DISJOINT, torch.full((1, 2, 4), torch.nan)):
        model.zero_grad()
        found = model(views(4), mode="loss", boxes=where.expand(4, -1, -1))
        assert found["raw_point"] == 0
        found["loss_point"].backward()
        assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(("base", "negatives"), [("MoCo", "batch"), ("BYOL", "image")])
def test_bfloat16_is_finite_and_near_fp32(base, negatives):
    model = build(method(base, term("LocalContrast", negatives=negatives)))
    twin, inputs, where = copy.deepcopy(model), views(4), where_cut(4, 3).float()
    with torch.autocast("cpu", torch.bfloat16):
        found = model(inputs, mode="loss", index=torch.arange(4), boxes=where)
    truth = twin(inputs, mode="loss", index=torch.arange(4), boxes=where)
    assert found["raw_point"].dtype == torch.float32
    assert found["raw_point"].item() == pytest.approx(truth["raw_point"].item(), 0.02)
    total(found).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_predictor_and_temperature_follow_the_base():
    moco, byol = local("MoCo").terms.point, local("BYOL").terms.point
    assert (moco.predictor, moco.temperature, byol.temperature) == (None, 0.2, 0.1)
    assert byol.predictor.conv1.out_channels == 16
    assert set(byol.parts()) == {"point_head"}  # the target has no predictor


def one_step(rank, world_size):
    """The views of two images on the first rank do not meet."""
    model = freeze_norms(local("BYOL", points=3, exclude_near=False))
    call = DistributedDataParallel(model) if world_size > 1 else model
    inputs = [x.chunk(world_size)[rank] for x in views(8, **DOUBLE)]
    where = boxes(8).clone()
    where[:2] = DISJOINT
    found = call(inputs, mode="loss", boxes=where.chunk(world_size)[rank])
    total(found).backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    return {n: x.item() for n, x in found.items()}, gradients


def on_a_rank(rank):
    return one_step(rank, 2)


@pytest.mark.slow
def test_two_ranks_equal_one():
    both, (figures, gradients) = run_ranks(on_a_rank, 2), one_step(0, 1)
    for name, value in figures.items():
        mean = sum(rank[0][name] for rank in both) / 2
        assert mean == pytest.approx(value, abs=1e-9), name
    for name, value in gradients.items():
        torch.testing.assert_close(both[0][1][name], value, msg=name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(points=1), "points=1 of LocalContrast"),
        (dict(points="all"), "points='all'"),
        (dict(negatives="queue"), "negatives='queue' must be one of image, batch"),
        (dict(temperature=0), "temperature=0"),
        (dict(hid_channels=0), "hid_channels=0 of the term LocalContrast"),
        (dict(predictor_channels=8), "QueueSoftmax has no predictor"),
    ],
)
def test_bad_options_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        local("MoCo", **changes)


@pytest.mark.parametrize("negatives", ["image", "batch"])
def test_one_cell_has_no_points_to_tell_apart(negatives):
    term = local("MoCo", negatives=negatives).terms.point
    maps, boxes = torch.randn(2, 2, 8, 1, 1), torch.tensor([[0.0, 0, 1, 1]] * 2)
    if negatives == "batch":  # those of other images are left
        assert term.pair(*maps, boxes, boxes) > 0
        return
    with pytest.raises(ValueError, match=r"map of 1 x 1 cell; take larger views"):
        term.pair(*maps, boxes, boxes)


def test_learns_beside_pixel_consistency():
    model = build(method("BYOL", "LocalContrast", "PixelConsistency"))
    figures = train(model, views(4), sgd(model))
    assert {"raw_point", "raw_pixel", "raw_instance"} <= figures.keys()
