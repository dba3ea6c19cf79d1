"""CO2: consistent contrast.

Paper: arXiv 2010.02217 (ICLR 2021), on a MoCo v1 or v2 base.

Instance discrimination calls every other image equally wrong. CO2 adds that a query
should see the queue as its key sees it: two crops of one image resemble the same other
images. The key's profile over the negatives is the soft label of the query's.

    Q_n = softmax(q_n . queue / tau_con)              K entries, the positive is none
    P_n = softmax(k_n . queue / tau_con)              no gradient
    L   = L_MoCo(tau_ins) + alpha * mean_n [ KL(P_n || Q_n) + KL(Q_n || P_n) ] / 2

Differs from the paper: nothing known. No official code was found, and these values are
remembered rather than read in the paper (unverified): alpha = 10, tau_con = 0.04 on
MoCo v1; alpha = 0.3, tau_con = 0.05 on MoCo v2; no ramp-up of alpha.
"""

from collections.abc import Sequence
from typing import Any

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from .moco import MoCo


@MODELS.register_module()
class CO2(MoCo):
    """MoCo plus the consistency term.

    Args:
        consistency: Config of the term, ``Consistency``: ``temperature`` is tau_con,
            ``weight`` is alpha.
        terms: More terms.
        **kwargs: As for :class:`MoCo`; ``head.temperature`` is tau_ins.

    Raises:
        ValueError: alpha is not given.
    """

    def __init__(
        self, consistency: dict, terms: Sequence[dict] = (), **kwargs: Any
    ) -> None:
        own = {"type": "Consistency", **consistency}
        if "weight" not in own and "consistency" not in (kwargs.get("weights") or {}):
            raise UserValueError(
                "CO2 needs alpha: set model.consistency.weight, e.g. 0.3."
            )
        super().__init__(terms=[own, *terms], **kwargs)
