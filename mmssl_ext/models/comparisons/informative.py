"""Prototypes by mutual information with the images (MIRA)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from ..losses import informative_codes
from ..part import check_positive, is_count
from ..schedules import schedule
from .prototypes import PrototypeSoftmax

if TYPE_CHECKING:
    from ..algorithms.method import Method


@MODELS.register_module()
class InformativePrototypes(PrototypeSoftmax):
    """Codes of each target view by :func:`~mmssl_ext.models.losses.informative_codes`.

    Args:
        num_prototypes: M.
        temperature: T of the predictions.
        target_temperature: Of the targets.
        beta: Weight of the mutual information, a number or a schedule.
        num_iters: Of its iteration.
        frozen_epochs: Epochs in which the prototypes are not trained, at first.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: A value is out of its range.
    """

    def __init__(
        self,
        num_prototypes: int = 3000,
        temperature: float = 0.1,
        target_temperature: float = 0.225,
        beta: Any = 2 / 3,
        num_iters: int = 30,
        frozen_epochs: float = 1,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(num_prototypes, temperature, frozen_epochs, init_cfg=init_cfg)
        check_positive("target_temperature", target_temperature)
        self.target_temperature = target_temperature
        self.beta = schedule(beta, "beta")
        for value in (self.beta.start, self.beta.end):
            if not 0 <= value < 1:
                raise UserValueError(
                    f"beta={value} must be 0 or more and below 1, where the codes "
                    "would be infinitely hard; 0.75 to 2/3 are usual."
                )
        if not is_count(num_iters):
            raise UserValueError(
                f"num_iters={num_iters!r} must be a whole number above 0; 30 is usual."
            )
        self.num_iters, self.schedules = num_iters, (self.beta,)

    def codes(self, method: Method, scores: Tensor) -> Tensor:
        """Codes of the most mutual information."""
        beta = self.beta(method.clock)
        return informative_codes(scores, self.target_temperature, beta, self.num_iters)
