"""Several views of one decoded image, and the item that the model receives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmpretrain.structures import DataSample
from PIL import Image

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import TRANSFORMS

from .patches import CutPatches
from .placing import UNKNOWN, WHOLE, keeps_box, move_box
from .random import check_choice, image_size, is_rgb


@TRANSFORMS.register_module()
class MakeViews:
    """Cut all views from the one decoded image.

    Reads ``results["img"]`` and writes ``results["views"]``, a list with one image, or
    the patches of :class:`CutPatches`, per view. View v has a random generator of
    its own, so it does not depend on the other views.

    With ``augment_on="device"`` the last transforms of a view are left to the device,
    which changes whole batches: as many as have a ``device_name``, counted from the
    end of the view. A transform of your own has none, so it and all before it stay
    here. The parameters are drawn here all the same, and are the same; they go to
    ``results["augment"]``: per view a dict from name to encoded parameters, in the
    order of application. Bands (:class:`DecodeBands`) are changed here all the same.

    Where in the image each view was cut is written to ``results["view_boxes"]``, as
    pairs of a view and its box (:mod:`.placing`), a flip that is left to the device
    included. The box is NaN for patches, and where a transform of your own does not say
    by ``keeps_box = True`` that it moves no pixel, or that it calls ``move_box``.

    Args:
        views: The transforms of each view: a list of lists.
        augment_on: ``"worker"``, or ``"device"`` for the model's preprocessor.

    Raises:
        ValueError: ``views`` is no such list, a transform follows CutPatches, or the
            device has nothing to do in a view, or one operation twice.
    """

    def __init__(
        self, views: Sequence[Sequence[Any]], augment_on: str = "worker"
    ) -> None:
        if not views or any(isinstance(v, dict) or callable(v) for v in views):
            raise UserValueError(
                f"MakeViews: views={views!r} must be a list with a list of transforms "
                "per view."
            )
        check_choice("MakeViews: augment_on", augment_on, "worker", "device")
        self.pipelines = [
            [TRANSFORMS.build(t) if isinstance(t, dict) else t for t in view]
            for view in views
        ]
        for pipeline in self.pipelines:
            if any(isinstance(t, CutPatches) for t in pipeline[:-1]):
                raise UserValueError(
                    "MakeViews: CutPatches turns the image into a list of patches, "
                    "which no other transform takes; put it last in its view."
                )
        # Per view, how many transforms run here; the rest is for the device.
        self._kept = [len(pipeline) for pipeline in self.pipelines]
        if augment_on == "device":
            self._kept = [_tail(v, p) for v, p in enumerate(self.pipelines)]
        self._placed = [all(map(keeps_box, pipeline)) for pipeline in self.pipelines]

    def __call__(self, results: dict) -> dict:
        """Add ``results["views"]`` and, if the device has to work, ``"augment"``."""
        made, augment = [], []
        here = not is_rgb(results["img"])
        for number, pipeline in enumerate(self.pipelines):
            rng = results["sample_seed"].view(number)
            inner = {**results, "rng": rng, "view_box": WHOLE}
            kept = len(pipeline) if here else self._kept[number]
            for transform in pipeline[:kept]:
                inner = transform(inner)
            encoded, size = {}, image_size(inner["img"])
            for transform in pipeline[kept:]:
                params = transform.draw(rng, size)
                encoded[transform.device_name] = transform.encode(params)
                if params is not None:
                    move_box(inner, transform.locate(params, size))
            placed = self._placed[number]
            made.append((inner["img"], inner.get("view_box") if placed else None))
            augment.append(encoded)
        results["views"] = [view for view, _ in made]
        results["view_boxes"] = [(view, box or UNKNOWN) for view, box in made]
        if any(augment):
            results["augment"] = augment
        return results


def _tail(number: int, pipeline: list[Any]) -> int:
    """Index of the first transform after which all have a device version."""
    start = len(pipeline)
    while start and getattr(pipeline[start - 1], "device_name", None):
        start -= 1
    if start == len(pipeline):
        last = [getattr(t, "__name__", type(t).__name__) for t in pipeline][-1:]
        raise UserValueError(
            f'MakeViews: augment_on="device" has nothing to move to the device in view '
            f"{number}, since it ends with {last}. Let it end with transforms that "
            'have a device version, e.g. RandomFlip, or set augment_on="worker".'
        )
    names = [t.device_name for t in pipeline[start:]]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserValueError(
            f'MakeViews: augment_on="device" applies an operation once, but view '
            f"{number} has {min(twice)} more than once. Leave one out, or set "
            'augment_on="worker".'
        )
    return start


def to_tensor(img: np.ndarray | Image.Image) -> torch.Tensor:
    """Return one image as C x H x W or several as P x C x H x W, of the same type.

    Of an array no copy is made: the channels stay next to each other in memory.
    """
    # A copy only of what torch cannot hold, e.g. of a mirrored or read-only array.
    array = np.require(np.asarray(img), requirements=["C", "W"])
    return torch.from_numpy(array).movedim(-1, -3)


@TRANSFORMS.register_module()
class PackViews:
    """Pack ``dict(inputs=..., data_samples=DataSample)``.

    ``inputs`` is a list of tensors, uint8 RGB or float32 bands, one per view, or a
    single tensor for a pipeline without :class:`MakeViews`: C x H x W of an image,
    P x C x H x W of P patches. The data sample holds ``sample_idx``, ``img_path``,
    ``skipped`` and, where labelled, ``gt_label``. If MakeViews left work to the device,
    the item also has ``augment``: per view a dict from the operation's name to its
    parameters, float32.

    Besides, the item has ``index``, the ``sample_idx`` as a number, and with MakeViews
    ``boxes``, float32 V x 4: where in the image each of the V views was cut
    (:mod:`.placing`), NaN where that is not known; and ``objects``, where a transform
    has found some (:class:`PlaceProposals`).

    Args:
        geometry: False leaves these out, for a preprocessor that
            takes ``inputs`` and ``data_samples`` only, as mmpretrain's
            ``SelfSupDataPreprocessor`` does.
    """

    def __init__(self, geometry: bool = True) -> None:
        self.geometry = geometry

    def __call__(self, results: dict) -> dict:
        """Return the item."""
        meta = {k: results[k] for k in ("sample_idx", "img_path", "skipped")}
        data_sample = DataSample(metainfo=meta)
        if "gt_label" in results:
            data_sample.set_gt_label(results["gt_label"])
        if "views" in results:
            inputs: Any = [to_tensor(view) for view in results["views"]]
        else:
            inputs = to_tensor(results["img"])
        item = {"inputs": inputs, "data_samples": data_sample}
        if self.geometry:
            item["index"] = int(results["sample_idx"])
            if "view_boxes" in results:
                known = {id(view): box for view, box in results["view_boxes"]}
                rows = [known.get(id(view), UNKNOWN) for view in results["views"]]
                item["boxes"] = torch.tensor(rows, dtype=torch.float32)
            if "objects" in results:
                item["objects"] = results["objects"]
        if "augment" in results:
            item["augment"] = [
                {name: torch.from_numpy(params) for name, params in view.items()}
                for view in results["augment"]
            ]
        return item
