"""TKC: temporal teachers, inspired by temporal knowledge consistency.

Paper: arXiv 2108.10668 (ICCV 2021), on MoCo v2.

A momentum target remembers the last few thousand steps. What the encoder makes of an
image changes much more between stages of the training: that is noise in the targets,
and what was learned early is forgotten. TKC keeps h states of the encoder from earlier
stages as further teachers. A knowledge transformer behind each makes of its embeddings
what the student has to find, and every teacher has a share in the loss.

    q   = normalise(g_q(f_q(x_q)))                    N x D, gradient
    z_i = normalise(g_i(f_i(x_k))),  i = 1 .. h       N x D, no gradient, eval mode
    t_i = normalise(z_i + W_2 relu(BN(W_1 z_i)))      N x D, gradient in the transformer
    w   = 1 / h, or softmax(s) of learned scores s    h
    L   = L_MoCo(q, k) + alpha mean_n sum_i w_i D(q_n, t_in),  D = 2 - 2 cos
    f_i, g_i: the momentum encoder as it was; every ``interval`` the oldest is replaced

Teachers see the key's view, and the queue holds the momentum encoder's keys alone.
Before the first copy, and with alpha = 0, losses and gradients are MoCo's. With
``form="base"`` D is InfoNCE with the queue and t_i in the key's place. On other bases
the term :class:`~mmssl_ext.models.terms.TemporalTeachers` does the same.

Of the paper the abstract, the introduction and captions were read: momentum and
temporal teachers, a transformer behind each of the latter that makes their importance
learnable. All else is reconstructed: the equations, h = 2, intervals of a twentieth of
the training, a ramp of a tenth of one, copies of the momentum encoder rather than the
student, alpha = 1. W_2 begins as 0, where t_i = z_i, anew with each new teacher.

Scores are learned only where ``learn_weights`` says so, for their gradient, alpha w_i
(D_i - sum_j w_j D_j), always moves to the teacher that is easiest to match.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mmssl_ext.registry import MODELS

from .moco import MoCo


@MODELS.register_module()
class TKC(MoCo):
    """MoCo plus temporal teachers.

    Args:
        temporal: Config of the term, ``TemporalTeachers``: ``num_teachers`` is h,
            ``interval`` in epochs, ``weight`` alpha.
        terms: More terms.
        **kwargs: As for :class:`MoCo`.
    """

    def __init__(
        self,
        temporal: Mapping[str, Any] | None = None,
        terms: Sequence[dict] = (),
        **kwargs: Any,
    ) -> None:
        own = {"type": "TemporalTeachers", **(temporal or {})}
        super().__init__(terms=[own, *terms], **kwargs)
