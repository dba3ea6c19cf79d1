"""Hooks of the training loop; importing this module registers them."""

from mmssl_ext.moved import names_of

from .checkpoint.exact_resume import ExactResumeHook
from .checkpoint.hook import PlainCheckpointHook
from .monitor.augmentation_seed import AugmentationSeedHook
from .monitor.collapse import CollapseMonitorHook
from .monitor.input_check import InputCheckHook
from .monitor.knn import KNNHook
from .monitor.online_probe import OnlineProbeHook
from .monitor.performance import PerformanceHook
from .monitor.progress import ProgressHook
from .monitor.pseudo_labels import PseudoLabelHook
from .monitor.result import ResultHook
from .monitor.runtime_info import DeferredRuntimeInfoHook
from .resilience.guard import NonFiniteGuardHook
from .resilience.preemption_hook import PreemptionHook
from .resilience.unreadable import UnreadableImagesHook
from .training.clip import ClipEachHook
from .training.fixed_rate import FixedRateHook
from .training.method import MethodHook
from .weights.hook import LoadedWeightsHook

__all__ = [
    "AugmentationSeedHook",
    "ClipEachHook",
    "CollapseMonitorHook",
    "DeferredRuntimeInfoHook",
    "ExactResumeHook",
    "FixedRateHook",
    "InputCheckHook",
    "KNNHook",
    "LoadedWeightsHook",
    "MethodHook",
    "NonFiniteGuardHook",
    "OnlineProbeHook",
    "PerformanceHook",
    "PlainCheckpointHook",
    "PreemptionHook",
    "ProgressHook",
    "PseudoLabelHook",
    "ResultHook",
    "UnreadableImagesHook",
]
__path__: list[str] = []  # so that a hook is found by the name of its file, too
__getattr__ = names_of(__name__, "visualization.hooks")
