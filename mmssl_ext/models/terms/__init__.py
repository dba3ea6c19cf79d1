"""Terms that any method may add to its loss."""

from .base import Term
from .consistency import Consistency
from .cross_similarity import CrossConsistency, CrossUniformity
from .dense import Dense
from .dense_neighbours import DenseNeighbours
from .dense_siamese import PixelSimilarity, RegionSimilarity
from .distillation import Distillation, LocalRegression, LocalSimilarity
from .feature_search import FeatureSearch
from .inter_image import InterImage
from .intra_image import IntraImage
from .local import LocalContrast
from .neighbours import Neighbours
from .objects import ObjectContrast
from .pixels import PixelConsistency, PixelContrast, PooledRegression
from .regions import Regions
from .scattering import PrototypeScattering
from .semantic_cells import CellClusters, CellPrototypes
from .temporal import TemporalTeachers
from .unmix import UnMix

__all__ = [
    "CellClusters",
    "CellPrototypes",
    "Consistency",
    "CrossConsistency",
    "CrossUniformity",
    "Dense",
    "DenseNeighbours",
    "Distillation",
    "FeatureSearch",
    "InterImage",
    "IntraImage",
    "LocalContrast",
    "LocalRegression",
    "LocalSimilarity",
    "Neighbours",
    "ObjectContrast",
    "PixelConsistency",
    "PixelContrast",
    "PixelSimilarity",
    "PooledRegression",
    "PrototypeScattering",
    "RegionSimilarity",
    "Regions",
    "TemporalTeachers",
    "Term",
    "UnMix",
]
