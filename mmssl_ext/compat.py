"""Names that torch, mmengine and the mm packages do not promise, in one place.

Nothing else in the package uses a name of theirs that begins with an underscore or
replaces one of their functions (a test looks for both). Tried with torch 2.4, 2.11 and
2.15, mmengine 0.10.7 and onedl-mmengine 0.10.12, mmcv 2.1 and onedl-mmcv 2.3.6, mmdet
3.3 and onedl-mmdetection 3.5.1. Each entry says what happens where a name is gone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import wraps
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

# -- mmengine's Config and DictAction --
# The steps by which a config file is read, and the values of --cfg-options. Gone:
# AttributeError when a tool starts.

_CONFIG_STEPS = {
    "environment": "_substitute_env_variables",
    "file_names": "_substitute_predefined_vars",
    "bases": "_pre_substitute_base_vars",
    "base_path": "_get_cfg_path",
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


def start_from(runner: Any, path: str | None, resume: bool) -> None:
    """Let the run start or go on from a file."""
    runner._load_from, runner._resume = path, resume


def train_data(runner: Any) -> Any:
    """The data loader of the training as it stands: built, or still a config."""
    return runner._train_dataloader


def initialise(runner: Any) -> None:
    """Initialise the weights of the model as before a training."""
    runner._init_model_weights()


# -- torch --
# Operators without a public name, of torch 2.4 to 2.15. Gone: AttributeError at the
# first loss, which ``fused_queue=False`` avoids, or at the first step of the target.

if TYPE_CHECKING:
    from torch import Tensor, nn


def __getattr__(name: str) -> Any:
    if name == "BatchNorm":  # the base of all of torch's; imported when asked for
        from torch.nn.modules.batchnorm import _BatchNorm

        return _BatchNorm
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def onednn_linear(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b.T`` in fp32 by oneDNN."""
    import torch

    return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")


def attention(q: Tensor, keys: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention of B x S x N x D to keys that are values, with its log-sum-exps."""
    import torch

    if q.is_cuda:
        op = torch.ops.aten._scaled_dot_product_efficient_attention
        return op(q, keys, keys, None, True, scale=scale)[:2]
    op = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return op(q, keys, keys, scale=scale)


def lerp(to: list[Tensor], towards: list[Tensor], weight: float) -> None:
    """Move tensors in place by a share of the way to others."""
    import torch

    torch._foreach_lerp_(to, towards, weight)


def compile_training(module: nn.Module, options: dict) -> None:
    """Compile a module in place for its training mode; its state dict stays."""
    module.compile(**options)
    compiled: Any = module._compiled_call_impl

    def call(*args: Any, **kwargs: Any) -> Any:
        return (compiled if module.training else module._call_impl)(*args, **kwargs)

    # As nn.Module.compile itself stores it: copies of the module leave it out.
    module._compiled_call_impl = call


def copy_versions(source: dict, target: dict) -> None:
    """Keep the versions of modules that stand beside a state_dict, if there are any.

    Gone: modules whose layout has changed since would load an old state as a new one.
    """
    if hasattr(source, "_metadata"):
        target._metadata = {k: dict(v) for k, v in source._metadata.items()}  # type: ignore[attr-defined]


def count_steps(step: Any) -> None:
    """Mark a function as an optimizer's ``step`` whose calls schedules look at.

    Gone: schedules warn that they are stepped before the optimizer.
    """
    step._with_counter = True


# -- torch's DataLoader --
# Its iterators know the workers and the batches under way; no public name tells them.
# torch 2.4 has no `_in_order`. Gone: AttributeError where the first iterator is made.


def loader_iterators() -> tuple[Any, Any]:
    """Iterators of torch for a loader without and with workers, to derive from.

    :class:`LoaderIterator` and :class:`WorkersIterator` go before them.
    """
    from torch.utils.data import dataloader

    return (
        dataloader._SingleProcessDataLoaderIter,
        dataloader._MultiProcessingDataLoaderIter,
    )


def makes_own_iterators(loader: Any) -> bool:
    """Whether a loader, or its class, makes other iterators than torch's do."""
    from torch.utils.data import DataLoader

    replaced = "_get_iterator" in vars(loader)
    return replaced or type(loader)._get_iterator is not DataLoader._get_iterator


def iterate_by(loader: Any, make: Callable[[], Any]) -> None:
    """Let ``make()`` make the iterators of a loader."""
    loader._get_iterator = make


_Beside: Any = object  # torch's class, which is imported only where it is needed


class LoaderIterator(_Beside):
    """Public names for what an iterator of torch does and knows."""

    yielded = property(attrgetter("_num_yielded"))

    def take(self) -> Any:
        """Return the next batch, as torch does."""
        return super().__next__()

    def draw(self) -> Any:
        """Return what the sampler gives for the next batch."""
        return super()._next_index()

    def _next_index(self) -> Any:
        return self.next_index()


class WorkersIterator(LoaderIterator):
    """Further ones, of an iterator with workers."""

    workers = property(attrgetter("_workers"))
    at_work = property(attrgetter("_workers_status"))  # a flag for each worker
    tasks = property(attrgetter("_task_info"))  # batch: worker, and data once there
    batch = property(attrgetter("_rcvd_idx"))  # the next one to be handed out
    next_task = property(attrgetter("_send_idx"))  # the next one for a worker
    results = property(attrgetter("_data_queue"))
    timeout = property(attrgetter("_timeout"))
    dataset = property(attrgetter("_dataset"))
    in_order = property(lambda self: getattr(self, "_in_order", True))

    def __init__(self, loader: Any) -> None:
        super().__init__(loader)
        self.heed_deaths(False)
        self._worker_pids_set = False

    def heed_deaths(self, heed: bool) -> None:
        """Let torch raise in the main thread, wherever it is, when a worker dies."""
        from torch._C import _remove_worker_pids, _set_worker_pids

        if heed:
            _set_worker_pids(id(self), tuple(int(x.pid or 0) for x in self._workers))
        else:
            with contextlib.suppress(ValueError):  # not heeded either way
                _remove_worker_pids(id(self))

    def pins(self) -> bool:
        """Whether the thread that pins memory, if there is to be one, is alive."""
        return not self._pin_memory or self._pin_memory_thread.is_alive()

    def kill(self, loader: Any, seconds: float) -> None:
        """Kill the workers; wait for nothing that might not come."""
        self._shutdown = True  # so that __del__ does not wait either
        self.heed_deaths(False)
        workers = getattr(self, "_workers", ())
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.join(seconds)
        if (pinning := getattr(self, "_pin_memory_thread", None)) is not None:
            self._pin_memory_thread_done_event.set()
            self._worker_result_queue.cancel_join_thread()
            self._worker_result_queue.put((None, None))  # wakes it
            pinning.join(seconds)
        if loader is not None and loader._iterator is self:
            loader._iterator = None  # the next iteration starts new workers

    def _get_data(self) -> Any:
        return self.next_result()

    def _reset(self, loader: Any, first_iter: bool = False) -> None:
        self.begin(lambda: super(WorkersIterator, self)._reset(loader, first_iter))

    def _process_data(self, data: Any, *args: Any) -> Any:
        from torch._utils import ExceptionWrapper

        if isinstance(data, ExceptionWrapper):
            self.raised(data)
        return super()._process_data(data, *args)


@contextlib.contextmanager
def dealt_by(loader: Any, wrap: Callable[[Any], Any]) -> Iterator[None]:
    """Let the iterator that a DataLoader makes now take indices from another sampler.

    A DataLoader refuses another one as attribute, for nothing would ensure that it
    fits. Persistent workers that are at work already are given up. Gone: a resume
    inside an epoch stops with an AttributeError.

    Args:
        loader: The DataLoader.
        wrap: Makes the sampler from the one that is there.
    """
    loader._iterator = None
    name = "sampler" if loader.batch_sampler is None else "batch_sampler"
    dealer = getattr(loader, name)
    object.__setattr__(loader, name, wrap(dealer))
    try:
        yield
    finally:
        object.__setattr__(loader, name, dealer)


# -- torch.distributed --


def rendezvous_store() -> Any:
    """The store by which the ranks found one another. Gone: AttributeError."""
    import torch.distributed as dist

    return dist.distributed_c10d._get_default_store()


# -- torchvision's library of compiled operators --
# Its file; `import torchvision` takes a second. Gone: check-env says that the operators
# do not run.


def torchvision_nms() -> Callable:
    """The compiled ``nms``.

    Raises:
        OSError: The library is missing, or built for another torch.
    """
    import torch

    spec = find_spec("torchvision")
    folders = (spec.submodule_search_locations if spec else None) or []
    files = [file for folder in folders for file in Path(folder).glob("_C*.so")]
    if not files:
        raise OSError("torchvision has no file _C.so")
    torch.ops.load_library(str(files[0]))
    return torch.ops.torchvision.nms


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
