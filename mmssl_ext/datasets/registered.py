"""What the registries find here; importing this module registers it."""

from . import transforms
from .base import SSLDataset
from .cifar import CIFAR10
from .folder import ImageFolder, ImageList
from .labelled import LabelledFolder, VOCLabels
from .shards import ImageShards
from .transforms import *  # noqa: F403

__all__ = ["CIFAR10", "ImageFolder", "ImageList", "ImageShards", "LabelledFolder"]
__all__ += ["SSLDataset", "VOCLabels"]
__all__ += transforms.__all__
