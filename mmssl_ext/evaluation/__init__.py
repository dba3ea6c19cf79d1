"""Evaluation of features: kNN, linear SVMs, clusters and embedding health."""

from .clustering import clustering_scores
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
    "clustering_scores",
    "embedding_health",
    "evaluating",
    "extract_features",
    "knn_accuracy",
    "preserved_rng",
    "weighted_knn",
]
