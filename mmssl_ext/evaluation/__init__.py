"""Evaluation of features: weighted kNN, linear SVMs and embedding health."""

from .clusters import cluster_figures
from .features import Features, evaluating, extract_features, preserved_rng
from .health import embedding_health
from .knn import knn_accuracy, weighted_knn
from .loops import KNNTestLoop, SVMTestLoop

__all__ = [
    "Features",
    "KNNTestLoop",
    "SVMTestLoop",
    "cluster_figures",
    "embedding_health",
    "evaluating",
    "extract_features",
    "knn_accuracy",
    "preserved_rng",
    "weighted_knn",
]
