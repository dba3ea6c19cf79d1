"""SimCLR: a simple framework for contrastive learning of visual representations.

Paper: arXiv 2002.05709 (ICML 2020).

Every view must find the other view of its image among all views of the batch.

    z_i = normalise(g(f(x_i)))              2N x D, two views of N images
    L   = mean_i -log exp(z_i.z_pair(i)/T) / sum_{j != i} exp(z_i.z_j/T)
"""

from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.model import BaseModule
from torch import Tensor
from torch.distributed.nn.functional import all_gather
from torch.nn.functional import cross_entropy, normalize

from mmssl_ext.models.algorithms import Features, SSLAlgorithm
from mmssl_ext.registry import MODELS


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Mean loss of N pairs of unit rows, N x D each (equation 1)."""
    z = torch.cat([first, second])  # 2N x D
    with torch.autocast(z.device.type, enabled=False):
        logits = z @ z.T / temperature  # 2N x 2N
    logits = logits.fill_diagonal_(-torch.inf)  # no view is compared with itself
    pairs = torch.arange(len(z), device=z.device).roll(len(first))
    return cross_entropy(logits, pairs)


@MODELS.register_module()
class NTXentHead(BaseModule):
    """The loss over all ranks; owns the temperature T."""

    def __init__(self, temperature: float, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.temperature = temperature

    def loss(self, first: Tensor, second: Tensor) -> Tensor:
        """A scalar from N x D unit rows of each view."""
        if get_world_size() > 1:  # with gradient, which comes back from all ranks
            first, second = (torch.cat(all_gather(z)) for z in (first, second))
        return nt_xent(first, second, self.temperature)


@MODELS.register_module()
class SimCLR(SSLAlgorithm):
    """Contrast within the batch."""

    def loss(self, inputs: list[Tensor], data_samples: Any = None) -> dict[str, Tensor]:
        """``loss_instance`` of two views of N images, N x 3 x H x W each."""
        self.check_views(inputs)
        first, second = self.encode_query(*inputs)["embedding"].chunk(2)  # N x D
        self.last_embeddings = {"query": first.detach(), "key": second.detach()}
        return {"loss_instance": self.head.loss(first, second)}

    def encode_query(self, *views: Tensor) -> Features:
        """``embedding``: unit rows of all views, one view after the other."""
        embedding = self.neck(self.backbone(torch.cat(views)))[0]
        return {"embedding": normalize(embedding.float(), dim=1)}
