"""Load a checkpoint of the same model, whole."""

from __future__ import annotations

from logging import WARNING
from pathlib import Path

import torch
from mmengine.logging import print_log

from mmssl_ext.engine.checkpoint.foreign_state import suit
from mmssl_ext.engine.checkpoint.read import load_checkpoint_file

from .files import Weights
from .match import Match
from .record import find_record
from .start import check_record


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
    weights = Weights(state, find_record(checkpoint.get("meta")), path)
    found = Match(model.state_dict(), weights, whole=True)
    if not found.report.complete:
        found.refuse(
            f"Checkpoint {path} does not fit the model of the config; give the config "
            "that it was trained with"
        )
    found.sound()
    for text in check_record(model, weights, refuse=True):
        print_log(text, "current", WARNING)
    model.load_state_dict(state)
