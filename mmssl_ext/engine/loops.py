"""A training loop that a checkpoint can leave and enter between any two steps."""

from __future__ import annotations

from mmengine.runner import EpochBasedTrainLoop

from mmssl_ext.registry import LOOPS


@LOOPS.register_module()
class ExactEpochLoop(EpochBasedTrainLoop):
    """mmengine's loop over epochs."""
