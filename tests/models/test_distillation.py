"""SimReg, its relatives over a queue and by cells, and each beside any base."""

import copy
import math
import re
from itertools import product

import pytest
import torch
from torch.nn.functional import interpolate, normalize

from mmssl_ext.models.layers.teacher_head import teacher_head
from mmssl_ext.models.losses import (
    map_distillation,
    queue_distillation,
    similarity_distillation,
    standardised,
)
from tests.distributed import run_ranks

from .bases import BACKBONE, build, losses, method, sgd, total, train, views

WIDE = BACKBONE | dict(base_channels=16)  # 128 channels
double = torch.float64
CASE = dict(
    t=torch.tensor([[1.0, 0]], dtype=double),
    s=torch.tensor([[0.6, 0.8]], dtype=double),
    queue=torch.tensor([[1, 0], [0, 1], [-0.6, 0.8]], dtype=double),
)


# The losses by hand and by loops


def loop_kl(s, t, queue, temperature):
    """KL of two softmaxes over the queue, entry by entry, mean over the rows."""
    found = []
    for one, other in zip(s, t, strict=True):
        logits = [
            [float(row @ key) / temperature for key in queue] for row in (other, one)
        ]
        p, q = ([math.exp(x) for x in line] for line in logits)
        p, q = ([x / sum(line) for x in line] for line in (p, q))
        found.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    return sum(found) / len(found)


@pytest.mark.parametrize(("temperature", "value"), [(0.5, 0.577864), (0.07, 2.913537)])
def test_queue_distillation_by_hand(temperature, value):
    """Cases 2 and 3 of the sheet."""
    found = queue_distillation(**CASE, temperature=temperature)
    assert found.tolist() == [pytest.approx(value, abs=1e-6)]


def test_rows_of_zeros_take_a_share_of_the_softmax():
    """Case 4 of the sheet."""
    queue = torch.eye(2, dtype=double)
    zeros = torch.cat([queue, torch.zeros(2, 2, dtype=double)])
    t, s = CASE["t"], CASE["s"]
    assert queue_distillation(s, t, zeros, 0.5).item() == pytest.approx(
        0.403760, abs=1e-6
    )
    found = queue_distillation(s, t, queue, 0.5).item()
    assert found == pytest.approx(loop_kl(s, t, queue, 0.5))


def test_queue_distillation_equals_the_loop_and_its_gradient():
    generator = torch.Generator().manual_seed(0)
    s, t, queue = (
        normalize(torch.randn(n, 6, generator=generator, dtype=double))
        for n in (5, 5, 11)
    )
    found = queue_distillation(s, t, queue, 0.2).mean().item()
    assert found == pytest.approx(loop_kl(s, t, queue, 0.2))
    order = torch.randperm(11, generator=generator)
    permuted = queue_distillation(s, t, queue[order], 0.2)
    torch.testing.assert_close(permuted, queue_distillation(s, t, queue, 0.2))
    s.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: queue_distillation(x, t, queue, 0.2), s)
    same = queue_distillation(t.clone().requires_grad_(), t, queue, 0.2)
    torch.testing.assert_close(same, torch.zeros_like(same))
    row = t.clone().requires_grad_()
    queue_distillation(row, t, queue, 0.2).sum().backward()
    torch.testing.assert_close(row.grad, torch.zeros_like(row))


def test_similarity_distillation_equals_the_loop_and_its_gradient():
    generator = torch.Generator().manual_seed(0)
    s = torch.randn(2, 3, 2, 2, generator=generator, dtype=double)
    t = torch.randn(2, 5, 3, 2, generator=generator, dtype=double)
    grown = interpolate(s, (3, 2), mode="bilinear", align_corners=False)
    values = []
    for ours, wanted in zip(grown, t, strict=True):
        cells, others = (normalize(x.flatten(1).T) for x in (ours, wanted))
        # Of each cell, over the cells of the image: the cells are the queue.
        for i in range(6):
            p = torch.tensor([others[i] @ others[j] / 0.3 for j in range(6)]).exp()
            q = torch.tensor([cells[i] @ cells[j] / 0.3 for j in range(6)]).exp()
            p, q = p / p.sum(), q / q.sum()
            values.append(sum(a * (a / b).log() for a, b in zip(p, q, strict=True)))
    found = similarity_distillation(s, t, 0.3)
    assert found.item() == pytest.approx(float(sum(values)) / 12)
    s.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: similarity_distillation(x, t, 0.3), s)
    assert similarity_distillation(t, t, 0.3).item() == pytest.approx(0, abs=1e-12)


def test_map_distillation_equals_the_loop_and_its_gradient():
    """Case 5 of the sheet, and the cells one by one."""
    s, t = (
        torch.tensor(rows, dtype=double).T[None, :, :, None]
        for rows in ([[1, 2], [0, 1]], [[0, 2], [2, 1]])
    )
    assert map_distillation(s, t, normalise=False).item() == 1.25
    generator = torch.Generator().manual_seed(0)
    s = torch.randn(2, 3, 2, 2, generator=generator, dtype=double)
    t = torch.randn(2, 3, 4, 2, generator=generator, dtype=double)
    grown = interpolate(s, (4, 2), mode="bilinear", align_corners=False)
    values = [
        2 - 2 * normalize(grown[n, :, i, j], dim=0) @ normalize(t[n, :, i, j], dim=0)
        for n in range(2)
        for i in range(4)
        for j in range(2)
    ]
    torch.testing.assert_close(map_distillation(s, t), sum(values) / 16)
    s.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: map_distillation(x, t), s)


def _standardised(rank, t):
    return standardised(t.chunk(2)[rank])


def test_channels_of_a_teacher_are_standardised_over_all_ranks():
    generator = torch.Generator().manual_seed(0)
    t = 5 + 3 * torch.randn(4, 3, 2, 2, generator=generator)
    t[:, 1] *= 100
    found = standardised(t)
    for d in range(3):
        cells = [float(x) for x in t[:, d].flatten()]
        mean = sum(cells) / 16
        deviation = (sum((x - mean) ** 2 for x in cells) / 16 + 1e-5) ** 0.5
        wanted = torch.tensor([(x - mean) / deviation for x in cells])
        torch.testing.assert_close(found[:, d].flatten(), wanted)
    ranks = torch.cat(run_ranks(_standardised, 2, t))
    torch.testing.assert_close(ranks, found)
    assert standardised(torch.ones(2, 1, 1, 1)).eq(0).all()  # a dead channel


def test_the_head_of_the_paper():
    """From a ResNet-18 to a ResNet-50; another number of layers is refused."""
    head = teacher_head(512, 2048, 4)
    assert sum(p.numel() for p in head.parameters()) == 3_678_720
    kinds = [type(layer).__name__ for layer in head]
    hidden = ["Linear", "BatchNorm1d", "ReLU"]
    assert kinds == [*hidden, "Linear", *hidden, "Linear"]
    assert [type(layer).__name__ for layer in teacher_head(8, 4, 1)] == ["Linear"]
    with pytest.raises(ValueError, match=r"^head_layers=2 must be 4, SimReg's MLP"):
        teacher_head(8, 4, 2)


# The method


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Two trained teachers with 128 channels, of other images than the student's."""
    found = []
    for seed in (7, 8):
        trained = build(
            method(
                "MoCo",
                backbone=WIDE,
                neck=dict(
                    type="MoCoV2Neck", in_channels=128, hid_channels=32, out_channels=16
                ),
            ),
            seed,
        )
        train(trained, views(8, seed, 32), sgd(trained))
        path = tmp_path_factory.mktemp("teacher") / "epoch_1.pth"
        record = dict(input=dict(mean=[100.0, 110, 120], std=[50.0, 60, 70]))
        meta = dict(weights=record) if seed == 7 else {}
        torch.save(dict(state_dict=trained.state_dict(), meta=meta), path)
        trained.eval()
        found.append((str(path), trained.backbone))
    return found


def teacher(checkpoint, **changes):
    load = dict(type="PretrainedBackbone", checkpoint=checkpoint[0])
    return dict(backbone=WIDE | dict(init_cfg=load)) | changes


def simreg(checkpoint, **changes):
    return dict(type="SimReg", backbone=BACKBONE, teacher=teacher(checkpoint)) | changes


def like(model, other):
    """The model with what it has in common with another."""
    state = other.state_dict()
    model.load_state_dict({name: state[name] for name in model.state_dict()})
    return model


QUEUE = dict(type="TeacherSoftmax", length=12)
KINDS = {
    "regression": {},
    "queue": dict(compare=QUEUE),
    "local": dict(terms=[dict(type="LocalSimilarity")]),
    "cells": dict(terms=[dict(type="LocalRegression", standardise=True)]),
    "lightly": dict(compare=QUEUE, terms=[dict(type="LocalSimilarity")], mix=True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_learns_from_one_view_and_goes_on_exactly(checkpoints, kind):
    """All that is trained gets a gradient; the teacher stays, bit for bit."""
    config = simreg(checkpoints[0], **KINDS[kind])
    model = build(config)
    assert model.num_views == 1 and model.pairs == ((0, 0),)
    frozen = copy.deepcopy(model.target.state_dict())
    inputs = views(8, size=64, count=1)
    model.eval().check_inputs(inputs)
    optimizer = sgd(model.train(), 0.2)
    first = train(model, inputs, optimizer)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.any(), name
        else:
            assert name.startswith("target."), name
    for _ in range(12):
        last = train(model, inputs, optimizer)
    assert last["raw_instance"] < (1.1 if model.mix else 0.7) * first["raw_instance"]
    for name, value in model.target.state_dict().items():
        assert torch.equal(value, frozen[name]), name
    assert not any(m.training for m in model.target.modules())

    restored = build(config, 3)
    restored.load_state_dict(model.state_dict())
    for one in (model, restored):
        torch.manual_seed(1)
        one.after = losses(one, inputs)
    assert model.after == restored.after
    # What is exported is the student alone, and its features are those of its backbone.
    assert model.embed(model, inputs[0])["embedding"].shape == (8, 64)


def test_the_loss_is_that_of_the_formula(checkpoints):
    model = build(simreg(checkpoints[1]))
    (view,) = inputs = views(6, size=32, count=1)
    with torch.no_grad():
        t = normalize(checkpoints[1][1](view)[-1].mean((2, 3)))
        s = model.compare.head(model.backbone(view)[-1].mean((2, 3)))
    wanted = sum(2 - 2 * (normalize(a, dim=0) @ b) for a, b in zip(s, t, strict=True))
    found = losses(model, inputs)
    torch.testing.assert_close(found["loss_instance"], wanted / 6)
    assert set(found) == {"loss_instance", "raw_instance"}


def test_levels_are_compared_each_with_its_own(checkpoints):
    """Other maps than the last; the neck and what is exported take the last."""
    term = dict(type="LocalRegression", levels=((0, 1), (-1, 2)))
    config = simreg(
        checkpoints[1], backbone=BACKBONE | dict(out_indices=(1, 3)), terms=[term]
    )
    config["teacher"]["backbone"]["out_indices"] = (0, 2, 3)
    model = build(config)
    (view,) = inputs = views(3, size=64, count=1)
    assert model.embed(model, view)["embedding"].shape == (3, 64)
    model.eval()
    with torch.no_grad():
        maps, others = model.backbone(view), model.target.backbone(view)
        found = losses(model, inputs)["raw_cells"]
        values = []
        for head, own, other in zip(
            model.terms.cells.heads, maps, others[1:], strict=True
        ):
            s = head(own)
            assert s.shape[2] == (2 if own is maps[-1] else 2 * other.shape[2])
            s = interpolate(s, other.shape[2:], mode="bilinear", align_corners=False)
            for n, i, j in product(*(range(x) for x in (3, *other.shape[2:]))):
                one, two = normalize(s[n, :, i, j], dim=0), other[n, :, i, j]
                values.append(2 - 2 * one @ normalize(two, dim=0))
        sizes = [other[:, 0].numel() for other in others[1:]]
    means = [x.mean() for x in torch.stack(values).split(sizes)]
    torch.testing.assert_close(found, sum(means) / 2)
    for levels, sentence in [
        (((2, 0),), r"levels names map 2 of the student, whose backbone returns 2"),
        (((0, 3),), r"levels names map 3 of the teacher, whose backbone returns 3"),
        (((0,),), r"levels=\(\(0,\),\) must be pairs"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            build(config | dict(terms=[term | dict(levels=levels)]))


def test_a_teacher_sees_images_as_it_was_trained(checkpoints):
    """By its file, or as told; what neither tells is as the student's."""
    mean, std = [120.0, 115, 105], [58.0, 57, 56]
    own = dict(data_preprocessor=dict(type="MultiViewPreprocessor", mean=mean, std=std))
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)

    def seen(checkpoint, **changes):
        config = simreg(checkpoint, teacher=teacher(checkpoint, **changes), **own)
        model = build(config)
        step = model.step([pixels], index=torch.arange(4))
        return step.target[0]["projection"]

    def wanted(checkpoint, mean, std):
        mean, std = (torch.tensor(x)[:, None, None] for x in (mean, std))
        with torch.no_grad():
            return checkpoint[1]((pixels - mean) / std)[-1].mean((2, 3))

    told = dict(mean=[0.0, 1, 2], std=[255.0, 254, 253])
    for found, expected in [
        (
            seen(checkpoints[0]),
            wanted(checkpoints[0], [100.0, 110, 120], [50.0, 60, 70]),
        ),
        (seen(checkpoints[0], **told), wanted(checkpoints[0], *told.values())),
        (seen(checkpoints[1]), wanted(checkpoints[1], mean, std)),
    ]:
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_a_queue_holds_the_step_before_its_loss(checkpoints):
    """Also where a batch is larger than the queue: its last rows."""
    model = build(simreg(checkpoints[0], compare=QUEUE))
    before = model.compare.queue.keys.clone()
    inputs = views(5, size=32, count=1)
    found = losses(model, inputs)
    step = model.step(inputs)
    t, s = step.target[0]["embedding"], None
    torch.testing.assert_close(model.compare.queue.keys[:5], t)
    assert torch.equal(model.compare.queue.keys[5:], before[5:])
    again = build(simreg(checkpoints[0], compare=QUEUE))
    s = again.step(inputs).online[0]["embedding"].detach()
    wanted = loop_kl(s.double(), t.double(), model.compare.queue.keys.double(), 0.07)
    assert found["loss_instance"].item() == pytest.approx(wanted, rel=1e-4)
    losses(model, views(14, 1, 32, 1))
    assert model.compare.queue.ptr.item() == (5 + 14) % 12


def test_several_teachers(checkpoints):
    both = [teacher(c) for c in checkpoints]
    model = build(simreg(checkpoints[0], teacher=both))
    inputs = views(6, size=32, count=1)
    single = like(build(simreg(checkpoints[0])), model)
    found, single = losses(model, inputs), losses(single, inputs)
    assert set(found) >= {"loss_instance", "loss_distillation1"}
    torch.testing.assert_close(found["raw_instance"], single["raw_instance"])
    total(found).backward()
    assert model.terms.distillation1.compare.head[0].weight.grad.any()
    assert not any(
        p.requires_grad for p in model.terms.distillation1.teacher.parameters()
    )


def test_mixed_images_are_the_same_for_student_and_teacher(checkpoints):
    model = build(simreg(checkpoints[0], mix=True))
    inputs = views(6, size=32, count=1)
    torch.manual_seed(3)
    lam, order = torch.rand(1), torch.randperm(6)
    torch.manual_seed(3)
    (found,) = model.views_of(inputs)
    torch.testing.assert_close(found, lam * inputs[0] + (1 - lam) * inputs[0][order])
    torch.manual_seed(3)
    step = model.step(inputs)
    plain = build(simreg(checkpoints[0])).step([found])
    for side in ("online", "target"):
        torch.testing.assert_close(
            getattr(step, side)[0]["projection"], getattr(plain, side)[0]["projection"]
        )
    assert model.eval().views_of(inputs) is inputs


def cached(checkpoint, **changes):
    return simreg(
        checkpoint, teacher=teacher(checkpoint, cache=9), pairs=((0, 1),), **changes
    )


def test_kept_features_equal_those_of_now(checkpoints):
    """In the checkpoint, too: a run that goes on computes none again."""
    plain = build(simreg(checkpoints[0], pairs=((0, 1),)))
    model = build(cached(checkpoints[0]))
    random, fixed = views(9, size=32)
    model.eval().check_inputs([random, fixed])
    model.train()
    calls = []
    model.target.backbone.register_forward_hook(lambda *a: calls.append(len(a[2][-1])))
    for rows in ([0, 3, 5, 8], [3, 8, 1, 2], [0, 1, 2, 3]):
        index = torch.tensor(rows)
        inputs = [random[rows], fixed[rows]]
        torch.testing.assert_close(losses(model, inputs, index), losses(plain, inputs))
    assert calls == [4, 2]
    restored = build(cached(checkpoints[0]), 5)
    restored.load_state_dict(model.state_dict())
    assert losses(restored, inputs, index) == losses(model, inputs, index)
    assert calls == [4, 2]


def test_a_view_that_changes_is_not_taken_for_the_first(checkpoints):
    model = build(cached(checkpoints[0]))
    random, fixed = views(9, size=32)
    losses(model, [random[:4], fixed[:4]])
    other = fixed[:4].clone()
    other[2] = other[2].flip(-1)
    with pytest.raises(ValueError, match=r"the target view of image 2 is not what it"):
        losses(model, [random[:4], other])
    with pytest.raises(
        ValueError, match=r"^target\.cache=9 is less than the dataset's"
    ):
        losses(model, [random[:4], fixed[:4]], torch.tensor([0, 1, 2, 9]))
    with pytest.raises(ValueError, match=r"but the batch does not say which images"):
        model([random, fixed], mode="loss")


# Beside another base


@pytest.mark.parametrize("base", ["MoCo", "BYOL", "SimSiam", "SimCLR"])
def test_beside_any_base(checkpoints, base):
    """Each term with a teacher of its own; the base's loss is what it was."""
    own = dict(teacher=teacher(checkpoints[0]))
    terms = [
        dict(type="Distillation", **own, weight=0.5),
        dict(type="Distillation", **own, compare=QUEUE, name="queued"),
        dict(type="LocalSimilarity", **own),
        dict(type="LocalRegression", **own),
    ]
    model = build(method(base, *terms))
    plain = like(build(method(base)), model)
    inputs = views()
    model.eval().check_inputs(inputs)
    found = losses(model.train(), inputs)
    wanted = losses(plain, inputs)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value)
    names = {"distillation", "queued", "local", "cells"}
    assert {f"raw_{name}" for name in names} <= set(found)
    total(found).backward()
    for name, parameter in model.named_parameters():
        frozen = ".teacher." in name or name.startswith("target.")
        assert parameter.requires_grad != frozen, name
        assert frozen or (parameter.grad is not None and parameter.grad.any()), name
    both = len(model.query_views)
    filled = model.terms.queued.compare.queue
    assert filled.ptr.item() == (8 * both) % 12
    step = model.step(inputs)
    term = model.terms.distillation
    with torch.no_grad():
        s = term.compare.head(step.online[0]["pooled"])
        t = step.online[0]["distillation_embedding"]
        direct = (2 - 2 * (normalize(s) * t).sum(1)).mean()
        assert term.compare.pair(normalize(s), t) == direct


def _queues(rank, checkpoint):
    model = build(simreg(checkpoint, compare=QUEUE))
    found = losses(model, [views(6, size=32, count=1)[0][3 * rank : 3 * rank + 3]])
    return model.compare.queue.keys, found["loss_instance"].detach()


def test_two_ranks_share_the_queue(checkpoints):
    """The features of all are in it before the losses of all."""
    ranks = run_ranks(_queues, 2, checkpoints[0])
    (one, first), (other, second) = ranks
    assert torch.equal(one, other)
    torch.manual_seed(0)
    model = build(simreg(checkpoints[0], compare=QUEUE))
    inputs = views(6, size=32, count=1)
    for module in (model,):
        losses(module, inputs)
    torch.testing.assert_close(one, model.compare.queue.keys)
    assert first != second


# Refusals


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (dict(teacher=None), "SimReg needs a teacher: set model.teacher=dict("),
        (dict(teacher=[]), "SimReg needs a teacher"),
        (dict(teacher=dict(backbone=WIDE)), "would teach random features; set target."),
        (dict(target=dict(type="OwnTarget")), "SimReg makes its own target: leave"),
        (dict(head_layers=3), "head_layers=3 must be 4, SimReg's MLP, or 1"),
        (
            dict(pairs=((0, 1),), terms=[dict(type="LocalSimilarity")]),
            "not pairs=((0, 1),); give it a teacher of its own",
        ),
        (dict(compare=dict(type="TeacherSoftmax", temperature=0)), "is not a temperat"),
    ],
)
def test_what_does_not_fit_is_refused(checkpoints, changes, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)) as caught:
        build(simreg(checkpoints[0], **changes))
    assert "\n" not in str(caught.value)


def test_a_term_without_a_teacher_is_refused():
    with pytest.raises(ValueError, match=r"^The term Distillation needs a teacher"):
        build(method("MoCo", dict(type="Distillation")))


def test_the_same_view_is_for_teachers_alone():
    with pytest.raises(ValueError, match=r"must name different pairs of two views"):
        build(method("BYOL", pairs=((0, 0),)))
