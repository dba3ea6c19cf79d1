"""Registries of mmssl_ext: children of mmpretrain's, with scope ``mmssl_ext``.

With ``default_scope = "mmssl_ext"`` a name is looked up here first and then upwards:
``CO2`` is ours, ``ResNet`` is mmpretrain's, ``CheckpointHook`` is mmengine's. The
modules at ``locations`` are imported at the first look-up, so a config needs no
``custom_imports``.
"""

from mmengine.registry import Registry
from mmpretrain import registry as upstream

SCOPE = "mmssl_ext"


def _child(parent: Registry, location: str) -> Registry:
    return Registry(
        parent.name, parent=parent, scope=SCOPE, locations=[f"{SCOPE}.{location}"]
    )


MODELS = _child(upstream.MODELS, "models")
WEIGHT_INITIALIZERS = _child(upstream.WEIGHT_INITIALIZERS, "models")
DATASETS = _child(upstream.DATASETS, "datasets")
DATA_SAMPLERS = _child(upstream.DATA_SAMPLERS, "datasets")
TRANSFORMS = _child(upstream.TRANSFORMS, "datasets")
HOOKS = _child(upstream.HOOKS, "engine")
LOOPS = _child(upstream.LOOPS, "engine")
METRICS = _child(upstream.METRICS, "evaluation")
