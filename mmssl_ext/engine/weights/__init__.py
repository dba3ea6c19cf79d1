"""Weights from any file: download, names, values and records."""
