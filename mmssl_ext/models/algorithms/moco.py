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
* key images change ranks as uint8, each to the one rank that encodes it;
* the first momentum update is an exact copy, whatever set the query's weights;
* with accumulated gradients the key encoder moves once per step of the optimizer.
"""

from typing import Any

import torch
from mmengine.dist import get_world_size
from torch import Tensor, nn

from mmssl_ext.registry import MODELS

from ..layers import protect_batch_norm, shuffle_batch, unit, unshuffle_batch
from ..memory import KeyQueue, MomentumEncoder
from .base import Features, SSLAlgorithm


@MODELS.register_module()
class MoCo(SSLAlgorithm):
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
        super().__init__(backbone, neck, head, data_preprocessor, init_cfg)
        self.check_sizes(feat_dim)
        self.shuffles = protect_batch_norm(self.query_parts, bn_splits)
        self.encoder_k = MomentumEncoder(momentum, **self.query_parts)
        self.queue = KeyQueue(queue_len, feat_dim)
        if self.shuffles and get_world_size() > 1:
            self._exchange_uint8()

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
            inputs: Views of N images; query and key views take turns, here one of
                each, N x 3 x H x W.
            data_samples: Passed to :meth:`identify`.

        Returns:
            ``loss_instance`` and the terms of the method, scalars.
        """
        self.check_views(inputs)
        query = self.encode_query(*inputs[0::2])
        key = self.encode_key(*inputs[1::2]) | self.identify(data_samples)
        losses = self.contrast(query, key)
        self.enqueue(key)
        q, k = query["embedding"].detach(), key["embedding"]
        self.last_embeddings = {"query": q, "key": k}
        return losses

    def encode(self, encoder: Any, view: Tensor) -> Features:
        """Features of a view by the query encoder (the model itself) or the key's.

        Args:
            encoder: What has the ``query_parts`` as attributes.
            view: N x 3 x H x W.

        Returns:
            ``embedding`` (unit rows, N x D); a method adds what it needs.
        """
        embedding = encoder.neck(encoder.backbone(view))[0]
        return {"embedding": unit(embedding)}

    def encode_query(self, *views: Tensor) -> Features:
        """Features of the query views, with gradient."""
        return self.encode(self, *views)

    @torch.no_grad()
    def encode_key(self, *views: Tensor) -> Features:
        """Update the key encoder, then features of the key views, in their order.

        It moves once for each step of the optimizer, whatever makes one.
        """
        if self.gathered == 0:
            self.encoder_k.update(**self.query_parts)
        if not self.shuffles:
            return self.encode(self.encoder_k, *views)
        pairs = [shuffle_batch(view, self.draw_seed) for view in views]
        shuffled = [
            x if x.is_floating_point() else self.data_preprocessor.normalise(x)
            for x, _ in pairs
        ]
        key = self.encode(self.encoder_k, *shuffled)
        back = pairs[0][1]  # the same for all views
        return {name: unshuffle_batch(x, back) for name, x in key.items()}

    @property
    def draw_seed(self) -> int:
        """For draws that follow from the iteration; equal on all ranks."""
        return self.encoder_k.num_steps + (self.gathered << 32)

    def _exchange_uint8(self) -> None:
        """Get key views as uint8: they change ranks before they are normalised."""
        if hasattr(self.data_preprocessor, "raw_views"):
            self.data_preprocessor.raw_views = frozenset(range(1, self.num_views, 2))

    def identify(self, data_samples: Any) -> Features:
        """What a method must know of the images beside their views, by name."""
        return {}

    def contrast(self, query: Features, key: Features) -> dict[str, Tensor]:
        """Named losses of queries and keys against the queue as it stands."""
        q, k = query["embedding"], key["embedding"]  # N x D
        return {"loss_instance": self.head.loss(q, k, self.queue.keys)}

    def enqueue(self, key: Features) -> None:
        """Let the keys be negatives from the next step on."""
        self.queue.enqueue(key["embedding"])

    @property
    def negatives(self) -> Tensor:
        """The K x D keys that ``last_embeddings`` are told apart from."""
        return self.queue.keys
