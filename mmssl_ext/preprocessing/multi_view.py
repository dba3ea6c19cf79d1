"""From collated views to augmented and normalised float views on the device.

Nothing is drawn here: what is random about a batch, parameters of its augmentation
included, comes with it from the loader's workers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor

from mmssl_ext.datasets.transforms.bands import (
    check_bands,
    check_value_range,
    count_of,
)
from mmssl_ext.datasets.transforms.objects import Objects
from mmssl_ext.errors import UserTypeError, UserValueError
from mmssl_ext.registry import MODELS

from .operations import augment, augment_imagewise


@MODELS.register_module()
class MultiViewPreprocessor(BaseDataPreprocessor):
    """Move a batch to the device, augment its views and normalise them.

    The views are augmented if the batch has ``augment``, which
    ``MakeViews(augment_on="device")`` provides.

    Views are 8-bit RGB, or bands in float32 (:class:`~mmssl_ext.datasets.DecodeBands`),
    as many as ``mean`` has values.

    Args:
        mean: Mean of the R, G and B channel, or of each band, in units of 0 to 255.
        std: Standard deviation of each, in the same units.
        non_blocking: Do not wait for the copy to the device; of use with pinned memory.
        channels_last: Return the views with the channels next to each other in memory,
            which convolutions on a GPU prefer.
        batched: Whether to augment whole batches on the device, or image by image on
            the CPU by the functions of the workers, whose pixels the results are then.
            None: the former except on the CPU, where it takes longer.
        for_method: Also return ``boxes``, ``index`` and ``objects`` of the batch, and
            in training leave the views in uint8, which the algorithm has
            :meth:`normalise` turn into floats: what changes ranks or is mixed takes a
            quarter of the memory.
        bands: What ``DecodeBands`` is told, None for RGB. It changes nothing here, but
            the record of the weights tells it, by which others read such images.
        value_range: Likewise.
    """

    def __init__(
        self,
        mean: Sequence[float] | None = (123.675, 116.28, 103.53),
        std: Sequence[float] | None = (58.395, 57.12, 57.375),
        non_blocking: bool = False,
        channels_last: bool = False,
        batched: bool | None = None,
        for_method: bool = False,
        bands: int | Sequence[int] | None = None,
        value_range: Any = None,
    ) -> None:
        super().__init__(non_blocking=non_blocking)
        self.bands = None if bands is None else check_bands(bands)
        count = 3 if self.bands is None else count_of(self.bands)
        mean, std = mean or (), std or ()  # missing beside bands
        if len(mean) != count or len(std) != count or min(std) <= 0:
            each = "three values each" if bands is None else f"{count} values each"
            how = "" if bands is None else " `mmssl-ext stats FOLDER` prints them."
            raise UserValueError(
                f"MultiViewPreprocessor: mean and std must have {each}, and "
                f"those of std be positive, but they are {mean!r} and {std!r}.{how}"
            )
        self.value_range = check_value_range(value_range, count)
        self.channels_last = channels_last
        self.batched = batched
        self.for_method = for_method
        values = torch.tensor([mean, std], dtype=torch.float64)
        # (x - mean) / std = scale x + shift, one operation for each value
        buffers = {"mean": values[0], "std": values[1]}
        buffers |= {"scale": 1 / values[1], "shift": -values[0] / values[1]}
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor.float().view(-1, 1, 1), persistent=False)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Prepare a batch.

        Args:
            data: ``inputs``: uint8 tensor N x 3 x H x W, or N x P x 3 x H x W for
                views of P patches (of bands: float32, N x C), or list of them, one per
                view; ``data_samples``:
                optional list of N data samples; ``augment``: optional list with one
                dict per view, from the name of an operation to its parameters, N x L
                on the CPU, in the order of application; ``boxes``: optional, N x V x 4,
                where in the image each view was cut, as ``MakeViews`` says it;
                ``index``: optional, N numbers of the images in their dataset;
                ``objects``: optional, N x P x V x 4, boxes in the views, NaN behind
                the last one of an image.
            training: Whether this is a step of training; of effect with
                ``for_method`` only. What is to be augmented is in the batch.

        Returns:
            ``inputs``, the same structure in float32 on the device, ``data_samples``.
            With ``for_method`` also ``boxes`` in float32, ``index`` in int64 and
            ``objects`` as :class:`~mmssl_ext.datasets.transforms.Objects` on the
            device, each where the batch has it, and in training ``inputs`` in uint8,
            augmented but not normalised; of views that came as floats nothing is left
            to do.

        Raises:
            TypeError: The inputs are not collated, or of another shape.
            ValueError: ``augment`` does not suit the inputs.
        """
        inputs = data["inputs"]
        single = isinstance(inputs, torch.Tensor)
        views = [inputs] if single else list(inputs)
        augmentation = data.get("augment") or [{}] * len(views)
        if len(augmentation) != len(views):
            raise UserValueError(
                f"MultiViewPreprocessor got {len(views)} views per image, but "
                f"parameters of augmentation for {len(augmentation)}."
            )
        keep_uint8 = self.for_method and training
        results = []
        for number, operations in enumerate(augmentation):
            view = self._augment(views[number], operations)
            raw = keep_uint8 and not view.is_floating_point()
            results.append(view if raw else self._normalised(view))
        samples = data.get("data_samples")
        self._move_labels(samples)
        batch = {"inputs": results[0] if single else results, "data_samples": samples}
        return batch | (self._geometry(data) if self.for_method else {})

    def normalise(self, view: torch.Tensor) -> torch.Tensor:
        """Return (view - mean) / std in float32; a view of floats as it is.

        Args:
            view: N x 3 x H x W or N x P x 3 x H x W on the device; not changed. One
                of floats has been normalised by :meth:`forward`.

        Returns:
            A tensor of the same shape. With ``channels_last`` the memory of a view of
            patches is that of N P images.
        """
        return view if view.is_floating_point() else self._normalised(view)

    def _normalised(self, view: torch.Tensor) -> torch.Tensor:
        images = view.flatten(0, -4)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        out = torch.empty(
            images.shape, dtype=torch.float32, device=view.device, memory_format=layout
        )
        if view.device.type == "cpu":
            # Three times as fast here as addcmul, which converts in a pass of its own.
            torch.mul(images, self.scale, out=out).add_(self.shift)
        else:
            torch.addcmul(self.shift, images, self.scale, out=out)
        return out.view(view.shape)

    def _augment(self, view: Any, operations: Mapping[str, torch.Tensor]) -> Any:
        """Return a view on the device, of the type that it came in."""
        collated = isinstance(view, torch.Tensor) and view.ndim in (4, 5)
        if not collated or view.size(-3) != len(self.mean):
            raise UserTypeError(_explain(view, len(self.mean)))
        if not operations:
            return self.cast_data(view)
        on_cpu = self.device.type == "cpu"
        if self.batched or (self.batched is None and not on_cpu):
            return augment(self.cast_data(view), operations)
        return self.cast_data(augment_imagewise(view.cpu(), operations))

    def _geometry(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """``boxes``, ``index`` and ``objects`` on the device, where there are some."""
        kinds = {"boxes": torch.float32, "index": torch.int64}
        given = {name: data[name] for name in kinds if data.get(name) is not None}
        found: dict[str, Any] = {n: x.to(kinds[n]) for n, x in given.items()}
        if data.get("objects") is not None:  # counted before they leave the CPU
            found["objects"] = Objects.of(data["objects"])
        return self.cast_data(found)

    def _move_labels(self, samples: Sequence[Any] | None) -> None:
        # One copy for the batch: cast_data would make one per sample.
        labelled = [s for s in samples or () if "gt_label" in s]
        if not labelled or labelled[0].gt_label.device == self.device:
            return
        labels = self.cast_data(torch.cat([s.gt_label for s in labelled]))
        sizes = [len(s.gt_label) for s in labelled]
        for sample, label in zip(labelled, labels.split(sizes), strict=True):
            sample.gt_label = label


def _explain(view: Any, count: int) -> str:
    found = 'got the samples one by one; set collate_fn=dict(type="default_collate")'
    shapes = {tuple(getattr(v, "shape", ())) for v in view}
    if isinstance(view, torch.Tensor) and view.ndim != 3:
        found = f"got the shape {tuple(view.shape)}"
        if view.ndim in (4, 5):
            found += (
                f"; bands={view.size(-3)} (DecodeBands) and as many values of mean and "
                "std make them fit"
            )
    elif len(shapes) > 1:
        found = (
            f"the images of one view differ in size: {sorted(shapes)}. Give all of "
            "them one size in the pipeline (RandomResizedCrop, or ResizeShort and "
            'CenterCrop), and set collate_fn=dict(type="default_collate")'
        )
    return (
        f"MultiViewPreprocessor expects each view as one tensor, N x {count} x H x W, "
        f"or N x P x {count} x H x W of patches, but {found}."
    )
