"""Patches: where they are cut, and that every draw is independent of the others."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from mmssl_ext.datasets import MakeViews, PackViews
from mmssl_ext.datasets.seeds import SampleSeed
from mmssl_ext.datasets.transforms import CutPatches

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
    """Offsets of both views by cell, and both orders: no correlation across samples."""
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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CutPatches(0), "CutPatches: size must be a positive integer"),
        (lambda: CutPatches((64, 64)), "CutPatches: size must be a positive integer"),
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
def test_mistakes_are_explained(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_the_smallest_image_leaves_no_choice_of_offsets():
    corners = CutPatches().draw(np.random.default_rng(0), (192, 192))
    assert sorted(corners) == [(x, y) for x in (0, 64, 128) for y in (0, 64, 128)]
