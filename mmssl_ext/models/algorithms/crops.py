"""Multi-crop: several small crops of an image beside its large ones (SwAV, 2006.09882).

Large crops come first. Every crop is a query, and meets the large ones but itself:

    pairs = {(v, t): v in all V crops, t in the targets, v != t}          2 (V - 1)
    L = 1 / (2 (V - 1)) sum of their losses, or
    L = share * mean over pairs of large crops + (1 - share) * mean over the others
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mmssl_ext.errors import UserValueError

from ..part import is_number


class Crops(NamedTuple):
    """How many crops an image has, and which of them meet: ``pairs=dict(locals=6)``.

    Attributes:
        locals: Number of small crops.
        globals: Number of large crops.
        targets: How many of these are targets, counted from the last; None is all. 1
            is MoCo's one direction, where a queue takes one key of each image.
        share: What the pairs of two large crops count together, in (0, 1), and the
            other pairs the rest (SSLight: 0.4 for small networks). None: all pairs
            count alike.
    """

    locals: int = 0
    globals: int = 2
    targets: int | None = None
    share: float | None = None

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Crops:
        """The crops that ``pairs`` says.

        Raises:
            ValueError: It says something else besides, or no such crops.
        """
        if unknown := sorted(set(given) - set(cls._fields)):
            raise UserValueError(
                f"pairs={dict(given)!r} has {unknown[0]!r}, but knows "
                f"{', '.join(cls._fields)}."
            )
        crops = cls(**given)
        targets = crops.globals if crops.targets is None else crops.targets
        counts = (crops.locals, crops.globals, targets)
        whole = all(type(n) is int for n in counts)
        some = whole and crops.locals >= 0 and crops.globals + crops.locals > 1
        if not some or not 0 < targets <= crops.globals:
            raise UserValueError(
                f"pairs={dict(given)!r} must count crops of which two can meet: "
                "locals from 0, globals from 1, targets from 1 to globals; "
                "dict(locals=6) is the usual."
            )
        found = crops._replace(targets=targets)
        kinds = {a < found.globals for a, _ in found.pairs}
        number = is_number(found.share) and 0 < (found.share or 0) < 1
        if found.share is not None and not (number and len(kinds) == 2):
            raise UserValueError(
                f"pairs={dict(given)!r}: share divides the loss between pairs of two "
                "large crops and pairs with a small one, so both must exist and it "
                "must lie between 0 and 1; leave it out where all pairs count alike."
            )
        return found

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """(query, target) by number; of two large crops ((0, 1), (1, 0))."""
        targets = range(self.globals - (self.targets or 0), self.globals)
        every = range(self.globals + self.locals)
        return tuple((v, t) for v in every for t in targets if v != t)

    @property
    def weights(self) -> tuple[float, ...] | None:
        """Of the pairs, 1 together; None where all count alike."""
        if self.share is None:
            return None
        large = [a < self.globals for a, _ in self.pairs]
        each = {True: self.share / sum(large)}
        each[False] = (1 - self.share) / (len(large) - sum(large))
        return tuple(each[kind] for kind in large)

    def check(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """Compare what the pipeline cuts; ``shapes`` of a crop each, ... x H x W.

        Raises:
            ValueError: Large crops do not come first.
        """
        sizes = [shape[-2:] for shape in shapes]
        first, others = sizes[: self.globals], sizes[self.globals :]
        area = first[0][0] * first[0][1]
        if len(set(first)) > 1 or any(h * w > area for h, w in others):
            listed = ", ".join(f"{h} x {w}" for h, w in sizes)
            raise UserValueError(
                f"pairs say that the first {self.globals} crops of an image are the "
                f"large ones, but their sizes are {listed}; let MakeViews cut the "
                "large ones first."
            )
