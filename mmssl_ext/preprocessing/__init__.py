"""Device-side preprocessing of collated batches."""

from .batchwise import augment
from .multi_view import MultiViewPreprocessor

__all__ = ["MultiViewPreprocessor", "augment"]
