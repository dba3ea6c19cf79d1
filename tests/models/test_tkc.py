"""TKC: teachers of earlier stages, by hand and against loops, and their ring."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.functional import normalize

from mmssl_ext.models.algorithms import Step
from mmssl_ext.models.layers.knowledge_transformer import KnowledgeTransformer
from mmssl_ext.models.memory import Clock, Snapshots
from mmssl_ext.models.schedules import schedule
from tests.distributed import run_ranks

from .bases import build, losses, method, sgd, term, total, train, views
from .common import double
from .loops import info_nce, unit
from .shapes import largest
from .test_terms_on_bases import DOUBLE, agrees, unlike_target

BOTH = ((0, 1), (1, 0))
LEARNED = dict(learn_weights=True)


def rows(*vectors):
    return torch.tensor(vectors, dtype=torch.double)


# The sheet's cases by hand

Q, Z0, T1, T2 = rows((0.6, 0.8)), rows((1, 0)), rows((0.8, 0.6)), rows((0, 1))


def narrow(base, count, scores, **changes):
    """A model of two features with teachers, none of which a transformer follows."""
    neck = dict(
        type="LinearNeck", in_channels=64, out_channels=2, gap_dim=2, norm_cfg=None
    )
    more = dict(num_teachers=count, hidden=None, form="base")
    chosen = term("TemporalTeachers", **LEARNED | more)
    model = double(build(method(base, chosen, neck=neck, **changes)))
    with torch.no_grad():
        model.terms.temporal.scores.copy_(torch.tensor(scores))
    return model


def by_hand(model, *teachers):
    """Loss of the query by the base, and of all teachers by the term."""
    found = {f"temporal{i}": t for i, t in enumerate(teachers)}
    step = Step({}, None, None, {0: {"embedding": Q}}, {1: found}, {})
    return model.compare.pair(Q, Z0).item(), model.terms.temporal(model, step)


def byol(count, scores):
    predictor = dict(type="LinearNeck", in_channels=2, out_channels=2)
    return narrow("BYOL", count, scores, predictor=predictor, pairs=((0, 1),))


def test_regression_by_hand():
    model = byol(2, (1, 0))
    base, loss = by_hand(model, T1, T2)
    w = model.terms.temporal.scores.softmax(0)
    torch.testing.assert_close(w.detach(), rows(0.731059, 0.268941), atol=1e-6, rtol=0)
    assert base == pytest.approx(0.8)
    assert base + loss.item() == pytest.approx(0.966061, abs=1e-6)
    mean = w[0] * T1 + w[1] * T2  # not of unit length
    assert loss.item() == pytest.approx((2 - 2 * Q @ mean.T).item(), abs=1e-9)
    assert (2 - 2 * Q @ normalize(mean).T).item() == pytest.approx(0.002229, abs=1e-6)
    loss.backward()  # the weight moves to the closer teacher
    slope = model.terms.temporal.scores.grad
    torch.testing.assert_close(slope, rows(-0.062916, 0.062916), atol=1e-6, rtol=0)
    assert by_hand(byol(2, (0, 0)), T1, T2)[1].item() == pytest.approx(0.24)


@pytest.mark.parametrize(
    ("teachers", "scores", "expected"),
    [((T1, T2), (1, 0), 0.003237), ((Z0, T1, T2), (2, 1, 0), 0.010828)],
)
def test_contrast_by_hand(teachers, scores, expected):
    model = narrow("MoCo", len(teachers), scores, queue_len=2)
    model.compare.queue.keys.copy_(rows((0.6, -0.8), (-1, 0)))
    base, loss = by_hand(model, *teachers)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert base == pytest.approx(0.014648, abs=1e-6)
    model.terms.temporal.scores.data.copy_(
        torch.tensor((50.0, *[0.0] * 2)[: len(scores)])
    )
    first = by_hand(model, *teachers)[1].item()  # one teacher counts alone
    assert first == pytest.approx(
        0.002436 if len(teachers) == 2 else 0.014648, abs=1e-6
    )


# The term on its bases


@pytest.mark.parametrize(
    ("base", "changes"),
    [
        ("MoCo", dict(pairs=BOTH, reduce="sum")),
        ("BYOL", dict(reduce="mean")),
        ("SimSiam", {}),
    ],
)
@pytest.mark.parametrize("form", ["base", "regression"])
def test_loss_and_gradient_equal_the_loop(base, changes, form):
    chosen = term("TemporalTeachers", form=form, **LEARNED)
    model = unlike_target(base, chosen, **changes)
    with torch.no_grad():
        model.terms.temporal.scores.copy_(rows(0.5, -0.3))
    inputs, count = views(4, **(DOUBLE | dict(size=32))), 4

    def truth(twin):
        temporal, loss = twin.terms.temporal, 0
        w = [s.exp() / sum(x.exp() for x in temporal.scores) for s in temporal.scores]
        q = [twin.compare.predict(twin.neck(twin.backbone(x))[0]) for x in inputs]
        for i, network in enumerate(temporal.snapshots.networks):
            inner, outer = (
                temporal.transformers[i].inner,
                temporal.transformers[i].outer,
            )
            for a, b in model.pairs:
                z = normalize(network["neck"](network["backbone"](inputs[b]))[0])
                hidden = z.detach() @ inner[0].weight.T
                mean, spread = hidden.mean(0), hidden.var(0, unbiased=False)
                hidden = (hidden - mean) / (spread + inner[1].eps).sqrt()
                hidden = (hidden * inner[1].weight + inner[1].bias).clamp(min=0)
                t = z.detach() + hidden @ outer.weight.T + outer.bias
                for n in range(count):
                    one, other = normalize(q[a][n], dim=0), normalize(t[n], dim=0)
                    if base == "MoCo" and form == "base":
                        queue, temperature = twin.compare.queue.keys, 0.2
                        found = info_nce(one, other, queue, temperature)
                    else:
                        same = base == "SimSiam" and form == "base"
                        shift, scale = (0, 1) if same else (2, 2)
                        found = shift - scale * one @ other
                    loss = loss + w[i] * found / count
        return loss if model.reduce == "sum" else loss / len(model.pairs)

    found = agrees(model, "temporal", inputs, truth)
    shares = [found[f"temporal_share{i}"].item() for i in range(2)]
    assert sum(shares) == pytest.approx(1) and min(shares) > 0


def test_gradients_numerically():
    model = narrow("MoCo", 2, (0.3, 0), queue_len=2)
    transformer = KnowledgeTransformer(2, 3).double()
    torch.nn.init.normal_(transformer.outer.weight)
    model.terms.temporal.transformers = torch.nn.ModuleList([transformer, transformer])
    t1, t2 = unit(3, 2, seed=1), unit(3, 2, seed=2)

    def loss(q, *weights):
        found = {"temporal0": t1, "temporal1": t2}
        online = {0: {"embedding": normalize(q)}}
        step = Step({}, None, None, online, {1: found}, {})
        return model.terms.temporal(model, step)

    q = 3 * unit(3, 2, seed=4)
    learned = transformer.inner[0].weight, transformer.outer.weight
    assert torch.autograd.gradcheck(loss, (q.requires_grad_(), *learned))


@pytest.mark.parametrize("base", ["MoCo", "BYOL"])
def test_begins_as_the_base(base):
    """Before the first copy, and with a weight of 0, nothing else is trained."""
    for changes in (dict(interval=5), dict(interval=1, weight=0)):
        chosen = term("TemporalTeachers", **changes)
        plain = double(build(method(base)))
        ours = double(build(method(base, chosen)))
        ours.terms.temporal.snapshots.clear()
        for seed in range(3):
            inputs = views(4, seed, 32, dtype=torch.double)
            found, wanted = (train(m, inputs, sgd(m)) for m in (ours, plain))
            assert found.pop("loss_temporal") == 0
            assert found.pop("raw_temporal") >= 0
            assert found == wanted
        state = ours.state_dict()
        for name, value in plain.state_dict().items():
            assert torch.equal(state[name], value), name
        assert len(ours.terms.temporal.snapshots) == (2 if "weight" in changes else 0)


def test_a_copy_of_now_is_the_base_again():
    """A teacher that equals the target, behind the identity: the base's own loss."""
    chosen = term("TemporalTeachers", num_teachers=1, hidden=8)
    model = double(build(method("BYOL", chosen, momentum=1.0)))
    model.target.num_steps = 1  # or it would be copied once more
    model.terms.temporal.snapshots.clear()
    model.terms.temporal.take(model)
    for module in (model.target, model.terms.temporal.snapshots):
        module.eval()  # the momentum network's BatchNorm, as a teacher's
    found = losses(model, views(6, **DOUBLE))
    assert found["raw_temporal"].item() == pytest.approx(
        found["raw_instance"].item(), rel=1e-12
    )


def test_the_transformer_begins_as_the_identity():
    z, transformer = unit(6, 8), KnowledgeTransformer(8, 12).double()
    torch.testing.assert_close(transformer(z), z, rtol=0, atol=1e-15)
    torch.nn.init.ones_(transformer.outer.weight)
    assert (transformer(z) - z).abs().max() > 0.1
    transformer.reset()
    torch.testing.assert_close(transformer(z), z, rtol=0, atol=1e-15)


# The ring


def clock_at(iteration, epoch_length=None):
    clock = Clock()
    clock.epoch_length = epoch_length
    clock.set(iteration)
    return clock


def test_the_oldest_copy_goes():
    model = build(method("MoCo", term("TemporalTeachers", interval=2, **LEARNED)))
    temporal, sources = model.terms.temporal, {}
    temporal.snapshots.clear()
    optimizer, history = sgd(model), []
    for seed in range(7):
        before = copy.deepcopy(temporal.snapshots.state_dict())
        train(model, views(4, seed, 32), optimizer)
        sources[seed] = copy.deepcopy(model.target.state_dict())
        history.append(list(temporal.snapshots.taken))
        after = temporal.snapshots.state_dict()
        place = {2: 0, 4: 1, 6: 0}.get(seed)
        for name, value in after.items():  # nothing but the new copy changes
            if name != "born" and not name.startswith(f"networks.{place}."):
                assert torch.equal(value, before[name]), name
    assert history == [[-1, -1]] * 2 + [[2, -1]] * 2 + [[2, 4]] * 2 + [[6, 4]]
    assert temporal.snapshots.born.tolist() == [6, 4]
    for place, born in enumerate(history[-1]):
        copied = temporal.snapshots.networks[place].state_dict()
        for name, value in copied.items():
            assert torch.equal(value, sources[born][name]), name
    assert not any(m.training for m in temporal.snapshots.modules())
    restored = build(method("MoCo", term("TemporalTeachers", interval=2, **LEARNED)), 1)
    restored.load_state_dict(model.state_dict())
    assert restored.terms.temporal.snapshots.taken == [6, 4]


def test_a_new_teacher_forgets_what_its_place_learned():
    model = build(method("MoCo", term("TemporalTeachers", **LEARNED)))
    temporal = model.terms.temporal
    with torch.no_grad():
        temporal.scores.copy_(torch.tensor([2.0, -1.0]))
    temporal.snapshots.taken = [3, 6]
    kept = temporal.transformers[1].outer.weight.clone()
    model.clock.set(9)
    temporal.take(model)
    assert temporal.scores.tolist() == [-1, -1] and temporal.snapshots.taken == [9, 6]
    assert not temporal.transformers[0].outer.weight.any()
    assert torch.equal(temporal.transformers[1].outer.weight, kept)


def test_intervals_are_epochs_or_iterations():
    part = {"backbone": torch.nn.Linear(1, 1)}
    for by_epoch, length in ((True, 7), (False, 1)):
        ring = Snapshots(part, 2, 3, by_epoch)
        due = [i for i in range(70) if ring.is_due(clock_at(i, 7))]
        assert due == list(range(3 * length, 70, 3 * length))
    with pytest.raises(ValueError, match="by epochs, whose length is not known"):
        Snapshots(part, 2, 3).is_due(clock_at(5))


def test_the_loss_rises_once_there_is_a_teacher():
    chosen = term("TemporalTeachers", interval=4, ramp=0.5)
    model = build(method("SimSiam", chosen))
    found, inputs = [], views(4, size=32)
    model.terms.temporal.snapshots.clear()
    for _ in range(8):
        with torch.no_grad():
            found.append(losses(model, inputs)["raw_temporal"].item())
    assert found[:5] == [0] * 5
    whole = found[6]  # nothing is trained but running statistics
    assert found[5] == pytest.approx(whole / 2, rel=1e-3)
    assert found[7] == pytest.approx(whole, rel=1e-3) != 0


class Run:
    """What a part asks of a training."""

    def __init__(self, iteration):
        self.iteration = iteration

    def now(self, value):
        return value(clock_at(self.iteration, 5))


@pytest.mark.parametrize(
    ("iteration", "wanted"), [(10, 0), (11, 1), (20, 1), (21, 2), (90, 2)]
)
def test_a_snapshot_that_is_missing_at_resume_is_told(iteration, wanted):
    chosen = term("TemporalTeachers", interval=2, by_epoch=True)
    model = build(method("MoCo", chosen))
    temporal = model.terms.temporal
    temporal.start(Run(iteration))
    temporal.snapshots.taken[0] = -1
    if wanted < 2:
        temporal.start(Run(iteration))
        temporal.snapshots.clear()
    if wanted:
        sentence = (
            f"By iteration {iteration} {wanted} snapshots of the encoder had been "
        )
        with pytest.raises(ValueError, match=f"{sentence}.* holds {wanted - 1}: "):
            temporal.start(Run(iteration))
    temporal.start(Run(0))  # a new training with weights of another begins anew
    assert temporal.snapshots.taken == [-1, -1]


def test_passes_of_a_step():
    """One of each teacher for each target view, and none of the others' gradients."""
    seen: list[bool] = []
    for pairs, passes in ((((0, 1),), 2), (BOTH, 4)):
        model = build(method("MoCo", "TemporalTeachers", pairs=pairs))
        seen.clear()
        for network in model.terms.temporal.snapshots.networks:
            network["backbone"].register_forward_hook(
                lambda *_: seen.append(torch.is_grad_enabled())
            )
        losses(model, views(4, size=32))
        assert seen == [False] * passes


def test_no_matrix_of_queries_and_queue():
    chosen = term("TemporalTeachers", form="base")
    model = build(method("MoCo", chosen, queue_len=65536))
    inputs = views(64, size=32)
    assert largest(lambda: total(losses(model, inputs)).backward()) < 64 * 65536
    with torch.autocast("cpu", torch.bfloat16):
        found = losses(model, inputs)
    assert all(torch.isfinite(value) for value in found.values())


def statistics(rank):
    """Two ranks whose running statistics differ take one snapshot."""
    model = build(method("MoCo", term("TemporalTeachers", interval=1)))
    model.terms.temporal.snapshots.clear()
    optimizer = sgd(model)
    for seed in range(2):
        train(model, views(4, 10 * rank + seed, 32), optimizer)
    own = model.target.backbone.bn1.running_mean
    ring = model.terms.temporal.snapshots
    return own, ring.networks[0]["backbone"].bn1.running_mean, ring.taken


def test_ranks_share_their_statistics():
    (one, *first), (two, *second) = run_ranks(statistics, 2)
    assert not torch.equal(one, two)
    assert first[1] == second[1] == [1, -1]
    assert torch.equal(first[0], second[0])
    torch.testing.assert_close(first[0], (one + two) / 2)


def test_weight_and_gradient_of_a_schedule():
    """alpha may be a schedule, and multiplies the gradient of the scores."""
    alpha = schedule(dict(kind="linear", start=0, end=2, until=4), "temporal.weight")
    found = []
    for weight in (alpha, 1):
        chosen = term("TemporalTeachers", weight=weight, **LEARNED)
        model = double(build(method("BYOL", chosen)))
        model.clock.set(1)
        total(losses(model, views(4, **DOUBLE))).backward()
        found.append(model.terms.temporal.scores.grad)
    torch.testing.assert_close(found[0], found[1] / 2)
