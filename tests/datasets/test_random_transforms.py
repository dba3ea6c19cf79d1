"""Random transforms: distributions, and the pixels that given parameters lead to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torchvision.transforms import RandomResizedCrop as TorchvisionCrop

from mmssl_ext.datasets import (
    ColorJitter,
    DecodeImage,
    GaussianBlur,
    ImageFolder,
    MakeViews,
    RandomFlip,
    RandomGrayscale,
    RandomResizedCrop,
    RandomSolarize,
)
from mmssl_ext.datasets.seeds import SampleSeed
from mmssl_ext.registry import TRANSFORMS
from tests.preprocessing.reference import by_pil

from .helpers import TWO_VIEWS, VIEW, picture, write_folder


@pytest.mark.parametrize("size", [(64, 48), (100, 10), (7, 300), (5, 5)])
def test_crops_are_distributed_as_torchvisions(size):
    """Two-sample Kolmogorov-Smirnov tests of area, aspect and position."""
    rng, img, count = np.random.default_rng(0), Image.new("RGB", size), 3000
    torch.manual_seed(0)
    crop = RandomResizedCrop(8, scale=(0.2, 1.0))
    ours = np.array([crop.draw(rng, size) for _ in range(count)])
    params = [
        TorchvisionCrop.get_params(img, [0.2, 1.0], [3 / 4, 4 / 3])
        for _ in range(count)
    ]
    theirs = np.array([(j, i, j + w, i + h) for i, j, h, w in params])
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 2:] <= size).all()

    def statistics(boxes):
        w, h = (boxes[:, 2:] - boxes[:, :2]).T
        return w * h, w / h, boxes[:, 0], boxes[:, 1]

    for a, b in zip(statistics(ours), statistics(theirs), strict=True):
        assert stats.ks_2samp(a, b).pvalue > 1e-3


@pytest.mark.parametrize(
    ("size", "box"), [((1, 1), (0, 0, 1, 1)), ((300, 3), (148, 0, 152, 3))]
)
def test_crop_of_an_odd_shape_falls_back_to_the_centre(size, box):
    crop = RandomResizedCrop(8, scale=(0.9, 1.0))
    assert crop.draw(np.random.default_rng(0), size) == box
    red = crop.apply(Image.new("RGB", size, "red"), box)
    assert red.getpixel((4, 4)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("transform", "prob"),
    [
        (ColorJitter(prob=0.8), 0.8),
        (RandomGrayscale(0.2), 0.2),
        (GaussianBlur(prob=0.5), 0.5),
        (RandomFlip(0.5), 0.5),
        (RandomFlip(0.0), 0.0),
        (RandomSolarize(prob=0.3), 0.3),
        (ColorJitter(prob=1), 1.0),
    ],
)
def test_probability(transform, prob):
    rng, count = np.random.default_rng(1), 4000
    hits = sum(transform.draw(rng, (8, 8)) is not None for _ in range(count))
    assert abs(hits - prob * count) <= 4 * np.sqrt(count * prob * (1 - prob))


def test_jitter_factors_are_uniform_and_all_orders_occur():
    rng = np.random.default_rng(2)
    jitter = ColorJitter(0.4, 0.3, 2.0, 0.1, prob=1)
    drawn = [jitter.draw(rng, (8, 8)) for _ in range(4000)]
    ranges = [(0.6, 1.4), (0.7, 1.3), (0.0, 3.0), (-0.1, 0.1)]
    for values, (low, high) in zip(
        np.array([d.factors for d in drawn]).T, ranges, strict=True
    ):
        assert stats.kstest(values, "uniform", (low, high - low)).pvalue > 1e-3
    _, counts = np.unique([d.order for d in drawn], axis=0, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-3
    sigmas = [GaussianBlur((0.1, 2.0), 1).draw(rng, (8, 8)) for _ in range(2000)]
    assert stats.kstest(sigmas, "uniform", (0.1, 1.9)).pvalue > 1e-3


def by_hand(img, transform, params):
    """The reference: torchvision's and PIL's operations for drawn parameters."""
    if params is None:
        return img
    if isinstance(transform, RandomResizedCrop):
        size = (transform.size[1], transform.size[0])
        return img.crop(params).resize(size, Image.Resampling.BILINEAR)
    values = {transform.device_name: transform.encode(params)[None]}
    return Image.fromarray(by_pil(np.asarray(img)[None], values)[0].astype(np.uint8))


V1_VIEW = [
    {"type": "RandomResizedCrop", "size": [20, 28]},
    {"type": "RandomGrayscale", "prob": 0.2},
    {"type": "ColorJitter", "hue": 0.4, "prob": 1.0},
    {"type": "RandomFlip"},
]
BYOL_VIEW = [*VIEW, {"type": "RandomSolarize", "threshold": 100, "prob": 0.7}]


@pytest.mark.parametrize(
    "view", [VIEW, V1_VIEW, BYOL_VIEW], ids=["mocov2", "mocov1", "byol"]
)
def test_pipeline_equals_operations_applied_by_hand(tmp_path, view):
    write_folder(tmp_path, 12)
    views = {"type": "MakeViews", "views": [view, view]}
    dataset = ImageFolder(str(tmp_path), [TWO_VIEWS[0], views, TWO_VIEWS[2]])
    dataset.set_augmentation_seed(11, 4)
    transforms, differences = [TRANSFORMS.build(t) for t in view], []
    for index in range(len(dataset)):
        for number, tensor in enumerate(dataset[index]["inputs"]):
            rng = dataset.augmentation_seed.sample(index).view(number)
            img = Image.open(tmp_path / f"{index:03d}.png")
            for transform in transforms:
                img = by_hand(img, transform, transform.draw(rng, img.size))
            found = np.asarray(img).astype(int) - tensor.permute(1, 2, 0).numpy()
            differences.append(np.abs(found).mean())
    # A value next to the threshold of RandomSolarize may fall on either side.
    assert np.median(differences) < 0.4 and max(differences) < 2


def test_all_views_are_cut_from_one_decoded_image(tmp_path, monkeypatch):
    write_folder(tmp_path, 3)
    dataset, decoded = ImageFolder(str(tmp_path), pipeline=TWO_VIEWS), []
    decode = DecodeImage._decode

    def counted(self, results):
        decoded.append(results["img_path"])
        return decode(self, results)

    monkeypatch.setattr(DecodeImage, "_decode", counted)
    views = [dataset[i]["inputs"] for i in range(3)]
    assert len(decoded) == 3
    assert all(len(v) == 2 for v in views)


def test_a_view_does_not_change_the_decoded_image():
    results = {"img": picture(), "sample_seed": SampleSeed((0, 0), 0)}
    results = DecodeImage()(results)
    before = results["img"].tobytes()
    view = [
        {"type": "RandomFlip", "prob": 1.0},
        {"type": "ColorJitter", "prob": 1.0},
        {"type": "RandomGrayscale", "prob": 0.0},
        {"type": "RandomSolarize", "prob": 1.0},
        {"type": "GaussianBlur", "prob": 1.0},
    ]
    for first in range(len(view)):
        one, two = MakeViews([view[first:], view[first:]])(results)["views"]
        assert results["img"].tobytes() == before
    assert one.tobytes() != two.tobytes()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RandomResizedCrop(0), "RandomResizedCrop: size must be a positive"),
        (lambda: RandomResizedCrop(8, scale=(1, 0.2)), "scale must be a pair"),
        (lambda: RandomResizedCrop(8, scale=0.5), "scale must be a pair"),
        (lambda: RandomResizedCrop(8, ratio=(0, 1)), "ratio must be a pair"),
        (lambda: ColorJitter(hue=0.6), "hue must be a number in"),
        (lambda: ColorJitter(contrast=-1), "contrast must be a number at least 0"),
        (lambda: ColorJitter(prob=1.5), "prob must lie in"),
        (lambda: RandomSolarize(257), "threshold must be an integer in"),
        (lambda: DecodeImage("numpy"), 'backend must be "array" or "pil"'),
        (lambda: MakeViews([[]], "gpu"), 'augment_on must be "worker" or "device"'),
        (lambda: GaussianBlur(2.0), "sigma_range must be a pair"),
        (lambda: MakeViews([{"type": "RandomFlip"}]), "one list of transforms per"),
        (lambda: MakeViews([]), "one list of transforms per view"),
    ],
)
def test_wrong_arguments_are_explained(build, message):
    with pytest.raises(ValueError, match=message):
        build()
