"""Terms that any method may add to its loss."""

from .base import Term
from .consistency import Consistency
from .cross_similarity import CrossConsistency, CrossUniformity
from .dense import Dense
from .distillation import Distillation, LocalRegression, LocalSimilarity
from .inter_image import InterImage
from .neighbours import Neighbours
from .regions import Regions
from .temporal import TemporalTeachers
from .unmix import UnMix

__all__ = [
    "Consistency",
    "CrossConsistency",
    "CrossUniformity",
    "Dense",
    "Distillation",
    "InterImage",
    "LocalRegression",
    "LocalSimilarity",
    "Neighbours",
    "Regions",
    "TemporalTeachers",
    "Term",
    "UnMix",
]
