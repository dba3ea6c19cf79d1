"""Five bands from pretraining to kNN, features, pictures and a segmentation."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from mmpretrain.models import ResNet

from mmssl_ext import embed, load_backbone
from mmssl_ext.api.stats import stats
from mmssl_ext.engine.weights.record import input_text
from mmssl_ext.errors import CheckpointFileError, UserValueError
from mmssl_ext.run.launch import load_config, train
from mmssl_ext.transfer import PretrainedBackbone
from mmssl_ext.transfer.bands import LoadBands
from mmssl_ext.transfer.detection import DetBandsPreprocessor
from mmssl_ext.transfer.export import export_backbone
from mmssl_ext.transfer.segmentation import SegBandsPreprocessor
from mmssl_ext.visualization.pictures.browse import browse
from tests.bands import RAMPS, write_boxes, write_classes, write_labelled
from tests.transfer.support import source_checkpoint

pytest.importorskip("tifffile")
SMALL = {"depth": 18, "base_channels": 16}


def resnet(channels):
    return ResNet(18, in_channels=channels, stem_channels=16, base_channels=16)


def test_weights_of_rgb_are_refused_for_bands_or_adapted(tmp_path):
    state = source_checkpoint(tmp_path / "rgb.pth")
    module = resnet(5)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(CheckpointFileError) as caught:
        PretrainedBackbone(str(tmp_path / "rgb.pth"))(module)
    text = str(caught.value)
    assert "are of images with 3 bands, the model takes 5: set adapt_input=True" in text
    assert all(torch.equal(before[n], v) for n, v in module.state_dict().items())
    PretrainedBackbone(str(tmp_path / "rgb.pth"), adapt_input=True)(module)
    rgb = resnet(3)
    rgb.load_state_dict(state)
    rgb.eval()
    module.eval()
    gray = torch.rand(2, 1, 32, 32)
    images = gray.expand(2, 3, 32, 32), gray.expand(2, 5, 32, 32)
    one, other = (net(x)[-1] for net, x in zip((rgb, module), images, strict=True))
    assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)
    # Where the bands fit, the option changes nothing; where more differs, it refuses.
    same = resnet(3)
    PretrainedBackbone(str(tmp_path / "rgb.pth"), adapt_input=True)(same)
    assert all(torch.equal(state[n], v) for n, v in same.state_dict().items())
    wide = ResNet(18, in_channels=5, stem_channels=32, base_channels=32)
    with pytest.raises(CheckpointFileError, match="width of 32"):
        PretrainedBackbone(str(tmp_path / "rgb.pth"), adapt_input=True)(wide)


@pytest.mark.parametrize("kind", [SegBandsPreprocessor, DetBandsPreprocessor])
def test_the_toolboxes_normalise_every_band(kind):
    mean, std = [1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 4.0, 8.0, 16.0]
    loaded = LoadBands(5)({"img": RAMPS[:32, :64]})
    assert loaded["img_shape"] == loaded["ori_shape"] == (32, 64)
    image = torch.from_numpy(loaded["img"]).permute(2, 0, 1)
    sizes = {"size": (32, 64)} if kind is SegBandsPreprocessor else {}
    preprocessor = kind(mean=mean, std=std, bands=5, bgr_to_rgb=False, **sizes)
    found = preprocessor({"inputs": [image], "data_samples": None})["inputs"][0]
    columns = (torch.tensor(values)[:, None, None] for values in (mean, std))
    assert torch.allclose(found, (image - next(columns)) / next(columns))
    for wrong in (None, [1.0] * 3, [0.0] * 5):
        with pytest.raises(UserValueError, match="must have a value for each of the 5"):
            kind(mean=mean, std=wrong, bands=5)
    told = {"input": {"mean": mean, "std": std, "bands": [0, 1, 2, 3, 4]}}
    assert input_text(told, preprocessor, "x") == ""
    told["input"]["bands"] = [4, 3, 2, 1, 0]
    assert "bands [4, 3, 2, 1, 0] in the file, [0, 1, 2, 3, 4] here" in input_text(
        told, preprocessor, "x"
    )


@pytest.mark.slow
def test_five_bands_go_all_the_way(tmp_path):
    """Pretraining with kNN, features, export, pictures, and a segmentation."""
    data = write_classes(tmp_path / "data", each=8)
    told = stats(data, workers=0)
    read = dict(bands=5, value_range=told.value_range, mean=told.mean, std=told.std)
    loaders = ("bank_dataloader", "query_dataloader")
    roots = {f"default_hooks.knn.{x}.dataset.root": str(data) for x in loaders}
    options = {
        **read,
        **roots,
        "train_dataloader.dataset.root": str(data),
        **{"default_hooks.knn.k": 3, "default_hooks.knn.interval": 1},
        "default_hooks.learned.num_images": 2,
        **dict(image_size=32, batch_size=8, queue_len=16, max_epochs=3, num_workers=0),
        "train_dataloader.persistent_workers": False,
        "base_channels": 16,
    }
    config = "configs/co2/co2_r18_demo.py"
    train(config, options, work_dir=str(tmp_path / "run"))
    log = next((tmp_path / "run").rglob("scalars.json")).read_text()
    steps = list(map(json.loads, log.splitlines()))
    found = [step["knn/backbone_top1"] for step in steps if "knn/backbone_top1" in step]
    assert len(found) == 4 and min(found) >= 50  # the bank has the images themselves
    drawn = {path.stem for path in (tmp_path / "run/pictures").glob("*.png")}
    assert {"pca", "matches", "filters", "neighbours", "similarity"} <= drawn
    checkpoint = tmp_path / "run/epoch_3.pth"
    features = embed(checkpoint, data, size=32, workers=0)
    assert features.features.shape == (16, 128) and not features.unreadable
    assert np.isfinite(features.features).all()
    paths = export_backbone(checkpoint, tmp_path / "out", ["safetensors"])
    one, other = load_backbone(checkpoint), load_backbone(paths["safetensors"])
    image = one.preprocess(features.paths[0])[None]
    assert torch.equal(image[0], other.preprocess(features.paths[0]))
    assert torch.equal(one(image)[0], other(image)[0])
    cfg = load_config(config, options)
    assert browse(cfg, tmp_path / "views.png", num=2).is_file()

    write_labelled(tmp_path / "scenes")
    cfg = load_config(
        "configs/transfer/segmentation/fcn_r50_cityscapes_40k.py",
        {
            **read,
            **SMALL,
            "checkpoint": str(checkpoint),
            "data_root": str(tmp_path / "scenes"),
            **{f"{part}_images": f"images/{part}" for part in ("train", "val")},
            **{f"{part}_labels": f"labels/{part}" for part in ("train", "val")},
            **dict(img_suffix=".tif", seg_map_suffix=".png", num_workers=0),
            "classes": ["ground", "disc"],
            **dict(crop_size=(32, 32), scale=(40, 40), batch_size=4, max_iters=24),
            "val_interval": 24,
            "lr": 0.05,
        },
    )
    path = tmp_path / "segment.py"
    cfg.dump(str(path))
    train(path, work_dir=str(tmp_path / "segment"))
    result = json.loads((tmp_path / "segment/result.json").read_text())
    assert "matched" in json.dumps(result) and result["metrics"]["mIoU"] > 55
    assert len(list((tmp_path / "segment/predictions").glob("*.png"))) == 4


@pytest.mark.slow
def test_a_detector_of_bands_finds_what_one_of_them_shows(tmp_path):
    """Its class is the band of the disc; only weights of these bands are taken."""
    data = write_boxes(tmp_path / "data")
    told = stats(data / "images", workers=0)
    read = dict(bands=5, value_range=told.value_range, mean=told.mean, std=told.std)
    parts = ("train", "val")  # the same images, as these are few
    options = {
        **read,
        **SMALL,
        **{f"{part}_annotations": "boxes.json" for part in parts},
        **{f"{part}_images": "images" for part in parts},
        **dict(data_root=str(data), classes=["band3", "band4"], num_workers=0),
        **dict(short_sides=(64,), test_size=64, max_size=64, fpn_channels=32),
        **dict(batch_size=8, max_iters=300, val_interval=300, lr=0.04),
        "checkpoint": None,
        "adapt_input": False,
    }
    config = "configs/transfer/detection/retinanet_r50_fpn_coco_1x.py"
    train(config, options, work_dir=str(tmp_path / "run"))
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["metrics"]["AP50"] > 50
    assert len(list((tmp_path / "run/predictions").glob("*.png"))) > 0
