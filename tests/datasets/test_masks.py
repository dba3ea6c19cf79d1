"""Files of masks: what they say, and what is refused before or while it is read."""

from __future__ import annotations

import json
import logging
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mmssl_ext.datasets import ImageFolder, LoadMask, RandomBackground
from mmssl_ext.datasets.transforms import background, load_mask
from mmssl_ext.datasets.transforms.masks import MaskError

IMG = np.zeros((8, 10, 3), np.uint8)
M = np.zeros((8, 10), np.uint8)
M[2:6, 3:8] = 1
SOFT = np.linspace(0, 255, 80).astype(np.uint8).reshape(8, 10)


def palette(values):
    img = Image.fromarray(values, "P")
    img.putpalette([0, 0, 0, 128, 0, 0] + [0] * 762)
    return img


class Gray:
    """Gray in 2 or 4 bits, which PIL reads and does not write."""

    def __init__(self, values, bits):
        self.values, self.bits = values, bits

    def save(self, path):
        text = [[format(int(v), f"0{self.bits}b") for v in row] for row in self.values]
        rows = ["".join(row) for row in text]
        rows = [row + "0" * (-len(row) % 8) for row in rows]
        data = b"".join(
            b"\0" + int(row, 2).to_bytes(len(row) // 8, "big") for row in rows
        )
        height, width = self.values.shape
        head = struct.pack(">IIBBBBB", width, height, self.bits, 0, 0, 0, 0)
        parts = ((b"IHDR", head), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
        with open(path, "wb") as file:
            file.write(b"\x89PNG\r\n\x1a\n")
            for kind, part in parts:
                sealed = kind + part
                file.write(struct.pack(">I", len(part)) + sealed)
                file.write(struct.pack(">I", zlib.crc32(sealed)))


def mask_of(folder, name="a.jpg", root="images"):
    return LoadMask(str(folder), root)({"img": IMG, "img_path": f"{root}/{name}"})[
        "mask"
    ]


# Files of pixels


@pytest.mark.parametrize(
    ("img", "shares"),
    [
        (Image.fromarray(255 * M), M),
        (Image.fromarray(SOFT), SOFT / np.float32(255)),
        (Image.fromarray(255 * M).convert("1"), M),
        (Image.fromarray(np.dstack([SOFT] * 3)), SOFT / np.float32(255)),
        (Image.fromarray(SOFT.astype(np.uint16) * 257), SOFT / np.float32(255)),
        (Image.fromarray(M.astype(np.uint16) * 32768), M * np.float32(32768 / 65535)),
        (Image.fromarray(0 * M), 0 * M),  # no subject in the image
        (Gray(3 * M, 2), M),
        (Gray(np.where(M, 3, 2 * (SOFT > 240)), 2), np.where(M, 1, (SOFT > 240) / 1.5)),
        (Gray(15 * M, 4), M),
        (Image.fromarray(21 * M), M * np.float32(21 / 255)),
        # A sure network's: soft, and next to nothing between its ends.
        (Image.fromarray(np.where(M, 255, 3 * (SOFT > 240)).astype(np.uint8)), None),
    ],
)
def test_gray_files_say_shares(tmp_path, img, shares):
    img.save(tmp_path / "a.png")
    found = mask_of(tmp_path)
    assert found.dtype == np.float32
    if shares is None:
        shares = np.asarray(img) / np.float32(255)
    assert np.abs(found - shares).max() < 1e-6


def test_other_files_are_refused_with_what_to_write(tmp_path):
    write = "; write a gray PNG, 0 for the background to 255 for the subject."
    color = np.dstack([IMG[..., :2] + 9, 255 * M])
    classes = np.where(M, 15, 0).astype(np.uint8)
    rims = classes.copy()
    rims[2, 3:8] = 255
    for img, said in (
        (Image.fromarray(M), "it holds values 0 to 1 of 255, as maps of labels do; "),
        (Image.fromarray(20 * M), "it holds values 0 to 20 of 255, "),
        (Image.fromarray(rims), "it holds values 0 to 15 and 255, "),
        (Image.fromarray(255 * M.astype(np.uint16)), "0 to 255 of 65535, "),
        (
            Gray(M, 2),
            "it holds values 0 to 1 of 3, as maps of labels do; write 0 and",
        ),
        (Gray(2 * M, 2), "it holds values 0 to 2 of 3, "),
        (Gray(3 * M, 4), "it holds values 0 to 3 of 15, "),
        (Gray(np.where(rims == 15, 14, rims // 17), 4), "0 to 14 and 15, as maps of"),
        (palette(M), f"it has a palette, as maps of labels do{write}"),
        (palette(classes), "it has a palette"),
        (Image.fromarray(np.dstack([color, 255 * M])), "it has an alpha channel"),
        (Image.fromarray(np.dstack([255 + 0 * M, 255 * M])), "it has an alpha channel"),
        (Image.fromarray(color), f"it is no gray image, but RGB{write}"),
    ):
        img.save(tmp_path / "a.png")
        with pytest.raises(MaskError) as error:
            mask_of(tmp_path)
        file = f"The mask '{tmp_path}/a.png' cannot be read: "
        assert str(error.value).startswith(file) and said in str(error.value)
    Image.fromarray(M).save(tmp_path / "a.png")
    with pytest.raises(MaskError, match=r"labels do; write 0 and 255\.$"):
        mask_of(tmp_path)


def test_arrays_that_are_no_mask_are_refused(tmp_path):
    for arrays, said in (
        (dict(), "it holds 0 arrays (nothing); write the mask alone"),
        (dict(meta=M, mask=M), "it holds 2 arrays ('meta', 'mask'); write the mask"),
        (dict(a=np.zeros((0, 0))), "its array of the shape (0, 0) is empty"),
        (dict(a=np.array([["a"]])), "its values are of the type <U1; write numbers"),
        (dict(a=M * 1j), "its values are of the type complex128"),
    ):
        np.savez(tmp_path / "a.npz", **arrays)
        with pytest.raises(
            MaskError, match=re.escape(f"a.npz' cannot be read: {said}")
        ):
            mask_of(tmp_path)
    np.savez(tmp_path / "a.npz", M)
    assert np.array_equal(mask_of(tmp_path), M)


# A set of images


@pytest.fixture
def images(tmp_path):
    """Four images in two folders, of which two have one name."""
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/3.png"):
        file = tmp_path / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(IMG).save(file)
    return tmp_path / "images"


@pytest.fixture
def said(monkeypatch):
    lines = []
    for module in (background, load_mask):
        monkeypatch.setattr(
            module, "print_log", lambda text, logger, level: lines.append((level, text))
        )
    return lines


def test_missing_masks_are_found_before_an_image_is_read(images, tmp_path, said):
    masks = tmp_path / "masks"
    (masks / "a").mkdir(parents=True)
    Image.fromarray(255 * M).save(masks / "a/1.png")
    np.savez(masks / "a/2.png.npz", M)

    def built(missing="raise", **options):
        load = LoadMask(str(masks), str(images), missing)
        return ImageFolder(str(images), [load], **options)

    text = (
        f"2 of 4 images have no mask in '{masks}', '{images}/b/1.png', "
        f"'{images}/b/3.png': there is not a file '{masks}/b/1.png', or .npz; "
    )
    with pytest.raises(MaskError) as error:
        built()
    assert str(error.value).startswith(text + "make it, or set missing=")
    assert len(built("keep")) == 4
    assert said == [(logging.INFO, f"{text}they keep their backgrounds.")]
    with pytest.raises(MaskError, match=r"^1 of 2 images"):
        built(max_images=2)  # a/1 and b/1
    (masks / "b").mkdir()
    for name in ("1.png", "3.png"):
        Image.fromarray(255 * M).save(masks / "b" / name)
    assert len(built()) == 4
    said.clear()
    ImageFolder(str(images), [LoadMask(str(tmp_path / "images/a"), "x", "keep")])
    assert [level for level, _ in said] == [logging.WARNING]  # a wrong root


def test_masks_that_let_no_view_change_are_warned_of_once(said):
    def run(share, valid, number=80, prob=0.2):
        change = RandomBackground(prob=prob, valid=valid)
        results = dict(img=IMG, view_box=(0, 0, 1, 1), rng=np.random.default_rng(0))
        for _ in range(number):
            change({**results, "mask": np.full((8, 10), share, np.float32)})
            change({**results, "mask": None})  # is no mask

    run(0.004, (0.06, 0.94), 63)
    run(0.004, (0.06, 0.94), prob=0)
    run(0.1, (0.06, 0.94))
    assert not said
    run(0.004, (0.06, 0.94))
    run(0.004, (0.06, 0.94))  # the other view's
    ((level, text),) = said
    assert level == logging.WARNING
    assert text.startswith(
        "The subject fills 0.4% to 0.4% of the first 64 views with masks, and "
        "RandomBackground changes those of 6.0% to 94.0% only, so it has changed none"
    )


# COCO


SQUARE = [3, 2, 8, 2, 8, 6, 3, 6]  # of M


def image(**changes):
    return dict(id=5, file_name="a.jpg", width=10, height=8) | changes


def shape(segmentation, **changes):
    return dict(id=7, image_id=5, segmentation=segmentation) | changes


def coco(tmp_path, images=None, annotations=None):
    pytest.importorskip("pycocotools")
    file = tmp_path / "coco.json"
    annotations = [shape([SQUARE])] if annotations is None else annotations
    text = json.dumps(dict(images=images or [image()], annotations=annotations))
    file.write_text(text)
    return file


def test_a_base_name_finds_one_image_only(images, tmp_path):
    def built(*names):
        entries = [image(id=i, file_name=name) for i, name in enumerate(names)]
        objects = [shape([SQUARE], image_id=i) for i in range(len(names))]
        load = LoadMask(str(coco(tmp_path, entries, objects)), str(images), "keep")
        return ImageFolder(str(images), [lambda x: {**x, "img": IMG}, load])

    found = built("3.png", "a/1.png")
    masks = [found[i]["mask"] for i in range(4)]
    assert [m is not None for m in masks] == [True, False, False, True]
    assert np.array_equal(masks[0], M) and np.array_equal(masks[3], M)
    both = r"lists '1\.png', which may be 'a/1\.png' or 'b/1\.png'; let file_name start"
    with pytest.raises(MaskError, match=both):
        built("1.png")
    with pytest.raises(
        MaskError, match=r"not list 'b/1\.png', but 2 images called '1\.png'; let"
    ):
        built("1.png", "a/1.png")


def test_annotations_that_cannot_be_read_are_refused_by_number(tmp_path):
    lengths = dict(size=[8, 10], counts=[26, 4, 50])
    assert mask_of(coco(tmp_path, annotations=[shape(lengths)])).sum() == 4
    beyond = [[-5, -5, 10, -5, 10, 12, -5, 12], [12, 2, 18, 2, 18, 6]]
    assert mask_of(coco(tmp_path, annotations=[shape(beyond)])).all()
    of = "as 'segmentation' of the annotation 7, "
    for objects, said in (
        ([shape([[3, 2, 8, 2]])], f"{of}a polygon of 4 numbers; three points"),
        ([shape([[3, 2, 8, 2, 8, 6, 3]])], f"{of}a polygon of 7 numbers"),
        ([shape([[]])], f"{of}a polygon of 0 numbers"),
        (
            [shape([[12, 2, 18, 2, 18, 6]])],
            "outside of the 10 x 8 pixels of 'a.jpg'",
        ),
        ([shape([[3, -2, 8, -2, 8, -6], [3, 9, 8, 12, 8, 9]])], "outside of the 10"),
        ([shape([[0.3, 0.2, 0.8, 0.2, 0.8, 0.6]])], f"{of}polygons of 0 to 1; write p"),
        ([shape(SQUARE)], f"{of}one list of numbers; write polygons [["),
        ([shape([["a"] * 6])], f"{of}a list of what is no list of numbers"),
        ([shape({"counts": "a"})], f"{of}neither polygons nor 'size' and 'counts'"),
        ([shape({"size": [8, 10]})], f"{of}neither polygons nor 'size' and 'counts'"),
        ([shape(lengths | dict(size=[10, 8]))], "'a.jpg' is [8, 10], its height and"),
        ([shape(lengths | dict(counts=[26, 4]))], "do not fill the 8 x 10 pixels of"),
        ([shape(lengths | dict(counts="!!"))], "do not fill the 8 x 10 pixels of"),
        ([dict(id=7, segmentation=[SQUARE])], "has no 'image_id' in the annotation 7"),
        ([shape([SQUARE], image_id="5")], "'image_id' is the 'id' of no image"),
        ([5], "has, as number 1 of 'annotations', what is no object"),
        ({}, "has no list 'annotations'; add it"),
    ):
        file = coco(tmp_path, annotations=objects)
        with pytest.raises(MaskError, match=re.escape(said)) as error:
            mask_of(file)
        assert str(error.value).startswith(f"The COCO file of masks '{file}' ")
    file.write_text(json.dumps(dict(images=[image()], annotations=None)))
    with pytest.raises(MaskError, match="has no list 'annotations'; add it"):
        mask_of(file)


def test_images_that_cannot_be_told_are_refused_by_name(tmp_path):
    missing = image()
    del missing["width"]
    for images, said in (
        ([missing], "has no 'width' in the image 'a.jpg'; correct it"),
        ([image(id=None)], "has the 'id' None in the image 'a.jpg'; correct it"),
        ([image(file_name=3)], "has the 'file_name' 3 in number 1 of 'images'"),
        ([image(height=0)], "a 'width' and 'height' of 10 x 0 in the image 'a.jpg'"),
        ([image(), image(id=6)], "lists 'a.jpg' twice, with the ids 5 and 6; keep"),
        ([image(), image(file_name="b")], "id 5 to two images, 'a.jpg' and 'b'; give"),
        (["a.jpg"], "has, as number 1 of 'images', what is no object"),
    ):
        with pytest.raises(MaskError, match=re.escape(said)):
            mask_of(coco(tmp_path, images))


def test_files_that_are_no_json_are_refused_with_the_reason(tmp_path):
    file = coco(tmp_path)
    sound = file.read_bytes()
    file.write_bytes(b"\xef\xbb\xbf" + sound)  # a byte order mark
    assert np.array_equal(mask_of(file), M)
    for data, said in (
        (b"", "is empty; correct masks of LoadMask."),
        (b'{"images": [\n', "is no JSON: Expecting value at line 2, column 1; correct"),
        (b"\xff{}", "is no JSON: 'utf-8' codec can't decode"),
        (b"[]", 'holds no object at its top; write {"images": [...]'),
        (b'{"images": []}', "lists no image; correct"),
        (b"{}", "has no list 'images'; add it"),
    ):
        file.write_bytes(data)
        with pytest.raises(MaskError, match=re.escape(said)) as error:
            mask_of(file)
        assert str(error.value).startswith(f"The COCO file of masks '{file}' ")
    file.unlink()
    with pytest.raises(
        MaskError, match=r"coco\.json' \(seen from '.*'\) does not exist"
    ):
        mask_of(file)
