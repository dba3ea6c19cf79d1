"""Checks of detection, segmentation and classification data."""

from mmssl_ext.moved import names_of

__getattr__ = names_of(__name__, "transfer.data_check.check")
