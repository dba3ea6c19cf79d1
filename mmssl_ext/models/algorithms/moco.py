"""MoCo v1 and v2: momentum contrast with a queue of negatives.

Papers: arXiv 1911.05722 (v1) and arXiv 2003.04297 (v2: MLP head, blur, cosine).

A query must pick the other view of its own image out of a long queue of other images.
Keys come from an encoder that follows the query encoder slowly, so that keys of many
steps ago are still comparable and the queue can be far longer than a batch.

    q = normalise(g_q(f_q(x_q)))                      N x D, gradient
    k = normalise(g_k(f_k(x_k)))                      N x D, no gradient
    L = -log exp(q.k/T) / (exp(q.k/T) + sum_j exp(q.n_j/T)),  n: K x D, the queue
    theta_k <- m theta_k + (1 - m) theta_q            before the keys are encoded

v1 and v2 are one class: a linear or an MLP neck, T = 0.07 or 0.2, and the view recipe.

Differs from the reference code:
* the queue takes any batch size (ring buffer) and lies K x D; the loss is exact but
  never holds N x K logits;
* one device is protected against the BatchNorm leak by SplitBatchNorm, where the
  reference's shuffle has no effect;
* the permutation follows from the step, so ranks need no broadcast and a resumed run
  continues exactly;
* the first momentum update is an exact copy, whatever set the query's weights.
"""

from typing import Any

import torch
from mmpretrain.models.selfsup import BaseSelfSupervisor
from torch import Tensor, nn
from torch.nn.functional import normalize

from mmssl_ext.registry import MODELS

from ..layers import protect_batch_norm, shuffle_batch, unshuffle_batch
from ..memory import KeyQueue, MomentumEncoder


@MODELS.register_module()
class MoCo(BaseSelfSupervisor):
    """Momentum contrast, the base of the queue methods.

    Args:
        backbone: Config of the backbone.
        neck: Config of the projection head; its output has ``feat_dim`` channels.
        head: Config of the instance loss, e.g. ``InstanceHead``.
        queue_len: Number of negative keys K; well below the size of the dataset.
        feat_dim: Size D of the embedding.
        momentum: Share of the key encoder that each step keeps.
        bn_splits: Groups of the batch with BatchNorm statistics of their own when
            training runs on one device; 1 leaves plain BatchNorm, unprotected. Groups
            below 16 images make the statistics noisy: choose it by the batch. Several
            devices shuffle the keys among themselves instead.
        data_preprocessor: Config of the preprocessor, ``MultiViewPreprocessor``.
        init_cfg: As for every mmengine module.

    Attributes:
        last_embeddings: ``query`` and ``key`` of the last loss, N x D unit rows.

    Raises:
        ValueError: Sizes do not fit, or a value is outside its range.
    """

    def __init__(
        self,
        backbone: dict,
        neck: dict,
        head: dict,
        queue_len: int = 65536,
        feat_dim: int = 128,
        momentum: float = 0.999,
        bn_splits: int = 8,
        data_preprocessor: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(
            backbone=MODELS.build(backbone),
            neck=MODELS.build(neck),
            head=MODELS.build(head),
            data_preprocessor=MODELS.build(
                {"type": "MultiViewPreprocessor"} | (data_preprocessor or {})
            ),
            init_cfg=init_cfg,
        )
        self._check_sizes(feat_dim)
        self.shuffles = protect_batch_norm(self.query_parts, bn_splits)
        self.encoder_k = MomentumEncoder(momentum, **self.query_parts)
        self.queue = KeyQueue(queue_len, feat_dim)
        self.last_embeddings: dict[str, Tensor] = {}

    @property
    def query_parts(self) -> dict[str, nn.Module]:
        """The trained modules that have a momentum copy."""
        return {"backbone": self.backbone, "neck": self.neck}

    def init_weights(self) -> None:
        """Initialise the query encoder and copy it to the key encoder."""
        super().init_weights()
        self.encoder_k.copy_from(**self.query_parts)

    def loss(self, inputs: list[Tensor], data_samples: Any = None) -> dict[str, Tensor]:
        """Losses of one batch.

        Args:
            inputs: Query view and key view, each N x 3 x H x W.
            data_samples: Unused; the images need no annotation.

        Returns:
            ``loss_instance``, a scalar.
        """
        if not isinstance(inputs, (list, tuple)) or len(inputs) != 2:
            raise ValueError(
                f"{type(self).__name__} takes two views per image; let the pipeline "
                "make them by MakeViews with two views."
            )
        q = self.encode_query(inputs[0])  # N x D
        k = self.encode_key(inputs[1])  # N x D
        losses = self.contrast(q, k)
        self.queue.enqueue(k)
        self.last_embeddings = {"query": q.detach(), "key": k}
        return losses

    def encode_query(self, view: Tensor) -> Tensor:
        """Unit embeddings of the query view, N x D, with gradient."""
        return normalize(self.neck(self.backbone(view))[0].float(), dim=1)

    @torch.no_grad()
    def encode_key(self, view: Tensor) -> Tensor:
        """Update the key encoder, then unit embeddings of the key view, N x D."""
        self.encoder_k.update(**self.query_parts)
        if self.shuffles:
            view, inverse = shuffle_batch(view, seed=self.encoder_k.num_steps)
        k = self.encoder_k.neck(self.encoder_k.backbone(view))[0]
        k = normalize(k.float(), dim=1)
        return unshuffle_batch(k, inverse) if self.shuffles else k

    def contrast(self, q: Tensor, k: Tensor) -> dict[str, Tensor]:
        """Named losses of N x D queries and keys against the queue as it stands."""
        return {"loss_instance": self.head.loss(q, k, self.queue.keys)}

    def forward(
        self, inputs: Any, data_samples: Any = None, mode: str = "tensor"
    ) -> Any:
        """Dispatch on ``mode``.

        Args:
            inputs: Two views for ``loss``, else one batch, N x 3 x H x W.
            data_samples: Passed to :meth:`loss`.
            mode: ``loss``; ``tensor`` for the backbone's feature maps; ``embed`` and
                ``embed_key`` for the features of the query and key encoder.

        Returns:
            For ``embed`` and ``embed_key`` a dict of ``backbone`` (globally pooled,
            N x C) and ``embedding`` (N x D), not normalised.
        """
        if mode in ("embed", "embed_key"):
            encoder: Any = self if mode == "embed" else self.encoder_k
            maps = encoder.backbone(inputs)  # tuple; last N x C x h x w
            return {
                "backbone": maps[-1].flatten(2).mean(2),
                "embedding": encoder.neck(maps)[0],
            }
        return super().forward(inputs, data_samples, mode)

    def _check_sizes(self, feat_dim: int) -> None:
        linear = [m for m in self.neck.modules() if isinstance(m, nn.Linear)]
        channels = getattr(self.backbone, "feat_dim", None)
        if linear and linear[-1].out_features != feat_dim:
            raise ValueError(
                f"The neck returns {linear[-1].out_features} features but feat_dim is "
                f"{feat_dim}; make neck.out_channels and feat_dim equal."
            )
        if linear and channels and linear[0].in_features != channels:
            raise ValueError(
                f"The backbone returns {channels} channels but the neck takes "
                f"{linear[0].in_features}; set neck.in_channels to {channels}."
            )
