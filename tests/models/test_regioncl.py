"""RegionCL: rectangles, pairs, losses; against loops over cells and queue entries."""

import copy
import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, normalize

from mmssl_ext.models.comparisons import QueueSoftmax
from mmssl_ext.models.layers import region as region_module
from mmssl_ext.models.layers.region import (
    Region,
    RegionSampler,
    pairing,
    pool_regions,
    swap_region,
)
from mmssl_ext.models.memory import KeyQueue
from mmssl_ext.models.terms import regions

from ..distributed import run_ranks
from .common import build, contrast, encode_key, encode_query, step, views

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


def total(losses):
    return sum(v for k, v in losses.items() if k.startswith("loss_"))


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


def loop_nce(q, negatives, k):
    logits = torch.stack([torch.dot(q, key) / TAU for key in [k, *negatives]])
    return -(logits[0].exp() / logits.exp().sum()).log()


def loop_region_loss(c, pm, k, queue, order):
    """Mean over 2N rows; c and pm are canvas and paste by MIXED image."""
    losses = []
    for i in range(len(c)):
        j = order.index(i)  # the mixed image that shows image i in its rectangle
        losses.append(loop_nce(c[i], [pm[i].detach(), *queue], k[i]))
        losses.append(loop_nce(pm[j], [c[j].detach(), *queue], k[i]))
    return sum(losses) / len(losses)


def relative_error(ours, truth):
    return float((ours - truth).norm() / truth.norm())


def assert_same_gradients(model, reference):
    truth = dict(reference.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert relative_error(parameter.grad, truth[name].grad) < 1e-5, name


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
    for axis in (2, 3):
        sides = Counter(draw[axis] for draw in counts.elements())
        assert all(abs(sides[s] - steps / 3) < 0.05 * steps / 3 for s in (3, 4, 5))
        ends = {draw[axis - 2] + draw[axis] for draw in counts}
        assert max(ends) == GRID and min(draw[axis - 2] for draw in counts) == 0


def test_an_oblong_image_keeps_its_axes():
    sampler = RegionSampler(cells=(3, 3))
    draws = {sampler.draw(3 * STRIDE, GRID * STRIDE) for _ in range(100)}
    assert draws == {Region(0, left, 3, 3) for left in range(5)}


def test_pixels_are_the_cells_times_the_stride():
    """Pooling the marked pixels by cell gives the marked cells, for every draw."""
    sampler, seen = RegionSampler(**REGION), set()
    while len(seen) < 144:
        region = sampler.draw(SIZE, SIZE)
        if region in seen:
            continue
        seen.add(region)
        area = region.scaled(STRIDE)
        assert area == tuple(32 * value for value in region)
        assert min(area[:2]) >= 0 and area.top + area.height <= SIZE
        assert area.left + area.width <= SIZE
        marked = torch.zeros(1, 1, SIZE, SIZE)
        marked[area.window] = 1
        truth = torch.tensor([float(inside(region, cell)) for cell in CELLS])
        assert torch.equal(avg_pool2d(marked, STRIDE).flatten(), truth)


def test_parts_cover_the_map_once():
    """A map with a channel per cell shows the weight that each part gives to it."""
    one_hot = torch.eye(49).view(1, 49, GRID, GRID)
    sampler = RegionSampler(**REGION)
    for _ in range(50):
        region = sampler.draw(SIZE, SIZE)
        canvas, paste = pool_regions(one_hot, region)
        area = region.height * region.width
        assert 9 <= area <= 25
        truth = torch.tensor([[float(inside(region, cell)) for cell in CELLS]])
        torch.testing.assert_close(area * paste, truth)
        torch.testing.assert_close((49 - area) * canvas, 1 - truth)


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


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 9])
def test_nobody_is_paired_with_itself(n):
    order = pairing(n)
    assert order.tolist() == taken_from(n)
    assert sorted(order.tolist()) == list(range(n))
    assert n == 1 or (order != torch.arange(n)).all()
    inverse = order.argsort()
    assert order[inverse].tolist() == inverse[order].tolist() == list(range(n))


@pytest.mark.parametrize("n", [4, 5])
def test_swap_exchanges_the_rectangle_alone(n):
    images, order, region = pixels(n)[0], pairing(n), Region(1, 3, 3, 4)
    before = images.clone()
    mixed = swap_region(images, region.scaled(STRIDE), order)
    assert torch.equal(images, before)
    assert torch.equal(mixed, loop_mix(images, region, taken_from(n)))
    again = swap_region(mixed, region.scaled(STRIDE), order)
    assert torch.equal(again, images) is (n == 4)  # a roll is no involution
    back = swap_region(mixed, region.scaled(STRIDE), order.argsort())
    assert torch.equal(back, images)


class PixelMeans(nn.Module):
    """A backbone of stride 32 that copies the mean colour of every cell."""

    def forward(self, images):
        return (avg_pool2d(images, STRIDE),)


class LinearNeck(nn.Module):
    """The global mean through a matrix."""

    def __init__(self):
        super().__init__()
        self.register_buffer("matrix", torch.randn(3, 16))

    def forward(self, maps):
        return (maps[-1].mean((2, 3)) @ self.matrix,)


def transparent_model():
    model = region_model()
    model.backbone, model.neck = PixelMeans(), LinearNeck()
    return model


@pytest.mark.parametrize("n", [1, 4, 5])
def test_parts_come_back_to_their_own_image(n):
    """Row i depends on image i only: the paste inside the rectangle, the canvas out."""
    model, view = transparent_model(), pixels(n)[0].requires_grad_()
    region = next_region(model)
    parts = model.terms.region.look(model, 0, view)
    window = region.scaled(STRIDE).window
    for i in range(n):
        area = torch.zeros(SIZE, SIZE)
        area[window[1:]] = 1
        for name, mask in (("canvas", 1 - area), ("paste", area)):
            mean = (view[i].detach() * mask).sum((1, 2)) / mask.sum()
            torch.testing.assert_close(parts[name][i], mean @ model.neck.matrix)
            (grad,) = torch.autograd.grad(parts[name][i].sum(), view, retain_graph=True)
            touched = torch.zeros(n, SIZE, SIZE)
            touched[i] = mask
            assert torch.equal((grad.abs().sum(1) > 0).float(), touched)
    assert parts["order"].tolist() == taken_from(n)
    assert parts["order"][parts["inverse"]].tolist() == list(range(n))


def test_an_image_paired_with_itself_shows_two_parts_of_itself(monkeypatch):
    monkeypatch.setattr(regions, "pairing", lambda n, device: torch.arange(n))
    model, (view, other) = region_model().double().eval(), pixels(4)
    view, other = view.double(), other.double()
    region = next_region(model)
    assert torch.equal(model.terms.region.swap(view)[0], view)
    with torch.no_grad():
        query, key = encode_query(model, view), encode_key(model, other)
        loss = contrast(model, query, key)["loss_region"]
        maps = model.backbone(view)[-1]
        c, p = (
            normalize(model.neck((x[:, :, None, None],))[0], dim=1)
            for x in loop_pool(maps, region)
        )
    k, queue = key["embedding"].double(), model.compare.queue.keys
    truth = loop_region_loss(c, p, k, queue, order=[0, 1, 2, 3])
    torch.testing.assert_close(loss, truth, rtol=1e-5, atol=1e-6)


# Losses.


def queue_loss(q, k, queue, negatives):
    """As MoCo compares, against this queue."""
    compare = QueueSoftmax(TAU, len(queue))
    compare.queue = KeyQueue(*queue.shape)
    compare.queue.keys = queue
    return compare.pair(q, k, negatives)


def test_head_with_a_negative_of_its_own_by_hand():
    q, k, n = ([0.6, 0.8], [0.8, 0.6], [1.0, 0.0])  # logits 4.8, 3 | 3, 4
    q, k, n = (torch.tensor([x], dtype=torch.float64) for x in (q, k, n))
    queue = torch.eye(2, dtype=torch.float64)
    loss = queue_loss(q, k, queue, n)
    assert loss.item() == pytest.approx(
        math.log(1 + 2 * math.exp(-1.8) + math.exp(-0.8))
    )
    assert loss.item() == pytest.approx(0.576572, abs=1e-6)


def test_head_counts_k_plus_2_columns():
    same = torch.eye(1, 16).expand(3, 16)
    loss = queue_loss(same, same, same[:1].expand(64, 16), same)
    assert loss.item() == pytest.approx(math.log(66), abs=1e-6)


def test_head_gradcheck_with_negatives():
    rows = torch.randn(3, 5, 16, dtype=torch.float64)
    queue, *rows = (normalize(x, dim=1) for x in [torch.randn(40, 16).double(), *rows])
    leaves = [x.requires_grad_() for x in rows]
    assert torch.autograd.gradcheck(
        lambda q, k, n: queue_loss(q, k, queue, n), tuple(leaves)
    )
    truth = [loop_nce(q, [n, *queue], k) for q, k, n in zip(*leaves, strict=True)]
    ours = queue_loss(*leaves[:2], queue, leaves[2])
    torch.testing.assert_close(ours, torch.stack(truth).mean())


@pytest.mark.parametrize(("n", "weight"), [(4, 1.0), (5, 0.7)])
def test_loss_gradient_and_queue_equal_the_loop(n, weight):
    model = trained_model("RegionCLM", n, region_weight=weight)
    truth, region = copy.deepcopy(model), next_region(model)
    view, other = (x.double() for x in pixels(n, 9))
    losses = model([view, other], mode="loss")
    (losses["loss_instance"] + losses["loss_region"]).backward()

    m, query = truth.target.momentum.end, dict(truth.named_parameters())
    with torch.no_grad():
        for name, key in truth.target.named_parameters():
            key.copy_(m * key + (1 - m) * query[name])
        k = truth.target.neck(truth.target.backbone(other))[0]
        k = normalize(k, dim=1)
    queue, order = truth.compare.queue.keys, taken_from(n)
    q = normalize(truth.neck(truth.backbone(view))[0], dim=1)
    loss_instance = sum(loop_nce(q[i], queue, k[i]) for i in range(n)) / n
    maps = truth.backbone(loop_mix(view, region, order))[-1]
    c, pm = (normalize(truth.neck.mlp(x), dim=1) for x in loop_pool(maps, region))
    loss_region = weight * loop_region_loss(c, pm, k, queue, order)
    (loss_instance + loss_region).backward()

    names = {"loss_instance", "loss_region", "raw_instance", "raw_region"}
    assert losses.keys() == names
    torch.testing.assert_close(losses["raw_region"] * weight, losses["loss_region"])
    torch.testing.assert_close(
        losses["loss_instance"], loss_instance, rtol=1e-6, atol=0
    )
    torch.testing.assert_close(losses["loss_region"], loss_region, rtol=1e-6, atol=0)
    assert_same_gradients(model, truth)

    queue[2 * n : 3 * n] = k  # whole images of the unmixed view, nothing else
    torch.testing.assert_close(model.compare.queue.keys, queue, rtol=0, atol=1e-6)
    assert model.compare.queue.ptr.item() == 3 * n


def test_the_other_part_is_a_constant():
    """Canvases learn from their own rows of the loss alone, and so do pastes."""
    model, order = region_model(), pairing(5)
    queue, inverse = model.compare.queue.keys, order.argsort()
    k, c, p = (torch.randn(5, 16) for _ in range(3))
    query = {"embedding": k, "canvas": c.requires_grad_(), "paste": p.requires_grad_()}
    query |= {"order": order, "inverse": inverse}
    k = normalize(k, dim=1)
    loss = contrast(model, query, {"embedding": k})["loss_region"]
    ours = torch.autograd.grad(loss, [c, p])
    c_unit, p_unit = normalize(c, dim=1), normalize(p, dim=1)
    for part, unit, other, grad in (
        (c, c_unit, p_unit[order].detach(), ours[0]),
        (p, p_unit, c_unit[inverse].detach(), ours[1]),
    ):
        rows = [loop_nce(unit[i], [other[i], *queue], k[i]) for i in range(5)]
        (truth,) = torch.autograd.grad(sum(rows) / 10, part)
        torch.testing.assert_close(grad, truth)


def test_random_parts_start_at_the_known_value():
    model = region_model(
        queue_len=65536,
        neck=dict(type="MoCoV2Neck", in_channels=64, hid_channels=8, out_channels=128),
    )
    q, c, p, k = (normalize(torch.randn(256, 128), dim=1) for _ in range(4))
    order = pairing(256)
    query = {"embedding": q, "canvas": c, "paste": p, "order": order, "inverse": order}
    losses = contrast(model, query, {"embedding": k})
    for name in ("loss_instance", "loss_region"):
        assert losses[name].item() == pytest.approx(11.19, abs=0.05), name
    assert math.log(65537) == pytest.approx(11.09, abs=0.005)


def test_permuted_images_permute_the_parts(monkeypatch):
    """In eval mode, with the pairs permuted alike; pairs that are no involution."""
    model = region_model().eval()
    (view, other), generator = pixels(6), torch.Generator().manual_seed(0)
    order = torch.tensor([2, 0, 4, 5, 1, 3])
    new = torch.randperm(6, generator=generator)  # image new[i] comes to place i
    place = new.argsort()
    results = []
    for images, pairs in (
        ((view, other), order),
        ((view[new], other[new]), place[order[new]]),
    ):
        monkeypatch.setattr(regions, "pairing", lambda *_, pairs=pairs: pairs)
        twin = copy.deepcopy(model)
        query = encode_query(twin, images[0])
        losses = contrast(twin, query, encode_key(twin, images[1]))
        results.append((query, losses))
    (one, losses), (two, same) = results
    for name in ("canvas", "paste", "embedding"):
        torch.testing.assert_close(two[name], one[name][new], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(two[name], one[name], rtol=1e-2)
    torch.testing.assert_close(losses, same)


def test_dense_variant_adds_the_region_loss_of_the_global_head():
    model, twin = trained_model("RegionCLD", 4), build("DenseCL").double()
    state = model.state_dict()
    del state["terms.region.sampler.steps"]
    twin.load_state_dict(state)
    truth, region = copy.deepcopy(model), next_region(model)
    view, other = (x.double() for x in pixels(4, 9))
    losses, base = (m([view, other], mode="loss") for m in (model, twin))

    # Batch statistics move only the running ones, so the base's losses are the same.
    assert losses.keys() == base.keys() | {"loss_region", "raw_region"}
    assert all(torch.equal(losses[name], base[name]) for name in base)
    half = (base["raw_instance"] + base["raw_dense"]) / 2
    torch.testing.assert_close(losses["loss_instance"] + losses["loss_dense"], half)

    order, k = taken_from(4), model.last_embeddings["key"].double()
    maps = truth.backbone(loop_mix(view, region, order))[-1]
    c, pm = (normalize(truth.neck.mlp(x), dim=1) for x in loop_pool(maps, region))
    expected = loop_region_loss(c, pm, k, truth.compare.queue.keys, order)
    torch.testing.assert_close(losses["loss_region"], expected, rtol=1e-6, atol=0)
    losses["loss_region"].backward()
    expected.backward()
    for part in ("backbone", "neck.mlp"):
        assert_same_gradients(model.get_submodule(part), truth.get_submodule(part))
    for queue in ("compare.queue", "terms.dense.queue"):
        assert torch.equal(*(m.get_submodule(queue).keys for m in (model, twin)))


@pytest.mark.parametrize(("n", "weight"), [(4, 1.0), (5, 0.7)])
def test_siamese_variant_predicts_the_other_view_of_each_part(n, weight):
    model = trained_model("RegionCLS", n, region_weight=weight)
    truth, region = copy.deepcopy(model), next_region(model)
    view, other = (x.double() for x in pixels(n, 9))
    losses = model([view, other], mode="loss")
    total(losses).backward()

    def attraction(rows, targets):
        """Negative cosines of predictions and constants, row by row."""
        predictions = truth.compare.predictor([rows])[0]
        cosines = [
            torch.dot(p, t) / (p.norm() * t.norm())
            for p, t in zip(predictions, targets.detach(), strict=True)
        ]
        return -sum(cosines) / len(cosines)

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
    assert_same_gradients(model, truth)


BASES = {"RegionCLM": "MoCo", "RegionCLD": "DenseCL", "RegionCLS": "SimSiam"}


@pytest.mark.parametrize("name", BASES)
def test_weight_zero_is_the_base(name):
    models = build(name, region_weight=0), build(BASES[name])
    history = []
    for model in models:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        history.append([step(model, views(6, seed), optimizer) for seed in range(3)])
    assert history[0] == history[1]
    ours, theirs = (model.state_dict() for model in models)
    assert ours.pop("terms.region.sampler.steps").item() == 0
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert torch.equal(value, ours[key]), key


def test_mixed_images_have_a_forward_of_their_own():
    model = region_model()
    model(pixels(4), mode="loss")  # also makes the key encoder an exact copy
    norms = [m for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    keys = [m for m in model.target.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [[int(m.num_batches_tracked) for m in ms] for ms in (norms, keys)]
    model(pixels(4, 1), mode="loss")
    for modules, counts, passes in zip((norms, keys), before, (2, 1), strict=True):
        after = [int(m.num_batches_tracked) for m in modules]
        assert after == [count + passes for count in counts]


# Draws keyed by step and rank.


def draws(sampler, steps):
    return [sampler.draw(SIZE, SIZE) for _ in range(steps)]


def draw_on_a_rank(rank):
    torch.manual_seed(rank)
    sampled = [tuple(draw) for draw in draws(RegionSampler(**REGION), 40)]
    model, inputs = region_model(), pixels(4)
    for _ in range(2):
        model([x.chunk(2)[rank] for x in inputs], mode="loss")
    key = model.last_embeddings["key"]
    return sampled, key, model.compare.queue.state_dict()


def test_ranks_draw_apart_and_fill_one_queue():
    ranks = run_ranks(draw_on_a_rank, 2)
    (first, *_), (second, *_) = ranks
    assert sum(a == b for a, b in zip(first, second, strict=True)) <= 4
    assert first == draws(RegionSampler(**REGION), 40)  # whatever the seed
    keys = torch.cat([key for _, key, _ in ranks])
    for _, _, queue in ranks:
        assert queue["ptr"].item() == 8
        assert torch.equal(queue["keys"][4:8], keys)


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


def test_a_restored_model_continues_the_sequence():
    model, restored = region_model(), region_model(seed=1)
    for seed in range(3):
        model(pixels(2, seed), mode="loss")
    assert model.terms.region.sampler.num_steps == 3
    restored.load_state_dict(model.state_dict())
    assert draws(restored.terms.region.sampler, 5) == draws(
        model.terms.region.sampler, 5
    )
    assert draws(RegionSampler(**REGION), 8)[3:] == draws(
        model_at(3).terms.region.sampler, 5
    )


def model_at(num_steps):
    model = region_model()
    state = model.state_dict() | {
        "terms.region.sampler.steps": torch.tensor([num_steps])
    }
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("name", ["RegionCLM", "RegionCLS"])
def test_no_step_touches_the_global_generators(name):
    model, inputs = region_model(name), pixels(3)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()
    model(inputs, mode="loss")
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]


# What a user can get wrong.


def buffers(model):
    state = {name: value.clone() for name, value in model.state_dict().items()}
    return state, model.terms.region.sampler.num_steps


def assert_unchanged(model, before):
    state, num_steps = before
    assert model.terms.region.sampler.num_steps == num_steps
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize(
    ("region", "size", "message"),
    [
        (REGION, 128, r"up to 5 x 5 cells .* into images of 128 x 128 .*cells lower"),
        (dict(cells=(1, 2)), 64, "something left around it"),
        (REGION, 240, "240 x 240 pixels are no whole number of cells of 32"),
        (dict(cells=(1, 1), stride=16), 64, r"set region\.stride to 32"),
        (dict(cells=(1, 1), stride=64), 128, r"set region\.stride to 32"),
        (dict(cells=(1, 1), stride=16), 48, r"set region\.stride to 32"),
    ],
)
def test_images_that_do_not_fit_are_refused(name, region, size, message):
    model = region_model(name, region=region)
    inputs = views(2, size=size)
    with pytest.raises(ValueError, match=message) as error:
        model(inputs, mode="loss")
    assert "\n" not in str(error.value) and str(error.value).endswith(".")
    model.eval()
    before = buffers(model)
    with pytest.raises(ValueError, match=message):
        model.check_inputs(inputs)
    assert_unchanged(model, before)


@pytest.mark.parametrize("name", BASES)
def test_a_check_of_good_images_changes_nothing(name):
    model = region_model(name)
    model(pixels(2), mode="loss")
    model.eval()
    before = buffers(model)
    model.check_inputs(pixels(1))
    assert_unchanged(model, before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(region=dict(cells=(5, 3))), r"cells=\(5, 3\) must be the smallest"),
        (dict(region=dict(cells=(0, 3))), r"cells=\(0, 3\) must be the smallest"),
        (dict(region=dict(cells=(3,))), r"cells=\(3,\) must be the smallest"),
        (dict(region=dict(stride=0)), "stride=0 the positive number"),
        (dict(region_weight=-0.5), "region_weight=-0.5 must be 0 or more; 0 switches"),
        (dict(region_weight=math.nan), "region_weight=nan"),
    ],
)
def test_wrong_values_say_what_to_change(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        region_model(**changes)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


# Mixed precision, and what is drawn of the method.


def test_parts_are_summed_in_fp32(monkeypatch):
    model, inputs, seen = region_model(), pixels(4), []

    def spy(maps, region):
        parts = pool_regions(maps, region)
        seen.append((maps, region, parts))
        return parts

    monkeypatch.setattr(regions, "pool_regions", spy)
    twin = copy.deepcopy(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(inputs, mode="loss")
    ((maps, region, parts),) = seen
    assert maps.dtype == torch.bfloat16
    for ours, truth in zip(parts, loop_pool(maps.double(), region), strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), truth, rtol=1e-5, atol=1e-5)
    exact = twin(inputs, mode="loss")
    for name, value in losses.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact[name], rtol=0.02, atol=0)
    total(losses).backward()
    grads = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(torch.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize("name", BASES)
def test_inspection_shows_the_next_swap(name):
    model, inputs = region_model(name), pixels(5)
    model(inputs, mode="loss")
    cells = next_region(model)
    model.eval()
    before = buffers(model)
    shown = model(inputs, mode="inspect")
    assert_unchanged(model, before)
    assert set(shown) == {"mixed", "region", "order", "grid"}
    assert shown["region"] == tuple(STRIDE * value for value in cells)
    assert shown["grid"] == (GRID, GRID)
    assert shown["order"].tolist() == taken_from(5)
    assert torch.equal(shown["mixed"], loop_mix(inputs[0], cells, taken_from(5)))
    with pytest.raises(ValueError, match="takes 2 views"):
        model(inputs[:1], mode="inspect")
