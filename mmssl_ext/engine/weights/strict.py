"""Load a checkpoint of the same model, whole."""

from __future__ import annotations

from logging import WARNING
from pathlib import Path

from mmengine.logging import print_log
from torch import nn

from mmssl_ext.engine.checkpoint.read import load_checkpoint_file

from .start import as_loaded, check_start


def load_strictly(model: nn.Module, path: str | Path) -> None:
    """Load a checkpoint into a model; every name and shape must match.

    Warns where the model prepares its images in another way than the one trained.

    Raises:
        CheckpointFileError: The file cannot be read, or does not fit the model; the
            message lists what is missing, unexpected or of another shape. Or it holds
            weights that no working network has, or was trained with other strides.
    """
    checkpoint, name = load_checkpoint_file(path), str(path)
    for text in check_start(model, checkpoint, name, training=False, exact=True):
        print_log(text, "current", WARNING)
    model.load_state_dict(as_loaded(checkpoint, name).tensors)
