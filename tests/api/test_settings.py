"""What is chosen of the number of images and the device, with its reason."""

from __future__ import annotations

import numpy as np
import pytest

from mmssl_ext.api.methods import METHODS, method_named
from mmssl_ext.api.settings import STEPS, Device, Images, choose
from mmssl_ext.backbones import backbone_named

CPU, GPU = Device("cpu", 16.0, 2), Device("cuda", 22.0, 12)
R18, R50 = backbone_named("resnet18"), backbone_named("resnet50")


def chosen(count, device=CPU, method="co2", continued=False, **given):
    backbone = R18 if device.kind == "cpu" else R50
    images = Images(count, given.pop("short_side", 400))
    found = choose(images, device, METHODS[method], backbone, continued, given)
    assert all(setting.reason for setting in found)
    return {setting.name: setting.value for setting in found}


def steps(found, count):
    return found["max_epochs"] * (count // found["batch_size"])


@pytest.mark.parametrize("device", [CPU, GPU], ids=["cpu", "gpu"])
@pytest.mark.parametrize("count", [8, 20, 60, 292, 3000, 50_000, 1_300_000])
@pytest.mark.parametrize("continued", [False, True], ids=["random", "given"])
def test_any_number_of_images_gets_a_sensible_run(count, device, continued):
    found = chosen(count, device, continued=continued)
    batch, queue = found["batch_size"], found["queue_len"]
    assert count // batch >= 2  # steps of an epoch
    assert batch <= queue <= max(count / 2, 4) or queue == batch
    assert queue <= 65536 and batch % found["bn_splits"] == 0
    length = steps(found, count)
    if continued:
        assert length >= 500 and found["lr"] <= chosen(count, device)["lr"]
    else:
        assert length >= STEPS
    assert found["num_workers"] == (1 if device is CPU else 8)
    assert found["image_size"] == (96 if device is CPU else 224)


def test_the_table_of_small_data():
    """Iterations, queue and rate of papers' and libraries' values."""
    few = chosen(292, continued=True)
    assert (few["batch_size"], few["queue_len"]) == (64, 64)
    assert steps(few, 292) == 500 and few["lr"] == pytest.approx(0.03 / 4 * 0.1)
    some = chosen(3000, GPU, continued=True)
    assert (some["batch_size"], some["queue_len"]) == (128, 512)
    assert 3000 <= steps(some, 3000) < 3023
    assert some["lr"] == pytest.approx(0.03 / 2 / 3)
    assert chosen(20_000, GPU, continued=True)["lr"] == chosen(20_000, GPU)["lr"]
    assert chosen(1_300_000, GPU)["queue_len"] == 65536
    assert "queue_len" not in chosen(3000, method="byol")
    for count, rows in ((20, 10), (3000, 1500), (1_300_000, 128_000)):
        found = chosen(count, GPU, method="msf")
        assert found["bank_len"] == rows and "queue_len" not in found
        assert found["batch_size"] % found["bn_splits"] == 0
    # 60 photographs: three steps an epoch, not one
    assert chosen(60)["batch_size"] == 16 and steps(chosen(60), 60) == 2001


def test_memory_and_small_images_bound_what_is_chosen():
    tight = Device("cuda", 2.0, 4)
    assert chosen(3000, tight)["batch_size"] < chosen(3000, GPU)["batch_size"]
    assert chosen(3000, GPU, short_side=100)["image_size"] == 96
    assert chosen(3000, GPU, short_side=10)["image_size"] == 32
    assert chosen(3000, GPU, short_side=None)["image_size"] == 224


def test_what_is_told_is_taken_and_what_follows_follows():
    found = chosen(300, batch_size=10, epochs=7, lr=0.5, queue_len=40, num_workers=0)
    assert [found[n] for n in ("batch_size", "max_epochs", "lr", "queue_len")] == [
        *(10, 7, 0.5, 40)
    ]
    assert found["lr_batch"] == 10 and found["num_workers"] == 0
    assert chosen(300, batch_size=30, steps=95)["max_epochs"] == 10


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (dict(count=7), "7 images are too few"),
        (dict(batch_size=400), "batch_size=400 is more than the 300 images"),
        (dict(batch_size=2.5), "batch_size=2.5 must be a whole number"),
        (dict(epochs=0), "epochs=0 must be a whole number, 1 or more"),
        (dict(lr=-1), "lr=-1 must be a positive number"),
        (dict(lr=True), "lr=True must be a positive number"),
        (dict(lr=10**400), "lr=10+ \\.\\.\\. must be a positive number"),
        (dict(epochs=True), "epochs=True must be a whole number, 1 or more"),
        (dict(image_size=1), "image_size=1 is less than 32, .* ResNet-18's last map"),
        (dict(image_size=31), "stands for; take 32 or more"),
        (dict(epochs=2, steps=3), "Give epochs or steps, not both"),
    ],
)
def test_what_cannot_be_is_refused(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        chosen(given.pop("count", 300), **given)


def test_a_view_has_a_cell_and_numbers_are_plain():
    """Also those of NumPy, which a recipe could not be read with."""
    assert chosen(300, image_size=32)["image_size"] == 32
    found = chosen(300, epochs=np.int64(3), lr=np.float32(0.5))
    assert repr(found["max_epochs"]) == "3" and repr(found["lr"]) == "0.5"
    of_vit = (Images(300), CPU, METHODS["co2"], backbone_named("vit-tiny"), False)
    assert choose(*of_vit, {"image_size": 16})[0].value == 16
    with pytest.raises(ValueError, match="image_size=15 is less than 16"):
        choose(*of_vit, {"image_size": 15})


@pytest.mark.parametrize(
    ("name", "known"),
    [("CO2", "co2"), ("MoCo-v2", "mocov2"), ("moco", "mocov2"), ("SimReg", "simreg")],
)
def test_methods_go_by_their_usual_names(name, known):
    assert method_named(name) == known


def test_slips_of_the_pen_are_answered_by_what_is_near():
    with pytest.raises(ValueError, match=r"no method 'coo2'\. Did you mean co2"):
        method_named("coo2")
    for name, needed in (
        ("CCOP", "boxes from tools/make_p"),
        ("bgaug", "masks of the"),
    ):
        with pytest.raises(ValueError, match=f"'{name}' needs {needed}.*_r18_demo.py`"):
            method_named(name)
    with pytest.raises(ValueError, match=r"no backbone 'resnet55'\. Did you mean resn"):
        backbone_named("resnet55")
    assert backbone_named("ResNet18-w32").variables == dict(depth=18, base_channels=32)
