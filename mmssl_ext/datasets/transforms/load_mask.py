"""The transform that loads the mask of an image's subject."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
from mmengine.logging import print_log

from mmssl_ext.registry import TRANSFORMS
from mmssl_ext.text import shown

from ..listing import some
from .coco_masks import CocoMasks
from .masks import SALIENCY, MaskError, MaskFolder, fitted
from .random import check_choice, image_size, is_rgb

_WAYS_OUT = (
    'make it, or set missing="keep" in LoadMask (missing_masks=keep) to leave such '
    "images as they are"
)


@TRANSFORMS.register_module()
class LoadMask:
    """Load the mask of the image's subject, for :class:`RandomBackground`.

    Writes ``results["mask"]``, H x W float32 of the upright image. Stands between
    DecodeImage and MakeViews: whatever cuts and mirrors a view afterwards, the mask
    follows it by the view's box (:mod:`.placing`).

    Args:
        masks: A folder of mask files (:class:`~.masks.MaskFolder`), a COCO file
            (``.json``), or the name of a method that needs no labels: ``"border"``,
            :func:`~.masks.border_saliency`.
        root: Folder of the images, by which those files know them.
        missing: An image without mask: ``"raise"`` an error, or ``"keep"`` its
            background in all views.

    Raises:
        MaskError: A mask is missing, of another shape than its image, or no mask.
    """

    keeps_box = True

    def __init__(self, masks: str, root: str = "", missing: str = "raise") -> None:
        check_choice("LoadMask: missing", missing, "raise", "keep")
        self.missing, self.masks = missing, str(masks)
        self._source: Any = None
        if self.masks not in SALIENCY:
            kind = CocoMasks if self.masks.endswith(".json") else MaskFolder
            self._source = kind(self.masks, root)

    def check_images(self, paths: Iterable[str]) -> None:
        """Look whether the images of a set have masks, before any of them is read."""
        if self._source is None:
            return
        paths = list(paths)
        if not (lacking := self._source.lacking(paths)):
            return
        names = some(lacking, quote="'")
        text = (
            f"{len(lacking):,} of {len(paths):,} images have no mask in "
            f"'{shown(self.masks)}', {names}: there is not "
            f"{self._source.wanted(lacking[0])}"
        )
        if self.missing == "raise":
            raise MaskError(f"{text}; {_WAYS_OUT}.")
        print_log(
            f"{text}; they keep their backgrounds.",
            logger="current",
            level=logging.WARNING if len(lacking) == len(paths) else logging.INFO,
        )

    def digests(self) -> dict[str, str]:
        """Of what is read besides the images, by what it is."""
        if self._source is None:
            return {}
        return {f"masks ({os.path.basename(self.masks)})": self._source.digest()}

    def __call__(self, results: dict) -> dict:
        """Add ``results["mask"]``; None where the background is to be kept."""
        size, path = image_size(results["img"]), results["img_path"]
        if self._source is None:
            if not is_rgb(results["img"]):
                raise MaskError(
                    f'LoadMask(masks="{self.masks}") looks at colours, but the images '
                    "are read as bands; give masks in files."
                )
            mask = SALIENCY[self.masks](np.asarray(results["img"]))
        else:
            mask = self._source(path, size)
        if mask is None and self.missing == "raise":
            raise MaskError(
                f"There is no mask of '{shown(path)}' in '{shown(self.masks)}', that "
                f"is {self._source.wanted(path)}; {_WAYS_OUT}."
            )
        results["mask"] = None if mask is None else fitted(mask, path, size)
        return results
