"""Which rows of a bank CMSF takes neighbours of (arXiv 2112.04607): the interface."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mmssl_ext.errors import UserValueError

from ..memory import FeatureBank, KeyQueue
from ..memory.clock import positions
from ..part import Part, is_number


class Constraint(Part):
    """A set of the bank's rows for each target, out of which neighbours are taken.

    Args:
        share: What they count beside the k nearest of the whole bank, 0 to 1; 0 is MSF.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: ``share`` is outside [0, 1].
    """

    def __init__(self, share: float = 0.5, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        if not is_number(share) or not 0 <= share <= 1:
            raise UserValueError(
                f"constraint.share={share!r} is what the constrained neighbours count "
                "beside the nearest ones and must lie in [0, 1]; 0 is MSF."
            )
        self.share = share

    @property
    def rows(self) -> KeyQueue:
        """The bank of ``MeanShift``, m x D; not a module of this one."""
        return self._rows[0]

    def join(self, rows: KeyQueue, dtype: str) -> None:
        """Know the bank, and make what is kept besides."""
        self._rows = (rows,)  # in a tuple: no module of this one

    def __len__(self) -> int:
        """Number of the dataset's images; 0 before :meth:`start`."""
        raise NotImplementedError

    def positions(self, index: Tensor | None) -> Tensor:
        """Positions of a step's images in the dataset, N.

        Raises:
            ValueError: They are not known, or not in the dataset.
        """
        if len(self) == 0:
            raise UserValueError(
                f"{type(self).__name__} does not know the dataset yet. SSLRunner and "
                "MethodHook let it; in a loop of your own call compare.constraint."
                "prepare before the first step."
            )
        return positions(index, len(self), f"The constraint {type(self).__name__}")

    def follow(self, keys: Tensor, index: Tensor) -> None:
        """Take the targets of a step, M x D, and the positions of their images, M."""

    def choose(self, u: Tensor, index: Tensor | None, k: int, place: int) -> Tensor:
        """Rows of the bank for each target, different ones, -1 where there is none.

        Args:
            u: Targets of a view, N x D.
            index: Positions of their images, N.
            k: How many neighbours are looked for; more need not be returned.
            place: Of the view among the target views.

        Returns:
            N x s, in any order.
        """
        raise NotImplementedError


class KeepsTargets(Constraint):
    """A constraint that keeps the last target of every image.

    Args:
        dtype: Of what it keeps; None is that of the bank.
        share: See :class:`Constraint`.
        init_cfg: As for every mmengine module.
    """

    last: FeatureBank

    def __init__(
        self,
        dtype: str | None = None,
        share: float = 0.5,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(share, init_cfg)
        self.dtype = dtype

    def join(self, rows: KeyQueue, dtype: str) -> None:
        """Make the bank of all images."""
        super().join(rows, dtype)
        self.last = FeatureBank(rows.keys.shape[1], dtype=self.dtype or dtype)

    def __len__(self) -> int:
        return len(self.last)

    def prepare(self, length: int, fingerprint: int = 0) -> None:
        """Begin with a dataset of so many images."""
        self.last.reserve(length, fingerprint)

    def start(self, training: Any) -> None:
        """Find out about the images, or check that they are those of the checkpoint."""
        images = training.dataset
        if training.iteration == 0 or not len(self):
            self.prepare(len(images), images.fingerprint())
        self.last.check(images.fingerprint())

    def follow(self, keys: Tensor, index: Tensor) -> None:
        """Keep the targets by image."""
        self.last.update(index, keys)
