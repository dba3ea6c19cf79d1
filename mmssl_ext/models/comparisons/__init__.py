"""How the features of two views are compared; a method has one comparison."""

from .base import Comparison
from .batch import BatchSoftmax
from .levels import MultiLevelSoftmax
from .mixed import MixedNegativesSoftmax
from .queue import QueueSoftmax
from .regression import Regression
from .soft import NeighbourSoftmax, RelationSoftmax
from .teacher import TeacherRegression, TeacherSoftmax

__all__ = [
    "BatchSoftmax",
    "Comparison",
    "MixedNegativesSoftmax",
    "MultiLevelSoftmax",
    "NeighbourSoftmax",
    "QueueSoftmax",
    "Regression",
    "RelationSoftmax",
    "TeacherRegression",
    "TeacherSoftmax",
]
