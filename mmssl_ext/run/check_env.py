"""Say whether this machine can pretrain, and how to fix it where it cannot.

    python -m mmssl_ext check-env [--json]

Works with missing or broken packages. Exit code 0: pretraining can run; 1: it cannot.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from mmssl_ext.interrupt import explained

from .env_probe import Facts, collect

# Import name -> (distribution to install, lowest version).
REQUIRED = {
    "torch": ("torch", "2.4"),
    "torchvision": ("torchvision", ""),
    "mmengine": ("onedl-mmengine", "0.10.12"),
    "mmcv": ("onedl-mmcv", "2.3.6"),
    "mmpretrain": ("onedl-mmpretrain", "1.3.6"),
    "numpy": ("numpy", ""),
    "cv2": ("opencv-python-headless", ""),
    "PIL": ("Pillow", ""),
    "matplotlib": ("matplotlib", ""),
    "rich": ("rich", ""),
    "safetensors": ("safetensors", ""),
    "filelock": ("filelock", "3.30"),
    "jinja2": ("jinja2", "3.1"),
}
OPTIONAL = {
    "mmdet": ("onedl-mmdetection", "detection transfer"),
    "mmseg": ("onedl-mmsegmentation", "segmentation transfer"),
    "sklearn": ("scikit-learn", "SVM evaluation"),
    "tensorboard": ("tensorboard", "TensorBoard logs"),
    "wandb": ("wandb", "--wandb"),
    "mlflow": ("mlflow-skinny", "--mlflow"),
    "timm": ("timm", "backbones of timm"),
    "tifffile": ("tifffile", "TIFF of several bands or more than 8 bits"),
    "pyarrow": ("pyarrow", "embed to Parquet"),
    "imagehash": ("imagehash", "duplicates by hash"),
    "onnx": ("onnx", "export --to onnx"),
    "onnxruntime": ("onnxruntime", "check of the ONNX file"),
    "faster_coco_eval": ("faster-coco-eval", "faster COCO metrics"),
}
_SHARED_NAMES = ("mmengine", "mmcv", "mmpretrain", "mmdet", "mmseg", "cv2")
_INDEX = "https://download.pytorch.org/whl/"


@dataclass(frozen=True)
class Problem:
    """Something wrong, and the command that fixes it.

    Attributes:
        text: What is wrong, in full sentences.
        command: What to type.
        blocks: Whether pretraining cannot run before it is fixed.
    """

    text: str
    command: str
    blocks: bool = True


def diagnose(facts: Facts) -> list[Problem]:
    """Return what is wrong; what blocks pretraining comes first."""
    packages = facts["packages"]
    problems = []
    if parse_version(facts["python"]) < (3, 10):
        problems.append(
            Problem(
                f"Python {facts['python']} is too old; mmssl_ext needs 3.10 or newer.",
                "conda create -n mmssl python=3.11 && conda activate mmssl",
            )
        )
    reported: set[str] = set()
    for name in (*REQUIRED, *OPTIONAL):
        package = packages[name]
        if not _is_consequence(package["error"], reported, packages):
            problems += _package_problems(name, packages)
        reported.add(name)
    for name in _SHARED_NAMES:
        dists = list(packages[name]["distributions"])
        if len(dists) > 1:
            ours = _distribution(name)[0]
            keep = ours if ours in dists or name != "cv2" else dists[0]
            problems.append(
                Problem(
                    f"{len(dists)} distributions provide the import name {name}: "
                    f"{' and '.join(dists)}. They overwrite each other's files; only "
                    "one may be there.",
                    f"pip uninstall -y {' '.join(dists)} && pip install {keep}",
                    blocks=name in REQUIRED and name != "cv2",
                )
            )
    problems += _device_problems(facts)
    if facts["shm_gib"] is not None and facts["shm_gib"] < 1:
        problems.append(
            Problem(
                f"Shared memory (/dev/shm) has only {facts['shm_gib']:.2f} GiB. Data "
                "loader workers pass batches through it and die with a bus error when "
                "it is full.",
                "docker run --shm-size=16g ...  (without a container: "
                "sudo mount -o remount,size=16G /dev/shm)",
                blocks=False,
            )
        )
    return sorted(problems, key=lambda problem: not problem.blocks)


def parse_version(version: str) -> tuple[int, ...]:
    """Return the release numbers of a version: ``2.11.0a0+cpu`` gives (2, 11, 0)."""
    return tuple(map(int, re.findall(r"\d+", re.match(r"[\d.]*", version)[0])))  # type: ignore[index]


def _distribution(name: str) -> tuple[str, str]:
    """Return (distribution, lowest version or "") for an import name."""
    return REQUIRED[name] if name in REQUIRED else (OPTIONAL[name][0], "")


def _is_consequence(error: str | None, reported: set[str], packages: Facts) -> bool:
    """Whether a package fails only since one that was looked at before does."""
    if error is None:
        return False
    missing = re.search(r"No module named '(\w+)", error)
    return any(
        packages[name]["error"] is not None
        and (packages[name]["error"] == error or (missing and missing[1] == name))
        for name in reported
    )


def _package_problems(name: str, packages: Facts) -> list[Problem]:
    package = packages[name]
    dist, lowest = _distribution(name)
    wanted = f'"{dist}>={lowest}"' if lowest else dist
    versions, error = package["distributions"], package["error"]
    blocks = name in REQUIRED
    if versions.get("onedl-mmengine") == "0.10.11":
        text = "onedl-mmengine 0.10.11 is a broken release: mmengine.dist is not in it."
        return [Problem(text, f"pip install --upgrade {wanted}")]
    if package["missing"] and not versions:
        if not blocks:
            return []
        torch = " torchvision" if name == "torch" else ""
        command = f"pip install {wanted}{torch}"
        if name == "torchvision":
            command = _torchvision_command(packages["torch"])
        return [Problem(f"{name} is not installed.", command)]
    if error:
        command = f"pip install --force-reinstall --no-deps {wanted}"
        if name == "cv2" and "libGL" in error:
            others = " ".join(versions) or "opencv-python"
            command = f"pip uninstall -y {others} && pip install {dist}"
        use = "" if blocks else f" Only {OPTIONAL[name][1]} needs it."
        text = f"{name} is installed but cannot be imported ({error}).{use}"
        return [Problem(text, command, blocks)]
    if lowest and (dist in versions or not dist.startswith("onedl-")):
        found = versions.get(dist) or package["version"]
        if parse_version(found) < parse_version(lowest):
            text = f"{dist} {found} is too old; {lowest} or newer is needed."
            return [Problem(text, f"pip install --upgrade {wanted}")]
    torch_version = packages["torch"]["version"] or "0"
    upstream = name == "mmengine" and dist not in versions and "mmengine" in versions
    if upstream and parse_version(torch_version) >= (2, 6):
        text = (
            f"Upstream mmengine {package['version']} cannot load checkpoints with "
            f"torch {torch_version} (weights_only is the default since 2.6): runs do "
            "not resume."
        )
        command = f"pip uninstall -y mmengine && pip install {wanted}"
        return [Problem(text, command, blocks=False)]
    return []


def _torchvision_command(torch: Facts) -> str:
    version = torch["distributions"].get("torch") or torch["version"]
    if not version:
        return 'pip install "torch>=2.4" torchvision'
    release, _, build = version.partition("+")
    major, minor = (*parse_version(release), 0)[:2]
    # torchvision 0.(N + 15) is the release that belongs to torch 2.N.
    pin = f'"torchvision==0.{minor + 15}.*"' if major == 2 else "torchvision"
    index = f" --index-url {_INDEX}{build}" if build else ""
    return f"pip install --force-reinstall --no-deps {pin}{index}"


def _device_problems(facts: Facts) -> list[Problem]:
    problems = []
    torch, packages = facts["torch"] or {}, facts["packages"]
    operators = (facts["torchvision_ops"] or {}).get("error")
    if operators:
        problems.append(
            Problem(
                f"torchvision does not fit torch {packages['torch']['version']}: its "
                f"compiled operators do not run ({operators}). Both must come from the "
                "same index, as the same CPU or CUDA build.",
                _torchvision_command(packages["torch"]),
            )
        )
    version = packages["torch"]["version"]
    if torch.get("error"):
        text = f"torch {version} could not be asked for its devices: {torch['error']}."
        problems.append(Problem(text, "nvidia-smi   (does the driver answer?)", False))
    uncovered = [gpu for gpu in torch.get("gpus", []) if not gpu["covered"]]
    for name, capability in sorted({(g["name"], g["capability"]) for g in uncovered}):
        problems.append(
            Problem(
                f"torch {version} holds no code for the {name} (compute capability "
                f"{capability}); it covers {' '.join(torch['archs'])}. Training stops "
                "with 'no kernel image is available'.",
                "pip install --upgrade torch torchvision --index-url "
                f"{_INDEX}{_wheel_for(capability)}",
            )
        )
    if facts["nvidia_driver"] and version and not torch.get("gpus"):
        if not (torch.get("cuda") or torch.get("rocm")):
            cause = "torch is a CPU-only build"
            command = "pip install --force-reinstall torch torchvision"
        else:
            cause = f"torch (CUDA {torch.get('cuda')}) finds none that it can use"
            command = "nvidia-smi; echo $CUDA_VISIBLE_DEVICES   (driver new enough?)"
        text = f"There is an NVIDIA driver but {cause}; training would run on the CPU."
        problems.append(Problem(text, command, blocks=False))
    ops = facts["mmcv_ops"] or {}
    if ops.get("error"):
        problems.append(
            Problem(
                f"mmcv's compiled operators do not run ({ops['error']}). Pretraining "
                "does not use them; detection does.",
                "pip install --force-reinstall --no-deps onedl-mmcv   (built without "
                "operators, torchvision's take their place)",
                blocks=False,
            )
        )
    return problems


def _wheel_for(capability: str) -> str:
    """Return the wheel index of a CUDA version that still (or already) has it."""
    return "cu126" if parse_version(capability) < (7, 5) else "cu130"


def render(facts: Facts, problems: Sequence[Problem]) -> str:
    """Return the answer as plain text."""
    shm = facts["shm_gib"]
    rows = [
        ("Python", facts["python"]),
        ("system", facts["os"]),
        ("CPU cores", str(facts["cpu_cores"])),
        ("/dev/shm", "none" if shm is None else f"{shm:.1f} GiB"),
    ]
    for name in (*REQUIRED, *OPTIONAL):
        rows.append((name, _describe(name, facts["packages"][name])))
        if name == "torch" and facts["torch"]:
            rows += _torch_rows(facts["torch"])
        if name == "torchvision" and facts["torchvision_ops"]:
            works = facts["torchvision_ops"]["error"] is None
            rows.append(("  operators", "nms runs" if works else "do NOT run"))
        if name == "mmcv" and facts["mmcv_ops"]:
            ops = facts["mmcv_ops"]
            text = (
                f"compiled (CUDA {ops['cuda']})"
                if ops.get("compiled")
                else "not compiled; pretraining needs none, mmdet gets torchvision's"
            )
            rows.append(("  operators", text))
    width = max(len(label) for label, _ in rows) + 2
    lines = [f"{label:<{width}}{text}" for label, text in rows]
    blocked = any(problem.blocks for problem in problems)
    if problems:
        lines += ["", "What is wrong and how to fix it"]
        for i, problem in enumerate(problems, 1):
            hint = "" if problem.blocks else " (pretraining runs without this)"
            lines += [f"{i}. {problem.text}{hint}", f"     {problem.command}"]
    if not blocked:
        lines += ["", "Everything needed for pretraining is there."]
    return "\n".join(lines)


def _describe(name: str, package: Facts) -> str:
    dists = ", ".join(f"{d} {v}" for d, v in package["distributions"].items())
    if package["missing"] and not dists:
        use = f" (optional: {OPTIONAL[name][1]})" if name in OPTIONAL else ""
        return f"not installed{use}"
    if package["error"]:
        return f"BROKEN: {package['error']}  [{dists or 'no distribution'}]"
    return f"{package['version']:<14}[{dists or 'no distribution'}]"


def _torch_rows(torch: Facts) -> list[tuple[str, str]]:
    if torch.get("error"):
        return [("  devices", torch["error"])]
    build = f"CUDA {torch['cuda']}" if torch["cuda"] else "CPU only"
    if torch["rocm"]:
        build = f"ROCm {torch['rocm']}"
    rows = [("  build", build)]
    if torch["cuda"]:
        rows.append(("  cuDNN, NCCL", f"{torch['cudnn']}, {torch['nccl'] or 'none'}"))
    if torch["archs"]:
        rows.append(("  compiled for", " ".join(torch["archs"])))
    for i, gpu in enumerate(torch["gpus"]):
        covered = "covered" if gpu["covered"] else "NOT covered by this torch"
        text = f"{gpu['name']}, {gpu['memory_gib']} GiB, compute capability"
        rows.append((f"  GPU {i}", f"{text} {gpu['capability']}: {covered}"))
    if not torch["gpus"]:
        rows.append(("  GPU", "none"))
    return rows


@explained
def main(argv: Sequence[str] | None = None) -> int:
    """Print the answer; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="mmssl-ext check-env",
        description="Say whether this machine can pretrain, and what to fix if not.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    args = parser.parse_args(argv)
    facts = collect((*REQUIRED, *OPTIONAL))
    problems = diagnose(facts)
    can_pretrain = not any(problem.blocks for problem in problems)
    if args.json:
        answer = {
            "can_pretrain": can_pretrain,
            "problems": [asdict(problem) for problem in problems],
            **facts,
        }
        print(json.dumps(answer, indent=2))
    else:
        print(render(facts, problems))
    return 0 if can_pretrain else 1


if __name__ == "__main__":
    sys.exit(main())
