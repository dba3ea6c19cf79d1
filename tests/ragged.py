"""A folder of images as people have them, for the tests of every entrance.

Photographs of differing sizes, names that are no UTF-8 or hold control characters,
turned, gray, deep and transparent ones, other suffixes, a broken file, links and a
loop, a class that the test set lacks::

    ROOT/photos               without labels
    ROOT/labelled/train/<class>
    ROOT/labelled/test/<class>     no folder `cow` in it
    ROOT/elsewhere            what ROOT/photos/linked leads to

:func:`write_ragged` says what is in it and how many images a reader must find.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

LATIN = os.fsdecode(b"caf\xe9")  # Latin-1, no UTF-8
CLASSES = ("ant", os.fsdecode(b"b\xeate"), "cow")  # as a walk sorts them
WORST_NAME = "line\nbreak \x1b[31mred.jpg"  # a new line, a terminal's escape
ORIENTATION = 0x0112  # the EXIF tag
PER_CLASS = 4  # images of a class in the training folder; half as many to test


@dataclass(frozen=True)
class Ragged:
    """What :func:`write_ragged` has written; paths below ``root``.

    Upright, ``turned`` are 30 pixels wide and 20 high, red in the upper left quarter,
    green in the upper right one, blue below.
    """

    photos: Path  # without labels
    train: Path  # class folders
    test: Path  # of all classes but ``cow``
    broken: Path  # the one file below ``photos`` that cannot be decoded
    turned: dict[int, Path]  # JPEG files below ``photos`` by their orientation, 1 to 8
    names: tuple[str, ...]  # all that a reader finds below ``photos``, in its order

    @property
    def num_photos(self) -> int:
        """Files below ``photos`` that are taken for images, the broken one included."""
        return len(self.names)

    @property
    def num_test(self) -> int:
        """Images below ``test``."""
        return PER_CLASS // 2 * (len(CLASSES) - 1)


def photo(seed: int, size: tuple[int, int] | None = None) -> Image.Image:
    """A smooth picture of (width, height) pixels; each 24 to 64 where not given."""
    rng = np.random.default_rng(seed)
    width, height = size or rng.integers(24, 65, 2).tolist()
    grid = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)


def upright() -> np.ndarray:
    """What each of ``turned`` shows, 20 x 30 x 3."""
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:10, :15, 0] = pixels[:10, 15:, 1] = pixels[10:, :, 2] = 255
    return pixels


def stored(orientation: int) -> np.ndarray:
    """The pixels that a file of this EXIF orientation holds, so that it is upright."""
    pixels = upright()
    if orientation in (6, 8):  # to be turned by a quarter, to the right or left
        pixels = np.rot90(pixels, 1 if orientation == 6 else -1)
    elif orientation in (3, 7):
        pixels = pixels[::-1, ::-1]
    elif orientation in (2, 4):
        pixels = pixels[:, ::-1] if orientation == 2 else pixels[::-1]
    if orientation in (5, 7):
        pixels = pixels.swapaxes(0, 1)
    return np.ascontiguousarray(pixels)


def save_turned(path: Path, orientation: int) -> Path:
    """Write a file whose EXIF orientation makes it :func:`upright`."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"quality": 98, "subsampling": 0} if path.suffix == ".jpg" else {}
    Image.fromarray(stored(orientation)).save(path, exif=exif, **options)
    return path


def write_ragged(root: Path) -> Ragged:
    """Write the folders; less than 60 images, none above 64 pixels."""
    photos = root / "photos"
    train, test = root / "labelled/train", root / "labelled/test"
    (photos / "trip").mkdir(parents=True)
    (root / "elsewhere").mkdir()
    for i, name in enumerate(_PLAIN):
        photo(i).save(photos / name, format="JPEG" if name.endswith("jfif") else None)
    photo(90).convert("L").save(photos / "gray.png")
    photo(91).convert("RGBA").save(photos / "transparent.png")
    # 12 of 16 bits: values up to 4080
    levels = np.linspace(0, 255, 40 * 30).reshape(30, 40).astype(np.uint16) * 16
    Image.fromarray(levels).save(photos / "deep.png")
    turned = {n: save_turned(photos / f"turned{n}.jpg", n) for n in range(1, 9)}
    whole = (photos / "a00.jpg").read_bytes()
    (photos / "broken.jpg").write_bytes(whole[: len(whole) // 2])
    for name in ("notes.txt", "clip.mp4", "trip/notes.TXT"):
        (photos / name).write_bytes(b"no image\n")
    for i, name in enumerate(("one.jpg", "two.png")):
        photo(80 + i).save(root / "elsewhere" / name)
    (photos / "linked").symlink_to(root / "elsewhere")
    (photos / "trip" / "loop").symlink_to(photos)
    for folder, count, names in (
        (train, PER_CLASS, CLASSES),
        (test, PER_CLASS // 2, CLASSES[:-1]),
    ):
        for label, name in enumerate(names):
            (folder / name).mkdir(parents=True)
            for i in range(count):
                image = photo(100 * label + 10 * i + (folder == test))
                image.save(folder / name / f"{LATIN if i == 0 else i}.jpg")
    names = [*_PLAIN, "gray.png", "transparent.png", "deep.png", "broken.jpg"]
    names += [path.name for path in turned.values()]
    names += ["linked/one.jpg", "linked/two.png"]
    return Ragged(
        *(photos, train, test, photos / "broken.jpg", turned),
        tuple(sorted(names, key=lambda name: name.split("/"))),
    )


_PLAIN = (
    *(f"a{i:02d}.jpg" for i in range(12)),
    *("b.PNG", "c.jfif", "d.JPEG", "e.webp", "f.bmp", "g.tif", "h.gif", "i.jp2"),
    *(f"{LATIN}.jpg", WORST_NAME, "two words.jpg"),
    *("trip/x.jpg", "trip/y.jpg", "trip/z.jpg"),
)
