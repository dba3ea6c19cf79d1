"""DenseCL: its step against loops and mmpretrain, and hand cases."""

import copy
import math

import pytest
import torch

from mmssl_ext.models.losses import match_cells

from .common import (
    DENSE_NECK,
    assert_same_gradients,
    build,
    contrast,
    step,
    total,
    views,
)
from .loops import info_nce
from .peers import assert_trains_alike, in_encoders, in_targets, moco_config, peer

pytestmark = pytest.mark.filterwarnings("ignore:bn_splits=1")

MOCO_NECK = dict(type="MoCoV2Neck")
TEMPERATURE = 0.2  # of model_config


def images(batch, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, 3, height, width)
    return [torch.randn(shape, generator=generator).double() for _ in range(2)]


# The step, in loops over images, cells and queue entries.


def loop_unit(vector):
    return vector / sum(x * x for x in vector).sqrt()


def loop_mlp(vector, first, second):
    hidden = first.weight.flatten(1) @ vector + first.bias
    return second.weight.flatten(1) @ hidden.clamp(min=0) + second.bias


def loop_cells(feature_map, num_grid):
    """Cells of one C x h x w map in reading order, averaged over windows if asked."""
    _, height, width = feature_map.shape
    if num_grid is None:
        places = [(y, x) for y in range(height) for x in range(width)]
        return [feature_map[:, y, x] for y, x in places]
    cells = []
    for i in range(num_grid):
        rows = range(i * height // num_grid, math.ceil((i + 1) * height / num_grid))
        for j in range(num_grid):
            cols = range(j * width // num_grid, math.ceil((j + 1) * width / num_grid))
            window = [feature_map[:, y, x] for y in rows for x in cols]
            cells.append(sum(window) / len(window))
    return cells


def loop_encode(encoder, maps, num_grid):
    """Per image: global vector; dense vectors; their normalised mean; cells."""
    mlp, mlp2 = encoder.neck.mlp, encoder.neck.mlp2
    encoded = []
    for feature_map in maps:
        everywhere = loop_cells(feature_map, None)
        mean = sum(everywhere) / len(everywhere)
        cells = loop_cells(feature_map, num_grid)
        raw = [loop_mlp(cell, mlp2[0], mlp2[2]) for cell in cells]
        encoded.append(
            dict(
                embedding=loop_unit(loop_mlp(mean, mlp[0], mlp[2])),
                dense=[loop_unit(r) for r in raw],
                dense_mean=loop_unit(sum(raw) / len(raw)),
                cells=[loop_unit(cell) for cell in cells],
            )
        )
    return encoded


def loop_match(cell, key_cells):
    best, index = -math.inf, None
    for b, other in enumerate(key_cells):
        similarity = torch.dot(cell, other).item()
        if similarity > best:
            best, index = similarity, b
    return index


def loop_losses(query, key, queue, dense_queue):
    """L_global and L_dense of images as :func:`loop_encode` returns them."""
    instance, dense = [], []
    for q, k in zip(query, key, strict=True):
        key = k["embedding"]
        instance.append(info_nce(q["embedding"], key, queue, TEMPERATURE))
        for cell, r in zip(q["cells"], q["dense"], strict=True):
            t = k["dense"][loop_match(cell, k["cells"])]
            dense.append(info_nce(r, t, dense_queue, TEMPERATURE))
    return sum(instance) / len(instance), sum(dense) / len(dense)


@pytest.mark.parametrize(
    ("size", "num_grid", "loss_lambda"),
    [((64, 96), None, 0.3), ((128, 128), 3, 0.5)],
    ids=["native", "pooled"],
)
def test_step_and_its_gradients_equal_the_loops(size, num_grid, loss_lambda):
    model = build(
        "DenseCL",
        neck=DENSE_NECK | dict(num_grid=num_grid),
        queue_len=16,
        loss_lambda=loss_lambda,
    ).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for seed in range(2):  # the key encoder moves away from the query's
        step(model, images(3, *size, seed), optimizer)
    before, inputs = copy.deepcopy(model), images(3, *size, seed=9)
    optimizer.zero_grad()
    losses = model(inputs, mode="loss")
    total(losses).backward()

    before.zero_grad()
    before.target.load_state_dict(model.target.state_dict())  # as updated
    query = loop_encode(before, before.backbone(inputs[0])[-1], num_grid)
    with torch.no_grad():
        key_maps = before.target.backbone(inputs[1])[-1]
        key = loop_encode(before.target, key_maps, num_grid)
    queues = before.compare.queue.keys, before.terms.dense.queue.keys
    instance, dense = loop_losses(query, key, *queues)
    ((1 - loss_lambda) * instance + loss_lambda * dense).backward()

    # The model's features are fp32, so that is what the two may differ by.
    for name, truth in [
        ("raw_instance", instance),
        ("raw_dense", dense),
        ("loss_instance", (1 - loss_lambda) * instance),
        ("loss_dense", loss_lambda * dense),
    ]:
        assert losses[name].item() == pytest.approx(truth.item(), rel=1e-6), name
    assert_same_gradients(model, before, 2e-6)
    for queue, name in [
        (model.compare.queue, "embedding"),
        (model.terms.dense.queue, "dense_mean"),
    ]:
        truth = torch.stack([image[name] for image in key])
        torch.testing.assert_close(queue.keys[6:9], truth, rtol=0, atol=1e-6)
        assert queue.ptr.item() == 9


def test_equals_mmpretrain_step_for_step():
    # In float32 rounding decides near ties of the matching, and two versions of torch
    # part after three steps.
    ours = build("DenseCL", loss_lambda=0.3).double()
    theirs = peer(
        "DenseCL", moco_config("DenseCL", momentum=0.1, loss_lambda=0.3)
    ).double()
    # The peer's key encoder has the query's BatchNorm statistics, ours its own.
    names = in_encoders(ours, ("backbone", "neck")) | in_targets(ours, "encoder_k")
    names |= {"compare.queue.keys": "queue", "terms.dense.queue.keys": "queue2"}
    assert_trains_alike(
        *(ours, theirs, names),
        lambda k: [v.double() for v in views(8, k, size=96)],  # 3 x 3 cells
        {"loss_instance": "loss_single", "loss_dense": "loss_dense"},
        rtol=1e-5,
        atol=1e-5,
    )
    assert ours.terms.dense.queue.ptr.item() == theirs.queue2_ptr.item() == 24


def test_lambda_zero_is_moco():
    dense = build("DenseCL", loss_lambda=0.0)
    moco = build("MoCo")  # with a neck of another class
    moco.backbone.load_state_dict(dense.backbone.state_dict())
    moco.neck.mlp.load_state_dict(dense.neck.mlp.state_dict())
    moco.compare.queue.load_state_dict(dense.compare.queue.state_dict())
    start = dense.terms.dense.queue.keys.clone()
    losses = [total(m(views(8, size=64), mode="loss")) for m in (dense, moco)]
    assert torch.equal(*losses)
    losses[0].backward()
    for parameter in dense.neck.mlp2.parameters():
        assert not parameter.grad.any()  # zero and not None, for DDP
    # The second queue fills while it waits for its turn.
    changed = (dense.terms.dense.queue.keys != start).any(1)
    assert changed[:8].all() and not changed[8:].any()


def test_hand_case():
    """Two cells whose matches are crossed; the logits of each are whole numbers / 5."""
    model = build(
        "DenseCL",
        neck=DENSE_NECK | dict(out_channels=2),
        queue_len=2,
        loss_lambda=0.25,
    )
    model.compare.queue.keys.copy_(torch.tensor([[-1.0, 0.0], [0.0, -1.0]]))
    model.terms.dense.queue.keys.copy_(torch.eye(2))
    query = {
        "embedding": torch.tensor([[1.0, 0.0]]),
        "dense": torch.tensor([[[0.6, 0.8], [1.0, 0.0]]]),
        "cells": torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]),
    }
    key = {
        "embedding": torch.tensor([[0.6, 0.8]]),
        "dense": torch.tensor([[[0.0, 1.0], [0.8, 0.6]]]),
        "cells": torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]),
    }
    assert match_cells(query["cells"], key["cells"]).tolist() == [[1, 0]]
    losses = contrast(model, query, key)
    e = math.exp
    # q.k = 0.6, queue -1 and 0; r0.t1 = 0.96, queue 0.6 and 0.8; r1.t0 = 0, 1 and 0.
    instance = math.log(e(3) + e(-5) + 1) - 3
    dense = (math.log(e(4.8) + e(3) + e(4)) - 4.8 + math.log(1 + e(5) + 1)) / 2
    assert (instance, dense) == pytest.approx((0.048907, 2.746245), abs=1e-6)
    assert losses["raw_instance"].item() == pytest.approx(instance, rel=1e-5)
    assert losses["raw_dense"].item() == pytest.approx(dense, rel=1e-5)
    assert losses["loss_instance"].item() == pytest.approx(0.75 * instance, rel=1e-5)
    assert losses["loss_dense"].item() == pytest.approx(0.25 * dense, rel=1e-5)


@pytest.mark.parametrize(("num_grid", "grid"), [(None, (2, 3)), (2, (2, 2))])
def test_inspect_names_the_matched_cells(num_grid, grid):
    model = build("DenseCL", neck=DENSE_NECK | dict(num_grid=num_grid), bn_splits=2)
    step(model, views(8), torch.optim.SGD(model.parameters(), lr=0.5))
    model.eval()
    inputs = [view.float() for view in images(3, 64, 96)]
    shown = model(inputs, mode="inspect")
    assert set(shown) == {"grid", "match", "similarity"} and shown["grid"] == grid
    with torch.no_grad():
        query, key = (
            loop_encode(encoder, encoder.backbone(view)[-1], num_grid)
            for encoder, view in zip((model, model.target), inputs, strict=True)
        )
    for n in range(3):
        for a, cell in enumerate(query[n]["cells"]):
            match = loop_match(cell, key[n]["cells"])
            assert shown["match"][n, a] == match
            cosine = torch.dot(cell, key[n]["cells"][match]).item()
            assert shown["similarity"][n, a].item() == pytest.approx(cosine, abs=1e-5)
    with pytest.raises(ValueError, match="2 views"):
        model(inputs[0], mode="inspect")


def test_another_neck_gets_a_dense_head_that_computes_the_same():
    neck = DENSE_NECK | dict(num_grid=2)
    whole = build("DenseCL", neck=neck)
    parted = build(
        "DenseCL",
        neck={k: v for k, v in DENSE_NECK.items() if k != "type"} | MOCO_NECK,
        dense=dict(num_grid=2, hid_channels=64),
    )
    for part in (whole.backbone, whole.neck.mlp, whole.neck.mlp2):
        for p in part.parameters():
            p.data.normal_(std=0.2)
    parted.backbone.load_state_dict(whole.backbone.state_dict())
    parted.neck.mlp.load_state_dict(whole.neck.mlp.state_dict())
    head = parted.terms.dense.head
    head.mlp.load_state_dict(whole.neck.mlp2.state_dict())
    for name in ("compare.queue", "terms.dense.queue"):
        state = whole.get_submodule(name).state_dict()
        parted.get_submodule(name).load_state_dict(state)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.05) for m in (whole, parted)]
    for seed in range(2):
        inputs = views(4, seed, size=96)
        mine, peer = (
            step(m, inputs, o) for m, o in zip((parted, whole), optimizers, strict=True)
        )
        assert mine == pytest.approx(peer, rel=1e-5)
    for ours, theirs in (
        (head.mlp, whole.neck.mlp2),
        (parted.target.dense_head.mlp, whole.target.neck.mlp2),
        (parted.neck.mlp, whole.neck.mlp),
    ):
        peers = theirs.state_dict()
        for name, value in ours.state_dict().items():
            torch.testing.assert_close(value, peers[name])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(loss_lambda=1.5), r"loss_lambda=1\.5.*\[0, 1\]"),
        (dict(dense=dict(num_grid=3)), "hid_channels and num_grid in neck"),
        (dict(dense=dict(temperature=0)), "must be positive"),
    ],
)
def test_wrong_values_say_what_to_change(changes, message):
    with pytest.raises(ValueError, match=message):
        build("DenseCL", **changes)
