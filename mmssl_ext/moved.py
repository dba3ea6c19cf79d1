"""Modules of version 0.1 by the names of that time, each with a warning; until 0.4."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Any

PACKAGE = __name__.partition(".")[0]
# Room of now -> its modules, as OLD=NEW below the old room, or by the name of both.
_ROOMS = {
    "engine:": "errors",
    "engine:run.": "launch tool starting work_dir leaving runner testing=evaluate",
    "engine:chain.": "chain=spec chain_run=run chain_results=results",
    "engine:engine.checkpoint.": "checkpoint_writing=write checkpoint_files=saver "
    "checkpoint_order=run_folder manifest resume=facts foreign_state gradients="
    "exact_resume queue_trials=exact_resume generators=loops same_data=resume schedule "
    "loops run_folder put_aside=identity best_scores=best",
    "engine:engine.config.": "config_check=checks config_names=values config_strict="
    "strict config_values=values config_variables=variables config_environment="
    "environment options precision=complete",
    "engine:engine.weights.": "weight_files=files weight_names=match weight_record="
    "record weight_values=values load_report=report start_weights=start download",
    "engine:engine.resilience.": "preemption loading collating prefetch ranks "
    "agreement lock mounts=lock",
    "engine:engine.monitor.": "first_look batch_limits=input_check",
    "engine.hooks:engine.checkpoint.": "checkpoint=hook best exact_resume",
    "engine.hooks:engine.resilience.": "preemption=preemption_hook guard unreadable",
    "engine.hooks:engine.monitor.": "collapse knn progress pseudo_labels performance "
    "input_check draw_key=augmentation_seed runtime_info result",
    "engine.hooks:engine.training.": "method fixed_rate",
    "engine.hooks:engine.weights.": "loaded_weights=hook",
    "engine.hooks:visualization.hooks.": "report pictures learned_pictures",
    "visualization:visualization.pictures.": "sheet learned method_pictures=method "
    "browse",
    "visualization:chain.": "chain_report=report chain_data=data chain_plots=plots",
    "datasets:datasets.": "draws=seeds account=walk",
    ":run.": "cli env_probe",
}


def _table() -> dict[str, str]:
    found = {}
    for rooms, names in _ROOMS.items():
        before, now = rooms.split(":")
        for name in names.split():
            old, _, new = name.partition("=")
            old = f"{before}.{old}".lstrip(".")
            found[f"{PACKAGE}.{old}"] = f"{PACKAGE}.{now}{new or name}"
    return found


MOVED = _table()


class _Finder(MetaPathFinder, Loader):
    """Finds the module of now where a name of that time is imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: Any = None
    ) -> ModuleSpec | None:
        return spec_from_loader(fullname, self) if fullname in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        _warn(module.__name__, MOVED[module.__name__])
        sys.modules[module.__name__] = import_module(MOVED[module.__name__])


def _warn(old: str, new: str) -> None:
    text = f"{old} is {new} now; the old name goes with mmssl_ext 0.4."
    warnings.warn(text, DeprecationWarning, stacklevel=2)


def names_of(package: str, *modules: str) -> Callable[[str], Any]:
    """A ``__getattr__`` for a package that was a module, or held other names.

    Args:
        package: Its ``__name__``.
        *modules: Where its names are now, below ``mmssl_ext``.
    """

    def find(name: str) -> Any:
        for module in () if name.startswith("__") else modules:
            found = import_module(f"{PACKAGE}.{module}")
            if hasattr(found, name):
                _warn(f"{package}.{name}", f"{found.__name__}.{name}")
                return getattr(found, name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find


def find_moved() -> None:
    """Find the modules that have moved from now on."""
    if not any(type(finder).__name__ == "_Finder" for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
