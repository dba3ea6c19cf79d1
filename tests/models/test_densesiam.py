"""DenseSiam: its terms by hand and against loops over points, regions and channels."""

import copy
import math
import re

import pytest
import torch
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel

from mmssl_ext.models.algorithms import Step
from mmssl_ext.models.losses import (
    pixel_similarity,
    region_contrast,
    region_vectors,
)
from mmssl_ext.models.memory.step_counter import StepCounter
from tests.distributed import run_ranks

from .bases import BASES, build, method, sgd, total, views
from .common import BACKBONE, assert_same_gradients, double, freeze_norms
from .loops import unit
from .test_terms_on_bases import moved_target

POINTS, REGIONS = 3, 4
PIXEL = dict(embed_channels=12, predictor_channels=6, num_points=POINTS)
REGION = dict(num_regions=REGIONS, hid_channels=10, num_points=POINTS)
DENSESIAM = dict(
    type="DenseSiam",
    backbone=BACKBONE,
    **BASES["SimSiam"],
    pixel=PIXEL,
    region=REGION,
)
# One view, the other: aside, mirrored, within, apart.
CROPS = torch.tensor(
    [
        [[0, 0, 0.5, 0.5], [0.25, 0.25, 1, 0.75]],
        [[0.1, 0, 0.7, 0.9], [0.8, 0.2, 0.3, 1]],
        [[1, 0, 0, 1], [0.2, 0.3, 0.6, 0.5]],
        [[0, 0, 0.4, 0.4], [0.6, 0.5, 1, 1]],
    ],
    dtype=torch.double,
)


def rows(*vectors):
    return torch.tensor(vectors, dtype=torch.double)


def losses(model, inputs, boxes=CROPS):
    return model(inputs, mode="loss", boxes=boxes)


# The sheet's cases by hand


def maps(*cells):
    """An image of one row of cells: 1 x C x 1 x M."""
    return rows(*cells).T[None, :, None]


def test_pixels_by_hand():
    loss = pixel_similarity(maps((0, math.log(3))), maps((1, 0)), softmax=True)
    assert loss.item() == pytest.approx(1.090832, abs=1e-6)
    assert pixel_similarity(maps((3, 4)), maps((4, 3))).item() == pytest.approx(-0.96)
    z = torch.randn(2, 5, 3, 3, dtype=torch.double)
    assert pixel_similarity(z, z).tolist() == pytest.approx([-1, -1])
    entropy = -(z.softmax(1) * z.softmax(1).log()).sum(1).mean((1, 2))
    torch.testing.assert_close(pixel_similarity(z, z, softmax=True), entropy)


def test_regions_by_hand():
    three = math.log(3)
    logits, features = maps((0, three), (three, 0)), maps((1, 2), (3, -1))
    vectors = region_vectors(logits, features)
    torch.testing.assert_close(vectors[0], rows((2.5, -0.25), (1.5, 1.25)))
    q, u = rows((1, 0), (0, 1))[None], rows((1, 0), (0.6, 0.8))[None]
    there, back = (region_contrast(*x, 0.1).item() for x in ((q, u), (u, q)))
    assert (there, back) == pytest.approx((0.009243, 0.063487), abs=1e-6)
    assert (there + back) / 2 == pytest.approx(0.036365, abs=1e-6)
    for count, wanted in ((27, 3.295837), (128, 4.852030)):
        same = unit(1, 1, 6).expand(1, count, 6)
        assert region_contrast(same, same, 0.1).item() == pytest.approx(wanted)


def test_regions_share_out_the_features_and_have_no_order():
    logits, features = unit(2, 5, 3, 3), unit(2, 7, 3, 3, seed=1)
    vectors = region_vectors(logits, features)
    torch.testing.assert_close(vectors.sum(1), features.sum((2, 3)))
    order = torch.randperm(9)
    mixed = [x.flatten(2)[..., order].view_as(x) for x in (logits, features)]
    torch.testing.assert_close(region_vectors(*mixed), vectors)
    q = normalize(vectors, dim=2)
    u = normalize(q + 0.1 * unit(*q.shape, seed=2), dim=2)
    turned = [x[:, torch.tensor([1, 2, 3, 4, 0])] for x in (q, u)]
    plain = region_contrast(q, u, 0.1)
    torch.testing.assert_close(region_contrast(*turned, 0.1), plain)
    assert (region_contrast(q, turned[1], 0.1) > plain).all()


def test_gradients_of_the_losses():
    p, z = (x.requires_grad_() for x in (unit(2, 3, 2, 2), unit(2, 3, 2, 2, seed=1)))
    for softmax in (False, True):
        torch.autograd.gradcheck(lambda x, s=softmax: pixel_similarity(x, z, s), p)
    torch.autograd.gradcheck(region_vectors, (p, z))
    q = unit(2, 3, 4, seed=2).requires_grad_()
    torch.autograd.gradcheck(lambda *x: region_contrast(*x, 0.5), (q, q.detach() + 1))


# Whole steps, point by point


def read(feature_map, x, y):
    """Bilinear value at the continuous index of C x h x w, beyond the edge its edge."""
    _, h, w = feature_map.shape
    x, y = min(max(x, 0), w - 1), min(max(y, 0), h - 1)
    left, top = min(int(x), w - 2), min(int(y), h - 2)
    s, t = x - left, y - top
    return (
        (1 - s) * (1 - t) * feature_map[:, top, left]
        + s * (1 - t) * feature_map[:, top, left + 1]
        + (1 - s) * t * feature_map[:, top + 1, left]
        + s * t * feature_map[:, top + 1, left + 1]
    )


def common_points(own, other):
    """Places (u, v) in the view with the box ``own``, POINTS x POINTS; [] if apart."""
    spans = []
    for k in (0, 1):
        low = max(min(own[k], own[k + 2]), min(other[k], other[k + 2]))
        high = min(max(own[k], own[k + 2]), max(other[k], other[k + 2]))
        if high <= low:
            return []
        places = [low + (i + 0.5) / POINTS * (high - low) for i in range(POINTS)]
        spans.append([(p - own[k]) / (own[k + 2] - own[k]) for p in places])
    return [(u, v) for v in spans[1] for u in spans[0]]


def read_all(feature_map, points):
    _, h, w = feature_map.shape
    return [read(feature_map, u * w - 0.5, v * h - 0.5) for u, v in points]


def loop_pixels(predicted, target, points, softmax):
    p, z = read_all(predicted, points[0]), read_all(target, points[1])
    loss = 0
    for one, other in zip(p, z, strict=True):
        if softmax:
            loss = loss - (other.softmax(0) * one.log_softmax(0)).sum()
        else:
            loss = loss - one @ other / one.norm() / other.norm()
    return loss / len(p)


def loop_vectors(encoder_masks, last, points, count):
    """Regions of all images, count x REGIONS x C; without points those of the middle"""
    logits, found = encoder_masks(last), []
    for n in range(count):
        places = points[n] or [(0.5, 0.5)] * POINTS**2
        here = read_all(logits[n], places)
        features = read_all(last[n], places)
        for k in range(REGIONS):
            shares = [x.softmax(0)[k] for x in here]
            found.append(sum(m * f for m, f in zip(shares, features, strict=True)))
    return torch.stack(found)


def loop_losses(model, inputs, stop=False):
    """Both losses, whatever the target is."""
    pixel, region = model.terms.pixel_similarity, model.terms.region_similarity
    own, count = not model.target.encodes, len(inputs[0])
    last = [model.backbone(x)[-1] for x in inputs]
    target, heads = last, (pixel.projector, region.masks, region.projector)
    if not own:
        target = [model.target.backbone(x)[-1] for x in inputs]
        t = model.target
        heads = t.pixel_projector, t.region_masks, t.region_projector
    z = [heads[0](x).detach() for x in target]
    p = [pixel.predictor(pixel.projector(x)) for x in last]
    crops = CROPS[:count].tolist()
    points = {
        (a, b): [common_points(crop[a], crop[b]) for crop in crops]
        for a, b in ((0, 1), (1, 0))
    }

    def project(masks, projector, x, places):
        """Projected regions, as rows of a batch."""
        vectors = loop_vectors(masks, x, places, count)
        return projector(vectors[:, :, None, None])

    online = {
        pair: project(region.masks, region.projector, last[pair[0]], points[pair])
        for pair in points
    }
    pixels = regions = 0
    for a, b in ((0, 1), (1, 0)):
        q = region.predictor(online[a, b])[..., 0, 0]
        u = online[b, a] if own else project(*heads[1:], target[b], points[b, a])
        u = u.detach()[..., 0, 0] if stop or not own else u[..., 0, 0]
        q, u = (normalize(x).view(count, REGIONS, -1) for x in (q, u))
        for n in range(count):
            places = points[a, b][n], points[b, a][n]
            if not places[0]:
                continue
            pixels = pixels + loop_pixels(
                p[a][n], z[b][n], places, pixel.form == "softmax"
            )
            for k in range(REGIONS):
                logits = torch.stack([q[n, k] @ x / region.temperature for x in u[n]])
                regions = regions - logits.log_softmax(0)[k] / REGIONS
    share = count if model.reduce == "sum" else 2 * count
    return pixels / share, regions / share


@pytest.mark.parametrize(
    ("config", "stop"),
    [
        (DENSESIAM, False),
        (
            DENSESIAM
            | dict(
                pixel=PIXEL | dict(form="softmax"),
                region=REGION | dict(stop_gradient=True),
            ),
            True,
        ),
        (
            method(
                "BYOL",
                dict(type="PixelSimilarity", **PIXEL),
                dict(type="RegionSimilarity", weight=0.1, **REGION),
            )
            | dict(momentum=1.0),
            False,
        ),
    ],
    ids=["densesiam", "other-choices", "byol"],
)
def test_losses_and_gradients_equal_the_loops(config, stop):
    model = moved_target(double(build(config)))
    inputs = views(4, dtype=torch.double)
    twin = copy.deepcopy(model)
    found = losses(model, inputs)
    (found["loss_pixel_similarity"] + found["loss_region_similarity"]).backward()
    pixels, regions = loop_losses(twin, inputs, stop)
    assert found["raw_pixel_similarity"].item() == pytest.approx(pixels.item())
    assert found["raw_region_similarity"].item() == pytest.approx(regions.item())
    assert found["loss_region_similarity"] == 0.1 * found["raw_region_similarity"]
    (pixels + 0.1 * regions).backward()
    assert_same_gradients(model, twin, 1e-7, 1e-9)


def test_every_parameter_learns_also_in_bfloat16():
    model, inputs = build(DENSESIAM), views(4)
    with torch.autocast("cpu", torch.bfloat16):
        found = losses(model, inputs, CROPS.float())
    total(found).backward()
    assert all(torch.isfinite(x) for x in found.values())
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_weight_zero_is_simsiam():
    still = dict(weight=0)
    model = double(build(DENSESIAM | dict(pixel=PIXEL | still, region=REGION | still)))
    base = double(build(method("SimSiam")))
    base.load_state_dict(
        {k: v for k, v in model.state_dict().items() if not k.startswith("terms.")}
    )
    inputs = views(4, dtype=torch.double)
    ours, theirs = losses(model, inputs), losses(base, inputs)
    assert total(ours).item() == pytest.approx(total(theirs).item(), rel=1e-12)
    total(ours).backward()
    total(theirs).backward()
    for name, parameter in model.named_parameters():
        if name.startswith("terms."):  # zero and not None, for DDP
            assert not parameter.grad.any(), name
        else:
            wanted = base.get_parameter(name).grad
            torch.testing.assert_close(parameter.grad, wanted, rtol=1e-12, atol=1e-15)


# Geometry


def features(model, batch=2, seed=0):
    """What the terms read of a view: maps of 4 x 4 cells."""
    last = unit(batch, 64, 4, 4, seed=seed)
    found = {}
    for term in model.terms.values():
        found |= term.features(model, [last], None)
    return found


def term_losses(model, one, other, boxes):
    step = Step({}, boxes, None, {0: one, 1: other}, {0: one, 1: other}, {})
    return [term(model, step) for term in model.terms.values()]


def test_a_mirrored_view_changes_nothing():
    model = double(build(DENSESIAM))
    one, other, boxes = features(model), features(model, seed=1), CROPS[:2]
    plain = term_losses(model, one, other, boxes)
    mirrored = {name: x.flip(3) for name, x in other.items()}
    turned = boxes.clone()
    turned[:, 1] = boxes[:, 1][:, [2, 1, 0, 3]]
    torch.testing.assert_close(term_losses(model, one, mirrored, turned), plain)
    wrong = term_losses(model, one, mirrored, boxes)
    assert all(abs(x - y) > 1e-6 for x, y in zip(wrong, plain, strict=True))


def test_images_without_overlap_count_nothing():
    model = freeze_norms(double(build(DENSESIAM)))
    one, other = features(model), features(model, seed=1)
    for found in (one, other):
        for name, x in found.items():
            found[name] = x.detach().requires_grad_()
    both = term_losses(model, one, other, CROPS[[0, 3]])
    alone = term_losses(
        model,
        *({n: x[:1] for n, x in found.items()} for found in (one, other)),
        CROPS[:1],
    )
    for ours, half in zip(both, alone, strict=True):
        assert ours.item() == pytest.approx(half.item() / 2)
    sum(both).backward()
    for found in (one, other):
        for name, x in found.items():
            assert x.grad[0].any() and not x.grad[1].any(), name
    apart = term_losses(model, one, other, CROPS[[3, 3]])
    assert [x.item() for x in apart] == [0, 0]
    sum(apart).backward()
    slopes = [p.grad for p in model.parameters() if p.grad is not None]
    assert slopes and all(slope.isfinite().all() for slope in slopes)


# Two ranks, and going on


def run(rank, world_size):
    model = freeze_norms(double(build(DENSESIAM)))
    call = DistributedDataParallel(model) if world_size > 1 else model
    optimizer, history = sgd(model), []
    for seed in range(2):
        inputs = [
            x.chunk(world_size)[rank] for x in views(4, seed, 64, dtype=torch.double)
        ]
        boxes = CROPS.roll(seed, 0).chunk(world_size)[rank]
        found = losses(call, inputs, boxes)
        optimizer.zero_grad()
        total(found).backward()
        optimizer.step()
        history.append({name: x.item() for name, x in found.items()})
    return history, model.state_dict()


def on_a_rank(rank):
    return run(rank, 2)


def test_two_ranks_equal_one():
    both, (wanted, state) = run_ranks(on_a_rank, 2), run(0, 1)
    for t, figures in enumerate(wanted):
        for name, value in figures.items():
            mean = sum(history[t][name] for history, _ in both) / 2
            assert mean == pytest.approx(value, rel=1e-7, abs=1e-9), name
    for _, ours in both:
        for name, value in state.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-6, atol=1e-8)


def test_all_of_its_state_is_weights_and_counters():
    """So that the checkpoint holds it: nothing is kept elsewhere between two steps."""
    model = build(DENSESIAM)
    for module in model.terms.modules():
        assert not isinstance(module, StepCounter)
    optimizer, inputs = sgd(model), views(4)
    total(losses(model, inputs, CROPS.float())).backward()
    optimizer.step()
    restored = build(DENSESIAM, seed=1)
    restored.load_state_dict(model.state_dict())
    again = [losses(m, inputs, CROPS.float()) for m in (model, restored)]
    assert again[0] == again[1]


# What does not suit


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (dict(pixel=dict(num_points=0)), "num_points=0 of the term PixelSimilarity"),
        (dict(pixel=dict(form="l1")), "form='l1' must be one of cosine, softmax"),
        (dict(region=dict(num_regions=2.5)), "num_regions=2.5 of the term RegionSim"),
        (dict(region=dict(temperature=0)), "temperature=0 is not a temperature"),
    ],
)
def test_wrong_values_say_what_to_change(changes, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        build(DENSESIAM | changes)


def test_a_batch_without_boxes_is_refused():
    model = build(DENSESIAM)
    assert model.needs_boxes_of == [0, 1]
    with pytest.raises(ValueError, match="where each view was cut"):
        losses(model, views(2), None)
