"""Prototypes: the views of an image must be assigned alike (SwAV, MIRA, DINO)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from mmssl_ext.errors import UserValueError

from ..layers.prototypes import Prototypes
from ..memory.code_usage import CodeUsage
from ..part import check_positive
from .base import Comparison

if TYPE_CHECKING:
    from ..algorithms.method import Method, Step
    from ..memory.clock import Clock


class PrototypeSoftmax(Comparison):
    """Each view must predict the codes of its image's target views.

        s_v = z_v C^T                                    N x M, cosines
        L = mean over pairs (v, t) of mean_n  - sum_m q_t[n, m] log_softmax(s_v / T)

    A method says by :meth:`codes` what the codes q of the target views are. Where the
    target network has a copy of ``prototypes`` (a method lists them in ``parts``, as
    DINO, whose copy is averaged), targets are compared with that, else with the
    student's as they are in this step.

    Args:
        num_prototypes: M.
        temperature: T.
        frozen_epochs: See :class:`~mmssl_ext.models.layers.prototypes.Prototypes`.
        in_place: See there.
        init_cfg: As for every mmengine module.

    Attributes:
        prototypes: C.
        usage: How the codes use them, for the monitor.

    Raises:
        ValueError: A value is out of its range.
    """

    targets_learn = False
    prototypes: Prototypes

    def __init__(
        self,
        num_prototypes: int = 3000,
        temperature: float = 0.1,
        frozen_epochs: float = 1,
        in_place: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.temperature = check_positive("temperature", temperature)
        self.options = num_prototypes, in_place, frozen_epochs

    def attach(self, method: Method) -> None:
        """Make the prototypes."""
        super().attach(method)
        number, in_place, frozen_epochs = self.options
        self.prototypes = Prototypes(number, method.dim, in_place, frozen_epochs)
        self.usage = CodeUsage(number)

    def start(self, training: Any) -> None:
        """Begin to sum up anew in a new run; say where prototypes get no images.

        Raises:
            ValueError: There is one image to a step, whose code would be uniform.
        """
        if training.iteration == 0:  # load_from may have brought another run's
            self.usage.read()
        batch, number = training.batch_size, self.prototypes.out_features
        if batch is None or self.rows_of(batch) >= number:
            return
        if self.rows_of(batch) < 2:
            raise UserValueError(
                "The prototypes are shared out among the images of a step, of which "
                "there is one; raise train_dataloader.batch_size."
            )
        training.logger.warning(
            f"{number} prototypes are shared out among {self.rows_of(batch)} images at "
            "a time, so that some get none in each step. That is usual, but where the "
            "monitor says that few are used, lower num_prototypes, or raise the batch "
            "or a queue's length."
        )

    def rows_of(self, batch: int) -> int:
        """Images that share the prototypes in a step of so many images."""
        return batch

    def frozen(self, iteration: int, clock: Clock) -> list[Tensor]:
        """The prototypes at first."""
        return self.prototypes.frozen_at(iteration, clock)

    def codes(self, method: Method, scores: Tensor) -> Tensor:
        """Codes of the target views, V x N x M, constant; the entries of each sum to 1.

        Args:
            method: That it belongs to.
            scores: Cosines of the embeddings of the target views with the prototypes,
                V x N x M, constant.
        """
        raise NotImplementedError

    def forward(self, method: Method, step: Step) -> dict[str, Tensor]:
        """Mean cross-entropy of the pairs."""
        if self.training:
            self.prototypes.normalise()
        codes = self.codes_of_targets(method, step)
        self.usage.add(torch.stack(list(codes.values())))
        shares = {}
        for a in method.query_views:  # once for all targets of a view
            scores = self.prototypes(step.online[a]["embedding"])  # N x M
            shares[a] = log_softmax(scores / self.temperature, 1)
        losses = [-(codes[b] * shares[a]).sum(1).mean() for a, b in method.pairs]
        return {"instance": method.over_pairs(losses)}

    @torch.no_grad()
    def codes_of_targets(self, method: Method, step: Step) -> dict[int, Tensor]:
        """Codes by target view, N x M each."""
        prototypes: Any = getattr(method.target_encoder, "prototypes", self.prototypes)
        views = method.target_views
        embeddings = [step.target[b]["embedding"].detach() for b in views]
        if not len(embeddings[0]):
            raise UserValueError(
                "A rank got a batch without images, and the codes are those of the "
                "images of all ranks; set drop_last=True of train_dataloader."
            )
        scores = prototypes(torch.stack(embeddings))  # V x N x M
        return dict(zip(views, self.codes(method, scores), strict=True))
