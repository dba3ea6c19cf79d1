"""SCFS: semantics-consistent feature search, on DINO.

Paper: arXiv 2212.06486 (ICCV 2023).

A small crop may show what is not in the other view at all, and DINO compares them all
the same. SCFS first searches what the crop shows in the teacher's map of the large
view, and compares with what it finds there; at several stages of the network, not the
last alone.

    F_l(x): N x C_l x h x w, the student's map of stage l = 2, 3, 4; F'_l the teacher's
    s_l = g_l(F_l(x)), t_l = g'_l(F'_l(x))            N x 256, unit rows
    Lg_l = 1/2 sum_{i != j} CE(softmax((t_l,i - c_l) / T'), softmax(s_l,j / T))
           of the two large views
    u_j  = GAP(F_l(x_j)),  A_j = cos(u_j, F'_l(x_0))  N x h x w, cell by cell, constant
    Ll_l = 1/n sum_j CE(softmax(g'_l(A_j F'_l(x_0)) / T'), softmax(s_l,j / T))
           of the n small crops
    L    = L_DINO + sum_l 1/2 (Lg_l + Ll_l)

Heads g_l are a residual bottleneck, the mean over the cells and an MLP; teachers' heads
are averages like all of the teacher. A is the cosine as it is. What was searched has no
centre. Without small crops Lg alone remains.

Differs from the official code:
* conv1(A F) is computed as A conv1(F), equal to rounding, at a fraction of the cost;
* what DINO differs in; the centres of all stages are in the checkpoint, there two.
The release reads a module and an option that it has not got; what it prepares but never
uses, such as RoI align, is left out. Of the paper the abstract was read.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mmssl_ext.registry import MODELS

from .dino import DINO


@MODELS.register_module()
class SCFS(DINO):
    """DINO plus feature search.

    Args:
        search: Config of the term, ``FeatureSearch``. Its temperatures are DINO's.
        temperature: T of both.
        target_temperature: T' of both.
        centre_momentum: Share of the old centres that each step keeps.
        terms: More terms.
        **kwargs: As for :class:`DINO`; ``backbone.out_indices`` names the stages.
    """

    def __init__(
        self,
        search: Mapping[str, Any] | None = None,
        temperature: float = 0.1,
        target_temperature: Any = 0.04,
        centre_momentum: float = 0.9,
        terms: Sequence[dict] = (),
        **kwargs: Any,
    ) -> None:
        shared = {
            "temperature": temperature,
            "target_temperature": target_temperature,
            "centre_momentum": centre_momentum,
        }
        own = {"type": "FeatureSearch", **shared, **(search or {})}
        super().__init__(terms=[own, *terms], **shared, **kwargs)
