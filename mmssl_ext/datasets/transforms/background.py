"""Background augmentations: remove it, replace it, or put another subject before it.

After "Characterizing and Improving the Robustness of Self-Supervised Learning through
Background Augmentations" (arXiv 2103.12719), of which the abstracts were read: order,
probabilities, validity of masks and how backgrounds are made are reconstructions; see
``configs/bgaug/README.md``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from mmengine.logging import print_log
from torch.utils.data import get_worker_info

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import DATASETS, SCOPE, TRANSFORMS

from .decode import UnreadableImageError
from .fill import fill_hole
from .geometry import RandomResizedCrop, resize
from .placing import UNKNOWN
from .random import (
    check_choice,
    check_prob,
    check_range,
    image_size,
    on_array,
    uniform,
)

_TRIES = 5  # images that are tried as donors
_WATCHED = 64  # masks of which one must suit
_warned: set[tuple[float, float]] = set()  # of shares that no mask had
_datasets: WeakValueDictionary[str, Any] = WeakValueDictionary()
Share = Sequence[float]


def view_mask(results: Mapping[str, Any]) -> np.ndarray | None:
    """The mask of a view, h x w, cut and mirrored as the view was.

    Raises:
        UserValueError: There is no LoadMask, or nobody knows where the view was cut.
    """
    if "mask" not in results:
        raise UserValueError(
            "Backgrounds are changed by masks; put LoadMask between DecodeImage and "
            "MakeViews."
        )
    if (mask := results["mask"]) is None:
        return None
    box = results.get("view_box", UNKNOWN)
    if not np.isfinite(box).all():
        raise UserValueError(
            "Where the view was cut is not known, so its mask is not, either; put "
            "RandomBackground into a view of MakeViews, behind crops and flips of this "
            "package."
        )
    height, width = mask.shape
    x0, y0, x1, y1 = np.rint(np.array(box) * [width, height, width, height]).astype(int)
    left, upper, right, lower = min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)
    size = image_size(results["img"])
    cut = resize(mask[..., None], size[::-1], (left, upper, right, lower))
    cut = np.clip(np.asarray(cut)[..., 0], 0, 1)
    return cut[:: -1 if y0 > y1 else 1, :: -1 if x0 > x1 else 1]


def compose(img: np.ndarray, mask: np.ndarray, background: Any) -> np.ndarray:
    """The subject of an image before a background, in the image's type.

    Args:
        img: h x w x C.
        mask: h x w, the share of the subject.
        background: What goes with ``img``; a colour will do.
    """
    share = mask[..., None].astype(np.float32)
    mixed = share * img + (1 - share) * np.asarray(background, np.float32)
    return np.rint(mixed).astype(img.dtype) if img.dtype == np.uint8 else mixed


class _Donors:
    """Views of other images, with the masks of their subjects."""

    def __init__(self, dataset: Mapping[str, Any], scale: Share) -> None:
        if "type" not in dataset:
            raise UserValueError(
                "donors must be the config of a dataset with a type: donors=dict(type="
                "'ImageFolder', root=..., pipeline=[...])."
            )
        key = repr(dataset)  # several views of an image have one set of donors
        if (found := _datasets.get(key)) is None:
            kind = dataset["type"]
            if isinstance(kind, str) and "." not in kind:  # whichever toolbox runs
                kind = f"{SCOPE}.{kind}"
            found = _datasets[key] = DATASETS.build({**dataset, "type": kind})
        self.dataset = found
        self.scale = scale
        if len(self.dataset) < 2:
            raise UserValueError(
                "Backgrounds come from other images, but the dataset of donors has "
                f"only {len(self.dataset)}."
            )

    def view(
        self,
        rng: np.random.Generator,
        size: tuple[int, int],
        own: str,
        valid: Share | None,
    ) -> tuple[np.ndarray, Any] | None:
        """A crop of another image and its mask; None where none of a few suits.

        Args:
            rng: Draws the image and the crop.
            size: (width, height) of the crop.
            own: Path of the image that it is not to be.
            valid: Least and largest share of the subject; None takes any crop, which
                may have no mask then.
        """
        crop = RandomResizedCrop((size[1], size[0]), self.scale)
        for _ in range(_TRIES):
            index = int(rng.integers(len(self.dataset)))
            if self.dataset.get_data_info(index)["img_path"] == own:
                index = (index + 1) % len(self.dataset)
            try:
                found = self.dataset[index]
            except UnreadableImageError:
                continue
            found["rng"], found["view_box"] = rng, (0.0, 0.0, 1.0, 1.0)
            found = crop(found)
            mask = view_mask(found)
            if valid is None or _suits(mask, valid):
                return np.asarray(found["img"]), mask
        return None


def _suits(mask: np.ndarray | None, valid: Share) -> bool:
    return mask is not None and valid[0] <= float(mask.mean()) <= valid[1]


@TRANSFORMS.register_module()
class RandomBackground:
    """Change the background of a view with probability ``prob`` (BG_RM, BG_Random).

    ``c = m x + (1 - m) b`` with the view's mask m. Goes into a view of MakeViews behind
    crop and flip and before what changes colours. Unchanged stay views without a mask,
    and those of which the subject fills less or more than ``valid``.

    Args:
        mode: ``"remove"``: b is one gray level for the whole view, random unless
            ``level`` says it. ``"random"``: b is a crop of another image of ``donors``,
            its subject filled up (:func:`.fill.fill_hole`), of which the background is
            at least half.
        prob: Of a change.
        donors: Config of a dataset with a pipeline of DecodeImage and LoadMask; for
            ``"random"``.
        level: 0 to 255; for ``"remove"``.
        scale: Of the crops of donors, as for RandomResizedCrop.
        valid: Least and largest share of the subject.

    Raises:
        UserValueError: An option is out of its range or missing.
    """

    keeps_box = True

    def __init__(
        self,
        mode: str = "remove",
        prob: float = 0.2,
        donors: Mapping[str, Any] | None = None,
        level: float | None = None,
        scale: Share = (0.2, 1.0),
        valid: Share = (0.05, 0.95),
    ) -> None:
        if mode == "swap":
            raise UserValueError(
                'RandomBackground swaps no subjects: its mode is "remove" or "random", '
                "and BG_Swaps has configs of its own, configs/bgaug/bgswaps_*.py."
            )
        check_choice("RandomBackground: mode", mode, "remove", "random")
        self.mode, self.level = mode, level
        self.prob = check_prob("RandomBackground", prob)
        self.valid = check_range("RandomBackground", "valid", valid, 0, 1)
        if level is not None and not 0 <= level <= 255:
            raise UserValueError(
                f"RandomBackground: level must lie in 0 to 255, but is {level!r}."
            )
        if (mode == "random") != (donors is not None):
            raise UserValueError(
                'RandomBackground: mode="random" takes its backgrounds from donors, a '
                'config of a dataset; mode="remove" has none.'
            )
        self.donors = None
        if donors is not None:
            self.donors = _Donors(donors, scale)
        self._shares: list[float] | None = []  # of masks, until one suits

    def __call__(self, results: dict) -> dict:
        """Replace ``results["img"]``."""
        rng = results["rng"]
        # Drawn whatever the mask is, so that masks do not move other random numbers.
        if rng.random() >= self.prob:
            if self.prob and self._shares is not None:
                self._watch(view_mask(results))
            return results
        gray = uniform(rng, 0, 255)
        mask = view_mask(results)
        self._watch(mask)
        if not _suits(mask, self.valid):
            return results
        img = results["img"]
        background: Any = gray if self.level is None else self.level
        if self.donors is not None:
            size, own = image_size(img), results["img_path"]
            found = self.donors.view(rng, size, own, (0.0, 0.5))
            if found is None:
                return results
            background = fill_hole(*found)
        results["img"] = on_array(img, compose, mask, background)
        return results

    def _watch(self, mask: np.ndarray | None) -> None:
        """Warn, once in a process, where no mask ever lets a view change."""
        if mask is None or self._shares is None:
            return
        self._shares.append(float(mask.mean()))
        if not _suits(mask, self.valid) and len(self._shares) < _WATCHED:
            return
        shares, self._shares = self._shares, None
        worker = get_worker_info()
        one_of_many = worker is not None and worker.id > 0
        if _suits(mask, self.valid) or one_of_many or self.valid in _warned:
            return
        _warned.add(self.valid)
        print_log(
            f"The subject fills {min(shares):.1%} to {max(shares):.1%} of the first "
            f"{_WATCHED} views with masks, and RandomBackground changes those of "
            f"{self.valid[0]:.1%} to {self.valid[1]:.1%} only, so it has changed none: "
            f"look at the masks, or set another valid than {self.valid}.",
            logger="current",
            level=logging.WARNING,
        )


@TRANSFORMS.register_module()
class SwapSubject:
    """Put the subject of another image before this view's background (BG_Swaps).

    For the third view of :class:`~mmssl_ext.models.algorithms.BGSwaps`, the extra
    negative of each query: it shows the background of the query, and not its subject.
    The view's own subject is filled up (:func:`.fill.fill_hole`). Where the view has no
    mask, or too little background, or no donor suits, it becomes a crop of another
    image: an ordinary negative.

    Args:
        donors: As for :class:`RandomBackground`; of their subjects.
        scale: Of the crops of donors.
        valid: Least and largest share of either subject.
    """

    keeps_box = True

    def __init__(
        self,
        donors: Mapping[str, Any],
        scale: Share = (0.2, 1.0),
        valid: Share = (0.05, 0.95),
    ) -> None:
        self.valid = check_range("SwapSubject", "valid", valid, 0, 1)
        self.donors = _Donors(donors, scale)

    def __call__(self, results: dict) -> dict:
        """Replace ``results["img"]``."""
        mask = view_mask(results)
        chosen = results["rng"], image_size(results["img"]), results["img_path"]
        found = None
        if mask is not None and mask.mean() <= self.valid[1]:
            found = self.donors.view(*chosen, self.valid)
        if found is not None:
            results["img"] = on_array(results["img"], _swapped, mask, *found)
        elif (found := self.donors.view(*chosen, None)) is not None:
            other = found[0]
            results["img"] = on_array(results["img"], lambda img: other)
        return results


def _swapped(
    img: np.ndarray, mask: np.ndarray, other: np.ndarray, subject: np.ndarray
) -> np.ndarray:
    """The subject of another image before the background of this one."""
    return compose(other, subject, fill_hole(img, mask))
