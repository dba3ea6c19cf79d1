"""How the features of two views are compared; a method has one comparison."""

from .base import Comparison
from .batch import BatchSoftmax
from .false_negatives import FalseNegativeSoftmax
from .levels import MultiLevelSoftmax
from .mean_shift import MeanShift
from .neighbours import Constraint, EarlierNeighbours, SameCluster, SameLabel
from .queue import QueueSoftmax
from .regression import Regression
from .teacher import TeacherRegression, TeacherSoftmax

__all__ = [
    "BatchSoftmax",
    "Comparison",
    "Constraint",
    "EarlierNeighbours",
    "FalseNegativeSoftmax",
    "MeanShift",
    "MultiLevelSoftmax",
    "QueueSoftmax",
    "Regression",
    "SameCluster",
    "SameLabel",
    "TeacherRegression",
    "TeacherSoftmax",
]
