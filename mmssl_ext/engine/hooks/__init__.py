"""Hooks of the training loop; importing this package registers them."""

from .checkpoint import PlainCheckpointHook
from .collapse import CollapseMonitorHook
from .draw_key import DrawKeyHook
from .guard import NonFiniteGuardHook
from .knn import KNNHook
from .progress import ProgressHook
from .report import ReportHook
from .unreadable import UnreadableImagesHook

__all__ = [
    "CollapseMonitorHook",
    "DrawKeyHook",
    "KNNHook",
    "NonFiniteGuardHook",
    "PlainCheckpointHook",
    "ProgressHook",
    "ReportHook",
    "UnreadableImagesHook",
]
