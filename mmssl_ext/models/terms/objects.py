"""Objects that two views show, found among those of all images (CCOP)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from mmengine.dist import get_world_size
from torch import Tensor, nn

from mmssl_ext.datasets.transforms.objects import Objects
from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from ..layers import mean_of_all, pool_boxes, unit
from ..layers.roi import padded, require_objects
from ..losses import info_nce
from ..memory import KeyQueue
from ..necks.dropout import DropoutNeck
from ..part import Features, build_part, check_positive, is_count, is_number
from .base import QUEUE_LEN, Term
from .box_noise import BoxNoise, noisy_boxes

if TYPE_CHECKING:
    from ..algorithms.method import Method, Step

_ROWS = 4096  # boxes of the targets that are pooled at once


@MODELS.register_module()
class ObjectContrast(Term):
    """Each object must pick its box in the other view out of a queue of objects.

    The box is moved at random first, J times, the more the longer the training has
    gone; of the copies that still overlap enough, and the box itself, that one is the
    positive which the object resembles least. Boxes are pooled from a feature pyramid
    (FPN), which is trained with the backbone. The noise follows from the step. All
    objects count alike, whatever image and rank they are of.

    Args:
        fpn: Config of the pyramid, mmdet's ``FPN`` on maps of the backbone from the
            finest to the last.
        roi_size: Side S of what a box is pooled to.
        hid_channels: Hidden width of the head on it.
        dropout: In the head.
        temperature: T; None is that of the base, 0.2 where that has none.
        queue_len: Keys K; None is the length of the base's queue, 4096 without one.
        copies: J.
        shift: Range of a centre's offset, in units of the box's sides; a number or a
            schedule, by default 0.15 to 0.6 over the training.
        scale: Range of the logarithm of a side's factor, likewise; 0.35 to 1.4.
        min_iou: Overlap with the box itself that a copy must have; 0.8 to 0.4.
        limits: Square root of the area, in cells of the finest map, up to which a box
            belongs to each level but the last. The paper's 48, 96 and 192 pixels are
            12, 24 and 48 cells of 4 pixels.
        weight: See :class:`Term`.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: An option is out of its range, or the backbone has not the levels.
    """

    name = "roi"
    always = True
    needs_features = True
    needs_objects = True

    def __init__(
        self,
        fpn: dict,
        roi_size: int = 7,
        hid_channels: int = 2048,
        dropout: float = 0.1,
        temperature: float | None = None,
        queue_len: int | None = None,
        copies: int = 10,
        shift: Any = None,
        scale: Any = None,
        min_iou: Any = None,
        limits: Sequence[float] = (12, 24, 48),
        weight: Any = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(weight, init_cfg)
        self.temperature, self.queue_len = temperature, queue_len
        if not is_count(roi_size):
            raise UserValueError(
                f"roi_size={roi_size!r} of ObjectContrast must be a whole number above "
                "0."
            )
        self.roi_size = roi_size
        self.noise = BoxNoise(self.name, copies, shift, scale, min_iou)
        self.schedules = self.noise.schedules
        self.fpn = _pyramid(fpn)
        levels = len(self.fpn.in_channels)
        self.limits = tuple(limits) if isinstance(limits, Sequence) else ()
        rising = all(map(is_number, self.limits))
        rising = rising and sorted(self.limits) == list(self.limits)
        if len(self.limits) != levels - 1 or not rising:
            raise UserValueError(
                f"limits={limits!r} must be {levels - 1} rising sizes, one for each "
                f"of the {levels} levels of the fpn but the last."
            )
        self.head_options = hid_channels, dropout

    def attach(self, method: Method) -> None:
        """Make the head and the queue."""
        self.check_views(method)
        if self.temperature is None:
            self.temperature = getattr(method.compare, "temperature", 0.2)
        check_positive("temperature", self.temperature)
        channels = self.fpn.out_channels * self.roi_size**2
        self.roi_head = DropoutNeck(
            channels, self.head_options[0], method.dim, self.head_options[1]
        )
        base = method.negatives
        length = QUEUE_LEN if base is None else len(base)
        self.queue = KeyQueue(
            length if self.queue_len is None else self.queue_len, method.dim
        )

    def parts(self) -> dict[str, nn.Module]:
        """The pyramid and the head."""
        return {"fpn": self.fpn, "roi_head": self.roi_head}

    def features(self, encoder: Any, maps: Any, outputs: Any) -> Features:
        """Levels of the pyramid, ``level0`` (the finest) and so on, N x C x h x w."""
        wanted = list(self.fpn.in_channels)
        found = [x.shape[1] for x in maps]
        if found != wanted:
            raise UserValueError(
                f"The {type(encoder.backbone).__name__} returns maps of {found} "
                f"channels, but the fpn of ObjectContrast takes {wanted}: let "
                "backbone.out_indices name that many maps, such as (0, 1, 2, 3), and "
                "set fpn.in_channels to their channels."
            )
        levels = getattr(encoder, "fpn", self.fpn)(maps)
        return {f"level{i}": levels[i] for i in range(len(wanted))}

    def embed(
        self, encoder: Any, features: Features, boxes: Tensor, images: Tensor
    ) -> Tensor:
        """Embeddings of M boxes of a view, M x D unit rows."""
        head: Any = getattr(encoder, "roi_head", self.roi_head)
        levels = [features[f"level{i}"] for i in range(len(self.limits) + 1)]
        found = [
            head([pool_boxes(levels, *part, self.roi_size, self.limits).flatten(1)])[0]
            for part in zip(boxes.split(_ROWS), images.split(_ROWS), strict=True)
        ]
        return unit(torch.cat(found))

    def forward(self, method: Method, step: Step) -> Tensor:
        """Mean InfoNCE of the objects of all ranks, 0 where there are none."""
        objects = require_objects(step.objects, type(self).__name__)
        images, count = objects.images, float(len(objects.rows))
        losses = []
        generator = torch.Generator(objects.boxes.device)
        generator.manual_seed(method.clock.draw_seed)
        batch = len(step.online[method.pairs[0][0]]["projection"])
        for a, b in method.pairs:
            query, key = step.online[a], step.target[b]
            if "objects" not in query:
                query["objects"] = self.embed(
                    method, query, objects.boxes[:, a], images
                )
            o = query["objects"]  # M x D
            noise = self.noise.draw(objects, batch, generator)
            now = self.noise.now(method.clock)
            boxes, valid = noisy_boxes(objects.boxes[:, b], noise, *now)
            with torch.no_grad():
                near = images.repeat_interleave(boxes.shape[1])
                keys = self.embed(method.target_encoder, key, boxes.flatten(0, 1), near)
                keys = keys.detach().view(
                    *valid.shape, keys.shape[1]
                )  # M x (J + 1) x D
                similarity = (keys @ o.detach().to(keys)[..., None])[..., 0]
                hard = (similarity + 5 * ~valid).argmin(1)  # M
                chosen = keys[torch.arange(len(keys), device=keys.device), hard]
            key["objects"], key["hard_objects"] = keys[:, -1], chosen
            assert self.temperature is not None
            loss = info_nce(o, chosen, self.queue.keys, self.temperature)
            losses.append(mean_of_all(loss.sum(), loss.new_full((), count)))
        step.figures["objects"] = loss.new_full((), count / batch)
        step.figures["valid_copies"] = valid.float().sum() / max(valid.numel(), 1)
        return method.over_pairs(losses)

    def collect(self, method: Method, step: Step) -> Features:
        """The chosen keys; on several ranks as many rows as objects can be."""
        objects = require_objects(step.objects, type(self).__name__)
        keys = [step.target[b]["hard_objects"] for b in method.target_views]
        if get_world_size() == 1:
            return {"keys": torch.cat(keys)}
        batch = len(step.target[method.pairs[0][1]]["projection"])
        rows = [padded(x, objects, batch) for x in keys]
        taken = padded(torch.ones_like(objects.rows, dtype=torch.bool), objects, batch)
        return {"keys": torch.cat(rows), "valid": taken.repeat(len(keys))}

    @torch.no_grad()
    def inspect(
        self, method: Method, inputs: list[Tensor], objects: Objects | None = None
    ) -> dict[str, Any]:
        """Boxes and their copies when the training begins and when it ends.

        Returns:
            ``objects`` (M x V x 4 in units of the views), ``images`` (of which image
            each is, M), and of the first and the last iteration ``copies`` (M x J x 4
            in the target view) and ``valid`` (M x J).
        """
        objects = require_objects(objects, type(self).__name__)
        generator = torch.Generator(objects.boxes.device).manual_seed(0)
        noise = self.noise.draw(objects, len(inputs[0]), generator)
        boxes = objects.boxes[:, method.pairs[0][1]]
        copies, valid = self.noise.at_both_ends(boxes, noise)
        found = {"objects": objects.boxes, "images": objects.images}
        return {**found, "copies": copies, "valid": valid}

    def remember(self, found: Features) -> None:
        """Let them be negatives from the next step on."""
        if "valid" in found:
            self.queue.enqueue_some(found["keys"], found["valid"])
        else:
            self.queue.enqueue(found["keys"])


def _pyramid(config: Any) -> Any:
    try:
        return build_part("fpn", config, nn.Module)
    except ModuleNotFoundError as error:
        if error.name != "mmcv._ext":
            raise
        raise UserValueError(
            "mmdet's FPN needs mmcv's ops to be imported: set custom_imports=dict("
            "imports=['mmssl_ext.transfer.detection']) in the config, or import that "
            "module first."
        ) from error
