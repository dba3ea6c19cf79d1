"""How the features of two views are compared; a method has one comparison."""

from .base import Comparison
from .batch import BatchSoftmax
from .levels import MultiLevelSoftmax
from .queue import QueueSoftmax
from .regression import Regression
from .teacher import TeacherRegression, TeacherSoftmax

__all__ = [
    "BatchSoftmax",
    "Comparison",
    "MultiLevelSoftmax",
    "QueueSoftmax",
    "Regression",
    "TeacherRegression",
    "TeacherSoftmax",
]
