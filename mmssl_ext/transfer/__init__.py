"""Carrying pretrained weights into detectors, segmentors and classifiers."""

from .handover import Handover, PretrainedBackbone, fingerprint
from .hook import HandoverHook

__all__ = ["Handover", "HandoverHook", "PretrainedBackbone", "fingerprint"]
