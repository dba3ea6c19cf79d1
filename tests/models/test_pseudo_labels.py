"""Clusterings, and pseudo-labels that follow the network: by definition, in loops."""

from collections import Counter
from copy import deepcopy
from functools import partial
from itertools import permutations
from math import sqrt

import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn.functional import normalize

from mmssl_ext.models.memory import (
    FeatureBank,
    OfflineLabels,
    OnlineLabels,
    PseudoLabels,
    kmeans,
    pseudo_labels,
)
from mmssl_ext.models.memory.kmeans import (
    assign,
    cluster_sizes,
    cluster_sums,
    fill_empty,
    halve,
    means,
    plus_plus,
    spherical_kmeans,
)

from ..harness import assert_same
from . import loops
from .loops import dot

unit = partial(loops.unit, dtype=torch.float)


def blobs(images, dim, count, spread, seed=0):
    """Unit rows around ``count`` directions, in turns."""
    centres = unit(count, dim, seed=seed)[torch.arange(images) % count]
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(images, dim, generator=generator)
    return normalize(centres + spread / sqrt(dim) * noise, dim=1)


def distance(a, b):
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def mean(rows):
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def unit_row(row):
    norm = sqrt(dot(row, row))
    return [x / norm for x in row]


def best_of(row, centroids):
    return max(range(len(centroids)), key=lambda c: dot(row, centroids[c]))


# k-means


def slow_kmeans(rows, centroids, num_iters):
    """Spherical k-means in Python floats; an empty cluster takes the worst fit."""
    labels = None
    for _ in range(num_iters):
        new = [best_of(row, centroids) for row in rows]
        fit = [dot(row, centroids[c]) for row, c in zip(rows, new, strict=True)]
        keeps = {}  # the best image of every cluster stays
        for i, c in enumerate(new):
            if c not in keeps or fit[i] > fit[keeps[c]]:
                keeps[c] = i
        spare = sorted(set(range(len(rows))) - set(keeps.values()), key=fit.__getitem__)
        empty = [c for c in range(len(centroids)) if c not in keeps]
        for c, i in zip(empty, spare, strict=False):
            new[i] = c
        if new == labels:
            break
        labels = new
        members = [[] for _ in centroids]
        for row, c in zip(rows, labels, strict=True):
            members[c].append(row)
        centroids = [unit_row(mean(rows)) for rows in members]
    return labels


@pytest.mark.parametrize(
    ("dtype", "num_iters", "empty"),
    [(torch.float32, 50, 0), (torch.float16, 1, 3), (torch.bfloat16, 50, 3)],
)
def test_kmeans_equals_a_loop(dtype, num_iters, empty, monkeypatch):
    monkeypatch.setattr(kmeans, "_BLOCK_ROWS", 16)
    x = unit(90, 5).abs().to(dtype)
    start = x[:7].float()
    start[7 - empty :] *= -1  # nobody chooses these
    labels = spherical_kmeans(x, 7, num_iters, centroids=normalize(start, dim=1))
    expected = slow_kmeans(x.tolist(), normalize(start, dim=1).tolist(), num_iters)
    assert labels.tolist() == expected
    assert labels.dtype == torch.int32


def test_kmeans_reports_its_iterations_and_ends_when_nothing_changes():
    x, told = blobs(60, 4, 3, 0.2), []
    spherical_kmeans(x, 3, 30, progress=lambda *args: told.append(args))
    assert told == [(n + 1, 30) for n in range(len(told))]
    assert 2 <= len(told) < 30


def test_kmeans_follows_from_its_seed():
    x, labels = unit(200, 6), []
    for state in range(2):
        torch.manual_seed(state)
        before = torch.get_rng_state()
        labels.append([spherical_kmeans(x, 9, seed=n).tolist() for n in range(4)])
        assert torch.equal(torch.get_rng_state(), before)
    assert labels[0] == labels[1] and len(set(map(tuple, labels[0]))) == 4


def rows_of_few_values(images, values):
    return unit(values, 4)[torch.arange(images) % values]


@pytest.mark.parametrize(
    ("x", "count"),
    [
        (unit(1, 4), 1),
        (unit(30, 4), 30),
        (unit(200, 4), 150),  # the start draws several at once
        (rows_of_few_values(40, 1), 40),
        (rows_of_few_values(40, 3), 8),
    ],
    ids=lambda value: value if isinstance(value, int) else len(value),
)
def test_no_cluster_is_ever_empty(x, count):
    for dtype, num_iters in ((torch.float32, 1), (torch.bfloat16, 20)):
        for seed in range(3):
            labels = spherical_kmeans(x.to(dtype), count, num_iters, seed)
            assert set(labels.tolist()) == set(range(count))
            assert torch.equal(
                cluster_sizes(labels, count), torch.bincount(labels, minlength=count)
            )


def test_empty_clusters_take_the_worst_fits_but_nobodys_last_image():
    labels = torch.tensor([0, 0, 1, 0, 4], dtype=torch.int32)
    similarity = torch.tensor([0.8, 0.9, -0.5, 0.7, 0.1])
    filled = fill_empty(labels, similarity, 5)
    assert filled.tolist() == [3, 0, 1, 2, 4]
    assert labels.tolist() == [0, 0, 1, 0, 4]
    level = fill_empty(torch.zeros(6, dtype=torch.int32), torch.full((6,), 0.3), 6)
    assert sorted(level.tolist()) == list(range(6))


@pytest.mark.parametrize("count", [0, 31])
def test_more_clusters_than_images_are_refused(count):
    with pytest.raises(ValueError, match=f"{count} clusters .* of 30 images"):
        spherical_kmeans(unit(30, 4), count)


def test_start_is_drawn_in_proportion_to_the_distance():
    """All three draws: uniform; 1 - cos; 1 - the larger cos."""
    angles = torch.tensor([0.0, 0.7, 1.9, 3.5])
    x = torch.stack([angles.cos(), angles.sin()], dim=1)
    far = (1 - x @ x.T).tolist()
    expected = {}
    for a, b, c in permutations(range(4), 3):
        second = far[a][b] / sum(far[a])
        nearest = [min(far[a][i], far[b][i]) for i in range(4)]
        expected[a, b, c] = second * nearest[c] / sum(nearest) / 4
    total = 5000
    counts = Counter()
    for seed in range(total):
        found = plus_plus(x, 3, seed)
        counts[tuple((found @ x.T).argmax(1).tolist())] += 1
    assert set(counts) <= set(expected)
    observed = [counts[key] for key in expected]
    wanted = [total * p for p in expected.values()]
    assert min(wanted) > 5
    assert stats.chisquare(observed, wanted).pvalue > 1e-3


@pytest.mark.parametrize(("images", "count", "block"), [(300, 200, None), (300, 5, 8)])
def test_start_has_distinct_images(images, count, block, monkeypatch):
    if block:
        monkeypatch.setattr(kmeans, "_BLOCK_ROWS", block)
    x = unit(images, 4)
    for seed in range(5):
        start = plus_plus(x.half(), count, seed)
        assert start.shape == (count, 4) and start.dtype == torch.float32
        nearest = (start @ x.T).max(1)
        assert (nearest.values > 1 - 1e-3).all()
        assert len(set(nearest.indices.tolist())) == count


def exact_sums(x, labels, count):
    """Sums of the members of every cluster in whole 2^-30."""
    sums = [[0] * x.shape[1] for _ in range(count)]
    for row, c in zip(x.tolist(), labels.tolist(), strict=True):
        sums[c] = [s + round(v * 2**30) for s, v in zip(sums[c], row, strict=True)]
    return sums


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_sums_do_not_depend_on_the_order(dtype, monkeypatch):
    x, labels = unit(70, 6).to(dtype), torch.arange(70).int() % 5
    labels[labels == 3] = 4  # one is empty
    exact = exact_sums(x, labels, 5)
    for block in (65536, 16):
        monkeypatch.setattr(kmeans, "_BLOCK_ROWS", block)
        order = torch.randperm(70)
        sums = cluster_sums(x[order], labels[order], 5)
        assert sums.tolist() == exact
    sizes = cluster_sizes(labels, 5)
    assert sizes.tolist() == [14, 14, 14, 0, 28]
    for c in range(5):
        members = x[labels == c].double()
        plain = members.sum(0)
        error = (sums[c].double() / 2**30 - plain).abs().max()
        assert error <= 28 * 2.0**-31
        expected = (plain / max(1, len(members))).float()
        torch.testing.assert_close(
            means(sums, sizes)[c], expected, atol=2.0**-30, rtol=2.0**-23
        )


def test_images_are_assigned_in_blocks(monkeypatch):
    x, centroids = unit(50, 6), unit(8, 6, seed=1)
    for limit in (2**24, 100, 1):
        monkeypatch.setattr(kmeans, "_BLOCK_ELEMENTS", limit)
        labels, similarity = assign(x, centroids)
        for n, row in enumerate(x.tolist()):
            best = best_of(row, centroids.tolist())
            assert labels[n] == best
            assert abs(similarity[n] - dot(row, centroids[best].tolist())) < 1e-6


def slow_halves(rows):
    """2-means from the two far ends, in Python floats."""
    centre = mean(rows)
    first = max(rows, key=lambda row: distance(row, centre))
    second = max(rows, key=lambda row: distance(row, first))
    side = [False] * len(rows)
    for _ in range(20):
        before = side
        side = [distance(row, second) < distance(row, first) for row in rows]
        if side == before:
            break
        first = mean([r for r, far in zip(rows, side, strict=True) if not far])
        second = mean([r for r, far in zip(rows, side, strict=True) if far])
    return side


def test_halves_equal_a_loop():
    sizes = [2, 3, 4, 7, 12, 30, 2, 80]
    groups = torch.cat([torch.full((n,), g) for g, n in enumerate(sizes)])
    groups = groups[torch.randperm(len(groups))]
    x = unit(len(groups), 5)
    second = halve(x, groups, len(sizes))
    assert second.dtype == torch.bool
    for g in range(len(sizes)):
        assert second[groups == g].tolist() == slow_halves(x[groups == g].tolist())


@pytest.mark.parametrize("images", [2, 3, 8, 13])
def test_halves_of_equal_features(images):
    equal = unit(1, 6).expand(images, 6)
    side = halve(equal, torch.zeros(images, dtype=torch.long), 1)
    assert side.sum().item() == images // 2


# Labels


def memory(images, labels, dim=5, momentum=0.0, dtype="float32", given=None):
    """A bank of random rows and labels for it: by k-means, or as given."""
    bank = FeatureBank(dim, momentum, dtype)
    bank.fill(unit(images, dim))
    if given is None:
        labels.start(bank)
    else:
        labels.set_labels(torch.as_tensor(given), bank)
    return bank, labels


def members_of(labels):
    members = [[] for _ in range(labels.num_clusters)]
    for image, c in enumerate(labels.labels.tolist()):
        members[c].append(image)
    return members


def check_exact(labels, bank):
    """Sizes and sums are what anew they would be, to the last bit."""
    assert labels.sizes.tolist() == [len(images) for images in members_of(labels)]
    expected = exact_sums(bank.features, labels.labels, labels.num_clusters)
    assert labels.sums.tolist() == expected


def check_means(labels, bank):
    for c, images in enumerate(members_of(labels)):
        expected = torch.tensor(mean([bank.features[i].tolist() for i in images]))
        torch.testing.assert_close(
            labels.centroids[c], expected, atol=2.0**-29, rtol=2.0**-22
        )


def batch_of(step, images, dim, size=12):
    """Rows with repetitions, and features that crowd together."""
    generator = torch.Generator().manual_seed(step)
    rows = torch.randint(images, (size,), generator=generator)
    return rows, blobs(size, dim, 3, 1.0, seed=step // 10)


@pytest.mark.parametrize(
    ("dtype", "momentum"), [("float32", 0.0), ("float16", 0.5), ("bfloat16", 0.0)]
)
def test_online_labels_step_by_step(dtype, momentum):
    """Sheet, 7.6 to 7.8: every state of 60 steps, from the one before it."""
    interval, min_size = 3, 4
    labels = OnlineLabels(8, interval, min_size)
    bank, labels = memory(60, labels, 5, momentum, dtype)
    rebalanced, repeated, seen, changed = 0, 0, 0, 0
    for step in range(1, 61):
        rows, features = batch_of(step, 60, 5)
        centroids, before = labels.centroids.tolist(), labels.labels.tolist()
        kept = labels.centroids.clone()
        labels.update(bank.update(rows, features), bank)
        expected = list(before)
        for image in set(rows.tolist()):  # these alone
            expected[image] = best_of(bank.features[image].tolist(), centroids)
            seen += 1
            changed += expected[image] != before[image]
        repeated += len(rows) - len(set(rows.tolist()))
        check_exact(labels, bank)
        assert labels.visits.tolist() == [seen, changed]
        assert labels.num_steps == step
        if step % interval:
            assert labels.labels.tolist() == expected
            assert torch.equal(labels.centroids, kept)
            continue
        counts = Counter(expected)
        small = [c for c in range(8) if counts[c] < min_size]
        if not small:
            assert labels.labels.tolist() == expected
        else:
            rebalanced += 1
            large = [c for c in range(8) if c not in small]
            for image, c in enumerate(expected):
                own = int(labels.labels[image])
                assert c in small or own in (c, *small)
            assert all(labels.sizes[c] > 0 for c in large)
        assert labels.sizes.min() >= 1
        assert labels.sizes.sum() == 60
        check_means(labels, bank)
    assert 3 <= rebalanced < 20
    assert repeated > 20


def test_centroids_are_plain_means_of_their_members():
    """Sheet, 7.7, by hand: two members, one, none."""
    bank, labels = FeatureBank(2), OnlineLabels(3)
    bank.fill(torch.tensor([[0.6, 0.8], [1.0, 0.0], [0.0, -1.0]]))
    labels.set_labels(torch.tensor([0, 0, 1]), bank)
    labels.centroids = torch.tensor([[9.0, 9.0], [9.0, 9.0], [0.3, 0.4]])
    labels.update_centroids()
    torch.testing.assert_close(
        labels.centroids, torch.tensor([[0.8, 0.4], [0.0, -1.0], [0.3, 0.4]])
    )
    assert torch.equal(labels.centroids[1], bank.features[2])
    assert torch.equal(labels.centroids[2], torch.tensor([0.3, 0.4]))


def test_small_clusters_move_to_the_best_larger_one():
    """Sheet, 7.8; a loop says where to, and only that cluster may then be split."""
    given = torch.arange(150) % 5
    given[:3], given[given == 4] = torch.tensor([5, 5, 6]), 3
    given[10:14] = 4
    bank, labels = memory(150, OnlineLabels(8, min_size=5), given=given)
    small = {4, 5, 6, 7}  # of 4, 2, 1 and 0 images
    assert {c for c in range(8) if labels.sizes[c] < 5} == small
    centroids = labels.centroids.tolist()
    goal = given.tolist()
    for image, c in enumerate(goal):
        if c in small:
            row = bank.features[image].tolist()
            large = [k for k in range(8) if k not in small]
            goal[image] = max(large, key=lambda k: dot(row, centroids[k]))
    sizes = Counter(goal)
    assert len({goal[image] for image, c in enumerate(given) if int(c) in small}) > 1
    labels.rebalance(bank)
    check_exact(labels, bank)
    check_means(labels, bank)
    parts = {c: set() for c in sizes}
    for image, c in enumerate(labels.labels.tolist()):
        parts[goal[image]].add(c)
    owners = Counter(c for found in parts.values() for c in found)
    assert owners == Counter(range(8))  # each number holds a part of one, none is free
    for c, found in parts.items():
        assert found & {0, 1, 2, 3} == {c}
    assert len(parts[max(sizes, key=sizes.get)]) > 1
    assert labels.visits.tolist() == [0, 0]  # nobody looked at these images


@pytest.mark.parametrize("free", [1, 20, 64])
def test_largest_clusters_are_halved_one_after_the_other(free):
    """Many at once as the reference's one at a time; halves of halves, to the last."""
    sizes = [20, 37, 2, 9, 1]
    numbers = torch.randperm(5 + free)[:5].tolist()
    pairs = zip(numbers, sizes, strict=True)
    origin = torch.cat([torch.full((n,), c) for c, n in pairs])[torch.randperm(69)]
    bank, labels = FeatureBank(6), OnlineLabels(5 + free, min_size=1)
    bank.fill(unit(5 + free, 6)[origin])  # all of a cluster are equal
    labels.set_labels(origin, bank)
    labels.rebalance(bank)
    expected = sorted(sizes)
    for _ in range(free):
        largest = expected.pop()
        expected = sorted([*expected, largest // 2, largest - largest // 2])
    assert sorted(labels.sizes.tolist()) == expected
    for images in members_of(labels):
        assert len({int(origin[image]) for image in images}) == 1
    for image, c in enumerate(labels.labels.tolist()):
        assert c == origin[image] or c not in numbers  # one half keeps the number
    check_exact(labels, bank)
    check_means(labels, bank)


def test_repetitions_of_an_image_get_one_label():
    """Centroids that tie but for rounding, which differs by the place in the batch."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        bank, labels = memory(10, OnlineLabels(5), dim=37, given=torch.arange(10) % 5)
        values = torch.randn(37, generator=generator)
        orders = [torch.randperm(37, generator=generator) for _ in range(5)]
        labels.centroids = torch.stack([values[order] for order in orders])
        for repetitions in range(2, 40):
            rows = torch.zeros(repetitions, dtype=torch.long)
            level = torch.full((repetitions, 37), 37**-0.5)
            labels.update(bank.update(rows, level), bank)
            assert labels.sizes.tolist() == torch.bincount(labels.labels).tolist()


def test_labels_ignore_autocast():
    bank, labels = memory(200, OnlineLabels(20, interval=2, min_size=5))
    other_bank, other = deepcopy((bank, labels))
    for step in range(20):
        batch = batch_of(step, 200, 5, size=50)
        labels.update(bank.update(*batch), bank)
        with torch.autocast("cpu", torch.bfloat16):
            other.update(other_bank.update(*batch), other_bank)
        assert torch.equal(other_bank.features, bank.features)
        assert_same(states(other), states(labels))


KINDS = {
    "online": lambda **changes: OnlineLabels(**dict(num_clusters=6) | changes),
    "offline": lambda **changes: OfflineLabels(**dict(num_clusters=6) | changes),
}
every_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


def states(model):
    return {name: x.clone() for name, x in model.state_dict().items()}


@every_kind
def test_resumed_labels_go_on_bit_for_bit(make):
    """Sheet, 7.13: from the middle of an interval, both kinds of changes later."""
    options = dict(min_size=4) if make is KINDS["online"] else {}

    def new():
        labels = make(interval=3, **options)
        return nn.ModuleDict({"bank": FeatureBank(5, 0.25), "labels": labels})

    def train(model, steps):
        found = []
        for step in steps:
            change = model["bank"].update(*batch_of(step, 40, 5))
            model["labels"].update(change, model["bank"])
            if step % 2:
                model["labels"].end_epoch(step // 2 + 1, model["bank"])
            found.append(states(model))
        return found

    model = new()
    model["bank"].fill(unit(40, 5))
    model["labels"].start(model["bank"])
    saved = train(model, range(7))[-1]
    whole = train(model, range(7, 20))
    assert not torch.equal(whole[0]["labels.labels"], whole[-1]["labels.labels"])

    resumed = new()
    for name, module in resumed.items():  # as tools do that compare shapes first
        module.adopt_sizes(saved, f"{name}.")
    shapes = {name: x.shape for name, x in resumed.state_dict().items()}
    assert shapes == {name: x.shape for name, x in saved.items()}
    resumed = new()
    resumed.load_state_dict(saved)
    assert resumed["labels"].num_steps == 7
    assert_same(train(resumed, range(7, 20)), whole)


@every_kind
def test_a_state_of_other_clusters_does_not_fit(make):
    _, labels = memory(200, make())
    with pytest.raises(RuntimeError, match=r"(?s)for sizes.*for centroids"):
        make(num_clusters=7).load_state_dict(labels.state_dict())


def test_members_are_drawn_uniformly_from_the_own_cluster():
    given = torch.tensor([0] * 1 + [1] * 2 + [3] * 5 + [2] * 12)[torch.randperm(20)]
    _, labels = memory(20, PseudoLabels(5), given=given)  # one more is empty
    generator = torch.Generator().manual_seed(0)
    for c, images in enumerate(members_of(labels)[:4]):
        drawn = labels.draw_members(torch.tensor(images[-1:] * 3000), generator)
        counts = Counter(drawn.tolist())
        assert set(counts) == set(images), c
        if len(images) > 1:
            assert stats.chisquare(list(counts.values())).pvalue > 1e-3
    rows = torch.randint(20, (500,))
    drawn = labels.draw_members(rows, generator)
    assert torch.equal(given[drawn], given[rows])


def test_offline_labels_stay_until_their_epoch():
    bank, labels = memory(120, OfflineLabels(6, interval=2, num_iters=3))
    start = states(labels)
    for epoch in range(1, 5):
        for step in range(5 * epoch - 5, 5 * epoch):
            labels.update(bank.update(*batch_of(step, 120, 5)), bank)
            now = states(labels)
            assert now.pop("steps").item() == labels.num_steps == step + 1
            for name, value in now.items():
                assert torch.equal(value, start[name]), name
        labels.end_epoch(epoch, bank)
        if epoch % 2:
            for name in ("labels", "sizes", "centroids", "visits"):
                assert torch.equal(labels.state_dict()[name], start[name])
            continue
        old = [unit_row(c) for c in start["centroids"].tolist()]
        expected = slow_kmeans(bank.features.tolist(), old, num_iters=3)
        assert labels.labels.tolist() == expected
        check_means(labels, bank)
        changed = sum(a != b for a, b in zip(start["labels"], expected, strict=True))
        assert 0 < changed < 120
        assert (
            labels.visits.tolist()
            == (start["visits"] + torch.tensor([120, changed])).tolist()
        )
        start = states(labels)


@every_kind
def test_start_begins_anew(make):
    bank, labels = memory(200, make())
    first, (rows, features) = states(labels), batch_of(0, 200, 5)
    labels.update(bank.update(rows, features), bank)
    labels.end_epoch(1, bank)
    assert labels.visits.sum() > 0
    bank, labels = memory(200, labels)
    for name in ("labels", "sizes", "centroids", "visits"):
        assert torch.equal(states(labels)[name], first[name]), name
    told = []
    labels.start(bank, seed=1, progress=lambda *args: told.append(args))
    assert not torch.equal(labels.labels, first["labels"])
    assert told[0] == (1, 20)


def test_small_clusters_of_the_start_are_dissolved():
    bank, labels = memory(100, OnlineLabels(20, min_size=4))
    other = OnlineLabels(20, min_size=4)
    other.set_labels(spherical_kmeans(bank.features, 20), bank)
    assert other.sizes.min() < 4
    assert not torch.equal(labels.labels, other.labels)
    other.rebalance(bank)
    assert_same(states(other), states(labels))


@pytest.mark.parametrize("rank", [0, 1])
@every_kind
def test_too_few_images_are_refused_on_every_rank(make, rank, monkeypatch):
    """Only rank 0 clusters; the others must not wait for it in vain."""
    monkeypatch.setattr(pseudo_labels, "get_rank", lambda: rank)
    with pytest.raises(ValueError, match=r"num_clusters=6 clusters .* 5 images"):
        memory(5, make())
    if make is KINDS["online"]:
        with pytest.raises(ValueError, match=r"min_size=20 .* need 120 .* are 119"):
            memory(119, make())
        make().check_images(120)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (PseudoLabels, "num_clusters"),
        (PseudoLabels, "num_iters"),
        (OnlineLabels, "interval"),
        (OnlineLabels, "min_size"),
        (OfflineLabels, "interval"),
    ],
)
def test_numbers_below_one_are_refused(kind, name):
    with pytest.raises(ValueError, match=f"{name}=0 must be at least 1"):
        kind(**dict(num_clusters=5) | {name: 0})
