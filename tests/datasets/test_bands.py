"""Images of any number of bands and any depth, from the file to the network's input."""

from __future__ import annotations

import io
import sys

import cv2
import mmpretrain.datasets  # noqa: F401  (registers torchvision's transforms)
import numpy as np
import pytest
import torch
from PIL import Image

from mmssl_ext.datasets import (
    DecodeBands,
    DecodeImage,
    ImageFolder,
    SSLDataset,
    UnreadableImageError,
    look_bands,
)
from mmssl_ext.datasets.look import warn_of_unread
from mmssl_ext.datasets.tiff import arrange
from mmssl_ext.datasets.transforms import banded, color
from mmssl_ext.errors import UserError, UserValueError
from mmssl_ext.preprocessing import MultiViewPreprocessor
from tests.bands import RAMPS, write_tiff
from tests.datasets.helpers import TWO_VIEWS, loader, picture

tifffile = pytest.importorskip("tifffile")


def decoded(path, bands=5, **options):
    return DecodeBands(bands, **options)({"img_path": str(path)})["img"]


CONTIGUOUS = {"photometric": "minisblack", "planarconfig": "contig"}
LAYOUTS = {
    "samples": (RAMPS, CONTIGUOUS),
    "planes": (
        np.moveaxis(RAMPS, -1, 0),
        {"photometric": "minisblack", "planarconfig": "separate"},
    ),
    "pages": (np.moveaxis(RAMPS, -1, 0), {"photometric": "minisblack"}),
    "rows as pages": (RAMPS, {"photometric": "minisblack"}),
    "ImageJ": (
        np.moveaxis(RAMPS, -1, 0),
        {"imagej": True, "metadata": {"axes": "CYX"}},
    ),
    "deflated": (RAMPS, {**CONTIGUOUS, "compression": "zlib", "predictor": True}),
    "big-endian": (RAMPS, {**CONTIGUOUS, "byteorder": ">"}),
    "BigTIFF": (RAMPS, {**CONTIGUOUS, "bigtiff": True}),
    "float": (RAMPS.astype(np.float32), CONTIGUOUS),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_ramp_over_sixteen_bits_arrives_whole(layout, tmp_path):
    """Every value of every band, through flips and normalisation, in every layout."""
    values, options = LAYOUTS[layout]
    write_tiff(tmp_path / "ramp.tif", values, **options)
    steps = dict(bands=5, value_range=(0, 65535))
    view = [
        {"type": "RandomResizedCrop", "size": 256, "scale": (1, 1), "ratio": (1, 1)},
        {"type": "RandomFlip", "prob": 1.0},
    ]
    pipeline = [
        {"type": "DecodeBands", **steps},
        {"type": "MakeViews", "views": [view], "augment_on": "device"},
        {"type": "PackViews"},
    ]
    dataset = ImageFolder(str(tmp_path), pipeline)
    batch = next(iter(loader(dataset, batch_size=1)))
    mean, std = [100.0, 101.0, 102.0, 103.0, 104.0], [10.0, 20.0, 30.0, 40.0, 50.0]
    preprocessor = MultiViewPreprocessor(mean, std, **steps, for_method=True)
    (view,) = preprocessor(batch, training=True)["inputs"]
    assert view.shape == (1, 5, 256, 256) and view.dtype == torch.float32
    there = np.moveaxis(view[0].numpy().astype(np.float64), 0, -1)[:, ::-1]
    found = (there * std + mean) * 257
    assert abs(found - RAMPS).max() < 0.05  # 16 bits; a step of 8 bits is 257
    assert all(len(np.unique(view[0, i])) == 65536 for i in range(5))


def test_resizing_and_blur_round_and_clip_nothing(tmp_path):
    write_tiff(tmp_path / "ramp.tif", RAMPS)
    dim = decoded(tmp_path / "ramp.tif", value_range=(1000, 2000))  # most lies beyond
    assert dim.min() < -200 and dim.max() > 16000
    shrunk = DecodeBands(5, (1000, 2000))({"img": RAMPS})
    dataset = SSLDataset(1, [{"type": "ResizeShort", "size": 64}])
    shrunk = dataset.pipeline[0](shrunk)["img"]
    planes = torch.from_numpy(dim).permute(2, 0, 1)[None]
    exact = torch.nn.functional.interpolate(
        planes.double(), (64, 64), mode="bilinear", antialias=True
    )
    assert np.allclose(np.moveaxis(shrunk, -1, 0), exact[0], atol=1e-2)
    blurred = color.GaussianBlur.change(dim, [1.5])
    each = [
        color.GaussianBlur.change(dim[..., i : i + 1].copy(), [1.5]) for i in range(5)
    ]
    assert np.array_equal(blurred, np.concatenate(each, -1))
    assert blurred.max() > 16000 and (blurred % 1 != 0).any()


def test_which_bands_are_read_and_in_which_order(tmp_path):
    write_tiff(tmp_path / "ramp.tif", RAMPS)
    whole = decoded(tmp_path / "ramp.tif")
    chosen = decoded(tmp_path / "ramp.tif", [4, 0, 0])
    assert np.array_equal(chosen, whole[..., [4, 0, 0]])
    ranged = decoded(tmp_path / "ramp.tif", (1, 2), value_range=[(0, 255), (100, 355)])
    assert np.array_equal(ranged[0, 0], RAMPS[0, 0, 1:3] - np.array([0.0, 100.0]))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF"])
def test_eight_bit_rgb_has_the_pixels_of_the_other_decoder(kind, tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # on its side
    options = {} if kind == "BMP" else {"exif": exif}
    picture(3).save(tmp_path / "x", kind, **options)
    data = (tmp_path / "x").read_bytes()
    rgb = DecodeImage()({"img_bytes": data})["img"]
    assert np.array_equal(DecodeBands(3)({"img_bytes": data})["img"], rgb)
    assert rgb.shape[:2] == ((40, 48) if kind == "BMP" else (48, 40))


@pytest.mark.parametrize("count", [1, 3, 4])
def test_sixteen_bits_of_png(count, tmp_path):
    values = RAMPS[:64, :64, :count]
    stored = values[..., [2, 1, 0, *range(3, count)]] if count > 1 else values
    cv2.imwrite(str(tmp_path / "x.png"), stored)
    found = decoded(tmp_path / "x.png", count)
    assert np.allclose(found * 257, values, atol=0.02)


@pytest.mark.parametrize("zero", ["minisblack", "miniswhite"])
def test_black_and_white_has_the_pixels_of_the_other_decoder(zero):
    values = np.arange(64).reshape(8, 8) % 3 == 0
    given = {"img_bytes": tiff(values, photometric=zero), "img_path": "x.tif"}
    found = DecodeBands(1)(dict(given))["img"]
    assert found.min() == 0 and found.max() == 255
    assert np.array_equal(found, DecodeImage()(dict(given))["img"][..., :1])


def test_the_axes_of_bands_are_told_by_their_shape():
    for shape, axes, result in (
        ((20, 30), "YX", (20, 30, 1)),
        ((1, 20, 30), "QYX", (20, 30, 1)),
        ((5, 20, 30), "QYX", (20, 30, 5)),
        ((20, 30, 5), "QYX", (20, 30, 5)),
        ((40, 20, 30), "SYX", (20, 30, 40)),  # more bands than rows, but named
        ((40, 20, 30), "CYX", (20, 30, 40)),
        ((20, 30, 40), "YXS", (20, 30, 40)),
        ((1, 5, 1, 20, 30), "TCZYX", (20, 30, 5)),
    ):
        assert arrange(np.zeros(shape), axes)[0].shape == result
    for shape, axes in (
        ((20, 20, 20), "QYX"),
        ((20, 5, 30), "QYX"),
        ((20, 20, 30), "QYX"),
        ((2, 20, 30, 3), "QYXS"),
    ):
        with pytest.raises(UserValueError, match="as the samples of one page"):
            arrange(np.zeros(shape), axes)


def tiff(values, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **(options or CONTIGUOUS))
    return buffer.getvalue()


FIVE = np.ones((8, 8, 5), np.uint16)


@pytest.mark.parametrize(
    ("data", "bands", "text"),
    [
        (tiff(FIVE), 4, "it has 5 bands, not the 4 of bands=4"),
        (tiff(FIVE), [0, 5], r"it has 5 bands, and bands=\(0, 5\) counts from 0"),
        (tiff(FIVE)[:300], 5, "failed to read"),
        (tiff(FIVE)[:9], 5, "TiffFileError"),
        (b"II*\0" + b"x" * 40, 5, "cannot be read"),
        (b"", 5, "it is empty"),
        (tiff(np.full((8, 8, 5), np.nan, np.float32)), 5, "no finite numbers"),
        (tiff(np.ones((8, 8, 5), np.complex64)), 5, "of the type complex64"),
        (tiff(np.ones((2, 8, 9, 3), np.uint8)), 3, "cannot be told from rows"),
    ],
)
def test_what_cannot_be_read_is_skipped_with_a_reason(data, bands, text):
    with pytest.raises(UnreadableImageError, match=text):
        DecodeBands(bands, (0, 1))({"img_bytes": data, "img_path": "x.tif"})


def test_a_file_that_unpacks_to_more_than_an_image_is_not_unpacked(monkeypatch):
    data = tiff(FIVE, **CONTIGUOUS, compression="zlib")
    monkeypatch.setattr("mmssl_ext.datasets.tiff.MAX_FILE_BYTES", FIVE.nbytes - 1)
    with pytest.raises(UnreadableImageError, match="it has 640 bytes, more than"):
        DecodeBands(5)({"img_bytes": data})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (dict(bands=0), "bands=0 must be the number of bands, or a list"),
        (dict(bands="5"), "bands='5' must be"),
        (dict(bands=[1, -1]), "counted from 0"),
        (
            dict(bands=2, value_range=(5, 5)),
            r"value_range=\(5, 5\) must be \(low, high",
        ),
        (dict(bands=2, value_range=[(0, 1)] * 3), "a pair for each of the 2"),
        (dict(bands=2, value_range="all"), "must be"),
        (dict(bands=5), "type float32 have no range of their own.*mmssl-ext stats"),
    ],
)
def test_options_that_cannot_be_used_are_explained(options, text):
    with pytest.raises(UserValueError, match=text):
        DecodeBands(**options)({"img": FIVE.astype(np.float32)})


@pytest.mark.parametrize("package", ["tifffile", "imagecodecs"])
def test_a_missing_package_is_said_and_no_fault_of_the_image(package, monkeypatch):
    data = tiff(FIVE)

    def lacks_codecs(series):
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    if package == "tifffile":
        monkeypatch.setitem(sys.modules, "tifffile", None)
    else:
        monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", lacks_codecs)
    with pytest.raises(UserError, match=f"{package}.*pip install") as caught:
        DecodeBands(5)({"img_bytes": data, "img_path": "x.tif"})
    assert not isinstance(caught.value, ValueError)


def test_colours_act_on_bands_and_hue_does_not(tmp_path, monkeypatch):
    img = np.random.default_rng(0).normal(100, 400, (6, 7, 5)).astype(np.float32)
    neutral = [0, 1, 2, 3, 1.0, 1.0, 1.0, 0.3]  # hue alone
    assert np.array_equal(color.ColorJitter.change(img, neutral), img)
    for place, factor in ((0, 1.4), (1, 0.6), (2, 0.0)):
        values = [0, 1, 2, 3, 1.0, 1.0, 1.0, 0.0]
        values[4 + place] = factor
        found = color.ColorJitter.change(img, values)
        about = (0, img.mean((0, 1)), img.mean(2, keepdims=True))[place]
        assert np.allclose(found, about + factor * (img - about), atol=1e-3)
    gray = color.RandomGrayscale.change(img, [1.0])
    assert np.allclose(gray, img.mean(2, keepdims=True)) and gray.shape == img.shape
    inverted = color.RandomSolarize.change(img, [128.0])
    assert np.array_equal(inverted, np.where(img < 128, img, 255 - img))
    one = img[..., :1].copy()
    for kind, values in ((color.GaussianBlur, [1.0]), (color.RandomGrayscale, [1.0])):
        assert kind.change(one, values).shape == one.shape
    assert len(banded.OPERATIONS) == len(color._OPERATIONS)
    write_tiff(tmp_path / "a.tif", RAMPS[:32, :32])
    pipeline = [{"type": "DecodeBands", "bands": 5}, *TWO_VIEWS[1:]]
    said: list[str] = []
    monkeypatch.setattr(look_bands, "print_log", lambda text, **_: said.append(text))
    warn_of_unread(ImageFolder(str(tmp_path), pipeline))
    layout, colours = said
    assert "have 5 bands that are samples of a pixel, of uint16" in layout
    assert "hue is left out" in colours


def test_device_and_worker_make_the_same_views_of_bands(tmp_path):
    write_tiff(tmp_path / "a.tif", RAMPS)
    items = []
    for place in ("worker", "device"):
        views = {**TWO_VIEWS[1], "augment_on": place}
        pipeline = [{"type": "DecodeBands", "bands": 5}, views, TWO_VIEWS[2]]
        dataset = ImageFolder(str(tmp_path), pipeline)
        dataset.set_augmentation_seed(0, 0)
        items.append(dataset[0])
    assert all(map(torch.equal, items[0]["inputs"], items[1]["inputs"]))
    assert torch.equal(items[0]["boxes"], items[1]["boxes"])
    assert not items[1].get("augment")


def test_transforms_of_other_libraries_that_need_rgb_are_refused():
    for place in ("alone", "in a view"):
        step = {"type": "torchvision/ColorJitter", "brightness": 0.4}
        steps = (
            [step] if place == "alone" else [{"type": "MakeViews", "views": [[step]]}]
        )
        SSLDataset(1, [{"type": "DecodeImage", "backend": "pil"}, *steps])
        with pytest.raises(UserValueError, match="ColorJitter of torchvision needs"):
            SSLDataset(1, [{"type": "DecodeBands", "bands": 5}, *steps])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (dict(bands=5), "must have 5 values each.*mmssl-ext stats FOLDER"),
        (dict(bands=5, mean=None, std=None), "must have 5 values each"),
        (dict(bands=[0, 1], mean=[1, 1], std=[1, 0]), "those of std be positive"),
    ],
)
def test_the_preprocessor_wants_a_value_for_each_band(options, text):
    with pytest.raises(UserValueError, match=text):
        MultiViewPreprocessor(**options)


def test_views_with_other_bands_than_mean_are_explained():
    with pytest.raises(TypeError, match=r"\(2, 5, 8, 8\); bands=5 \(DecodeBands\)"):
        MultiViewPreprocessor()({"inputs": torch.zeros(2, 5, 8, 8)})
