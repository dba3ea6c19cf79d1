"""Random transforms: distributions, pixels, patches, and what the device is left."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate
from PIL import Image
from scipy import stats
from torchvision.transforms import RandomResizedCrop as TorchvisionCrop

from mmssl_ext.datasets import (
    ColorJitter,
    CutPatches,
    DecodeImage,
    GaussianBlur,
    ImageFolder,
    MakeViews,
    PackViews,
    RandomFlip,
    RandomGrayscale,
    RandomResizedCrop,
    RandomSolarize,
)
from mmssl_ext.datasets.seeds import SampleSeed
from mmssl_ext.datasets.transforms.color import JitterParams
from mmssl_ext.registry import TRANSFORMS
from tests.preprocessing.reference import by_pil

from .helpers import TWO_VIEWS, VIEW, loader, natural, picture, write_folder


@pytest.mark.parametrize("size", [(64, 48), (100, 10), (7, 300), (5, 5)])
def test_crops_are_distributed_as_torchvisions(size):
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


@pytest.mark.parametrize("view", [V1_VIEW, BYOL_VIEW], ids=["mocov1", "byol"])
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


# -- Patches ---------------------------------------------------------------------------

WIDTH, HEIGHT = 255, 251  # cells of 85 x 83, two rows are left over
HIGHEST = np.array([21, 19])  # offsets of patches of 64


def coordinates() -> Image.Image:
    """An image whose red is the column, and green the row, of each pixel."""
    rows, columns = np.indices((HEIGHT, WIDTH), dtype=np.uint8)
    return Image.fromarray(np.stack([columns, rows, rows ^ columns], axis=2))


@pytest.fixture(scope="module")
def corners():
    """First pixel (column, row) of the patches: samples x views x patches x 2."""
    cut = {"type": "CutPatches", "size": 64, "grid": 3}
    make, pack = MakeViews([[cut], [cut]]), PackViews()
    meta, found = {"img_path": "", "skipped": ()}, []
    pixels = np.asarray(coordinates())
    for index in range(1000):
        draws = SampleSeed((0, 0), index)
        results = {"img": pixels, "sample_seed": draws, "sample_idx": index, **meta}
        views = pack(make(results))["inputs"]
        assert all(v.shape == (9, 3, 64, 64) and v.dtype == torch.uint8 for v in views)
        found.append([v[:, :2, 0, 0].numpy() for v in views])
    return np.array(found, dtype=int)


def test_patches_are_cut_where_they_are_drawn():
    image, rng, cut = coordinates(), np.random.default_rng(0), CutPatches(64, 3)
    pixels = np.asarray(image)
    for _ in range(20):
        corners = cut.draw(rng, image.size)
        expected = np.empty((9, 64, 64, 3), np.uint8)
        for j, (left, upper) in enumerate(corners):
            for row in range(64):
                expected[j, row] = pixels[upper + row, left : left + 64]
        assert np.array_equal(cut.apply(pixels, corners), expected)
        assert np.array_equal(cut.apply(image, corners), expected)
        assert cut.encode(corners).tolist() == [64, *np.array(corners).ravel()]


def test_every_cell_gives_one_patch_with_uniform_offsets(corners):
    cells, offsets = corners // [85, 83], corners % [85, 83]
    numbers = cells[..., 0] + 3 * cells[..., 1]
    assert (np.sort(numbers, axis=-1) == np.arange(9)).all()
    assert (offsets <= HIGHEST).all()
    for cell in range(9):
        for axis, highest in enumerate(HIGHEST):
            counts = np.bincount(offsets[numbers == cell, axis], minlength=highest + 1)
            assert counts.min() > 0  # both ends and all between
            assert stats.chisquare(counts).pvalue > 1e-4
        counts = np.bincount((numbers == cell).nonzero()[2], minlength=9)
        assert stats.chisquare(counts).pvalue > 1e-4  # each place in the order


def test_patches_and_views_are_drawn_independently(corners):
    cells, offsets = corners // [85, 83], corners % [85, 83]
    numbers = cells[..., 0] + 3 * cells[..., 1]
    places = numbers.argsort(axis=-1)  # of each cell in the order
    by_cell = np.take_along_axis(offsets, places[..., None], axis=2)
    columns = np.concatenate(
        [by_cell.reshape(len(corners), -1), places.reshape(len(corners), -1)], axis=1
    )
    correlation = np.corrcoef(columns.T)
    for view in (0, 1):  # within a permutation it is -1/8
        own = slice(36 + 9 * view, 45 + 9 * view)
        assert np.abs(correlation[own, own] + np.eye(9) * -9 / 8 + 1 / 8).max() < 0.16
        correlation[own, own] = 0
    np.fill_diagonal(correlation, 0)
    assert np.abs(correlation).max() < 5 / np.sqrt(len(corners))


def test_the_smallest_image_leaves_no_choice_of_offsets():
    corners = CutPatches().draw(np.random.default_rng(0), (192, 192))
    assert sorted(corners) == [(x, y) for x in (0, 64, 128) for y in (0, 64, 128)]


# -- Left to the device ----------------------------------------------------------------

SOLARIZE = {"type": "RandomSolarize", "threshold": 77, "prob": 0.5}
CROP = {"type": "RandomResizedCrop", "size": [48, 40]}
VIEWS = [
    [{"type": "RandomResizedCrop", "size": 24}, {"type": "RandomFlip"}],
    [CROP, *VIEW[1:4], SOLARIZE, VIEW[4]],
    [CROP, *VIEW[1:], {"type": "CutPatches", "size": 9, "grid": 3}],
]
NAMES = [
    ["RandomFlip"],
    ["ColorJitter", "RandomGrayscale", "GaussianBlur", "RandomSolarize", "RandomFlip"],
    ["ColorJitter", "RandomGrayscale", "GaussianBlur", "RandomFlip", "CutPatches"],
]
LENGTHS = {"ColorJitter": 8, "CutPatches": 19}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("photographs")
    for seed in range(30):
        Image.fromarray(natural(seed)).save(root / f"{seed:02d}.jpg", quality=95)
    return str(root)


def dataset(folder, augment_on, views=VIEWS):
    pipeline = [
        {"type": "DecodeImage"},
        {"type": "MakeViews", "views": views, "augment_on": augment_on},
        {"type": "PackViews"},
    ]
    made = ImageFolder(folder, pipeline=pipeline)
    made.set_augmentation_seed(5, 2)
    return made


JITTER = JitterParams((2, 0, 3, 1), (0.75, 1.25, 1.5, -0.0625))
CORNERS = ((3, 4), (20, 0), (1, 2), (0, 9))


@pytest.mark.parametrize(
    ("transform", "params", "expected"),
    [
        (ColorJitter(), JITTER, [*JITTER.order, *JITTER.factors]),
        (ColorJitter(), None, [0, 1, 2, 3, 1, 1, 1, 0]),
        *((RandomGrayscale(), True, [1]), (RandomGrayscale(), None, [0])),
        *((GaussianBlur(), 1.75, [1.75]), (GaussianBlur(), None, [0])),
        *((RandomSolarize(99), True, [99]), (RandomSolarize(99), None, [256])),
        *((RandomFlip(), True, [1]), (RandomFlip(), None, [0])),
        (CutPatches(5, 2), CORNERS, [5, 3, 4, 20, 0, 1, 2, 0, 9]),
    ],
)
def test_encoding(transform, params, expected):
    values = transform.encode(params)
    assert values.dtype == np.float32
    assert values.tolist() == expected


def test_operations_without_strength_are_neutral():
    jitter = ColorJitter(0.4, 0, 0.4, 0, prob=1)
    values = jitter.encode(jitter.draw(np.random.default_rng(0), (8, 8)))
    assert values[[5, 7]].tolist() == [1, 0]
    assert (values[[4, 6]] != 1).all()


def test_batches_hold_crops_and_all_parameters_in_the_order_of_application(folder):
    (batch,) = loader(dataset(folder, "device"), batch_size=30, num_workers=2)
    assert set(batch) == {"inputs", "data_samples", "augment", "boxes", "index"}
    assert [list(view) for view in batch["augment"]] == NAMES
    sizes = [(24, 24), (48, 40), (48, 40)]
    for view, augment, size in zip(
        batch["inputs"], batch["augment"], sizes, strict=True
    ):
        assert view.shape == (30, 3, *size) and view.dtype == torch.uint8
        for name, values in augment.items():
            assert values.shape == (30, LENGTHS.get(name, 1))
            assert values.dtype == torch.float32 and values.device.type == "cpu"


def mine(results):
    results["img"] = 255 - results["img"]
    return results


def test_all_up_to_a_transform_of_the_users_stays_in_the_worker(folder):
    jitter = {"type": "ColorJitter", "prob": 1.0}
    views = [[CROP, VIEW[4], jitter, mine, VIEW[3], VIEW[2]], [CROP, VIEW[4]]]
    ours = dataset(folder, "device", views=views)
    here = dataset(folder, "worker", views=[views[0][:4], [CROP]])
    for index in range(3):
        item, reference = ours[index], here[index]
        assert list(item["augment"][0]) == ["GaussianBlur", "RandomGrayscale"]
        assert list(item["augment"][1]) == ["RandomFlip"]
        assert all(map(torch.equal, item["inputs"], reference["inputs"]))


def test_a_name_that_stays_in_the_worker_may_occur_again_on_the_device(folder):
    item = dataset(folder, "device", views=[[VIEW[4], CROP, VIEW[4]]])[0]
    assert list(item["augment"][0]) == ["RandomFlip"]


def test_collated_crops_keep_their_pixels_in_any_memory_format(folder):
    data = dataset(folder, "device")
    items = [data[i] for i in range(4)]
    for view in range(3):
        tensor = items[0]["inputs"][view]
        assert tensor.stride() == (1, 3 * tensor.shape[2], 3)  # no copy was made
    batch = default_collate(items)
    for view in range(3):
        for i in range(4):
            assert torch.equal(batch["inputs"][view][i], items[i]["inputs"][view])


# -- Mistakes --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RandomResizedCrop(0), "RandomResizedCrop: size must be a positive"),
        (lambda: RandomResizedCrop(8, scale=(1, 0.2)), "scale must be a pair"),
        (lambda: RandomResizedCrop(8, ratio=(0, 1)), "ratio must be a pair"),
        (lambda: ColorJitter(hue=0.6), "hue must be a number in"),
        (lambda: ColorJitter(contrast=-1), "contrast must be a number in [0, inf]"),
        (lambda: ColorJitter(prob=1.5), "prob must lie in"),
        (lambda: RandomSolarize(257), "threshold must be an integer in"),
        (lambda: DecodeImage("numpy"), 'backend must be "array" or "pil"'),
        (lambda: MakeViews([[]], "gpu"), 'augment_on must be "worker" or "device"'),
        (lambda: GaussianBlur(2.0), "sigma_range must be a pair"),
        (lambda: MakeViews([{"type": "RandomFlip"}]), "must be a list with a list of"),
        (lambda: MakeViews([]), "must be a list with a list of"),
        (lambda: CutPatches(0), "CutPatches: size must be a positive integer"),
        (lambda: CutPatches(grid=0), "CutPatches: grid must be a positive integer"),
        (
            lambda: CutPatches().draw(np.random.default_rng(0), (300, 191)),
            "an image of 300 x 191 pixels has cells of 100 x 63, smaller than the "
            "patches of 64; let RandomResizedCrop before it make at least 192 pixels",
        ),
        (
            lambda: MakeViews([[{"type": "CutPatches"}, {"type": "RandomFlip"}]]),
            "MakeViews: CutPatches turns the image into a list of patches",
        ),
    ],
)
def test_wrong_arguments_are_explained(build, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build()


@pytest.mark.parametrize(
    ("views", "message"),
    [
        (
            [[CROP, VIEW[4]], [CROP]],
            r"in view 1, since it ends with .'RandomResizedCrop'.",
        ),
        ([[]], r"in view 0, since it ends with \[\]"),
        ([[CROP, VIEW[4], VIEW[1], VIEW[4]]], r"view 0 has RandomFlip more than once"),
    ],
)
def test_views_without_work_for_the_device_are_refused(views, message):
    MakeViews(views, augment_on="worker")
    with pytest.raises(ValueError, match=message + r'.*augment_on="worker"'):
        MakeViews(views, augment_on="device")
