"""SimReg: regression of the features of a frozen teacher.

Paper: arXiv 2201.05131 (BMVC 2021).

A trained network, the teacher, shows a student what to see in each image. Both get the
same view. A head that is thrown away afterwards turns the student's pooled features
into the teacher's; the deeper it is, the better the student's own features.

    s = h(GAP(f(x)))                                  N x D, gradient
    t = GAP(f_T(x))                                   N x D, constant, eval mode
    L = mean_n [ 2 - 2 cos(s_n, t_n) ]                in [0, 4]

There are no negatives and nothing can collapse, so that few images and small batches
will do. Options: the softmax over a queue of the teacher's features in place of the
regression (``compare=dict(type="TeacherSoftmax")``), its cells' self-similarity besides
(``terms=[dict(type="LocalSimilarity")]``) and mixed images, all three lightly-train's;
several teachers; features of the teacher that are kept from epoch to epoch.

Differs from the official code: nothing in the loss or the head. The paper itself was
not read. Of lightly-train's queue the first rows are noise, there zeros, and it is
shared by all ranks, there it is each one's own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from ..part import choices
from .method import Method


@MODELS.register_module()
class SimReg(Method):
    """Distillation from frozen teachers.

    Args:
        teacher: Config of the ``FrozenTeacher``, or a list of several: each has a head
            and a loss, ``distillation1`` being the second's.
        head_layers: Of the head; 4 in the paper.
        mix: Show images mixed in pairs, ``x <- lam x + (1 - lam) x[perm]`` with one lam
            in [0, 1] for a batch, to student and teacher (lightly-train).
        neck: The student's features are pooled and projected no further.
        pairs: The same view; ``((0, 1),)`` lets the teacher see another one.
        terms: More terms.
        **kwargs: As for :class:`Method`.

    Raises:
        ValueError: There is no teacher.
    """

    num_views = 1

    def __init__(
        self,
        teacher: dict | Sequence[dict],
        head_layers: int | None = None,
        mix: bool = False,
        neck: dict | None = None,
        pairs: Any = ((0, 0),),
        terms: Sequence[dict] = (),
        compare: dict | None = None,
        **kwargs: Any,
    ) -> None:
        teachers = [teacher] if isinstance(teacher, Mapping) else list(teacher or ())
        if not teachers:
            raise UserValueError(
                "SimReg needs a teacher: set model.teacher=dict(backbone=dict(..., "
                "init_cfg=dict(type='PretrainedBackbone', checkpoint=...)))."
            )
        how = {"type": "TeacherRegression", **(compare or {})}
        if head_layers is not None:
            how["head_layers"] = head_layers
        more = [
            {
                "type": "Distillation",
                "teacher": other,
                "compare": how,
                "name": f"distillation{i}",
            }
            for i, other in enumerate(teachers[1:], 1)
        ]
        own = choices(
            "SimReg",
            kwargs,
            target={"type": "FrozenTeacher", **teachers[0]},
            compare=how,
        )
        super().__init__(
            neck=neck or {"type": "GlobalAveragePooling"},
            pairs=pairs,
            terms=[*more, *terms],
            **own,
        )
        self.mix = mix

    def views_of(self, inputs: Sequence[Tensor]) -> Sequence[Any]:
        """The views, mixed where that is wanted."""
        if not (self.mix and self.training):
            return inputs
        lam = torch.rand(1, device=inputs[0].device)
        order = torch.randperm(len(inputs[0]), device=inputs[0].device)
        ready = (self.prepare(view) for view in inputs)
        return [x.lerp(x[order], 1 - lam.to(x.dtype)) for x in ready]
