"""Ground truth and prediction drawn on the first images of each validation."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.structures import InstanceData, PixelData

from mmssl_ext.files import write_text
from mmssl_ext.registry import HOOKS
from mmssl_ext.unwrap import unwrap

from ..pictures.images import to_pixels
from ..predictions import (
    FOLDER,
    INDEX,
    add_legends,
    colours_of,
    draw_instances,
    draw_map,
)

_SHORT, _LONG, _GAP = 288, 1024, 6  # pixels: legible, and no file of many megabytes


@HOOKS.register_module()
class PicturesHook(Hook):
    """Draw the first images with ground truth (left) and prediction (right).

    The pictures of the newest validation or test are
    ``work_dir/predictions/<i>.png``, with the classes of the colours below each side;
    ``index.json`` beside them names their images. Small images are enlarged, with
    their boxes and masks, so that lines do not hide them. Samples without instances or
    semantic maps are left out, and what cannot be drawn is a warning, never the end of
    the run.

    Args:
        num_images: Number of images, the first of the data set.
        score_thr: Boxes below this score are not drawn.
    """

    def __init__(self, num_images: int = 8, score_thr: float = 0.3) -> None:
        self.num_images = num_images
        self.score_thr = score_thr
        self._drawn: list[dict[str, Any]] = []
        self._failed = False

    def before_val_epoch(self, runner: Any) -> None:
        """Start anew."""
        self._drawn = []

    before_test_epoch = before_val_epoch

    def after_val_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Draw until there are enough pictures."""
        if self._failed or not is_main_process():
            return
        for sample in outputs or ():
            if len(self._drawn) >= self.num_images:
                return
            try:
                self._draw(runner, sample)
            except Exception as error:
                self._failed = True  # once is enough to read
                runner.logger.warning(
                    f"PicturesHook: the predictions could not be drawn "
                    f"({type(error).__name__}: {error}); the run goes on without."
                )
                return

    after_test_iter = after_val_iter

    def _draw(self, runner: Any, sample: Any) -> None:
        if not ("pred_instances" in sample or "pred_sem_seg" in sample):
            return
        image = _pixels(sample.img_path, unwrap(runner.model).data_preprocessor)
        factor = max(1.0, np.ceil(_SHORT / min(image.shape[:2])))
        factor = min(factor, _LONG / max(image.shape[:2]))
        shape = tuple(max(round(side * factor), 1) for side in image.shape[:2])
        large = mmcv.imresize(image, shape[::-1], interpolation="bicubic")
        drawn = enlarged(sample.cpu(), shape, factor)
        folder = Path(runner.work_dir, FOLDER)
        folder.mkdir(exist_ok=True)
        file = folder / f"{len(self._drawn)}.png"
        panels = self._panels(large, drawn, runner.visualizer.dataset_meta)
        gap = np.full((len(panels[0]), _GAP, 3), 255, np.uint8)
        joined = [part for panel in panels for part in (gap, panel)][1:]
        mmcv.imwrite(np.concatenate(joined, axis=1)[..., ::-1], str(file))
        entry: dict[str, Any] = {"file": file.name, "image": Path(sample.img_path).name}
        entry |= {"panels": len(panels), "gap": _GAP}
        self._drawn.append(entry | {"legend": len(panels[0]) - shape[0]})
        index = json.dumps({"pictures": self._drawn}, indent=1)
        write_text(folder / INDEX, index + "\n")

    def _panels(
        self, image: np.ndarray, sample: Any, meta: Mapping[str, Any] | None
    ) -> list[np.ndarray]:
        """Truth, where it is known, and prediction, each above its legend."""
        meta = meta or {}
        if "pred_sem_seg" in sample:
            keys = [key for key in ("gt_sem_seg", "pred_sem_seg") if key in sample]
            parts = [sample.get(key).data[0].numpy() for key in keys]
            labels = [np.unique(values).tolist() for values in parts]
            draw: Callable = draw_map
            palette = meta.get("palette")
        else:
            keys = [key for key in ("gt_instances", "pred_instances") if key in sample]
            parts = [sample.get(key) for key in keys]
            if "scores" in parts[-1]:
                parts[-1] = parts[-1][parts[-1].scores >= self.score_thr]
            labels = [part.labels.tolist() for part in parts]
            draw, palette = draw_instances, None
        names = _names(meta, labels)
        colours = colours_of(set().union(*labels), len(names), palette)
        panels = [draw(image, part, colours) for part in parts]
        return add_legends(panels, labels, names, colours)


def _names(meta: Mapping[str, Any], labels: Sequence[Sequence[int]]) -> Sequence[str]:
    """The classes of the data set, numbers where it has no names."""
    count = 1 + max((label for some in labels for label in some), default=0)
    return meta.get("classes") or [f"class {i}" for i in range(count)]


def _pixels(path: str, preprocessor: Any) -> np.ndarray:
    """The image as it is drawn, uint8 RGB; of bands as other pictures show them."""
    if getattr(preprocessor, "bands", None) is None:
        return mmcv.imread(path, channel_order="rgb")
    values = torch.from_numpy(preprocessor.decode({"img_path": path})["img"])
    return to_pixels(values.movedim(-1, 0), preprocessor)


def enlarged(sample: Any, shape: tuple[int, ...], factor: float) -> Any:
    """Copy a data sample of mmdet or mmseg for an image scaled to ``shape`` (H, W)."""
    copy = type(sample)(metainfo=sample.metainfo)
    for name in ("gt_instances", "pred_instances"):
        if name in sample:
            found = sample.get(name)
            kept = {n: found.get(n) for n in ("labels", "scores") if n in found}
            drawn = InstanceData(**{n: torch.as_tensor(v) for n, v in kept.items()})
            if "bboxes" in found:
                boxes = getattr(found.bboxes, "tensor", found.bboxes)
                drawn.bboxes = torch.as_tensor(boxes, dtype=torch.float32) * factor
            if "masks" in found:
                masks = found.masks
                masks = masks.to_ndarray() if hasattr(masks, "to_ndarray") else masks
                drawn.masks = _nearest(masks, shape).bool()
            setattr(copy, name, drawn)
    for name in ("gt_sem_seg", "pred_sem_seg"):
        if name in sample:
            maps = _nearest(sample.get(name).data, shape)
            setattr(copy, name, PixelData(data=maps))
    return copy


def _nearest(maps: Any, shape: tuple[int, ...]) -> torch.Tensor:
    """Resize maps, ... x H x W, to N x h x w without mixing values."""
    maps = torch.as_tensor(maps)
    maps = maps.reshape(-1, *maps.shape[-2:])
    rows, columns = (
        torch.arange(new) * old // new
        for new, old in zip(shape, maps.shape[1:], strict=True)
    )
    return maps[:, rows[:, None], columns]
