"""CMSF: constrained mean shift, with distant yet related neighbours.

Paper: arXiv 2112.04607 (ECCV 2022), on MSF.

The nearest neighbours of a target look much like it already. Neighbours that are as
good, but further away, teach more: those out of a set S(n) that another source says is
related to the image.

    L = 1/2 (L_nn + L_con),  L_con = mean_n [2 - 2 v_n.mu'_n]
    mu'_n = mean of the k rows of M nearest to u_n, rows of S(n) first

``EarlierNeighbours`` (2Q): u'_n and M'_j, the embeddings of the same images when they
    were last seen before; S(n) = the k' rows of M' nearest to u'_n. With k' = k, as in
    the released script, mu'_n is their mean in M.
``SameCluster`` (KM): S(n) = rows of the image's cluster, by k-means on the targets of
    the epoch before.
``SameLabel``: S(n) = rows of the image's class; alone (``share=1``) the supervised
    CMSF, and with labels of some images a semi-supervised one.

Differs from the official code:
* M' keeps the earlier embedding with its row, so that one embedding of an image is
  stored, not two; where an image stands twice in the bank, its older row keeps the
  older one (there it becomes equal to the row itself);
* 2Q: no set until half of M' is known. There the pool starts as noise of length 22,
  which the first epoch searches;
* KM: k-means is spherical, starts from the centroids of the epoch before, and an image
  never seen has no cluster; there all have cluster 0 in the first epoch;
* where a set has fewer than k rows the nearest others follow, there any;
* the semi-supervised variant has no classifier whose confident predictions are labels.
"""

from typing import Any

from mmssl_ext.registry import MODELS

from .msf import MSF


@MODELS.register_module()
class CMSF(MSF):
    """MSF with neighbours out of a set besides.

    Args:
        constraint: Config of the set: ``EarlierNeighbours``, ``SameCluster`` or
            ``SameLabel``; its ``share`` is what L_con counts, 0.5 of both.
        **kwargs: As for :class:`MSF`.
    """

    def __init__(self, constraint: dict, **kwargs: Any) -> None:
        super().__init__(constraint=constraint, **kwargs)
