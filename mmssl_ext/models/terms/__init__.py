"""Terms that any method may add to its loss."""

from .base import Term
from .consistency import Consistency
from .dense import Dense
from .distillation import Distillation, LocalRegression, LocalSimilarity
from .inter_image import InterImage
from .regions import Regions
from .unmix import UnMix

__all__ = [
    "Consistency",
    "Dense",
    "Distillation",
    "InterImage",
    "LocalRegression",
    "LocalSimilarity",
    "Regions",
    "Term",
    "UnMix",
]
