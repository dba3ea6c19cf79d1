"""What check_env looks at: versions, providers, devices, compiled operators.

Nothing outside the standard library is imported outside a guarded probe, and nothing
that takes a second but torch: what is named in ``FOUND_ONLY`` is looked up.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from mmssl_ext import compat

Facts = dict[str, Any]
FOUND_ONLY = (
    *("torchvision", "sklearn", "tensorboard", "wandb", "mlflow", "timm", "tifffile"),
    *("pyarrow", "imagehash", "onnx", "onnxruntime", "faster_coco_eval"),
)


def collect(names: Iterable[str]) -> Facts:
    """Probe the machine and the packages of these import names.

    Returns:
        Nested dicts of what JSON can hold; a package that cannot be imported has
        ``error`` set, and what depends on it is None.
    """
    # A package's own chatter must not mix with the answer on stdout.
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        providers = importlib.metadata.packages_distributions()
        packages = {name: _probe(name, providers.get(name, [])) for name in names}
        return {
            "python": platform.python_version(),
            "os": platform.platform(),
            "cpu_cores": _cpu_cores(),
            "shm_gib": _shm_gib(),
            "nvidia_driver": os.path.exists("/proc/driver/nvidia/version")
            or shutil.which("nvidia-smi") is not None,
            "packages": packages,
            "torch": _guarded(_torch_facts, packages["torch"]),
            "torchvision_ops": _guarded(_torchvision_ops, packages["torchvision"]),
            "mmcv_ops": _guarded(_mmcv_ops, packages["mmcv"]),
        }


def _probe(name: str, providers: list[str]) -> Facts:
    fact: Facts = {
        "version": None,
        "distributions": {d: _dist_version(d) for d in sorted(set(providers))},
        "missing": False,
        "error": None,
    }
    known = [*fact["distributions"].values(), None]
    if name in FOUND_ONLY:
        spec = importlib.util.find_spec(name)
        if spec and spec.origin:  # not a folder of this name
            return {**fact, "version": str(known[0] or "unknown")}
        error = f"ModuleNotFoundError: No module named '{name}'"
        return {**fact, "missing": True, "error": error}
    try:
        module = importlib.import_module(name)
        fact["version"] = str(getattr(module, "__version__", known[0] or "unknown"))
    except ModuleNotFoundError as error:
        fact["missing"] = error.name == name
        fact["error"] = _first_line(error)
    except Exception as error:
        fact["error"] = _first_line(error)
    return fact


def _dist_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _guarded(probe: Callable[[], Facts], package: Facts) -> Facts | None:
    if package["error"] is not None:
        return None
    try:
        return probe()
    except Exception as error:
        return {"error": _first_line(error)}


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def _cpu_cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def _shm_gib() -> float | None:
    try:
        return round(shutil.disk_usage("/dev/shm").total / 2**30, 2)
    except OSError:
        return None


def _torch_facts() -> Facts:
    import torch

    archs = torch.cuda.get_arch_list() if torch.cuda.is_available() else []
    gpus = []
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        capability = (properties.major, properties.minor)
        gpus.append(
            {
                "name": properties.name,
                "capability": "{}.{}".format(*capability),
                "memory_gib": round(properties.total_memory / 2**30, 1),
                "covered": covers(archs, capability),
            }
        )
    nccl = None
    if torch.version.cuda and torch.distributed.is_nccl_available():
        nccl = ".".join(map(str, torch.cuda.nccl.version()))
    return {
        "cuda": torch.version.cuda,
        "rocm": torch.version.hip,
        "cudnn": torch.backends.cudnn.version() if torch.version.cuda else None,
        "nccl": nccl,
        "archs": archs,
        "gpus": gpus,
    }


def covers(archs: list[str], capability: tuple[int, int]) -> bool:
    """Whether code compiled for ``archs`` runs on a GPU of this compute capability.

    ``sm_86`` runs on 8.6 and on later minors of the same major; ``compute_86`` is
    portable code that runs on everything from 8.6 on; ``sm_90a`` runs on 9.0 only.
    """
    for arch in archs:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", arch)
        if match is None:
            continue
        built = int(match[2]), int(match[3])
        same_major = built[0] == capability[0] and built[1] <= capability[1]
        if built == capability or (match[4] != "a" and same_major):
            return True
        if match[1] == "compute" and not match[4] and built <= capability:
            return True
    return False


def _torchvision_ops() -> Facts:
    import torch

    nms = compat.torchvision_nms()
    nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
    return {"error": None}


def _mmcv_ops() -> Facts:
    spec = importlib.util.find_spec("mmcv._ext")
    origin = spec.origin if spec else None
    if not origin or not origin.endswith((".so", ".pyd")):
        return {"compiled": False, "cuda": None, "error": None}
    from mmcv.ops import get_compiling_cuda_version, nms

    fact: Facts = {"compiled": True, "cuda": get_compiling_cuda_version()}
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    box = torch.tensor([[0.0, 0.0, 1.0, 1.0]], device=device)
    try:  # running one is the only certain test of the compiled architectures
        nms(box, torch.ones(1, device=device), 0.5)
        return {**fact, "error": None}
    except Exception as error:
        return {**fact, "error": f"on {device}: {_first_line(error)}"}
