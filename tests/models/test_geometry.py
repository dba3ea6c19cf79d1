"""Correspondence of two views, against cases worked out by hand."""

from __future__ import annotations

import itertools

import pytest
import torch

from mmssl_ext.models.layers import geometry as geo

WHOLE = (0.0, 0.0, 1.0, 1.0)


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def random_boxes(count, seed):
    """Crops of all kinds, half of them mirrored, some disjoint."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(count, 4, generator=generator, dtype=torch.float64)
    size = 0.2 + 0.6 * draw[:, :2]
    start = draw[:, 2:] * (1 - size)
    found = torch.cat([start, start + size], 1)
    found[::2] = found[::2][:, [2, 1, 0, 3]]
    return found


def mirrored(rows):
    return rows[:, [2, 1, 0, 3]]


A, B = boxes((0, 0, 0.5, 0.5)), boxes((0.25, 0.25, 1, 0.75))


def to_b(point, a=A, b=B):
    points = boxes(point)
    return geo.to_view(geo.to_image(points, a), b)[0, 0].tolist()


def test_points_by_hand():
    crop = boxes((0.1, 0.1, 0.5, 0.5))  # 64, 48 with 256 x 192 pixels of 640 x 480
    centres = geo.cell_centres(2, 2, crop)
    expected = [[0.2, 0.2], [0.4, 0.2], [0.2, 0.4], [0.4, 0.4]]
    assert geo.to_image(centres, crop)[0].tolist() == [
        pytest.approx(e) for e in expected
    ]
    turned = geo.to_image(centres, mirrored(crop))[0]
    assert turned.tolist() == [pytest.approx([0.6 - x, y]) for x, y in expected]
    assert to_b((0.75, 0.75)) == pytest.approx([1 / 6, 0.25])
    assert to_b((1, 1)) == pytest.approx([1 / 3, 0.5])
    assert to_b((0.25, 0.25)) == pytest.approx([-1 / 6, -0.25])
    assert to_b((0.75, 0.75), b=mirrored(B)) == pytest.approx([5 / 6, 0.25])
    disjoint = boxes((0, 0, 0.4, 0.4)), boxes((0.6, 0.5, 1, 1))
    assert to_b((0.5, 0.5), *disjoint) == pytest.approx([-1, -0.6])
    # Boxes of objects are carried into views by the same map.
    corners = boxes((0.3, 0.3), (0.45, 0.4))
    expected = {
        A: [134.4, 134.4, 201.6, 179.2],
        B: [14.933333, 22.4, 59.733333, 67.2],
        mirrored(B): [209.066667, 22.4, 164.266667, 67.2],
    }
    for view, pixels in expected.items():
        found = 224 * geo.to_view(corners, view)
        assert found.flatten().tolist() == pytest.approx(pixels)


@pytest.mark.parametrize(
    ("a", "b", "rows"),
    [
        (WHOLE, WHOLE, "1000 0100 0010 0001"),
        ((0, 0, 0.6, 0.8), (0, 0, 0.6, 0.8), "1100 1100 0011 0011"),
        ((0, 0, 0.8, 0.8), (0.8, 0, 0, 0.8), "0100 1000 0001 0010"),
        ((0, 0, 0.5, 0.5), WHOLE, "1000 1100 1010 1110"),
    ],
)
def test_pairs_by_hand(a, b, rows):
    found = geo.pairs(boxes(a), boxes(b), 2, 2, 0.7)
    expected = [[int(c) for c in row] for row in rows.split()]
    assert found.int().tolist() == [expected]
    assert found.dtype == torch.bool


def test_pairs_of_maps_that_are_no_squares():
    a, b, h, w = random_boxes(8, 0), random_boxes(8, 1), 3, 5
    found = geo.pairs(a, b, h, w, 0.7)
    for n, p, q in itertools.product(range(8), range(h * w), range(h * w)):
        place, steps = [], []
        for (x0, y0, x1, y1), cell in ((a[n], p), (b[n], q)):
            step = torch.stack([(x1 - x0) / w, (y1 - y0) / h])
            i, j = divmod(cell, w)
            place.append(
                torch.stack([x0 + (j + 0.5) * step[0], y0 + (i + 0.5) * step[1]])
            )
            steps.append(step.norm())
        near = (place[0] - place[1]).norm() < 0.7 * max(steps)
        assert found[n, p, q] == near
    assert 0.02 < found.double().mean() < 0.3


def test_warp_by_hand():
    row = torch.arange(4.0, dtype=torch.float64).view(1, 1, 1, 4)
    a, b = boxes((0, 0, 0.5, 1)), boxes((0.25, 0, 0.75, 1))
    values, valid = geo.warp(row, a, b)
    assert values.flatten().tolist() == pytest.approx([0, 0, 0, 1])
    assert valid.tolist() == [[[False, False, True, True]]]
    values, valid = geo.warp(row, a, mirrored(b))
    assert values.flatten().tolist() == pytest.approx([3, 3, 3, 2])
    assert valid.tolist() == [[[False, False, True, True]]]
    square = torch.tensor([[[[0.0, 1], [2, 3]]]], dtype=torch.float64)
    points = {(0.5, 0.5): 1.5, (1 / 3, 0.5): 7 / 6, (0.4, 0.7): 2.1}
    for (u, v), value in points.items():
        view = boxes((u - 0.1, v - 0.1, u + 0.1, v + 0.1))  # has its centre there
        values, valid = geo.warp(square, view, boxes(WHOLE), size=(1, 1))
        assert values.item() == pytest.approx(value) and valid.all()


def test_common_points_by_hand():
    for b, u in ((B, (1 / 12, 1 / 4)), (mirrored(B), (11 / 12, 3 / 4))):
        grid_a, grid_b, valid = geo.overlap_grid(A, b, 2)
        assert valid.tolist() == [True]
        for grid, columns, rows in (
            (grid_a, (0.625, 0.875), (0.625, 0.875)),
            (grid_b, u, (0.125, 0.375)),
        ):
            units = (grid[0] + 1) / 2  # S x S x 2
            assert units[0, :, 0].tolist() == pytest.approx(columns)
            assert units[:, 0, 1].tolist() == pytest.approx(rows)
    # Touching is no overlap.
    assert not geo.overlap_grid(A, boxes((0.5, 0, 1, 0.5)), 2)[2].any()


def test_common_points_show_the_same_place():
    """Maps that hold the place of each cell agree where both are sampled."""
    a, b = random_boxes(60, 3), random_boxes(60, 4)
    maps = [
        geo.to_image(geo.cell_centres(32, 32, a), x).mT.reshape(60, 2, 32, 32)
        for x in (a, b)
    ]
    *grids, valid = geo.overlap_grid(a, b, 5)
    one, two = (geo.sample(m, g) for m, g in zip(maps, grids, strict=True))
    # Within half a cell of its edge a map repeats its border.
    assert (one - two)[valid].abs().max() < 0.02 and 20 < valid.sum() < 60
    expected = geo.to_image((grids[0].flatten(1, 2) + 1) / 2, a)
    expected = expected.mT.reshape(60, 2, 5, 5)
    assert (one - expected)[valid].abs().max() < 0.02


def test_views_without_overlap_leave_loss_and_gradient_alone():
    a = boxes((0, 0, 0.4, 0.4), (0, 0, 0.5, 0.5), (0, 0, 1, 1))
    b = boxes((0.6, 0.5, 1, 1), (0.25, 0.25, 1, 0.75), (torch.nan,) * 4)
    grid_a, grid_b, valid = geo.overlap_grid(a, b, 3)
    assert valid.tolist() == [False, True, False]
    maps = torch.randn(2, 3, 4, 7, 7, dtype=torch.float64, requires_grad=True)
    one, two = geo.sample(maps[0], grid_a), geo.sample(maps[1], grid_b)
    loss = (one - two).square().mean((1, 2, 3)) * valid
    assert loss[0] == loss[2] == 0 < loss[1]
    loss.sum().backward()
    assert maps.grad.isfinite().all()
    assert not maps.grad[:, [0, 2]].any() and maps.grad[:, 1].any()
    values, seen = geo.warp(maps[1], a, b)
    assert not seen[[0, 2]].any() and seen[1].any()
    (gradient,) = torch.autograd.grad((values * seen[:, None]).sum(), maps)
    assert gradient.isfinite().all() and not gradient[:, [0, 2]].any()
    assert not geo.pairs(a, b, 7, 7)[2].any()


def test_single_precision_under_autocast():
    a, b = random_boxes(20, 0).float(), random_boxes(20, 1).float()
    maps = torch.randn(20, 4, 7, 7, generator=torch.Generator().manual_seed(0))
    plain = geo.warp(maps, a, b)[0], geo.pairs(a, b, 7, 7), *geo.overlap_grid(a, b, 4)
    with torch.autocast("cpu", torch.bfloat16):
        cast = (
            geo.warp(maps, a, b)[0],
            geo.pairs(a, b, 7, 7),
            *geo.overlap_grid(a, b, 4),
        )
        half = geo.warp(maps.bfloat16(), a, b)[0]
    for one, two in zip(plain, cast, strict=True):
        assert one.dtype == two.dtype and torch.equal(one, two)
    assert half.dtype == torch.float32
    assert (half - plain[0]).abs().max() < 0.02
    assert torch.equal(half, geo.warp(maps.bfloat16().float(), a, b)[0])


def test_missing_boxes_are_refused_by_name():
    good = random_boxes(4, 0)[:, None].repeat(1, 3, 1)
    assert geo.require_boxes(good, "PixPro", (0, 1)) is good
    with pytest.raises(ValueError, match=r"^PixPro .*does not say where each view"):
        geo.require_boxes(None, "PixPro", (0, 1))
    with pytest.raises(ValueError, match="does not say where each view"):
        geo.require_boxes(good, "PixPro", (0, 3))
    good[:, 1] = torch.nan
    with pytest.raises(
        ValueError, match=r"where view 2 was cut .*leave out CutPatches"
    ):
        geo.require_boxes(good, "PixPro", range(3))
    geo.require_boxes(good, "PixPro", (0, 2))  # the other may be of patches


def test_overlap_by_hand():
    box, valid = geo.overlap(A, B)
    assert box.tolist() == [[0.25, 0.25, 0.5, 0.5]] and valid.tolist() == [True]
    corners = box.view(2, 2)  # of the overlap, in units of a view
    assert geo.to_view(corners, A)[0].tolist() == [[0.5, 0.5], [1, 1]]
    for view, u in ((B, (0, 1 / 3)), (mirrored(B), (1, 2 / 3))):
        assert torch.equal(geo.overlap(A, view)[0], box)
        assert geo.to_view(corners, view)[0, :, 0].tolist() == pytest.approx(u)


def test_equals_loops_over_pixels():
    """Overlap, warp and places against a drawn image of which every pixel is seen."""
    side, cells = 40, 5
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        draw = torch.randint(0, 5, (2, 4), generator=generator)
        rows, seen = [], []  # in pixels, edges that fall on cells
        for left, top, wide, high in draw.tolist():
            x0, y0 = 5 * left, 5 * top
            x1, y1 = x0 + 5 * (wide + 1), y0 + 5 * (high + 1)
            x1, y1 = min(x1, side), min(y1, side)
            mirror = bool((left + wide) % 2)
            rows.append((x1, y0, x0, y1) if mirror else (x0, y0, x1, y1))
            seen.append({(x, y) for x in range(x0, x1) for y in range(y0, y1)})
        a, b = (boxes(row) / side for row in rows)
        common = seen[0] & seen[1]
        box, valid = geo.overlap(a, b)
        assert valid.item() == bool(common)
        if common:
            x, y = zip(*common, strict=True)
            edges = [min(x), min(y), max(x) + 1, max(y) + 1]
            assert (box[0] * side).tolist() == pytest.approx(edges)
        values = torch.rand(1, 2, cells, cells, dtype=torch.float64)
        found, shown = geo.warp(values, a, b)
        for i, j in itertools.product(range(cells), repeat=2):
            x = rows[0][0] + (j + 0.5) / cells * (rows[0][2] - rows[0][0])
            y = rows[0][1] + (i + 0.5) / cells * (rows[0][3] - rows[0][1])
            u = (x - rows[1][0]) / (rows[1][2] - rows[1][0])
            v = (y - rows[1][1]) / (rows[1][3] - rows[1][1])
            inside = min(u, v) >= -1e-12 and max(u, v) <= 1 + 1e-12
            edge = min(abs(t - e) for t in (u, v) for e in (0, 1)) < 1e-9
            assert edge or shown[0, i, j] == inside
            row, column = (min(max(t * cells - 0.5, 0), cells - 1) for t in (v, u))
            top, left = min(int(row), cells - 2), min(int(column), cells - 2)
            expected = sum(
                values[0, :, top + p, left + q]
                * (1 - abs(row - top - p))
                * (1 - abs(column - left - q))
                for p, q in itertools.product((0, 1), repeat=2)
            )
            assert torch.allclose(found[0, :, i, j], expected)


def test_pairs_of_maps_of_two_sizes():
    a, b = random_boxes(6, 5), random_boxes(6, 6)
    found = geo.pairs(a, b, 2, 3, size_b=(4, 5))
    assert found.shape == (6, 6, 20) and found.any()
    assert torch.equal(found.mT, geo.pairs(b, a, 4, 5, size_b=(2, 3)))
    assert torch.equal(geo.pairs(a, b, 3, 3), geo.pairs(a, b, 3, 3, size_b=(3, 3)))


def test_invariants():
    count = 20
    a, b = random_boxes(count, 7), random_boxes(count, 8)
    generator = torch.Generator().manual_seed(9)
    maps = torch.rand(count, 3, 6, 5, generator=generator, dtype=torch.float64)
    points = torch.rand(count, 9, 2, generator=generator, dtype=torch.float64)
    there = geo.to_view(geo.to_image(points, a), b)
    assert torch.allclose(geo.to_view(geo.to_image(there, b), a), points)
    same, valid = geo.warp(maps, a, a)
    assert valid.all() and torch.allclose(same, maps)
    found, valid = geo.warp(maps, a, b)
    # A mirrored view is put upright again: its box and its map are mirrored together.
    turned, shown = geo.warp(maps.flip(-1), a, mirrored(b))
    assert torch.allclose(turned, found) and torch.equal(shown, valid)
    near = geo.pairs(a, b, 6, 5)
    assert torch.equal(geo.pairs(b, a, 6, 5).mT, near)
    columns = near.view(count, 30, 6, 5)
    assert torch.equal(
        geo.pairs(a, mirrored(b), 6, 5).view(count, 30, 6, 5), columns.flip(-1)
    )
    shift = torch.tensor([0.5, -0.25, 0.5, -0.25], dtype=torch.float64)
    scale = torch.tensor([2, 0.5, 2, 0.5], dtype=torch.float64)
    moved = geo.warp(maps, a * scale + shift, b * scale + shift)
    assert torch.allclose(moved[0], found) and torch.equal(moved[1], valid)
    assert torch.equal(geo.pairs(2 * a + shift, 2 * b + shift, 6, 5), near)
    order = torch.randperm(count, generator=generator)
    assert torch.equal(geo.warp(maps[order], a[order], b[order])[0], found[order])
    assert torch.equal(geo.pairs(a[order], b[order], 6, 5), near[order])
