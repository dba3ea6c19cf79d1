"""One algorithm, one file, read from top to bottom like the paper."""

from .ascl import ASCL
from .base import SSLAlgorithm
from .bg_swaps import BGSwaps
from .byol import BYOL
from .ccop import CCOP
from .cmsf import CMSF
from .co2 import CO2
from .crops import Crops
from .densecl import DenseCL
from .densesiam import DenseSiam
from .detco import DetCo
from .dino import DINO
from .dsc import DSC
from .ifnd import IFND
from .interclr import InterCLR
from .method import Features, Method, Step
from .mira import MIRA
from .mochi import MoCHi
from .moco import MoCo
from .msf import MSF
from .pixpro import PixContrast, PixPro
from .propos import ProPos
from .regioncl import RegionCLD, RegionCLM, RegionCLS
from .ressl import ReSSL
from .scfs import SCFS
from .simclr import SimCLR
from .simreg import SimReg
from .simsiam import SimSiam
from .swav import SwAV
from .tkc import TKC

__all__ = [
    "ASCL",
    "BYOL",
    "CCOP",
    "CMSF",
    "CO2",
    "DINO",
    "DSC",
    "IFND",
    "MIRA",
    "MSF",
    "SCFS",
    "TKC",
    "BGSwaps",
    "Crops",
    "DenseCL",
    "DenseSiam",
    "DetCo",
    "Features",
    "InterCLR",
    "Method",
    "MoCHi",
    "MoCo",
    "PixContrast",
    "PixPro",
    "ProPos",
    "ReSSL",
    "RegionCLD",
    "RegionCLM",
    "RegionCLS",
    "SSLAlgorithm",
    "SimCLR",
    "SimReg",
    "SimSiam",
    "Step",
    "SwAV",
]
