"""IFND: by hand, against loops, and MoCo where no label counts."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import normalize

from mmssl_ext.models.algorithms import Step
from mmssl_ext.models.comparisons import FalseNegativeSoftmax
from mmssl_ext.models.losses import same_label_sums
from mmssl_ext.models.memory.confidence import accept, confidence

from ..harness import assert_same
from .bases import losses, sgd, total, train, views
from .common import build, double
from .loops import unit
from .shapes import largest

pytestmark = pytest.mark.filterwarnings("ignore:bn_splits=1")

Q = torch.tensor([[1.0, 0.0]], dtype=torch.double)
K = torch.tensor([[0.8, 0.6]], dtype=torch.double)
QUEUE = [[0.6, 0.8], [0.8, -0.6], [0, 1], [-1, 0]]
SLOTS = [7, 3, 7, -1]


def softmax(dim, length, levels=1, action="eliminate", **options):
    """The comparison alone, in double precision, with its levels clustered."""
    sizes = [20] * levels
    made = FalseNegativeSoftmax(0.2, length, sizes, action, **options)
    target = SimpleNamespace(dim=dim, encodes=True)
    made.attach(SimpleNamespace(dim=dim, target=target))
    for level in made.clusters.levels:
        level.labels = torch.zeros(1, dtype=torch.int32)
    return made.double()


def with_labels(made, tables, index):
    """Labels of all images by level, and the images of the slots."""
    for table, labels in zip(made.clusters.tables, tables, strict=True):
        table.write(torch.as_tensor(labels))
    made.queue.index.copy_(torch.as_tensor(index))
    return made


def loss_of(made, q, k, index):
    step = Step({}, None, index, {0: {"embedding": q}}, {1: {"embedding": k}}, {})
    pairs = SimpleNamespace(pairs=((0, 1),), over_pairs=lambda losses: losses[0])
    return made(pairs, step)["instance"], step.figures


# By hand: cases 1 to 5 of the sheet


@pytest.mark.parametrize(
    ("action", "anchor", "value", "count"),
    [
        ("eliminate", 7, 0.693209, 2),
        ("eliminate", -1, 0.869752, 0),
        ("attract", 7, 2.536418, 2),
        ("attract", -1, 0.869752, 0),
    ],
)
def test_losses_by_hand(action, anchor, value, count):
    made = softmax(2, 4, action=action)
    made.queue.keys.copy_(torch.tensor(QUEUE))
    made = with_labels(made, [[*SLOTS, anchor]], range(4))
    found, figures = loss_of(made, Q, K, torch.tensor([4]))
    assert found.item() == pytest.approx(value, abs=1e-6)
    assert figures["false_negatives"] == count


@pytest.mark.parametrize(("temperature", "value"), [(0.2, 0.721399), (1.0, 0.440905)])
def test_confidence_by_hand(temperature, value):
    centroids = torch.tensor([[1, 0], [0, 1], [-0.6, 0.8]], dtype=torch.double)
    found = confidence(K, torch.tensor([0]), 3 * centroids, temperature)
    assert found.tolist() == [pytest.approx(value, abs=1e-6)]


@pytest.mark.parametrize(
    ("rate", "chosen"),
    [(0, []), (0.2, [0]), (0.4, [0, 2]), (0.5, [0, 2, 3]), (1, [0, 1, 2, 3, 4])],
)
def test_the_surest_labels_are_accepted(rate, chosen):
    sure = torch.tensor([0.9, 0.2, 0.6, 0.6, 0.4])
    found = accept(torch.arange(5), sure, rate)
    assert found.tolist() == [i if i in chosen else -1 for i in range(5)]


# Against loops


def problem(levels, action):
    """Queries whose images have labels, unknown ones among them."""
    generator = torch.Generator().manual_seed(1)
    made = softmax(8, 30, levels, action)
    made.queue.keys.copy_(unit(30, 8, seed=1))
    tables = [torch.randint(-1, 5, (40,), generator=generator) for _ in range(levels)]
    slots = torch.randint(-1, 40, (30,), generator=generator)
    with_labels(made, tables, slots)
    return made, tables, slots, unit(6, 8, seed=2), unit(6, 8, seed=3)


@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("action", ["eliminate", "attract"])
def test_value_and_gradient_equal_the_loop(levels, action):
    made, tables, slots, q, k = problem(levels, action)
    index = torch.arange(6)
    rows = [q.clone().requires_grad_() for _ in range(2)]
    found, figures = loss_of(made, rows[0], k, index)
    wanted, removed = 0, 0
    for level, table in enumerate(tables):
        for n in range(6):
            names = [-1 if i < 0 else int(table[i]) for i in slots.tolist()]
            same = [j for j in range(30) if 0 <= int(table[n]) == names[j]]
            removed += len(same) / 6 * (level == 0)
            logits = [rows[1][n] @ key / 0.2 for key in made.queue.keys]
            own = rows[1][n] @ k[n] / 0.2
            if action == "eliminate":
                rest = [x for j, x in enumerate(logits) if j not in same]
                loss = torch.stack([own, *rest]).logsumexp(0) - own
            else:
                positives = [own, *(logits[j] for j in same)]
                z = torch.stack([own, *logits]).logsumexp(0)
                loss = z - sum(positives) / len(positives)
            wanted = wanted + loss / (6 * levels)
    assert removed > 1
    assert figures["false_negatives"].item() == pytest.approx(removed)
    assert found.item() == pytest.approx(wanted.item(), abs=1e-12)
    slopes = [
        torch.autograd.grad(x, y)[0] for x, y in zip((found, wanted), rows, strict=True)
    ]
    torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("action", ["eliminate", "attract"])
def test_gradcheck(action):
    made, _, _, _, k = problem(2, action)
    q = torch.randn(6, 8, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda q: loss_of(made, normalize(q, dim=1), k, torch.arange(6))[0], q
    )


def test_sums_of_the_slots_with_a_label():
    queue = unit(3000, 8)
    generator = torch.Generator().manual_seed(0)
    rows, slots = (torch.randint(-1, 9, (n,), generator=generator) for n in (7, 3000))
    sums, counts = same_label_sums(queue, (rows, slots))
    for n, row in enumerate(rows.tolist()):
        same = slots == row if row >= 0 else torch.zeros(3000, dtype=torch.bool)
        assert counts[n] == same.sum()
        torch.testing.assert_close(sums[n], queue[same].sum(0))


def test_numbers_of_clusters_order_of_slots_and_levels_do_not_matter():
    made, tables, slots, q, k = problem(2, "eliminate")
    index = torch.arange(6)
    expected, _ = loss_of(made, q, k, index)
    order = torch.randperm(30)
    new = torch.tensor([3, 0, 4, 1, 2, -1])  # of labels 0 to 4, and -1
    made.queue.keys.copy_(made.queue.keys[order])
    with_labels(made, [new[tables[1]], tables[0]], slots[order])
    torch.testing.assert_close(loss_of(made, q, k, index)[0], expected)


def test_bounds():
    """Invariants 7 and 8, and no gradient where nothing is left."""
    made, _, slots, q, k = problem(1, "eliminate")
    index = torch.arange(6)
    known, _ = loss_of(made, q, k, index)
    none = with_labels(made, [torch.full((40,), -1)], slots)
    assert known <= loss_of(none, q, k, index)[0]
    rows = q.requires_grad_()
    everything = with_labels(made, [torch.zeros(40)], torch.arange(30))
    found, _ = loss_of(everything, rows, k, index)
    found.backward()
    assert found == 0 and not rows.grad.any()


@pytest.mark.parametrize("action", ["eliminate", "attract"])
def test_no_matrix_of_queries_by_slots(action):
    made = softmax(16, 65536, 2, action).float()
    tables = [torch.arange(1000) % 20, torch.arange(1000) % 7]
    with_labels(made, tables, torch.arange(65536) % 1000)
    q = unit(256, 16).float().requires_grad_()
    k = unit(256, 16, seed=1).float()

    def step():
        loss_of(made, q, k, torch.arange(256))[0].backward()

    step()  # what is checked only once
    assert largest(step) <= 256 * 65536 // 4


# The step


@pytest.mark.parametrize("clustered", [False, True])
def test_without_a_label_it_is_moco(clustered):
    """Before the first clustering bit for bit; with labels that all are -1 but for
    the rounding of another form of the softmax."""
    moco, ifnd = double(build("MoCo")), double(build("IFND", images=0))
    ifnd.load_state_dict(moco.state_dict(), strict=False)
    ifnd.compare.prepare(100)
    if clustered:
        ifnd.compare.cluster(torch.randn(100, 16), 0.0)
        assert all((table.labels == -1).all() for table in ifnd.compare.clusters.tables)
    for seed in range(3):
        inputs = views(8, seed, 32, dtype=torch.double)
        ours, theirs = (train(m, inputs, sgd(m)) for m in (ifnd, moco))
        for name, value in theirs.items():
            if clustered:
                assert ours[name] == pytest.approx(value, abs=1e-12), name
            else:
                assert ours[name] == value, name
    state = ifnd.state_dict()
    for name, value in moco.state_dict().items():
        if clustered:
            torch.testing.assert_close(state[name], value, rtol=0, atol=1e-9)
        else:
            assert torch.equal(state[name], value), name


def test_slots_know_their_images_and_labels_follow_a_clustering():
    """Invariant 11, and a label is that of now."""
    model = build("IFND", queue_len=20)
    for seed in range(3):
        losses(model, views(8, seed, 32), torch.arange(8) + 8 * seed)
    index = model.compare.queue.index.tolist()
    assert index == [20, 21, 22, 23, *range(4, 20)]
    before = copy.deepcopy(model)
    model.compare.cluster(torch.randn(100, 16), 0.7)
    assert torch.equal(model.compare.queue.index, before.compare.queue.index)
    table = model.compare.clusters.tables[1]
    assert not torch.equal(table.labels, before.compare.clusters.tables[1].labels)
    assert (table.labels >= 0).sum() == 70
    restored = build("IFND", seed=1, images=0, queue_len=20)
    restored.load_state_dict(model.state_dict())
    assert_same(losses(restored, views(8, 5, 32)), losses(model, views(8, 5, 32)))


def test_bfloat16_is_finite():
    model = build("IFND", false_negatives=dict(levels=(3,), action="attract"))
    with torch.autocast("cpu", torch.bfloat16):
        figures = losses(model, views(8, size=32))
        total(figures).backward()
    assert all(torch.isfinite(x) for x in figures.values())


# What does not fit


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (dict(levels=()), r"levels=\(\) must be numbers of clusters"),
        (dict(levels=(3, 0)), "must be numbers of clusters"),
        (dict(levels=5), "levels=5 must be"),
        (dict(action="mask"), "action='mask' must be one of eliminate, attract"),
        (dict(rate=1.5), r"rate=1.5 must lie in \[0, 1\]"),
        (dict(warmup=-1), "warmup=-1 and interval=5 are epochs"),
        (dict(interval=0), "interval=0 are epochs"),
        (dict(confidence_temperature=-1), "confidence_temperature=-1 is not a temp"),
        (dict(levels=(3, 101)), "101 clusters cannot be made of 100 images"),
    ],
)
def test_what_does_not_fit_is_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        build("IFND", false_negatives=changes)


@pytest.mark.parametrize(
    ("index", "sentence"),
    [
        (None, "FalseNegativeSoftmax needs to know which image is which"),
        ([3, 100], "runs from 3 to 100, but the bank has 100 images"),
    ],
)
def test_unknown_images_are_refused(index, sentence):
    index = index and torch.tensor(index)
    with pytest.raises(ValueError, match=sentence):
        build("IFND")(views(2, size=32), mode="loss", index=index)


def test_a_dataset_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match=r"does not know the dataset yet.*MethodHook"):
        losses(build("IFND", images=0), views(4, size=32))


def test_defaults():
    model = FalseNegativeSoftmax()
    assert [level.num_clusters for level in model.clusters.levels] == [
        1000,
        5000,
        25_000,
    ]
    assert (model.rate.kind, model.rate.start, model.rate.end) == ("linear", 0, 1)
    assert model.confidence_temperature == model.temperature == 0.2
    assert (model.action, model.warmup, model.interval) == ("eliminate", 20, 5)
