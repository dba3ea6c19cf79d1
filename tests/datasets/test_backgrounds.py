"""Masks of subjects, and views whose backgrounds change."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from PIL import Image

from mmssl_ext.datasets import (
    DecodeImage,
    ImageFolder,
    LoadMask,
    MakeViews,
    RandomBackground,
    RandomFlip,
    RandomResizedCrop,
    SwapSubject,
)
from mmssl_ext.datasets.transforms.background import compose, view_mask
from mmssl_ext.datasets.transforms.fill import fill_hole
from mmssl_ext.datasets.transforms.masks import MaskError, border_saliency
from mmssl_ext.errors import UserValueError

RED, GRAY = (220, 20, 20), (110, 110, 110)


def scene(number, subject, size=(48, 40)):
    """A disk of a colour on gray of its own level; and the mask of the disk."""
    width, height = size
    rows, columns = np.indices((height, width))
    inside = (rows - 18) ** 2 + (columns - 20 - number) ** 2 <= 100
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:] = 70 + 20 * number
    pixels[inside] = subject
    return Image.fromarray(pixels), Image.fromarray(255 * inside.astype(np.uint8))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """``images/a`` to ``c``, one of them in a folder, and their masks."""
    root = tmp_path_factory.mktemp("scenes")
    for number, name in enumerate(("a", "sub/b", "c")):
        subject = RED if name == "a" else (20, 60 + 80 * number, 20)
        for kind, img in zip(("images", "masks"), scene(number, subject), strict=True):
            file = root / kind / f"{name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            img.save(file)
    return root


def donors(root, **changes):
    load = LoadMask(str(root / "masks"), str(root / "images"))
    given = dict(type="ImageFolder", root=str(root / "images"))
    return given | dict(pipeline=[DecodeImage(), load]) | changes


def dataset(root, *views, load=None, seed=0):
    load = load or LoadMask(str(root / "masks"), str(root / "images"))
    steps = [DecodeImage(), load, MakeViews([list(view) for view in views])]
    found = ImageFolder(str(root / "images"), steps)
    found.set_augmentation_seed(seed, 0)
    return found


CROP = RandomResizedCrop(32, (0.3, 1.0))
FLIP = RandomFlip(0.5)


# The sheet's cases


def test_composites_by_hand():
    x = np.array([200, 200, 50, 50], np.uint8)[None, :, None]
    b = np.array([10, 20, 30, 40])[None, :, None]
    m = np.array([[1, 0.5, 0, 0]], np.float32)
    assert compose(x, m, b).ravel().tolist() == [200, 110, 30, 40]
    assert compose(x, m, 128).ravel().tolist() == [200, 164, 128, 128]
    assert compose(x, np.ones_like(m), b).tolist() == x.tolist()
    assert compose(x, np.zeros_like(m), b).tolist() == b.tolist()
    assert compose(x, m, b).dtype == np.uint8
    mirrored = compose(x[:, ::-1], m[:, ::-1], b[:, ::-1])
    assert np.array_equal(mirrored, compose(x, m, b)[:, ::-1])


def test_a_hole_is_filled_by_what_is_around_it_alone():
    rng = np.random.default_rng(0)
    img = rng.integers(100, 121, (37, 51, 3), dtype=np.uint8)
    mask = np.zeros((37, 51), np.float32)
    mask[5:30, 10:45] = rng.random((25, 35)).astype(np.float32) + 1e-3
    img[mask > 0] = RED
    filled = fill_hole(img, mask)
    assert np.array_equal(filled[mask <= 0], img[mask <= 0])
    assert filled.min() >= 100 - 1e-3 and filled.max() <= 120 + 1e-3
    assert (fill_hole(img, np.ones_like(mask)) == 128).all()
    assert np.array_equal(fill_hole(img, 0 * mask), img)


# Masks


def test_the_mask_follows_crop_and_flip(root):
    """Where the view shows the disk, there its mask is one: red shares it exactly."""
    seen = []

    def keep(results):
        seen.append((results["img"], view_mask(results), results["view_box"]))
        return results

    keep.keeps_box = True
    for seed in range(12):
        dataset(root, [CROP, FLIP, keep], [FLIP, CROP, FLIP, keep], seed=seed)[0]
    assert {box[0] > box[2] for _, _, box in seen} == {False, True}
    for img, mask, _ in seen:
        red = (img[..., 0].astype(float) - 70) / (RED[0] - 70)  # a's gray is 70
        assert np.abs(red - mask).max() < 0.02  # 1/150 of rounding, twice


def test_masks_of_files(root, tmp_path):
    img, mask = scene(0, RED)
    (tmp_path / "x").mkdir()
    img.save(tmp_path / "x/a.jpg")
    mask.resize((24, 20)).save(tmp_path / "x/a.png")  # beside it, and smaller
    np.savez(tmp_path / "x/b.jpg.npz", np.asarray(mask) > 0)
    load = LoadMask(str(tmp_path), str(tmp_path))
    for name in ("a", "b"):
        results = {"img": np.asarray(img), "img_path": str(tmp_path / f"x/{name}.jpg")}
        found = load(results)["mask"]
        assert found.shape == (40, 48) and found.dtype == np.float32
        assert np.abs(found - np.asarray(mask) / 255).mean() < 0.03
    shard = str(tmp_path / "shard-00001.tar/x/a.jpg")
    assert load({"img": np.asarray(img), "img_path": shard})["mask"].sum() > 0


def test_masks_of_a_coco_file(root, tmp_path):
    mask = pytest.importorskip("pycocotools.mask")
    inside = np.zeros((40, 48), np.uint8)
    inside[3:9, 5:30] = 1
    lengths = mask.encode(np.asfortranarray(inside))
    lengths["counts"] = lengths["counts"].decode()
    square = [10.0, 20.0, 20.0, 20.0, 20.0, 30.0, 10.0, 30.0]
    objects = [dict(segmentation=[square]), dict(segmentation=lengths)]
    images = [dict(id=5, file_name="a.png", width=48, height=40)]
    annotations = [dict(id=i, image_id=5, **x) for i, x in enumerate(objects)]
    file = tmp_path / "objects.json"
    file.write_text(json.dumps(dict(images=images, annotations=annotations)))
    load = LoadMask(str(file), "images", missing="keep")
    found = load({"img": np.zeros((40, 48, 3)), "img_path": "images/a.png"})["mask"]
    expected = inside.copy()
    expected[20:30, 10:20] = 1
    assert np.array_equal(found, expected)
    none = load({"img": np.zeros((40, 48, 3)), "img_path": "images/b.png"})["mask"]
    assert none is None
    with pytest.raises(MaskError, match=r"none\.json' \(seen from .* does not exist"):
        LoadMask(str(tmp_path / "none.json"))


def test_what_stands_out_from_the_border_is_salient():
    rng = np.random.default_rng(0)
    img = rng.integers(90, 120, (90, 120, 3), dtype=np.uint8)
    truth = np.zeros((90, 120), bool)
    truth[25:65, 35:85] = True
    img[truth] = rng.integers(150, 210, (truth.sum(), 3), dtype=np.uint8)
    found = border_saliency(img)
    assert found.shape == truth.shape and found.dtype == np.float32
    both, either = (found > 0.5) & truth, (found > 0.5) | truth
    assert both.sum() / either.sum() > 0.8
    assert border_saliency(np.full((20, 30, 3), 9, np.uint8)).max() == 0


# Views


def test_without_a_mask_and_without_a_change_the_views_are_those_of_the_base(root):
    plain = dataset(root, [CROP, FLIP])
    none = LoadMask(str(root / "images"), "elsewhere", missing="keep")
    same = [
        dataset(root, [CROP, FLIP, RandomBackground(prob=0)]),
        dataset(root, [CROP, FLIP, RandomBackground(prob=1)], load=none),
        dataset(root, [CROP, FLIP, RandomBackground(prob=1, valid=(0.97, 1))]),
    ]
    for index in range(3):
        (truth,) = plain[index]["views"]
        for other in same:
            assert np.array_equal(other[index]["views"][0], truth)


def test_a_removed_background_is_one_gray(root):
    levels = set()
    for seed in range(6):
        change = RandomBackground("remove", prob=1)
        found = dataset(root, [CROP, change], [RandomBackground(prob=1, level=7)])
        found.set_augmentation_seed(seed, 0)
        view, whole = found[0]["views"]
        outside = view[view[..., 0] == view[..., 1]][:, 0]  # the disk is red
        level = np.bincount(outside).argmax()
        # What differs is tinted by the edge of the disk.
        assert (outside == level).mean() > 0.95
        levels.add(level)
        mask = np.asarray(Image.open(root / "masks/a.png")) > 0
        assert (whole[~mask] == 7).all() and (whole[mask] == RED).all()
    assert len(levels) > 4


def test_a_random_background_is_of_another_image_and_shows_no_subject(root):
    change = RandomBackground("random", 1.0, donors(root))
    found = dataset(root, [change])
    levels = []
    mask = np.asarray(Image.open(root / "masks/sub/b.png")) > 0
    for seed in range(20):
        found.set_augmentation_seed(seed, 0)
        (view,) = found[2]["views"]
        assert np.array_equal(
            view[mask], np.broadcast_to((20, 140, 20), view[mask].shape)
        )
        around = view[~mask].astype(int)
        assert np.ptp(around) == 0  # a donor's disk would have colour
        levels.append(around[0, 0])
    assert set(levels) == {70, 110}  # of a and c; its own is 90
    found.set_augmentation_seed(3, 0)
    again = found[2]["views"][0]
    assert np.array_equal(again, found[2]["views"][0])  # by seed alone


def test_a_swapped_subject_stands_before_the_own_background(root):
    found = dataset(root, [SwapSubject(donors(root))])
    colours = set()
    for seed in range(12):
        found.set_augmentation_seed(seed, 0)
        (view,) = found[0]["views"]
        gray = view[(np.ptp(view.astype(int), axis=-1) == 0)]
        assert 70 in gray and gray.max() < 75  # a's, none of b and c
        green = view[..., 1].astype(int) - view[..., 0] > 40
        assert green.any() and not (view[..., 0] > 150).any()  # a's red is gone
        colours.add(int(view[..., 1].max()))
    assert len(colours) == 2  # both others are donors
    bare = LoadMask(str(root / "images"), "elsewhere", missing="keep")
    other = dataset(root, [SwapSubject(donors(root))], load=bare)[0]["views"][0]
    assert not (other == 70).all(-1).any()  # a whole crop of another image


def test_so_many_views_change_as_is_said():
    rng = np.random.default_rng(0)
    change = RandomBackground(prob=0.2)
    results = dict(mask=np.full((4, 4), 0.5, np.float32), view_box=(0, 0, 1, 1))
    plain = np.zeros((4, 4, 3), np.uint8)
    changed = sum(
        change({**results, "img": plain, "rng": rng})["img"] is not plain
        for _ in range(10_000)
    )
    assert abs(changed / 10_000 - 0.2) < 3 * math.sqrt(0.2 * 0.8 / 10_000)


def test_what_cannot_be_is_refused_in_a_sentence(root, tmp_path):
    pixels = np.zeros((40, 48, 3), np.uint8)
    path = str(root / "images/a.png")
    load = LoadMask(str(root / "masks"), str(root / "images"))
    with pytest.raises(MaskError, match=r"There is no mask of .*missing=\"keep\""):
        load({"img": pixels, "img_path": str(root / "images/d.png")})
    said = "has 48 x 40 pixels, which is not the shape of its image of 40 x 48"
    with pytest.raises(MaskError, match=re.escape(said)):
        load({"img": pixels.swapaxes(0, 1), "img_path": path})
    (tmp_path / "a.png").write_bytes(b"none")
    with pytest.raises(MaskError, match=r"mask '.*a\.png' cannot be read"):
        LoadMask(str(tmp_path), "x")({"img": pixels, "img_path": "x/a.jpg"})
    np.savez(tmp_path / "b.npz", np.full((40, 48), 255.0))
    with pytest.raises(MaskError, match="with values of 0 to 1, but is"):
        LoadMask(str(tmp_path), "x")({"img": pixels, "img_path": "x/b.jpg"})
    with pytest.raises(MaskError, match=r"folder of masks 'gone' .* does not exist"):
        LoadMask("gone")
    bands = np.zeros((4, 4, 5), np.float32)
    with pytest.raises(MaskError, match="read as bands; give masks in files"):
        LoadMask("border")({"img": bands, "img_path": "x"})
    rng = np.random.default_rng(0)
    with pytest.raises(UserValueError, match="put LoadMask between"):
        RandomBackground(prob=1)({"img": pixels, "rng": rng})
    with pytest.raises(UserValueError, match="Where the view was cut is not known"):
        RandomBackground(prob=1)({"img": pixels, "rng": rng, "mask": pixels[..., 0]})
    for options, text in (
        (dict(mode="blur"), 'mode must be "remove" or "random"'),
        (dict(mode="swap"), r"configs of its own, configs/bgaug/bgswaps_\*\.py"),
        (dict(mode="random"), "takes its backgrounds from donors"),
        (dict(donors={}), 'mode="remove" has none'),
        (dict(level=300), "level must lie in 0 to 255"),
        (dict(mode="random", donors={}), "config of a dataset with a type"),
        (dict(mode="random", donors=donors(root, max_images=1)), "has only 1"),
    ):
        with pytest.raises(UserValueError, match=text):
            RandomBackground(**options)
