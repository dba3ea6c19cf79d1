"""Pictures of DenseCL, RegionCL and DetCo, and the tool that writes them."""

import importlib.util
import itertools
import re
import sys

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from PIL import Image

from mmssl_ext.models.layers.region import Region, pool_regions
from mmssl_ext.preprocessing import MultiViewPreprocessor
from mmssl_ext.run.launch import load_config
from mmssl_ext.visualization.pictures import method_figures as figures
from mmssl_ext.visualization.pictures.method_pictures import draw_picture, shortened
from mmssl_ext.visualization.pictures.sheet import SCALE, Box
from tests.harness import REPO, config, write_images
from tests.models.common import build, model_config

METHODS = ("DenseCL", "RegionCLM", "RegionCLD", "RegionCLS", "DetCo")
TINT = 10  # colours of a sheet stand in steps of so much

_spec = importlib.util.spec_from_file_location(
    "visualize", REPO / "tools" / "visualize.py"
)
visualize = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(visualize)


def write_config(root, method, model=None):
    """Write the config of a method with views of 64 pixels."""
    cfg = config(root / "images", root / "work_dir")
    cfg.model = model or model_config(method)
    view = [
        dict(type="RandomResizedCrop", size=64, scale=[0.3, 1.0]),
        dict(type="RandomFlip", prob=0.5),
    ]
    patches = [
        dict(type="RandomResizedCrop", size=120, scale=[0.6, 1.0]),
        dict(type="CutPatches", size=32),
    ]
    views = [view, view, patches, patches] if method == "DetCo" else [view, view]
    cfg.train_dataloader.dataset.pipeline[1].views = views
    (root / f"{method}.py").write_text(cfg.pretty_text)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A config and a checkpoint per method, and images."""
    root = tmp_path_factory.mktemp("pictures")
    write_images(root / "images", per_class=3)
    for method in (*METHODS, "MoCo"):
        write_config(root, method)
        torch.save(dict(state_dict=build(method).state_dict()), root / f"{method}.pth")
    return root


@pytest.fixture
def tool(root, monkeypatch, capsys):
    """Run the tool's main function; return exit code, output and errors."""

    def run(*args):
        monkeypatch.chdir(root)
        monkeypatch.setattr(sys, "argv", ["visualize.py", *map(str, args)])
        code = visualize.main()
        return code, *capsys.readouterr()

    return run


def picture(root, method, num=4, seed=0, images="images"):
    cfg = load_config(root / f"{method}.py")
    return draw_picture(cfg, root / f"{method}.pth", root / images, num, seed)


def texts(sheet):
    return [text.get_text() for text in sheet.axes.texts]


def rows(sheet):
    """The captions of DenseCL's rows, which change with the views and the model."""
    return [text for text in texts(sheet) if "mean cosine" in text]


@pytest.mark.parametrize("method", ["DenseCL", "RegionCLM", "DetCo"])
def test_tool_writes_the_same_png_each_time(tool, root, tmp_path, method):
    files = [tmp_path / "new" / name for name in ("a.png", "b.png")]
    for file in files:
        options = ("--images", "images", "--out", file, "--num", 2)
        code, out, errors = tool(f"{method}.py", f"{method}.pth", *options)
        assert code == 0, errors
        assert out.splitlines()[-1] == f"Picture: {file}"
    with Image.open(files[0]) as image:
        image.load()
        assert image.format == "PNG" and image.mode == "RGB"
        assert image.width == 900 * SCALE
        assert 2 * 150 * SCALE < image.height < 2 * 400 * SCALE
        assert len(image.getcolors(1 << 20)) > 500  # not a blank sheet
    assert 20_000 < files[0].stat().st_size < 500_000
    assert files[0].read_bytes() == files[1].read_bytes()
    assert sorted(tmp_path.glob("new/.*")) == []  # no draft is left


@pytest.mark.parametrize("method", ["RegionCLD", "RegionCLS"])
def test_what_is_drawn_follows_from_what_is_found(root, method):
    # RegionCL-D is a DenseCL too, but shows its regions.
    found = texts(picture(root, method, 3))
    assert found[0] == f"{method}: a rectangle swapped between images"
    assert "3 pasted into 1" in found  # of three images, each takes the one before


def test_seed_changes_the_views(root):
    first, again, other = (
        picture(root, "DenseCL", 1, seed).pixels() for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("method", ["DenseCL", "DetCo"])
def test_views_that_the_device_augments_are_shown_augmented(root, method):
    sheets = []
    for augment_on in ("worker", "device"):
        cfg = load_config(root / f"{method}.py")
        make = cfg.train_dataloader.dataset.pipeline[1]
        for view in make.views:
            view.insert(1, dict(type="ColorJitter", brightness=0.8, prob=1))
        make.augment_on = augment_on
        sheet = draw_picture(cfg, root / f"{method}.pth", root / "images", 3)
        sheets.append(sheet.pixels())
    assert np.array_equal(*sheets)
    assert not np.array_equal(sheets[0], picture(root, method, 3).pixels())


def test_agreement_with_the_geometry_by_hand():
    """View 2 is the right half of view 1, which is the whole image: 2 x 4 cells."""
    boxes = torch.tensor([[0.0, 0, 1, 1], [0.5, 0, 1, 1]])
    # Columns 2 and 3 of both rows are seen: their true u is 1/4 and 3/4, that is 1 and
    # 3 in columns of view 2, up to half a column: cells 0, 1 and 2, 3 are within one.
    match = np.array([0, 0, 1, 0, 7, 7, 6, 7])  # right: cells 2 and 7; 6 is too far
    text = figures.agreement(match, (2, 4), boxes)
    assert text.startswith("2 of the 4 cells that the key view shows too")
    # u = 1/4 has two columns within one cell, u = 3/4 as many; both rows are.
    assert text.endswith("(by chance 50%)")
    mirrored = torch.tensor([[0.0, 0, 1, 1], [1, 0, 0.5, 1]])
    match = np.array([0, 0, 3, 0, 7, 7, 6, 7])  # cells 2, 3 and 6 are right
    assert figures.agreement(match, (2, 4), mirrored).startswith("3 of the 4")
    apart = torch.tensor([[0.0, 0, 0.4, 1], [0.5, 0, 1, 1]])
    assert figures.agreement(match, (2, 4), apart).startswith("the key view shows none")


def test_agreement_stands_below_the_pair_where_the_boxes_are_known(root):
    told = [t for t in texts(picture(root, "DenseCL", 3)) if "true place" in t]
    assert len(told) == 3 and all("(by chance " in text for text in told)
    cfg = load_config(root / "DenseCL.py")
    cfg.train_dataloader.dataset.pipeline[-1].geometry = False
    bare = draw_picture(cfg, root / "DenseCL.pth", root / "images", 3)
    assert not [t for t in texts(bare) if "true place" in t]
    assert len(rows(bare)) == 3


def test_cell_centres_by_hand():
    # 2 x 3 cells of 20 x 5 pixels (width x height)
    centres = figures.cell_centres((2, 3), Box(100, 10, 60, 10))
    assert centres.tolist() == [
        [110, 12.5],
        [130, 12.5],
        [150, 12.5],
        [110, 17.5],
        [130, 17.5],
        [150, 17.5],
    ]


def test_match_lines_by_hand():
    query, key = Box(0, 0, 20, 40), Box(100, 0, 20, 40)  # cells of 10 x 20
    lines = figures.match_lines(np.array([3, 0, 1, 1]), (2, 2), query, key)
    assert lines.tolist() == [
        [[5, 10], [115, 30]],
        [[15, 10], [105, 10]],
        [[5, 30], [115, 10]],
        [[15, 30], [115, 10]],
    ]


def test_arcs_keep_the_ends_and_rise_in_the_middle():
    lines = np.array([[[0, 0], [30, 40]], [[100, 5], [0, 5]]], float)
    arcs = figures.arcs(lines, bend=0.1)
    assert np.array_equal(arcs[:, [0, -1]], lines)
    assert np.allclose(arcs[:, 16], [[15, 20 - 5], [50, 5 - 10]])  # lengths 50, 100


@pytest.mark.parametrize(
    ("similarity", "expected"),
    [([0.5, 0.9, 0.1, 0.7], [3, 1]), ([0.2, 0.3, 0.1], [1]), ([0.4], [0])],
)
def test_most_similar_third_is_rounded_up(similarity, expected):
    assert figures.most_similar(np.array(similarity)).tolist() == expected


def test_drawn_lines_are_the_most_similar_matches():
    match = np.array([[5, 0, 3, 3, 1, 2], [0, 1, 2, 3, 4, 5]])
    similarity = np.array(
        [[0.9, 0.1, 0.2, 0.3, 0.8, 0.4], [0.1, 0.2, 0.7, 0.3, 0.6, 0.5]]
    )
    found = dict(grid=(2, 3), match=match, similarity=similarity)
    views = [np.zeros((2, 40, 60, 3), np.uint8)] * 2
    sheet = figures.matched_cells("M", found, views, ["a", "b"])
    boxes = [
        (x[0], y[0], x[1] - x[0], y[1] - y[0])
        for image in sheet.axes.images
        for x, y in [np.sort(np.reshape(image.get_extent(), (2, 2)))]
    ][1:]  # the first is the colour bar
    expected = {
        (boxes[0], 0, boxes[1], 5),
        (boxes[0], 4, boxes[1], 1),
        (boxes[2], 2, boxes[3], 2),
        (boxes[2], 4, boxes[3], 4),
    }

    def centre(box, cell):
        row, column = divmod(cell, 3)
        x, y, width, height = box
        return x + (column + 0.5) * width / 3, y + (row + 0.5) * height / 2

    wanted = {(centre(q, a), centre(k, b)) for q, a, k, b in expected}
    drawn = {
        (tuple(path.vertices[0]), tuple(path.vertices[-1]))
        for lines in sheet.axes.collections
        if isinstance(lines, LineCollection) and lines.get_alpha() == 1
        for path in lines.get_paths()
    }
    assert len(drawn) == 4
    assert np.allclose(sorted(drawn), sorted(wanted))
    captions = [text for text in texts(sheet) if "key cells" in text]
    assert captions[0].startswith("a: 5 of 6 key cells picked, 1 of 6 pairs at the sam")
    assert captions[0].endswith("mean cosine 0.45")
    assert captions[1].startswith("b: 6 of 6 key cells picked, 6 of 6 pairs at the sam")


def test_region_mask_is_what_the_model_pools():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(1, 2, 3, 4, generator=generator, dtype=torch.float64)
    for top, left in itertools.product(range(3), range(4)):
        for height, width in itertools.product(range(1, 4 - top), range(1, 5 - left)):
            if (height, width) == (3, 4):
                continue
            cells = Region(top, left, height, width)
            mask = figures.region_mask(tuple(cells.scaled(16)), (48, 64), (3, 4))
            assert mask.sum() == height * width
            mask = torch.from_numpy(mask)
            canvas, paste = pool_regions(maps, cells)
            assert torch.allclose(maps[..., mask].mean(-1), paste)
            assert torch.allclose(maps[..., ~mask].mean(-1), canvas)


def test_regions_are_tinted_cell_by_cell():
    region, grid, gray = (16, 0, 32, 16), (4, 3), 100  # rows 1 and 2, column 0
    flat = np.full((2, 64, 48, 3), gray, np.uint8)
    found = dict(mixed=flat, region=region, order=np.array([1, 0]), grid=grid)
    sheet = figures.swapped_regions("M", found, [flat, flat], ["a", "b"])
    pixels = sheet.pixels()
    inside = {(1, 0), (2, 0)}
    colors = [255 * np.array(to_rgb(color)) for color in figures._COLORS[:2]]
    for number, image in enumerate(sheet.axes.images):
        row, column = divmod(number, 5)
        if column < 3:
            continue
        left, right, bottom, top = (SCALE * value for value in image.get_extent())
        color = colors[row if column == 3 else 1 - row]
        for r, c in itertools.product(range(4), range(3)):
            x = left + (c + 0.5) / 3 * (right - left)
            y = top + (r + 0.5) / 4 * (bottom - top)
            chosen = ((r, c) in inside) == (column == 4)
            wanted = (color + gray) / 2 if chosen else 0.85 * 255 + 0.15 * gray
            assert np.abs(pixels[int(y), int(x)] - wanted).max() <= TINT
    assert texts(sheet)[-5:] == [
        "image 2",
        "image 1",
        "1 pasted into 2",
        "10 cells: find key 2",
        "2 cells: find key 1",
    ]


def test_mixed_image_has_its_rectangle_outlined():
    flat = np.zeros((2, 64, 64, 3), np.uint8)
    found = dict(
        mixed=flat, region=(16, 32, 48, 32), order=np.array([1, 0]), grid=(4, 4)
    )
    sheet = figures.swapped_regions("M", found, [flat, flat], ["a", "b"])
    left, right, bottom, top = sheet.axes.images[2].get_extent()
    side = right - left
    frame = [p for p in sheet.axes.patches if not p.get_fill()][3]  # after 3 images
    outer = frame.get_bbox().padded(1.5).extents  # half of the line's width
    assert np.allclose(
        outer, [left + side / 2, top + side / 4, right, bottom], atol=1e-6
    )
    assert frame.get_edgecolor()[:3] == to_rgb(figures._COLORS[1])


def test_patches_keep_their_order():
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 26, (2, 2, 9, 3)) * 10  # image, set, patch
    sets = np.broadcast_to(colors[:, :, :, None, None], (2, 2, 9, 20, 20, 3)).astype(
        np.uint8
    )
    whole = np.zeros((2, 64, 64, 3), np.uint8)
    values = np.array([[0.5, -0.25], [1.0, 0.125]])
    found = dict(cross=values, levels=["res4", "res5"])
    views = [whole, whole, sets[:, 0], sets[:, 1]]
    sheet = figures.images_and_patches("M", found, views, ["a", "b"])
    pixels = sheet.pixels()
    extents = [image.get_extent() for image in sheet.axes.images]
    for i, kind in itertools.product(range(2), range(2)):
        left, right, bottom, top = extents[20 * i]  # the first view of the row
        width, height = right - left, bottom - top
        left += (2 + kind) * (extents[20 * i + 1][0] - left)
        for j in range(9):
            x = left + (j % 3 + 0.5) * width / 3
            y = top + (j // 3 + 0.5) * height / 3
            seen = pixels[int(SCALE * y), int(SCALE * x)]
            assert seen.tolist() == colors[i, kind, j].tolist()
    bars = [-p.get_height() for p in sheet.axes.patches if isinstance(p, Rectangle)]
    assert np.allclose(np.array(bars) / bars[2], values.ravel())
    assert {"0.50", "−0.25", "1.00", "res4", "res5"} <= set(texts(sheet))


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
        images = figures.to_images(view, preprocessor.mean, preprocessor.std)
        assert np.array_equal(images, views.movedim(-3, -1).numpy())


def test_levels_are_named_by_the_stages(root):
    names = [text for text in texts(picture(root, "DetCo", 1)) if "res" in text]
    assert names == ["res2", "res3", "res4", "res5"]


def test_first_readable_images_in_order_of_their_names(root, tmp_path):
    folder = tmp_path / "photos"
    (folder / "z").mkdir(parents=True)
    for name in ("c.png", "b.png", "z/a.png"):
        Image.new("RGB", (20, 30), "red").save(folder / name)
    (folder / "a.jpg").write_bytes(b"no image")
    sheet = picture(root, "DenseCL", images=folder)
    assert [row.split(":")[0] for row in rows(sheet)] == ["b.png", "c.png", "a.png"]
    sheet = picture(root, "DenseCL", 2, images=folder)
    assert [row.split(":")[0] for row in rows(sheet)] == ["b.png", "c.png"]


def test_an_image_does_not_depend_on_the_others(root):
    # In training mode BatchNorm would mix them.
    few, many = (rows(picture(root, "DenseCL", num)) for num in (1, 4))
    assert few == many[:1]


def test_long_names_lose_their_middle():
    assert shortened("a" * 32) == "a" * 32
    assert shortened("photograph_of_2026_0001.jpeg", 20) == "photograp…_0001.jpeg"


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (dict(images="gone"), r"The image folder 'gone'.* does not exist"),
        (dict(images="empty"), r"No image was found below 'empty'"),
        (dict(images="broken"), r"None of the 2 images below 'broken' can be read"),
        (dict(checkpoint="gone.pth"), r"Checkpoint gone\.pth does not exist"),
        (dict(checkpoint="DetCo.pth"), r"DetCo\.pth does not fit the model"),
        (dict(config="wide.py"), r"of another shape: neck\.mlp.*in the file"),
        (dict(config="MoCo.py", checkpoint="MoCo.pth"), r"MoCo has nothing to draw"),
        (dict(config="gone.py"), r"Config gone\.py does not exist"),
        (dict(config="bare.py"), r"has no model or no train_dataloader"),
        (dict(config="single.py"), r"DenseCL takes 2 views per image, not 1"),
        (dict(num=0), r"--num 0: a picture shows 1 to 32 images"),
        (dict(out="new.jpg"), r"let --out end in \.png, not new\.jpg"),
        (
            dict(config="RegionCLM.py", checkpoint="RegionCLM.pth", num=1),
            r"swapped between two images; .*--num 2",
        ),
    ],
)
def test_errors_are_sentences(tool, root, args, sentence):
    (root / "empty").mkdir(exist_ok=True)
    (root / "broken").mkdir(exist_ok=True)
    for name in ("a.png", "b.png"):
        (root / "broken" / name).write_bytes(b"")
    wide = model_config("DenseCL")
    wide["neck"] = wide["neck"] | dict(hid_channels=65)
    cfg = load_config(root / "DenseCL.py")
    cfg.train_dataloader.dataset.pipeline.pop(1)
    (root / "single.py").write_text(cfg.pretty_text)
    cfg.pop("train_dataloader")
    (root / "bare.py").write_text(cfg.pretty_text)
    cfg = load_config(root / "DenseCL.py")
    cfg.model = wide
    (root / "wide.py").write_text(cfg.pretty_text)
    given = dict(config="DenseCL.py", checkpoint="DenseCL.pth", images="images")
    given |= dict(out="new.png", num=4) | args
    code, _, errors = tool(
        *(given.pop("config"), given.pop("checkpoint")),
        *(f"--{name}={value}" for name, value in given.items()),
    )
    assert code == 2, errors
    assert re.search(rf"^Error: .*{sentence}", errors, re.DOTALL | re.MULTILINE)
    assert "Traceback" not in errors
    assert not list(root.glob("*new*"))


def test_views_of_two_sizes_are_refused(tool, tmp_path):
    option = "train_dataloader.dataset.pipeline.1.views.0.0.size=96"
    options = ("--images", "images", "--out", tmp_path / "a.png", "--cfg-options")
    code, _, errors = tool("DenseCL.py", "DenseCL.pth", *options, option)
    # Cells of a 2 x 2 grid would be drawn on one of 3 x 3.
    assert code == 2
    assert errors.splitlines()[-1].startswith("Error: Query and key view differ in si")
