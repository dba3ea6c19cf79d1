"""Our parts of a detector, and the protocols of its configs; test_configs runs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope

from mmssl_ext.errors import CheckpointFileError
from mmssl_ext.registry import PARAM_SCHEDULERS
from mmssl_ext.run.launch import load_config
from mmssl_ext.transfer.detection import (
    ResLayerExtraNorm,
    VOCDetectionDataset,
    VOCDetectionMetric,
)
from mmssl_ext.transfer.voc_metric import THRESHOLDS, average_precisions, match_image

from .annotations import voc_set, write_xml, xml
from .support import source_checkpoint

FOLDER = Path(__file__).parents[2] / "configs/transfer/detection"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))


# --- the shared head of C4 ------------------------------------------------------------


def shared_head(source, depth, width, **init):
    init_default_scope("mmdet")
    init |= dict(type="mmssl_ext.PretrainedBackbone", checkpoint=str(source))
    return ResLayerExtraNorm(depth, width, init_cfg=init)


@pytest.mark.parametrize(("depth", "width"), [(18, 16), (50, 32)])
def test_extra_norm_head_takes_the_last_stage(tmp_path, depth, width):
    state = source_checkpoint(tmp_path / "source.pth", depth, width)
    with pytest.raises(CheckpointFileError, match=r"norm\.weight"):
        shared_head(tmp_path / "source.pth", depth, width).init_weights()
    head = shared_head(tmp_path / "source.pth", depth, width, absent=("norm",))
    head.init_weights()
    source, arrived = (
        {n: v for n, v in s.items() if n.startswith("layer4.")}
        for s in (state, head.state_dict())
    )
    assert set(source) == set(arrived)
    assert all(torch.equal(source[name], arrived[name]) for name in source)

    channels = width * (32 if depth >= 50 else 8)
    y = head(torch.randn(3, channels // 2, 14, 14))
    assert y.shape == (3, channels, 7, 7)
    # the last thing is a norm layer, not a ReLU
    means, zeros = y.mean((0, 2, 3)), torch.zeros(channels)
    torch.testing.assert_close(means, zeros, atol=1e-4, rtol=0)
    y[:, 0].square().sum().backward()
    assert head.norm.weight.grad[0] != 0 and head.norm.bias.requires_grad


# --- the metric -----------------------------------------------------------------------


def image(detections, objects):
    """An image from (label, score, box) and (label, difficult, box)."""
    labels, scores, boxes = zip(*detections, strict=True) if detections else ((),) * 3
    own, difficult, given = zip(*objects, strict=True) if objects else ((),) * 3
    return dict(
        boxes=np.array(boxes, float).reshape(-1, 4),
        labels=np.array(labels, int),
        scores=np.array(scores, float),
        gt_boxes=np.array(given, float).reshape(-1, 4),
        gt_labels=np.array(own, int),
        difficult=np.array(difficult, bool),
    )


def slow_ap(images, label, threshold, eleven_points):
    """The evaluation of VOC, detection by detection; NaN without objects."""

    def iou(a, b):
        width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
        height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
        areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
        return width * height / (sum(areas) - width * height)

    objects, found = 0, []
    for i, img in enumerate(images):
        objects += ((img["gt_labels"] == label) & ~img["difficult"]).sum()
        rows = zip(img["scores"], img["boxes"], img["labels"], strict=True)
        found += [(score, i, box) for score, box, own in rows if own == label]
    if not objects:
        return float("nan")
    taken, curve, right, wrong = set(), [], 0, 0
    for _, i, box in sorted(found, key=lambda f: -f[0]):
        best, where = 0.0, None
        for j, given in enumerate(images[i]["gt_boxes"]):
            if images[i]["gt_labels"][j] == label and iou(box, given) > best:
                best, where = iou(box, given), j
        if best > threshold and images[i]["difficult"][where]:
            continue
        hit = best > threshold and (i, where) not in taken
        taken |= {(i, where)} if hit else set()
        right, wrong = right + hit, wrong + (not hit)
        curve.append((right, right / (right + wrong)))

    def reached(recall):  # the best precision where so many objects are found
        return max((p for hits, p in curve if hits >= recall), default=0.0)

    if eleven_points:
        return sum(reached(t * objects / 10) for t in range(11)) / 11
    return sum(reached(r) for r in range(1, objects + 1)) / objects


@pytest.mark.parametrize("eleven_points", [True, False])
def test_average_precision_equals_the_slow_evaluation(eleven_points):
    rng = np.random.default_rng(0)
    images = []
    for _ in range(25):
        objects = [
            (rng.integers(3), rng.random() < 0.2, [x, y, x + w, y + h])
            for x, y, w, h in rng.uniform(5, 60, (rng.integers(0, 5), 4))
        ]
        detections = [
            (
                label if rng.random() < 0.8 else rng.integers(4),
                rng.random(),
                np.add(box, rng.normal(0, 4, 4)),
            )
            for label, _, box in objects
            for _ in range(rng.integers(0, 4))
        ]
        detections += [(rng.integers(4), rng.random(), [0, 0, 9, 9])] * 2
        images.append(image(detections, objects))
    found = average_precisions([match_image(**i) for i in images], 4, eleven_points)
    assert found.shape == (4, 10) and 0.2 < found[0, 0] < 0.95
    for c in range(4):  # nothing belongs to class 3
        for t, threshold in enumerate(THRESHOLDS):
            expected = slow_ap(images, c, threshold, eleven_points)
            assert found[c, t] == pytest.approx(expected, nan_ok=True), (c, threshold)


def box(shift):
    """A 10 x 10 box moved so that its overlap with box(0) is (10 - s) / (10 + s)."""
    return [shift, 0, shift + 10, 10]


def test_average_precision_by_hand():
    # Two objects. Best detection right, second wrong, third right: precisions 1, 1/2,
    # 2/3 at recalls 1/2, 1/2, 1. Eleven points: 1 up to .5 (6 of them), then 2/3.
    images = [
        image([(0, 0.9, box(0)), (0, 0.8, box(50))], [(0, False, box(0))]),
        image([(0, 0.7, box(0))], [(0, False, box(0))]),
    ]
    matches = [match_image(**i) for i in images]
    assert average_precisions(matches, 1, True)[0, 0] == pytest.approx(28 / 33)
    assert average_precisions(matches, 1, False)[0, 0] == pytest.approx(5 / 6)
    # A shift of 2 overlaps by 8/12: found at .50 to .65, not at .70 and above.
    moved = [match_image(**image([(0, 1.0, box(2))], [(0, False, box(0))]))]
    expected = [1.0] * 4 + [0.0] * 6
    assert average_precisions(moved, 1, True)[0] == pytest.approx(expected)


def test_second_detection_wrong_class_and_difficult_objects_by_hand():
    def at50(*images):
        return average_precisions([match_image(**i) for i in images], 2, False)[:, 0]

    easy, hard, other = (0, False, box(0)), (0, True, box(40)), (1, False, box(80))
    right = (0, 0.5, box(0))
    assert at50(image([right], [easy, hard, other])).tolist() == [1, 0]
    # Two better detections come first: of the difficult object they cost nothing, of
    # no object or of one of another class they are wrong, near the easy one the first
    # finds it instead.
    for place, ap in ((40, 1), (60, 1 / 3), (80, 1 / 3), (1, 1)):
        better = [(0, 0.9, box(place)), (0, 0.8, box(place + 0.5))]
        found = at50(image([right, *better], [easy, hard, other]))[0]
        assert found == pytest.approx(ap), place
    # an image without objects, and detections there
    assert at50(image([right], [easy]), image([(0, 0.9, box(0))], []))[0] == 0.5
    assert np.isnan(at50(image([right], []))).all()
    assert at50(image([], [easy]), image([], []))[0] == 0
    assert np.isnan(at50(image([], []))).all()


def sample(img):
    tensors = {name: torch.tensor(value) for name, value in img.items()}
    easy = ~tensors["difficult"]
    return dict(
        pred_instances=dict(
            bboxes=tensors["boxes"], labels=tensors["labels"], scores=tensors["scores"]
        ),
        gt_instances=dict(
            bboxes=tensors["gt_boxes"][easy], labels=tensors["gt_labels"][easy]
        ),
        ignored_instances=dict(
            bboxes=tensors["gt_boxes"][~easy], labels=tensors["gt_labels"][~easy]
        ),
    )


def test_the_metric_reports_percent_and_leaves_absent_classes_out(log):
    images = [
        image(
            [(0, 0.9, box(2)), (1, 0.9, box(50)), (1, 0.8, box(30))],
            [(0, False, box(0)), (1, False, box(30)), (2, True, box(90))],
        ),
        image([], []),
    ]
    results = {}
    for mode in ("11points", "area"):
        metric = VOCDetectionMetric(eval_mode=mode)
        metric.dataset_meta = dict(classes=("circle", "square", "star"))
        metric.process({}, [sample(i) for i in images])
        results[mode] = metric.evaluate(len(images))
    # circle: 1 at four of ten thresholds; square: 1/2 at all; star: difficult only
    expected = {"voc/AP": 45, "voc/AP50": 75, "voc/AP75": 25, "voc/AP50_11point": 75}
    assert results["11points"] == pytest.approx(expected)
    assert results["area"] == pytest.approx(expected)
    assert "No object of star in the ground truth" in log.text
    table = [line.split() for line in log.text.splitlines()]
    assert ["square", "1", "2", "50.0", "50.0", "50.0"] in table
    with pytest.raises(ValueError, match="'12points'"):
        VOCDetectionMetric(eval_mode="12points")
    metric.process({}, [sample(image([(0, 0.9, box(2))], []))])  # without any object
    assert np.isnan(list(metric.evaluate(1).values())).all()


# --- the data set ---------------------------------------------------------------------


def test_voc_boxes_are_continuous_and_difficult_objects_train(tmp_path):
    root = voc_set(tmp_path)
    write_xml(root, xml(("cat", (1, 3, 40, 20)), ("dog", (1, 3, 40, 20), 1)), [0])
    write_xml(root, xml(), [1])
    (root / "list.txt").write_text("0\n1\n")
    options = dict(data_root=str(root), data_prefix=dict(sub_data_root="VOC2007/"))
    options |= dict(ann_file="list.txt", filter_cfg=dict(filter_empty_gt=True))

    training = VOCDetectionDataset(**options)
    test = VOCDetectionDataset(**options, test_mode=True)
    assert (len(training), len(test)) == (1, 2)  # empty images are for the test only
    for data, flags in ((training, [0, 0]), (test, [0, 1])):
        instances = data.get_data_info(0)["instances"]
        assert [i["bbox"] for i in instances] == [[0, 2, 40, 20]] * 2
        assert [i["ignore_flag"] for i in instances] == flags
    assert test.get_data_info(0)["img_path"].endswith("/JPEGImages/0.jpg")
    other = VOCDetectionDataset(**options, img_suffix=".png").get_data_info(0)
    assert other["img_path"] == f"{root}/VOC2007/JPEGImages/0.png"


# --- the configs ----------------------------------------------------------------------


def load(name, **options):
    return load_config(FOLDER / f"{name}.py", options)


def lr_at(cfg, iterations):
    """Learning rates of a schedule, by mmengine's own schedulers."""
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=cfg.optim_wrapper.optimizer.lr)
    made = dict(optimizer=optimizer)
    schedulers = [
        PARAM_SCHEDULERS.build(s, default_args=made) for s in cfg.param_scheduler
    ]
    rates = {}
    for iteration in range(max(iterations) + 1):
        rates[iteration] = optimizer.param_groups[0]["lr"]
        for scheduler in schedulers:
            scheduler.step()
    return [rates[i] for i in iterations]


def coco(iterations, lr=0.02):
    milestones = [iterations * 2 // 3, iterations * 8 // 9]
    return iterations, 16, lr, milestones, 1000, (640, 800, 6), 1333, 800, "bbox_mAP"


# Iterations, images, lr, milestones, warm-up, short sides, longest, test, metric.
VOC = 24000, 16, 0.02, [18000, 22000], 100, (480, 800, 11), 1333, 800, "AP"
PROTOCOLS = {
    "faster_rcnn_r50_c4_voc0712": VOC,
    "faster_rcnn_r50_fpn_voc0712": VOC,
    "mask_rcnn_r50_c4_coco_1x": coco(90000),
    "mask_rcnn_r50_fpn_coco_1x": coco(90000),
    "fcos_r50_fpn_coco_1x": coco(90000, 0.01),
    "retinanet_r50_fpn_coco_1x": coco(90000, 0.01),
    "mask_rcnn_r50_fpn_cityscapes": (
        *(24000, 8, 0.01, [18000], 1000, (800, 1024, 8), 2048, 1024, "segm_mAP"),
    ),
}
# The schedule of twice the length is a command.
TWICE = dict(max_iters=180000, val_interval=30000)
CASES = [(name, {}, found) for name, found in PROTOCOLS.items()]
CASES += [(f"mask_rcnn_r50_{x}_coco_1x", TWICE, coco(180000)) for x in ("c4", "fpn")]


def test_every_config_has_its_protocol_here():
    assert set(PROTOCOLS) == set(NAMES)


@pytest.mark.parametrize(("name", "options", "protocol"), CASES)
def test_the_config_keeps_the_protocol(name, options, protocol):
    its, images, lr, milestones, warmup, sides, longest, test, headline = protocol
    cfg = load(name, **options)
    assert cfg.train_cfg.max_iters == its
    assert its % cfg.train_cfg.val_interval == 0
    assert cfg.train_dataloader.batch_size * 8 == images
    assert cfg.auto_scale_lr.base_batch_size == images
    points = [0, warmup // 2, warmup, milestones[0] - 1]
    rates = lr_at(cfg, [*points, *milestones, its - 1])
    assert rates[0] == pytest.approx(lr / 1000)
    assert rates[1] == pytest.approx(lr / 2, rel=0.03)
    assert rates[2:4] == pytest.approx([lr, lr])
    expected = [lr / 10 ** (i + 1) for i in range(len(milestones))]
    assert rates[4:-1] == pytest.approx(expected)
    assert cfg.optim_wrapper.get("clip_grad") is None
    assert cfg.optim_wrapper.optimizer.weight_decay == 1e-4

    train_data = cfg.train_dataloader.dataset
    pipeline = train_data.get("datasets", [train_data])[0].pipeline
    scales = next(t for t in pipeline if t["type"] == "RandomChoiceResize")["scales"]
    assert (scales[0][1], scales[-1][1], len(scales)) == sides
    assert {scale[0] for scale in scales} == {longest}
    test_pipeline = cfg.test_dataloader.dataset.pipeline
    resize = next(t for t in test_pipeline if t["type"] == "Resize")
    assert resize.scale == (longest, test)
    for steps in (pipeline, test_pipeline):
        step = next(t for t in steps if t["type"] == "LoadAnnotations")
        assert step.get("with_mask", False) == ("mask" in name)
    metric = next(iter(cfg.default_hooks.result.metrics.values()))
    assert metric == f"{'voc' if protocol is VOC else 'coco'}/{headline}"
    backbone = cfg.model.backbone
    settings = backbone.frozen_stages, backbone.norm_eval, backbone.style
    assert settings == (-1, False, "pytorch")
    assert cfg.sync_bn == "torch" and backbone.norm_cfg.type == "BN"
    text = (FOLDER / f"{name}.py").read_text()
    assert "Published" in text or "Nobody publishes" in text


def test_voc_layouts_of_other_years_and_classes_by_options_alone():
    cfg = load("faster_rcnn_r50_fpn_voc0712")
    lists = [d.ann_file for d in cfg.train_dataloader.dataset.datasets]
    assert lists == [f"VOC20{y}/ImageSets/Main/trainval.txt" for y in ("07", "12")]
    assert cfg.model.roi_head.bbox_head.num_classes == 20
    classes = ("RBC", "WBC", "Platelets")
    options = dict(classes=classes, data_root="cells", max_iters=240)
    options |= dict(train_splits=(("VOC2007", "train"),), test_split=("VOC2007", "val"))
    options |= dict(short_sides=(320,), test_size=300, max_size=640)
    cfg = load("faster_rcnn_r50_fpn_voc0712", **options, depth=18, base_channels=32)
    [data] = cfg.train_dataloader.dataset.datasets
    assert data.ann_file == "VOC2007/ImageSets/Main/train.txt"
    assert data.data_root == "cells"
    assert data.metainfo.classes == classes
    assert len(data.metainfo.palette) == 3
    assert cfg.val_dataloader.dataset.ann_file == "VOC2007/ImageSets/Main/val.txt"
    assert cfg.model.roi_head.bbox_head.num_classes == 3
    assert cfg.model.neck.in_channels == [32, 64, 128, 256]
    assert cfg.param_scheduler[1].milestones == [180, 220]
    assert cfg.param_scheduler[0].end == 24 and cfg.train_cfg.val_interval == 60


def test_the_two_fpn_variants_differ_in_the_heads_only():
    name = "mask_rcnn_r50_fpn_coco_1x"
    a, b = (load(name, fpn_variant=v).model for v in "AB")
    assert a.roi_head.bbox_head.type == "Shared2FCBBoxHead"
    assert b.roi_head.bbox_head.type == "Shared4Conv1FCBBoxHead"
    for model, norm in ((a, None), (b, "BN")):
        heads = model.roi_head.bbox_head, model.roi_head.mask_head
        assert [(h.get("norm_cfg") or {}).get("type") for h in heads] == [norm] * 2
    a.pop("roi_head"), b.pop("roi_head")
    assert a == b


@pytest.mark.parametrize("name", [n for n in NAMES if "c4" in n])
def test_c4_has_the_settings_of_detectron2(name):
    model = load(name).model
    anchors = model.rpn_head.anchor_generator
    assert [s * anchors.strides[0] for s in anchors.scales] == [32, 64, 128, 256, 512]
    roi = model.roi_head.bbox_roi_extractor.roi_layer
    assert (roi.output_size, roi.sampling_ratio) == (14, 0)
    proposals, tested = model.train_cfg.rpn_proposal, model.test_cfg.rpn
    assert (proposals.nms_pre, tested.nms_pre) == (12000, 6000)
    assert (proposals.max_per_img, tested.max_per_img) == (2000, 1000)
    sampler = model.train_cfg.rcnn.sampler
    assert (sampler.num, sampler.pos_fraction) == (512, 0.25)
    assert model.roi_head.shared_head.init_cfg.absent == ("norm",)
