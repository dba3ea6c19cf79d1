"""PixPro and PixContrast: the sheet's cases by hand, and loops over their equations."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel

from mmssl_ext.models.layers import pairs
from mmssl_ext.models.losses import cosines, pair_contrast, pair_cosine, propagate
from tests.distributed import run_ranks

from .common import (
    CONV_NECK,
    assert_same_gradients,
    boxes,
    build,
    double,
    freeze_norms,
    total,
    views,
)
from .loops import unit
from .test_terms_on_bases import moved_target

CELLS = torch.tensor([[[1, 0], [0.6, 0.8]]], dtype=torch.double)
OWN = torch.eye(2, dtype=torch.bool)[None]
DISJOINT = torch.tensor([[(0, 0, 0.3, 0.3), (0.6, 0.6, 1, 1)]])


def test_propagation_by_hand():
    y = propagate(CELLS, CELLS, 2)[0]
    assert y.tolist() == [pytest.approx([1.216, 0.288]), pytest.approx([0.96, 0.8])]
    found = normalize(y, dim=1)
    assert found[0].tolist() == pytest.approx([0.973080, 0.230466], abs=1e-6)
    assert found[1].tolist() == pytest.approx([0.768221, 0.640184], abs=1e-6)
    weights = cosines(CELLS, CELLS).clamp(min=0).pow(2)[0]
    assert torch.equal(weights, weights.mT) and weights[0, 1].item() == pytest.approx(
        0.36
    )


def test_consistency_by_hand():
    y = propagate(CELLS, CELLS, 2)
    found = -2 * pair_cosine(y, CELLS, OWN)
    assert found.item() == pytest.approx(-1.946160, abs=1e-6)
    assert 2 * found.item() == pytest.approx(-3.892319, abs=1e-6)
    every = torch.ones_like(OWN)
    assert -2 * pair_cosine(y, CELLS, every).item() == pytest.approx(
        -1.741301, abs=1e-6
    )
    near = torch.cat([OWN, ~every])
    both = pair_cosine(y.expand(2, -1, -1), CELLS.expand(2, -1, -1), near)
    assert -2 * both.mean().item() == pytest.approx(-0.973080, abs=1e-6)


def test_contrast_by_hand():
    found = pair_contrast(CELLS, CELLS, OWN, 0.3)
    assert found.item() == pytest.approx(0.233963, abs=1e-6)
    keys = torch.tensor([[(c, (1 - c * c) ** 0.5) for c in (0.9, 0.5, 0.1)]])
    near = torch.tensor([[[True, True, False]]])
    found = pair_contrast(CELLS[:, :1], keys.double(), near, 0.3)
    assert found.item() == pytest.approx(0.053530, abs=1e-6)


def test_pooling_comes_before_normalising():
    model = build("PixPro", neck=CONV_NECK | dict(out_channels=2))
    maps = torch.tensor([[[[3.0, 0.0]], [[0.0, 1.0]]]])  # 1 x 2 x 1 x 2
    conv = model.neck.conv2
    with torch.no_grad():
        conv.weight.zero_(), conv.bias.zero_()
        conv.weight[:, :2, 0, 0] = torch.eye(2)
    hidden = torch.cat([maps, maps.new_zeros(1, 30, 1, 2)], 1)
    model.neck.conv1 = model.neck.bn1 = torch.nn.Identity()
    mean, cells = model.neck([hidden])
    assert torch.equal(cells, maps) and torch.equal(model.neck.pool(hidden), mean)
    expected = pytest.approx([0.948683, 0.316228], abs=1e-6)
    assert normalize(mean)[0].tolist() == expected


@pytest.mark.parametrize("gamma", [1.0, 2.0, 3.5])
def test_gradients_numerically(gamma):
    generator = torch.Generator().manual_seed(3)
    x, v, k = (
        torch.randn(2, 5, 3, generator=generator, dtype=torch.double) for _ in "xvk"
    )
    near = torch.rand(2, 5, 5, generator=generator) < 0.4
    near[0, 1], near[1] = False, False  # a cell and an image without a pair

    def consistency(x, v):
        return pair_cosine(propagate(x, v, gamma), k, near)

    inputs = x.requires_grad_(), v.requires_grad_()
    assert torch.autograd.gradcheck(consistency, inputs)
    assert torch.autograd.gradcheck(lambda x: pair_contrast(x, k, near, 0.3), x)


def loop(model, inputs, where):
    """Equations of the paper, one pair of cells at a time."""
    encoders = model, model.target
    maps = [[e.neck(e.backbone(x))[1] for x in inputs] for e in encoders]
    count, _, h, w = maps[0][0].shape
    term, pixel, instance = model.terms.pixel, 0, 0
    contrast = type(term).__name__ == "PixelContrast"
    for a, b in ((0, 1), (1, 0)):
        near = pairs(where[:, a], where[:, b], h, w)
        x, k = maps[0][a].flatten(2), maps[1][b].detach().flatten(2)
        values = None if contrast else term.transform(maps[0][a]).flatten(2)
        for n in range(count):
            rows, cosine_sum, number = [], 0, 0
            for i in range(h * w):
                xi = normalize(x[n, :, i], dim=0)
                if contrast:
                    e = [
                        (xi @ normalize(k[n, :, j], dim=0) / 0.3).exp()
                        for j in range(4)
                    ]
                    found = [e[j] for j in range(4) if near[n, i, j]]
                    if found:
                        rows.append(-(sum(found) / sum(e)).log())
                    continue
                y = 0
                for j in range(h * w):
                    likeness = (xi @ normalize(x[n, :, j], dim=0)).clamp(min=0) ** 2
                    y = y + likeness * normalize(values[n, :, j], dim=0)
                for j in range(h * w):
                    if near[n, i, j]:
                        key = normalize(k[n, :, j], dim=0)
                        cosine_sum = cosine_sum + normalize(y, dim=0) @ key
                        number += 1
            if contrast and rows:
                pixel = pixel + sum(rows) / len(rows) / count
            if number:
                pixel = pixel - 2 * cosine_sum / (number + 1e-6) / count
        if "instance" in model.terms:
            branch = model.terms.instance
            g, q = model.backbone(inputs[a])[-1], model.target.backbone(inputs[b])[-1]
            p = branch.predictor.project(branch.head.project(g)).mean((2, 3))
            z = model.target.instance_head.project(q).mean((2, 3)).detach()
            instance = instance - 2 * (normalize(p) * normalize(z)).sum(1).mean()
    return pixel + 0.5 * instance


def where_cut(count, seed=0):
    """Crops of all kinds, N x 2 x 4; those of the last image do not meet."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(count, 2, 4, generator=generator)
    size = 0.4 + 0.4 * draw[..., :2]
    start = draw[..., 2:] * (1 - size)
    found = torch.cat([start, start + size], 2)
    found[::2, 1] = found[::2, 1][:, [2, 1, 0, 3]]
    found[-1] = DISJOINT
    return found


CASES = [("PixPro", 0.5), ("PixPro", 0.0), ("PixContrast", 0.0)]


def made(name, alpha, **changes):
    config = dict(type=name, neck=CONV_NECK, momentum=1.0, instance_weight=alpha)
    return moved_target(double(build("PixPro", **config | changes)))


@pytest.mark.parametrize(("name", "alpha"), CASES)
def test_loss_and_gradient_equal_the_loop(name, alpha):
    model, where = made(name, alpha), where_cut(4)
    inputs = [x.double() for x in views(4, size=64)]
    twin = copy.deepcopy(model)
    found = model(inputs, mode="loss", boxes=where)
    truth = loop(twin, inputs, where)
    assert total(found).item() == pytest.approx(truth.item(), abs=1e-9)
    assert found["matched"].item() == 0.75
    total(found).backward()
    truth.backward()
    assert_same_gradients(model, twin, 1e-7, 1e-10)


def test_no_overlap_is_nothing():
    for name, alpha in CASES[1:]:
        model = build("PixPro", type=name, instance_weight=alpha)
        for where in (DISJOINT, torch.full((1, 2, 4), torch.nan)):
            model.zero_grad()
            found = model(views(4, size=64), mode="loss", boxes=where.expand(4, -1, -1))
            assert total(found).item() == 0 == found["matched"]
            total(found).backward()
            for parameter in model.parameters():
                assert parameter.grad is None or not parameter.grad.any()


def same_networks(size=(4, 4), **changes):
    """A term on maps as they are: no networks, v the identity."""
    model = build("PixPro", instance_weight=0.0, pixel=dict(layers=0) | changes)
    return model.terms.pixel


def test_two_layers_take_out_what_all_cells_share():
    """And one keeps it: the direction in which SGD then pushes all cells."""
    maps = torch.randn(4, 16, 3, 3, generator=torch.Generator().manual_seed(0))
    shift = torch.linspace(-3, 3, maps.shape[1])[:, None, None]
    one, two = (build("PixPro", pixel=dict(layers=n)).terms.pixel for n in (1, 2))
    assert one.dim == two.dim == maps.shape[1]
    project = two.transform.project
    torch.testing.assert_close(project(maps + shift), project(maps), rtol=0, atol=1e-4)
    assert (one.transform(maps + shift) - one.transform(maps)).abs().max() > 0.1


def test_perfect_features_and_symmetries():
    term = same_networks()
    generator = torch.Generator().manual_seed(0)
    x, k = (
        torch.randn(3, 20, 4, 4, generator=generator, dtype=torch.double) for _ in "xk"
    )
    where = where_cut(3, 2).double()
    near = pairs(where[:, 0], where[:, 1], 4, 4)

    def loss(x, k, near):
        return term.pair(cells(term.seen(x)), cells(k), near).item()

    def cells(maps):
        return maps.flatten(2).mT

    base = loss(x, k, near)
    assert near[:-1].any() and not near[-1].any()
    assert loss(7 * x, k, near) == pytest.approx(base, abs=1e-12)
    turned = where.clone()
    turned[:, 1] = turned[:, 1][:, [2, 1, 0, 3]]
    mirror = pairs(turned[:, 0], turned[:, 1], 4, 4)
    assert loss(x, k.flip(-1), mirror) == pytest.approx(base, abs=1e-12)
    assert abs(loss(x, k.flip(-1), near) - base) > 1e-3
    order = torch.randperm(16, generator=generator)
    shuffled = k.flatten(2)[:, :, order].view_as(k)
    assert loss(x, shuffled, near[:, :, order]) == pytest.approx(base, abs=1e-12)
    assert abs(loss(x, shuffled, near) - base) > 1e-3
    # Square cells of one place, orthogonal: all that is asked for.
    basis = torch.eye(20, dtype=torch.double)[None, :, :16].view(1, 20, 4, 4)
    whole = torch.tensor([[0.0, 0, 1, 1]], dtype=torch.double)
    own = pairs(whole, whole, 4, 4)
    assert 2 * loss(basis, basis, own) == pytest.approx(-4, abs=1e-6)
    assert torch.equal(own[0], torch.eye(16, dtype=torch.bool))


def test_momentum_follows_the_cosine():
    model = build("PixPro", momentum=None)
    model.clock.total = 1000
    momentum = model.target.momentum
    found = [momentum.at(k, model.clock) for k in (0, 250, 500, 1000)]
    assert found == pytest.approx([0.99, 0.991464, 0.995, 1], abs=1e-6)


def test_without_a_weight_there_is_no_instance_branch():
    plain = build("PixPro", instance_weight=0.0)
    names = {n.split(".")[0] for n, _ in plain.named_parameters()}
    assert list(plain.terms) == ["pixel"]
    assert names == {"backbone", "neck", "terms", "target"}
    pixel = [n for n, _ in plain.terms.named_parameters()]
    assert pixel == ["pixel.transform.weight", "pixel.transform.bias"]
    assert not any("transform" in n for n, _ in plain.target.named_parameters())
    full = build("PixPro", instance_weight=1.0)
    assert list(full.terms) == ["pixel", "instance"]
    # g_inst is no g
    assert full.terms.instance.head is not full.neck
    extra = full.state_dict().keys() - plain.state_dict().keys()
    assert {n.split(".")[1] for n in extra} == {"instance", "instance_head"}


def one_step(rank, world_size, name, alpha):
    model = freeze_norms(made(name, alpha))
    call = DistributedDataParallel(model) if world_size > 1 else model
    inputs = [x.double().chunk(world_size)[rank] for x in views(8, size=64)]
    where = where_cut(8).chunk(world_size)[rank]
    found = call(inputs, mode="loss", boxes=where)
    total(found).backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    return {n: x.item() for n, x in found.items()}, gradients


def on_a_rank(rank):
    return [one_step(rank, 2, *case) for case in CASES]


@pytest.mark.slow
def test_two_ranks_equal_one():
    """Also where the images without a pair are all on one rank."""
    for case, *both in zip(CASES, *run_ranks(on_a_rank, 2), strict=True):
        figures, gradients = one_step(0, 1, *case)
        for name, value in figures.items():
            mean = sum(rank[0][name] for rank in both) / 2
            assert mean == pytest.approx(value, abs=1e-9), (case, name)
        for name, value in gradients.items():
            torch.testing.assert_close(both[0][1][name], value, msg=name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(pixel=dict(gamma=0.5)), r"gamma=0\.5"),
        (dict(pixel=dict(layers=3)), "layers=3"),
        (dict(pixel=dict(threshold=0)), r"threshold=0 .* in diagonals of a cell"),
        (dict(pixel=dict(hid_channels=8)), "is the neck; set hid_channels"),
        (dict(instance_weight=-1), "instance_weight=-1"),
        (dict(instance_weight=0, instance=dict(hid_channels=8)), "no instance branch"),
        (dict(compare=dict(type="Regression")), "makes its own compare"),
        (dict(type="PixContrast", pixel=dict(temperature=0)), "temperature=0"),
    ],
)
def test_bad_options_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        build("PixPro", **changes)


def test_a_batch_without_boxes_is_refused():
    with pytest.raises(ValueError, match="PixelConsistency compares the same places"):
        build("PixPro")(views(4, size=64), mode="loss")


def test_what_is_drawn():
    model = build("PixPro", instance_weight=1.0).eval()
    inputs = views(3, size=64)
    found = model(inputs, mode="inspect")
    assert found["grids"] == ((2, 2), (2, 2))
    assert found["cosine"].shape == found["propagation"].shape == (3, 4, 4)
    assert found["propagation"].diagonal(dim1=1, dim2=2).allclose(torch.ones(3, 4))
    made = model.step(inputs, boxes(3))
    y = model.terms.pixel.seen(made.online[0]["pixel_map"]).flatten(2).mT
    k = made.target[1]["pixel_map"].flatten(2).mT
    torch.testing.assert_close(found["cosine"], cosines(y, k))


def test_cosines_in_single_precision_under_autocast():
    x = unit(2, 4, 8, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(cosines(x, x), x @ x.mT) is False
        assert cosines(x.bfloat16(), x.bfloat16()).dtype == torch.float32
        assert propagate(x, x, 2).dtype == torch.float32


def test_likeness_is_zero_where_cosines_are_negative():
    for i, j in itertools.product(range(4), range(4)):
        x = torch.randn(1, 4, 2, generator=torch.Generator().manual_seed(1))
        y = propagate(x, torch.eye(4)[None], 1)[0, i, j]
        expected = torch.cosine_similarity(x[0, i], x[0, j], 0).clamp(min=0)
        assert y.item() == pytest.approx(expected.item(), abs=1e-6)
