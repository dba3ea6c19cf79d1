"""Prototypes that share the images out evenly among themselves (SwAV)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from mmengine.dist import get_rank, get_world_size
from torch import Tensor

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from ..losses import sinkhorn
from ..memory import KeyQueue, StepCounter
from ..part import Features, check_positive, is_count, is_number
from ..schedules import Schedule
from .prototypes import PrototypeSoftmax

if TYPE_CHECKING:
    from ..algorithms.method import Method, Step


@MODELS.register_module()
class BalancedPrototypes(PrototypeSoftmax):
    """Codes by Sinkhorn's iterations over the target views of all ranks.

    Each target view is balanced by itself, together with the embeddings of that view in
    the last steps, where there is a queue. Its rows are compared with the prototypes as
    they are now; every rank compares its share of them. All ranks have all of the
    queue, as a checkpoint has, so that a run goes on exactly and with any number of
    ranks.

    Args:
        num_prototypes: M.
        temperature: T.
        epsilon: Of :func:`~mmssl_ext.models.losses.sinkhorn`.
        num_iters: Likewise.
        queue_len: Embeddings of each target view, of all ranks, that are balanced with
            those of a step; 0 is no queue. Well below the images of the data set.
        queue_start: Epoch from which they are.
        frozen_epochs: Epochs in which the prototypes are not trained, at first.
        in_place: Scale the prototypes to length one in place, before every step.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: A value is out of its range.
    """

    queue: KeyQueue

    def __init__(
        self,
        num_prototypes: int = 3000,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        num_iters: int = 3,
        queue_len: int = 0,
        queue_start: float = 15,
        frozen_epochs: float = 1,
        in_place: bool = True,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(num_prototypes, temperature, frozen_epochs, in_place, init_cfg)
        self.epsilon = check_positive("epsilon", epsilon)
        if not is_count(num_iters):
            raise UserValueError(
                f"num_iters={num_iters!r} of the balance must be a whole number above "
                "0; 3 is usual."
            )
        if queue_len != 0 and not is_count(queue_len):
            raise UserValueError(
                f"queue_len={queue_len!r} must be a whole number, 0 for no queue."
            )
        if not is_number(queue_start) or queue_start < 0:
            raise UserValueError(
                f"queue_start={queue_start!r} must be the number of an epoch, from 0."
            )
        self.num_iters, self.queue_len = num_iters, queue_len
        use = Schedule("step", 0, 1, queue_start, "epoch", "the queue (queue_start)")
        self.queue_use = use
        self.schedules = (use,) if queue_len else ()

    def attach(self, method: Method) -> None:
        """Make the prototypes and the queue."""
        super().attach(method)
        if self.queue_len:
            views = len(method.target_views)
            self.queue = KeyQueue(self.queue_len, method.dim, groups=views)
            self.queued = StepCounter()

    def start(self, training: Any) -> None:
        """Begin anew in a new run, and say where prototypes are left without images."""
        super().start(training)
        if self.queue_len and training.iteration == 0:  # of the run that was loaded
            self.queued.set(0)

    def rows_of(self, batch: int) -> int:
        """Images that are balanced at once at most."""
        return batch + self.queue_len

    def counts_queue(self, method: Method) -> bool:
        """Whether the queue is full, and its time has come."""
        full = bool(self.queue_len) and self.queued.num_steps >= self.queue_len
        return full and bool(self.queue_use(method.clock))

    def codes(self, method: Method, scores: Tensor) -> Tensor:
        """Balanced codes."""
        count = scores.shape[1]
        if self.counts_queue(method):
            share = self.queue.keys[:, get_rank() :: get_world_size()]  # V x K/W x D
            scores = torch.cat([self.prototypes(share).to(scores), scores], 1)
        return sinkhorn(scores, self.epsilon, self.num_iters)[:, -count:]

    def collect(self, method: Method, step: Step) -> Features:
        """The embeddings of the target views, N x V x D."""
        if not self.queue_len:
            return {}
        views = [step.target[b]["embedding"].detach() for b in method.target_views]
        return {"keys": torch.stack(views, 1)}

    def remember(self, found: Features) -> None:
        """Put them into the queue."""
        self.queue.enqueue(found["keys"])
        self.queued.count_step(len(found["keys"]) * get_world_size())
