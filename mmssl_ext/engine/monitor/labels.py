"""Labels of the training images, for hooks that look on: the model never sees them."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from mmssl_ext.datasets import SSLDataset
from mmssl_ext.errors import ConfigError
from mmssl_ext.evaluation.features import preserved_rng
from mmssl_ext.registry import DATASETS


def labelled(runner: Any, changes: dict[str, Any], hook: str) -> Any:
    """The training set, or one of the same images that has labels.

    Args:
        runner: Of the run.
        changes: What to change in the config of the training set.
        hook: Who asks, for the message.

    Raises:
        ConfigError: The changes select other images.
    """
    trained = runner.train_dataloader.dataset
    if not changes or not isinstance(trained, SSLDataset):
        return trained
    config = deepcopy(runner.cfg.train_dataloader.dataset)
    with preserved_rng():
        found = DATASETS.build({**config, **changes})
    if found.fingerprint() != trained.fingerprint():
        raise ConfigError(
            f"{hook}: its dataset has other images than the training set, or in "
            "another order; let its `dataset` change nothing that selects images."
        )
    return found
