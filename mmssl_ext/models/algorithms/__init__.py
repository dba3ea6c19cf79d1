"""One algorithm, one file, read from top to bottom like the paper."""

from .co2 import CO2
from .moco import MoCo

__all__ = ["CO2", "MoCo"]
