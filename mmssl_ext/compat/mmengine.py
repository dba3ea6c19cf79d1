"""Of mmengine, mmpretrain, mmdet and mmseg."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

# -- mmengine's Config and DictAction --
# The steps by which a config file is read, and the values of --cfg-options. Gone:
# AttributeError when a tool starts.

_CONFIG_STEPS = {
    "environment": "_substitute_env_variables",
    "file_names": "_substitute_predefined_vars",
    "bases": "_pre_substitute_base_vars",
    "base_path": "_get_cfg_path",
    "file": "fromfile",
}


def config_step(name: str) -> Callable:
    """A step of reading a config file, as it is now."""
    from mmengine.config import Config

    return getattr(Config, _CONFIG_STEPS[name])


def replace_config_step(name: str, make: Callable[[Callable], Callable]) -> None:
    """Put a function in the place of a step, once; ``make`` gets the step before."""
    from mmengine.config import Config

    before = config_step(name)
    if not hasattr(before, "replaces"):
        step = wraps(before)(make(before))
        step.replaces = before  # type: ignore[attr-defined]
        setattr(Config, _CONFIG_STEPS[name], staticmethod(step))


def set_config_filename(cfg: Any, path: str) -> None:
    """Let a config say which file it is of."""
    object.__setattr__(cfg, "_filename", path)


def read_options_by(parse: Callable[[str], Any], store: Callable) -> None:
    """Let mmengine's DictAction read values and keep them by these functions."""
    from mmengine.config import DictAction

    DictAction._parse_iterable = staticmethod(parse)
    DictAction.__call__ = store


def plain_value(text: str) -> Any:
    """A number, True, False or None by what it looks like, else the text."""
    from mmengine.config import DictAction

    return DictAction._parse_int_float_bool(text)


# -- mmengine's Runner --
# Its loops are configs until they are built, and properties build them at the first
# look; the names with an underscore look without building. Gone: AttributeError at the
# start of a run.


def train_loop(runner: Any) -> Any:
    """The training loop as it stands: built, still a config, or None."""
    return runner._train_loop


def val_loop(runner: Any) -> Any:
    """The validation loop as it stands: built, still a config, or None."""
    return runner._val_loop


def test_loop(runner: Any) -> Any:
    """The test loop as it stands: built, still a config, or None."""
    return runner._test_loop


def resumes(runner: Any) -> bool:
    """Whether the run goes on from a checkpoint."""
    return runner._resume


def load_from(runner: Any) -> str | None:
    """The file that the run starts or goes on from."""
    return runner._load_from


def train_data(runner: Any) -> Any:
    """The data loader of the training as it stands: built, or still a config."""
    return runner._train_dataloader


def initialise(runner: Any) -> None:
    """Initialise the weights of the model as before a training."""
    runner._init_model_weights()


# -- mmengine's hooks and loops, for checkpoints and exact resume --
# Gone: AttributeError at the start of a run.


def accumulative_counts(wrapper: Any) -> int:
    """Iterations whose gradients make one optimizer step; 1 of a wrapper without."""
    return getattr(wrapper, "_accumulative_counts", 1)


def publish(hook: Any, runner: Any, path: str) -> None:
    """Let mmengine's CheckpointHook write the ``published_keys`` of a checkpoint."""
    hook._publish_model(runner, path)


def end_epoch(loop: Any) -> None:
    """Count an epoch of a training loop."""
    loop._epoch += 1


def decide_val_interval(loop: Any) -> None:
    """Let a training loop find out how often it validates at this epoch."""
    loop._decide_current_val_interval()


# -- mmengine's initialisation of weights --
# Gone: later initialisers erase what was loaded, and HandoverHook refuses the run;
# AttributeError at the import of mmssl_ext.transfer.


def keep_initialised(module: Any) -> None:
    """Keep later initialisers off a module."""
    module._is_init = True


def note_initialised(module: Any, how: str) -> None:
    """Say in mmengine's log of initialisations, while it keeps one, what was done."""
    from mmengine.model import update_init_info

    if hasattr(module, "_params_init_info"):
        update_init_info(module, init_info=how)


def before_pretrained(check: Callable[[Any, str, str | None], None]) -> None:
    """Call a check of module, path and prefix before ``Pretrained`` loads; once."""
    from mmengine.model import PretrainedInit

    load = PretrainedInit.__call__
    if hasattr(load, "checked"):
        return

    def checked(self: Any, module: Any) -> None:
        check(module, self.checkpoint, self.prefix)
        load(self, module)

    checked.checked = True  # type: ignore[attr-defined]
    PretrainedInit.__call__ = checked


# -- Data preprocessors of mmengine and the mm packages --
# Gone: the order of channels is neither recorded nor compared, and images that nothing
# normalises are not warned of.


def swaps_channels(preprocessor: Any) -> bool | None:
    """Whether BGR images become RGB; None where it does not say."""
    # mmdet's and mmseg's name; mmpretrain's may be given either by the loader.
    names = ("_channel_conversion", "channel_conversion")
    known = [vars(preprocessor)[n] for n in names if n in vars(preprocessor)]
    return all(known) if known else None


def normalises(preprocessor: Any) -> bool:
    """Whether mean and std are applied."""
    return bool(getattr(preprocessor, "_enable_normalize", True))


# -- mmdet's CocoMetric --


def ground_truth(metric: Any) -> Any:
    """The COCO object of its annotation file, or None. Gone: AttributeError."""
    return metric._coco_api


@contextlib.contextmanager
def coco_evaluation(kind: Any) -> Iterator[None]:
    """Let CocoMetric evaluate by another class than pycocotools'; None: by that."""
    from mmdet.evaluation.metrics import coco_metric

    before = coco_metric.COCOeval
    coco_metric.COCOeval = kind or before
    try:
        yield
    finally:
        coco_metric.COCOeval = before


# -- mmengine's Visualizer --
# It has no way to its backends but by name. Gone: they get no pictures.


def vis_backends(visualizer: Any) -> list[Any]:
    """The backends of a visualizer: TensorBoard's, that of the local files, ..."""
    return list((getattr(visualizer, "_vis_backends", None) or {}).values())


# -- Backbones of mmpretrain --
# Their `train`, and so `eval`, returns nothing. Gone: nothing to replace.


def let_train_return(module: nn.Module) -> None:
    """Let ``train`` and ``eval`` of a module's class return the module, as torch's."""
    kind = type(module)
    before = kind.train
    if module.train(module.training) is module:
        return

    @wraps(before)
    def train(self: nn.Module, mode: bool = True) -> nn.Module:
        before(self, mode)
        return self

    kind.train = train  # type: ignore[method-assign, assignment]
