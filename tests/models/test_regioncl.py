"""RegionCL: rectangles, pairs, losses; against loops over cells and queue entries."""

import copy
import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from mmssl_ext.models.layers import region as region_module
from mmssl_ext.models.layers.region import (
    Region,
    RegionSampler,
    pairing,
    pool_regions,
    swap_region,
)

from ..harness import assert_same
from .common import assert_same_gradients, build, sgd, step, total, views
from .loops import info_nce, mean_cosine, mean_info_nce

pytestmark = pytest.mark.filterwarnings("ignore:bn_splits=1")

GRID, STRIDE = 7, 32
SIZE = GRID * STRIDE
CELLS = list(itertools.product(range(GRID), range(GRID)))
REGION = dict(cells=(3, 5), stride=STRIDE)
TAU = 0.2


def region_model(type_="RegionCLM", **changes):
    """A small model that draws as the paper does: 3 to 5 of 7 cells."""
    return build(type_, **(dict(region=REGION) | changes))


def pixels(batch, seed=0):
    return views(batch, seed, size=SIZE)


def trained_model(type_, n, **changes):
    """A model after two steps of n images: momentum, queue and draws are under way."""
    model = region_model(type_, **changes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for seed in range(2):
        step(model, pixels(n, seed), optimizer)
    model.zero_grad()
    return model.double()


def next_region(model):
    """What the next step will draw."""
    return copy.deepcopy(model).terms.region.sampler.draw(SIZE, SIZE)


def inside(region, cell):
    row, column = cell
    return (
        region.top <= row < region.top + region.height
        and region.left <= column < region.left + region.width
    )


def block(cell):
    """Index of a cell's pixels in an image C x H x W."""
    return ..., *(slice(STRIDE * i, STRIDE * (i + 1)) for i in cell)


# The slow reference: one image, cell and queue entry at a time.


def taken_from(n):
    """Whose content each image takes: reversed, for an odd batch the one before."""
    return [(n - 1 - i) if n % 2 == 0 else (i - 1) % n for i in range(n)]


def loop_mix(images, region, order):
    mixed = torch.zeros_like(images)
    for i, cell in itertools.product(range(len(images)), CELLS):
        source = order[i] if inside(region, cell) else i
        mixed[i][block(cell)] = images[source][block(cell)]
    return mixed


def loop_pool(maps, region):
    """Canvas and paste of every mixed image, N x C each."""
    means = {False: [], True: []}
    for image in maps:
        for part, rows in means.items():
            values = [
                image[:, r, c] for r, c in CELLS if inside(region, (r, c)) is part
            ]
            rows.append(sum(values) / len(values))
    return torch.stack(means[False]), torch.stack(means[True])


def loop_region_loss(c, pm, k, queue, order):
    """Mean over 2N rows; c and pm are canvas and paste by MIXED image."""
    losses = []
    for i in range(len(c)):
        j = order.index(i)  # the mixed image that shows image i in its rectangle
        losses.append(info_nce(c[i], k[i], [pm[i].detach(), *queue], TAU))
        losses.append(info_nce(pm[j], k[i], [c[j].detach(), *queue], TAU))
    return sum(losses) / len(losses)


# Rectangles.


def test_draws_reach_every_rectangle_at_its_rate():
    """Sides of 3 to 5 cells, independent; then every place alike, up to the borders."""
    sampler, steps = RegionSampler(**REGION), 8000
    counts = Counter(sampler.draw(SIZE, SIZE) for _ in range(steps))
    expected = {
        Region(top, left, height, width): steps / 9 / (8 - height) / (8 - width)
        for height, width in itertools.product((3, 4, 5), repeat=2)
        for top, left in itertools.product(range(8 - height), range(8 - width))
    }
    assert len(expected) == 144 and counts.keys() == expected.keys()
    chi_square = sum((counts[r] - e) ** 2 / e for r, e in expected.items())
    assert chi_square < 143 + 4 * math.sqrt(2 * 143)


def test_an_oblong_image_keeps_its_axes():
    sampler = RegionSampler(cells=(3, 3))
    draws = {sampler.draw(3 * STRIDE, GRID * STRIDE) for _ in range(100)}
    assert draws == {Region(0, left, 3, 3) for left in range(5)}


def test_area_weighted_means_are_the_global_mean():
    maps = torch.randn(4, 6, GRID, GRID, dtype=torch.float64)
    region = Region(2, 0, 4, 5)
    canvas, paste = pool_regions(maps, region)
    torch.testing.assert_close((20 * paste + 29 * canvas) / 49, maps.mean((2, 3)))
    for ours, truth in zip((canvas, paste), loop_pool(maps, region), strict=True):
        torch.testing.assert_close(ours, truth)
    hand = torch.ones(1, 1, GRID, GRID)
    hand[0, 0, 4:, 2:5] = 3
    canvas, paste = pool_regions(hand, Region(4, 2, 3, 3))
    assert canvas.item() == 1 and paste.item() == 3
    assert (9 * paste + 40 * canvas).item() / 49 == pytest.approx(1.367347, abs=1e-6)


# Pairs.


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_nobody_is_paired_with_itself(n):
    order = pairing(n)
    assert order.tolist() == taken_from(n)
    assert n == 1 or (order != torch.arange(n)).all()


@pytest.mark.parametrize("n", [4, 5])
def test_swap_exchanges_the_rectangle_alone(n):
    images, order, region = pixels(n)[0], pairing(n), Region(1, 3, 3, 4)
    before = images.clone()
    mixed = swap_region(images, region.scaled(STRIDE), order)
    assert torch.equal(images, before)
    assert torch.equal(mixed, loop_mix(images, region, taken_from(n)))
    back = swap_region(mixed, region.scaled(STRIDE), order.argsort())
    assert torch.equal(back, images)


# Losses.


@pytest.mark.parametrize(
    ("name", "n", "weight"),
    [("RegionCLM", 4, 1.0), ("RegionCLM", 3, 0.7), ("RegionCLD", 4, 1.0)],
)
def test_loss_gradient_and_queue_equal_the_loop(name, n, weight):
    model = trained_model(name, n, region_weight=weight)
    truth, region = copy.deepcopy(model), next_region(model)
    view, other = (x.double() for x in pixels(n, 9))
    losses = model([view, other], mode="loss")
    losses["loss_region"].backward()

    m, query = truth.target.momentum.end, dict(truth.named_parameters())
    with torch.no_grad():
        for key_name, key in truth.target.named_parameters():
            key.copy_(m * key + (1 - m) * query[key_name])
        maps = truth.target.backbone(other)[-1]
        k = normalize(truth.target.neck.mlp(maps.mean((2, 3))), dim=1)
        q = normalize(truth.neck.mlp(truth.backbone(view)[-1].mean((2, 3))), dim=1)
    queue, order = truth.compare.queue.keys, taken_from(n)
    instance = mean_info_nce(q, k, queue, TAU)
    maps = truth.backbone(loop_mix(view, region, order))[-1]
    c, pm = (normalize(truth.neck.mlp(x), dim=1) for x in loop_pool(maps, region))
    expected = weight * loop_region_loss(c, pm, k, queue, order)
    expected.backward()

    dense = {"raw_dense", "loss_dense"} if name == "RegionCLD" else set()
    names = {"loss_instance", "loss_region", "raw_instance", "raw_region"}
    assert losses.keys() == names | dense
    torch.testing.assert_close(losses["raw_region"] * weight, losses["loss_region"])
    torch.testing.assert_close(losses["raw_instance"], instance, rtol=1e-6, atol=0)
    torch.testing.assert_close(losses["loss_region"], expected, rtol=1e-6, atol=0)
    assert_same_gradients(model, truth, 1e-5)

    queue[2 * n : 3 * n] = k  # whole images of the unmixed view, nothing else
    torch.testing.assert_close(model.compare.queue.keys, queue, rtol=0, atol=1e-6)
    assert model.compare.queue.ptr.item() == 3 * n


def test_siamese_variant_predicts_the_other_view_of_each_part():
    n, weight = 3, 0.7
    model = trained_model("RegionCLS", n, region_weight=weight)
    truth, region = copy.deepcopy(model), next_region(model)
    view, other = (x.double() for x in pixels(n, 9))
    losses = model([view, other], mode="loss")
    total(losses).backward()

    def attraction(rows, targets):
        return -mean_cosine(truth.compare.predictor([rows])[0], targets.detach())

    order = taken_from(n)
    z1, z2 = (truth.neck(truth.backbone(x))[0] for x in (view, other))
    loss_instance = (attraction(z1, z2) + attraction(z2, z1)) / 2
    maps = truth.backbone(loop_mix(view, region, order))[-1]
    parts = torch.cat(loop_pool(maps, region))  # canvas and paste by mixed image
    rows = truth.neck((parts[:, :, None, None],))[0]
    loss_region = weight * attraction(rows, torch.cat([z2, z2[order]]))
    (loss_instance + loss_region).backward()
    names = {"loss_instance", "loss_region", "raw_instance", "raw_region"}
    assert losses.keys() == names
    torch.testing.assert_close(losses["raw_region"] * weight, losses["loss_region"])
    torch.testing.assert_close(losses["loss_instance"], loss_instance)
    torch.testing.assert_close(losses["loss_region"], loss_region)
    assert_same_gradients(model, truth, 1e-5)


BASES = {"RegionCLM": "MoCo", "RegionCLD": "DenseCL", "RegionCLS": "SimSiam"}


@pytest.mark.parametrize("name", BASES)
def test_weight_zero_is_the_base(name):
    models = build(name, region_weight=0), build(BASES[name])
    inputs = [views(6, seed) for seed in range(3)]
    pairs = [(model, sgd(model)) for model in models]
    one, two = ([step(m, x, optimizer) for x in inputs] for m, optimizer in pairs)
    assert one == two
    ours, theirs = (dict(model.state_dict()) for model in models)
    assert ours.pop("terms.region.sampler.steps").item() == 0
    assert_same(ours, theirs)


# Draws keyed by step and rank.


def draws(sampler, steps):
    return [sampler.draw(SIZE, SIZE) for _ in range(steps)]


def test_draw_follows_from_step_and_rank(monkeypatch):
    by_rank = {}
    for rank in (0, 1, 7):
        monkeypatch.setattr(region_module, "get_rank", lambda rank=rank: rank)
        by_rank[rank] = draws(RegionSampler(**REGION), 200)
    assert len(set(by_rank[0])) > 80
    for one, two in itertools.combinations(by_rank.values(), 2):
        assert sum(a == b for a, b in zip(one, two, strict=True)) < 12
        assert not any(one[s:] == two[:-s] for s in range(1, 50))  # nor shifted


def test_evaluation_does_not_advance_the_sequence():
    sampler = RegionSampler(**REGION)
    expected = draws(RegionSampler(**REGION), 6)
    ours = []
    for _ in range(6):
        sampler.eval()
        assert len(set(draws(sampler, 3))) == 1
        sampler.train()
        ours += draws(sampler, 1)
    assert ours == expected
    assert sampler.num_steps == sampler.steps.item() == 6


def test_no_step_touches_the_global_generators():
    model, inputs = region_model(), pixels(3)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()
    model(inputs, mode="loss")
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]


# What a user can get wrong.


@pytest.mark.parametrize(
    ("region", "size", "message"),
    [
        (REGION, 128, r"up to 5 x 5 cells .* into images of 128 x 128 .*cells lower"),
        (dict(cells=(1, 2)), 64, "something left around it"),
        (REGION, 240, "240 x 240 pixels are no whole number of cells of 32"),
        (dict(cells=(1, 1), stride=16), 64, r"set region\.stride to 32"),
        (dict(cells=(1, 1), stride=64), 128, r"set region\.stride to 32"),
    ],
)
def test_images_that_do_not_fit_are_refused(region, size, message):
    model = region_model(region=region)
    inputs = views(2, size=size)
    with pytest.raises(ValueError, match=message) as error:
        model(inputs, mode="loss")
    assert "\n" not in str(error.value) and str(error.value).endswith(".")
    before = copy.deepcopy(model.eval().state_dict())
    with pytest.raises(ValueError, match=message):
        model.check_inputs(inputs)
    assert_same(model.state_dict(), before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(region=dict(cells=(5, 3))), r"cells=\(5, 3\) must be the smallest"),
        (dict(region=dict(cells=(0, 3))), r"cells=\(0, 3\) must be the smallest"),
        (dict(region=dict(stride=0)), "stride=0 the positive number"),
        (dict(region_weight=-0.5), "region_weight=-0.5 must be 0 or more; 0 switches"),
    ],
)
def test_wrong_values_say_what_to_change(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        region_model(**changes)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


# Mixed precision, and what is drawn of the method.


def test_parts_are_summed_in_fp32():
    maps, region = torch.randn(4, 6, GRID, GRID).bfloat16(), Region(2, 0, 4, 5)
    parts, truths = pool_regions(maps, region), loop_pool(maps.double(), region)
    for ours, truth in zip(parts, truths, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", BASES)
def test_inspection_shows_the_next_swap(name):
    model, inputs = region_model(name), pixels(5)
    model(inputs, mode="loss")
    cells = next_region(model)
    model.eval()
    shown = model(inputs, mode="inspect")
    assert next_region(model) == cells
    assert set(shown) == {"mixed", "region", "order", "grid"}
    assert shown["region"] == tuple(STRIDE * value for value in cells)
    assert shown["grid"] == (GRID, GRID)
    assert shown["order"].tolist() == taken_from(5)
    assert torch.equal(shown["mixed"], loop_mix(inputs[0], cells, taken_from(5)))
    with pytest.raises(ValueError, match="takes 2 views"):
        model(inputs[:1], mode="inspect")
