"""Device-side preprocessing of collated batches."""

from .multi_view import MultiViewPreprocessor

__all__ = ["MultiViewPreprocessor"]
