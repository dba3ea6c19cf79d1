"""MoCo and CO2 as algorithms: invariants, peers, ranks."""

import copy

import pytest
import torch
from mmengine.registry import init_default_scope
from torch.nn.parallel import DistributedDataParallel

from mmssl_ext.models.layers import SplitBatchNorm
from mmssl_ext.registry import MODELS

from ..distributed import run_ranks
from .common import BACKBONE, build, model_config, views

pytestmark = pytest.mark.filterwarnings("ignore:bn_splits=1")


def step(model, inputs, optimizer):
    losses = model(inputs, mode="loss")
    optimizer.zero_grad()
    sum(v for k, v in losses.items() if "loss" in k).backward()
    optimizer.step()
    return {k: v.item() for k, v in losses.items()}


@pytest.mark.parametrize("name", ["MoCo", "CO2"])
@pytest.mark.parametrize("bn_splits", [1, 4])
def test_every_parameter_learns_and_no_key_does(name, bn_splits):
    model = build(name, bn_splits=bn_splits)
    losses = model(views(8), mode="loss")
    sum(losses.values()).backward()
    for key, parameter in model.named_parameters():
        if key.startswith("encoder_k."):
            assert not parameter.requires_grad and parameter.grad is None, key
        else:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, key
    assert model.queue.keys.grad_fn is None and not model.queue.keys.requires_grad


def test_consistency_alone_reaches_every_parameter():
    model = build()
    model(views(8), mode="loss")["loss_consistency"].backward()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, key


def test_order_of_one_step():
    """Keys come from the updated encoder and are not among their own negatives."""
    model = build("MoCo")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for seed in range(2):
        step(model, views(8, seed), optimizer)
    inputs, before = views(8, 9), copy.deepcopy(model)
    loss = model(inputs, mode="loss")["loss_instance"]

    m = before.encoder_k.momentum
    for old, query, new in zip(
        before.encoder_k.parameters(),
        [p for part in before.query_parts.values() for p in part.parameters()],
        model.encoder_k.parameters(),
        strict=True,
    ):
        torch.testing.assert_close(new, m * old + (1 - m) * query)

    k = model.last_embeddings["key"]
    again = copy.deepcopy(before)
    again.encoder_k.load_state_dict(model.encoder_k.state_dict())
    maps = again.encoder_k.backbone(inputs[1])
    fresh = torch.nn.functional.normalize(again.encoder_k.neck(maps)[0], dim=1)
    torch.testing.assert_close(k, fresh)

    q = model.last_embeddings["query"]
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ before.queue.keys.T], 1)
    naive = torch.nn.functional.cross_entropy(logits / 0.2, torch.zeros(8).long())
    torch.testing.assert_close(loss, naive)
    assert torch.equal(model.queue.keys[16:24], k)
    assert model.queue.ptr.item() == 24


def test_key_encoder_starts_as_an_exact_copy():
    model = build("MoCo")
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(value, model.encoder_k.backbone.state_dict()[key]), key
    with torch.no_grad():  # as when a backbone is loaded afterwards
        for p in model.backbone.parameters():
            p.add_(1)
    model(views(4), mode="loss")
    for p, q in zip(
        model.encoder_k.backbone.parameters(), model.backbone.parameters(), strict=True
    ):
        assert torch.equal(p, q)


def test_alpha_zero_is_moco():
    off = dict(type="ConsistencyHead", temperature=0.05, weight=0)
    models = build("MoCo"), build("CO2", consistency=off)
    for model in models:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for seed in range(3):
            step(model, views(8, seed), optimizer)
    ours, theirs = models[1].state_dict(), models[0].state_dict()
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert torch.equal(value, ours[key]), key


def test_consistency_changes_training():
    models = build("MoCo"), build("CO2")
    for model in models:
        step(model, views(8), torch.optim.SGD(model.parameters(), lr=0.1))
    assert not torch.equal(*(m.backbone.conv1.weight for m in models))


@pytest.mark.parametrize("batch", [1, 5, 8, 100])
@pytest.mark.parametrize("bn_splits", [1, 8])
def test_any_batch_size(batch, bn_splits):
    model = build(bn_splits=bn_splits)  # queue of 64
    for seed in range(3):
        losses = model(views(batch, seed, size=64), mode="loss")
        assert all(torch.isfinite(v) for v in losses.values())
    assert model.queue.ptr.item() == 3 * batch % 64
    torch.testing.assert_close(model.queue.keys.norm(dim=1), torch.ones(64))


def test_equals_mmpretrain_step_for_step():
    ours = build("MoCo", momentum=0.999)
    init_default_scope("mmpretrain")
    config = model_config("mmpretrain.MoCo", momentum=0.001)
    del config["bn_splits"]
    config["head"] = dict(
        type="ContrastiveHead",
        temperature=0.2,
        loss=dict(type="CrossEntropyLoss", loss_weight=1.0),
    )
    theirs = MODELS.build(config).train()
    for name, part in ours.query_parts.items():
        getattr(theirs, name).load_state_dict(part.state_dict())
    theirs.queue.copy_(ours.queue.keys.T)
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
        inputs = views(8, seed)
        mine = step(ours, inputs, optimizers[0])["loss_instance"]
        peer = step(theirs, list(inputs), optimizers[1])["loss"]
        assert mine == pytest.approx(peer, rel=1e-5)
        for name, part in ours.query_parts.items():
            peers = getattr(theirs, name).state_dict()
            for key, value in part.state_dict().items():
                torch.testing.assert_close(value, peers[key], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.queue.keys.T, theirs.queue, rtol=0, atol=1e-5)
    assert ours.queue.ptr.item() == theirs.queue_ptr.item() == 24


FROZEN = BACKBONE | dict(norm_eval=True)


def train_on_a_rank(rank, world_size=2):
    torch.use_deterministic_algorithms(True)
    model = build(backbone=FROZEN)
    assert model.shuffles == (world_size > 1)
    call = DistributedDataParallel(model) if world_size > 1 else model
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    history = []
    for seed in range(3):
        inputs = [v.chunk(world_size)[rank] for v in views(12, seed)]
        history.append(step(call, inputs, optimizer))
    return model.state_dict(), history


def test_two_ranks_equal_one():
    """Same global batch, frozen BatchNorm: same losses, queue and weights."""
    truth, history = train_on_a_rank(0, world_size=1)
    torch.use_deterministic_algorithms(False)
    ranks = run_ranks(train_on_a_rank, 2)
    for t, losses in enumerate(history):
        for key, value in losses.items():
            mean = sum(r[1][t][key] for r in ranks) / 2
            assert mean == pytest.approx(value, rel=1e-5)
    for state, _ in ranks:
        assert state.keys() == truth.keys()
        for key, value in truth.items():
            torch.testing.assert_close(state[key], value, rtol=1e-5, atol=1e-5)


def test_one_device_splits_and_shuffles_the_keys():
    model = build(bn_splits=4)
    split = [m for m in model.modules() if isinstance(m, SplitBatchNorm)]
    plain = [m for m in model.modules() if type(m) is torch.nn.BatchNorm2d]
    assert len(split) == 2 * 20 and not plain
    assert model.shuffles
    # The key sees another grouping than the query would with the same images ...
    model.encoder_k.copy_from(**model.query_parts)
    view = views(16)[0]
    assert not torch.allclose(model.encode_key(view), model.encode_query(view), 1e-2)
    # ... and comes back in order: without batch statistics nothing is left of it.
    model.eval()
    model.encoder_k.copy_from(**model.query_parts)
    torch.testing.assert_close(model.encode_key(view), model.encode_query(view))


@pytest.mark.filterwarnings("default:bn_splits=1")
def test_an_unprotected_device_is_told():
    with pytest.warns(UserWarning, match="leak"):
        build(bn_splits=1)


def test_state_dict_holds_everything():
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step(model, views(8), optimizer)
    keys = set(model.state_dict())
    assert {"queue.keys", "queue.ptr", "encoder_k.steps"} <= keys
    restored = build(seed=1)
    restored.load_state_dict(model.state_dict())
    other = torch.optim.SGD(restored.parameters(), lr=0.1)
    for seed in (1, 2):
        a = step(model, views(8, seed), optimizer)
        b = step(restored, views(8, seed), other)
        assert a == b
    for key, value in model.state_dict().items():
        assert torch.equal(value, restored.state_dict()[key]), key


def test_embed_modes():
    model = build()
    model(views(8), mode="loss")
    with torch.no_grad():
        model.backbone.conv1.weight.add_(1)
    model.eval()
    image = views(5)[0]
    query, key = model(image, mode="embed"), model(image, mode="embed_key")
    assert query["backbone"].shape == key["backbone"].shape == (5, 64)
    assert query["embedding"].shape == (5, 16)
    assert not torch.allclose(query["backbone"], key["backbone"])
    maps = model(image, mode="tensor")[-1]
    torch.testing.assert_close(query["backbone"], maps.mean((2, 3)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(momentum=0.001), "share that is kept"),
        (dict(feat_dim=32), "neck.out_channels and feat_dim equal"),
        (dict(queue_len=0), "queue_len"),
        (dict(bn_splits=0), "bn_splits=0"),
        (dict(head=dict(type="InstanceHead", temperature=0)), "must be positive"),
        (
            dict(consistency=dict(type="ConsistencyHead", temperature=-1, weight=1)),
            "must be positive",
        ),
        (
            dict(consistency=dict(type="ConsistencyHead", temperature=1, weight=-1)),
            "alpha",
        ),
        (
            dict(
                neck=dict(
                    type="MoCoV2Neck", in_channels=2048, hid_channels=8, out_channels=16
                )
            ),
            "set neck.in_channels to 64",
        ),
        (dict(queue_length=64), "queue_length"),
    ],
)
def test_wrong_values_say_what_to_change(changes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build(**changes)


def test_one_view_is_refused():
    with pytest.raises(ValueError, match="two views"):
        build()(views(4)[0], mode="loss")
