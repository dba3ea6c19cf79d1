"""What every sheet holds to: rows as high as their images, captions that fit."""

import itertools

import numpy as np
import pytest

from mmssl_ext.visualization.pictures.sheet import (
    WIDTH,
    Sheet,
    frame,
    shortened,
    show,
    tiled,
)


def test_long_names_lose_their_middle():
    assert shortened("a" * 32) == "a" * 32
    assert shortened("photograph_of_2026_0001.jpeg", 20) == "photograp…_0001.jpeg"


@pytest.mark.parametrize("scale", [1, 1.5])
@pytest.mark.parametrize("shapes", [[(40, 40)] * 3, [(90, 30), (20, 80), (50, 40)]])
def test_nothing_is_cut_and_nothing_overlaps(shapes, scale):
    names = ["W" * 60, "a b " * 20, "IMG_2026-01-01_at_12.30.59_copy.jpeg"]
    sheet = Sheet("A title " * 20, ["A caption " * 30] * 2, 2, 3, scale=scale)
    for axes in sheet.axes:
        for ax, (height, width), name in zip(axes, shapes, names, strict=True):
            show(ax, np.zeros((height, width, 3), np.uint8))
            sheet.below(ax, name, "further words " * 5)
            ax.set_title("a head")
            frame(ax, "red")
    pixels = sheet.pixels()
    height, width, _ = pixels.shape
    assert width == WIDTH * scale
    boxes = [ax.get_tightbbox() for ax in sheet.axes.flat]
    boxes += [text.get_window_extent() for text in sheet.figure.texts]
    for box in boxes:
        assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height
    for a, b in itertools.combinations(boxes, 2):
        apart = max(a.x0 - b.x1, b.x0 - a.x1, a.y0 - b.y1, b.y0 - a.y1)
        assert apart > -1.0, (a, b)
    # Neither is room wasted: the rows are as high as what is in them.
    used = sum(max(box.height for box in boxes[i : i + 3]) for i in (0, 3))
    head = sum(text.get_window_extent().height for text in sheet.figure.texts)
    assert height < used + 2.2 * head + 90 * scale
    # An image is as large as its column, a tall one 1.3 times as high.
    for ax, (rows, columns) in zip(sheet.axes[0], shapes, strict=True):
        column = WIDTH * scale / 3
        if rows < 1.3 * columns:
            assert 0.9 * column < ax.bbox.width < column
        else:
            assert 1.1 * column < ax.bbox.height < 1.31 * column
        assert ax.bbox.height / ax.bbox.width == pytest.approx(rows / columns, rel=0.02)


def test_pixels_are_those_of_the_image():
    colors = np.random.default_rng(0).integers(0, 26, (3, 4, 3)) * 10
    sheet = Sheet("", [])
    show(sheet.axes[0, 0], colors.astype(np.uint8))
    pixels = sheet.pixels()
    box = sheet.axes[0, 0].bbox
    for row, column in np.ndindex(3, 4):
        y = pixels.shape[0] - box.y1 + (row + 0.5) / 3 * box.height
        x = box.x0 + (column + 0.5) / 4 * box.width
        assert pixels[int(y), int(x)].tolist() == colors[row, column].tolist()
    assert np.array_equal(sheet.pixels(), pixels)  # drawn again, the same


def test_tiles_stand_in_rows():
    tiles = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1).repeat(3, 3)
    found = tiled(tiles, 3, 1)[..., 0]
    assert found.tolist() == [[0, 255, 1, 255, 2], [255] * 5, [3, 255, 4, 255, 255]]
