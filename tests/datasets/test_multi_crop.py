"""Large and small crops of one decoded image, as the configs ask for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate
from PIL import Image

from mmssl_ext.datasets import DecodeImage, ImageFolder, RandomResizedCrop
from mmssl_ext.preprocessing import MultiViewPreprocessor
from mmssl_ext.run.launch import load_config

from .helpers import natural

CONFIGS = Path(__file__).parents[2] / "configs"
SIZES = {
    "mocov2_r50_imagenet": (224, 96),
    "mocov2_r18_cifar10": (32, 16),
    "mocov2_r18_demo": (64, 32),
}


def pipeline(name, **options):
    cfg = load_config(CONFIGS / "mocov2" / f"{name}.py", options)
    return cfg.train_dataloader.dataset.pipeline


def changes(view):
    """Name and probability of what follows the crop of a view."""
    return [(t.type, t.get("prob")) for t in view[1:]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for number in range(3):  # smaller than a large crop, and than a small one
        size = [(60, 48), (300, 260), (9, 7)][number]
        Image.fromarray(natural(number, size)).save(root / f"{number}.png")
    return root


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("count", [6, 8])
def test_large_crops_come_first_and_an_image_is_decoded_once(
    name, count, folder, monkeypatch
):
    decoded = []
    decode = DecodeImage._decode
    monkeypatch.setattr(
        DecodeImage, "_decode", lambda *a: decoded.append(1) or decode(*a)
    )
    found = {}
    for where in ("worker", "device"):
        steps = pipeline(name, local_crops=count, augment_on=where)
        data = ImageFolder(str(folder), steps)
        data.set_augmentation_seed(0, 0)
        batch = default_collate([data[i] for i in range(3)])
        large, small = SIZES[name]
        shapes = [tuple(x.shape) for x in batch["inputs"]]
        assert shapes == [(3, 3, s, s) for s in [large] * 2 + [small] * count]
        assert batch["boxes"].shape == (3, 2 + count, 4)
        found[where] = MultiViewPreprocessor([0] * 3, [1] * 3, batched=False)(batch)
    assert len(decoded) == 2 * 3
    crops = found["worker"]["inputs"]
    for one, other in zip(crops, found["device"]["inputs"], strict=True):
        assert torch.equal(one, other)
    assert all(not torch.equal(crops[2], other) for other in crops[3:])


def test_crops_of_each_kind_have_their_area_and_changes():
    options = dict(local_crops=3, crop_scale=(0.14, 1.0), interpolation="bicubic")
    views = pipeline("mocov2_r50_imagenet", **options)[1].views
    scales = [(0.14, 1.0)] * 2 + [(0.05, 0.14)] * 3
    assert [tuple(view[0].scale) for view in views] == scales
    assert all(view[0].interpolation == "bicubic" for view in views)
    assert all(changes(view) == changes(views[0]) for view in views)
    first, second, *small = pipeline(
        "mocov2_r50_imagenet", three_recipes=True, **options
    )[1].views
    assert [dict(changes(v))["GaussianBlur"] for v in (first, second, *small)] == [
        *(1.0, 0.1),
        *[0.5] * 3,
    ]
    assert ("RandomSolarize", 0.2) in changes(second)
    assert all("RandomSolarize" not in dict(changes(v)) for v in (first, *small))
    weak = pipeline("mocov2_r18_demo", local_crops=1, weak_target=True)[1].views
    assert changes(weak[1]) == [("RandomFlip", 0.5)]
    assert changes(weak[2]) == changes(weak[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(scale=(0.05, 1.4)), "scale must be a pair .* within .*1., but"),
        (dict(interpolation="lanczos"), 'interpolation must be "bilinear" or "bicub'),
    ],
)
def test_a_crop_larger_than_the_image_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RandomResizedCrop(96, **options)


def test_a_small_crop_lies_within_the_image():
    crop = RandomResizedCrop(96, scale=(0.05, 0.14))
    rng = np.random.default_rng(0)
    for size in ((7, 9), (1, 1), (500, 20)):
        left, upper, right, lower = np.array(
            [crop.draw(rng, size) for _ in range(50)]
        ).T
        assert min(left) >= 0 and min(upper) >= 0
        assert max(right) <= size[0] and max(lower) <= size[1]
        assert (left < right).all() and (upper < lower).all()
