"""A student's features against those of its teacher, through a head of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from mmssl_ext.registry import MODELS

from ..layers.teacher_head import teacher_head
from ..losses import queue_distillation
from ..memory import KeyQueue
from ..part import Features, check_positive
from .base import Comparison

if TYPE_CHECKING:
    from ..algorithms.method import Method, Step


@MODELS.register_module()
class TeacherRegression(Comparison):
    """The features must point where the teacher's point: ``2 - 2 cos(h(z), t)``.

    SimReg (arXiv 2201.05131). h follows from the sizes of student and teacher.

    Args:
        head_layers: Of h; see
            :func:`~mmssl_ext.models.layers.teacher_head.teacher_head`.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: There is no such head.
    """

    head: nn.Module

    def __init__(self, head_layers: int = 4, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.head_layers = head_layers

    def attach(self, method: Method) -> None:
        """Make the head."""
        self.join(method.dim, method.target.dim or method.dim)

    def join(self, student: int, teacher: int) -> None:
        """Make what follows from the number of features of both."""
        self.head = teacher_head(student, teacher, self.head_layers)

    def predict(self, projection: Tensor) -> Tensor:
        """h(z)."""
        return self.head(projection)

    def pair(self, q: Tensor, k: Tensor, negatives: Tensor | None = None) -> Tensor:
        """See :class:`Comparison`; negatives are not used."""
        return (2 - 2 * (q * k.repeat(len(q) // len(k), 1)).sum(-1)).mean()


@MODELS.register_module()
class TeacherSoftmax(TeacherRegression):
    """Student and teacher must see a queue of the teacher's features alike.

    The global loss of lightly-train's distillation
    (:func:`~mmssl_ext.models.losses.queue_distillation`). The teacher's features of a
    step are in the queue before its loss, those of all ranks.

    Args:
        temperature: T.
        length: Number K of features in the queue, well below that of the images.
        head_layers: See :class:`TeacherRegression`.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: ``temperature`` or ``length`` is not positive, or there is no such
            head.
    """

    remembers_first = True
    queue: KeyQueue

    def __init__(
        self,
        temperature: float = 0.07,
        length: int = 4096,
        head_layers: int = 1,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(head_layers, init_cfg)
        self.temperature = check_positive("temperature", temperature)
        self.length = length

    def join(self, student: int, teacher: int) -> None:
        """Make head and queue."""
        super().join(student, teacher)
        self.queue = KeyQueue(self.length, teacher)

    def pair(self, q: Tensor, k: Tensor, negatives: Tensor | None = None) -> Tensor:
        """See :class:`Comparison`; negatives are not used."""
        k = k.repeat(len(q) // len(k), 1)
        return queue_distillation(q, k, self.queue.keys, self.temperature).mean()

    def collect(self, method: Method, step: Step) -> Features:
        """The teacher's features of the step, one view after the other."""
        return {"keys": method.targets(step, "embedding")}

    def remember(self, found: Features) -> None:
        """Put them into the queue."""
        self.queue.enqueue(found["keys"])
