"""Which images of the bank are a query's negatives (InterCLR, arXiv 2008.11702).

    hard        the most similar ones of other clusters
    semi-hard   drawn from a pool of the most similar ones, about a tenth of the bank
    random      drawn from everywhere
    easy        drawn from a pool of the least similar ones (the paper's semi-easy)

Nothing of the query's own cluster is a negative. All queries of a step try the images
in one random order, each takes the first that suit it. For every single query this is
a uniform draw without replacement, and it needs a fraction of the memory traffic of
separate draws: the features are gathered once, for all queries. There is no re-drawing
that could go on for ever: where too few images suit a query, it has fewer negatives.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from .feature_bank import FeatureBank
from .pseudo_labels import PseudoLabels

_OWN_CLUSTER = 4  # room for the own cluster up to this many times the mean size


class Negatives(NamedTuple):
    """The negatives of N queries.

    Attributes:
        rows: Candidates by their row in the bank, L.
        features: Their features, L x D fp32, constant.
        similarity: Of every query to every candidate, N x L fp32, constant.
        mask: Which candidates are a query's negatives, N x L.
    """

    rows: Tensor
    features: Tensor
    similarity: Tensor
    mask: Tensor


class NegativeSampler(nn.Module):
    """Base of the strategies.

    Args:
        num: Negatives of a query, or, as a float up to 1, their share of the images.
        pool: Images to draw them from, in the same way; None takes all.
        exact: Find the bounds of the pool by comparing with the whole bank. Otherwise
            the candidates stand for the bank: the pool's size then varies by about
            1 / sqrt(``num``) (0.8 % for 16,384), and the bank need not be read.

    Raises:
        ValueError: A number is not positive, or there are more to draw than in the
            pool.
    """

    def __init__(
        self, num: float, pool: float | None = None, exact: bool = True
    ) -> None:
        super().__init__()
        for name, value in {"num": num, "pool": pool}.items():
            limit = 1 if isinstance(value, float) else math.inf
            if value is not None and not 0 < value <= limit:
                raise UserValueError(
                    f"negatives: {name}={value} must be a number of images, or a "
                    "share of them as a float up to 1.0."
                )
        same_kind = isinstance(num, float) == isinstance(pool, float)
        if pool is not None and same_kind and num > pool:
            raise UserValueError(
                f"negatives: num={num} images cannot be drawn from a pool of "
                f"pool={pool}; about an eighth of the pool is usual."
            )
        self.num, self.pool, self.exact = num, pool, exact

    def sizes(self, num_images: int) -> tuple[int, int]:
        """Negatives of a query and images in its pool, for a bank of this size."""
        pool = _count(self.pool, num_images)
        return min(_count(self.num, num_images), pool), pool

    def advice(self, num_images: int) -> str | None:
        """A sentence where the pool is no choice among so many images."""
        if isinstance(self.pool, int) and self.pool >= num_images > 1:
            return (
                f"{type(self).__name__}: a pool of {self.pool} holds all {num_images} "
                "images, so that negatives are drawn at random; the paper's recipe is "
                "about a tenth: negatives.pool=0.1 and negatives.num=0.013."
            )
        return None

    @torch.no_grad()
    def draw(
        self,
        q: Tensor,
        own: Tensor,
        bank: FeatureBank,
        labels: PseudoLabels,
        generator: torch.Generator,
    ) -> Negatives:
        """Negatives of every query.

        Args:
            q: Unit rows, N x D.
            own: Cluster of every query's image, N.
            bank: The features.
            labels: The clusters.
            generator: On the device of ``q``, in the same state on all ranks.
        """
        num, _ = self.sizes(len(bank))
        count = self.num_candidates(len(bank), labels.num_clusters)
        with torch.autocast(q.device.type, enabled=False):
            rows, first = draw_rows(len(bank), count, generator)
            features = bank.read(rows)
            similarity = q @ features.T.to(q)  # N x L
            foreign = (labels.labels[rows] != own[:, None]) & first
            mask = self.suits(q, bank, similarity, foreign)
        mask &= mask.cumsum(1, dtype=torch.int32) <= num
        return Negatives(rows, features, similarity, mask)

    def num_candidates(self, num_images: int, num_clusters: int) -> int:
        """Images to try, so many that a query nearly always finds its number."""
        num, pool = self.sizes(num_images)
        own = _OWN_CLUSTER * num_images / num_clusters
        share = max(pool - own, pool / 2) / num_images
        wanted = num + 6 * math.sqrt(num) + 6  # six standard deviations
        return min(num_images, math.ceil(wanted / share))

    def suits(
        self, q: Tensor, bank: FeatureBank, similarity: Tensor, foreign: Tensor
    ) -> Tensor:
        """Which candidates may be negatives, N x L; ``foreign``: of other clusters."""
        return foreign

    def pool_bound(self, q: Tensor, bank: FeatureBank, similarity: Tensor) -> Tensor:
        """Similarity of the last image of the pool of the most similar ones, N x 1."""
        _, pool = self.sizes(len(bank))
        candidates = similarity.shape[1]
        if self.exact and candidates < len(bank):
            return kth_largest(bank.similarity(q), pool)
        # Rows that stand there twice are as likely in the pool as others.
        place = max(1, round(pool * candidates / len(bank)))
        return kth_largest(similarity.clone(), place)


@MODELS.register_module()
class RandomNegatives(NegativeSampler):
    """Drawn from all images of other clusters.

    Args:
        num: Negatives of a query, or their share of the images.
    """

    def __init__(self, num: float = 16384) -> None:
        super().__init__(num)


@MODELS.register_module()
class SemiHardNegatives(NegativeSampler):
    """Drawn from the most similar images, as far as they are of other clusters.

    Args:
        num: See :class:`NegativeSampler`.
        pool: See there.
        exact: See there.
    """

    def __init__(
        self, num: float = 16384, pool: float = 128_000, exact: bool = True
    ) -> None:
        super().__init__(num, pool, exact)

    def suits(
        self, q: Tensor, bank: FeatureBank, similarity: Tensor, foreign: Tensor
    ) -> Tensor:
        """Foreign candidates in the pool."""
        return foreign & (similarity >= self.pool_bound(q, bank, similarity))


@MODELS.register_module()
class EasyNegatives(SemiHardNegatives):
    """Drawn from the least similar images ("semi-easy"); arguments as above."""

    def suits(
        self, q: Tensor, bank: FeatureBank, similarity: Tensor, foreign: Tensor
    ) -> Tensor:
        """Foreign candidates in the pool."""
        return super().suits(-q, bank, -similarity, foreign)


@MODELS.register_module()
class HardNegatives(NegativeSampler):
    """The most similar images of other clusters; no chance is involved.

    Every query is compared with the whole bank and keeps the result, N x n, for the
    loss: the slowest and largest of the strategies.

    Args:
        num: Negatives of a query, or their share of the images.
    """

    def __init__(self, num: float = 16384) -> None:
        super().__init__(num)

    def num_candidates(self, num_images: int, num_clusters: int) -> int:
        """All images."""
        return num_images

    def suits(
        self, q: Tensor, bank: FeatureBank, similarity: Tensor, foreign: Tensor
    ) -> Tensor:
        """The nearest foreign candidates."""
        num, _ = self.sizes(len(bank))
        bound = kth_largest(similarity.masked_fill(~foreign, -torch.inf), num)
        return foreign & (similarity >= bound)


def draw_rows(
    num_rows: int, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """About ``count`` of the rows in random order, all of them where that is most.

    Returns:
        Rows, L, and which of them stand there for the first time, L.
    """
    device = generator.device
    if 2 * count > num_rows:
        rows = torch.randperm(num_rows, generator=generator, device=device)
        return rows, torch.ones_like(rows, dtype=torch.bool)
    # A permutation of a million rows takes as long as the product with the candidates.
    draws = math.ceil(-num_rows * math.log1p(-count / num_rows))
    rows = torch.randint(num_rows, (draws,), generator=generator, device=device)
    ordered, order = rows.sort(stable=True)
    first = torch.ones_like(rows, dtype=torch.bool)
    first[order[1:]] = ordered[1:] != ordered[:-1]
    return rows, first


def kth_largest(values: Tensor, k: int) -> Tensor:
    """The k-th largest of every row of N x L values, N x 1; may reorder ``values``."""
    place = values.shape[1] - k  # in ascending order
    if values.device.type == "cpu":  # NumPy's selection is 12 times as fast as torch's
        values.numpy().partition(place, axis=1)
        return values[:, place : place + 1]
    return values.kthvalue(place + 1, dim=1, keepdim=True).values


def _count(value: float | None, num_images: int) -> int:
    """A number of images, given as such or as a share."""
    if value is None:
        return num_images
    if isinstance(value, float):
        value = max(1, round(value * num_images))
    return min(value, num_images)
