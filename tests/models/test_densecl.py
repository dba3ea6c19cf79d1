"""DenseCL: its step against loops and mmpretrain, hand cases, the warm-up of lambda."""

import copy
import math

import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch.nn.functional import cross_entropy, normalize
from torch.utils.data import DataLoader

from mmssl_ext.models.comparisons import queue as compare_queue
from mmssl_ext.models.layers import SplitBatchNorm, shuffle_batch
from mmssl_ext.models.losses import info_nce, match_cells, take_cells
from mmssl_ext.models.terms import dense as terms_dense
from mmssl_ext.registry import MODELS
from tests.harness import Watch

from .common import (
    BACKBONE,
    DENSE_NECK,
    build,
    contrast,
    encode_key,
    encode_query,
    model_config,
    step,
    views,
)

pytestmark = pytest.mark.filterwarnings("ignore:bn_splits=1")

MOCO_NECK = dict(type="MoCoV2Neck")
TEMPERATURE = 0.2  # of model_config


def images(batch, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, 3, height, width)
    return [torch.randn(shape, generator=generator).double() for _ in range(2)]


def total(losses):
    return sum(v for k, v in losses.items() if k.startswith("loss"))


def unit_features(num_images=3, cells=5, dim=16, channels=24, seed=0):
    """Features as a step has them, without a network."""
    generator = torch.Generator().manual_seed(seed)

    def rows(*shape):
        return normalize(torch.randn(*shape, generator=generator), dim=-1)

    return {
        "embedding": rows(num_images, dim),
        "dense": rows(num_images, cells, dim),
        "dense_mean": rows(num_images, dim),
        "cells": rows(num_images, cells, channels),
    }


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


def loop_nce(query, key, queue):
    positive = torch.dot(query, key) / TEMPERATURE
    everyone = positive.exp()
    for negative in queue:
        everyone = everyone + (torch.dot(query, negative) / TEMPERATURE).exp()
    return everyone.log() - positive


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
        instance.append(loop_nce(q["embedding"], k["embedding"], queue))
        for cell, r in zip(q["cells"], q["dense"], strict=True):
            t = k["dense"][loop_match(cell, k["cells"])]
            dense.append(loop_nce(r, t, dense_queue))
    return sum(instance) / len(instance), sum(dense) / len(dense)


@pytest.mark.parametrize(
    ("size", "num_grid", "loss_lambda"),
    [((64, 96), None, 0.3), ((128, 128), 3, 0.5), ((64, 96), 4, 0.7)],
    ids=["native", "pooled", "finer"],
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
    for name, part in model.parts.items():
        truths = dict(getattr(before, name).named_parameters())
        for parameter_name, parameter in part.named_parameters():
            truth = truths[parameter_name].grad
            error = (parameter.grad - truth).norm() / truth.norm()
            assert error < 2e-6, (name, parameter_name, float(error))
    for queue, name in [
        (model.compare.queue, "embedding"),
        (model.terms.dense.queue, "dense_mean"),
    ]:
        truth = torch.stack([image[name] for image in key])
        torch.testing.assert_close(queue.keys[6:9], truth, rtol=0, atol=1e-6)
        assert queue.ptr.item() == 9


def test_equals_mmpretrain_step_for_step():
    ours = build("DenseCL", momentum=0.999, loss_lambda=0.3)
    init_default_scope("mmpretrain")
    config = model_config("DenseCL", loss_lambda=0.3, momentum=0.001, feat_dim=16)
    del config["bn_splits"]
    config |= dict(
        type="mmpretrain.DenseCL",
        head=dict(
            type="ContrastiveHead",
            temperature=TEMPERATURE,
            loss=dict(type="CrossEntropyLoss", loss_weight=1.0),
        ),
    )
    theirs = MODELS.build(config).train()
    for name, part in ours.parts.items():
        getattr(theirs, name).load_state_dict(part.state_dict())
    theirs.queue.copy_(ours.compare.queue.keys.T)
    theirs.queue2.copy_(ours.terms.dense.queue.keys.T)
    # In float32 rounding decides near ties of the matching, and two versions of torch
    # part after three steps.
    ours.double(), theirs.double()
    optimizers = [
        torch.optim.SGD(
            [p for p in m.parameters() if p.requires_grad],
            lr=0.03,
            momentum=0.9,
            weight_decay=1e-4,
        )
        for m in (ours, theirs)
    ]
    for seed in range(3):
        inputs = [v.double() for v in views(8, seed, size=96)]  # 3 x 3 cells
        mine = step(ours, inputs, optimizers[0])
        peer = step(theirs, list(inputs), optimizers[1])
        assert mine["loss_instance"] == pytest.approx(peer["loss_single"], rel=1e-5)
        assert mine["loss_dense"] == pytest.approx(peer["loss_dense"], rel=1e-5)
        for name, part in ours.parts.items():
            peers = getattr(theirs, name).state_dict()
            for key, value in part.state_dict().items():
                torch.testing.assert_close(value, peers[key], rtol=1e-5, atol=1e-5)
        # The peer's key encoder has the query's BatchNorm statistics, ours its own.
        for value, other in zip(
            ours.target.parameters(), theirs.encoder_k.parameters(), strict=True
        ):
            torch.testing.assert_close(value, other, rtol=1e-5, atol=1e-5)
        for queue, other in [
            (ours.compare.queue, theirs.queue),
            (ours.terms.dense.queue, theirs.queue2),
        ]:
            torch.testing.assert_close(queue.keys.T, other, rtol=0, atol=1e-5)
    assert ours.terms.dense.queue.ptr.item() == theirs.queue2_ptr.item() == 24


def test_lambda_zero_is_moco():
    dense = build("DenseCL", loss_lambda=0.0)
    moco = build("MoCo")  # with a neck of another class
    moco.backbone.load_state_dict(dense.backbone.state_dict())
    moco.neck.mlp.load_state_dict(dense.neck.mlp.state_dict())
    moco.compare.queue.load_state_dict(dense.compare.queue.state_dict())
    start = dense.terms.dense.queue.keys.clone()
    losses = []
    for model in (dense, moco):
        losses.append(total(model(views(8, size=64), mode="loss")))
        losses[-1].backward()
    assert torch.equal(*losses)
    peers = dict(moco.named_parameters())
    for name, parameter in dense.named_parameters():
        if "neck.mlp2." in name and not name.startswith("target."):
            assert not parameter.grad.any(), name  # zero and not None, for DDP
        elif parameter.requires_grad:
            assert torch.equal(parameter.grad, peers[name].grad), name
    # The second queue fills while it waits for its turn.
    changed = (dense.terms.dense.queue.keys != start).any(1)
    assert changed[:8].all() and not changed[8:].any()
    assert torch.equal(dense.compare.queue.keys, moco.compare.queue.keys)


def test_a_view_matches_itself():
    model = build("DenseCL").eval()
    view = views(4, size=96)[0]
    query, key = encode_query(model, view), encode_key(model, view)
    assert query["dense"].requires_grad and not query["cells"].requires_grad
    match = match_cells(query["cells"], key["cells"])
    assert torch.equal(match, torch.arange(9).expand(4, 9))
    cosine = (query["dense"] * take_cells(key["dense"], match)).sum(2)
    torch.testing.assert_close(cosine, torch.ones(4, 9))
    # The loss makes use of that match: every positive logit is 1 / T.
    negatives = (
        (query["dense"] @ model.terms.dense.queue.keys.T / TEMPERATURE).exp().sum(2)
    )
    expected = (1 + negatives / math.exp(1 / TEMPERATURE)).log().mean()
    losses = model([view, view], mode="loss")
    torch.testing.assert_close(losses["raw_dense"], expected.detach())


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


def test_order_of_the_key_cells_is_free_but_theirs_together():
    model = build("DenseCL")
    query, key = unit_features(), unit_features(seed=1)
    order = torch.tensor([3, 0, 4, 1, 2])
    together = key | {n: key[n][:, order] for n in ("cells", "dense")}
    apart = key | {"dense": key["dense"][:, order]}
    base, same, other = (
        contrast(model, query, k)["raw_dense"] for k in (key, together, apart)
    )
    torch.testing.assert_close(same, base)
    assert abs(other - base) > 1e-3


def test_match_knows_neither_scale_nor_dense_head():
    model = build("DenseCL").eval()
    inputs = views(4, size=96)
    base = model(inputs, mode="inspect")["match"]
    assert not torch.equal(base, torch.arange(9).expand(4, 9))  # there is a choice

    generator = torch.Generator().manual_seed(0)

    def scale(module, args, maps):  # every cell by another factor
        factor = torch.rand(4, 1, 3, 3, generator=generator) * 9 + 0.1
        return (maps[-1] * factor,)

    for backbone in (model.backbone, model.target.backbone):
        handle = backbone.register_forward_hook(scale)
        assert torch.equal(model(inputs, mode="inspect")["match"], base)
        handle.remove()
    dense = encode_query(model, inputs[0])["dense"]
    for encoder in (model, model.target):
        for parameter in encoder.neck.mlp2.parameters():
            torch.nn.init.normal_(parameter)
    assert torch.equal(model(inputs, mode="inspect")["match"], base)
    assert not torch.allclose(encode_query(model, inputs[0])["dense"], dense, atol=0.1)


def test_one_cell_is_moco_with_the_dense_head():
    dense, moco = build("DenseCL", loss_lambda=1.0), build("MoCo")
    moco.backbone.load_state_dict(dense.backbone.state_dict())
    for i in (0, 2):
        weight, bias = dense.neck.mlp2[i].parameters()  # a 1 x 1 convolution
        moco.neck.mlp[i].load_state_dict({"weight": weight.flatten(1), "bias": bias})
    moco.compare.queue.load_state_dict(dense.terms.dense.queue.state_dict())
    losses = [
        total(model.double()(images(8, 32, 32), mode="loss")) for model in (dense, moco)
    ]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    for parameter, peer in zip(
        [*dense.backbone.parameters(), *dense.neck.mlp2.parameters()],
        [*moco.backbone.parameters(), *moco.neck.mlp.parameters()],
        strict=True,
    ):
        error = (parameter.grad.view_as(peer.grad) - peer.grad).norm()
        assert error < 1e-6 * peer.grad.norm()
    torch.testing.assert_close(dense.terms.dense.queue.keys, moco.compare.queue.keys)


def test_second_queue_holds_projections_averaged_before_they_are_normalised():
    model = build("DenseCL")
    inputs = views(5, size=96)
    model(inputs, mode="loss")
    encoder = copy.deepcopy(model.target)
    raw = encoder.neck.mlp2(encoder.backbone(inputs[1])[-1])  # N x D x 3 x 3
    mean = torch.stack(
        [sum(image[:, y, x] for y in range(3) for x in range(3)) / 9 for image in raw]
    )
    new = model.terms.dense.queue.keys[:5]
    torch.testing.assert_close(new, normalize(mean, dim=1))
    other = normalize(normalize(raw, dim=1).mean((2, 3)), dim=1)
    assert (new - other).abs().max() > 1e-3
    assert (new - model.compare.queue.keys[:5]).abs().max() > 1e-2


def test_shapes_and_first_losses_at_full_queue_length(monkeypatch):
    model = build(
        "DenseCL",
        neck=DENSE_NECK | dict(out_channels=128),
        queue_len=65536,
    )
    calls = []

    def spy(q, k, queue, *options):
        calls.append((q.detach(), k, queue.clone()))
        return info_nce(q, k, queue, *options)

    for module in (compare_queue, terms_dense):
        monkeypatch.setattr(module, "info_nce", spy)
    losses = model(views(4, size=96), mode="loss")
    shapes = [[tuple(x.shape) for x in call] for call in calls]
    assert shapes == [
        [(4, 128), (4, 128), (65536, 128)],
        [(4 * 9, 128), (4 * 9, 128), (65536, 128)],  # a row per cell
    ]
    # Against random negatives, log K + 1 / (2 T^2 D) = 11.19, less the positive logit:
    # two views are alike for a random network too.
    for (q, k, queue), name in zip(calls, ("raw_instance", "raw_dense"), strict=True):
        positive = (q * k).sum(1, keepdim=True)
        logits = torch.cat([positive, q @ queue.T], 1) / TEMPERATURE
        assert logits.shape == (len(q), 65536 + 1)
        truth = cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))
        torch.testing.assert_close(losses[name], truth)
        gap = positive.mean().item() / TEMPERATURE
        assert truth.item() + gap == pytest.approx(11.19, abs=0.05)
    # With keys that know nothing of the queries, the losses themselves.
    query, key = unit_features(64, 9, 128), unit_features(64, 9, 128, seed=1)
    for name, value in contrast(model, query, key).items():
        if name.startswith("raw"):
            assert value.item() == pytest.approx(11.19, abs=0.15), name


def test_mmpretrains_toy_case():
    neck = dict(type="DenseCLNeck", in_channels=512, hid_channels=2, out_channels=2)
    model = build(
        "DenseCL",
        backbone=dict(type="ResNet", depth=18, norm_cfg=dict(type="BN")),
        neck=neck,
        queue_len=32,
    )
    losses = model(views(2, size=224), mode="loss")
    assert losses["loss_instance"] > 0 and losses["loss_dense"] > 0
    assert model.compare.queue.ptr.item() == model.terms.dense.queue.ptr.item() == 2


def test_all_key_features_come_back_in_order():
    model = build("DenseCL", bn_splits=4)
    assert model.shuffles
    assert any(isinstance(m, SplitBatchNorm) for m in model.target.modules())
    model.eval()
    view = views(16, size=64)[0]
    key, query = encode_key(model, view), encode_query(model, view)
    order = shuffle_batch(torch.arange(16), model.clock.num_steps + 1)[0]
    assert (order != torch.arange(16)).any()
    assert set(key) == {"projection", "embedding", "dense", "dense_mean", "cells"}
    for name, value in key.items():
        torch.testing.assert_close(value, query[name])
        assert (value - value[order]).abs().max() > 1e-2, name  # else it shows nothing
    # In training, the groups of the batch are others for the key, in all of it.
    model.train()
    key, query = encode_key(model, view), encode_query(model, view)
    assert all(not torch.allclose(key[n], query[n], atol=1e-2) for n in key)


@pytest.mark.parametrize(("num_grid", "grid"), [(None, (2, 3)), (2, (2, 2))])
def test_inspect_names_the_matched_cells(num_grid, grid):
    model = build("DenseCL", neck=DENSE_NECK | dict(num_grid=num_grid), bn_splits=2)
    step(model, views(8), torch.optim.SGD(model.parameters(), lr=0.5))
    model.eval()
    state = {k: v.clone() for k, v in model.state_dict().items()}
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
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    with pytest.raises(ValueError, match="2 views"):
        model(inputs[0], mode="inspect")


def test_embed_is_the_global_head():
    model = build("DenseCL")
    step(model, views(8), torch.optim.SGD(model.parameters(), lr=0.5))
    model.eval()
    image = views(3, size=64)[0]
    for mode, encoder in (("embed", model), ("embed_key", model.target)):
        features = model(image, mode=mode)
        assert set(features) == {"backbone", "embedding"}
        pooled = encoder.backbone(image)[-1].mean((2, 3))
        torch.testing.assert_close(features["backbone"], pooled)
        embedding = encoder.neck.mlp(pooled)  # not normalised
        torch.testing.assert_close(features["embedding"], embedding)


def test_another_neck_gets_a_dense_head_that_computes_the_same():
    """With the weights of a DenseCLNeck: losses, gradients and key encoder."""
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
        (dict(loss_lambda=-0.1), r"loss_lambda=-0\.1.*\[0, 1\]"),
        (dict(loss_lambda=1.5), r"loss_lambda=1\.5.*\[0, 1\]"),
        (dict(loss_lambda=float("nan")), r"loss_lambda=nan.*\[0, 1\]"),
        (dict(dense=dict(num_grid=3)), "hid_channels and num_grid in neck"),
        (dict(dense=dict(temperature=0)), "must be positive"),
        (dict(weights=dict(dens=1)), "weights has 'dens', but .* instance, dense"),
        (dict(neck=DENSE_NECK | dict(in_channels=512)), "neck.in_channels to 64"),
        (dict(feat_dim=32), "neck returns 16 features but feat_dim is 32"),
    ],
)
def test_wrong_values_say_what_to_change(changes, message):
    with pytest.raises(ValueError, match=message):
        build("DenseCL", **changes)


# The warm-up of lambda, a schedule in a real run.


def watch():
    """Weights of each iteration, whether each head moves; the hook."""
    seen, before, shares = {}, [], []

    def weights(runner):
        neck = runner.model.neck
        return [neck.mlp2[2].weight.clone(), neck.mlp[2].weight.clone()]

    def keep(runner):
        before[:] = weights(runner)
        model = runner.model  # the weights that this iteration is about to use
        shares[:] = [model.weights[n](model.clock) for n in ("dense", "instance")]

    def compare(runner):
        moved = zip(before, weights(runner), strict=True)
        dense, instance = (not torch.equal(*pair) for pair in moved)
        seen[runner.iter] = (*shares, dense, instance)

    return seen, Watch("NORMAL", before_train_iter=keep, after_train_iter=compare)


class Images(torch.utils.data.Dataset):
    def __len__(self):
        return 24

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        shape = (2, 3, 32, 32)
        pair = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        return {"inputs": list(pair)}


WARM_UP = dict(kind="step", start=0, end=0.3, until=3)


def run(work_dir, name, resume_from=None):
    """Six iterations, the first three with lambda = 0; what was seen of them."""
    seen, hook = watch()
    runner = Runner(
        model=build("DenseCL", loss_lambda=WARM_UP, backbone=BACKBONE),
        work_dir=str(work_dir),
        train_dataloader=DataLoader(Images(), batch_size=4),
        train_cfg=dict(by_epoch=False, max_iters=6),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
        default_hooks=dict(
            checkpoint=dict(type="PlainCheckpointHook", by_epoch=False, interval=1)
        ),
        custom_hooks=[hook],
        load_from=resume_from and str(resume_from),
        resume=resume_from is not None,
        experiment_name=name,
        default_scope="mmssl_ext",
        log_level="ERROR",
    )
    runner.train()
    return seen


def test_lambda_waits_for_its_iteration_and_survives_a_resumption(tmp_path):
    seen = run(tmp_path, "densecl_whole")
    waiting, started = (0, 1, False, True), (0.3, 0.7, True, True)
    assert seen == {i: waiting if i < 3 else started for i in range(6)}
    for done in (2, 3, 5):  # within the warm-up, at its end, after it
        folder = tmp_path / f"from_{done}"
        again = run(folder, folder.name, tmp_path / f"iter_{done}.pth")
        assert again == {i: seen[i] for i in range(done, 6)}
