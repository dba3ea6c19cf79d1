"""MoCo and CO2 as algorithms: their order of work, limits and peers."""

import copy

import pytest
import torch

from .common import build, step, views
from .peers import assert_trains_alike, in_encoders, moco_config, peer

pytestmark = pytest.mark.filterwarnings("ignore:bn_splits=1")


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


def test_equals_mmpretrain_step_for_step():
    ours = build("MoCo", momentum=0.999).double()  # rounding grows from step to step
    theirs = peer("MoCo", moco_config()).double()
    names = in_encoders(ours, ("backbone", "neck")) | {"compare.queue.keys": "queue"}
    assert_trains_alike(
        *(ours, theirs, names),
        lambda k: [v.double() for v in views(8, k)],
        {"loss_instance": "loss"},
        rtol=1e-5,
        atol=1e-5,
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
        (dict(feat_dim=32), "neck returns 16 features but feat_dim is 32; leave feat"),
        (dict(bn_splits=0), "bn_splits=0"),
        (dict(head=dict(type="QueueSoftmax", temperature=0)), "must be positive"),
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
