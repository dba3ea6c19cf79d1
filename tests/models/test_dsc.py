"""DSC: neighbours and classes of cells, by hand and against loops over cells."""

import copy
import logging
import math
import re
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel

from mmssl_ext.models.losses import (
    class_contrast,
    neighbour_cells,
    several_positives,
    sinkhorn,
)
from tests.distributed import run_ranks

from .common import (
    CELL_ALGORITHMS,
    assert_same_gradients,
    build,
    double,
    freeze_norms,
    sgd,
    total,
    views,
)
from .loops import info_nce, unit
from .shapes import largest
from .test_terms_on_bases import moved_target

pytestmark = pytest.mark.filterwarnings("ignore:bn_splits=1")
KM = dict(type="CellClusters", num_clusters=3, num_cells=None, queue_len=32)
PM = dict(type="CellPrototypes", num_prototypes=5)


def rows(*vectors):
    return torch.tensor(vectors, dtype=torch.double)


def inputs(batch=4, seed=0):
    return [x.double() for x in views(batch, seed, 64)]


def losses(model, given):
    return model(given, mode="loss")


def clustered(model, seed=3):
    """Give a KM model centroids, as a clustering does."""
    term = model.terms.semantic
    term.centroids.copy_(unit(*term.centroids.shape, seed=seed))
    term.clusterings.count_step()
    return model


# The sheet's cases by hand


def test_neighbours_by_hand():
    likeness = rows((0.9, 0.8, 0.1), (0.85, 0.7, 0.2), (0.3, 0.6, 0.5))
    key = torch.eye(3, dtype=torch.double)[None]
    index, kept = neighbour_cells(likeness[None], key, 1, mutual=True)
    assert index[0, :, 0].tolist() == [0, 0, 1]
    assert kept[0, :, 0].tolist() == [True, False, False]
    index, kept = neighbour_cells(likeness[None], key, 2)
    assert index[0].tolist() == [[0, 1], [0, 1], [1, 2]] and kept.all()
    _, kept = neighbour_cells(likeness[None], key, 2, mutual=True)
    assert kept[0].tolist() == [[True, True], [True, True], [False, True]]


def with_cosines(*cosines):
    """Unit rows in the plane at these cosines from (1, 0)."""
    return rows(*((c, math.sqrt(1 - c * c)) for c in cosines))


@pytest.mark.parametrize(("count", "wanted"), [(1, 0.036270), (2, 0.065972)])
def test_pixel_loss_by_hand(count, wanted):
    t, queue = with_cosines(0.9, 0.7)[None, :count], with_cosines(0.2, -0.1)
    kept = torch.ones(1, count, dtype=torch.bool)
    loss = several_positives(rows((1, 0)), t, kept, queue, 0.2)
    assert loss.item() == pytest.approx(wanted, abs=1e-6)
    none = several_positives(rows((1, 0)), t, ~kept, queue, 0.2)
    assert none.item() == 0


def test_classes_by_hand():
    every = torch.ones(1, 4, dtype=torch.bool)
    same = torch.tensor([[True, True, False, False]])
    average, _ = class_contrast(
        rows((1, 0)), with_cosines(0.9, 0.5, 0.1, 0), same, every, 0.2
    )
    assert average.item() == pytest.approx(1.152515, abs=1e-6)
    cells, labels = rows((1, 0), (0.8, 0.6), (0, 1), (-0.6, 0.8)), [0, 0, 1, 1]
    same = torch.tensor([[a == b for a in labels] for b in labels])
    others = ~torch.eye(4, dtype=torch.bool)
    loss, found = class_contrast(cells, cells, same, others, 0.2)
    wanted = [0.019045, 0.326563, 0.326563, 0.019045]
    assert loss.tolist() == pytest.approx(wanted, abs=1e-6) and found.all()
    assert loss.mean().item() == pytest.approx(0.172804, abs=1e-6)
    alike = unit(1, 3).expand(6, 3)
    every, others = torch.ones(6, 6, dtype=torch.bool), ~torch.eye(6, dtype=torch.bool)
    loss, _ = class_contrast(alike, alike, every, others, 0.2)
    assert loss.tolist() == pytest.approx([math.log(5)] * 6)


def test_single_cells_of_a_class_count_nothing():
    r = unit(3, 4).requires_grad_()
    eye = torch.eye(3, dtype=torch.bool)
    for others in (~eye, torch.zeros_like(eye)):  # no others at all
        loss, found = class_contrast(r, r.detach(), eye, others, 0.2)
        assert not loss.any() and not found.any()
        (gradient,) = torch.autograd.grad(loss.sum(), r)
        assert not gradient.any()


def test_codes_by_hand():
    codes = sinkhorn(rows((1, 0), (0.8, 0.2), (0.3, 0.9)), 0.5)
    wanted = rows((0.777661, 0.222339), (0.611135, 0.388865), (0.124781, 0.875219))
    torch.testing.assert_close(codes, wanted, rtol=0, atol=1e-6)
    one_hot = -(rows((1, 0)) * (rows((0.8, 0.6)) / 0.1).log_softmax(1)).sum()
    assert one_hot.item() == pytest.approx(0.126928, abs=1e-6)
    scores = unit(60, 8) @ unit(4, 8, seed=1).T
    codes = sinkhorn(scores, 0.2, 500)
    torch.testing.assert_close(codes.sum(1), torch.ones(60).double())
    torch.testing.assert_close(
        codes.sum(0), torch.full((4,), 15.0).double(), rtol=1e-3, atol=0
    )
    assert codes.min() >= 0 and codes.max() <= 1
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(sinkhorn(scores[:, order], 0.2, 500), codes[:, order])
    assert sinkhorn(-scores.float().abs().sqrt(), 0.05).isfinite().all()


def test_gradients_of_the_losses():
    r, queue = unit(3, 4).requires_grad_(), unit(5, 4, seed=1)
    t, kept = unit(3, 2, 4, seed=2), torch.tensor([[True, True], [True, False]] * 2)[:3]
    torch.autograd.gradcheck(lambda x: several_positives(x, t, kept, queue, 0.2), r)
    same = torch.tensor([[0, 1, 1], [1, 0, 0], [0, 0, 0]], dtype=torch.bool)
    others = ~torch.eye(3, dtype=torch.bool)
    torch.autograd.gradcheck(
        lambda x: class_contrast(x, t[:, 0], same, others, 0.2)[0], r
    )


# Whole steps, cell by cell


def loop_encode(encoder, view):
    """Unit features and projections of every cell, N x S^2 each."""
    last = encoder.backbone(view)[-1]
    dense = encoder.neck.mlp2(last).flatten(2).mT
    return normalize(last.flatten(2).mT, dim=2).detach(), normalize(dense, dim=2)


def loop_matches(cells, others, n):
    """The n most similar cells of a cell, nearest first."""
    likeness = [(cells @ x).item() for x in others]
    return sorted(range(len(others)), key=lambda b: -likeness[b])[:n]


def loop_neighbours(model, query, key, n, mutual):
    queue, loss = model.terms.dense.queue.keys.double(), 0
    for image in range(len(query[0])):
        cells, others = query[0][image], key[0][image]
        for a in range(len(cells)):
            near = loop_matches(cells[a], others, n)
            if mutual:
                near = [b for b in near if a in loop_matches(others[b], cells, n)]
            rows_ = [
                info_nce(query[1][image, a], key[1][image, b], queue, 0.2) for b in near
            ]
            loss = loss + sum(rows_) / max(1, len(rows_))
    return loss / query[0].shape[:2].numel()


def loop_prototypes(model, query, key):
    prototypes = normalize(model.terms.semantic.prototypes.weight)
    t = key[1].flatten(0, 1)
    q = (t @ prototypes.T.detach() / 0.05).exp()
    for _ in range(3):
        q = torch.stack([q[:, k] / q[:, k].sum() for k in range(q.shape[1])], 1)
        q = torch.stack([row / row.sum() for row in q])
    codes, loss = q.view(*key[1].shape[:2], -1), 0
    for image in range(len(query[0])):
        for a, cell in enumerate(query[0][image]):
            (b,) = loop_matches(cell, key[0][image], 1)
            logits = prototypes @ query[1][image, a] / 0.1
            loss = loss - codes[image, b] @ logits.log_softmax(0)
    return loss / query[0].shape[:2].numel()


def loop_clusters(model, query, key, same_image):
    centroids, cells = model.terms.semantic.centroids, []
    for image in range(len(query[0])):
        for a, cell in enumerate(query[0][image]):
            (b,) = loop_matches(cell, key[0][image], 1)
            t = key[1][image, b]
            label = max(range(len(centroids)), key=lambda k, t=t: t @ centroids[k])
            cells.append((image, query[1][image, a], t, label))
    found = []
    for i, (image, r, _, label) in enumerate(cells):
        others = [
            x for j, x in enumerate(cells) if (j != i if same_image else x[0] != image)
        ]
        own = [r @ t / 0.2 for _, _, t, other in others if other == label]
        if own:
            whole = torch.stack([r @ t / 0.2 for _, _, t, _ in others]).logsumexp(0)
            found.append(whole - sum(own) / len(own))
    assert len(found) > 1
    return sum(found) / len(found)


@pytest.mark.parametrize(
    ("dense", "semantic"),
    [
        (dict(num_neighbours=2), PM),
        (dict(num_neighbours=1), KM),
        (dict(num_neighbours=2, mutual=True), KM | dict(same_image=True)),
    ],
    ids=["pm", "km", "other-choices"],
)
def test_losses_and_gradients_equal_the_loops(dense, semantic):
    config = dict(dense=dense, semantic=semantic, momentum=1.0)
    model = moved_target(double(build("DSC", **config)))
    if semantic["type"] == "CellClusters":
        clustered(model)
    given, twin = inputs(), copy.deepcopy(model)
    found = losses(model, given)
    query = loop_encode(twin, given[0])
    with torch.no_grad():
        key = loop_encode(twin.target, given[1])
    n = dense["num_neighbours"]
    pixel = loop_neighbours(twin, query, key, n, dense.get("mutual", False))
    if semantic["type"] == "CellPrototypes":
        classes = loop_prototypes(twin, query, key)
    else:
        classes = loop_clusters(twin, query, key, semantic.get("same_image", False))
    # Products with the queue are fp32 there, and the queues are.
    assert found["raw_dense"].item() == pytest.approx(pixel.item(), rel=1e-6)
    assert found["raw_semantic"].item() == pytest.approx(classes.item(), rel=1e-6)
    assert found["loss_semantic"].item() == 0.5 * found["raw_semantic"].item()
    (found["loss_dense"] + found["loss_semantic"]).backward()
    (0.5 * pixel + 0.5 * classes).backward()
    assert_same_gradients(model, twin, 2e-6)
    for parameter in model.target.parameters():
        assert parameter.grad is None


@pytest.mark.parametrize("semantic", [PM, KM], ids=["pm", "km"])
def test_one_neighbour_and_no_classes_are_densecl(semantic):
    changes = dict(dense=dict(num_neighbours=1), semantic=semantic | dict(weight=0))
    ours, base = double(build("DSC", **changes)), double(build("DenseCL"))
    state = ours.state_dict()
    base.load_state_dict({k: v for k, v in state.items() if "semantic" not in k})
    for seed in range(2):
        given = inputs(seed=seed)
        found, wanted = losses(ours, given), losses(base, given)
        for name, value in wanted.items():
            assert found[name].item() == pytest.approx(value.item(), rel=1e-12), name
        for model, figures in ((ours, found), (base, wanted)):
            model.zero_grad()
            total(figures).backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter -= 0.1 * parameter.grad
    for name, value in base.state_dict().items():
        torch.testing.assert_close(
            ours.state_dict()[name], value, rtol=1e-12, atol=1e-14
        )


def test_the_order_of_classes_changes_nothing():
    for semantic, key in ((PM, "prototypes.weight"), (KM, "centroids")):
        pair = []
        for turn in (0, 1):
            model = double(build("DSC", semantic=semantic))
            if semantic is KM:
                clustered(model)
            values = model.terms.semantic.get_submodule("").state_dict()[key]
            with torch.no_grad():
                values.copy_(values.roll(turn, 0))
            pair.append(losses(model, inputs())["raw_semantic"].item())
        assert pair[0] == pytest.approx(pair[1], rel=1e-12)


# Clusters in the course of a training


def training(epoch=0, iteration=0, by_epoch=True):
    return SimpleNamespace(
        epoch=epoch,
        iteration=iteration,
        by_epoch=by_epoch,
        seed=0,
        logger=logging.getLogger("dsc"),
    )


@pytest.mark.parametrize(("epochs", "told"), [(3, True), (4, False)])
def test_clusters_that_never_begin_are_told(epochs, told):
    model = build("DSC", semantic=KM | dict(interval=3))
    model.clock.total, model.clock.epoch_length = 5 * epochs, 5
    run = mock.Mock(iteration=0, by_epoch=True)
    model.start(run)
    said = [call.args[0] for call in run.logger.warning.call_args_list]
    assert ("CellClusters begins after epoch 3" in " ".join(said)) is told


def test_clusters_begin_after_an_epoch_and_go_on_exactly(caplog):
    model = build("DSC", semantic=KM | dict(num_cells=2))
    term, optimizer = model.terms.semantic, sgd(model)
    term.start(training())
    found = losses(model, views(8, 0, 64))
    assert found["raw_semantic"] == 0 and "same_class" not in found
    assert (term.queue.labels >= 0).sum() == 8  # one cell of each key view
    cells = normalize(term.queue.keys[:8])
    torch.testing.assert_close(cells, term.queue.keys[:8])
    with caplog.at_level(logging.INFO, "dsc"):
        term.end_epoch(training())
    assert "3 clusters of 8 cells" in caplog.text
    torch.testing.assert_close(term.centroids.norm(dim=1), torch.ones(3))
    own = (cells @ term.centroids.T).argmax(1)
    assert set(own.tolist()) == {0, 1, 2}

    restored = build("DSC", semantic=KM | dict(num_cells=2), seed=1)
    restored.load_state_dict(model.state_dict())
    again = sgd(restored)
    for seed in (1, 2):
        figures = []
        for one, steps in ((model, optimizer), (restored, again)):
            made = losses(one, views(8, seed, 64))
            steps.zero_grad()
            total(made).backward()
            steps.step()
            figures.append({k: v.item() for k, v in made.items()})
        assert figures[0] == figures[1] and 0 < figures[0]["same_class"] <= 1
        model.terms.semantic.end_epoch(training(seed))
        restored.terms.semantic.end_epoch(training(seed))
    for name, value in model.state_dict().items():
        assert torch.equal(restored.state_dict()[name], value), name
    term.start(training(3, 9))  # resumed
    assert term.clusterings.num_steps == 3
    term.start(training())  # another training begins with these weights
    assert term.clusterings.num_steps == 0 and (term.queue.labels < 0).all()


def test_too_few_cells_leave_the_clusters_for_later(caplog):
    term = build("DSC", semantic=KM).terms.semantic
    with caplog.at_level(logging.WARNING, "dsc"):
        term.end_epoch(training())
    assert "lower num_clusters=3" in caplog.text and not term.clusterings.num_steps


# Two ranks, memory, mixed precision


def run(rank, world_size):
    found = []
    for semantic in (PM, KM | dict(num_cells=2)):
        config = dict(semantic=semantic, queue_len=12, bn_splits=None)
        model = freeze_norms(double(build("DSC", **config)))
        if semantic["type"] == "CellClusters":
            clustered(model)
        call = DistributedDataParallel(model) if world_size > 1 else model
        optimizer, history = sgd(model), []
        for seed in range(2):
            given = [x.chunk(world_size)[rank] for x in inputs(6, seed)]
            figures = losses(call, given)
            optimizer.zero_grad()
            total(figures).backward()
            optimizer.step()
            history.append({name: x.item() for name, x in figures.items()})
        model.terms.semantic.end_epoch(training()) if semantic is not PM else None
        found.append((history, model.state_dict()))
    return found


def on_a_rank(rank):
    return run(rank, 2)


def test_two_ranks_equal_one():
    ranks, alone = run_ranks(on_a_rank, 2), run(0, 1)
    for i, (wanted, state) in enumerate(alone):
        for t, figures in enumerate(wanted):
            for name, value in figures.items():
                mean = sum(rank[i][0][t][name] for rank in ranks) / 2
                assert mean == pytest.approx(value, rel=1e-6), (i, name)
        for rank in ranks:
            for name, value in state.items():
                torch.testing.assert_close(
                    rank[i][1][name], value, rtol=1e-5, atol=1e-6, msg=name
                )


def test_no_matrix_of_cells_and_queue_also_in_bfloat16():
    assert "DSC" in CELL_ALGORITHMS
    model = build("DSC", queue_len=65536)
    given = views(16, 0, 64)
    cells = 16 * 4
    assert largest(lambda: total(losses(model, given)).backward()) < cells * 65536
    with torch.autocast("cpu", torch.bfloat16):
        found = losses(model, given)
    assert all(torch.isfinite(x) for x in found.values())


# What does not suit


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (dict(dense=dict(num_neighbours=0)), "num_neighbours=0 of the term DenseNeigh"),
        (dict(semantic=dict(num_prototypes=0)), "num_prototypes=0 of the term CellPro"),
        (dict(semantic=dict(epsilon=0)), "epsilon=0 is not a temperature"),
        (dict(semantic=KM | dict(num_clusters=64)), "num_clusters=64 clusters cannot"),
        (dict(semantic=KM | dict(num_cells=0)), "num_cells=0 of the term CellClusters"),
    ],
)
def test_wrong_values_say_what_to_change(changes, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        build("DSC", **changes)


def test_what_a_run_or_a_view_has_not_got_is_refused():
    with pytest.raises(ValueError, match="compares the cells that the term Dense proj"):
        build("MoCo", terms=[PM])
    with pytest.raises(ValueError, match="clusters after epochs, which this run has"):
        build("DSC", semantic=KM).terms.semantic.start(training(by_epoch=False))
    model = build("DSC", dense=dict(num_neighbours=5))
    with pytest.raises(ValueError, match="cannot be found among 4 cells of a view"):
        losses(model, views(4, 0, 64))
