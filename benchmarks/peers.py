"""The installed peers: found, imported as they are, or missing with a reason.

``make bench`` installs requirements/peers.txt into .venv/peers. The folder stands last
on the search path, so that nothing in it shadows a pinned package.
"""

import importlib
import importlib.machinery
import os
import sys
import types
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / ".venv" / "peers"


class PeerMissing(RuntimeError):
    """A peer cannot be imported; the message says why."""


def _add_folder() -> None:
    # A path of its own at the end, where ours and the pinned packages win.
    if FOLDER.is_dir() and str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
        importlib.invalidate_caches()


def load(module: str) -> Any:
    """Import a module of a peer, or raise :class:`PeerMissing`."""
    _add_folder()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except Exception as error:  # a broken package raises anything
        reason = f"{type(error).__name__}: {error}".replace("\n", " ")
        raise PeerMissing(f"{module} cannot be imported ({reason})") from error


def load_solo(module: str) -> Any:
    """Import a module of solo-learn without what its packages import besides.

    ``import solo`` imports every method, and with them lightning-bolts (which is not
    to be had for Lightning 2) for one learning-rate schedule. So the packages are
    entered without running their ``__init__``, and the name of the schedule is empty;
    the modules themselves run as installed. No benchmark makes a schedule.
    """
    _add_folder()
    found = importlib.machinery.PathFinder.find_spec("solo")
    if found is None or not found.submodule_search_locations:
        raise PeerMissing("solo-learn is not installed")
    root = next(iter(found.submodule_search_locations))
    for name in ("solo", "solo.methods", "solo.utils", "solo.losses"):
        package = sys.modules.setdefault(name, types.ModuleType(name))
        package.__path__ = [os.path.join(root, *name.split(".")[1:])]
    schedule = "pl_bolts.optimizers.lr_scheduler"
    known = "pl_bolts" in sys.modules
    if not known and importlib.util.find_spec("pl_bolts") is None:
        for name in ("pl_bolts", "pl_bolts.optimizers", schedule):
            sys.modules[name] = types.ModuleType(name)
        sys.modules[schedule].LinearWarmupCosineAnnealingLR = None  # type: ignore[attr-defined]
    return load(module)


def installed(distribution: str) -> str:
    """Version of a distribution, or ``-``."""
    _add_folder()
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "-"


def available(
    makers: dict[str, Callable[[], Any]],
) -> tuple[dict[str, Any], dict[str, str]]:
    """Call what makes each arm; return the arms, and why others are left out."""
    arms, missing = {}, {}
    for name, make in makers.items():
        try:
            arms[name] = make()
        except PeerMissing as error:
            missing[name] = str(error)
            print(f"Left out: {name}: {error}.")
    return arms, missing
