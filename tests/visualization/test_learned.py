"""Pictures of what was learned: the numbers in them, and the tool."""

import itertools
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from mmssl_ext.visualization.pictures import (
    KINDS,
    filters,
    learned,
    matches,
    pca,
    similarity,
)
from mmssl_ext.visualization.pictures.neighbours import nearest
from mmssl_ext.visualization.pictures.subject import (
    feature_maps,
    pooled_features,
    spread,
)
from tests.harness import call_tool
from tests.models.common import build
from tests.visualization import pictures
from tests.visualization.pictures import draw, subject


@pytest.mark.parametrize("shape", [(200, 12), (9, 40)])
def test_components_are_those_of_scikit_learn(shape):
    decomposition = pytest.importorskip("sklearn.decomposition")
    rng = np.random.default_rng(0)
    rows = rng.normal(size=shape) * np.linspace(3, 1, shape[1]) + 5
    found, shares = pca.principal_components(rows)
    reference = decomposition.PCA(3, svd_solver="full").fit(rows)
    scores = reference.transform(rows)
    assert np.allclose(shares, reference.explained_variance_ratio_)
    for k in range(3):
        largest = reference.components_[k][np.abs(reference.components_[k]).argmax()]
        assert np.allclose(found[:, k], scores[:, k] * np.sign(largest))


def test_components_of_rows_that_are_all_alike():
    scores, shares = pca.principal_components(np.ones((5, 4)))
    assert np.allclose(scores, 0) and np.allclose(shares, 0)
    assert np.isfinite(pca.to_colors(scores)).all()


def test_colours_span_the_percentiles_of_each_component():
    scores = np.stack([np.arange(101.0), np.arange(101.0) * -7, np.arange(101.0)], 1)
    colors = pca.to_colors(scores)
    assert colors[0].tolist() == [0, 255, 0] and colors[-1].tolist() == [255, 0, 255]
    assert colors[50].tolist() == [128, 128, 128]
    assert colors[1].tolist() == [0, 255, 0]  # the lowest hundredth is cut


def test_every_image_has_the_colours_of_its_own_cells(root):
    given = subject(root, num=5)
    sheet = draw(given, "pca")
    rows = np.concatenate(
        [m["res5"].reshape(-1, m["res5"].shape[-1]) for m in given.maps]
    )
    colors = pca.to_colors(pca.principal_components(rows)[0])
    drawn = [np.asarray(ax.images[0].get_array()) for ax in sheet.axes[2]]
    assert np.array_equal(np.concatenate([d.reshape(-1, 3) for d in drawn]), colors)


def test_cosines_by_hand():
    cells = np.array([[[3.0, 4.0], [4.0, -3.0]], [[-6.0, -8.0], [1.0, 0.0]]])
    expected = [[1.0, 0.0], [-1.0, 0.6]]
    assert np.allclose(similarity.cosines(np.array([30.0, 40.0]), cells), expected)


def test_the_framed_cell_is_the_one_that_is_compared_with(root):
    sheet = draw(subject(root, num=4, patch=(0.99, 0.3)), "similarity")
    cosine = np.asarray(sheet.axes[1, 0].images[0].get_array())
    row, column = np.unravel_index(cosine.argmax(), cosine.shape)
    height, width = cosine.shape
    assert (row, column) == (int(0.3 * height), width - 1)
    for ax in sheet.axes[:2, 0]:
        assert ax.patches[0].get_xy() == (column / width, row / height)
    # The image beside it is of the same class.
    assert [ax.get_xlabel().strip() for ax in sheet.axes[1, :2]] == ["class0"] * 2


def test_mutual_matches_against_a_loop():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(3, 4, 6)), rng.normal(size=(2, 5, 6))
    a, b = first.reshape(12, 6), second.reshape(10, 6)

    def cosine(i, j):
        return a[i] @ b[j] / np.sqrt((a[i] @ a[i]) * (b[j] @ b[j]))

    expected = []
    for i, j in itertools.product(range(12), range(10)):
        best_j = max(range(10), key=lambda k: cosine(i, k))
        best_i = max(range(12), key=lambda k: cosine(k, j))
        if (best_i, best_j) == (i, j):
            expected.append((cosine(i, j), i, j))
    found = matches.mutual_matches(first, second)
    assert 2 < len(expected) < 10
    assert [(i, j) for _, i, j in sorted(expected, reverse=True)] == list(
        zip(found.first.tolist(), found.second.tolist(), strict=True)
    )
    assert np.allclose(found.cosine, sorted((c for c, *_ in expected), reverse=True))


def test_distances_and_chance_by_hand():
    # View 1 is the left half of a 64 x 32 image, mirrored; view 2 is all of it.
    boxes = torch.tensor([[0.5, 0, 0, 1], [0, 0, 1, 1]])
    # Cells of 16 px. 0: centre (8, 8), in the image (24, 8): cell 1. 1: cell 0.
    # 2: row 1, column 0, in the image (24, 24): cell 5, two columns from cell 7.
    first, second = np.array([0, 1, 2]), np.array([1, 0, 7])
    far, near = matches.distances(first, second, ((2, 2), (2, 4)), boxes)
    assert far.tolist() == [0, 0, 2]
    # Within one cell of column 1 are three columns of both rows, of column 0 two.
    assert near.tolist() == [6 / 8, 4 / 8, 6 / 8]
    boxes = torch.tensor([[0.0, 0, 0.5, 1], [0.25, 0, 0.75, 1]])
    # In view 2: cell 0 is two columns outside: none; 2 is cell 0: 4 cells; 7 (row 1,
    # column 3) is column 1 of row 1: 9 cells.
    cells, grids = np.array([0, 2, 7]), ((4, 4), (4, 4))
    _, near = matches.distances(cells, np.zeros(3, int), grids, boxes)
    assert near.tolist() == [0, 4 / 16, 9 / 16]


def test_nearest_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.randn(20, 5, generator=generator), dim=1)
    numbers, values = nearest(rows, [3, 17], 4)
    for query, found, cosines in zip((3, 17), numbers, values, strict=True):
        others = [i for i in range(20) if i != query]
        table = {i: float(sum(rows[i] * rows[query])) for i in others}
        expected = sorted(others, key=table.get, reverse=True)[:4]
        assert found.tolist() == expected
        assert np.allclose(cosines, [table[i] for i in expected], atol=1e-6)
    assert nearest(rows[:3], [0], 9)[0].shape == (1, 2)


def test_maps_are_those_of_the_stages():
    model = build("MoCo").eval()
    image = torch.randint(256, (3, 64, 96), dtype=torch.uint8)
    x = model.data_preprocessor({"inputs": image[None]})["inputs"]
    backbone = model.backbone
    with torch.no_grad():
        found = feature_maps(model, image)
        x = backbone.maxpool(backbone.relu(backbone.norm1(backbone.conv1(x))))
        x = backbone.layer3(backbone.layer2(backbone.layer1(x)))
        y = backbone.layer4(x)
    assert list(found) == ["res4", "res5"]
    for expected, cells in zip((x, y), found.values(), strict=True):
        assert np.array_equal(cells, expected[0].permute(1, 2, 0).numpy())
    assert not any(m._forward_hooks for m in model.modules())


def test_pooled_features_of_sizes_that_differ():
    model = build("MoCo").eval()
    sizes = [(32, 32), (32, 32), (40, 32), (32, 32), (32, 48)]
    images = [torch.randint(256, (3, *s), dtype=torch.uint8) for s in sizes]
    with torch.no_grad():
        found = pooled_features(model, images, batch=2)
        for row, image in zip(found, images, strict=True):
            x = model.data_preprocessor({"inputs": image[None]})["inputs"]
            pooled = model.backbone(x)[-1].mean((2, 3))[0]
            assert torch.allclose(row, pooled / pooled.norm(), atol=1e-6)


def test_filters_share_one_scale_around_grey():
    weights = np.zeros((2, 1, 1, 3))
    weights[0, 0, 0] = (0.5, -0.5, 0)
    weights[1, 0, 0] = (0.25, 0, 0)
    colors = filters.filter_colors(weights)
    assert colors[:, 0, 0].tolist() == [[255, 0, 128], [191, 128, 128]]


def test_values_are_spread_evenly():
    assert spread("abcdefgh", 3) == ["a", "c", "f"]
    assert spread("ab", 5) == ["a", "b"] and spread("", 2) == []


def test_of_many_classes_ten_are_searched(root):
    given = subject(root)
    given.classes = [f"c{i}" for i in range(12)]
    given.dataset._rows = np.arange(12)
    assert len(given.searched) == 10
    given.options.most = 4
    assert len(given.searched) == 4


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return pictures.write_folder(tmp_path_factory.mktemp("learned"))


@pytest.fixture
def tool(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    return lambda *args: call_tool("visualize", monkeypatch, capsys, *args)


def test_all_kinds_are_written(tool, tmp_path):
    options = ("--images=images", f"--out={tmp_path / 'see'}", "--kind", "all")
    code, out, errors = tool("MoCo.py", "MoCo.pth", *options, "--compare=random")
    assert code == 0, errors
    files = [tmp_path / "see" / f"{kind}.png" for kind in KINDS]  # no MoCo's own
    told = [line for line in out.splitlines() if line.startswith("Picture")]
    assert told == [f"Picture: {file}" for file in files]
    for file in files:
        with Image.open(file) as image:
            assert image.width == 900 and len(image.getcolors(1 << 20)) > 30


def test_pictures_repeat_themselves(root):
    for kind in ("embedding", "matches"):
        cases = [subject(root, num=2) for _ in range(2)]
        before = torch.get_rng_state()
        first, again = (learned.draw(case, kind) for case in cases)
        assert np.array_equal(first.pixels, again.pixels)
        assert torch.equal(before, torch.get_rng_state())
    other = subject(root, num=2, seed=1)
    pixels = learned.draw(other, "matches").pixels
    assert first.pixels.shape != pixels.shape or not np.array_equal(
        first.pixels, pixels
    )
    # Where the boxes are not known, nothing is claimed of the true place.
    numbers = r"\d+ of all \d+ .*by chance \d+%"
    assert re.search(numbers, first.caption)
    other.pipeline[-1].geometry = False
    caption = learned.draw(other, "matches").caption
    assert "so neither is the true place" in caption
    assert not re.search(numbers, caption)


def test_share_of_the_same_class_by_a_loop(root):
    given = subject(root)
    with learned.undisturbed(given.model):
        indices, rows = given.pooled
    classes = [given.classes[i] for i in indices]
    hits = []
    for i in range(10):
        order = sorted(
            (j for j in range(10) if j != i), key=lambda j: -rows[i] @ rows[j]
        )
        hits += [classes[j] == classes[i] for j in order[:6]]
    sheet = draw(given, "neighbours")
    assert f" {np.mean(hits):.0%} of the 6 nearest are" in sheet.captions[1]
    labels = [ax.get_xlabel().split() for ax in sheet.axes[0] if ax.get_xlabel()]
    same = [label[-1] == labels[0][-1] for label in labels[1:]]
    edges = [ax.spines["left"].get_linestyle() for ax in sheet.axes[0, 2:]]
    assert [edge == "solid" for edge in edges] == same  # framed by class
    flat = learned.draw(subject(root, images="images/class0"), "neighbours")
    assert "class" not in flat.caption  # where no folder tells it


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--images=gone"], r"The image folder 'gone'.* does not exist"),
        (["--images=empty"], r"No image was found below 'empty'"),
        (["--images=broken"], r"None of 2 images can be read"),
        (["--images=flat", "--kind=neighbours"], r"at least 3 images, .* are 2"),
        (["--images=flat", "--kind=embedding"], r"at least 8 images, .* are 2"),
        (["--kind", "pca", "filters"], r"let --out be a folder, not a\.png"),
        (["--out=folder"], r"let --out end in \.png, not folder"),
        (["--num=33"], r"--num 33: a picture shows 1 to 32"),
        (["--size=8"], r"--size 8: a short side of 16"),
        (["--patch", "0.5", "1.5"], r"--patch 0\.5 1\.5: fractions"),
        (["--max-images=2"], r"--max-images 2: at least 3"),
    ],
)
def test_errors_are_sentences(tool, root, args, sentence):
    given = ["MoCo.py", "MoCo.pth", "--images=images", "--out=a.png", "--kind=pca"]
    code, _, errors = tool(*given, *args)
    assert code == 2, errors
    assert re.search(rf"^Error: .*{sentence}", errors, re.DOTALL | re.MULTILINE)
    assert "Traceback" not in errors and not (root / "a.png").exists()
