"""Transforms that run in the loader's workers, on one decoded image."""

from .background import RandomBackground, SwapSubject
from .bands import DecodeBands
from .color import ColorJitter, GaussianBlur, RandomGrayscale, RandomSolarize
from .decode import DecodeImage, UnreadableImageError
from .geometry import CenterCrop, RandomFlip, RandomResizedCrop, ResizeShort
from .load_mask import LoadMask
from .objects import LoadProposals, ObjectCrop, Objects, PlaceProposals
from .patches import CutPatches
from .placing import move_box
from .views import MakeViews, PackViews

__all__ = [
    "CenterCrop",
    "ColorJitter",
    "CutPatches",
    "DecodeBands",
    "DecodeImage",
    "GaussianBlur",
    "LoadMask",
    "LoadProposals",
    "MakeViews",
    "ObjectCrop",
    "Objects",
    "PackViews",
    "PlaceProposals",
    "RandomBackground",
    "RandomFlip",
    "RandomGrayscale",
    "RandomResizedCrop",
    "RandomSolarize",
    "ResizeShort",
    "SwapSubject",
    "UnreadableImageError",
    "move_box",
]
