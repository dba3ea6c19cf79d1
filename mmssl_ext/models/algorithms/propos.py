"""ProPos: prototype scattering and positive sampling, for clustering.

Paper: arXiv 2111.11821 (TPAMI 2022; an earlier version is called NCC), on BYOL.

BYOL pulls the views of an image together and says nothing of other images. ProPos keeps
that alignment, of a neighbourhood of each instance; and it pushes apart what may be:
not instances, some of which are of one class, but the prototypes of clusters.

    z = g(f(x_1))                                     N x D, gradient, no unit rows
    k = normalise(g'(f'(x_2)))                        N x D, no gradient
    L_a = mean_n [2 - 2 cos(h(z + sigma eps), k)]     eps ~ N(0, I): positive sampling
    y: k-means of normalise(g'(f'(image))), all images, K clusters, every r epochs
    m_j, m'_j = normalised mean of the unit z, of the k, with y = j     of all ranks
    l_j = -log e^{m_j.m'_j/T} / (e^{m_j.m'_j/T} + sum_{i != j} e^{m_j.m_i/T})
    L_s = mean of l_j over the clusters in the batch  prototype scattering
    L = L_a + w L_s,  the mean of both directions; sigma = w = 0 in the warm-up

The code has two forms: views one after the other (CIFAR-10, ImageNet),
``grouping="view"``, and both in one pass, with BatchNorm's statistics in common
(CIFAR-20, ImageNet-Dogs), ``grouping="size"``. Where a batch has few images of each
cluster, earlier targets join both means (``queue_len``; ImageNet).

Differs from the official code:
* the target moves before it encodes; there, in the first form, it lags one more step;
* the constant 2 of L_a stands in both forms, there in the second alone;
* a cluster is empty if no rank has an image of it; there each rank looks at its own;
* the queue starts empty, there with noise that counts for the cluster of image 0;
* k-means goes on from the centroids before, and images are not drawn by the size of
  their cluster (an option there).

Of the paper the abstract was read, and the official code and its configs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from ..part import choices
from .method import Method


@MODELS.register_module()
class ProPos(Method):
    """BYOL with sampled positives and scattered prototypes.

    Args:
        predictor: Config of h, mmpretrain's ``NonLinearNeck``.
        prototypes: Options of :class:`~mmssl_ext.models.terms.PrototypeScattering`:
            ``num_clusters``, ``temperature``, ``interval``, ``queue_len``.
        images: How the images are read that are clustered; see
            :class:`~mmssl_ext.models.terms.InterImage`.
        sigma: Standard deviation of the noise, after the warm-up.
        scattering_weight: w, after the warm-up.
        warmup: Epochs of BYOL alone.
        momentum: Share of the target that each step keeps.
        pairs: Both directions.
        reduce: The mean of their losses.
        terms: More terms.
        **kwargs: As for :class:`Method`.
    """

    def __init__(
        self,
        predictor: dict,
        prototypes: Mapping[str, Any],
        images: dict | None = None,
        sigma: float = 0.001,
        scattering_weight: float = 0.1,
        warmup: int = 50,
        momentum: Any = 0.996,
        pairs: Any = ((0, 1), (1, 0)),
        reduce: str = "mean",
        terms: Sequence[dict] = (),
        **kwargs: Any,
    ) -> None:
        if type(warmup) is not int or warmup < 0:
            raise UserValueError(
                f"warmup={warmup!r} must be a whole number of epochs; 0 is none."
            )
        late = {"kind": "step", "start": 0, "until": warmup, "unit": "epoch"}
        scattering = {
            **prototypes,
            "type": "PrototypeScattering",
            "images": images,
            "weight": {**late, "end": scattering_weight},
        }
        own = choices(
            type(self).__name__,
            kwargs,
            target={"type": "MomentumTarget", "momentum": momentum},
            compare={
                "type": "PositiveSampling",
                "predictor": predictor,
                "sigma": {**late, "end": sigma},
            },
        )
        super().__init__(terms=[scattering, *terms], pairs=pairs, reduce=reduce, **own)
