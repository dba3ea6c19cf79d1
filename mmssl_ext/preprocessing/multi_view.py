"""From collated uint8 views to normalised float views on the device.

Augmentation that runs batched on the device, with parameters per sample, will live in
this package too; until then views arrive fully augmented by the loader's workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor

from mmssl_ext.registry import MODELS


@MODELS.register_module()
class MultiViewPreprocessor(BaseDataPreprocessor):
    """Move a batch to the device and normalise its views.

    Args:
        mean: Mean of the R, G and B channel, in units of 0 to 255.
        std: Standard deviation of each, in the same units.
        non_blocking: Do not wait for the copy to the device; of use with pinned memory.
    """

    def __init__(
        self,
        mean: Sequence[float] = (123.675, 116.28, 103.53),
        std: Sequence[float] = (58.395, 57.12, 57.375),
        non_blocking: bool = False,
    ) -> None:
        super().__init__(non_blocking=non_blocking)
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError(
                "MultiViewPreprocessor: mean and std must have three values each, and "
                f"those of std be positive, but they are {mean!r} and {std!r}."
            )
        for name, values in (("mean", mean), ("std", std)):
            tensor = torch.tensor(values, dtype=torch.float32).view(3, 1, 1)
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Prepare a batch.

        Args:
            data: ``inputs``: uint8 tensor N x 3 x H x W, or N x P x 3 x H x W for
                views of P patches, or list of them, one per view; ``data_samples``:
                optional list of N data samples.
            training: Unused; no augmentation happens here yet.

        Returns:
            ``inputs``: the same structure in float32 on the device; ``data_samples``.

        Raises:
            TypeError: The inputs are not collated, or of another shape.
        """
        views = data["inputs"]
        single = isinstance(views, torch.Tensor)
        moved = [self._normalise(v) for v in ([views] if single else views)]
        samples = data.get("data_samples")
        self._move_labels(samples)
        return {"inputs": moved[0] if single else moved, "data_samples": samples}

    def _move_labels(self, samples: Sequence[Any] | None) -> None:
        # One copy for the batch: cast_data would make one per sample.
        labelled = [s for s in samples or () if "gt_label" in s]
        if not labelled or labelled[0].gt_label.device == self.device:
            return
        labels = torch.cat([s.gt_label for s in labelled])
        labels = labels.to(self.device, non_blocking=self._non_blocking)
        sizes = [len(s.gt_label) for s in labelled]
        for sample, label in zip(labelled, labels.split(sizes), strict=True):
            sample.gt_label = label

    def _normalise(self, view: Any) -> torch.Tensor:
        collated = isinstance(view, torch.Tensor) and view.ndim in (4, 5)
        if not collated or view.size(-3) != 3:
            raise TypeError(_explain(view))
        view = view.to(self.device, non_blocking=self._non_blocking)
        # Subtracting a float tensor converts uint8 on the way, without another copy.
        return (view - self.mean).div_(self.std)


def _explain(view: Any) -> str:
    expected = (
        "MultiViewPreprocessor expects each view as one tensor, N x 3 x H x W, or "
        "N x P x 3 x H x W of patches"
    )
    advice = 'set collate_fn=dict(type="default_collate") in the dataloader'
    if isinstance(view, torch.Tensor) and view.ndim != 3:
        return f"{expected}, but got the shape {tuple(view.shape)}."
    shapes = {tuple(getattr(v, "shape", ())) for v in view}
    if not isinstance(view, torch.Tensor) and len(shapes) > 1:
        return (
            f"{expected}, but the images of one view differ in size: {sorted(shapes)}. "
            f"Give all of them one size in the pipeline (RandomResizedCrop, or "
            f"ResizeShort and CenterCrop), and {advice}."
        )
    return f"{expected}, but got the samples one by one; {advice}."
