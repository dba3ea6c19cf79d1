"""What every algorithm shares: its parts, the check of its views, evaluation."""

from typing import Any

import torch
from mmpretrain.models.selfsup import BaseSelfSupervisor
from torch import Tensor

from mmssl_ext.errors import UserValueError
from mmssl_ext.fit import check_parts, pooled
from mmssl_ext.registry import MODELS

from ..part import Features, build_part


class SSLAlgorithm(BaseSelfSupervisor):
    """Base of the algorithms.

    Args:
        backbone: Config of the backbone.
        neck: Config of the projection head.
        head: Config of the loss head, for methods that have one.
        data_preprocessor: Config of the preprocessor, ``MultiViewPreprocessor``.
        init_cfg: As for every mmengine module.

    Attributes:
        num_views: Views of an image that :meth:`loss` takes.
        last_embeddings: ``query`` and ``key`` of the last loss, N x D unit rows; no
            ``key`` where a target has a size of its own.
        starts_whole: Weights of ``load_from`` must be there for every tensor.
    """

    num_views = 2
    starts_whole = True

    def __init__(
        self,
        backbone: dict,
        neck: dict,
        head: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(
            backbone=build_part("backbone", backbone),
            neck=build_part("neck", neck),
            head=None if head is None else MODELS.build(head),
            data_preprocessor=MODELS.build(self._preprocessing(data_preprocessor)),
            init_cfg=init_cfg,
        )
        self.last_embeddings: Features = {}

    def _preprocessing(self, config: dict | None) -> dict:
        """Config of the preprocessor."""
        return {"type": "MultiViewPreprocessor"} | (config or {})

    def forward(
        self,
        inputs: Any,
        data_samples: Any = None,
        mode: str = "tensor",
        **fields: Any,
    ) -> Any:
        """Dispatch on ``mode``.

        Args:
            inputs: The views for ``loss`` and ``inspect``, else one batch,
                N x 3 x H x W.
            data_samples: Passed to :meth:`loss`.
            mode: ``loss``; ``tensor`` for the backbone's feature maps; ``embed`` and
                ``embed_key`` for the features of the online and the target network;
                ``inspect`` for what can be drawn of the method on a few images.
            **fields: What the preprocessor adds, ``boxes``, ``index`` and ``objects``,
                for :meth:`loss`.

        Returns:
            For ``embed`` and ``embed_key`` a dict of ``backbone`` (globally pooled,
            N x C) and ``embedding`` (N x D), not normalised.
        """
        if mode == "embed":
            return self.embed(self, inputs)
        if mode == "embed_key":
            if (target := self.target_encoder) is self:
                raise UserValueError(f"{type(self).__name__} has no target network.")
            return self.embed(target, inputs)
        if mode == "inspect":
            known = {k: v for k, v in fields.items() if k == "objects"}
            return self.inspect(inputs, **known)
        if mode == "loss":
            return self.loss(inputs, data_samples, **fields)
        return super().forward(inputs, data_samples, mode)

    @property
    def target_encoder(self) -> Any:
        """What encodes target views: a target network, or the algorithm itself."""
        return self

    def embed(self, encoder: Any, view: Tensor) -> Features:
        """Backbone features and embedding of N x 3 x H x W images, as evaluated."""
        maps = encoder.backbone(view)  # tuple; last N x C x h x w, or N x C
        return {
            "backbone": pooled(maps),
            "embedding": encoder.neck(maps[-1:])[0],
        }

    def inspect(self, inputs: list[Tensor]) -> dict[str, Any]:
        """What the method makes of its views, for :mod:`mmssl_ext.visualization`."""
        raise UserValueError(f"{type(self).__name__} has nothing to draw of its own.")

    def check_views(self, inputs: Any) -> None:
        """Refuse anything but a list of ``num_views`` views that the method can take.

        Raises:
            ValueError: The pipeline made another number or kind of views.
        """
        if not isinstance(inputs, (list, tuple)) or len(inputs) != self.num_views:
            count = len(inputs) if isinstance(inputs, (list, tuple)) else 1
            raise UserValueError(
                f"{type(self).__name__} takes {self.num_views} views per image, not "
                f"{count}; let the pipeline make them by MakeViews with "
                f"{self.num_views} lists of transforms."
            )
        self.check_shapes([tuple(view.shape[1:]) for view in inputs])

    def check_shapes(self, shapes: list[tuple[int, ...]]) -> None:
        """Refuse views that are no images 3 x H x W; ``shapes`` are those of an image.

        Raises:
            ValueError: A view is a set of patches.
        """
        if any(len(shape) != 3 for shape in shapes):
            raise UserValueError(
                f"{type(self).__name__} takes whole images, but the views of an image "
                f"are {shapes}; leave out CutPatches."
            )

    @torch.no_grad()
    def check_inputs(self, inputs: Any) -> None:
        """Try one preprocessed batch before training; in eval mode nothing changes.

        Raises:
            ValueError: The views do not fit the method, or its parts each other.
        """
        self.check_views(inputs)
        sizes = {view.shape: view for view in inputs if view.ndim == 4}
        for view in sizes.values():
            check_parts(self, view)
