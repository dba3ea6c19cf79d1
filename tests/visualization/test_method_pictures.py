"""Pictures of DenseCL, RegionCL and DetCo, and the tool that writes them."""

import itertools
import re

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.patches import ConnectionPatch
from PIL import Image

from mmssl_ext.models.comparisons import Comparison
from mmssl_ext.models.layers import unit
from mmssl_ext.models.layers.region import Region, pool_regions
from mmssl_ext.models.part import build_part
from mmssl_ext.preprocessing import MultiViewPreprocessor
from mmssl_ext.run.launch import load_config
from mmssl_ext.visualization.pictures import (
    assigned,
    cells,
    mixture,
    objects,
    patches,
    places,
    regions,
)
from mmssl_ext.visualization.pictures.images import to_images
from mmssl_ext.visualization.pictures.sheet import COLORS, SCALE
from tests.harness import call_tool
from tests.models.common import initialise, model_config
from tests.visualization import pictures
from tests.visualization.pictures import draw, subject, texts


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return pictures.write_folder(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def tool(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    return lambda *args: call_tool("visualize", monkeypatch, capsys, *args)


def rows(sheet):
    """The captions of DenseCL's rows, which change with the views and the model."""
    return [text for text in texts(sheet) if "mean cosine" in text]


def test_tool_writes_the_same_png_each_time(tool, tmp_path):
    files = [tmp_path / "new" / name for name in ("a.png", "b.png")]
    for file in files:
        options = ("--images", "images", "--out", file, "--num", 2)
        code, out, errors = tool("RegionCLM.py", "RegionCLM.pth", *options)
        assert code == 0, errors
        assert out.splitlines()[-1] == f"Picture: {file}"
    with Image.open(files[0]) as image:
        assert image.format == "PNG" and image.mode == "RGB"
        assert image.width == 900 * SCALE
        assert 2 * 150 * SCALE < image.height < 2 * 400 * SCALE
        assert len(image.getcolors(1 << 20)) > 500  # not a blank sheet
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not list(tmp_path.glob("new/.*"))  # no draft is left


@pytest.mark.parametrize("method", ["RegionCLD", "RegionCLS"])
def test_what_is_drawn_follows_from_what_is_found(root, method):
    # RegionCL-D is a DenseCL too, but shows its regions.
    found = texts(draw(subject(root, method, num=3)))
    assert f"{method}: a rectangle swapped between images" in found
    assert "3 pasted into 1" in found  # of three images, each takes the one before


def test_views_that_the_device_augments_are_shown_augmented(root):
    sheets = []
    for augment_on in ("worker", "device"):
        cfg = load_config(root / "DetCo.py")
        make = cfg.train_dataloader.dataset.pipeline[1]
        for view in make.views:
            view.insert(1, dict(type="ColorJitter", brightness=0.8, prob=1))
        make.augment_on = augment_on
        cfg.dump(root / f"{augment_on}.py")
        (root / f"{augment_on}.pth").write_bytes((root / "DetCo.pth").read_bytes())
        sheets.append(draw(subject(root, augment_on, num=3)).pixels())
    assert np.array_equal(*sheets)
    plain = draw(subject(root, "DetCo", num=3))
    pixels = plain.pixels()
    assert pixels.shape != sheets[0].shape or not np.array_equal(pixels, sheets[0])
    names = plain.axes[0, 4].get_xticklabels()  # by the stages
    assert [text.get_text() for text in names] == ["res2", "res3", "res4", "res5"]


def test_agreement_with_the_geometry_by_hand():
    """View 2 is the right half of view 1, which is the whole image: 2 x 4 cells."""
    boxes = torch.tensor([[0.0, 0, 1, 1], [0.5, 0, 1, 1]])
    # Columns 2 and 3 of both rows are seen: their true u is 1/4 and 3/4, that is 1 and
    # 3 in columns of view 2, up to half a column: cells 0, 1 and 2, 3 are within one.
    match = np.array([0, 0, 1, 0, 7, 7, 6, 7])  # right: cells 2 and 7; 6 is too far
    text = cells.agreement(match, (2, 4), boxes)
    assert text.startswith("2 of the 4 cells that the key view shows too")
    # u = 1/4 has two columns within one cell, u = 3/4 as many; both rows are.
    assert text.endswith("(by chance 50%)")
    mirrored = torch.tensor([[0.0, 0, 1, 1], [1, 0, 0.5, 1]])
    match = np.array([0, 0, 3, 0, 7, 7, 6, 7])  # cells 2, 3 and 6 are right
    assert cells.agreement(match, (2, 4), mirrored).startswith("3 of the 4")
    apart = torch.tensor([[0.0, 0, 0.4, 1], [0.5, 0, 1, 1]])
    assert cells.agreement(match, (2, 4), apart).startswith("the key view shows none")


def test_agreement_stands_below_the_pair_where_the_boxes_are_known(root):
    given = subject(root, "DenseCL", num=3)
    sheet = draw(given)
    told = [t for t in texts(sheet) if "true place" in t]
    assert len(told) == 3 and all("(by chance " in text for text in told)
    # An image does not depend on the others, as by BatchNorm in training mode.
    assert rows(draw(subject(root, "DenseCL", num=1))) == rows(sheet)[:1]
    given.pipeline[-1].geometry = False
    bare = draw(given)
    assert not [t for t in texts(bare) if "true place" in t]
    assert len(rows(bare)) == 3


@pytest.mark.parametrize(
    ("similarity", "expected"),
    [([0.5, 0.9, 0.1, 0.7], [3, 1]), ([0.2, 0.3, 0.1], [1]), ([0.4], [0])],
)
def test_most_similar_third_is_rounded_up(similarity, expected):
    assert cells.most_similar(np.array(similarity)).tolist() == expected


def test_drawn_lines_are_the_most_similar_matches():
    match = np.array([[5, 0, 3, 3, 1, 2], [0, 1, 2, 3, 4, 5]])
    similarity = np.array(
        [[0.9, 0.1, 0.2, 0.3, 0.8, 0.4], [0.1, 0.2, 0.7, 0.3, 0.6, 0.5]]
    )
    found = dict(grid=(2, 3), match=match, similarity=similarity)
    views = [np.zeros((2, 40, 60, 3), np.uint8)] * 2
    sheet = cells.draw_cells_of("M", found, views, ["a", "b"])
    pixels = sheet.pixels()
    height = pixels.shape[0]

    def centre(row, column, cell):
        box, (y, x) = sheet.axes[row, column].bbox, divmod(cell, 3)
        return box.x0 + (x + 0.5) / 3 * box.width, box.y1 - (y + 0.5) / 2 * box.height

    drawn = set()
    for line in sheet.figure.findobj(ConnectionPatch):
        ends = line.coords1.transform(line.xy1), line.coords2.transform(line.xy2)
        drawn.add(tuple(np.round(ends, 6).ravel()))
        x, y = ends[0]
        dot = pixels[int(height - y), int(x)]
        assert np.abs(dot / 255 - to_rgb(line.get_edgecolor())).max() < 0.03
    pairs = [(0, 0, 5), (0, 4, 1), (1, 2, 2), (1, 4, 4)]
    assert drawn == {
        tuple(np.round([*centre(row, 1, q), *centre(row, 3, k)], 6))
        for row, q, k in pairs
    }
    first, second = rows(sheet)
    assert first.startswith("a 5 of 6 key cells picked, 1 of 6 pairs at the")
    assert first.endswith("mean cosine 0.45")
    assert second.startswith("b 6 of 6 key cells picked, 6 of 6 pairs at the")


def test_region_mask_is_what_the_model_pools():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(1, 2, 3, 4, generator=generator, dtype=torch.float64)
    for top, left in itertools.product(range(3), range(4)):
        for height, width in itertools.product(range(1, 4 - top), range(1, 5 - left)):
            if (height, width) == (3, 4):
                continue
            region = Region(top, left, height, width)
            mask = regions.region_mask(tuple(region.scaled(16)), (48, 64), (3, 4))
            assert mask.sum() == height * width
            mask = torch.from_numpy(mask)
            canvas, paste = pool_regions(maps, region)
            assert torch.allclose(maps[..., mask].mean(-1), paste)
            assert torch.allclose(maps[..., ~mask].mean(-1), canvas)


def test_regions_are_tinted_cell_by_cell_and_outlined():
    region, grid, gray = (16, 0, 32, 16), (4, 3), 100  # rows 1 and 2, column 0
    flat = np.full((2, 64, 48, 3), gray, np.uint8)
    found = dict(mixed=flat, region=region, order=np.array([1, 0]), grid=grid)
    sheet = regions.draw_regions("M", found, [flat, flat], ["a", "b"])
    colors = [255 * np.array(to_rgb(color)) for color in COLORS[:2]]
    for row, column in itertools.product(range(2), (3, 4)):
        pixels = np.asarray(sheet.axes[row, column].images[0].get_array())
        color = colors[row if column == 3 else 1 - row]
        for y, x in itertools.product(range(64), range(48)):
            chosen = (16 <= y < 48 and x < 16) == (column == 4)
            wanted = (color + gray) / 2 if chosen else 0.85 * 255 + 0.15 * gray
            assert np.abs(pixels[y, x] - wanted).max() <= 1
    labels = [ax.get_xlabel().strip() for ax in sheet.axes[1]]
    assert labels[:3] == ["image 2", "image 1", "1 pasted into 2"]
    assert labels[3:] == ["10 cells: find key 2", "2 cells: find key 1"]
    (mark,) = sheet.axes[0, 2].patches
    assert mark.get_bbox().extents == pytest.approx([0, 0.25, 1 / 3, 0.75])
    assert mark.get_edgecolor()[:3] == to_rgb(COLORS[1])


def test_mixtures_name_their_shares_and_outline_the_box():
    views = np.random.default_rng(0).integers(0, 255, (3, 40, 80, 3)).astype(np.uint8)
    found = dict(mixture=views[::-1], share=0.75, box=(10, 40, 20, 40))
    sheet = mixture.draw_mixture("M", found, [views, views], ["a", "b", "c"])
    for i, row in enumerate(sheet.axes):
        shown = (views[i], views[2 - i], views[2 - i])
        for ax, pixels in zip(row, shown, strict=True):
            assert np.array_equal(ax.images[0].get_array(), pixels)
    labels = [ax.get_xlabel().strip() for ax in sheet.axes[0]]
    assert labels[:2] == ["image 1", "image 3"]
    assert " ".join(labels[2].split()) == "0.75 x target 1 and 0.25 x target 3"
    (mark,) = sheet.axes[0, 2].patches
    assert mark.get_bbox().extents == pytest.approx([0.5, 0.25, 1, 0.75])


def test_a_method_with_mixtures_shows_them(root):
    chosen = model_config("SimSiam", terms=[dict(type="UnMix", mixup_prob=0)])
    pictures.write_config(root, "UnMix", chosen)
    torch.save({"state_dict": initialise(chosen).state_dict()}, root / "UnMix.pth")
    sheet = draw(subject(root, "UnMix", num=4))
    assert "SimSiam: images put together by a box" in texts(sheet)
    views, partners, mixed = (
        np.stack([np.asarray(row[c].images[0].get_array()) for row in sheet.axes])
        for c in range(3)
    )
    assert np.array_equal(partners, views[::-1])
    assert ((mixed == views) | (mixed == partners)).all()
    assert not np.array_equal(mixed, views) and not np.array_equal(mixed, partners)


COMPARED = {
    "soft": dict(type="NeighbourSoftmax", length=64, num_neighbours=3),
    "hard": dict(type="NeighbourSoftmax", length=64, num_neighbours=3, hard=True),
    "relation": dict(type="RelationSoftmax", length=64),
    "mean shift": dict(type="MeanShift", predictor=None, length=64, k=4),
}


@pytest.mark.parametrize("compare", COMPARED.values(), ids=COMPARED)
def test_shares_are_those_of_the_target(compare):
    """By its definition: the mean that a prediction is compared with."""
    part = build_part("compare", compare, Comparison)
    k, keys = (unit(torch.randn(n, 8, dtype=torch.double)) for n in (5, 20))
    found = part.shares(k, keys)
    p = torch.softmax(k @ keys.T / getattr(part, "target_temperature", 1), 1)
    if compare["type"] == "RelationSoftmax":
        assert torch.allclose(found, p)
        return
    near = (k @ keys.T).topk(3).indices
    if compare["type"] == "MeanShift":
        wanted = torch.zeros_like(p).scatter_(1, near, 0.25)
    else:
        sure = 1 + (p * p.log()).sum(1, keepdim=True) / np.log(20)
        wanted = (3 * sure * p).clamp(max=1)
        if compare.get("hard"):
            wanted = torch.zeros_like(p).scatter_(1, near, 1.0) * sure
        wanted = wanted / (1 + wanted.sum(1, keepdim=True))
    assert torch.allclose(found, wanted)
    assert (1 - found.sum(1) > found.max(1).values - 1e-9).all()  # the largest


def test_a_method_that_looks_at_other_images_shows_them(root):
    chosen = model_config("ASCL")
    pictures.write_config(root, "ASCL", chosen)
    torch.save({"state_dict": initialise(chosen).state_dict()}, root / "ASCL.pth")
    sheet = draw(subject(root, "ASCL", num=3))
    found = [ax.get_xlabel().split() for ax in sheet.axes[:, 0]]
    assert len(found) == 3 and all("itself" in words for words in found)


def test_objects_have_one_colour_in_all_views():
    rng = np.random.default_rng(0)
    view = rng.integers(0, 255, (2, 40, 50, 3)).astype(np.uint8)
    places = np.array([[0.1, 0.2, 0.5, 0.6], [0.3, 0.1, 0.9, 0.8], [0, 0, 1, 1]])
    found = dict(
        objects=places[:, None].repeat(2, 1),
        images=np.array([0, 0, 1]),
        copies=places[None, :, None].repeat(2, 0).repeat(4, 2),
        valid=np.array(2 * [3 * [[True, True, False, True]]]),
    )
    sheet = objects.draw_objects("M", found, [view, view], ["a.png", "b.png"])
    for row, many in zip(sheet.axes, (2, 1), strict=True):
        assert len(row[0].patches) == many
        for ax in row[1:]:
            assert len(ax.patches) == many * 5
            dotted = [p for p in ax.patches if p.get_linestyle() in (":", "dotted")]
            assert len(dotted) == many
    (first, second), *others = (ax.patches[-2:] for ax in sheet.axes[0])
    assert first.get_edgecolor() != second.get_edgecolor()
    for one, other in others:
        assert one.get_bbox().extents == pytest.approx(first.get_bbox().extents)
        assert one.get_edgecolor() == first.get_edgecolor()
        assert other.get_edgecolor() == second.get_edgecolor()
    written = texts(sheet)
    assert "6 of 8 copies may be taken" in written
    assert "a.png 2 objects in both views" in written


def test_regions_keep_their_colour_in_a_mirrored_view():
    pixels = np.random.default_rng(0).integers(0, 255, (2, 40, 60, 3)).astype(np.uint8)
    views = [pixels, pixels[:, :, ::-1]]
    here = np.array([[3, 3, 9], [7, 7, 9]])[None].repeat(2, 0)
    boxes = torch.tensor([[(0.0, 0, 1, 1), (1, 0, 0, 1)]] * 2)
    boxes[1, 1] = torch.tensor([0.0, 2, 1, 3])  # elsewhere
    sides = here, here[:, :, ::-1].copy()
    found = dict(assigned=sides, num_regions=16, boxes=boxes)
    sheet = assigned.draw_assigned("M", found, views, ["a.png", "b.png"])
    for row in sheet.axes:
        one, other = (np.asarray(ax.images[0].get_array()) for ax in row[1::2])
        assert np.array_equal(one[:, ::-1], other)
        assert not np.array_equal(one[:20, :20], one[20:, :20])
        assert row[1].get_xlabel().strip() == "3 of 16 regions"
    known, unknown = (" ".join(row[2].get_xlabel().split()) for row in sheet.axes)
    assert known.startswith("6 of the 6 cells that both views show") and "33%" in known
    assert unknown == "shows none of these cells"
    sides[1][0, 0, 0] = 5
    sheet = assigned.draw_assigned("M", found, views, ["a.png", "b.png"])
    assert "5 of the 6 cells" in " ".join(sheet.axes[0, 2].get_xlabel().split())


def test_patches_keep_their_order_and_bars_their_height():
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 255, (2, 2, 9, 3))  # image, set, patch
    sets = np.broadcast_to(colors[:, :, :, None, None], (2, 2, 9, 20, 20, 3)).astype(
        np.uint8
    )
    whole = np.zeros((2, 64, 64, 3), np.uint8)
    values = np.array([[0.5, -0.25], [1.0, 0.125]])
    found = dict(cross=values, levels=["res4", "res5"])
    views = [whole, whole, sets[:, 0], sets[:, 1]]
    sheet = patches.draw_patches("M", found, views, ["a", "b"])
    for i, kind, j in itertools.product(range(2), range(2), range(9)):
        image = np.asarray(sheet.axes[i, 2 + kind].images[0].get_array())
        y, x = ((place + 0.5) / 3 for place in divmod(j, 3))
        seen = image[int(y * image.shape[0]), int(x * image.shape[1])]
        assert seen.tolist() == colors[i, kind, j].tolist()
    for row, expected in zip(sheet.axes, values, strict=True):
        assert [bar.get_height() for bar in row[4].patches] == expected.tolist()
    assert {"0.50", "−0.25", "1.00"} <= set(texts(sheet))


def test_places_by_geometry_and_by_features():
    """The key view is the mirrored query view, and features find the mirrored cell."""
    views = np.random.default_rng(0).integers(0, 255, (2, 40, 40, 3)).astype(np.uint8)
    boxes = torch.tensor([[(0.0, 0, 1, 1), (1, 0, 0, 1)]] * 2)
    boxes[1, 1] = torch.nan
    cosine = np.zeros((2, 12, 12))
    for i, j in itertools.product(range(3), range(4)):
        cosine[:, 4 * i + j, 4 * i + 3 - j] = 1
    weights = np.stack([np.eye(12), np.full((12, 12), 0.5)])
    found = dict(cosine=cosine, grids=((3, 4), (3, 4)), propagation=weights)
    sheet = places.draw_places("M", found | {"boxes": boxes}, [views] * 2, ["a", "b"])
    known, unknown = sheet.axes
    for dot, line, ring, cross in zip(
        known[0].lines, *(list(known[1].lines)[i::3] for i in range(3)), strict=True
    ):
        (x,), (y,) = dot.get_data()
        assert (ring.get_xdata()[0], ring.get_ydata()[0]) == pytest.approx((1 - x, y))
        assert cross.get_xydata() == pytest.approx(ring.get_xydata())
        assert np.ptp(line.get_xydata(), axis=0).max() < 1e-6
    assert len(known[0].lines) == 5 and "12 of the 12 cells" in known[1].get_xlabel()
    assert len(unknown[1].lines) == 5  # crosses alone
    assert "mean cosine of the best 1.00" in unknown[1].get_xlabel()
    shown = np.asarray(known[2].images[1].get_array())
    assert shown.sum() == 1 and "sum of the weights 1.0" in known[2].get_xlabel()
    assert sheet.pixels().ndim == 3
    # Views of an image that have no cell in common, and a method that gathers nothing
    boxes[0] = torch.tensor([(0, 0, 0.4, 0.4), (0.6, 0.6, 1, 1)])
    found.pop("propagation")
    sheet = places.draw_places("M", found | {"boxes": boxes}, [views] * 2, ["a", "b"])
    assert not sheet.axes[0, 0].lines and sheet.axes.shape == (2, 2)
    assert "shows none of these cells" in " ".join(
        sheet.axes[0, 1].get_xlabel().split()
    )


@pytest.mark.parametrize("shape", [(2, 3, 8, 6), (2, 9, 3, 4, 4)])
def test_images_come_back_from_normalised_tensors(shape):
    generator = torch.Generator().manual_seed(0)
    views = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    preprocessor = MultiViewPreprocessor(for_method=True)
    raw, normalised = (
        preprocessor({"inputs": views}, training)["inputs"]
        for training in (True, False)
    )
    assert (raw.dtype, normalised.dtype) == (torch.uint8, torch.float32)
    for view in (raw, normalised):
        images = to_images(view, preprocessor)
        assert np.array_equal(images, views.movedim(-3, -1).numpy())


def test_first_readable_images_in_order_of_their_names(root, tmp_path):
    folder = tmp_path / "photos"
    (folder / "z").mkdir(parents=True)
    for name in ("c.png", "b.png", "z/a.png"):
        Image.new("RGB", (20, 30), "red").save(folder / name)
    (folder / "a.jpg").write_bytes(b"no image")
    for num, names in ((None, ["b.png", "c.png", "a.png"]), (2, ["b.png", "c.png"])):
        sheet = draw(subject(root, "DenseCL", folder, num=num))
        assert [row.split()[0] for row in rows(sheet)] == names


CHANGES = {
    "single": lambda steps: steps.pop(1),
    "ragged": lambda steps: [view.pop(0) for view in steps[1].views],
    # Cells of a 2 x 2 grid would be drawn on one of 3 x 3.
    "sizes": lambda steps: steps[1].views[0][0].update(size=96),
}


@pytest.fixture
def spoilt(root):
    """Configs that do not fit the checkpoint or each other."""
    for name, change in CHANGES.items():
        cfg = load_config(root / "DenseCL.py")
        change(cfg.train_dataloader.dataset.pipeline)
        cfg.dump(root / f"{name}.py")
    cfg.pop("train_dataloader")
    cfg.dump(root / "bare.py")
    wide = model_config("DenseCL")
    wide["neck"] = wide["neck"] | dict(hid_channels=65)
    load_config(root / "DenseCL.py", {"model": wide}).dump(root / "wide.py")
    (root / "two").mkdir(exist_ok=True)
    for size in (20, 30):
        Image.new("RGB", (20, size), "red").save(root / f"two/{size}.png")


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["DenseCL.py", "gone.pth"], r"Checkpoint gone\.pth does not exist"),
        (["DenseCL.py", "DetCo.pth"], r"DetCo\.pth does not fit the model"),
        (["wide.py"], r"of another shape: neck\.mlp.*in the file"),
        (["MoCo.py", "MoCo.pth"], r"MoCo has nothing to draw"),
        (["gone.py"], r"Config gone\.py does not exist"),
        (["bare.py"], r"has no model or no train_dataloader"),
        (["single.py"], r"DenseCL takes 2 views per image, not 1"),
        (["ragged.py", "--images=two"], r"The same view of two images differs in size"),
        (["sizes.py"], r"Query and key view differ in size, hence in"),
        (
            ["RegionCLM.py", "RegionCLM.pth", "--num=1"],
            r"swapped between two images; .*--num 2",
        ),
    ],
)
@pytest.mark.usefixtures("spoilt")
def test_errors_are_sentences(tool, root, args, sentence):
    files = [arg for arg in args if arg.endswith((".py", ".pth"))]
    files += ["DenseCL.pth"] * (len(files) == 1)
    options = [arg for arg in args if arg.startswith("--")]
    code, _, errors = tool(*files, "--images=images", "--out=new.png", *options)
    assert code == 2, errors
    assert re.search(rf"^Error: .*{sentence}", errors, re.DOTALL | re.MULTILINE)
    assert "Traceback" not in errors and not list(root.glob("*new*"))
