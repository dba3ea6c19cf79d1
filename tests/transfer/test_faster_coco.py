"""faster-coco-eval gives the figures of pycocotools, of boxes and of masks."""

import json

import numpy as np
import pytest
import torch
from pycocotools import mask as masks

from mmssl_ext.errors import ConfigError
from mmssl_ext.transfer.detection import CocoDetectionMetric

SIZE, CLASSES = (120, 160), ("disk", "square", "star")


def rectangle(box, rng):
    """A mask, H x W, of a box x y w h with a corner off."""
    found = np.zeros(SIZE, np.uint8)
    x, y, w, h = map(int, box)
    found[y : y + h, x : x + w] = 1
    found[y : y + h // 3, x : x + int(w * rng.uniform(0, 0.6))] = 0
    return found


def scenes(seed=0, images=12):
    """An annotation file and detections: crowds, misses, doubles, equal scores."""
    rng = np.random.default_rng(seed)
    truth = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": SIZE[0], "width": SIZE[1]}
            for i in range(images)
        ],
        "categories": [{"id": 7 - i, "name": name} for i, name in enumerate(CLASSES)],
        "annotations": [],
    }
    samples = []
    for image in range(images):
        rows = []
        for _ in range(rng.integers(0, 7)):
            x, y = rng.uniform(0, 80), rng.uniform(0, 50)
            w, h = rng.uniform(6, 70, 2)
            label = int(rng.integers(len(CLASSES)))
            rle = masks.encode(np.asfortranarray(rectangle((x, y, w, h), rng)))
            own = {
                "id": len(truth["annotations"]),
                "image_id": image,
                "category_id": 7 - label,
                "bbox": [x, y, w, h],
                "area": float(masks.area(rle)),
                "iscrowd": int(rng.random() < 0.15),
                "segmentation": {**rle, "counts": rle["counts"].decode()},
            }
            truth["annotations"].append(own)
            for _ in range(rng.integers(0, 4)):
                box = np.array([x, y, w, h]) + rng.normal(0, 3, 4)
                score = round(rng.random(), 1)
                rows.append((np.maximum(box, 1), score, label))
        boxes = np.array([r[0] for r in rows]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        found = {
            "bboxes": torch.tensor(boxes, dtype=torch.float),
            "scores": torch.tensor([r[1] for r in rows]),
            "labels": torch.tensor([r[2] for r in rows], dtype=torch.long),
            "masks": torch.tensor(
                np.array([rectangle(r[0], rng) for r in rows]).reshape(-1, *SIZE)
            ).bool(),
        }
        sample = {"img_id": image, "ori_shape": SIZE, "pred_instances": found}
        samples.append(sample)
    return truth, samples


def figures(path, samples, **options):
    metric = CocoDetectionMetric(str(path), ["bbox", "segm"], **options)
    metric.dataset_meta = {"classes": CLASSES}
    for sample in samples:
        metric.process({}, [sample])
    return metric.evaluate(len(samples))


@pytest.mark.parametrize(
    "options", [{"classwise": True}, {"proposal_nums": (1, 3, 100)}]
)
def test_the_figures_are_equal(options, tmp_path):
    pytest.importorskip("faster_coco_eval")
    truth, samples = scenes()
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    usual = figures(path, samples, **options)
    faster = figures(path, samples, faster=True, **options)
    assert 0.05 < usual["coco/bbox_mAP"] < 0.95
    assert 0.05 < usual["coco/segm_mAP"] < 0.95
    assert faster == usual
    assert figures(path, samples, **options) == usual  # pycocotools is back


@pytest.mark.parametrize("kind", ["images", "categories"])
def test_ids_that_are_texts_are_left_to_pycocotools(kind, tmp_path):
    pytest.importorskip("faster_coco_eval")
    truth, samples = scenes(images=4)
    key = {"images": "image_id", "categories": "category_id"}[kind]
    for row in truth[kind]:
        row["id"] = f"a{row['id']}"
    for own in truth["annotations"]:
        own[key] = f"a{own[key]}"
    for sample in samples if kind == "images" else ():
        sample["img_id"] = f"a{sample['img_id']}"
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    assert figures(path, samples, faster=True) == figures(path, samples)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(
        "mmssl_ext.transfer.coco.find_spec", lambda name: None, raising=True
    )
    with pytest.raises(ConfigError, match=r"pip install 'mmssl_ext\[coco\]'"):
        CocoDetectionMetric(faster=True)
