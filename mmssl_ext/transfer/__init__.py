"""Carrying pretrained weights into detectors, segmentors and classifiers."""

from .frozen import FrozenBackboneHook
from .handover import Handover, PretrainedBackbone, fingerprint
from .hook import HandoverHook

__all__ = [
    "FrozenBackboneHook",
    "Handover",
    "HandoverHook",
    "PretrainedBackbone",
    "fingerprint",
]
