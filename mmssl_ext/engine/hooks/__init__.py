"""Hooks of the training loop; importing this package registers them."""

from .checkpoint import PlainCheckpointHook
from .collapse import CollapseMonitorHook
from .draw_key import DrawKeyHook
from .exact_resume import ExactResumeHook
from .fixed_rate import FixedRateHook
from .guard import NonFiniteGuardHook
from .input_check import InputCheckHook
from .knn import KNNHook
from .learned_pictures import LearnedPicturesHook
from .loaded_weights import LoadedWeightsHook
from .method import MethodHook
from .performance import PerformanceHook
from .pictures import PicturesHook
from .preemption import PreemptionHook
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
    "ExactResumeHook",
    "FixedRateHook",
    "InputCheckHook",
    "KNNHook",
    "LearnedPicturesHook",
    "LoadedWeightsHook",
    "MethodHook",
    "NonFiniteGuardHook",
    "PerformanceHook",
    "PicturesHook",
    "PlainCheckpointHook",
    "PreemptionHook",
    "ProgressHook",
    "PseudoLabelHook",
    "ReportHook",
    "ResultHook",
    "UnreadableImagesHook",
]
