"""Several neighbours of a cell as its positives, in place of DenseCL's one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from ..losses import neighbour_cells, several_positives, take_cells
from ..part import is_count
from .dense import Dense

if TYPE_CHECKING:
    from ..algorithms.method import Method, Step


@MODELS.register_module()
class DenseNeighbours(Dense):
    """Each cell must pick the cells of the other view that look most like it.

    As :class:`Dense`, with ``num_neighbours`` positives, each against the queue alone
    and their losses averaged. With one of them it is :class:`Dense`.

    Args:
        num_neighbours: n.
        mutual: A neighbour counts only if the cell is one of its neighbours, too; cells
            without any count 0.
        **kwargs: As for :class:`Dense`.

    Raises:
        ValueError: ``num_neighbours`` is no whole number above 0.
    """

    def __init__(
        self, num_neighbours: int = 4, mutual: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not is_count(num_neighbours):
            raise UserValueError(
                f"num_neighbours={num_neighbours!r} of the term DenseNeighbours must "
                "be a whole number above 0; 1 is DenseCL's match."
            )
        self.num_neighbours, self.mutual = num_neighbours, mutual

    def forward(self, method: Method, step: Step) -> Tensor:
        """Mean over images, cells and neighbours of InfoNCE.

        Raises:
            ValueError: A view has fewer cells than there are to be neighbours.
        """
        losses, n = [], self.num_neighbours
        for a, b in method.pairs:
            query, key = step.online[a], step.target[b]
            if n > (fewest := min(x["cells"].shape[1] for x in (query, key))):
                raise UserValueError(
                    f"num_neighbours={n} of the term DenseNeighbours cannot be found "
                    f"among {fewest} cells of a view; lower it."
                )
            index, kept = neighbour_cells(query["cells"], key["cells"], n, self.mutual)
            t = take_cells(key["dense"].detach(), index.flatten(1))  # N x S^2 n x D
            r = query["dense"].flatten(0, 1)  # N*S^2 x D
            t, kept = t.reshape(len(r), n, -1), kept.reshape(len(r), n)
            assert self.temperature is not None
            rows = several_positives(r, t, kept, self.queue.keys, self.temperature)
            losses.append(rows.mean())
        return method.over_pairs(losses)
