"""One algorithm, one file, read from top to bottom like the paper."""

from .base import Features, SSLAlgorithm
from .co2 import CO2
from .densecl import DenseCL
from .detco import DetCo
from .interclr import InterCLR
from .moco import MoCo
from .regioncl import RegionCLD, RegionCLM, RegionCLS
from .simsiam import SimSiam

__all__ = [
    "CO2",
    "DenseCL",
    "DetCo",
    "Features",
    "InterCLR",
    "MoCo",
    "RegionCLD",
    "RegionCLM",
    "RegionCLS",
    "SSLAlgorithm",
    "SimSiam",
]
