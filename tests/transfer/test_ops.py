"""mmcv's ops on torchvision agree with loops written from their definitions.

With a compiled mmcv the same tests check that one, and the stand-in stays away.
"""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from torch.nn.functional import one_hot

from mmssl_ext.transfer import ops

STAND_IN = ops.install()
from mmcv.ops import (  # noqa: E402
    batched_nms,
    deform_conv2d,
    nms,
    roi_align,
    sigmoid_focal_loss,
)


def overlap(a, b, offset):
    """IoU of two boxes given as lists of numbers."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + offset
    height = min(a[3], b[3]) - max(a[1], b[1]) + offset
    inside = max(width, 0) * max(height, 0)
    area_a, area_b = ((x[2] - x[0] + offset) * (x[3] - x[1] + offset) for x in (a, b))
    return inside / (area_a + area_b - inside)


def slow_nms(boxes, scores, threshold, offset=0, labels=None):
    boxes, scores = boxes.tolist(), scores.tolist()
    labels = labels.tolist() if labels is not None else [0] * len(boxes)
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        same = [j for j in kept if labels[j] == labels[i]]
        if all(overlap(boxes[i], boxes[j], offset) <= threshold for j in same):
            kept.append(i)
    return kept


def random_boxes(count, size=40):
    corner = torch.rand(count, 2) * size
    boxes = torch.cat([corner, corner + torch.rand(count, 2) * size / 2 + 4], 1)
    boxes[1::2] = boxes[::2] + torch.rand(count // 2, 4)  # pairs nearly alike
    return boxes


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_nms(offset, threshold):
    boxes, scores = random_boxes(120), torch.rand(120)
    expected = slow_nms(boxes, scores, threshold, offset)
    assert 1 < len(expected) < 120
    found, kept = nms(boxes, scores, threshold, offset=offset)
    assert kept.tolist() == expected
    assert torch.equal(found, torch.cat([boxes, scores[:, None]], 1)[expected])
    top = nms(boxes, scores, threshold, offset=offset, score_threshold=0.5, max_num=3)
    assert top[1].tolist() == [i for i in expected if scores[i] > 0.5][:3]


def test_nms_decides_by_the_offset():
    # 10 x 10 boxes, one moved by 3: 70 of 130 without, 88 of 154 with the last pixel
    boxes = torch.tensor([[0.0, 0, 10, 10], [3, 0, 13, 10]])
    scores = torch.tensor([0.9, 0.8])
    assert overlap(*boxes.tolist(), 0) < 0.55 < overlap(*boxes.tolist(), 1)
    assert nms(boxes, scores, 0.55, offset=0)[1].tolist() == [0, 1]
    assert nms(boxes, scores, 0.55, offset=1)[1].tolist() == [0]


@pytest.mark.parametrize("split", [10000, 16])
def test_batched_nms_keeps_classes_apart(split):
    boxes = random_boxes(90)
    boxes[45:] = boxes[:45]  # the same places in another class
    scores, labels = torch.rand(90), torch.arange(90) // 45
    expected = slow_nms(boxes, scores, 0.4, labels=labels)
    found, kept = batched_nms(
        boxes, scores, labels, dict(type="nms", iou_threshold=0.4, split_thr=split)
    )
    assert kept.tolist() == expected
    assert torch.equal(found[:, :4], boxes[expected])
    together = batched_nms(
        boxes, scores, labels, dict(type="nms", iou_threshold=0.4), class_agnostic=True
    )
    assert together[1].tolist() == slow_nms(boxes, scores, 0.4)


def test_nms_without_boxes():
    found, kept = nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert found.shape == (0, 5) and kept.shape == (0,)


def bilinear_weights(y, x, height, width):
    """Weight of each cell of the map at a point; RoIAlign's rules at the border."""
    weights = torch.zeros(height, width, dtype=torch.float64)
    if y < -1 or y > height or x < -1 or x > width:
        return weights
    y, x = (min(max(v, 0.0), n - 1.0) for v, n in ((y, height), (x, width)))
    for row in range(height):
        for column in range(width):
            near = max(0.0, 1 - abs(y - row)), max(0.0, 1 - abs(x - column))
            weights[row, column] = near[0] * near[1]
    return weights


def roi_weights(roi, shape, out, scale, ratio, aligned):
    """out x out x height x width: what each cell adds to each bin of a region."""
    left, top, right, bottom = (v * scale - 0.5 * aligned for v in roi)
    sides = bottom - top, right - left
    if not aligned:
        sides = tuple(max(side, 1.0) for side in sides)
    bins = tuple(side / out for side in sides)
    grid = tuple(ratio or math.ceil(b) for b in bins)
    weights = torch.zeros(out, out, *shape, dtype=torch.float64)
    for i in range(out):
        for j in range(out):
            for iy in range(grid[0]):
                for ix in range(grid[1]):
                    y = top + (i + (iy + 0.5) / grid[0]) * bins[0]
                    x = left + (j + (ix + 0.5) / grid[1]) * bins[1]
                    weights[i, j] += bilinear_weights(y, x, *shape)
    return weights / max(grid[0] * grid[1], 1)


ROIS = [  # inside, over the border, outside, tiny, of no size
    [0, 4.3, 6.1, 30.9, 17.2],
    [1, -9.0, -5.5, 11.0, 48.0],
    [1, 70.0, 70.0, 90.0, 95.0],
    [0, 12.2, 13.1, 12.9, 13.3],
    [1, 20.0, 20.0, 20.0, 20.0],
]


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
def test_roi_align_forward_and_backward(aligned, ratio):
    features = torch.randn(2, 3, 9, 11, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor(ROIS, dtype=torch.float64)
    grad = torch.randn(len(ROIS), 3, 4, 4, dtype=torch.float64)
    weights = [roi_weights(roi[1:], (9, 11), 4, 0.25, ratio, aligned) for roi in ROIS]

    out = roi_align(features, rois, 4, 0.25, ratio, "avg", aligned)
    out.backward(grad)

    expected_grad = torch.zeros_like(features)
    for n, (roi, weight) in enumerate(zip(ROIS, weights, strict=True)):
        image = features.detach()[roi[0]]
        expected = torch.einsum("ijhw,chw->cij", weight, image)
        torch.testing.assert_close(out[n].detach(), expected)
        expected_grad[roi[0]] += torch.einsum("ijhw,cij->chw", weight, grad[n])
    torch.testing.assert_close(features.grad, expected_grad)
    assert out[0].abs().min() > 0 and out[2].abs().max() == 0


def test_roi_align_passes_gradcheck():
    features = torch.randn(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0, 1.1, 0.7, 9.3, 7.9]], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: roi_align(x, rois, 3, 0.5, 0, "avg", True), features
    )


@pytest.mark.skipif(not STAND_IN, reason="mmcv is compiled")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_comes_back_as_it_went_in(dtype):
    features = torch.randn(2, 3, 9, 11).to(dtype).requires_grad_()
    exact = features.detach().double().requires_grad_()
    rois = torch.tensor(ROIS[:1]).to(dtype)
    out = roi_align(features, rois, 4, 0.25, 0, "avg", True)
    wide = roi_align(exact, rois.double(), 4, 0.25, 0, "avg", True)
    out.sum().backward()
    wide.sum().backward()
    assert out.dtype == features.grad.dtype == dtype
    torch.testing.assert_close(out.double(), wide, atol=0.02, rtol=0.02)
    torch.testing.assert_close(features.grad.double(), exact.grad, atol=0.02, rtol=0.02)
    boxes, scores = torch.tensor([[0, 0, 9, 9], [1, 1, 9, 9]]), torch.tensor([0.5, 1])
    assert nms(boxes.float(), scores.to(dtype), 0.5)[1].tolist() == [1]


def focal(x, target, alpha, gamma):
    """Equation 5 of arXiv 1708.02002 for one logit."""
    p = 1 / (1 + math.exp(-x))
    if target:
        return -alpha * (1 - p) ** gamma * math.log(p)
    return -(1 - alpha) * p**gamma * math.log(1 - p)


@pytest.mark.skipif(not STAND_IN, reason="mmcv has this op for the GPU only")
@pytest.mark.parametrize("weighted", [False, True])
def test_sigmoid_focal_loss_forward_and_backward(weighted):
    alpha, gamma, step = 0.3, 1.7, 1e-5
    logits = (torch.randn(6, 4, dtype=torch.float64) * 3).requires_grad_()
    target = torch.tensor([0, 3, 4, 1, 4, 2])  # 4 is background
    weight = torch.tensor([0.5, 2.0, 3.0, 0.1]).double() if weighted else None
    loss = sigmoid_focal_loss(logits, target, gamma, alpha, weight, "none")
    loss.sum().backward()
    hits = one_hot(target, 5)[:, :4].tolist()
    for n, row in enumerate(logits.tolist()):
        # mmcv weighs a row by the class it belongs to
        factor = (*weight.tolist(), 1.0)[target[n]] if weighted else 1.0
        for c, x in enumerate(row):
            low, value, high = (
                factor * focal(x + d, hits[n][c], alpha, gamma)
                for d in (-step, 0, step)
            )
            assert loss[n, c].item() == pytest.approx(value, rel=1e-9)
            slope = (high - low) / (2 * step)
            assert logits.grad[n, c].item() == pytest.approx(slope, rel=1e-6, abs=1e-9)


def test_sigmoid_focal_loss_of_certain_logits_is_finite():
    if not STAND_IN:
        pytest.skip("mmcv has this op for the GPU only")
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.tensor([1]), 2.0, 0.25, None, "sum")
    loss.backward()
    assert loss.item() == pytest.approx(0.75 * 200 + 0.25 * 200)
    torch.testing.assert_close(logits.grad, torch.tensor([[0.75, -0.25]]))


@pytest.mark.skipif(not STAND_IN, reason="mmcv is compiled")
def test_other_ops_say_how_to_get_them():
    image, kernel = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 3, 3)
    with pytest.raises(NotImplementedError, match=r"deform_conv_forward.*pip install"):
        deform_conv2d(image, torch.zeros(1, 18, 2, 2), kernel)
    with pytest.raises(NotImplementedError, match=r"'max'.*compiled"):
        roi_align(image, torch.zeros(1, 5), 2, 1.0, 0, "max", True)


def test_a_compiled_extension_is_left_alone(monkeypatch):
    compiled = object()
    monkeypatch.setitem(sys.modules, ops.NAME, compiled)
    assert ops.install() is False
    assert sys.modules[ops.NAME] is compiled
    # not imported yet, but there
    monkeypatch.delitem(sys.modules, ops.NAME)
    monkeypatch.setattr(ops.importlib.util, "find_spec", lambda name: compiled)
    assert ops.install() is False
    assert ops.NAME not in sys.modules


@pytest.mark.skipif(not STAND_IN, reason="mmcv is compiled")
def test_mmdet_gets_the_ops_even_where_it_was_imported_without():
    # mmpretrain.models tries to import mmdet.models, which fails half-way and leaves
    # modules behind whose ops are dummies.
    code = (
        "import sys, mmpretrain.models\n"
        "name = 'mmdet.models.dense_heads.rpn_head'\n"
        "assert sys.modules[name].batched_nms.__module__ == name\n"
        "from mmssl_ext.transfer import ops\n"
        "assert ops.install()\n"
        "import mmdet.models, mmcv.ops\n"
        "assert sys.modules[name].batched_nms is mmcv.ops.batched_nms\n"
        "assert mmdet.models.RPNHead is mmdet.registry.MODELS.get('RPNHead')\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
