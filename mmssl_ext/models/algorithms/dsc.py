"""DSC: dense semantic contrast, a reconstruction.

Inspired by arXiv 2109.07756 (ACM Multimedia 2021), on DenseCL. No code is public, and
of the paper the abstract and a review could be read. They say: images, places and
classes of places are compared at once; neighbours of a place are found in the other
view; places of one class, by k-means or by prototypes, are made more alike within a
mini-batch. All else here is this package's.

    F, r, t, queue 2                             as in DenseCL
    B(n, a)  = the 4 b with the largest cos(F_q[n, a], F_k[n, b]);  b*(a) the first
    L_pix    = mean_n,a mean_b in B  InfoNCE(r_na, t_nb, queue 2)
    PM: Q = sinkhorn(t P^T / 0.05),  P: K x D    codes of all cells, no gradient
        L_sem = mean_n,a  CE(softmax(r_na P^T / 0.1), Q[n, b*(a)])
    KM: y_na = nearest centroid of t_n,b*(a),  from k-means after every epoch
        L_sem = mean_na [ logsumexp_o(r_na . t_o / T) - mean_p(r_na . t_p / T) ]
                o: cells of other images of the batch;  p: those of class y_na
    L = (1 - lambda) L_MoCo + lambda L_pix + w L_sem,    lambda = 0.5, w = 0.5, first 0

With one neighbour and w = 0 it is DenseCL. Matches, codes and labels get no gradient;
prototypes do, centroids do not.

Differs: nothing can be said, as the paper's equations and figures are not known here.
Choices that the paper may make otherwise are options: ``dense=dict(mutual=True)`` keeps
mutual neighbours alone, ``same_image=True`` compares classes within an image too; the
number of neighbours, classes, drawn cells, and epochs between clusterings. Prototypes
are normalised in use and, as w begins at 0, keep their directions at first.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mmssl_ext.registry import MODELS

from .densecl import DenseCL


@MODELS.register_module()
class DSC(DenseCL):
    """DenseCL with neighbours, plus classes of cells; a reconstruction.

    Args:
        semantic: Config of the classes:
            :class:`~mmssl_ext.models.terms.CellPrototypes` (PM, the default) or
            :class:`~mmssl_ext.models.terms.CellClusters` (KM); its ``weight`` is w, 0.5
            or a schedule.
        dense: Options of :class:`~mmssl_ext.models.terms.DenseNeighbours`.
        terms: More terms.
        **kwargs: As for :class:`DenseCL`.
    """

    def __init__(
        self,
        semantic: Mapping[str, Any] | None = None,
        dense: dict | None = None,
        terms: Sequence[dict] = (),
        **kwargs: Any,
    ) -> None:
        own = {"type": "CellPrototypes", "weight": 0.5, **(semantic or {})}
        neighbours = {"type": "DenseNeighbours", **(dense or {})}
        super().__init__(dense=neighbours, terms=[own, *terms], **kwargs)
