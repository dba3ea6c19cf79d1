"""The inter-image branch of InterCLR (arXiv 2008.11702)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from ..losses import margin_info_nce
from ..memory import FeatureBank, Negatives
from ..memory.clock import positions
from ..part import Features, build_part, check_positive, is_number
from .base import Term

if TYPE_CHECKING:
    from ..algorithms.method import Method, Step


@MODELS.register_module(name=["InterImage", "MarginHead"])
class InterImage(Term):
    """A second positive: another image of the query's cluster.

    Out of a bank of all training images, against images of other clusters
    (:mod:`mmssl_ext.models.memory.negatives`), by InfoNCE with a cosine margin
    (:func:`~mmssl_ext.models.losses.margin_info_nce`); over all query views. The bank
    takes the targets of the first pair.

    It is filled before the first epoch in which the term has a weight: all training
    images are embedded once, by the online network in eval mode, and clustered.

    Args:
        labels: Config of the pseudo-labels, e.g. ``OnlineLabels``.
        negatives: Config of the negatives, e.g. ``SemiHardNegatives``.
        images: How to read the images for that: ``pipeline``, the transforms of one
            view, and options of the loader such as ``batch_size`` and ``num_workers``.
        temperature: tau.
        margin: m_cos, subtracted from the positive's cosine. Below 0 the boundary
            between positives and negatives is less strict, which the paper found to
            be right for noisy positives; above 0 it is stricter.
        momentum: Share of the old feature that an update of the bank keeps.
        dtype: See :class:`~mmssl_ext.models.memory.FeatureBank`.
        weight: See :class:`Term`.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: ``temperature`` is not positive or ``margin`` is outside [-2, 2],
            the range of a difference of cosines.
    """

    name = "inter"

    def __init__(
        self,
        labels: dict,
        negatives: dict,
        images: dict | None = None,
        temperature: float = 0.2,
        margin: float = -0.5,
        momentum: float = 0.0,
        dtype: str = "float32",
        weight: Any = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(weight, init_cfg)
        self.temperature = check_positive("temperature", temperature)
        if not is_number(margin) or not -2 <= margin <= 2:
            raise UserValueError(
                f"margin={margin!r} is subtracted from a cosine and must lie in "
                "[-2, 2]; the paper's is -0.5."
            )
        self.margin = margin
        self.images = images
        self.bank_options = momentum, dtype
        self.labels = build_part("labels", labels)
        self.sampler = build_part("negatives", negatives)

    def attach(self, method: Method) -> None:
        """Make the bank, still empty.

        Raises:
            ValueError: The bank could not be filled with embeddings of the target.
        """
        if method.target.dim is not None:
            raise UserValueError(
                "The term InterImage fills its bank by the network that is trained, "
                f"whose embeddings are not those of a {type(method.target).__name__}; "
                "take another target or leave the term out."
            )
        self.bank = FeatureBank(method.dim, *self.bank_options)

    @property
    def pseudo_labels(self) -> Any:
        """The labels, for who looks on."""
        return self.labels

    def fill(
        self,
        features: Tensor,
        fingerprint: int = 0,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Fill the bank and cluster it.

        Args:
            features: Embeddings of all training images by position in the dataset,
                n x D; equal on all ranks.
            fingerprint: Of the dataset.
            seed: Of the clustering.
            progress: Called with (iterations done, at most) of the clustering.

        Raises:
            ValueError: The images are too few for the clusters.
        """
        self.bank.fill(features.to(self.bank.features.device), fingerprint)
        self.labels.start(self.bank, seed, progress)

    def start(self, training: Any) -> None:
        """Check that images, bank and labels belong together.

        Raises:
            ValueError: They do not; the message says what to change.
        """
        if self.labels.needs_epochs and not training.by_epoch:
            raise UserValueError(
                f"{type(self.labels).__name__} count epochs, which this run has not; "
                "set by_epoch=True in train_cfg, or use OnlineLabels."
            )
        images = training.images(self.images, "The inter-image term")
        self.labels.check_images(len(images))
        if len(self.bank) and training.iteration > 0:
            self.bank.check(images.fingerprint)
            self.labels.check(self.bank)
        elif len(self.bank):  # load_from brought it along
            self.bank.clear()
            self.labels.clear()

    def start_epoch(self, training: Any, weight: float) -> None:
        """Fill the bank when its time has come."""
        if not weight or len(self.bank):
            return
        images = training.images(self.images, "The inter-image term")
        started = time.perf_counter()
        features = images.embed()
        embedded = time.perf_counter()
        with training.progress("Clustering: iteration") as progress:
            self.fill(features, images.fingerprint, training.seed, progress)
        if text := self.sampler.advice(len(features)):
            training.logger.warning(text)
        bank = self.bank.features
        training.logger.info(
            f"Feature bank: {len(bank)} images x {bank.shape[1]} as {bank.dtype}, "
            f"{bank.numel() * bank.element_size() / 1e6:.1f} MB on every device and in "
            f"every checkpoint; embedded in {embedded - started:.1f} s, "
            f"{self.labels.num_clusters} clusters made in "
            f"{time.perf_counter() - embedded:.1f} s."
        )

    def end_epoch(self, training: Any) -> None:
        """Let the labels follow the epoch."""
        if len(self.bank):
            self.labels.end_epoch(training.epoch + 1, self.bank)

    def positions(self, step: Step) -> Tensor:
        """Where the images of a step stand in the bank, N.

        Raises:
            ValueError: The bank is empty, or an index is missing or outside of it.
        """
        if len(self.bank) == 0:
            raise UserValueError(
                "The feature bank is empty. SSLRunner and MethodHook let the model "
                "fill it before training; in a loop of your own call terms.inter.fill."
            )
        return positions(step.index, len(self.bank), "The inter-image term")

    def forward(self, method: Method, step: Step) -> Tensor:
        """Mean loss of all queries; ``num_negatives`` of each goes to the log."""
        images = self.positions(step)  # N
        losses, counts = [], []
        generator = torch.Generator(images.device)
        generator.manual_seed(method.clock.draw_seed)  # equal on all ranks
        for a in sorted({a for a, _ in method.pairs}):
            q = step.online[a]["embedding"]  # N x D
            members = self.labels.draw_members(images, generator)
            negatives: Negatives = self.sampler.draw(
                q.detach(),
                self.labels.labels[images],
                self.bank,
                self.labels,
                generator,
            )
            loss = margin_info_nce(
                q,
                self.bank.read(members),
                negatives.features,
                negatives.similarity,
                negatives.mask,
                self.temperature,
                self.margin,
            )
            losses.append(loss.mean())
            counts.append(negatives.mask.sum(1).float().mean())
        step.figures["num_negatives"] = torch.stack(counts).mean()
        return torch.stack(losses).mean()

    def collect(self, method: Method, step: Step) -> Features:
        """The first pair's targets and their images; nothing while there is no bank."""
        if len(self.bank) == 0:
            return {}
        keys = step.target[method.pairs[0][1]]["embedding"].detach()
        return {"keys": keys, "images": self.positions(step)}

    def remember(self, found: Features) -> None:
        """Write the targets to the bank and update the labels."""
        change = self.bank.update(found["images"], found["keys"])
        self.labels.update(change, self.bank)
