"""Hooks that draw and report; importing this package registers them."""

from .learned_pictures import LearnedPicturesHook
from .pictures import PicturesHook
from .report import ReportHook

__all__ = ["LearnedPicturesHook", "PicturesHook", "ReportHook"]
