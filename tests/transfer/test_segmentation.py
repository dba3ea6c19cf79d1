"""Segmentation configs: the protocol's facts, and real runs on tiny scenes."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import PolyLR
from mmengine.registry import DefaultScope
from PIL import Image

from mmssl_ext.run import launch
from mmssl_ext.transfer import segmentation  # noqa: F401  (fills registries)
from tests.harness import REPO

from mmseg.registry import DATASETS, MODELS  # isort: skip  (needs mmcv's ops)

CONFIGS = REPO / "configs/transfer/segmentation"
FCN_VOC, FCN_CITY, UPERNET = (
    "fcn_r50_voc12aug.py",
    "fcn_r50_cityscapes_40k.py",
    "upernet_r50_cityscapes_40k.py",
)


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope("mmseg"):
        yield


def load(name, **variables):
    return launch.load_config(CONFIGS / name, variables)


@pytest.mark.parametrize(
    ("name", "options", "iters", "batch", "gpus", "classes", "crop"),
    [
        (FCN_VOC, {}, 20000, 16, 4, 21, (512, 512)),
        (FCN_CITY, {}, 40000, 8, 4, 19, (769, 769)),
        (FCN_CITY, dict(max_iters=80000), 80000, 8, 4, 19, (769, 769)),
        (UPERNET, {}, 40000, 16, 8, 19, (512, 1024)),
        (UPERNET, dict(max_iters=80000), 80000, 16, 8, 19, (512, 1024)),
    ],
)
def test_protocol(name, options, iters, batch, gpus, classes, crop):
    cfg = load(name, **options)
    assert cfg.train_cfg.max_iters == iters == 10 * cfg.train_cfg.val_interval
    assert cfg.train_dataloader.batch_size * gpus == batch
    assert cfg.auto_scale_lr.base_batch_size == batch
    assert cfg.optim_wrapper.optimizer == dict(
        type="SGD", lr=0.01, momentum=0.9, weight_decay=5e-4
    )
    (poly,) = cfg.param_scheduler
    assert poly.end == iters and poly.by_epoch is False
    model = cfg.model
    assert model.data_preprocessor.size == crop and model.data_preprocessor.bgr_to_rgb
    assert model.auxiliary_head.loss_decode.loss_weight == 0.4
    assert model.decode_head.num_classes == model.auxiliary_head.num_classes == classes
    assert model.backbone.type == "ResNet" and not model.get("pretrained")
    assert model.backbone.init_cfg.type == "mmssl_ext.PretrainedBackbone"
    assert cfg.sync_bn == "torch" and cfg.default_hooks.checkpoint.by_epoch is False


def test_window_and_corners_of_cityscapes():
    model = load(FCN_CITY).model
    assert model.test_cfg == dict(mode="slide", crop_size=(769, 769), stride=[513, 513])
    assert model.decode_head.align_corners and model.auxiliary_head.align_corners
    model = load(UPERNET).model
    assert model.test_cfg == dict(mode="whole") and not model.decode_head.align_corners


@pytest.mark.parametrize("name", [FCN_VOC, FCN_CITY, UPERNET])
def test_learning_rate_follows_the_polynomial(name):
    cfg = load(name, max_iters=50)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    options = dict(cfg.param_scheduler[0])
    scheduler = PolyLR(optimizer, **{k: v for k, v in options.items() if k != "type"})
    rates = []
    for _ in range(50):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    expected = [0.0099 * (1 - t / 49) ** 0.9 + 1e-4 for t in range(50)]
    assert rates == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "strides"), [(FCN_VOC, (4, 8, 8, 8)), (UPERNET, (4, 8, 16, 32))]
)
def test_backbone_is_the_plain_dilated_resnet(name, strides):
    cfg = load(name, checkpoint=None)
    assert cfg.model.backbone.init_cfg is None
    backbone = MODELS.build(cfg.model.backbone)
    backbone.eval()
    assert type(backbone).__name__ == "ResNet"
    assert backbone.conv1.kernel_size == (7, 7) and not hasattr(backbone, "stem")
    with torch.no_grad():
        shapes = [tuple(out.shape) for out in backbone(torch.zeros(1, 3, 64, 64))]
    expected = [(1, 256 << i, 64 // s, 64 // s) for i, s in enumerate(strides)]
    assert shapes == expected
    if strides[-1] == 8:
        # contract_dilation: the first block of a stage has half its dilation.
        assert [b.conv2.dilation[0] for b in backbone.layer3] == [1, 2, 2, 2, 2, 2]
        assert [b.conv2.dilation[0] for b in backbone.layer4] == [2, 4, 4]


def test_labels_of_a_sample(demo):
    source = demo / "VOCdevkit/VOC2007/SegmentationClass/000001.png"
    drawn = np.array(Image.open(source)).astype(int)
    lower = dict(classes=[str(i) for i in range(8)], reduce_zero_label=True)
    for variables, expected in (
        ({}, drawn),
        (lower, np.where(drawn == 0, 255, drawn - 1)),
    ):
        root = str(demo / "VOCdevkit")
        cfg = load(FCN_VOC, data_root=root, release="VOC2007", **variables)
        part = cfg.val_dataloader.dataset
        part.ann_file = "ImageSets/Segmentation/train.txt"
        dataset = DATASETS.build(part)
        labels = dataset[0]["data_samples"].gt_sem_seg.data[0].numpy()
        assert set(np.unique(drawn)) - {0} and np.array_equal(labels, expected)


def test_bases_of_mmseg_are_found(tmp_path):
    file = tmp_path / "own.py"
    file.write_text("_base_ = 'mmseg::_base_/schedules/schedule_20k.py'\n")
    assert Config.fromfile(str(file)).train_cfg.max_iters == 20000
