"""The step of every method, once.

    views -> online features -> target features -> compare and terms -> remember

A method is a choice of five things: the **target** (momentum copy, the network itself
with or without gradient, a teacher), the **comparison** (softmax over a queue or the
batch, regression through a predictor), the **terms** that are added, which views meet
(**pairs**), and the **weights** of the losses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mmssl_ext.datasets.transforms.objects import Objects
from mmssl_ext.registry import MODELS

from ..layers import unit
from ..memory.clock import indices
from ..part import Features
from ..targets.base import View
from ..terms import Term
from .assembly import Assembly
from .choices import check_scalars, named_losses
from .grouping import encode_groups, groups_of


@dataclass(frozen=True)
class Step:
    """One step of any method.

    Attributes:
        views: What the online network sees by number, N x 3 x H x W, normalised.
        boxes: Crop of each view in its image, N x V x 4, relative; x0 > x1 where it is
            mirrored. None where the pipeline does not tell.
        index: Position of every image in the dataset, N, or None.
        online: Features by view: ``projection`` (N x D), ``embedding`` (unit rows, what
            is compared), and those of the terms.
        target: Likewise of the target views.
        figures: More to be logged; scalars, constant.
        objects: Boxes that all views show, or None where the pipeline finds none.
    """

    views: dict[int, View]
    boxes: Tensor | None
    index: Tensor | None
    online: dict[int, Features]
    target: dict[int, Features]
    figures: dict[str, Tensor]
    objects: Objects | None = None


@MODELS.register_module()
class Method(Assembly):
    """A method by its choices; the named ones are classes that make them.

    Arguments are those of :class:`~mmssl_ext.models.algorithms.assembly.Assembly`.
    """

    def loss(
        self,
        inputs: Sequence[Tensor],
        data_samples: Any = None,
        boxes: Tensor | None = None,
        index: Tensor | None = None,
        objects: Objects | None = None,
    ) -> dict[str, Tensor]:
        """Losses of one batch.

        Args:
            inputs: Views of N images, N x 3 x H x W each; uint8 or normalised.
            data_samples: Say which image is which, where ``index`` does not.
            boxes: See :class:`Step`.
            index: See :class:`Step`.
            objects: See :class:`Step`.

        Returns:
            ``loss_<name>`` of every loss, times its weight, which are to be summed;
            ``raw_<name>`` without it, and other figures. Scalars.
        """
        self.check_views(inputs)
        if index is None:
            index = indices(data_samples, inputs[0].device)
        step = replace(self.step(inputs, boxes, index), objects=objects)
        self.remember_first(step)
        raw = named_losses(self.compare, self.compare(self, step))
        raw |= {term.name: term(self, step) for term in self.active()}
        check_scalars(raw)
        losses = self.weigh(raw) | step.figures
        self.remember(step)
        a, b = self.pairs[0]
        self.last_embeddings = {"query": unit(step.online[a]["projection"].detach())}
        if self.target.dim in (None, self.dim):
            self.last_embeddings["key"] = step.target[b]["embedding"].detach()
        self.clock.count_step()
        return losses

    def step(
        self,
        inputs: Sequence[Tensor],
        boxes: Tensor | None = None,
        index: Tensor | None = None,
    ) -> Step:
        """Encode the views: the online network, then the target."""
        given = dict(enumerate(self.views_of(inputs)))
        terms = self.active()
        views, online = self.look(given, terms)
        # Shuffled targets change ranks as they came, in uint8.
        ready = {} if self.shuffles else views
        encoded = (*self.target_views, *self.extra_views)
        targets = {b: ready.get(b, given[b]) for b in encoded}
        self.target.index = index
        target = self.target.features(self, targets, online)
        for b, view in targets.items():
            for term in terms:
                target[b] |= term.look_at_target(self, b, view)
        return Step(views, boxes, index, online, target, {})

    def look(
        self, given: Mapping[int, View], terms: Iterable[Term]
    ) -> tuple[dict[int, View], dict[int, Features]]:
        """Normalised views and their features by the online network."""
        seen = {*self.query_views, *(self.target_views if self.target.is_own else ())}
        views = {v: self.prepare(given[v]) for v in sorted(seen)}
        online = self.encode_all(self, views, terms)
        for v, features in online.items():
            z = features["projection"]
            asked = v in self.query_views
            features["embedding"] = unit(self.compare.predict(z) if asked else z)
        return views, online

    def views_of(self, inputs: Sequence[Tensor]) -> Sequence[View]:
        """What is encoded as one view each, in the order that ``pairs`` counts."""
        return inputs

    def prepare(self, view: View) -> View:
        """Normalise a view, the one place where that happens in training."""
        if not isinstance(view, Tensor):
            return tuple(self.prepare(x) for x in view)
        return (
            view if view.is_floating_point() else self.data_preprocessor.normalise(view)
        )

    def encode_all(
        self, encoder: Any, views: Mapping[int, View], terms: Iterable[Term] = ()
    ) -> dict[int, Features]:
        """Features of views by number, as the ``grouping`` says.

        Args:
            encoder: What has the ``parts`` as attributes: the method or its target.
            views: N x 3 x H x W each.
            terms: That look at each view besides.
        """
        groups = groups_of(views, self.grouping)
        images = [[self.prepare(views[v]) for v in members] for members in groups]
        batches = [some[0] if len(some) == 1 else torch.cat(some) for some in images]
        found: dict[int, Features] = {}
        encoded = encode_groups(self, encoder, batches)
        for members, some, features in zip(groups, images, encoded, strict=True):
            shares = {name: x.chunk(len(some)) for name, x in features.items()}
            for i, v in enumerate(members):
                found[v] = {name: share[i] for name, share in shares.items()}
                for term in terms:
                    found[v] |= term.look(self, v, some[i])
        return found

    def encode(self, encoder: Any, view: View) -> Features:
        """Features of a view: ``projection``, N x D, and those of the terms."""
        maps = encoder.backbone(view)
        return self.complete(encoder, maps, encoder.neck(maps[-1:]))

    def complete(self, encoder: Any, maps: Any, outputs: Any) -> Features:
        """Features from the outputs of backbone and neck."""
        features = {"projection": outputs[0]}
        for term in self.terms.values():
            features |= term.features(encoder, maps, outputs)
        return features

    def weigh(self, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Every loss times its weight, and without."""
        losses = {}
        for name, value in raw.items():
            weight = self.weights[name](self.clock)
            losses[f"loss_{name}"] = value if weight == 1 else weight * value
        return losses | {f"raw_{name}": x.detach() for name, x in raw.items()}

    @torch.no_grad()
    def remember_first(self, step: Step) -> None:
        """Fill the queues that are to hold the step before its loss."""
        for part in self.losing.values():
            if part.remembers_first:
                part.remember(part.collect(self, step))

    @torch.no_grad()
    def remember(self, step: Step) -> None:
        """Fill queues and banks, once for each step of the optimizer."""
        later = {n: p for n, p in self.losing.items() if not p.remembers_first}
        found = {name: part.collect(self, step) for name, part in later.items()}
        self.waiting.append({name: x for name, x in found.items() if x})
        if not self.clock.ends_step:
            return
        for name in found:
            kinds = [x[name] for x in self.waiting if name in x]
            if kinds:
                whole = {k: torch.cat([x[k] for x in kinds]) for k in kinds[0]}
                self.losing[name].remember(whole)
        self.waiting.clear()
