"""The model inside its wrapper for several devices."""

from typing import Any

from mmengine.model import is_model_wrapper


def unwrap(model: Any) -> Any:
    """Return what DistributedDataParallel and the like wrap, or the model itself."""
    return model.module if is_model_wrapper(model) else model
