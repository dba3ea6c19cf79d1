"""Carrying pretrained weights into detectors, segmentors and classifiers."""

from . import mmengine_init
from .frozen import FrozenBackboneHook
from .handover import Handover, PretrainedBackbone, fingerprint
from .hook import HandoverHook
from .neck import PretrainedNeck

mmengine_init.install()

__all__ = [
    "FrozenBackboneHook",
    "Handover",
    "HandoverHook",
    "PretrainedBackbone",
    "PretrainedNeck",
    "fingerprint",
]
