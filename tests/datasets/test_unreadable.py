"""Broken and odd image files, under both policies."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from mmssl_ext.datasets import DecodeImage, ImageFolder, ImageList, UnreadableImageError

from .helpers import EVALUATION, TWO_VIEWS, loader, picture, write_broken, write_folder

REASONS = {
    "truncated": "truncated",
    "text": "not in an image format",
    "empty": "it is empty",
    "bomb": "decompression bomb|max_pixels",
    "damaged": "OSError|SyntaxError",
    "missing": "there is no such file",
}


def write_list(tmp_path, paths):
    (tmp_path / "list.txt").write_text("".join(f"{p}\n" for p in paths))
    return str(tmp_path / "list.txt")


@pytest.mark.parametrize("kind", REASONS)
@pytest.mark.parametrize("num_workers", [0, 2])
def test_raise_names_the_file_the_reason_and_the_remedy(tmp_path, kind, num_workers):
    good = write_folder(tmp_path / "good", 2)
    bad = write_broken(tmp_path / "bad")[kind]
    dataset = ImageList(write_list(tmp_path, [*good, bad]), pipeline=TWO_VIEWS)
    with pytest.raises(UnreadableImageError, match=REASONS[kind]) as caught:
        list(loader(dataset, num_workers=num_workers))
    assert f"'{bad}'" in str(caught.value)
    assert 'on_error="skip"' in str(caught.value)


@pytest.mark.parametrize("pipeline", [TWO_VIEWS, EVALUATION], ids=["train", "eval"])
def test_skip_replaces_and_reports_each_broken_file(tmp_path, pipeline):
    good = write_folder(tmp_path / "good", 6)
    broken = list(write_broken(tmp_path / "bad").values())
    lines = [f"{p} {i}" for i, p in enumerate([*good, *broken])]
    listed = write_list(tmp_path, lines)
    dataset = ImageList(listed, pipeline=pipeline, on_error="skip")
    dataset.set_draw_key(0, 0)
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
                assert sample.skipped[0] == str(broken[slot - len(good)])
                assert set(sample.skipped) <= {str(p) for p in broken}
    assert runs[0] == runs[1]


def test_skip_keeps_the_draws_of_the_replaced_sample(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        picture(0).save(tmp_path / name)
    whole = ImageFolder(str(tmp_path), pipeline=TWO_VIEWS)
    holed = ImageFolder(str(tmp_path), pipeline=TWO_VIEWS, on_error="skip")
    for dataset in (whole, holed):
        dataset.set_draw_key(0, 0)
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


GRAY = np.arange(256, dtype=np.uint8).reshape(16, 16)


def rgba():
    img = picture(3, (16, 16)).convert("RGBA")
    img.putalpha(Image.fromarray(GRAY))
    return img


def palette_with_alpha():
    img = picture(3, (16, 16)).quantize(8)
    img.info["transparency"] = bytes([0, 128, 255])
    return img


ODD = {
    "gray": (Image.fromarray(GRAY), np.stack([GRAY] * 3, -1)),
    "bilevel": (Image.fromarray(GRAY > 99), np.stack([(GRAY > 99) * 255] * 3, -1)),
    "rgba": (rgba(), np.asarray(picture(3, (16, 16)))),
    "gray_alpha": (Image.merge("LA", [Image.fromarray(GRAY)] * 2), GRAY[..., None]),
    "palette": (
        picture(3, (16, 16)).quantize(8),
        np.asarray(picture(3, (16, 16)).quantize(8).convert("RGB")),
    ),
    "palette_alpha": (
        palette_with_alpha(),
        np.asarray(picture(3, (16, 16)).quantize(8).convert("RGB")),
    ),
    "gray16": (Image.fromarray(GRAY.astype(np.uint16) * 257), GRAY[..., None]),
}


BACKENDS = pytest.mark.parametrize("backend", ["array", "pil"])


def check_kind(img, backend):
    if backend == "pil":
        assert isinstance(img, Image.Image)
        assert img.mode == "RGB"
    else:
        assert isinstance(img, np.ndarray)
        assert (img.dtype, img.ndim, img.shape[2]) == (np.uint8, 3, 3)
        assert img.flags.c_contiguous
        assert img.flags.writeable  # else torch warns


@BACKENDS
@pytest.mark.parametrize("name", ODD)
def test_odd_modes_have_a_defined_result(tmp_path, name, recwarn, backend):
    img, expected = ODD[name]
    img.save(tmp_path / "x.png")
    result = DecodeImage(backend)({"img_path": str(tmp_path / "x.png")})["img"]
    check_kind(result, backend)
    difference = np.asarray(result).astype(int) - expected
    assert np.abs(difference).max() == 0
    assert not recwarn.list


@BACKENDS
def test_gray16_is_rounded_and_wide_integers_are_refused(tmp_path, backend):
    values = np.array([[0, 128, 129, 65406, 65407, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "x.tif")
    result = DecodeImage(backend)({"img_path": str(tmp_path / "x.tif")})["img"]
    assert np.asarray(result)[0, :, 0].tolist() == [0, 0, 1, 254, 255, 255]
    for dtype, reason in ((np.int32, "outside 0..65535"), (np.float32, "floating")):
        Image.fromarray(np.full((4, 4), 70000, dtype)).save(tmp_path / "y.tif")
        with pytest.raises(UnreadableImageError, match=reason):
            DecodeImage(backend)({"img_path": str(tmp_path / "y.tif")})


@BACKENDS
def test_cmyk_jpeg_is_converted(tmp_path, backend):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "x.jpg", quality=95)
    result = DecodeImage(backend)({"img_path": str(tmp_path / "x.jpg")})["img"]
    red = np.asarray(result).reshape(-1, 3).mean(axis=0)
    assert np.abs(red - [255, 0, 0]).max() < 5


@BACKENDS
def test_bytes_and_arrays_decode_like_the_file(tmp_path, backend):
    path = tmp_path / "x.png"
    picture().save(path)
    decode = DecodeImage(backend)
    expected = decode({"img_path": str(path)})["img"].tobytes()
    assert decode({"img_bytes": path.read_bytes()})["img"].tobytes() == expected
    memory = np.asarray(picture())
    for img in (picture(), memory, memory[:, ::-1][:, ::-1]):
        result = decode({"img": img})["img"]
        check_kind(result, backend)
        assert result.tobytes() == expected
        if backend == "array":
            assert not np.shares_memory(result, memory)  # the dataset's own
    gray = decode({"img": memory[..., 0]})["img"]
    check_kind(gray, backend)
    assert np.array_equal(np.asarray(gray), np.stack([memory[..., 0]] * 3, -1))
    for wrong in (memory[..., 0].astype(np.float64) + 1j, memory.astype(float)):
        with pytest.raises(UnreadableImageError, match="TypeError"):
            decode({"img": wrong})
    with pytest.raises(UnreadableImageError, match="in memory"):
        decode({"img_bytes": b""})


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (3000, 1), (30000, 2)])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_thin_images_pass_both_pipelines(tmp_path, size, num_workers):
    Image.new("RGB", size, (255, 0, 0)).save(tmp_path / "x.png")
    for pipeline, side in ((TWO_VIEWS, 24), (EVALUATION, 16)):
        dataset = ImageFolder(str(tmp_path), pipeline=pipeline)
        (batch,) = loader(dataset, num_workers=num_workers)
        views = batch["inputs"] if pipeline is TWO_VIEWS else [batch["inputs"]]
        assert all(v.shape == (1, 3, side, side) for v in views)
    assert (views[0][0, 0] == 255).all()


def test_reading_leaves_no_file_open(tmp_path, recwarn):
    paths = [
        *write_folder(tmp_path / "good", 1),
        *write_broken(tmp_path / "x").values(),
    ]
    for path in paths:
        try:
            DecodeImage()({"img_path": str(path)})
        except UnreadableImageError:
            continue
    assert not [w for w in recwarn.list if w.category is ResourceWarning]
