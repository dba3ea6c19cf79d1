"""Odd and broken images through whole pipelines and workers: a result or a refusal."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from mmssl_ext.datasets import DecodeImage, ImageFolder, ImageList, UnreadableImageError

from .helpers import TWO_VIEWS, loader, picture, png_header, write_broken

BACKENDS = ("array", "pil")
PIPELINES = {
    backend: [{"type": "DecodeImage", "backend": backend}, *TWO_VIEWS[1:]]
    for backend in BACKENDS
}


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def animated(path) -> None:
    frames = [Image.new("P", (32, 24), color=i) for i in range(3)]
    for frame, colour in zip(
        frames, ([255, 0, 0], [0, 255, 0], [0, 0, 255]), strict=True
    ):
        frame.putpalette(colour * 256)
    frames[0].save(path, save_all=True, append_images=frames[1:], loop=0)


def write_odd(folder) -> dict[str, np.ndarray]:
    """Name of each file to its pixels, H x W x 3, as PIL alone has them."""
    rgb = picture(1, (40, 30))
    gray16 = (np.arange(1200, dtype=np.uint16) * 54).reshape(30, 40)
    expected = {}

    def write(name, img, pixels=None, **options):
        img.save(folder / name, **options)
        if pixels is None:
            pixels = np.asarray(Image.open(folder / name).convert("RGB"))
        expected[name] = pixels

    write("cmyk.jpg", rgb.convert("CMYK"))
    write("cmyk.tif", rgb.convert("CMYK"))
    write("gray.jpg", rgb.convert("L"))
    write("gray16.png", Image.fromarray(gray16), np.dstack([_to8(gray16)] * 3))
    write("gray16.tif", Image.fromarray(gray16), np.dstack([_to8(gray16)] * 3))
    write("alpha.png", rgb.convert("RGBA"), np.asarray(rgb))
    palette = rgb.quantize(9)
    opaque = np.asarray(palette.convert("RGB"))
    write("palette.png", palette, opaque)
    write("palette_alpha.png", palette, opaque, transparency=bytes([0, 128]))
    write("one.png", Image.new("RGB", (1, 1), (9, 8, 7)))
    write("row.png", Image.new("RGB", (50, 1), (9, 8, 7)))
    write("column.png", Image.new("RGB", (1, 50), (9, 8, 7)))
    write("wide.png", Image.new("RGB", (30_000, 3), (9, 8, 7)))
    write("high.jpg", Image.new("RGB", (2, 30_000), (90, 80, 70)))
    write("rotated.jpg", rgb, exif=exif(6))
    expected["rotated.jpg"] = np.rot90(expected["rotated.jpg"], -1)  # upright
    animated(folder / "animated.gif")
    expected["animated.gif"] = np.full((24, 32, 3), (255, 0, 0), np.uint8)  # frame 0
    return expected


def _to8(values: np.ndarray) -> np.ndarray:
    return np.round(values / 257).astype(np.uint8)


@pytest.mark.fault("R13")
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_odd_image_has_its_defined_pixels(tmp_path, backend):
    for name, pixels in write_odd(tmp_path).items():
        img = DecodeImage(backend)({"img_path": str(tmp_path / name)})["img"]
        assert np.asarray(img).shape == pixels.shape, name
        difference = np.abs(np.asarray(img).astype(int) - pixels)
        assert difference.max() <= (1 if name.endswith(".jpg") else 0), name


@pytest.mark.fault("R13")
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_odd_image_passes_the_pipeline_and_a_worker(tmp_path, backend):
    names = sorted(write_odd(tmp_path))
    (tmp_path / "list.txt").write_text("".join(f"{name}\n" for name in names))
    dataset = ImageList(str(tmp_path / "list.txt"), str(tmp_path), PIPELINES[backend])
    dataset.set_draw_key(0, 0)
    batches = list(loader(dataset, num_workers=1, batch_size=1))
    assert len(batches) == len(names)
    for index, batch in enumerate(batches):
        here = dataset[index]["inputs"]
        for view, same in zip(batch["inputs"], here, strict=True):
            assert view.shape == (1, 3, 24, 24)
            assert torch.equal(view[0], same), names[index]


def write_bad(folder) -> dict[str, str]:
    """Name of each file to a part of the reason."""
    broken = {path.name: path for path in write_broken(folder).values()}
    assert {"truncated.jpg", "text.jpg", "empty.jpg", "missing.jpg"} <= broken.keys()
    (folder / "folder.jpg").mkdir()
    (folder / "locked.jpg").write_bytes((folder / "truncated.jpg").read_bytes())
    (folder / "locked.jpg").chmod(0)
    (folder / "huge.png").write_bytes(png_header(40_000, 40_000))
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(folder / "float.tif")
    return {
        "truncated.jpg": "truncated",
        "text.jpg": "not in an image format",
        "empty.jpg": "it is empty",
        "missing.jpg": "there is no such file",
        "folder.jpg": "Is a directory",
        "locked.jpg": "truncated" if os.geteuid() == 0 else "Permission denied",
        "huge.png": "decompression bomb",
        "loop.jpg": "symbolic links",
        "float.tif": "floating-point",
    }


@pytest.mark.fault("R11", "R13")
@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_bad_image_is_refused_by_name(tmp_path, backend, num_workers):
    for name, reason in write_bad(tmp_path).items():
        (tmp_path / "list.txt").write_text(f"{name}\n")
        listed = str(tmp_path / "list.txt")
        dataset = ImageList(listed, str(tmp_path), PIPELINES[backend])
        with pytest.raises(UnreadableImageError, match=reason) as caught:
            list(loader(dataset, num_workers=num_workers))
        assert str(tmp_path / name) in str(caught.value)


@pytest.mark.fault("R11", "R13")
@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_images_among_good_ones_are_skipped_and_named(tmp_path, backend):
    good = sorted(write_odd(tmp_path))
    bad = sorted(write_bad(tmp_path))
    lines = [name for pair in zip(good, bad, strict=False) for name in pair]
    (tmp_path / "list.txt").write_text("".join(f"{name}\n" for name in lines))
    listed = str(tmp_path / "list.txt")
    dataset = ImageList(listed, str(tmp_path), PIPELINES[backend], on_error="skip")
    dataset.set_draw_key(0, 0)
    shown = []
    for batch in loader(dataset, num_workers=1):
        shown += batch["data_samples"]
    for name, sample in zip(lines, shown, strict=True):
        first = sample.skipped[:1] or (sample.img_path,)
        assert first == (str(tmp_path / name),)
        assert bool(sample.skipped) == (name in bad)


@pytest.mark.fault("R11")
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_pixel_of_the_image_before_is_shown(tmp_path, backend):
    """OpenCV 4.10 fills what a damaged JPEG lacks by the image decoded before."""
    decode = DecodeImage(backend)
    Image.new("RGB", (200, 200), (255, 0, 0)).save(tmp_path / "red.jpg")
    picture(1, (200, 200)).save(tmp_path / "whole.jpg", quality=95)
    whole = (tmp_path / "whole.jpg").read_bytes()
    alone = {}
    for seen_before in (False, True):
        for cut in range(len(whole) // 4, len(whole), len(whole) // 16):
            if seen_before:
                decode({"img_path": str(tmp_path / "red.jpg")})
            (tmp_path / "cut.jpg").write_bytes(whole[:cut] + b"\xff\xd9")
            try:
                pixels = np.asarray(
                    decode({"img_path": str(tmp_path / "cut.jpg")})["img"]
                )
            except UnreadableImageError:
                pixels = np.zeros(0)
            if not seen_before:
                alone[cut] = pixels.copy()
            assert np.array_equal(pixels, alone[cut])
            red = (pixels == (254, 0, 0)).all(-1) if pixels.size else np.zeros(1)
            assert not red.any()


@pytest.mark.fault("R13")
@pytest.mark.parametrize("backend", BACKENDS)
def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path, backend):
    path = tmp_path / "x.png"
    Image.new("RGB", (300, 200)).save(path)
    DecodeImage(backend, max_pixels=60_000)({"img_path": str(path)})
    with pytest.raises(UnreadableImageError, match=r"300 x 200.*max_pixels=59999"):
        DecodeImage(backend, max_pixels=59_999)({"img_path": str(path)})
    Image.new("RGB", (300, 200)).save(tmp_path / "x.jpg")
    with pytest.raises(UnreadableImageError, match="max_pixels"):
        DecodeImage(backend, max_pixels=59_999)({"img_path": str(tmp_path / "x.jpg")})


@pytest.mark.fault("R11")
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_program_is_started_for_a_document(tmp_path, backend, monkeypatch):
    """PIL starts Ghostscript for PostScript, whatever the name of the file."""
    content = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"
    (tmp_path / "x.jpg").write_text(content)
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *a: started.append(a))
    with Image.open(tmp_path / "x.jpg") as img:
        assert img.format == "EPS"
    with pytest.raises(UnreadableImageError, match="not in an image format like JPEG"):
        DecodeImage(backend)({"img_path": str(tmp_path / "x.jpg")})
    assert not started


@pytest.mark.fault("R13")
def test_a_folder_named_like_an_image_is_no_image(tmp_path):
    (tmp_path / "x.jpg").mkdir()
    picture().save(tmp_path / "x.jpg" / "inner.png")
    dataset = ImageFolder(str(tmp_path), PIPELINES["array"])
    assert [dataset.name(0)] == ["x.jpg/inner.png"]
    assert len(dataset) == 1
