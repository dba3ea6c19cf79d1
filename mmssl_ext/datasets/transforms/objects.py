"""Boxes of objects in an image, through crop and flip into its views.

Boxes are (x0, y0, x1, y1) with x0 < x1, edges: those of an image in units of its width
and height, those of a view in units of the view's, mirrored or not.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmssl_ext.errors import UserValueError
from mmssl_ext.files import sha256
from mmssl_ext.registry import TRANSFORMS

from ..proposals import ProposalError, Proposals
from .geometry import Box, RandomResizedCrop
from .placing import WHOLE, ViewBox, in_units, part_of
from .random import image_size


class Objects(NamedTuple):
    """The objects of a batch that all of its V views show, M in all.

    ``boxes`` are where each view shows them, M x V x 4, in units of the view; ``rows``
    the image of each, times ``most``, plus its number there: M, rising; ``most`` the
    objects that an image can have.
    """

    boxes: Tensor
    rows: Tensor
    most: int

    @property
    def images(self) -> Tensor:
        """Number of each object's image in the batch, M."""
        return self.rows // self.most

    @classmethod
    def of(cls, padded: Tensor) -> Objects:
        """Objects of N x P x V x 4 boxes, NaN where an image has fewer than P.

        Of a batch on the CPU it waits for no device.
        """
        flat = padded.float().flatten(0, 1)  # NP x V x 4
        rows = (~flat.isnan().flatten(1).any(1)).nonzero()[:, 0]
        return cls(flat[rows], rows, padded.shape[1])


def visible(boxes: np.ndarray, view: ViewBox) -> tuple[np.ndarray, np.ndarray]:
    """What a view shows of the boxes of an image.

    Args:
        boxes: n x 4, in units of the image.
        view: Of the view (:mod:`.placing`).

    Returns:
        The boxes in the view, n x 4, cut at its edges; and the share of each one's area
        that is left, n.
    """
    start, end = np.array(view).reshape(2, 2)
    corners = (boxes.reshape(-1, 2, 2) - start) / (end - start)  # n x corner x (u, v)
    corners.sort(axis=1)  # of a mirrored view the left edge comes from the right one
    cut = corners.clip(0, 1)
    whole, left = ((c[:, 1] - c[:, 0]).prod(1) for c in (corners, cut))
    return cut.reshape(-1, 4), left / np.maximum(whole, 1e-12)


@TRANSFORMS.register_module()
class LoadProposals:
    """Give an image its object proposals, ``results["proposals"]``.

    n x 4, in units of the image, in the order of the file. Stands behind the decoder,
    whose image must have the size that the file says, and right before
    :class:`MakeViews`.

    Args:
        ann_file: Of ``tools/make_proposals.py``; see
            :class:`~mmssl_ext.datasets.proposals.Proposals`.
        root: Folder of the images, from which the names in it start.

    Raises:
        ProposalError: The file cannot be used, lists no box at all, or not the image.
    """

    keeps_box = True

    def __init__(self, ann_file: str, root: str = "") -> None:
        self.proposals = Proposals(ann_file, root)
        if not self.proposals.counts.any():
            raise ProposalError(
                f"'{ann_file}' lists {len(self.proposals)} images and no box in any; "
                "make proposals by another method of tools/make_proposals.py."
            )

    def digests(self) -> dict[str, str]:
        """Of what is read besides the images, by what it is."""
        path = self.proposals.ann_file
        return {f"proposals ({os.path.basename(path)})": sha256(path)[:32]}

    def __call__(self, results: dict) -> dict:
        """Add ``results["proposals"]``."""
        size = image_size(results["img"])
        boxes = self.proposals.relative(results["img_path"], size)
        results["proposals"] = boxes.astype(np.float64)
        results["view_box"] = WHOLE
        return results


@TRANSFORMS.register_module()
class ObjectCrop(RandomResizedCrop):
    """``RandomResizedCrop``, drawn again until it shows an object (CCOP).

    An object counts where more than ``min_visible`` of its area is inside. After
    ``tries`` draws that show none the one with the most of an object is taken, in an
    image without objects the first. Reads ``results["proposals"]``.

    Args:
        size: As for :class:`RandomResizedCrop`, like ``scale`` and ``ratio``.
        scale: See there.
        ratio: See there.
        min_visible: Share of an object's area.
        tries: Draws at most.
    """

    keeps_box = True

    def __init__(
        self,
        size: int | Sequence[int],
        scale: Sequence[float] = (0.1, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        min_visible: float = 0.6,
        tries: int = 10,
    ) -> None:
        super().__init__(size, scale, ratio)
        self.min_visible = check_share("ObjectCrop", min_visible)
        if type(tries) is not int or tries < 1:
            raise UserValueError(
                f"ObjectCrop: tries={tries!r} must be a whole number above 0."
            )
        self.tries = tries

    def __call__(self, results: dict) -> dict:
        """Draw, and draw again; cut and resize."""
        boxes = _proposals(results, "ObjectCrop")
        img, outer = results["img"], results.get("view_box", WHOLE)
        size, best, most = image_size(img), None, -1.0
        for _ in range(self.tries):
            params: Box = self.draw(results["rng"], size)
            crop = part_of(outer, in_units(params, size))
            shown = visible(boxes, crop)[1].max(initial=0.0)
            if shown > most:
                best, most = params, shown
            if most > self.min_visible or not len(boxes):
                break
        assert best is not None
        results["img"] = self.apply(img, best)
        if "view_box" in results:
            results["view_box"] = part_of(outer, self.locate(best, size))
        return results


@TRANSFORMS.register_module()
class PlaceProposals:
    """Find the proposals that all views show, and where (CCOP).

    Reads ``results["proposals"]`` and the views of :class:`MakeViews`; stands behind
    it. Writes ``results["objects"]``, float32 P x V x 4: boxes in units of each view,
    cut at its edges, in the order of the proposals; NaN behind the last one.

    Args:
        min_visible: Share of a box's area that every view must show more of.
        min_side: Square root of the area, in pixels, that a box must have more of in
            every view.
        max_boxes: P; of more boxes the first ones are kept.

    Raises:
        ValueError: An option is out of its range; the place of a view is not known.
    """

    def __init__(
        self, min_visible: float = 0.6, min_side: float = 12, max_boxes: int = 50
    ) -> None:
        self.min_visible = check_share("PlaceProposals", min_visible)
        if not isinstance(min_side, (int, float)) or not min_side >= 0:
            raise UserValueError(
                f"PlaceProposals: min_side={min_side!r} is a number of pixels."
            )
        self.min_side = min_side
        self.max_boxes = check_boxes("PlaceProposals", max_boxes)

    def __call__(self, results: dict) -> dict:
        """Add ``results["objects"]``."""
        boxes = _proposals(results, "PlaceProposals")
        if "views" not in results or results.get("view_box", WHOLE) != WHOLE:
            raise UserValueError(
                "PlaceProposals finds boxes of the image that MakeViews cuts: let the "
                "pipeline go on from LoadProposals to MakeViews and PlaceProposals, "
                "and leave out what crops in between."
            )
        kept, placed = np.ones(len(boxes), bool), []
        for number, (view, place) in enumerate(results["view_boxes"], 1):
            if np.isnan(place).any():
                raise UserValueError(
                    f"PlaceProposals: where view {number} was cut is not known: leave "
                    "out CutPatches, and set keeps_box = True on a transform of your "
                    "own if it moves no pixel or calls move_box."
                )
            cut, share = visible(boxes, place)
            sides = (cut[:, 2:] - cut[:, :2]) * image_size(view)
            kept &= (share > self.min_visible) & (sides.prod(1) > self.min_side**2)
            placed.append(cut)
        found = np.stack(placed, 1)[kept][: self.max_boxes]  # n x V x 4
        padded = np.full((self.max_boxes, *found.shape[1:]), np.nan, np.float32)
        padded[: len(found)] = found
        results["objects"] = torch.from_numpy(padded)
        return results


def _proposals(results: dict, who: str) -> np.ndarray:
    """Boxes of the image, n x 4, in its units."""
    if "proposals" not in results:
        raise UserValueError(
            f"{who} needs the image's proposals: put LoadProposals behind the decoder."
        )
    return results["proposals"]


def check_share(owner: str, share: Any) -> float:
    """Return a share of an area if it is one."""
    if not isinstance(share, (int, float)) or not 0 <= share < 1:
        raise UserValueError(
            f"{owner}: min_visible={share!r} is a share of an area; set it from 0 to "
            "below 1."
        )
    return float(share)


def check_boxes(owner: str, number: Any) -> int:
    """Return a number of boxes if it is one."""
    if type(number) is not int or number < 1:
        raise UserValueError(
            f"{owner}: max_boxes={number!r} must be a whole number above 0."
        )
    return number
