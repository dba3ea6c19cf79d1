"""Datasets with or without labels, and the transforms of the loader's workers."""

from .base import SSLDataset
from .cifar import CIFAR10
from .folder import ImageFolder, ImageList
from .labelled import LabelledFolder, VOCLabels
from .transforms import (
    CenterCrop,
    ColorJitter,
    DecodeImage,
    GaussianBlur,
    MakeViews,
    PackViews,
    RandomFlip,
    RandomGrayscale,
    RandomResizedCrop,
    ResizeShort,
    UnreadableImageError,
)

__all__ = [
    "CIFAR10",
    "CenterCrop",
    "ColorJitter",
    "DecodeImage",
    "GaussianBlur",
    "ImageFolder",
    "ImageList",
    "LabelledFolder",
    "MakeViews",
    "PackViews",
    "RandomFlip",
    "RandomGrayscale",
    "RandomResizedCrop",
    "ResizeShort",
    "SSLDataset",
    "UnreadableImageError",
    "VOCLabels",
]
