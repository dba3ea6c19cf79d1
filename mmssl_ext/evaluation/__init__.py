"""Evaluation of features: weighted kNN, linear SVMs and embedding health."""

from .features import Features, evaluating, extract_features, preserved_rng
from .health import embedding_health
from .knn import knn_accuracy, weighted_knn
from .loops import KNNTestLoop, SVMTestLoop

__all__ = [
    "Features",
    "KNNTestLoop",
    "SVMTestLoop",
    "embedding_health",
    "evaluating",
    "extract_features",
    "knn_accuracy",
    "preserved_rng",
    "weighted_knn",
]
