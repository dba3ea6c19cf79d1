"""Negatives of a query: by definition, by distribution, and where there are few."""

from collections import Counter
from functools import partial
from itertools import combinations
from math import sqrt

import pytest
import torch
from scipy import stats
from torch.nn.functional import normalize

from mmssl_ext.models.memory import (
    EasyNegatives,
    FeatureBank,
    HardNegatives,
    OnlineLabels,
    PseudoLabels,
    RandomNegatives,
    SemiHardNegatives,
)
from mmssl_ext.models.memory.negatives import kth_largest

from ..harness import assert_same
from . import loops

POOLED = (SemiHardNegatives, EasyNegatives)
STRATEGIES = (RandomNegatives, HardNegatives, *POOLED)
NOBODY = -1  # a cluster without images: all of the bank is foreign

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)
pooled = pytest.mark.parametrize("strategy", POOLED)


unit = partial(loops.unit, dtype=torch.float)


def make(strategy, num, pool, **options):
    """A sampler; the strategies without a pool take none."""
    return strategy(num, pool, **options) if strategy in POOLED else strategy(num)


def memory(images, clusters, dim=8, dtype="float32", seed=0):
    """A bank of random features under labels that take turns."""
    bank, labels = FeatureBank(dim, dtype=dtype), PseudoLabels(clusters)
    bank.fill(unit(images, dim, seed=seed))
    labels.labels = (torch.arange(images) % clusters).int()
    return bank, labels


def draw(sampler, q, own, memory, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return sampler.draw(q, torch.as_tensor(own), *memory, generator)


def rows_of(found):
    """The negatives of every query, in the order in which they were tried."""
    return [found.rows[mask].tolist() for mask in found.mask]


def suitable(strategy, q, own, memory, num, pool):
    """Rows that may be negatives of one query, nearest first, image by image."""
    bank, labels = memory[0].features.tolist(), memory[1].labels.tolist()
    similarity = [loops.dot(q.tolist(), image) for image in bank]
    ranked = sorted(range(len(bank)), key=lambda row: -similarity[row])
    if strategy is SemiHardNegatives:
        ranked = ranked[:pool]
    if strategy is EasyNegatives:
        ranked = ranked[len(bank) - pool :]
    foreign = [row for row in ranked if labels[row] != own]
    return foreign[:num] if strategy is HardNegatives else foreign


@pytest.mark.parametrize(
    ("images", "clusters", "num", "pool", "dtype"),
    [
        (60, 5, 7, 25, "float32"),
        (60, 2, 25, 30, "float16"),
        (60, 5, 40, 40, "bfloat16"),
        (400, 20, 2, 100, "float16"),
    ],
    ids=["enough", "too few in some pools", "whole pool", "few of many images tried"],
)
@every_strategy
def test_a_draw_takes_the_first_that_suit(strategy, images, clusters, num, pool, dtype):
    world = bank, labels = memory(images, clusters, dtype=dtype)
    sampler, own = make(strategy, num, pool), [0, 1, 1, 0, NOBODY]
    for seed in range(4):
        q = unit(5, 8, seed=10 + seed)
        found = draw(sampler, q, own, world, seed)
        order = list(dict.fromkeys(found.rows.tolist()))
        few = images == 400 and strategy is not HardNegatives
        assert len(order) < images / 2 if few else len(order) == images
        assert found.features.dtype == found.similarity.dtype == torch.float32
        assert torch.equal(found.features, bank.features[found.rows].float())
        torch.testing.assert_close(found.similarity, q @ found.features.T)
        for n, rows in enumerate(rows_of(found)):
            suits = suitable(strategy, q[n], own[n], world, num, pool)
            assert rows == [row for row in order if row in suits][:num]
            assert len(rows) == min(num, len(suits))
            assert own[n] not in labels.labels[rows]


@pytest.mark.parametrize("strategy", [RandomNegatives, *POOLED])
def test_every_choice_is_equally_likely(strategy):
    """Two of the few that suit: a chi-square over all pairs, for every query."""
    world = memory(12, 3, dim=4)
    q, own, trials = unit(3, 4, seed=1), [0, 1, NOBODY], 1500
    sampler, seen = make(strategy, 2, 6), [Counter() for _ in q]
    generator = torch.Generator().manual_seed(0)
    for _ in range(trials):
        found = sampler.draw(q, torch.tensor(own), *world, generator)
        for counter, rows in zip(seen, rows_of(found), strict=True):
            counter[frozenset(rows)] += 1
    for n, counter in enumerate(seen):
        suits = suitable(strategy, q[n], own[n], world, 2, 6)
        pairs = [frozenset(pair) for pair in combinations(suits, 2)]
        assert len(pairs) >= 3 and counter.keys() <= set(pairs)
        assert stats.chisquare([counter[pair] for pair in pairs]).pvalue > 1e-3


def frequencies(sampler, q, world, trials):
    """How often every image is a negative of every query."""
    counts = torch.zeros(len(q), len(world[0]))
    generator = torch.Generator().manual_seed(0)
    for _ in range(trials):
        found = sampler.draw(q, torch.full([len(q)], NOBODY), *world, generator)
        counts.index_add_(1, found.rows, found.mask.float())
    return counts


@pooled
def test_an_estimated_pool_has_a_soft_edge(strategy):
    """Uniform over the ranks within the pool; the edge as of a random sample.

    The image of rank r is in the estimated pool when fewer than ``place`` of the other
    candidates come before it: a binomial probability.
    """
    images, num, pool, trials = 20_000, 16, 2000, 1000
    world, q = memory(images, 400), unit(2, 8, seed=1)
    sampler = strategy(num, pool, exact=False)
    tried = sampler.num_candidates(images, 400)
    assert tried < images / 30
    counts = frequencies(sampler, q, world, trials)
    assert counts.sum(1).tolist() == [num * trials] * 2

    place = round(pool * tried / images)
    inside = stats.binom.cdf(place - 1, tried - 1, torch.arange(images) / images)
    expected = torch.tensor(num * trials * inside / inside.sum())
    sign = 1 if strategy is SemiHardNegatives else -1
    ranks = (sign * q @ world[0].features.T).argsort(dim=1, descending=True)
    width = pool // 20
    for count, order in zip(counts, ranks, strict=True):
        profile = count[order]
        seen = profile[: 2 * pool].view(-1, width).sum(1)
        hoped = expected[: 2 * pool].view(-1, width).sum(1)
        fair = hoped > 5
        assert 20 < fair.sum() < 35  # both sides of the edge
        statistic = ((seen - hoped) ** 2 / hoped)[fair].sum()
        assert stats.chi2.sf(float(statistic), int(fair.sum()) - 1) > 1e-3
        flat = int(pool * (1 - 2 / sqrt(num)))
        assert stats.chisquare(profile[:flat].view(-1, width).sum(1)).pvalue > 1e-3
        assert profile[int(pool * (1 + 4 / sqrt(num))) :].sum() == 0


@pytest.mark.parametrize("strategy", [RandomNegatives, SemiHardNegatives])
def test_a_query_practically_never_falls_short(strategy):
    """Random features under their own k-means, which fills pools with own images."""
    bank, labels = FeatureBank(16), OnlineLabels(40, num_iters=5)
    bank.fill(torch.randn(5000, 16))
    labels.start(bank)
    sampler = make(strategy, 60, 500)
    for seed in range(20):
        images = torch.randperm(5000)[:64]
        q = normalize(bank.read(images) + 0.1 * torch.randn(64, 16), dim=1)
        found = draw(sampler, q, labels.labels[images], (bank, labels), seed)
        assert len(found.rows) < 5000 and (found.mask.sum(1) == 60).all()


def test_no_more_images_are_tried_than_the_number_needs():
    sampler = SemiHardNegatives()
    tried = sampler.num_candidates(1_281_167, 10_000)
    needed = 16_384 / 128_000 * 1_281_167
    assert needed < tried < 1.1 * needed
    assert RandomNegatives().num_candidates(1_281_167, 10_000) < 1.1 * 16_384


@pytest.mark.parametrize(
    ("num", "pool", "images", "sizes"),
    [
        (16_384, 128_000, 1_281_167, (16_384, 128_000)),
        (0.013, 0.1, 50_000, (650, 5000)),
        (16_384, 128_000, 100, (100, 100)),
        (10, 0.5, 8, (4, 4)),
        (0.5, 3, 100, (3, 3)),
        (1.0, 1.0, 7, (7, 7)),
        (0.001, 0.001, 10, (1, 1)),
    ],
)
def test_numbers_and_shares_fit_any_bank(num, pool, images, sizes):
    for strategy in POOLED:
        sampler = strategy(num, pool)
        assert sampler.sizes(images) == sizes
        assert 1 <= sampler.num_candidates(images, 1) <= images
    for strategy in (RandomNegatives, HardNegatives):
        assert strategy(num).sizes(images)[1] == images
    assert RandomNegatives(num).sizes(images)[0] >= sizes[0]


@pooled
def test_a_pool_that_is_no_choice_is_told(strategy):
    for images in (128_000, 50_000, 2):
        advice = strategy().advice(images)
        assert advice.startswith(f"{strategy.__name__}: a pool of 128000 holds all")
        assert f"all {images} images" in advice and "negatives.pool=0.1" in advice
    assert strategy().advice(128_001) is None
    assert strategy(0.013, 0.1).advice(50) is None
    assert strategy().advice(1) is None  # no choice by any recipe
    assert RandomNegatives().advice(50) is HardNegatives().advice(50) is None


@pytest.mark.parametrize("images", [1, 30])
@every_strategy
def test_one_cluster_has_no_negatives(strategy, images):
    for num, pool in ((5, 10), (0.2, 0.5)):
        found = draw(
            make(strategy, num, pool), unit(3, 8), [0, 0, 0], memory(images, 1)
        )
        assert not found.mask.any()
        assert torch.isfinite(found.similarity).all()


@every_strategy
def test_draws_follow_from_their_generator_alone(strategy):
    world, sampler, q = memory(60, 5), make(strategy, 7, 25), unit(4, 8, seed=1)
    first, other = (draw(sampler, q, [0, 1, 2, 3], world, seed) for seed in (1, 2))
    torch.rand(3)  # as others do in between
    before = torch.get_rng_state()
    assert_same(draw(sampler, q, [0, 1, 2, 3], world, seed=1), first)
    assert torch.equal(torch.get_rng_state(), before)
    pairs = zip(rows_of(first), rows_of(other), strict=True)
    same = [set(x) == set(y) for x, y in pairs]
    assert all(same) if strategy is HardNegatives else not any(same)


def test_half_precision_training_draws_the_same():
    world, sampler, q = memory(400, 20), SemiHardNegatives(2, 100), unit(4, 8, seed=1)
    plain = draw(sampler, q, [0, 1, 2, 3], world)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(draw(sampler, q, [0, 1, 2, 3], world), plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kth_largest_equals_a_sort(dtype):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    values = torch.stack(
        [
            torch.randn(23),
            torch.randint(4, (23,)).float(),  # ties
            torch.where(torch.rand(23) < 0.6, -torch.inf, torch.randn(23)),
            torch.full((23,), -torch.inf),
        ]
    ).to(device, dtype)
    rows = [sorted(row, reverse=True) for row in values.tolist()]
    for k in range(1, 24):
        found = kth_largest(values.clone(), k)
        assert found.shape == (4, 1) and found.dtype == dtype
        assert found[:, 0].tolist() == [row[k - 1] for row in rows]


@pytest.mark.parametrize(
    ("num", "pool", "message"),
    [
        (0, 10, "num=0 must be a number of images"),
        (1.5, 10, "num=1.5 must be .* share"),
        (float("nan"), 10, "num=nan must be"),
        (5, 0, "pool=0 must be"),
        (11, 10, "num=11 images cannot be drawn from a pool of pool=10"),
        (0.2, 0.1, "num=0.2 .* pool=0.1"),
    ],
)
@pooled
def test_wrong_numbers_say_what_to_change(strategy, num, pool, message):
    with pytest.raises(ValueError, match=message):
        strategy(num, pool)
    if message.startswith("num") and pool == 10 and num != 11:
        with pytest.raises(ValueError, match=message):
            RandomNegatives(num)
