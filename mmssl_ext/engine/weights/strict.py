"""Load a checkpoint of the same model, whole."""

from __future__ import annotations

from logging import WARNING
from pathlib import Path

import torch
from mmengine.logging import print_log

from mmssl_ext.engine.checkpoint.foreign_state import suit
from mmssl_ext.engine.checkpoint.read import load_checkpoint_file
from mmssl_ext.errors import CheckpointFileError

from .record import describe_weights, find_record, input_changes, structure_changes
from .report import compare
from .values import check_values


def load_strictly(model: torch.nn.Module, path: str | Path) -> None:
    """Load a checkpoint into a model; every name and shape must match.

    Warns where the model prepares its images in another way than the one trained.

    Raises:
        CheckpointFileError: The file cannot be read, or does not fit the model; the
            message lists what is missing, unexpected or of another shape. Or it holds
            weights that no working network has, or was trained with other strides.
    """
    checkpoint = load_checkpoint_file(path)
    state = checkpoint.get("state_dict", checkpoint)
    suit(model, state)
    report = compare(model.state_dict(), state, whole=True)
    if not report.complete:
        raise CheckpointFileError(
            f"Checkpoint {path} does not fit the model of the config; give the config "
            f"that it was trained with.{report.details()}"
        )
    floating = {n for n, v in model.state_dict().items() if v.is_floating_point()}
    check_values(state, path, floating)
    record, now = find_record(checkpoint.get("meta")), describe_weights(model)
    if changes := structure_changes(record, now["backbone"]):
        raise CheckpointFileError(
            f"Checkpoint {path} would compute other features in the model of the "
            f"config: {'; '.join(changes)}. Give the config that it was trained with."
        )
    if changes := input_changes(record, now["input"]):
        print_log(
            f"Checkpoint {path} was trained on images prepared in another way than the "
            f"config says: {'; '.join(changes)}. Set model.data_preprocessor to the "
            "values of the file.",
            "current",
            WARNING,
        )
    model.load_state_dict(state)
