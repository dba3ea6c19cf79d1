"""Losses as pure functions of tensors."""

from .cells import (
    across_images,
    cosines,
    pair_contrast,
    pair_cosine,
    point_contrast,
    propagate,
)
from .consistency import queue_consistency
from .cross_similarity import cross_divergence, cross_squares, cross_uniformity
from .dense import match_cells, neighbour_cells, several_positives, take_cells
from .dense_siamese import pixel_similarity, region_contrast, region_vectors
from .distillation import (
    map_distillation,
    queue_distillation,
    similarity_distillation,
    standardised,
)
from .hard_mixing import draw_mixtures, mix_negatives
from .info_nce import info_nce, soft_nce
from .margin import margin_info_nce
from .mutual_information import informative_codes
from .prototype_softmax import Aims, prototype_aims, prototype_logsumexp
from .queue_attention import attend, queue_logsumexp
from .queue_topk import members_first, queue_topk
from .same_label import same_label_sums
from .scattering import prototype_scattering
from .semantic import class_contrast
from .sinkhorn import sinkhorn
from .soft_targets import neighbour_target

__all__ = [
    "Aims",
    "across_images",
    "attend",
    "class_contrast",
    "cosines",
    "cross_divergence",
    "cross_squares",
    "cross_uniformity",
    "draw_mixtures",
    "info_nce",
    "informative_codes",
    "map_distillation",
    "margin_info_nce",
    "match_cells",
    "members_first",
    "mix_negatives",
    "neighbour_cells",
    "neighbour_target",
    "pair_contrast",
    "pair_cosine",
    "pixel_similarity",
    "point_contrast",
    "propagate",
    "prototype_aims",
    "prototype_logsumexp",
    "prototype_scattering",
    "queue_consistency",
    "queue_distillation",
    "queue_logsumexp",
    "queue_topk",
    "region_contrast",
    "region_vectors",
    "same_label_sums",
    "several_positives",
    "similarity_distillation",
    "sinkhorn",
    "soft_nce",
    "standardised",
    "take_cells",
]
