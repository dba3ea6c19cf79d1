"""The grid of views, against the loader and the preprocessor of training."""

import re

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from PIL import Image

from mmssl_ext.registry import MODELS
from mmssl_ext.run.launch import load_config
from mmssl_ext.visualization.pictures import browse as browsing
from mmssl_ext.visualization.pictures.browse import network_inputs
from mmssl_ext.visualization.pictures.sheet import Sheet
from tests.harness import REPO, call_tool, config
from tests.visualization.pictures import texts

PRETRAINING = sorted(
    path.relative_to(REPO / "configs").as_posix()
    for path in (REPO / "configs").glob("*/*_*_*.py")
    if path.parent.name not in ("_base_", "chains", "transfer")
)


assert len(PRETRAINING) > 25 and "detco/detco_r18_demo.py" in PRETRAINING


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Six photographs of several sizes."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i, (width, height) in enumerate([(300, 200), (200, 300), (256, 256)] * 2):
        small = rng.integers(0, 256, (8, 8, 3), np.uint8)
        image = Image.fromarray(small).resize((width, height), Image.BICUBIC)
        image.save(folder / f"{i}.png")
    (folder / "unreadable.png").write_bytes(b"")
    return folder


def device_config(photos, augment_on, patches):
    cfg = config(photos, photos)
    view = [
        dict(type="RandomResizedCrop", size=32, scale=(0.3, 1)),
        dict(type="ColorJitter", prob=0.8),
        dict(type="RandomGrayscale", prob=0.3),
        dict(type="GaussianBlur", prob=0.5),
        dict(type="RandomSolarize", prob=0.3),
        dict(type="RandomFlip", prob=0.5),
    ]
    cut = [dict(type="RandomResizedCrop", size=60), *view[1:]]
    cut.append(dict(type="CutPatches", size=16))
    cfg.train_dataloader.dataset.labels = "none"
    cfg.train_dataloader.batch_size = 6
    cfg.train_dataloader.sampler.shuffle = False
    cfg.train_dataloader.dataset.pipeline[1].update(
        views=[view, view, cut] if patches else [view, view], augment_on=augment_on
    )
    return cfg


@pytest.mark.parametrize("augment_on", ["worker", "device"])
@pytest.mark.parametrize("patches", [False, True])
def test_views_are_bit_for_bit_those_of_training(photos, augment_on, patches):
    cfg = device_config(photos, augment_on, patches)
    init_default_scope("mmssl_ext")
    loader = Runner.build_dataloader(cfg.train_dataloader)
    preprocessor = MODELS.build(dict(type="MultiViewPreprocessor"))
    dataset = browsing.training_dataset(cfg)
    earlier = None
    for epoch in (0, 1):
        loader.dataset.set_augmentation_seed(7, epoch)
        batch = preprocessor(next(iter(loader)))["inputs"]
        pixels = [
            (v * preprocessor.std + preprocessor.mean).round().byte().movedim(-3, -1)
            for v in batch
        ]
        seen = list(network_inputs(dataset, preprocessor, range(6), 7, epoch))
        assert [len(image.views) for image in seen] == [len(batch)] * 6
        for i, image in enumerate(seen):
            for view, expected in zip(image.views, pixels, strict=True):
                assert np.array_equal(view, expected[i].numpy())
        assert earlier is None or not np.array_equal(earlier, seen[0].views[0])
        earlier = seen[0].views[0]
    # One image alone is made as it is among the others.
    (alone,) = network_inputs(dataset, preprocessor, [4], 7, 1)
    assert np.array_equal(alone.views[1], seen[4].views[1])
    assert alone.path.endswith("4.png") and alone.original.shape == (300, 200, 3)
    assert dataset.augmentation_seed.get() is None  # the dataset itself is as it was


@pytest.mark.parametrize("augment_on", ["worker", "device"])
def test_frames_are_what_the_views_are_cut_from(photos, augment_on):
    cfg = device_config(photos, augment_on, patches=True)
    dataset = browsing.training_dataset(cfg)
    preprocessor = MODELS.build(dict(type="MultiViewPreprocessor"))
    seen = list(network_inputs(dataset, preprocessor, range(6), 7, 0))
    mirrored = sum(row[0] > row[2] for image in seen for row in image.boxes[:2])
    assert 2 < mirrored < 10
    sheet = browsing.draw_views("c", seen, "")
    for image, ax in zip(seen, sheet.axes[:, 0], strict=True):
        assert np.isnan(image.boxes[2]).all()
        height, width = image.original.shape[:2]
        assert len(ax.patches) == 2  # patches have no one place
        for box, patch in zip(image.boxes[:2], ax.patches, strict=True):
            crop = np.sort(np.reshape(box, (2, 2)), axis=0) * (width, height)
            left, upper, right, lower = crop.round().astype(int).ravel()
            found = patch.get_bbox().extents * (width, height, width, height)
            assert np.allclose(found, (left, upper, right, lower), atol=2e-3)


def test_views_may_differ_in_number(photos):
    view = np.zeros((4, 4, 3), np.uint8)
    seen = [browsing.Seen(i, "a", [view] * n) for i, n in enumerate((7, 2))]
    sheet = browsing.draw_views("c", seen, "")
    drawn = [[bool(ax.images) for ax in row] for row in sheet.axes]
    assert drawn == [[False] + [True] * 7, [False, True, True] + [False] * 5]


def test_two_images_stand_in_a_row_where_they_have_room():
    views = [np.full((4, 4, 3), n, np.uint8) for n in range(6)]
    seen = [browsing.Seen(i, "a", views[2 * i : 2 * i + 2]) for i in range(3)]
    sheet = browsing.draw_views("c", seen, "")
    shown = [
        [ax.images[0].get_array()[0, 0, 0] if ax.images else None for ax in row]
        for row in sheet.axes
    ]
    none = [None] * 4
    assert shown == [[None, 0, 1, None, None, 2, 3], [None, 4, 5, *none]]
    titles = [ax.get_title() for ax in sheet.axes[0]]
    assert titles == ["original", "view 1", "view 2", "", *titles[:3]]
    assert not any(ax.get_title() for ax in sheet.axes[1])


# Of others the images alone do not do: they need masks and donors, or proposals.
BROWSED = [n for n in PRETRAINING if not n.startswith(("bgaug/", "ccop/"))]


@pytest.mark.parametrize("name", [*BROWSED[::8], "detco/detco_r18_demo.py"])
def test_configs_are_browsed_without_their_network(name, photos, monkeypatch):
    before = torch.get_rng_state()
    cfg = load_config(REPO / "configs" / name)
    cfg.model.backbone = dict(type="NoSuchNetwork")
    cfg.model.neck = cfg.model.head = None
    drawn = []
    monkeypatch.setattr(Sheet, "pixels", lambda sheet: drawn.append(sheet))
    monkeypatch.setattr(browsing, "write_png", lambda pixels, out: out)
    assert browsing.browse(cfg, "a.png", num=2, images=photos).name == "a.png"
    (made,) = (t for t in cfg.train_dataloader.dataset.pipeline if "views" in t)
    views = len(made["views"])
    assert views == (4 if name.startswith("detco/") else 2 + cfg.get("local_crops", 0))
    shown = [len(ax.images) for ax in drawn[0].axes.flat]
    assert sum(shown) == 2 * (views + 1) and max(shown) == 1
    assert torch.equal(before, torch.get_rng_state())


def test_tool_says_which_draws_it_shows(photos, tmp_path, monkeypatch, capsys):
    cfg = device_config(photos, "worker", False)
    cfg.randomness = dict(seed=3)
    (tmp_path / "c.py").write_text(cfg.pretty_text)
    drawn, pixels = [], Sheet.pixels
    monkeypatch.setattr(Sheet, "pixels", lambda s: drawn.append(s) or pixels(s))
    args = tmp_path / "c.py", "--out", tmp_path / "n/a.png", "--num=2"
    code, out, errors = call_tool("browse_dataset", monkeypatch, capsys, *args)
    assert code == 0, errors
    assert out.splitlines()[-1] == f"Picture: {tmp_path / 'n/a.png'}"
    found = texts(drawn[0])
    assert any(t.startswith("Seed 3, epoch 1: what a training run") for t in found)
    assert "image 0: 300 × 200 px 0.png" in found
    assert "32 × 32 px" in found


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--num=0"], r"--num 0: a picture shows 1 to 32 images"),
        (["--epoch=0"], r"--epoch 0: epochs count from 1"),
        (["--images=gone"], r"The image folder 'gone'.* does not exist"),
        (["--images=broken"], r"None of 1 images can be read"),
        (["--out=a.jpg"], r"let --out end in \.png, not a\.jpg"),
        (["--cfg-options", "train_dataloader.dataset.pipeline=[]", "--images=broken"],
         r"--images needs train_dataloader\.dataset\.pipeline"),
        (["--cfg-options", "train_dataloader.dataset.typ=A"], r"no option 'typ'"),
    ],
)  # fmt: skip
def test_errors_are_sentences(photos, tmp_path, monkeypatch, capsys, args, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"")
    cfg = device_config(photos, "worker", False)
    (tmp_path / "c.py").write_text(cfg.pretty_text)
    args = "c.py", "--out=a.png", *args
    code, _, errors = call_tool("browse_dataset", monkeypatch, capsys, *args)
    assert code == 2, errors
    assert re.search(rf"^Error: .*{sentence}", errors, re.DOTALL | re.MULTILINE)
    assert not list(tmp_path.glob("a.*"))
