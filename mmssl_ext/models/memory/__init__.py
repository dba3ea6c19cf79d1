"""State beside the weights, all of it in the checkpoint."""

from .centre import Centre
from .clock import Clock
from .code_usage import CodeUsage
from .feature_bank import Change, FeatureBank
from .image_clusters import ImageClusters
from .label_table import LabelTable
from .negatives import (
    EasyNegatives,
    HardNegatives,
    Negatives,
    NegativeSampler,
    RandomNegatives,
    SemiHardNegatives,
)
from .online_labels import OnlineLabels
from .pseudo_labels import OfflineLabels, PseudoLabels
from .queue import KeyQueue
from .snapshots import Snapshots
from .step_counter import StepCounter

__all__ = [
    "Centre",
    "Change",
    "Clock",
    "CodeUsage",
    "EasyNegatives",
    "FeatureBank",
    "HardNegatives",
    "ImageClusters",
    "KeyQueue",
    "LabelTable",
    "NegativeSampler",
    "Negatives",
    "OfflineLabels",
    "OnlineLabels",
    "PseudoLabels",
    "RandomNegatives",
    "SemiHardNegatives",
    "Snapshots",
    "StepCounter",
]
