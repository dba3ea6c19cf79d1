"""Features of a dataset's images that are computed once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from mmengine.dist import all_gather, get_world_size
from torch import Tensor, nn

from mmssl_ext.errors import UserValueError

_SAME = 1e-4  # relative; a view cut anew differs by far more


class FeatureCache(nn.Module):
    """A table of features by the image's position in the dataset.

    It is in the checkpoint. Each view is recognised by a weighted sum of its pixels, so
    that one which is cut anew is refused, not mistaken for the first.

    Args:
        length: Number of images.
        dim: Size D of their features.
    """

    features: Tensor
    prints: Tensor

    def __init__(self, length: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("features", torch.zeros(length, dim))
        # Infinite where nothing is kept yet.
        prints = torch.full((length,), torch.inf, dtype=torch.float64)
        self.register_buffer("prints", prints)

    @torch.no_grad()
    def forward(
        self, view: Tensor, index: Tensor | None, compute: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Features of the images of a view, N x D.

        Args:
            view: N x C x H x W.
            index: Positions of the images, N.
            compute: Returns the features of some of them.

        Raises:
            ValueError: The positions are not known or not in the table, or an image
                looks otherwise than before.
        """
        if index is None:
            raise UserValueError(
                "target.cache keeps features by image, but the batch does not say "
                "which images it holds; leave target.cache out."
            )
        if int(index.max()) >= len(self.features):
            raise UserValueError(
                f"target.cache={len(self.features)} is less than the dataset's images; "
                "set it to their number."
            )
        now, before = _fingerprints(view), self.prints[index]
        known = before.isfinite()
        changed = known & ((now - before).abs() > _SAME * (1 + before.abs()))
        if changed.any():
            raise UserValueError(
                "target.cache keeps the teacher's features, but the target view of "
                f"image {int(index[changed][0])} is not what it was before: let its "
                "transforms be without chance, or leave target.cache out."
            )
        if not known.all():
            new = index[~known]
            self.features[new] = compute(view[~known]).to(self.features.dtype)
            self.prints[new] = now[~known]
        found = self.features[index]
        if get_world_size() > 1:  # all ranks know all, so that any may write it down
            everyone, rows = torch.cat(all_gather(index)), torch.cat(all_gather(found))
            self.features[everyone] = rows
            self.prints[everyone] = torch.cat(all_gather(now))
        return found


def _fingerprints(view: Tensor) -> Tensor:
    """A number for each image, N, in float64, by which a view is recognised."""
    pixels = view.flatten(1).to(torch.float64)
    places = torch.arange(pixels.shape[1], dtype=torch.float64, device=view.device)
    return (pixels * (1.3 + (places * 0.7548776662).cos())).sum(1)
