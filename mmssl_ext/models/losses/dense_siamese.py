"""Pixel and region similarity of two views (DenseSiam, arXiv 2203.11075)."""

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, normalize


def pixel_similarity(p: Tensor, z: Tensor, softmax: bool = False) -> Tensor:
    """How far predictions at some places are from the targets there.

    Args:
        p: Predictions, N x C x H x W.
        z: Targets at the same places, alike; constant.
        softmax: Cross-entropy of the softmax over the channels, in place of the
            negative cosine.

    Returns:
        One loss per image, N, fp32 or wider.
    """
    p, z = _full(p), _full(z)
    if softmax:
        loss = -(z.softmax(1) * log_softmax(p, 1)).sum(1)  # N x H x W
    else:
        loss = -(normalize(p) * normalize(z)).sum(1)
    return loss.flatten(1).mean(1)


def region_vectors(logits: Tensor, maps: Tensor) -> Tensor:
    """Sum of the features of every soft region.

    ``R_nk = sum_p m_nkp F_np`` with ``m = softmax_k(logits)``, so that the regions of
    an image share out the sum of its features. Sums are not divided by their mass.

    Args:
        logits: N x K x H x W.
        maps: F, features at the same places, N x C x H x W.

    Returns:
        N x K x C, fp32 or wider.
    """
    masks = _full(logits).softmax(1).flatten(2)  # N x K x HW
    with torch.autocast(maps.device.type, enabled=False):  # it would round the sums
        return masks @ _full(maps).flatten(2).transpose(1, 2)


def region_contrast(q: Tensor, u: Tensor, temperature: float) -> Tensor:
    """Each region must pick itself out of the regions of its image.

    ``CE(q_na . u_nb / T over b, a)``, whose K x K logits are small.

    Args:
        q: Predicted regions, N x K x D, unit rows.
        u: Regions of the other view, alike.
        temperature: T > 0.

    Returns:
        Mean over the regions, N, fp32 or wider.
    """
    with torch.autocast(q.device.type, enabled=False):
        logits = _full(q) @ _full(u).transpose(1, 2) / temperature  # N x K x K
    own = logits.diagonal(dim1=1, dim2=2)  # N x K
    return (logits.logsumexp(2) - own).mean(1)


def _full(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float))
