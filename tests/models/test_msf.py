"""MSF and CMSF: by hand, against loops, against BYOL, and what they remember."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import normalize

from mmssl_ext.models.algorithms import Step
from mmssl_ext.models.comparisons import (
    EarlierNeighbours,
    MeanShift,
    SameCluster,
    SameLabel,
)
from mmssl_ext.models.losses import queue_attention, queue_topk
from mmssl_ext.models.memory import KeyQueue, LabelTable

from ..harness import assert_same
from .bases import BACKBONE, MLP, PREDICTOR, losses, method, sgd, total, train, views
from .bases import build as build_config
from .common import build
from .loops import dot, unit
from .shapes import largest

CLUSTERS = dict(type="SameCluster", num_clusters=3)
LABELS = dict(type="SameLabel")


def mean_shift(dim, length, constraint=None, **options):
    """The comparison alone, without a predictor, in double precision."""
    made = MeanShift(None, length, constraint=constraint, **options)
    target = SimpleNamespace(dim=dim)
    made.attach(SimpleNamespace(dim=dim, target=target))
    return made.double()


def with_bank(made, rows, index=None):
    made.bank.keys.copy_(torch.as_tensor(rows))
    if index is not None:
        made.bank.index.copy_(torch.as_tensor(index))
    return made


def loss_of(made, v, u, index=None):
    """Loss of N x D predictions and targets, which are in the bank already."""
    step = Step({}, None, index, {0: {"embedding": v}}, {1: {"embedding": u}}, {})
    pairs = SimpleNamespace(
        pairs=((0, 1),), target_views=[1], over_pairs=lambda losses: losses[0]
    )
    return made(pairs, step)["instance"]


# By hand: cases 1 and 2 of the sheet

U = torch.tensor([[1.0, 0.0]], dtype=torch.double)
V = torch.tensor([[0.6, 0.8]], dtype=torch.double)
BANK = [[1, 0], [0.8, 0.6], [0, 1], [-1, 0]]
EARLIER = [[0, 1], [-1, 0], [0.6, 0.8], [0.6, -0.8]]


@pytest.mark.parametrize(("k", "value"), [(1, 0.8), (2, 0.44), (3, 0.426667)])
def test_mean_shift_by_hand(k, value):
    made = with_bank(mean_shift(2, 4, k=k), BANK)
    assert loss_of(made, V, U).item() == pytest.approx(value, abs=1e-6)
    if k == 2:
        mean = torch.tensor([0.9, 0.3], dtype=torch.double)
        torch.testing.assert_close(made.rows(made.nearest(U), U).mean(1)[0], mean)


def two_queues(k_set, earlier=EARLIER, known=True, **options):
    """With u' = (0, 1) and this second bank, all of it known."""
    made = mean_shift(2, 4, dict(type="EarlierNeighbours", k=k_set), **options)
    made = with_bank(made, BANK)
    made.constraint.prepare(4)
    made.constraint.earlier.keys.copy_(torch.tensor(earlier))
    made.constraint.earlier.labels.fill_(known - 1)
    made.constraint.own = torch.tensor([[0.0, 1.0]])
    return made


@pytest.mark.parametrize(("k_set", "value"), [(2, 0.52), (3, 0.44)])
def test_two_queues_by_hand(k_set, value):
    made = two_queues(k_set, k=2)
    chosen = made.constraint.choose(U, None, 2, 0)
    assert sorted(chosen[0].tolist()) == ([0, 2] if k_set == 2 else [0, 1, 2])
    found = loss_of(made, V, U, torch.tensor([0]))
    assert found.item() == pytest.approx(value, abs=1e-6)
    # Before half of the second bank is known, and for a new image, it is MSF's.
    for change in ("earlier", "own"):
        made = two_queues(k_set, k=2)
        if change == "earlier":
            made.constraint.earlier.labels[:3] = -1
        else:
            made.constraint.own.zero_()
        found = loss_of(made, V, U, torch.tensor([0]))
        assert found.item() == pytest.approx(0.44, abs=1e-6)


def test_rows_that_are_not_known_are_not_chosen():
    made = two_queues(3, k=2)
    made.constraint.earlier.labels[[0, 2]] = -1
    chosen = made.constraint.choose(U, None, 2, 0)
    assert sorted(chosen[0].tolist()) == [-1, 1, 3]


def test_gradcheck():
    made = with_bank(mean_shift(8, 32, LABELS, k=3), unit(32, 8, seed=1))
    made.bank.index.copy_(torch.arange(32))
    made.constraint.prepare(torch.arange(32) % 4)
    u, index = unit(5, 8, seed=2), torch.arange(5)
    v = torch.randn(5, 8, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda v: loss_of(made, normalize(v, dim=1), u, index), v
    )


# Against loops


def nearest(u, bank, k):
    order = sorted(range(len(bank)), key=lambda j: -dot(u, bank[j]))
    return order[:k]


def first_of(members, u, bank, k):
    """k rows nearest to u, members of a set first."""
    order = nearest(u, bank, len(bank))
    return sorted(order, key=lambda j: j not in members)[:k]  # sorting is stable


def distance(v, bank, rows):
    return sum((v - bank[j]).square().sum() for j in rows) / len(rows)


@pytest.mark.parametrize("kind", ["plain", "earlier", "labels", "share"])
@pytest.mark.parametrize(("k", "k_set"), [(3, 3), (2, 6), (6, 2)])
def test_value_and_gradient_equal_the_loop(kind, k, k_set):
    constraint = {
        "plain": None,
        "earlier": dict(type="EarlierNeighbours", k=k_set),
        "labels": dict(type="SameLabel", share=0.5),
        "share": dict(type="SameLabel", share=1.0),
    }[kind]
    bank, u = unit(40, 8, seed=1), unit(6, 8, seed=2)
    bank[:6] = u
    made = with_bank(mean_shift(8, 40, constraint, k=k), bank)
    index, images = torch.arange(6), torch.arange(40) % 20
    classes = torch.arange(20) % (7 if k_set == 3 else 11)  # few of one class
    classes[2] = -1
    earlier, own = unit(40, 8, seed=3).float(), unit(6, 8, seed=4).float()
    earlier[:6] = own
    if constraint is not None:
        made.bank.index.copy_(images)
    if kind == "earlier":
        made.constraint.prepare(20)
        made.constraint.earlier.keys.copy_(earlier)
        made.constraint.earlier.labels.zero_()
        made.constraint.own = own
    elif constraint is not None:
        made.constraint.prepare(classes)
    v = [unit(6, 8, seed=5).requires_grad_() for _ in range(2)]
    found = loss_of(made, v[0], u, index)
    wanted = 0
    for n in range(6):
        near = distance(v[1][n], bank, nearest(u[n], bank, k)) / 6
        if kind == "plain":
            wanted = wanted + near
            continue
        if kind == "earlier":
            members = nearest(own[n], earlier, k_set)
            assert n in members
        else:
            label = int(classes[n])
            members = [j for j in range(40) if 0 <= label == classes[images[j]]]
        rows = first_of(members, u[n], bank, k)
        if k <= len(members):  # invariant 9
            assert set(rows) <= set(members)
        share = 1.0 if kind == "share" else 0.5
        con = distance(v[1][n], bank, rows) / 6
        wanted = wanted + (1 - share) * near + share * con
    assert found.item() == pytest.approx(wanted.item(), abs=1e-12)
    ours, theirs = (
        torch.autograd.grad(x, y)[0] for x, y in ((found, v[0]), (wanted, v[1]))
    )
    # The loop has |v|^2, whose gradient points along v: unit rows do not move there.
    theirs = theirs - 2 * v[1].detach() / 6
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("own", [False, True])
def test_top_k_of_own_labels(own):
    q, queue = unit(7, 8), unit(300, 8, seed=1)
    generator = torch.Generator().manual_seed(0)
    rows, slots = (torch.randint(-1, 9, (n,), generator=generator) for n in (7, 300))
    values, places = queue_topk(q, queue, 30, (rows, slots), own=own)
    for n in range(7):
        same = [j for j in range(300) if 0 <= rows[n] == slots[j]]
        allowed = same if own else [j for j in range(300) if j not in same]
        wanted = sorted(allowed, key=lambda j: -dot(q[n], queue[j]))[:30]
        assert places[n, : len(wanted)].tolist() == wanted
        assert values[n, len(wanted) :].isneginf().all()


def test_a_bank_of_half_precision_is_widened_block_by_block():
    q, keys = unit(128, 128).float(), unit(65536, 128, seed=1).half()
    queue_attention.form_of(q[None], keys[None, :1024].float())  # checked only once
    found = []
    elements = largest(lambda: found.extend(queue_topk(q, keys, 5)), torch.float)
    assert elements < keys.numel()
    truth = (q.double() @ keys.double().T).topk(5)
    assert torch.equal(found[1], truth.indices)
    torch.testing.assert_close(found[0].double(), truth.values, atol=1e-6, rtol=0)


def test_no_matrix_of_queries_by_rows():
    """N = 256, m = 65,536, half precision: of all of it only blocks exist."""
    made = MeanShift(None, 65536, 5, "float16", dict(type="SameLabel"))
    made.attach(SimpleNamespace(dim=16, target=SimpleNamespace(dim=16)))
    made.bank.index.copy_(torch.arange(65536) % 1000)
    made.constraint.prepare(torch.arange(1000) % 100)
    u = unit(256, 16).float()
    v = unit(256, 16, seed=1).float().requires_grad_()
    assert made.bank.keys.dtype == torch.float16

    def step():
        loss_of(made, v, u, torch.arange(256)).backward()

    step()  # what is checked only once
    assert largest(step) <= 256 * 65536 // 4


# The step


ONE_WAY = dict(neck=MLP, predictor=PREDICTOR, momentum=0.9)


def test_one_neighbour_is_byol_bit_for_bit():
    """The targets of a step are in the bank before its loss."""
    byol = build_config(method("BYOL", pairs=((0, 1),)))
    msf = build_config(method("MSF", bank_len=32, topk=1, **ONE_WAY))
    msf.load_state_dict(byol.state_dict(), strict=False)
    for seed in range(3):
        ours, theirs = (train(m, views(8, seed, 32), sgd(m)) for m in (msf, byol))
        assert ours == theirs
    state = msf.state_dict()
    for name, value in byol.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_a_constraint_that_counts_nothing_and_one_of_all_rows_are_msf():
    """Invariant 9, in double precision; and the reduction at share 0."""
    found = {}
    for name, constraint in {
        "msf": None,
        "nothing": dict(type="SameLabel", share=0.0),
        "all": dict(type="SameLabel", share=0.5),
    }.items():
        kind = "MSF" if constraint is None else "CMSF"
        extra = {} if constraint is None else dict(constraint=constraint)
        config = method(kind, bank_len=32, topk=3, **ONE_WAY, **extra)
        model = build_config(config).double()
        if constraint is not None:
            labels = torch.zeros(40) if name == "all" else torch.arange(40) % 3
            model.compare.constraint.prepare(labels)
            model.compare.bank.index.copy_(torch.arange(32))  # no row is unknown
        figures = []
        for seed in range(5):
            inputs = views(8, seed, 32, dtype=torch.double)
            figures.append(train(model, inputs, sgd(model), torch.arange(8) + 8 * seed))
        found[name] = figures
    for name in ("nothing", "all"):
        for ours, theirs in zip(found[name], found["msf"], strict=True):
            for key, value in theirs.items():
                assert ours[key] == pytest.approx(value, abs=1e-12), (name, key)


def test_every_target_is_its_own_first_neighbour():
    """Invariants 4, 6 and 10: also when the bank's end falls into a batch."""
    model, pointers = build("MSF", bank_len=20, topk=3), []
    for seed in range(4):
        figures = losses(model, views(8, seed, 32))
        u = model.last_embeddings["key"]
        values, places = queue_topk(u, model.compare.bank.keys, 1)
        assert (2 - 2 * values < 1e-6).all()
        assert places[:, 0].tolist() == [(8 * seed + n) % 20 for n in range(8)]
        pointers.append(model.compare.bank.ptr.item())
        assert 0 <= figures["loss_instance"] <= 4
    assert pointers == [8, 16, 4, 12]


def test_order_of_the_bank_and_length_of_predictions_do_not_matter():
    made = two_queues(2, k=2)
    order = torch.tensor([2, 0, 3, 1])
    turned = two_queues(2, earlier=torch.tensor(EARLIER)[order].tolist(), k=2)
    with_bank(turned, torch.tensor(BANK)[order])
    index = torch.tensor([0])
    expected = loss_of(made, V, U, index)
    torch.testing.assert_close(loss_of(turned, V, U, index), expected)


def test_bfloat16_training_is_finite_and_searches_as_exactly():
    model = build("CMSF", bank_dtype="float16")
    with torch.autocast("cpu", torch.bfloat16):
        figures = losses(model, views(8, size=32))
        u = model.last_embeddings["key"]
        places = model.compare.nearest(u)
        total(figures).backward()
    assert all(torch.isfinite(x) for x in figures.values())
    truth = u.double() @ model.compare.bank.keys.double().T
    assert torch.equal(places, truth.topk(3).indices)
    assert model.compare.bank.keys.dtype == torch.float16


def test_both_directions_know_each_views_images():
    model = build("CMSF", pairs=((0, 1), (1, 0)), bank_len=64)
    index = torch.tensor([5, 9, 11, 40])
    before = model.compare.constraint.last.features.clone()
    losses(model, views(4, size=32), index)
    bank, constraint = model.compare.bank, model.compare.constraint
    assert bank.index[:8].tolist() == 2 * index.tolist()
    torch.testing.assert_close(constraint.own, before[index].repeat(2, 1))
    # The last view of an image counts.
    torch.testing.assert_close(constraint.last.features[index], bank.keys[4:8])


def test_the_earlier_embedding_is_that_of_the_epoch_before():
    """Invariant 8: never what the same step has written."""
    model = build("CMSF", bank_len=16, images=0)
    constraint = model.compare.constraint
    constraint.prepare(12)
    seen = {}
    for seed in range(6):  # two epochs of three steps
        index = torch.arange(4) + 4 * (seed % 3)
        losses(model, views(4, seed, 32), index)
        for n, image in enumerate(index.tolist()):
            own = seen.get(image, torch.zeros(32))
            torch.testing.assert_close(constraint.own[n], own)
            seen[image] = model.last_embeddings["key"][n]
        known = constraint.earlier.labels >= 0
        # The second epoch wraps: rows 12 to 15, then 0 to 7.
        assert known.sum() == max(0, 4 * (seed - 2))


def test_accumulated_gradients_write_the_bank_once_for_each_image():
    models = [build("CMSF", topk=1, bank_len=64) for _ in range(2)]
    for model, parts in zip(models, (1, 4), strict=True):
        model.eval()  # statistics of the batch differ
        model.clock.accumulation = parts
        whole = views(8, 0, 32)
        for part in range(parts):
            rows = [x.chunk(parts)[part] for x in whole]
            losses(model, rows, torch.arange(8).chunk(parts)[part])
    one, other = (m.state_dict() for m in models)
    for name, value in one.items():
        if name != "clock.steps":
            torch.testing.assert_close(other[name], value, msg=name)
    assert models[1].target.num_steps == 1


# Clusters and labels


def made_clusters(images=12):
    made = mean_shift(8, 16, CLUSTERS, k=2)
    made.constraint.prepare(images)
    return made


def test_clusters_of_the_epoch_before():
    """Three directions; an image that was never seen has no label, and its set none."""
    made = made_clusters()
    centres = torch.eye(8, dtype=torch.double)[:3]
    keys = normalize(centres.repeat(4, 1) + 0.05 * unit(12, 8), dim=1)
    made.remember(dict(keys=keys[:11], index=torch.arange(11)))
    assert (made.constraint.table.labels == -1).all()
    chosen = made.constraint.choose(keys[:11], torch.arange(11), 2, 0)
    assert (chosen == -1).all()
    made.constraint.cluster()
    labels = made.constraint.table.labels.tolist()
    assert labels[11] == -1
    assert len(set(labels[:3])) == 3
    assert labels[:11] == (labels[:3] * 4)[:11]
    assert made.pseudo_labels is made.constraint.pseudo_labels
    chosen = made.constraint.choose(keys[:3], torch.arange(3), 4, 0)
    for n in range(3):
        images = made.bank.index[chosen[n][chosen[n] >= 0]]
        assert set(images.tolist()) == {i for i in range(11) if i % 3 == n}
    # Labels of slots follow a new clustering, by the image.
    before = made.constraint.table.labels.clone()
    made.constraint.follow(keys.flip(0)[:11], torch.arange(11))
    made.constraint.cluster()
    assert not torch.equal(made.constraint.table.labels, before)


def test_label_table():
    table = LabelTable()
    assert len(table) == 0
    table.write(torch.tensor([4, -1, 7]), 5)
    found = table.of(torch.tensor([[2, -1], [0, 1]]))
    assert found.tolist() == [[7, -1], [4, -1]] and found.dtype == torch.long
    other = LabelTable()
    other.load_state_dict(table.state_dict())
    assert_same(other.state_dict(), table.state_dict())
    table.check(5)
    with pytest.raises(ValueError, match="labels belong to 3 other images"):
        table.check(6)
    table.clear()
    assert len(table) == 0


def run_of(labels=None, iteration=0, fingerprint=3, length=100, by_epoch=True):
    """What a run tells a model."""

    class Images:
        def __len__(self):
            return length

        def fingerprint(self):
            return fingerprint

    images = Images()
    images.labels = labels
    return SimpleNamespace(
        dataset=images, iteration=iteration, by_epoch=by_epoch, seed=0, epoch=0
    )


def test_labels_come_from_the_dataset():
    model = build("CMSF", constraint=LABELS)
    with pytest.raises(ValueError, match=r"SameLabel needs a dataset with labels: set"):
        model.compare.start(run_of())
    model.compare.bank.index.fill_(77)  # of another run, by load_from
    model.compare.start(run_of(labels=[i % 5 for i in range(100)]))
    assert model.compare.constraint.table.labels[:7].tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert (model.compare.bank.index == -1).all()
    losses(model, views(4, size=32))
    assert model.compare.bank.index[:4].tolist() == [0, 1, 2, 3]


CONSTRAINTS = {
    "earlier": (dict(type="EarlierNeighbours", k=4), "feature bank belongs to 100 oth"),
    "clusters": (CLUSTERS, "feature bank belongs to 100 other images"),
    "labels": (LABELS, "labels belong to 100 other images"),
}


@pytest.mark.parametrize("kind", CONSTRAINTS)
def test_a_bank_of_another_data_set_is_refused(kind):
    constraint, sentence = CONSTRAINTS[kind]
    model = build("CMSF", constraint=constraint)
    labels = [0] * 100
    model.compare.start(run_of(labels))
    restored = build("CMSF", seed=1, images=0, constraint=constraint)
    restored.load_state_dict(model.state_dict())
    restored.compare.start(run_of(labels, iteration=5))
    with pytest.raises(ValueError, match=sentence):
        restored.compare.start(run_of(labels, iteration=5, fingerprint=4))


@pytest.mark.parametrize(
    ("index", "sentence"),
    [
        (None, "EarlierNeighbours needs to know which image is which"),
        ([3, 100], "runs from 3 to 100, but the bank has 100 images"),
    ],
)
def test_unknown_images_are_refused(index, sentence):
    index = index and torch.tensor(index)
    with pytest.raises(ValueError, match=sentence):
        build("CMSF")(views(2, size=32), mode="loss", index=index)


def test_a_dataset_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match=r"does not know the dataset yet.*MethodHook"):
        losses(build("CMSF", images=0), views(4, size=32))


@pytest.mark.parametrize(
    ("kind", "changes", "sentence"),
    [
        ("MSF", dict(topk=65), "k=65 neighbours are looked for among the 64 rows"),
        ("MSF", dict(topk=0), "k=0 neighbours"),
        ("MSF", dict(bank_dtype="half"), "bank_dtype='half' must be one of float32"),
        ("MSF", dict(target=dict()), "MSF makes its own target"),
        (
            "CMSF",
            dict(constraint=dict(type="EarlierNeighbours", k=65)),
            r"constraint\.k=65 rows are looked for among the 64 of the bank",
        ),
        ("CMSF", dict(constraint=LABELS | dict(share=2)), r"constraint\.share=2 is"),
        ("CMSF", dict(constraint=CLUSTERS | dict(num_clusters=0)), "num_clusters=0"),
        ("CMSF", dict(constraint=PREDICTOR), "constraint: a NonLinearNeck is no Const"),
    ],
)
def test_what_does_not_fit_is_refused(kind, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(kind, **changes)


def test_clusters_need_epochs_and_enough_images():
    model = build("CMSF", constraint=CLUSTERS)
    with pytest.raises(ValueError, match="set by_epoch=True"):
        model.compare.start(run_of(by_epoch=False))
    with pytest.raises(ValueError, match="3 clusters cannot be made of 2 images"):
        model.compare.start(run_of(length=2))


def test_defaults_are_the_official_ones():
    config = dict(type="MSF", backbone=BACKBONE, neck=MLP, predictor=PREDICTOR)
    model = build_config(config)
    assert (model.compare.k, model.compare.length) == (5, 128_000)
    assert model.target.momentum.end == model.target.momentum.start == 0.99
    assert model.pairs == ((0, 1),)
    shares = EarlierNeighbours().share, SameCluster(3).share, SameLabel().share
    assert shares == (0.5, 0.5, 1.0) and EarlierNeighbours().k == 5
    assert isinstance(model.compare.bank, KeyQueue) and model.negatives is None
    assert math.isclose(model.compare.shift, 2)
