"""How a method is put together from its choices."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import torch
from mmengine.model import ModuleDict
from torch import Tensor, nn

from mmssl_ext.errors import UserValueError
from mmssl_ext.old_names import rename_0_1

from ..comparisons import Comparison
from ..layers import protect_batch_norm
from ..memory.clock import Clock
from ..part import (
    Features,
    Part,
    build_part,
    one_of,
)
from ..schedules import Schedule, schedule
from ..targets import Target
from ..terms.base import Term, build_term
from .base import SSLAlgorithm
from .choices import by_name, configs, embedding_size, read_pairs
from .crops import Crops
from .grouping import read_grouping
from .inspection import inspect_shares, inspect_terms


class Assembly(SSLAlgorithm):
    """The parts of a :class:`Method`, and how it hears of its run.

    Args:
        backbone: Config of the backbone.
        neck: Config of the projector.
        target: Config of the target, e.g. ``MomentumTarget``.
        compare: Config of the comparison, e.g. ``QueueSoftmax``.
        terms: Configs of the terms, e.g. ``Consistency``; ``weight`` in one of them is
            the weight of its loss.
        weights: Of the losses by name: a number, or a
            :class:`~mmssl_ext.models.schedules.Schedule`.
        pairs: Which views meet: (query, target) by number, ``((0, 1),)`` in one
            direction, ``((0, 1), (1, 0))`` in both; or how many crops there are,
            ``dict(locals=6)``, see :class:`~mmssl_ext.models.algorithms.Crops`.
        grouping: ``view``: each view goes through the network alone, with BatchNorm
            statistics of its own; ``size``: views of one size go together; ``joint``:
            they do so through the backbone, and all together through the projector.
        reduce: ``mean`` or ``sum`` of the losses of the pairs.
        bn_splits: Protect targets against the leak of BatchNorm: groups of the batch
            with statistics of their own when training runs on one device; 1 leaves
            plain BatchNorm. Groups below 16 images make the statistics noisy. Several
            devices shuffle the targets among themselves instead. None: no protection.
        feat_dim: Size D of the embedding, where it does not follow from the projector.
        data_preprocessor: Config of the preprocessor, ``MultiViewPreprocessor``.
        init_cfg: As for every mmengine module.

    Attributes:
        compare: The comparison.
        terms: The terms by name.
        target: The target.
        weights: Schedules by the name of the loss.
        pairs: (query view, target view).
        crops: What ``pairs`` follow from, or None.
        dim: Size D of the embedding.
        channels: Of the backbone's last map, None where it does not say.
        extra_views: What the target network encodes besides target views.
        shuffles: Target views are encoded in another order than query views.
        clock: Which iteration it is.
        waiting: What the iterations of the optimizer's step under way want remembered.
        plain_views: A view is one image.

    Raises:
        ValueError: The choices do not fit each other, or a value is out of its range.
    """

    plain_views = True
    extra_views: tuple[int, ...] = ()
    compare: Comparison
    target: Target

    def __init__(
        self,
        backbone: dict,
        neck: dict,
        target: dict,
        compare: dict,
        terms: Sequence[dict] = (),
        weights: Mapping[str, Any] | None = None,
        pairs: Any = ((0, 1),),
        grouping: str = "view",
        reduce: str = "mean",
        bn_splits: int | None = None,
        feat_dim: int | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(backbone, neck, None, data_preprocessor, init_cfg)
        self.target = build_part("target", target, Target)
        self.crops = Crops.read(pairs) if isinstance(pairs, Mapping) else None
        own = self.target.takes_own_view
        self.pairs = self.crops.pairs if self.crops else read_pairs(pairs, own)
        self.num_views = max(self.num_views, 1 + max(map(max, self.pairs)))
        self.grouping = read_grouping(grouping, self.plain_views)
        self.reduce = one_of("reduce", reduce, ("mean", "sum"))
        self.channels: int | None = getattr(self.backbone, "feat_dim", None)
        self.dim = self.check_sizes(feat_dim)
        self.compare = build_part("compare", compare, Comparison)
        self.terms: Any = ModuleDict()  # of Terms; mmengine's, which initialises them
        self.weights = self._build_terms(terms, by_name(weights))
        self.clock = Clock()
        for part in self.losing.values():
            part.attach(self)
        self.shuffles = bn_splits is not None and protect_batch_norm(
            self.parts, bn_splits
        )
        self.target.attach(self)
        self.waiting: list[dict[str, Features]] = []

    def _build_terms(
        self, terms: Sequence[dict], weights: dict[str, Any]
    ) -> dict[str, Schedule]:
        """Build the terms; weights by the name of the loss."""
        for config in configs(terms):
            term = build_term(config)
            if term.name in {*self.terms, *self.compare.names}:
                raise UserValueError(
                    f"{type(self).__name__} has two losses of the name {term.name!r}; "
                    "leave one of the terms out."
                )
            if term.weight is not None and term.name in weights:
                raise UserValueError(
                    f"The weight of {term.name} is given twice, as weights."
                    f"{term.name} and as weight of the term; leave one out."
                )
            if term.weight is not None:
                weights[term.name] = schedule(term.weight, f"{term.name}.weight")
            self.terms[term.name] = term
        known = [*self.compare.names, *self.terms]
        if unknown := sorted(set(weights) - set(known)):
            raise UserValueError(
                f"weights has {unknown[0]!r}, but the losses of {type(self).__name__} "
                f"are {', '.join(known)}."
            )
        read = {n: schedule(weights.get(n, 1.0), f"weights.{n}") for n in known}
        if not any(weight.start or weight.end for weight in read.values()):
            raise UserValueError(
                f"All weights of {type(self).__name__} are 0, so nothing would be "
                "trained; give one of its losses a weight."
            )
        return read

    def _preprocessing(self, config: dict | None) -> dict:
        """Views come in uint8 and are normalised in one place, :meth:`prepare`."""
        found = super()._preprocessing(config)
        ours = str(found["type"]).rpartition(".")[2] == "MultiViewPreprocessor"
        return {"for_method": True, **found} if ours else found

    @property
    def losing(self) -> dict[str, Part]:
        """The comparison and the terms, what has a loss, by name."""
        return {"compare": self.compare, **self.terms}

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The trained modules that a target network has copies of."""
        found = {"backbone": self.backbone, "neck": self.neck}
        for part in self.losing.values():
            found |= part.parts()
        return found

    @property
    def schedules(self) -> list[Schedule]:
        """What changes in the course of a training."""
        momentum = getattr(self.target, "momentum", None)
        of_parts = [found for part in self.losing.values() for found in part.schedules]
        of_target = [] if momentum is None else [momentum]
        return [*self.weights.values(), *of_parts, *of_target]

    @property
    def query_views(self) -> list[int]:
        """Numbers of the views that the online network compares, in order."""
        return list(dict.fromkeys(a for a, _ in self.pairs))

    @property
    def target_views(self) -> list[int]:
        """Numbers of the views that they are compared with."""
        return list(dict.fromkeys(b for _, b in self.pairs))

    @property
    def needs_boxes_of(self) -> list[int]:
        """Numbers of the views whose ``boxes`` a term reads."""
        some = any(term.needs_boxes for term in self.terms.values())
        return sorted({*self.query_views, *self.target_views}) if some else []

    @property
    def needs_objects(self) -> bool:
        """Whether a term compares objects."""
        return any(term.needs_objects for term in self.terms.values())

    def active(self) -> list[Term]:
        """The terms that count in this iteration, or must have a gradient in each."""

        def counts(name: str, term: Term) -> bool:
            trained = term.always or any(p.requires_grad for p in term.parameters())
            return trained or self.weights[name](self.clock) != 0

        return [term for name, term in self.terms.items() if counts(name, term)]

    def over_pairs(self, losses: Sequence[Tensor]) -> Tensor:
        """Sum or mean of the losses of the pairs, as the method and their share say."""
        if self.crops and (shares := self.crops.weights):
            losses = [len(shares) * w * x for w, x in zip(shares, losses, strict=True)]
        total = sum(losses[1:], losses[0])
        return total / len(losses) if self.reduce == "mean" else total

    @property
    def target_encoder(self) -> Any:
        """What encodes target views: the target network, or the online network."""
        return self.target if self.target.encodes else self

    @property
    def negatives(self) -> Tensor | None:
        """The K x D keys that queries are told apart from, None without a queue."""
        return self.compare.negatives

    def targets(self, step: Any, name: str) -> Tensor:
        """A feature of all targets, constant, one view after the other."""
        found = (step.target[b][name].detach() for b in self.target_views)
        return torch.cat(list(found))

    def adopt_names(self, state: MutableMapping[str, Tensor]) -> None:
        """Let a state that version 0.1 wrote have the names of now, in place."""
        rename_0_1(state)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        if not prefix:
            self.adopt_names(state_dict)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def init_weights(self) -> None:
        """Initialise the network; the target follows."""
        super().init_weights()
        self.target.follow(self)

    def weight_of(self, part: str, until: int = 0) -> float:
        """What the losses of a part count at most, now and before iteration ``until``.

        Weights only rise or only fall.
        """
        names = self.compare.names if part == "compare" else (part,)
        now = self.clock.num_steps
        ends = {now, max(now, until - 1)}
        every = (self.weights[name].at(i, self.clock) for name in names for i in ends)
        return max(every, default=0.0)

    def start(self, training: Any) -> None:
        """Before the first step of a run.

        Args:
            training: What the run tells a model, ``engine.training.Training``.

        Raises:
            ValueError: The run does not suit the method.
        """
        for part in self.losing.values():
            part.start(training)
        self.target.start(self)
        for value in self.schedules:
            value(self.clock)  # a schedule that cannot be read is refused here
            if value.comes_too_late(self.clock):
                training.logger.warning(
                    f"{value.name} stays 0 in this training of {self.clock.total} "
                    f"iterations, since it begins at {value.unit} {value.until:g}; "
                    "lower until if it is to count."
                )
        self._warn_of_idle_parts(training)
        self.waiting.clear()  # of a training that ended between two steps

    def _warn_of_idle_parts(self, training: Any) -> None:
        total, length = self.clock.total, self.clock.epoch_length
        epochs = total / length if total and length else None
        for part in self.losing.values():
            if epochs is not None and epochs <= part.first_epoch:
                training.logger.warning(
                    f"{type(part).__name__} begins after epoch {part.first_epoch}, but "
                    f"this training ends with epoch {epochs:g}, so that it does "
                    "nothing; lower its interval or warm-up if it is to count."
                )

    def start_epoch(self, training: Any) -> None:
        """Before an epoch: banks are filled when their time has come."""
        if self.clock.num_steps >= training.epoch_end:
            return  # resumed behind its last iteration; only its end is left
        for name, part in self.losing.items():
            part.start_epoch(training, self.weight_of(name, training.epoch_end))

    def end_epoch(self, training: Any) -> None:
        """After an epoch: pseudo-labels follow."""
        for part in self.losing.values():
            part.end_epoch(training)

    def drop_frozen(self, iteration: int) -> None:
        """Before a step of the optimizer: what is frozen for now has no gradient."""
        for part in self.losing.values():
            for frozen in part.frozen(iteration, self.clock):
                frozen.grad = None

    @torch.no_grad()
    def check_inputs(self, inputs: Any) -> None:
        """Try one batch; see :class:`SSLAlgorithm`."""
        super().check_inputs(inputs)
        given = dict(enumerate(self.views_of(inputs)))
        self.look(given, self.terms.values())
        self.target.check_inputs(
            self, [given[b] for b in (*self.target_views, *self.extra_views)]
        )
        for part in self.losing.values():
            part.check_inputs(self, [given[a] for a in self.query_views])

    @torch.no_grad()
    def inspect(self, inputs: Any, objects: Any = None) -> dict[str, Any]:
        """What a term makes of the views, or which images a target stands for.

        For :mod:`mmssl_ext.visualization`; ``objects`` as in a step. Of several terms
        the last that has something to draw.

        Raises:
            ValueError: The method has nothing to draw.
        """
        self.check_views(inputs)
        found = inspect_terms(self, inputs, objects) or inspect_shares(self, inputs)
        return found or super().inspect(inputs)

    def check_shapes(self, shapes: list[tuple[int, ...]]) -> None:
        """Refuse views that are no images, or small crops where large ones belong."""
        super().check_shapes(shapes)
        if self.crops:
            self.crops.check(shapes)

    def check_sizes(self, feat_dim: int | None = None) -> int:
        """Compare the projector with the backbone; returns the embedding's size D."""
        self.channels, dim = embedding_size(
            self.neck, self.backbone, self.channels, feat_dim
        )
        return dim
