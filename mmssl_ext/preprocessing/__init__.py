"""Device-side preprocessing of collated batches."""

from .multi_view import MultiViewPreprocessor
from .operations import augment, augment_imagewise

__all__ = ["MultiViewPreprocessor", "augment", "augment_imagewise"]
