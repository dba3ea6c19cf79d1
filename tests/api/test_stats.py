"""Mean, deviation and range of the bands of a folder, and bands by one call."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from PIL import Image

from mmssl_ext.api import images
from mmssl_ext.api.data import bands_named, dataset_of, look_at
from mmssl_ext.api.images import open_images
from mmssl_ext.api.pretrain import pretrain
from mmssl_ext.api.stats import stats
from mmssl_ext.errors import UserError, UserValueError
from mmssl_ext.run.launch import load_config
from tests.bands import RAMPS, write_classes, write_tiff
from tests.harness import call_tool, write_images

pytest.importorskip("tifffile")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three images of five bands and differing sizes, one broken, one of RGB."""
    root = tmp_path_factory.mktemp("bands")
    for number, part in enumerate((RAMPS[:70], RAMPS[60:, :50], RAMPS[::7, ::3])):
        write_tiff(root / f"{number}.tif", part // 16)
    (root / "broken.tif").write_bytes(b"II*\0 no more")
    Image.new("RGB", (8, 8)).save(root / "rgb.png")
    return root


@pytest.mark.parametrize("bands", [4, (3, 0)], ids=str)
def test_a_number_of_bands_that_is_another_is_told_once(tmp_path, bands, monkeypatch):
    """With how many images have it; each of them stands in what is returned."""
    told: list[str] = []
    monkeypatch.setattr(images, "print_log", lambda text, **kinds: told.append(text))
    for number in range(9):
        shape = (8, 8, 3 if number % 3 else 4)
        pixels = np.full(shape, number + 1, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    (tmp_path / "empty.png").touch()
    assert len(stats(tmp_path, bands, workers=0).unreadable) == 8
    assert len(told) == 4 and "1.png' cannot be read: it has 3 bands" in told[0]
    assert told[-1].startswith("So it is with 6 of 11 images: it has 3 bands")


@pytest.mark.parametrize("scope", ["mmseg", "mmdet", "mmengine"])
def test_a_toolbox_may_have_run_before(scope, folder):
    """Its registries have no ImageFolder, and are those of this process then."""
    if scope == "mmdet":  # whose data sets need imgaug, unless a transfer spares it
        import_module("mmssl_ext.transfer.detection")
    with DefaultScope.overwrite_default_scope(scope):
        count = len(open_images(folder).dataset)
        assert count == look_at(dataset_of(folder)).count == 5


def test_the_figures_are_those_of_all_pixels(folder):
    found = stats(folder, workers=0)
    parts = [RAMPS[:70], RAMPS[60:, :50], RAMPS[::7, ::3]]
    pixels = np.concatenate([part.reshape(-1, 5) // 16 for part in parts]).astype(float)
    low, high = np.array(found.value_range).T
    units = (pixels - low) * 255 / (high - low)
    assert np.allclose(found.mean, units.mean(0), rtol=1e-5)
    assert np.allclose(found.std, units.std(0), rtol=1e-5)
    assert found.lowest == pixels.min(0).tolist()
    assert found.highest == pixels.max(0).tolist()
    exact = np.percentile(pixels, [1, 99], axis=0)  # of all, not of a sample
    assert np.allclose([low, high], exact, atol=0.02 * 4096)
    assert (found.images, found.bands, found.kind) == (3, 5, "uint16")
    assert found.short_side == 50
    (broken, _), (rgb, reason) = found.unreadable
    assert broken.endswith("broken.tif") and rgb.endswith("rgb.png")
    assert reason == "it has 3 bands, not the 5 of bands=5"


def test_a_range_and_a_choice_of_bands_are_kept(folder):
    found = stats(folder, [4, 0], (0, 4095), workers=0)
    assert found.bands == (4, 0) and found.value_range == [(0, 4095)] * 2
    whole = stats(folder, 5, (0, 4095), workers=0, max_images=5)
    assert found.mean == [whole.mean[4], whole.mean[0]]
    assert found.images == 3  # the RGB image has no band 4
    narrow = stats(folder, 5, percentile=(40, 60), workers=0)
    assert all(
        a > b
        for (a, _), (b, _) in zip(narrow.value_range, whole.value_range, strict=True)
    )


def test_photographs_are_measured_as_rgb(tmp_path):
    write_images(tmp_path, 1, 3)
    found = stats(tmp_path, workers=0)
    assert found.bands is None and found.value_range is None
    pixels = [np.asarray(Image.open(p).convert("RGB")) for p in tmp_path.rglob("*.png")]
    pixels = np.concatenate([x.reshape(-1, 3) for x in pixels])
    assert np.allclose(found.mean, pixels.mean(0), rtol=1e-5)
    assert found.config().startswith("mean = [")


def test_what_cannot_be_measured_is_explained(folder, tmp_path):
    with pytest.raises(UserValueError, match="value_range or percentile, not both"):
        stats(folder, value_range=(0, 1), percentile=(1, 2))
    for percentile in ((99, 1), 5, ("low", "high")):
        with pytest.raises(UserValueError, match="must be two of 0 to 100"):
            stats(folder, percentile=percentile)
    with pytest.raises(UserError, match="does not exist"):
        stats(tmp_path / "none")
    write_tiff(tmp_path / "a.tif", RAMPS[:9])
    write_tiff(tmp_path / "b.tif", RAMPS[:9].astype(np.float32))
    with pytest.raises(UserError, match=r"1 of uint16 and 1 of float32.*value_range"):
        stats(tmp_path, 5, workers=0)
    assert stats(tmp_path, 5, (0, 100), workers=0).images == 2


def test_the_lines_are_those_of_a_config(folder, tmp_path, monkeypatch, capsys):
    asked = (folder, "--value-range", 0, 4095)
    code, printed, _ = call_tool("stats", monkeypatch, capsys, *asked)
    assert code == 0 and "2 images could not be read" in printed
    assert "broken.tif: " in printed
    lines = printed.partition("For a config:\n")[2].partition("\n\n")[0]
    config = tmp_path / "mine.py"
    base = '_base_ = "mmssl_ext::co2/co2_r18_demo.py"\n'
    config.write_text(f"{base}{lines}\n")
    cfg = load_config(config)
    found = stats(folder, value_range=(0, 4095), workers=0)
    assert cfg.model.data_preprocessor.mean == found.mean
    assert cfg.model.backbone.in_channels == cfg.bands == 5
    for data in (cfg.train_dataloader, cfg.default_hooks.knn.query_dataloader):
        assert data.dataset.pipeline[0] == dict(
            type="DecodeBands", bands=5, value_range=found.value_range
        )
    config.write_text(
        f'_base_ = "mmssl_ext::transfer/segmentation/fcn_r50_voc12aug.py"\n{lines}'
    )
    model = load_config(config).model
    assert model.data_preprocessor.std == found.std and model.backbone.in_channels == 5


def test_bands_of_an_option():
    named = map(bands_named, (None, "5", "3,2,1", "4,", " 0, 1"))
    assert list(named) == [None, 5, [3, 2, 1], [4], [0, 1]]
    with pytest.raises(UserValueError, match="counted from 0, as 3,2,1"):
        bands_named("all")


def test_one_call_pretrains_on_bands(tmp_path):
    """Of an own range and of none, what was measured stands in config and record."""
    data = write_classes(tmp_path / "data")
    options = {"default_hooks.learned": None, "default_hooks.report": None}
    checkpoint = pretrain(
        *(data, tmp_path / "run", "mocov2", "resnet18-w32"),
        **dict(bands=[4, 3], epochs=1, image_size=32, batch_size=4, num_workers=0),
        options=options,
    )
    recipe = (tmp_path / "run/recipe/pretrain.py").read_text()
    assert "--bands 4,3" in recipe and "1 % and 99 % of the values: 0 and 255" in recipe
    content = torch.load(checkpoint, weights_only=True)
    told = content["meta"]["weights"]["input"]
    found = stats(data, [4, 3], workers=0)
    assert told["bands"] == [4, 3] and told["mean"] == found.mean
    assert np.allclose(np.reshape(told["value_range"], (2, 2)).T, found.value_range)
    assert content["state_dict"]["backbone.conv1.weight"].shape[1] == 2
    with pytest.raises(UserValueError, match="set bands, too"):
        pretrain(data, tmp_path / "other", value_range=(0, 1))
    flat = tmp_path / "flat"
    for number in range(9):
        write_tiff(flat / f"{number}.tif", RAMPS[:40, :40] * np.uint16([1, 1, 0, 1, 1]))
    with pytest.raises(UserValueError, match=r"number 2 .* is the same"):
        pretrain(flat, tmp_path / "other", bands=5)
