"""The interface of terms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmengine.model import ModuleDict
from torch import Tensor

from mmssl_ext.errors import UserValueError

from ..comparisons import Comparison
from ..memory import KeyQueue
from ..part import Features, Part, build_part
from ..targets.base import View

if TYPE_CHECKING:
    from ..algorithms.method import Method, Step


QUEUE_LEN = 4096  # keys of a term's own queue, on a base without one


class Term(Part):
    """Base of the terms: one more loss on the features of a step.

    Args:
        weight: Of the loss: a number, or a
            :class:`~mmssl_ext.models.schedules.Schedule`. None is 1, or what
            ``weights`` of the method says.
        init_cfg: As for every mmengine module.

    Attributes:
        weight: Of the loss, as the config gives it: a number, a schedule, or None.
        name: Of the loss; in the log ``raw_<name>``, and times its weight
            ``loss_<name>``.
        always: Computed even while its weight is 0, like every term with parameters of
            its own: DistributedDataParallel wants a gradient for all in every step.
        needs_features: Reads features of the target beside its embedding.
        needs_boxes: Compares places of the image; a pipeline that does not say where
            the views were cut is then refused before training.
        needs_objects: Likewise of boxes of objects.
    """

    name = "term"
    always = False
    needs_features = False
    needs_boxes = False
    needs_objects = False

    def __init__(self, weight: Any = None, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.weight = weight

    def check_views(self, method: Method) -> None:
        """Refuse methods whose views are not one image each."""
        if not method.plain_views:
            raise UserValueError(
                f"The term {type(self).__name__} looks at whole images, but a view of "
                f"{type(method).__name__} is more than one; leave the term out."
            )

    def check_pair(self, method: Method) -> None:
        """Refuse comparisons that say no loss of a pair."""
        compare = type(method.compare)
        if compare.pair is Comparison.pair:
            raise UserValueError(
                f"The term {type(self).__name__} compares more queries as the base "
                f"compares a pair, which {compare.__name__} does not say; define its "
                "pair, or leave the term out."
            )

    def features(self, encoder: Any, maps: Any, outputs: Any) -> Features:
        """What the term needs of a view, by name, N rows each.

        Args:
            encoder: The method or its target; has the parts as attributes.
            maps: Output of the backbone.
            outputs: Output of the neck.
        """
        return {}

    def look(self, method: Method, number: int, view: View) -> Features:
        """More passes of the online network, right after that of view ``number``."""
        return {}

    def look_at_target(self, method: Method, number: int, view: View) -> Features:
        """More passes over target view ``number``, by networks of the term's own."""
        return {}

    def forward(self, method: Method, step: Step) -> Tensor:
        """The loss, a scalar, not weighted."""
        raise NotImplementedError

    def inspect(self, method: Method, inputs: list[Tensor]) -> dict[str, Any]:
        """What can be drawn of the term, for :mod:`mmssl_ext.visualization`."""
        return {}


class OwnQueue(Term):
    """A term that compares with a queue of targets: the base's, or one of its own.

    Args:
        queue_len: Keys of its own queue, on a base without one; None is 4096.
        weight: See :class:`Term`.
        init_cfg: As for every mmengine module.
    """

    def __init__(
        self,
        queue_len: int | None = None,
        weight: Any = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(weight, init_cfg)
        self.queue_len = queue_len

    def attach(self, method: Method) -> None:
        """Make a queue where the base has none.

        Raises:
            ValueError: It is to have a length, but there is one already.
        """
        if method.negatives is None:
            dim = method.target.dim or method.dim
            length = QUEUE_LEN if self.queue_len is None else self.queue_len
            self.queue = KeyQueue(length, dim)
        elif self.queue_len is not None:
            raise UserValueError(
                f"The term {self.name} compares with the queue of the base, whose "
                f"length is model.queue_len; leave {type(self).__name__}.queue_len out."
            )

    def keys(self, method: Method) -> Tensor:
        """The queue, K x D."""
        keys = self.queue.keys if hasattr(self, "queue") else method.negatives
        assert keys is not None
        return keys

    def collect(self, method: Method, step: Step) -> Features:
        """The targets of the step, for a queue of its own."""
        if not hasattr(self, "queue"):
            return {}
        return {"keys": method.targets(step, "embedding")}

    def remember(self, found: Features) -> None:
        """Let the targets be in the queue from the next step on."""
        self.queue.enqueue(found["keys"])


def build_term(config: Any) -> Term:
    """Build a term.

    Raises:
        ValueError: It is none, or has a name that modules, logs and options of the
            command line cannot have.
    """
    term: Term = build_part("terms", config, Term)
    word = isinstance(term.name, str) and term.name.isidentifier()
    if not word or term.name == "compare" or hasattr(ModuleDict(), term.name):
        raise UserValueError(
            f"The loss of {type(term).__name__} cannot be named {term.name!r}; let "
            "name be a word of letters, digits and underscores that is neither "
            "'compare' nor an attribute of a ModuleDict."
        )
    return term
