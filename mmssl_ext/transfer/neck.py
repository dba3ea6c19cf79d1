"""Pretrained weights into the neck of a detector, where the pretraining has one."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from mmssl_ext.engine.weights.files import State, Weights
from mmssl_ext.engine.weights.match import below, best_prefix, find_prefix
from mmssl_ext.engine.weights.record import Record
from mmssl_ext.engine.weights.values import check_values
from mmssl_ext.errors import CheckpointFileError
from mmssl_ext.registry import WEIGHT_INITIALIZERS

from .handover import PretrainedBackbone

#: Names of tensors by which mmdet's FPN is known.
OF_AN_FPN = ("lateral_convs.0.conv.weight", "fpn_convs.0.conv.weight")


@WEIGHT_INITIALIZERS.register_module()
class PretrainedNeck(PretrainedBackbone):
    """Weight initializer of a neck, as strict as :class:`PretrainedBackbone`.

    CCOP pretrains mmdet's ``FPN`` with the backbone. Every tensor must be there, those
    of the norms included. A neck reads the maps of the backbone that it was trained
    with, so ``HandoverHook`` refuses one whose detector has another file's backbone.

    Arguments are those of :class:`PretrainedBackbone`.
    """

    part = "Neck"

    def find(self, names: Iterable[str], weights: Weights) -> str:
        """What stands before its names in a file."""
        return neck_prefix(list(names), weights, self.encoder)

    def note(self, record: Record) -> Record:
        """What the file says of the images; the rest is on the backbone."""
        return {"backbone": {}, "input": record["input"]}

    def _style(self, module: nn.Module, record: Record) -> list[str]:
        return []


def neck_prefix(names: list[str], weights: Weights, encoder: str) -> str:
    """What stands before the names of a neck in a file.

    Raises:
        CheckpointFileError: It holds no neck of these names.
    """
    if best_prefix(names, weights.tensors, encoder) is None:
        raise CheckpointFileError(
            f"{weights.path} holds no neck with tensors such as {names[0]} of a "
            f"{encoder} encoder: only methods such as CCOP pretrain one. Leave the "
            "neck at random, by pretrained_neck=False in the transfer configs."
        )
    return find_prefix(names, weights, encoder)


def neck_in(
    weights: Weights, encoder: str = "query", prefix: str | None = None
) -> tuple[State, str]:
    """The FPN in a file, without a model at hand, and what stands before its names.

    Raises:
        CheckpointFileError: There is none, or values that no working network has.
    """
    if prefix is None:
        prefix = neck_prefix(list(OF_AN_FPN), weights, encoder)
    state = {
        name: value
        for name, value in below(weights.tensors, prefix).items()
        if name.startswith(("lateral_convs.", "fpn_convs."))
    }
    if any(name not in state for name in OF_AN_FPN):
        raise CheckpointFileError(f"{weights.path} holds no FPN below '{prefix}'.")
    check_values(state, weights.path, prefix=prefix)
    return state, prefix
