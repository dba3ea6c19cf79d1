"""Odd and broken image files: defined pixels, or a refusal under both policies."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from mmssl_ext.datasets import DecodeImage, ImageFolder, ImageList, UnreadableImageError

from .helpers import (
    TWO_VIEWS,
    loader,
    picture,
    png_header,
    write_broken,
    write_folder,
)


def write_list(tmp_path, lines):
    (tmp_path / "list.txt").write_text("".join(f"{line}\n" for line in lines))
    return str(tmp_path / "list.txt")


def decoded(path, backend="array"):
    return DecodeImage(backend)({"img_path": str(path)})["img"]


# -- Odd images ------------------------------------------------------------------------

GRAY = np.arange(256, dtype=np.uint8).reshape(16, 16)
DEEP = (np.arange(1200, dtype=np.uint16) * 54).reshape(30, 40)
RGB = picture(3, (16, 16))


def write_odd(folder):
    """Name of each file to its pixels, broadcast to H x W x 3."""
    expected = {}

    def write(name, img, pixels=None, **options):
        img.save(folder / name, **options)
        if pixels is None:
            pixels = np.asarray(Image.open(folder / name).convert("RGB"))
        expected[name] = pixels

    palette = RGB.quantize(8)
    opaque, deep = np.asarray(palette.convert("RGB")), np.round(DEEP / 257)[..., None]
    for suffix in ("jpg", "tif"):
        write(f"cmyk.{suffix}", RGB.convert("CMYK"))
    write("gray.jpg", RGB.convert("L"))
    write("gray.png", Image.fromarray(GRAY), GRAY[..., None])
    write("bilevel.png", Image.fromarray(GRAY > 99), (GRAY[..., None] > 99) * 255)
    for suffix in ("png", "tif"):
        write(f"deep.{suffix}", Image.fromarray(DEEP), deep)
    alpha = RGB.copy()
    alpha.putalpha(Image.fromarray(GRAY))
    write("alpha.png", alpha, np.asarray(RGB))
    write("la.png", Image.merge("LA", [Image.fromarray(GRAY)] * 2), GRAY[..., None])
    write("palette.png", palette, opaque)
    write("palette_alpha.png", palette, opaque, transparency=bytes([0, 128, 255]))
    for number, size in enumerate([(1, 1), (50, 1), (1, 50), (30_000, 3), (3000, 1)]):
        write(f"thin{number}.png", Image.new("RGB", size, (255, 8, 7)))
    write("high.jpg", Image.new("RGB", (2, 30_000), (90, 80, 70)))
    frames = [Image.new("RGB", (32, 24), c) for c in ("#f00", "#0f0", "#00f")]
    first = np.full((24, 32, 3), (255, 0, 0))
    write("a.gif", frames[0], first, save_all=True, append_images=frames[1:], loop=0)
    return expected


@pytest.mark.fault("R13")
@pytest.mark.parametrize("backend", ["array", "pil"])
def test_every_odd_image_has_its_defined_pixels(tmp_path, backend, recwarn):
    for name, pixels in write_odd(tmp_path).items():
        img = decoded(tmp_path / name, backend)
        if backend == "pil":
            assert isinstance(img, Image.Image) and img.mode == "RGB"
        else:
            assert (img.dtype, img.shape[2]) == (np.uint8, 3)
            assert img.flags.c_contiguous and img.flags.writeable  # else torch warns
        img = np.asarray(img)
        assert img.shape[:2] == pixels.shape[:2], name
        limit = 1 if name.endswith(".jpg") else 0
        assert np.abs(img.astype(int) - pixels).max() <= limit, name
    assert not recwarn.list


def test_gray16_is_rounded_and_wide_integers_are_refused(tmp_path):
    values = np.array([[0, 128, 129, 65406, 65407, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "x.tif")
    assert decoded(tmp_path / "x.tif")[0, :, 0].tolist() == [0, 0, 1, 254, 255, 255]
    for dtype, reason in ((np.int32, "outside 0..65535"), (np.float32, "floating")):
        Image.fromarray(np.full((4, 4), 70000, dtype)).save(tmp_path / "y.tif")
        with pytest.raises(UnreadableImageError, match=reason):
            decoded(tmp_path / "y.tif")


def test_bytes_and_arrays_decode_like_the_file(tmp_path):
    path, decode = tmp_path / "x.png", DecodeImage()
    picture().save(path)
    expected = decoded(path)
    assert np.array_equal(decode({"img_bytes": path.read_bytes()})["img"], expected)
    memory = np.asarray(picture())
    for img in (picture(), memory, memory[:, ::-1][:, ::-1]):
        result = decode({"img": img})["img"]
        assert np.array_equal(result, expected)
        assert result.flags.c_contiguous and result.flags.writeable
        assert not np.shares_memory(result, memory)  # the dataset's own
    gray = decode({"img": memory[..., 0]})["img"]
    assert np.array_equal(gray, np.stack([memory[..., 0]] * 3, -1))
    for wrong in (memory[..., 0].astype(np.float64) + 1j, memory.astype(float)):
        with pytest.raises(UnreadableImageError, match="TypeError"):
            decode({"img": wrong})
    with pytest.raises(UnreadableImageError, match="in memory"):
        decode({"img_bytes": b""})


# -- Broken images ---------------------------------------------------------------------


def write_bad(folder):
    """Each file that cannot be read, and a part of the reason."""
    broken = write_broken(folder)
    (folder / "locked.jpg").write_bytes(broken["truncated"].read_bytes())
    (folder / "locked.jpg").chmod(0)
    (folder / "huge.png").write_bytes(png_header(40_000, 40_000))
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(folder / "float.tif")
    return {
        broken["truncated"]: "truncated",
        broken["text"]: "not in an image format",
        broken["empty"]: "it is empty",
        broken["bomb"]: "decompression bomb",
        broken["damaged"]: "OSError|SyntaxError",
        broken["missing"]: "there is no such file",
        folder / "locked.jpg": "trunc" if os.geteuid() == 0 else "Permission denied",
        folder / "huge.png": "decompression bomb",
        folder / "float.tif": "floating-point",
    }


@pytest.mark.fault("R11", "R13")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_raise_names_the_file_the_reason_and_the_remedy(tmp_path, num_workers):
    bad = list(write_bad(tmp_path).items())
    for path, reason in bad[:2] if num_workers else bad:
        dataset = ImageList(write_list(tmp_path, [path]), pipeline=TWO_VIEWS)
        with pytest.raises(UnreadableImageError, match=reason) as caught:
            list(loader(dataset, num_workers=num_workers))
        assert f"'{path}'" in str(caught.value)
        assert 'on_error="skip"' in str(caught.value)


@pytest.mark.fault("R11", "R13")
def test_skip_replaces_and_reports_each_broken_file(tmp_path):
    odd = [tmp_path / name for name in sorted(write_odd(tmp_path))[:3]]
    good = write_folder(tmp_path / "good", 6) + odd
    (tmp_path / "bad").mkdir()
    bad = list(write_bad(tmp_path / "bad"))
    lines = [f"{path} {i}" for i, path in enumerate([*good, *bad])]
    listed = write_list(tmp_path, lines)
    dataset = ImageList(listed, pipeline=TWO_VIEWS, on_error="skip")
    dataset.set_augmentation_seed(0, 0)
    runs = []
    for workers in (0, 2):
        samples = []
        for batch in loader(dataset, num_workers=workers):
            samples += batch["data_samples"]
        runs.append([(s.sample_idx, s.img_path, s.skipped) for s in samples])
        for slot, sample in enumerate(samples):
            shown = sample.sample_idx  # label, path and index are the shown image's
            assert sample.img_path == str(good[shown])
            assert sample.gt_label.item() == dataset.labels[shown] == shown
            if slot < len(good):
                assert (shown, sample.skipped) == (slot, ())
            else:
                assert sample.skipped[0] == str(bad[slot - len(good)])
                assert set(sample.skipped) <= set(map(str, bad))
    assert runs[0] == runs[1]


def test_skip_keeps_the_draws_of_the_replaced_sample(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        picture(0).save(tmp_path / name)
    whole = ImageFolder(str(tmp_path), pipeline=TWO_VIEWS)
    holed = ImageFolder(str(tmp_path), pipeline=TWO_VIEWS, on_error="skip")
    for dataset in (whole, holed):
        dataset.set_augmentation_seed(0, 0)
    expected = whole[1]["inputs"]
    (tmp_path / "b.png").write_bytes(b"")
    assert holed[1]["data_samples"].skipped == (str(tmp_path / "b.png"),)
    assert all(map(torch.equal, holed[1]["inputs"], expected))


def test_skip_gives_up_when_nothing_can_be_read(tmp_path):
    missing = [tmp_path / f"{i}.jpg" for i in range(50)]
    listed = write_list(tmp_path, missing)
    dataset = ImageList(listed, pipeline=TWO_VIEWS, on_error="skip")
    with pytest.raises(UnreadableImageError, match="21 images in a row") as caught:
        list(loader(dataset, num_workers=2))
    assert "there is no such file" in str(caught.value)
    assert f"'{missing[0]}'" in str(caught.value)


def test_other_errors_are_not_taken_for_broken_images(tmp_path):
    def fail(results):
        raise KeyError("mistake in a transform")

    write_folder(tmp_path, 2)
    pipeline = [{"type": "DecodeImage"}, fail]
    dataset = ImageFolder(str(tmp_path), pipeline=pipeline, on_error="skip")
    with pytest.raises(KeyError, match="mistake"):
        dataset[0]


def test_error_survives_pickling_and_a_single_argument():
    error = UnreadableImageError("a.jpg", "it is empty")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(UnreadableImageError(str(error))) == str(error)


@pytest.mark.fault("R11")
def test_no_pixel_of_the_image_before_is_shown(tmp_path):
    Image.new("RGB", (200, 200), (255, 0, 0)).save(tmp_path / "red.jpg")
    picture(1, (200, 200)).save(tmp_path / "whole.jpg", quality=95)
    whole = (tmp_path / "whole.jpg").read_bytes()
    alone = {}
    for seen_before in (False, True):
        for cut in range(len(whole) // 4, len(whole), len(whole) // 16):
            if seen_before:
                decoded(tmp_path / "red.jpg")
            (tmp_path / "cut.jpg").write_bytes(whole[:cut] + b"\xff\xd9")
            try:
                pixels = decoded(tmp_path / "cut.jpg")
            except UnreadableImageError:
                pixels = np.zeros((1, 1, 3))
            assert np.array_equal(pixels, alone.setdefault(cut, pixels))
            assert not (pixels == (254, 0, 0)).all(-1).any()


@pytest.mark.fault("R11")
def test_no_program_is_started_for_a_document(tmp_path, monkeypatch):
    content = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"
    (tmp_path / "x.jpg").write_text(content)
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *a: started.append(a))
    with pytest.raises(UnreadableImageError, match="not in an image format like JPEG"):
        decoded(tmp_path / "x.jpg")
    assert not started
