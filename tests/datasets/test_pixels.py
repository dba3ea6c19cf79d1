"""The pixels of our operations and decoder are those of PIL, up to rounding."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.utils.dl_utils import set_multi_processing
from PIL import Image, ImageFilter
from torchvision.transforms import functional as F

from mmssl_ext.datasets import (
    DecodeImage,
    ImageFolder,
    PackViews,
    RandomResizedCrop,
    ResizeShort,
    UnreadableImageError,
)
from mmssl_ext.datasets.transforms import color, decode

from .helpers import VIEW, loader, natural, picture, png_header, write_folder

CONFIGS = Path(__file__).parents[2] / "configs"
IMAGES = [natural(seed) for seed in range(8)]


def difference(ours, reference):
    """PIL's minus ours, in 8-bit steps."""
    assert isinstance(ours, np.ndarray)
    assert ours.dtype == np.uint8
    assert ours.flags.c_contiguous
    return np.asarray(reference).astype(int) - ours


def pil_blur(img, sigma):
    return img.filter(ImageFilter.GaussianBlur(sigma))


def test_every_colour_has_pils_hue():
    levels = np.linspace(0, 255, 40).astype(np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(200, 320, 3)
    img = Image.fromarray(cube)
    for shift in np.linspace(-0.5, 0.5, 21):
        d = difference(color.adjust_hue(cube, shift), F.adjust_hue(img, shift))
        assert (d != 0).mean() < 0.01
        assert np.abs(d).mean() < 0.02
        assert np.abs(d.mean(axis=(0, 1))).max() < 0.01


@pytest.mark.parametrize("sigma", [0.0, 0.1, 0.45, 0.8, 1.0, 1.5, 2.0, 3.3, 7.0])
def test_three_boxes_are_pils_blur(sigma):
    box = color.box_kernels(np.array([sigma]))[0]
    kernel = np.convolve(np.convolve(box, box), box)
    reach = len(kernel) // 2
    assert len(kernel) == 2 * reach + 1
    assert np.isclose(kernel.sum(), 1)
    assert np.allclose(kernel, kernel[::-1], rtol=1e-6)
    places = np.arange(-reach, reach + 1)
    assert np.isclose(
        (kernel * places**2).sum(), sigma**2, atol=1e-6
    )  # the design of the boxes


def test_blur_agrees_at_the_edge_of_the_image():
    for img in IMAGES:
        pil = pil_blur(Image.fromarray(img), 2.0)
        d = difference(color.blur(img, 2.0), pil)
        d[7:-7, 7:-7] = 0
        assert np.abs(d).max() <= 2
        assert np.abs(d).sum() / (d != 0).sum() < 1.1


BOXES = [
    ((160, 120), (0, 0, 160, 120), (64, 64)),
    ((160, 120), (13, 7, 101, 90), (64, 48)),
    ((160, 120), (13, 7, 44, 40), (56, 72)),  # enlarged
    ((160, 120), (3, 20, 150, 30), (32, 32)),
    ((3000, 1), (500, 0, 501, 1), (8, 8)),
    ((1, 1), (0, 0, 1, 1), (8, 8)),
    ((6000, 2), (0, 0, 6000, 2), (24, 24)),
]


@pytest.mark.parametrize("how", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("size", "box", "target"), BOXES)
def test_crops_are_torchvisions(size, box, target, how):
    crop = RandomResizedCrop(target, interpolation=how)
    d = []
    for seed in range(4):
        img = natural(seed, size)
        pil = Image.fromarray(img)
        height, width = target
        reference = pil.crop(box).resize(
            (width, height), getattr(Image.Resampling, how.upper())
        )
        d.append(difference(crop.apply(img, box), reference))
        assert crop.apply(pil, box) == Image.fromarray(crop.apply(img, box))
    assert np.abs(d).max() <= 1
    assert np.abs(d).mean() < 0.02
    assert np.abs(np.mean(d)) < 0.01


@pytest.mark.parametrize("size", [(160, 120), (120, 160), (33, 57), (1, 50), (9000, 3)])
def test_short_side_is_resized_as_by_pil(size):
    img = natural(1, size)
    ours = ResizeShort(40)({"img": img})["img"]
    assert min(ours.shape[:2]) == 40
    limit = 20 * min(size)  # a longer image is cut first
    width, height = (min(side, limit) for side in size)
    left, upper = round((size[0] - width) / 2), round((size[1] - height) / 2)
    part = Image.fromarray(img[upper : upper + height, left : left + width])
    size = 40 * part.width // min(part.size), 40 * part.height // min(part.size)
    d = difference(ours, part.resize(size, Image.Resampling.BILINEAR))
    assert np.abs(d).max() <= 1
    assert np.abs(d).mean() < 0.02


def test_pil_images_have_the_same_pixels_as_arrays(tmp_path):
    for seed in range(6):
        Image.fromarray(natural(seed)).save(tmp_path / f"{seed}.jpg", quality=95)
    whole = [{"type": "ResizeShort", "size": 50}, {"type": "CenterCrop", "size": 60}]
    solarize = {"type": "RandomSolarize", "prob": 0.5}
    patches = [*VIEW, {"type": "CutPatches", "size": 7, "grid": 3}]
    views = {"type": "MakeViews", "views": [[*VIEW, solarize], whole, patches]}
    runs = []
    for backend in ("array", "pil"):
        decoder = {"type": "DecodeImage", "backend": backend}
        dataset = ImageFolder(str(tmp_path), [decoder, views, {"type": "PackViews"}])
        dataset.set_augmentation_seed(3, 5)
        runs.append([dataset[i] for i in range(6)])
    for one, two in zip(*runs, strict=True):
        assert all(map(torch.equal, one["inputs"], two["inputs"]))
        assert torch.equal(one["boxes"].nan_to_num(), two["boxes"].nan_to_num())


def jpeg(img, **options):
    file = io.BytesIO()
    img.save(file, "JPEG", **options)
    return file.getvalue()


def exif(orientation):
    data = Image.Exif()
    data[274] = orientation
    return data


WHOLE = {
    "plain": jpeg(picture(1)),
    "fine": jpeg(picture(2), quality=97, subsampling=0),
    "odd": jpeg(picture(3, (45, 37)), subsampling=1),
    "progressive": jpeg(picture(4), progressive=True),
    "restarts": jpeg(picture(5), restart_marker_blocks=2),
    "gray": jpeg(picture(6).convert("L")),
    "rgb": jpeg(picture(7), keep_rgb=True),
    "cmyk": jpeg(picture(8).convert("CMYK")),
    "exif": jpeg(picture(9), exif=exif(6), comment="turned", dpi=(72, 72)),
    "garbage": jpeg(picture(10)) + b"more\xff\xd9",
}


def outcome(data, fast):
    """Pixels, or what is said instead: by the fast decoder, or by PIL alone."""
    decoder = DecodeImage()
    if not fast:
        decoder._read_jpeg = lambda data: None
    try:
        return decoder({"img_bytes": data})["img"]
    except UnreadableImageError as error:
        return str(error)


@pytest.mark.parametrize("name", WHOLE)
def test_jpeg_files_decode_as_with_pil(name):
    ours, reference = (outcome(WHOLE[name], fast) for fast in (True, False))
    assert ours.shape == reference.shape
    assert np.array_equal(ours, reference)


@pytest.mark.filterwarnings("ignore")  # PIL's, of damaged metadata
@pytest.mark.parametrize("name", WHOLE)
def test_damaged_jpeg_files_decode_as_with_pil(name):
    whole, rng = WHOLE[name], np.random.default_rng(0)
    damaged = [
        whole[:n]
        for n in {*range(0, len(whole), 9), *range(len(whole) - 8, len(whole))}
    ]
    for i in range(250):
        data = bytearray(whole)
        reach = 700 if i % 2 else len(data)  # the header is most of what can differ
        for place in rng.integers(0, min(reach, len(data)), rng.integers(1, 4)):
            data[place] = rng.integers(256)
        damaged.append(bytes(data))
    errors = 0
    for data in damaged:
        ours, reference = (outcome(data, fast) for fast in (True, False))
        assert type(ours) is type(reference)
        if isinstance(ours, str):
            errors += 1
            assert ours == reference
        else:
            assert np.array_equal(ours, reference)
    assert 50 < errors < len(damaged) - 50  # both happen


def test_jpeg_goes_the_fast_way_and_the_rest_through_pil(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("another decoder was used")

    path = tmp_path / "x.jpg"
    path.write_bytes(WHOLE["exif"])
    with monkeypatch.context() as m:
        m.setattr(Image, "open", refuse)
        img = DecodeImage()({"img_path": str(path)})["img"]
        view = memoryview(bytearray(WHOLE["exif"]))
        assert np.array_equal(DecodeImage()({"img_bytes": view})["img"], img)
    assert img.shape == (48, 40, 3)  # upright
    with monkeypatch.context() as m:
        m.setattr(decode, "decode_jpeg", refuse)
        DecodeImage()({"img_bytes": WHOLE["cmyk"]})
        picture().save(tmp_path / "x.jpg", "PNG")  # the name is no matter
        DecodeImage()({"img_path": str(path)})


def test_too_many_pixels_are_refused_before_they_are_decoded(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("it was decoded")

    monkeypatch.setattr(decode, "decode_jpeg", refuse)
    monkeypatch.setattr(Image.Image, "load", refuse)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 800)  # PIL refuses twice as many
    for data in (WHOLE["plain"], png_header(48, 40)):
        with pytest.raises(UnreadableImageError, match="DecompressionBomb"):
            DecodeImage()({"img_bytes": data})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(UnreadableImageError, match="it was decoded"):
        DecodeImage()({"img_bytes": WHOLE["plain"]})


def test_odd_arrays_of_the_user_are_packed(recwarn):
    base = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    fixed = base.copy()
    fixed.flags.writeable = False
    meta = {"sample_idx": 0, "img_path": "", "skipped": ()}
    for array in (base, base[:, ::-1], base[1:4, 2:5], fixed, np.stack([base] * 4)):
        tensor = PackViews()({"img": array, **meta})["inputs"]
        assert np.array_equal(tensor.numpy(), np.moveaxis(array, -1, -3))
    whole = PackViews()({"img": base, **meta})["inputs"]
    assert whole.numpy().base is not None
    base[0, 0, 0] = 77
    assert whole[0, 0, 0] == 77  # no copy
    assert not recwarn.list


def test_workers_use_one_thread(tmp_path):
    write_folder(tmp_path, 2)

    def count(results):
        return cv2.getNumThreads()

    pipeline = [{"type": "DecodeImage"}, count]
    dataset, before = ImageFolder(str(tmp_path), pipeline=pipeline), cv2.getNumThreads()
    try:
        cv2.setNumThreads(4)
        assert max(n.item() for n in loader(dataset, batch_size=1, num_workers=2)) == 1
        assert dataset[0] == 4  # not ours to change here; the runner does it:
        runtime = Config.fromfile(CONFIGS / "_base_/default_runtime.py")
        set_multi_processing(**runtime.env_cfg.mp_cfg)
        assert dataset[0] == 1
    finally:
        cv2.setNumThreads(before)
