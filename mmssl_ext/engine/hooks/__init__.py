"""Hooks of the training loop; importing this package registers them."""

from .checkpoint import PlainCheckpointHook
from .collapse import CollapseMonitorHook
from .draw_key import DrawKeyHook
from .fixed_rate import FixedRateHook
from .guard import NonFiniteGuardHook
from .input_check import InputCheckHook
from .knn import KNNHook
from .performance import PerformanceHook
from .pictures import PicturesHook
from .progress import ProgressHook
from .pseudo_labels import PseudoLabelHook
from .report import ReportHook
from .result import ResultHook
from .runtime_info import DeferredRuntimeInfoHook
from .unreadable import UnreadableImagesHook

__all__ = [
    "CollapseMonitorHook",
    "DeferredRuntimeInfoHook",
    "DrawKeyHook",
    "FixedRateHook",
    "InputCheckHook",
    "KNNHook",
    "NonFiniteGuardHook",
    "PerformanceHook",
    "PicturesHook",
    "PlainCheckpointHook",
    "ProgressHook",
    "PseudoLabelHook",
    "ReportHook",
    "ResultHook",
    "UnreadableImagesHook",
]
