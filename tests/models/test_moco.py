"""MoCo and CO2 as algorithms: their order of work, limits and peers."""

import pytest

from .common import build, views
from .peers import assert_trains_alike, in_encoders, in_targets, moco_config, peer

pytestmark = pytest.mark.filterwarnings("ignore:bn_splits=1")


def test_equals_mmpretrain_step_for_step():
    ours = build("MoCo").double()  # rounding grows from step to step
    theirs = peer("MoCo", moco_config(momentum=0.1)).double()
    names = in_encoders(ours, ("backbone", "neck")) | in_targets(ours, "encoder_k")
    names |= {"compare.queue.keys": "queue"}
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
