"""MoCo and CO2 as algorithms: their order of work, limits and peers."""

import copy

import pytest
import torch
from mmengine.registry import init_default_scope

from mmssl_ext.registry import MODELS

from .common import build, model_config, step, views

pytestmark = pytest.mark.filterwarnings("ignore:bn_splits=1")


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

    m = before.target.momentum.end
    for old, query, new in zip(
        before.target.parameters(),
        [p for part in before.parts.values() for p in part.parameters()],
        model.target.parameters(),
        strict=True,
    ):
        torch.testing.assert_close(new, m * old + (1 - m) * query)

    k = model.last_embeddings["key"]
    again = copy.deepcopy(before)
    again.target.load_state_dict(model.target.state_dict())
    maps = again.target.backbone(inputs[1])
    fresh = torch.nn.functional.normalize(again.target.neck(maps)[0], dim=1)
    torch.testing.assert_close(k, fresh)

    q = model.last_embeddings["query"]
    logits = torch.cat(
        [(q * k).sum(1, keepdim=True), q @ before.compare.queue.keys.T], 1
    )
    naive = torch.nn.functional.cross_entropy(logits / 0.2, torch.zeros(8).long())
    torch.testing.assert_close(loss, naive)
    assert torch.equal(model.compare.queue.keys[16:24], k)
    assert model.compare.queue.ptr.item() == 24


def test_key_encoder_starts_as_an_exact_copy():
    model = build("MoCo")
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(value, model.target.backbone.state_dict()[key]), key
    with torch.no_grad():  # as when a backbone is loaded afterwards
        for p in model.backbone.parameters():
            p.add_(1)
    model(views(4), mode="loss")
    for p, q in zip(
        model.target.backbone.parameters(), model.backbone.parameters(), strict=True
    ):
        assert torch.equal(p, q)


def test_alpha_zero_is_moco():
    off = dict(temperature=0.05, weight=0)
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


def test_equals_mmpretrain_step_for_step():
    ours = build("MoCo", momentum=0.999)
    init_default_scope("mmpretrain")
    config = model_config("MoCo", momentum=0.001, feat_dim=16)
    del config["bn_splits"]
    config["type"] = "mmpretrain.MoCo"
    config["head"] = dict(
        type="ContrastiveHead",
        temperature=0.2,
        loss=dict(type="CrossEntropyLoss", loss_weight=1.0),
    )
    theirs = MODELS.build(config).train()
    for name, part in ours.parts.items():
        getattr(theirs, name).load_state_dict(part.state_dict())
    theirs.queue.copy_(ours.compare.queue.keys.T)
    ours.double(), theirs.double()  # rounding grows from step to step
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
        inputs = [v.double() for v in views(8, seed)]
        mine = step(ours, inputs, optimizers[0])["loss_instance"]
        peer = step(theirs, list(inputs), optimizers[1])["loss"]
        assert mine == pytest.approx(peer, rel=1e-5)
        for name, part in ours.parts.items():
            peers = getattr(theirs, name).state_dict()
            for key, value in part.state_dict().items():
                torch.testing.assert_close(value, peers[key], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            ours.compare.queue.keys.T, theirs.queue, rtol=0, atol=1e-5
        )
    assert ours.compare.queue.ptr.item() == theirs.queue_ptr.item() == 24


@pytest.mark.filterwarnings("default:bn_splits=1")
@pytest.mark.fault("R27")
def test_an_unprotected_device_is_told():
    with pytest.warns(UserWarning, match="leak"):
        build(bn_splits=1)


def test_co2_without_alpha_is_refused():
    term = dict(temperature=0.05)
    with pytest.raises(ValueError, match=r"set model\.consistency\.weight"):
        build("CO2", consistency=term)
    build("CO2", consistency=term, weights=dict(consistency=0.3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(momentum=0.001), "share that is kept"),
        (
            dict(feat_dim=32),
            "neck returns 16 features but feat_dim is 32; leave feat_dim",
        ),
        (dict(queue_len=0), "queue_len"),
        (dict(bn_splits=0), "bn_splits=0"),
        (dict(head=dict(type="QueueSoftmax", temperature=0)), "must be positive"),
        (dict(consistency=dict(temperature=-1, weight=1)), "must be positive"),
        (
            dict(consistency=dict(temperature=1, weight=-1)),
            r"consistency\.weight=-1 must be 0 or more; 0 switches it off",
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
