"""How the features of two views are compared; a method has one comparison."""

from .balanced import BalancedPrototypes
from .base import Comparison
from .batch import BatchSoftmax
from .centred import CentredSoftmax
from .constraint import Constraint
from .earlier import EarlierNeighbours
from .extra import ExtraNegativeSoftmax
from .false_negatives import FalseNegativeSoftmax
from .informative import InformativePrototypes
from .levels import MultiLevelSoftmax
from .mean_shift import MeanShift
from .mixed import MixedNegativesSoftmax
from .none import NoComparison
from .positive_sampling import PositiveSampling
from .prototypes import PrototypeSoftmax
from .queue import QueueSoftmax
from .regression import Regression
from .relation import RelationSoftmax
from .same_cluster import SameCluster
from .same_label import SameLabel
from .soft import NeighbourSoftmax
from .teacher import TeacherRegression, TeacherSoftmax

__all__ = [
    "BalancedPrototypes",
    "BatchSoftmax",
    "CentredSoftmax",
    "Comparison",
    "Constraint",
    "EarlierNeighbours",
    "ExtraNegativeSoftmax",
    "FalseNegativeSoftmax",
    "InformativePrototypes",
    "MeanShift",
    "MixedNegativesSoftmax",
    "MultiLevelSoftmax",
    "NeighbourSoftmax",
    "NoComparison",
    "PositiveSampling",
    "PrototypeSoftmax",
    "QueueSoftmax",
    "Regression",
    "RelationSoftmax",
    "SameCluster",
    "SameLabel",
    "TeacherRegression",
    "TeacherSoftmax",
]
