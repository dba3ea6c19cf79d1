"""Datasets with or without labels, and the transforms of the loader's workers."""

from .base import SSLDataset
from .cifar import CIFAR10
from .folder import ImageFolder, ImageList
from .labelled import LabelledFolder, VOCLabels
from .shards import ImageShards
from .transforms import (
    CenterCrop,
    ColorJitter,
    CutPatches,
    DecodeImage,
    GaussianBlur,
    MakeViews,
    PackViews,
    RandomFlip,
    RandomGrayscale,
    RandomResizedCrop,
    RandomSolarize,
    ResizeShort,
    UnreadableImageError,
    move_box,
)

__all__ = [
    "CIFAR10",
    "CenterCrop",
    "ColorJitter",
    "CutPatches",
    "DecodeImage",
    "GaussianBlur",
    "ImageFolder",
    "ImageList",
    "ImageShards",
    "LabelledFolder",
    "MakeViews",
    "PackViews",
    "RandomFlip",
    "RandomGrayscale",
    "RandomResizedCrop",
    "RandomSolarize",
    "ResizeShort",
    "SSLDataset",
    "UnreadableImageError",
    "VOCLabels",
    "move_box",
]
