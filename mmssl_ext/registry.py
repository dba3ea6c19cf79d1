"""Registries of mmssl_ext: children of mmpretrain's, with scope ``mmssl_ext``.

With ``default_scope = "mmssl_ext"`` a name is looked up here first and then upwards:
``CO2`` is ours, ``ResNet`` is mmpretrain's, ``CheckpointHook`` is mmengine's. The
modules at ``locations`` are imported at the first look-up, so a config needs no
``custom_imports``. All of upstream's registries have a child here, else mmengine warns
at each look-up.

From other toolboxes' scopes, as in a detector's config, ``mmssl_ext.CO2`` names ours.
"""

from mmengine.registry import Registry
from mmpretrain import registry as upstream

__all__ = [
    "DATASETS",
    "DATA_SAMPLERS",
    "EVALUATORS",
    "HOOKS",
    "LOG_PROCESSORS",
    "LOOPS",
    "METRICS",
    "MODELS",
    "MODEL_WRAPPERS",
    "OPTIMIZERS",
    "OPTIM_WRAPPERS",
    "OPTIM_WRAPPER_CONSTRUCTORS",
    "PARAM_SCHEDULERS",
    "RUNNERS",
    "RUNNER_CONSTRUCTORS",
    "TASK_UTILS",
    "TRANSFORMS",
    "VISBACKENDS",
    "VISUALIZERS",
    "WEIGHT_INITIALIZERS",
]

SCOPE = "mmssl_ext"


def _child(parent: Registry, *locations: str) -> Registry:
    registry = Registry(
        parent.name,
        parent=parent,
        scope=SCOPE,
        locations=[f"{SCOPE}.{location}" for location in locations],
    )
    # mmengine looks a scoped name up among the root's own children only.
    registry.root.children[SCOPE] = registry
    return registry


RUNNERS = _child(upstream.RUNNERS, "run.runner")
RUNNER_CONSTRUCTORS = _child(upstream.RUNNER_CONSTRUCTORS, "engine")
LOOPS = _child(upstream.LOOPS, "engine.checkpoint.loops", "evaluation")
HOOKS = _child(upstream.HOOKS, "engine.hooks", "transfer", "visualization.hooks")
LOG_PROCESSORS = _child(upstream.LOG_PROCESSORS, "engine")
OPTIMIZERS = _child(upstream.OPTIMIZERS, "engine")
OPTIM_WRAPPERS = _child(upstream.OPTIM_WRAPPERS, "engine")
OPTIM_WRAPPER_CONSTRUCTORS = _child(upstream.OPTIM_WRAPPER_CONSTRUCTORS, "engine")
PARAM_SCHEDULERS = _child(upstream.PARAM_SCHEDULERS, "engine")

MODELS = _child(upstream.MODELS, "models")
MODEL_WRAPPERS = _child(upstream.MODEL_WRAPPERS, "models")
WEIGHT_INITIALIZERS = _child(upstream.WEIGHT_INITIALIZERS, "transfer")
TASK_UTILS = _child(upstream.TASK_UTILS, "models")

DATASETS = _child(upstream.DATASETS, "datasets.registered")
DATA_SAMPLERS = _child(upstream.DATA_SAMPLERS, "datasets.registered")
TRANSFORMS = _child(upstream.TRANSFORMS, "datasets.registered")

METRICS = _child(upstream.METRICS, "evaluation")
EVALUATORS = _child(upstream.EVALUATORS, "evaluation")

VISUALIZERS = _child(upstream.VISUALIZERS, "visualization")
VISBACKENDS = _child(upstream.VISBACKENDS, "visualization.trackers")
