"""InterCLR: inter-image invariance with pseudo-labels.

Paper: arXiv 2008.11702 (IJCV 2022), on MoCo v2.

Two crops of one image are a weak notion of sameness. A bank keeps the last embedding of
every training image, clustered; a query's second positive is another image of its
cluster, and its negatives are images of other clusters, not too hard ones.

    V: n x D bank, y: n labels, M: C x D centroids, i: the query's image
    v+   = V[a random member of cluster y_i]                N x D
    v-_j = drawn from those of the P entries most similar to q that have y != y_i
    L_inter = mean_n CE([q.v+ - m, q.v-_1 .. q.v-_J] / tau, 0)
    L = (1 - lambda) L_MoCo + lambda L_inter,  lambda = 0.25, m = -0.5
    V_i <- k, y_i <- argmax_c M_c . V_i,  M_c <- mean of its members     after the loss

The three parts that the paper studies are modules of their own: how labels are kept
(``OnlineLabels``, ``OfflineLabels``), which negatives (``SemiHardNegatives``,
``HardNegatives``, ``RandomNegatives``, ``EasyNegatives``), which boundary
(``MarginHead``).

Differs from the reference code:
* bank, labels and centroids are buffers in the checkpoint, on the model's device; all
  ranks apply the same gathered update, where the reference sends the whole bank around
  at every step;
* negatives are never drawn twice, and where too few images suit a query it has fewer;
  the reference then draws for ever. All queries of a step try one random order;
* small clusters are mended with the centroids every 10 steps, not at every step, and
  all centroids are refreshed then, not those of the two halves alone;
* there is no bank during a warm-up; the reference fills and follows it;
* the first clustering is spherical k-means; the reference's is Euclidean.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mmssl_ext.registry import MODELS

from ..memory import FeatureBank
from .base import Features
from .moco import MoCo


@MODELS.register_module()
class InterCLR(MoCo):
    """MoCo plus an inter-image branch.

    Before training the bank has to be filled: ``PseudoLabelHook`` does it.

    Args:
        pseudo_labels: Config of the labels, e.g. ``OnlineLabels``.
        negatives: Config of the negatives, e.g. ``SemiHardNegatives``.
        inter_head: Config of the loss of the branch, ``MarginHead``.
        loss_lambda: Weight of the inter-image loss; MoCo's has 1 - lambda. At 0 and
            with an empty bank this is MoCo: the warm-up of the hook.
        bank_momentum: Share of the old feature that an update of the bank keeps.
        bank_dtype: See :class:`~mmssl_ext.models.memory.FeatureBank`.
        **kwargs: As for :class:`MoCo`.

    Raises:
        ValueError: ``loss_lambda`` is outside [0, 1].
    """

    def __init__(
        self,
        pseudo_labels: dict,
        negatives: dict,
        inter_head: dict,
        loss_lambda: float = 0.25,
        bank_momentum: float = 0.0,
        bank_dtype: str = "float32",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 <= loss_lambda <= 1:
            raise ValueError(
                f"loss_lambda={loss_lambda} is the share of the inter-image loss and "
                "must lie in [0, 1]; 0.25 is the released code's."
            )
        self.loss_lambda = loss_lambda
        self.bank = FeatureBank(self.queue.keys.shape[1], bank_momentum, bank_dtype)
        self.pseudo_labels = MODELS.build(pseudo_labels)
        self.sampler = MODELS.build(negatives)
        self.inter_head = MODELS.build(inter_head)

    def start_bank(
        self,
        features: Tensor,
        fingerprint: int = 0,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Fill the bank and cluster it.

        Args:
            features: Embeddings of all training images by position in the dataset,
                n x D; equal on all ranks.
            fingerprint: Of the dataset.
            seed: Of the clustering.
            progress: Called with (iterations done, at most) of the clustering.

        Raises:
            ValueError: The images are too few for the clusters.
        """
        self.bank.fill(features.to(self.queue.keys.device), fingerprint)
        self.pseudo_labels.start(self.bank, seed, progress)

    def identify(self, data_samples: Any) -> Features:
        """``image``: the position of every image in the dataset, N.

        Raises:
            ValueError: The bank is empty, or an index is missing or outside of it.
        """
        if len(self.bank) == 0:
            if self.loss_lambda == 0:  # warm-up
                return {}
            raise ValueError(
                "The feature bank is empty. Let PseudoLabelHook fill it before "
                "training (custom_hooks, see configs/interclr), or call start_bank."
            )
        found = [sample.get("sample_idx") for sample in data_samples or ()]
        if not found or any(index is None for index in found):
            raise ValueError(
                "InterCLR needs to know which image is which: let the pipeline end "
                "with PackViews, whose data samples carry sample_idx."
            )
        if not 0 <= min(found) <= max(found) < len(self.bank):
            raise ValueError(
                f"sample_idx runs from {min(found)} to {max(found)}, but the bank has "
                f"{len(self.bank)} images; fill it from the dataset that is trained on."
            )
        device = self.queue.keys.device
        return {"image": torch.tensor(found).to(device, non_blocking=True)}

    def contrast(self, query: Features, key: Features) -> dict[str, Tensor]:
        """``loss_instance`` and ``loss_inter``, weighted; ``nce_*`` are not.

        ``num_negatives`` is the mean number of negatives of a query.
        """
        losses = super().contrast(query, key)
        nce = losses["loss_instance"]
        if "image" not in key:  # warm-up
            return losses | {"nce_instance": nce.detach()}
        q, images = query["embedding"], key["image"]  # N x D, N
        generator = self.generator(q.device)
        members = self.pseudo_labels.draw_members(images, generator)
        negatives = self.sampler.draw(
            q.detach(),
            self.pseudo_labels.labels[images],
            self.bank,
            self.pseudo_labels,
            generator,
        )
        nce_inter = self.inter_head.loss(q, self.bank.read(members), negatives)
        return {
            "loss_instance": (1 - self.loss_lambda) * nce,
            "loss_inter": self.loss_lambda * nce_inter,
            "nce_instance": nce.detach(),
            "nce_inter": nce_inter.detach(),
            "num_negatives": negatives.mask.sum(1).float().mean(),
        }

    def generator(self, device: torch.device) -> torch.Generator:
        """Draws that follow from the iteration; equal on all ranks."""
        return torch.Generator(device).manual_seed(self.draw_seed)

    def enqueue(self, key: Features) -> None:
        """Fill the queue; write the keys to the bank and update the labels."""
        super().enqueue(key)
        if "image" not in key:
            return
        change = self.bank.update(key["image"], key["embedding"])
        self.pseudo_labels.update(change, self.bank)
