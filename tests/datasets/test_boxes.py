"""Where each view was cut: what the pixels say themselves, in every pipeline."""

from __future__ import annotations

import mmpretrain.datasets
import mmpretrain.registry
import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate
from PIL import Image

from mmssl_ext.datasets import (
    CenterCrop,
    ColorJitter,
    CutPatches,
    ImageFolder,
    MakeViews,
    PackViews,
    RandomFlip,
    RandomResizedCrop,
    ResizeShort,
    move_box,
)
from mmssl_ext.datasets.seeds import SampleSeed
from mmssl_ext.datasets.transforms.placing import keeps_box
from mmssl_ext.datasets.transforms.random import RandomTransform
from mmssl_ext.models.layers.geometry import cell_centres, to_image
from mmssl_ext.preprocessing import MultiViewPreprocessor

from .helpers import TWO_VIEWS, write_folder


def boxes_of(*views, size=(640, 480), augment_on="worker", seed=0, backend=np.array):
    """Boxes and pixels of the views of an image of a size (width, height)."""
    results = {
        "img": backend(Image.new("RGB", size)),
        "sample_seed": SampleSeed((0, seed), 0),
    }
    results = MakeViews(views, augment_on)(results)
    meta = {"sample_idx": 5, "img_path": "", "skipped": ()}
    item = PackViews()({**results, **meta})
    assert item["boxes"].dtype == torch.float32 and item["index"] == 5
    return item["boxes"]


class Crop(RandomResizedCrop):
    """The crop that the test says."""

    def __init__(self, size, box):
        super().__init__(size)
        self.box = box

    def draw(self, rng, size):
        return self.box


@pytest.mark.parametrize("backend", [np.array, lambda image: image])
def test_boxes_by_hand(backend):
    crop, flip = Crop(32, (64, 48, 320, 240)), RandomFlip(1.0)
    found = boxes_of(
        [crop],
        [crop, flip],
        [],
        [crop, flip, Crop(8, (0, 0, 16, 8))],  # the left half is the right one
        [flip, flip],
        [RandomFlip(0.0), ColorJitter(prob=1)],
        [ResizeShort(240), CenterCrop((240, 160))],  # height, width of 320 x 240
        [CenterCrop((480, 800))],  # black beside it
        backend=backend,
    )
    expected = [
        (0.1, 0.1, 0.5, 0.5),
        (0.5, 0.1, 0.1, 0.5),
        (0, 0, 1, 1),
        (0.5, 0.1, 0.3, 0.2),
        (0, 0, 1, 1),
        (0, 0, 1, 1),
        (0.25, 0, 0.75, 1),
        (-0.125, 0, 1.125, 1),
    ]
    assert torch.allclose(found, torch.tensor(expected), atol=1e-7)
    strip = boxes_of([ResizeShort(4)], size=(1000, 10), backend=backend)
    assert strip.tolist() == [pytest.approx([0.4, 0, 0.6, 1])]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Images whose red is x and whose green is y, of several sizes."""
    root = tmp_path_factory.mktemp("places")
    for number, (width, height) in enumerate([(256, 200), (180, 256), (97, 61)] * 3):
        x, y = np.meshgrid(np.arange(width), np.arange(height))
        pixels = np.stack([(x + 0.5) / width, (y + 0.5) / height, 0 * x], -1)
        image = Image.fromarray(np.rint(255 * pixels).astype(np.uint8))
        image.save(root / f"{number}.png")
    return root


VIEWS = [
    [dict(type="RandomResizedCrop", size=(28, 42)), dict(type="RandomFlip")],
    [
        dict(type="RandomResizedCrop", size=49, scale=(0.4, 0.8)),
        dict(type="RandomFlip"),
        dict(type="RandomResizedCrop", size=35, scale=(0.4, 0.8)),
        dict(type="RandomFlip"),
    ],
    [
        dict(type="ResizeShort", size=60),
        dict(type="CenterCrop", size=56),
        dict(type="RandomFlip"),
    ],
]


@pytest.mark.parametrize(
    ("augment_on", "batched"), [("worker", None), ("device", True), ("device", False)]
)
def test_colours_of_a_view_say_that_its_box_is_right(places, augment_on, batched):
    pipeline = [
        dict(type="DecodeImage"),
        dict(type="MakeViews", views=VIEWS, augment_on=augment_on),
        dict(type="PackViews"),
    ]
    dataset = ImageFolder(str(places), pipeline)
    dataset.set_augmentation_seed(0, 0)
    count = len(dataset)
    batch = default_collate([dataset[i] for i in range(count)])
    assert batch["boxes"].shape == (count, 3, 4)
    assert batch["index"].tolist() == list(range(count))
    preprocessor = MultiViewPreprocessor(
        (0,) * 3, (1,) * 3, batched=batched, for_method=True
    )
    data = preprocessor(batch, training=True)
    mirrored = data["boxes"][..., 0] > data["boxes"][..., 2]
    assert 2 < mirrored.sum() < 3 * count - 2
    for number, view in enumerate(data["inputs"]):
        grid = [side // 7 for side in view.shape[2:]]
        cells = torch.nn.functional.avg_pool2d(view[:, :2].float() / 255, 7)
        centres = cell_centres(*grid, data["boxes"])
        expected = to_image(centres, data["boxes"][:, number])  # N x cells x 2
        error = (cells.flatten(2).mT - expected).abs()
        # Half a level of the colours, and half a pixel of the smallest image.
        assert error.max() < 1 / 255 + 0.5 / 61
        assert error.mean() < 1.2 / 255


def turned(results):
    """A transform of the user's that moves pixels and says nothing."""
    return {**results, "img": np.ascontiguousarray(results["img"][::-1])}


def in_place(results):
    results["img"][:] = results["img"][:, ::-1].copy()
    return results


class Quiet(ColorJitter):
    def apply(self, img, params):
        return np.ascontiguousarray(img[::-1])


class Noise(RandomTransform):
    def draw(self, rng, size):
        return True

    def apply(self, img, params):
        return np.ascontiguousarray(img[::-1])


class SaidNoise(Noise):
    keeps_box = True


class UpsideDown(SaidNoise):
    def locate(self, params, size):
        return 0.0, 1.0, 1.0, 0.0


def left_half(results):
    results["img"] = results["img"][:, : results["img"].shape[1] // 2]
    move_box(results, (0, 0, 0.5, 1))
    return results


left_half.keeps_box = True


@pytest.mark.parametrize("mine", [turned, in_place, Quiet(), Noise(), lambda r: r])
def test_a_box_is_unknown_after_a_transform_that_does_not_tell(mine):
    crop = Crop(32, (64, 48, 320, 240))
    before, after, alone = boxes_of([mine, crop], [crop, mine], [crop])
    assert before.isnan().all() and after.isnan().all()
    assert alone.tolist() == pytest.approx([0.1, 0.1, 0.5, 0.5])
    assert not keeps_box(mine)


def test_own_classes_say_it_again_when_they_change_pixels():
    class Inner(RandomFlip):
        def __call__(self, results):
            return turned(results)

    class Again(Inner):
        keeps_box = True

    given = [ColorJitter(), RandomFlip(), CutPatches(), Inner(), Again()]
    assert [keeps_box(t) for t in given] == [True, True, False, False, True]
    assert keeps_box(left_half) and not keeps_box(turned)
    libraries = [
        (dict(type="torchvision/ColorJitter", brightness=0.4), True),
        (dict(type="torchvision/RandomHorizontalFlip", p=1.0), False),
        (dict(type="ColorJitter", brightness=0.4), True),
        (dict(type="Rotate", angle=30.0), False),
    ]
    for transform, known in libraries:
        assert keeps_box(mmpretrain.registry.TRANSFORMS.build(transform)) is known
    for augment_on in ("worker", "device"):
        crop = [RandomResizedCrop(96), RandomFlip()]
        whole, cut = boxes_of(crop, [*crop, CutPatches(16)], augment_on=augment_on)
        assert whole.isfinite().all() and cut.isnan().all()


def test_transforms_of_the_user_can_tell():
    crop = Crop(32, (64, 48, 320, 240))
    half, upside, noise, drawn = boxes_of(
        [crop, left_half],
        [crop, UpsideDown()],
        [crop, SaidNoise()],
        [Crop(8, (0, 0, 640, 480))],
    )
    assert half.tolist() == pytest.approx([0.1, 0.1, 0.3, 0.5])
    assert upside.tolist() == pytest.approx([0.1, 0.5, 0.5, 0.1])
    assert noise.tolist() == pytest.approx([0.1, 0.1, 0.5, 0.5])
    assert drawn.tolist() == [0, 0, 1, 1]  # a subclass with draws of its own


def test_views_that_were_replaced_have_no_box(tmp_path):
    write_folder(tmp_path, 1)

    def other(results):
        views = results["views"]
        return {**results, "views": [views[1], np.ascontiguousarray(views[0][:, ::-1])]}

    plain = ImageFolder(str(tmp_path), TWO_VIEWS)
    changed = ImageFolder(str(tmp_path), [*TWO_VIEWS[:2], other, TWO_VIEWS[2]])
    for dataset in (plain, changed):
        dataset.set_augmentation_seed(0, 0)
    boxes, found = plain[0]["boxes"], changed[0]["boxes"]
    assert torch.equal(found[0], boxes[1]) and found[1].isnan().all()
    # Of the central square, where a transform before MakeViews has cut that.
    first = [dict(type="ResizeShort", size=61), dict(type="CenterCrop", size=61)]
    views = dict(type="MakeViews", views=[[]])
    square = ImageFolder(str(tmp_path), [TWO_VIEWS[0], *first, views, TWO_VIEWS[2]])
    assert square[0]["boxes"].tolist() == [[0, 0, 1, 1]]
    # An item can do without, and a single view has none.
    bare = [*TWO_VIEWS[:2], dict(type="PackViews", geometry=False)]
    assert list(ImageFolder(str(tmp_path), bare)[0]) == ["inputs", "data_samples"]
    single = ImageFolder(str(tmp_path), [TWO_VIEWS[0], TWO_VIEWS[2]])
    assert set(single[0]) == {"inputs", "data_samples", "index"}
