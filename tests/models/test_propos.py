"""ProPos: by hand, against loops, and BYOL where nothing is sampled or scattered."""

import copy
import math

import pytest
import torch
from torch.nn.functional import normalize

from mmssl_ext.models.comparisons import PositiveSampling
from mmssl_ext.models.losses import prototype_scattering

from .bases import build as build_base
from .bases import losses, method, sgd, term, total, train, views
from .common import build, double
from .loops import unit
from .shapes import largest


def rows(*values):
    return torch.tensor(values, dtype=torch.double)


Z = normalize(rows([1, 0], [1, 1], [0, 1]), dim=1)
K = normalize(rows([1, 0.5], [1, 0], [-1, 2]), dim=1)
LABELS = torch.tensor([0, 0, 1])


# By hand: the sheet's cases


@pytest.mark.parametrize(("clusters", "value"), [(2, 0.284125), (3, 0.284130)])
def test_scattering_by_hand(clusters, value):
    loss, seen = prototype_scattering(Z, K, LABELS, clusters, 0.5)
    assert loss.item() == pytest.approx(value, abs=1e-6) and seen == 2


@pytest.mark.parametrize(("clusters", "value"), [(10, 0.796614), (2, 0.018150)])
def test_prototypes_that_match_and_lie_apart(clusters, value):
    z = torch.eye(10, dtype=torch.double) if clusters == 10 else rows([1, 0], [-1, 0])
    loss, _ = prototype_scattering(z, z, torch.arange(clusters), clusters, 0.5)
    assert loss.item() == pytest.approx(value, abs=1e-6)


def test_a_single_cluster_of_five():
    labels = torch.full((3,), 3)
    loss, seen = prototype_scattering(Z, K, labels, 5, 0.5)
    own = normalize(Z.sum(0), dim=0) @ normalize(K.sum(0), dim=0) / 0.5
    assert loss.item() == pytest.approx(math.log(1 + 4 * math.exp(-10 - own)), abs=1e-9)
    assert seen == 1


@pytest.mark.parametrize(("shift", "value"), [(0, -1.663974), (2, 0.336026)])
def test_alignment_by_hand(shift, value):
    compare = PositiveSampling(None, 0, shift)
    q = normalize(rows([2, 0], [1, 1], [0, 3]), dim=1)
    assert compare.pair(q, K).item() == pytest.approx(value, abs=1e-6)


# Against loops


def looped(z, k, labels, clusters, temperature, queue=None):
    keys, names = queue or (z[:0], labels[:0])
    z, k, labels = [*z, *keys], [*k, *keys], [*labels.tolist(), *names.tolist()]
    means = {}
    for j in range(clusters):
        both = []
        for side in (z, k):
            members = [x for x, y in zip(side, labels, strict=True) if y == j]
            if members and (mean := sum(members) / len(members)).norm() > 1e-6:
                both.append(mean / mean.norm())
        if len(both) == 2:
            means[j] = both
    found = []
    for j, (mine, other) in means.items():
        own = (mine @ other / temperature).exp()
        rest = sum((mine @ means[i][0] / temperature).exp() for i in means if i != j)
        fill = (clusters - len(means)) * math.exp(-10)
        found.append(-(own / (own + rest + fill)).log())
    return sum(found) / len(found) if found else 0 * sum(z).sum()


def problem(queued):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(-1, 6, (12,), generator=generator)
    z, k = unit(12, 4), unit(12, 4, seed=1)
    k[0], k[1], labels[:2] = -k[1], k[1].clone(), 6  # cancel out: an empty cluster
    labels[2:][labels[2:] == 6] = 0
    names = torch.randint(-1, 5, (9,), generator=generator)
    return z, k, labels, (unit(9, 4, seed=2), names) if queued else None


@pytest.mark.parametrize("queued", [False, True])
@pytest.mark.parametrize("clusters", [8, 1000])  # above the number of rows, too
def test_value_and_gradient_equal_the_loop(clusters, queued):
    z, k, labels, queue = problem(queued)
    both = [z.clone().requires_grad_() for _ in range(2)]
    k.requires_grad_()
    loss, seen = prototype_scattering(both[0], k, labels, clusters, 0.5, queue)
    wanted = looped(both[1], k.detach(), labels, clusters, 0.5, queue)
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-12) and 4 <= seen <= 6
    loss.backward()
    wanted.backward()
    torch.testing.assert_close(both[0].grad, both[1].grad)
    assert k.grad is None and not both[0].grad[labels < 0].any()


def test_gradcheck():
    _, k, labels, queue = problem(True)
    z = torch.randn(12, 4, dtype=torch.double, requires_grad=True)

    def call(z):
        rows = normalize(z, dim=1)
        return prototype_scattering(rows, k, labels, 8, 0.5, queue)[0]

    assert torch.autograd.gradcheck(call, z)


def test_order_and_numbers_do_not_matter():
    z, k, labels, _ = problem(False)
    expected, _ = prototype_scattering(z, k, labels, 8, 0.5)
    order, new = torch.randperm(12), torch.tensor([5, 0, 7, 2, 1, 6, 3, 4, -1])
    moved = z[order], k[order], new[labels[order]]
    torch.testing.assert_close(prototype_scattering(*moved, 8, 0.5)[0], expected)


def test_without_a_label_nothing_is_lost():
    z = unit(3, 4).requires_grad_()
    loss, seen = prototype_scattering(z, unit(3, 4), torch.full((3,), -1), 5, 0.5)
    loss.backward()
    assert loss == 0 and seen == 0 and not z.grad.any()


def test_no_matrix_of_clusters_by_clusters():
    z, k = (unit(64, 16, seed=s).float() for s in (0, 1))
    labels = torch.arange(64) * 1000
    leaf = z.requires_grad_()

    def call():
        prototype_scattering(leaf, k, labels, 65536, 0.5)[0].backward()

    call()
    assert largest(call) <= 65 * 65


# The step


def byol(**changes):
    return double(build("BYOL", reduce="mean", **changes))


@pytest.mark.parametrize(
    "changes",
    [dict(sigma=0, scattering_weight=0, warmup=0), dict(warmup=2)],
    ids=["off", "warm-up"],
)
def test_without_its_parts_it_is_byol(changes):
    ours, theirs = double(build("ProPos", **changes)), byol()
    theirs.load_state_dict(ours.state_dict(), strict=False)
    ours.clock.epoch_length = 10
    for seed in range(3):
        inputs = views(8, seed, 32, dtype=torch.double)
        found, wanted = (train(m, inputs, sgd(m)) for m in (ours, theirs))
        assert found["loss_instance"] == pytest.approx(
            wanted["loss_instance"], abs=1e-12
        )
    state = ours.state_dict()
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=1e-12)


def test_noise_enters_before_the_predictor_alone():
    inputs = views(8, size=32)
    still, drawn = build("ProPos", sigma=0), build("ProPos", sigma=0.3)
    ours, theirs = losses(still, inputs), losses(drawn, inputs)
    assert ours["loss_scattering"] == theirs["loss_scattering"] > 0
    assert ours["loss_instance"] != theirs["loss_instance"]
    again = build("ProPos", sigma=0.3)
    assert losses(again, inputs)["loss_instance"] == theirs["loss_instance"]
    drawn.eval()
    assert torch.equal(
        *(drawn.compare.predict(x) for _ in "ab" for x in [unit(4, 32).float()])
    )


def test_each_view_has_noise_of_its_own_and_of_its_deviation():
    compare = build("ProPos", sigma=0.3).compare
    like = torch.zeros(200, 32)
    first, second = compare.noise(like), compare.noise(like)
    assert (first - second).abs().max() > 1
    assert first.std().item() == pytest.approx(1, abs=0.05)


def test_queue_rows_join_by_their_images_and_follow_a_clustering():
    options = dict(num_clusters=4, queue_len=20)
    model = build("ProPos", prototypes=options)
    for seed in range(3):
        losses(model, views(8, seed, 32), torch.arange(8) + 8 * seed)
    scattering = model.terms.scattering
    assert (scattering.queue.index >= 0).all()  # two views of each image
    before = scattering.label(scattering.queue.index)
    restored = build("ProPos", seed=1, images=0, prototypes=options)
    restored.load_state_dict(model.state_dict())
    found = losses(copy.deepcopy(model), views(8, 5, 32))
    for name, value in losses(restored, views(8, 5, 32)).items():
        assert torch.equal(value, found[name]), name
    scattering.clusters.cluster(torch.randn(100, 32))
    assert not torch.equal(before, scattering.label(scattering.queue.index))


def test_both_views_in_one_pass():
    model = build("ProPos", grouping="size")
    found = losses(model, views(8, size=32))
    assert (
        found["loss_instance"]
        != losses(build("ProPos"), views(8, size=32))["loss_instance"]
    )
    total(found).backward()


def test_scattering_takes_the_clusters_of_the_base():
    scattering = dict(type="PrototypeScattering", queue_len=8)
    model = build_base(method("MoCo", "InterImage", scattering))
    found = losses(model, views(8))
    assert found["clusters_seen"] > 1 and found["raw_scattering"] > 0
    assert model.terms.scattering.pseudo_labels is model.terms.inter.labels
    model.terms.inter.labels.clear()  # before the first clustering
    assert losses_of_term(model) == 0


def losses_of_term(model):
    made = model.step(views(8), index=torch.arange(8))
    return model.terms.scattering(model, made)


def test_bfloat16_is_finite():
    model = build("ProPos")
    with torch.autocast("cpu", torch.bfloat16):
        figures = losses(model, views(8, size=32))
        total(figures).backward()
    assert all(torch.isfinite(x) for x in figures.values())


# What does not fit


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            dict(prototypes=dict(num_clusters=1)),
            "num_clusters=1 of PrototypeScattering",
        ),
        (dict(prototypes=dict(num_clusters=4, interval=0)), "interval=0 and"),
        (dict(prototypes=dict(num_clusters=4, queue_len=-1)), "queue_len=-1 0 or more"),
        (dict(prototypes=dict(num_clusters=4, temperature=0)), "is not a temperature"),
        (dict(prototypes=dict(num_clusters=101)), "101 clusters cannot be made of 100"),
        (dict(prototypes={}), "has no clusters, for ProPos keeps none: set its num_cl"),
        (dict(sigma=-1), "sigma="),
        (dict(warmup=-1), "warmup=-1 must be a whole number of epochs"),
        (dict(weights=dict(scattering=1)), "weight of scattering is given twice"),
    ],
)
def test_what_does_not_fit_is_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        build("ProPos", **changes)


@pytest.mark.parametrize(
    ("index", "images", "sentence"),
    [
        (None, 100, "PrototypeScattering needs to know which image is which"),
        ([3, 100], 100, "runs from 3 to 100, but the bank has 100 images"),
        ([3, 4], 0, r"does not know the dataset yet.*MethodHook"),
    ],
)
def test_unknown_images_are_refused(index, images, sentence):
    index = index and torch.tensor(index)
    model = build("ProPos", images=images)
    with pytest.raises(ValueError, match=sentence):
        model(views(2, size=32), mode="loss", index=index)


def test_targets_of_another_size_are_refused():
    teacher = dict(type="FrozenTeacher", backbone=dict(type="ResNet", depth=18))
    config = method("Method", term("PrototypeScattering")) | dict(
        neck=dict(type="GlobalAveragePooling"),
        target=teacher,
        compare=dict(type="Regression", predictor=None),
    )
    del config["type"]
    with pytest.raises(ValueError, match=r"another size|features"):
        build_base(dict(config, type="Method"))
