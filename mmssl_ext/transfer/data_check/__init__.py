"""Checks of detection, segmentation and classification data."""
