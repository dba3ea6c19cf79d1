"""mmpretrain's own self-supervised classes: what a run asks them beside their loss.

BYOL, SimSiam, BarlowTwins, MoCoV3, SimCLR, SwAV and MoCo have a backbone and a neck,
but do not say how they embed an image, nor what they embedded in a step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .errors import UserValueError
from .fit import pooled, project

_HOME = "mmpretrain.models.selfsup."
_TARGETS = ("target_net", "momentum_encoder", "encoder_k")  # averages of both parts
_PAIRS = {"BYOL", "SimSiam", "BarlowTwins", "MoCoV3", "SimCLR", "MoCo", "DenseCL"}


def is_upstream(model: nn.Module) -> bool:
    """Whether it is a class of mmpretrain, or of one's own with the same modes."""
    place = getattr(getattr(type(model), "forward", None), "__module__", "")
    return place.startswith(_HOME)


def embed(model: Any, images: Tensor, samples: Any = None, mode: str = "embed") -> Any:
    """Features of images, by any model; see :meth:`SSLAlgorithm.forward`.

    Args:
        model: The model, in the mode in which it is to compute.
        images: N x 3 x H x W, normalised.
        samples: Their data samples.
        mode: ``embed`` by the trained network, ``embed_key`` by its average.

    Returns:
        ``backbone``, N x C, and ``embedding``, N x D, by name.

    Raises:
        ValueError: There is no such network, or it does not embed whole images.
    """
    if not is_upstream(model):
        return model(images, samples, mode=mode)
    name = type(model).__name__
    backbone, neck = model.backbone, model.neck
    if mode == "embed_key":
        found = [getattr(model, x) for x in _TARGETS if hasattr(model, x)]
        if not found:
            raise UserValueError(f"mmpretrain's {name} has no target network.")
        backbone, neck = found[0].module
    if not _kinds(model) & {*_PAIRS, "SwAV"}:
        raise UserValueError(
            f"How mmpretrain's {name} embeds a whole image is not known here; switch "
            "kNN off (default_hooks.knn=None) and classify by its backbone, as in "
            "configs/transfer/classification."
        )
    maps = backbone(images)
    output = project(neck, maps)
    first = output if isinstance(output, Tensor) else output[0]
    return {"backbone": pooled(maps), "embedding": first}


def check_views(model: Any, inputs: Any) -> list[Tensor]:
    """The views of a batch, as many as a class of mmpretrain takes.

    Raises:
        ValueError: There are more or fewer.
    """
    several = isinstance(inputs, (list, tuple))
    count, kinds = len(inputs) if several else 1, _kinds(model)
    if (kinds & _PAIRS and count != 2) or ("SwAV" in kinds and count < 2):
        least = "two views" if kinds & _PAIRS else "two views or more"
        raise UserValueError(
            f"mmpretrain's {type(model).__name__} takes {least} per image, not {count};"
            " let the pipeline make them by MakeViews with as many lists of transforms."
        )
    crops = getattr(getattr(model.head, "loss_module", None), "num_crops", None)
    if "SwAV" in kinds and crops is not None and sum(crops) != count:
        raise UserValueError(
            f"The pipeline makes {count} views per image, but SwAV's loss counts "
            f"{sum(crops)} crops; set head.loss.num_crops, crops by size, to as many."
        )
    views = list(inputs) if several else [inputs]
    return [x for x in views if isinstance(x, Tensor)]


def rows_of(model: nn.Module, rows: Tensor, view: int, count: int) -> Tensor:
    """Rows of one view of N = ``count`` images, where several went through together.

    mmpretrain's SimCLR puts the two views of an image next to each other; elsewhere
    one view comes after the other.
    """
    if is_upstream(model) and "SimCLR" in _kinds(model) and len(rows) == 2 * count:
        return rows[view::2]
    return rows[view * count : (view + 1) * count]


class Listener:
    """Notes what the neck of a class of mmpretrain projects in a step of training.

    Args:
        model: The model.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._outputs: list[Tensor] = []
        self._handle = model.neck.register_forward_hook(self._note)

    def _note(self, neck: nn.Module, args: Any, output: Any) -> None:
        if neck.training:
            first = output if isinstance(output, Tensor) else output[0]
            self._outputs.append(first.detach())

    def clear(self) -> None:
        """Wait for the next step."""
        self._outputs.clear()

    def remove(self) -> None:
        """Leave the model as it was."""
        self._handle.remove()

    def embeddings(self, count: int) -> dict[str, Tensor]:
        """``query`` and ``key`` of two views of N = ``count`` images, unit rows N x D.

        Both are those of the trained network; one is missing where that projects one
        view alone, and both where it does not project whole images.
        """
        found = self._outputs
        if not found or any(x.ndim != 2 for x in found):
            return {}
        rows = torch.cat(found) if len(found) > 1 else found[0]
        views = range(min(2, len(rows) // count))
        names = dict(zip(views, ("query", "key"), strict=False))
        return {
            name: nn.functional.normalize(
                rows_of(self._model, rows, view, count).float(), dim=1
            )
            for view, name in names.items()
        }


def _kinds(model: nn.Module) -> set[str]:
    """Names of the classes of mmpretrain that a model is derived from."""
    return {
        kind.__name__
        for kind in type(model).__mro__
        if kind.__module__.startswith(_HOME)
    }
