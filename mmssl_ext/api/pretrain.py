"""Pretraining on a folder of images by one call."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmssl_ext.engine.config.options import check_keys
from mmssl_ext.errors import ConfigError, UserTypeError, UserValueError
from mmssl_ext.files import path_named, read_text, write_text
from mmssl_ext.text import shown

from .asked import check_same, command_of
from .data import check_apart, dataset_of, look_at
from .methods import METHODS, method_named
from .networks import backbone_for, check_teachers, place_of, teachers_of
from .recipe import Plan, write_recipe
from .settings import Device, Given, check_names, choose

if TYPE_CHECKING:
    from typing_extensions import Unpack

RECIPE = "recipe/pretrain.py"  # in the folder of the run


def pretrain(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    method: str | None = None,
    backbone: str | None = None,
    init: str | os.PathLike[str] | None = None,
    teacher: Any = None,
    *,
    bands: int | Sequence[int] | None = None,
    value_range: Any = None,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    trackers: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    **settings: Unpack[Given],
) -> Path:
    """Pretrain a backbone on images without labels.

    What is not told is chosen from the images and the device, and printed with its
    reason. The config that is used is written to ``out/recipe/pretrain.py`` and trained
    as ``tools/train.py`` does; the same file makes the same run.

    Args:
        data: Folder of images of any depth, list of paths (``.txt``), or shards.
        out: Folder of the run, not within ``data``: checkpoints, logs, ``report.html``.
        method: Of :data:`~mmssl_ext.api.methods.METHODS`; by default ``co2``, with a
            teacher ``simreg``.
        backbone: Name, such as ``resnet50``, ``resnet18-w32`` of half the width,
            ``convnext-tiny`` or ``timm:NAME``; by default that of ``init``, else
            ``resnet50`` on a GPU, ``resnet18`` on a CPU.
        init: Starting weights: a file that ``PretrainedBackbone`` reads, a run's
            folder, ``torchvision:resnet50`` or ``timm:NAME``; None: random ones.
        teacher: Of SimReg: such a file or folder, a ``FrozenTeacher``, or several.
        bands: None for 8-bit RGB; else the number of bands of the images, or which are
            taken, counted from 0, in any depth. Mean and deviation are measured.
        value_range: (low, high), the values of the files that become 0 and 255, for all
            bands or a pair for each; None measures it as :func:`mmssl_ext.stats` does.
        seed: Of all that is random.
        resume: Go on with the run in ``out``.
        overwrite: Move a run that ``out`` holds aside.
        trackers: Of ``tensorboard``, ``wandb`` and ``mlflow``, where to log as well.
        options: Further changes of the config, as ``--cfg-options``.
        **settings: See :class:`~mmssl_ext.api.settings.Given`, e.g. ``epochs``.

    Returns:
        The last checkpoint.

    Raises:
        UserError: Something cannot be used; a sentence says what to do.
    """
    check_names(settings)
    network = {"method": method, "backbone": backbone, "init": init, "teacher": teacher}
    read = {"bands": bands, "value_range": value_range}
    asked = {**network, **settings, **read, "seed": seed, "options": options}
    _check_told(data, out, asked, resume=resume, overwrite=overwrite)
    path, also = Path(os.path.expanduser(out)), _named(trackers)
    _settle(path, data, out, asked, resume, overwrite)
    changes = {**(options or {}), **(_moved(path, data) if resume else {})}
    return _train(path, changes, resume=resume, overwrite=overwrite, **also)


def _check_told(data: Any, out: Any, asked: Mapping[str, Any], **flags: Any) -> None:
    """Refuse what names nothing, such as a variable of a shell that is not set."""
    init, options = asked["init"], asked["options"]
    path_named("data", data)
    path_named("out", out)
    if init == "":
        raise UserValueError("init is empty: ''. Name a file, or leave it out.")
    if init is not None:
        path_named("init", init)
    check_teachers(asked["teacher"])
    for name in ("method", "backbone"):
        if asked[name] == "":
            raise UserValueError(f"{name} is empty. Name one, or leave it out.")
    for name, value in flags.items():
        if not isinstance(value, bool):  # "no" would be a yes
            raise UserTypeError(f"{name}={value!r} must be True or False.")
    if options is not None and not isinstance(options, Mapping):
        raise UserTypeError(
            f"options={options!r} must be a dict of changes of the config, such as "
            "{'optim_wrapper.optimizer.momentum': 0.95}."
        )
    check_keys(options or {})


def _named(trackers: Sequence[str]) -> dict[str, bool]:
    """Options of a training, whose packages are there."""
    from mmssl_ext.engine.config.complete import TRACKERS, check_trackers

    if not isinstance(trackers, Iterable):
        raise UserTypeError(
            f"trackers={trackers!r} must be a list of some of {', '.join(TRACKERS)}."
        )
    names = [trackers] if isinstance(trackers, str) else list(trackers)
    for name in names:
        if name not in tuple(TRACKERS):  # a list within it, too
            raise UserValueError(
                f"There is no tracker {name!r}; trackers can hold "
                f"{', '.join(TRACKERS)}."
            )
    check_trackers(names)
    return dict.fromkeys(names, True)


def _settle(
    path: Path,
    data: Any,
    out: Any,
    asked: Mapping[str, Any],
    resume: bool,
    overwrite: bool,
) -> None:
    """Write the recipe, or check that of the run that goes on."""
    recipe, command = path / RECIPE, command_of(data, out, asked)
    if resume and recipe.is_file():
        check_same(recipe, command, path)
        return
    from mmssl_ext.engine.checkpoint.identity import check_free
    from mmssl_ext.run.work_dir import check_writable

    check_apart(dataset_of(data), path)
    plan = _plan(data, asked, command)
    if not overwrite:
        check_free(path, None, "--out")
    check_writable(path, "folder", "--out")
    text = write_recipe(plan)
    if overwrite and recipe.is_file():
        _put_aside(path, text, asked["options"])
    recipe.parent.mkdir(exist_ok=True)
    write_text(recipe, text)
    _tell(plan, recipe)


def _moved(path: Path, data: Any) -> dict[str, Any]:
    """Where the images of a run are now, as options of its recipe.

    Whether they are the same images is looked at when the run goes on.
    """
    from mmssl_ext.run.launch import load_config

    before = load_config(path / RECIPE).train_dataloader.dataset
    now = dataset_of(Path(os.path.expanduser(data)).absolute())
    changed = {key: value for key, value in now.items() if before.get(key) != value}
    if changed and not _rank():
        print(f"The images of {path / RECIPE} are {shown(data)} now.", flush=True)
    return {f"train_dataloader.dataset.{key}": x for key, x in changed.items()}


def _put_aside(path: Path, text: str, options: Any) -> None:
    """Move a run and its recipe, once the new recipe is one that can be trained.

    Rank 0 does it; the others see that it has by the recipe, which is gone then.
    """
    from mmssl_ext.engine.checkpoint.identity import put_aside
    from mmssl_ext.run.launch import load_config, prepare
    from mmssl_ext.run.starting import texts_of
    from mmssl_ext.run.work_dir import hold

    folder = (path / RECIPE).parent
    if _rank():
        deadline = time.monotonic() + 600
        while folder.exists() and time.monotonic() < deadline:
            if read_text(path / RECIPE) == text:
                return
            time.sleep(0.1)
        return
    with tempfile.TemporaryDirectory() as place:
        trial = Path(place, Path(RECIPE).name)
        write_text(trial, text)
        cfg = prepare(load_config(trial, options), work_dir=str(path)).cfg
    with hold(path):
        moved = put_aside(path, texts_of(cfg.to_dict()))
        if moved is not None:
            folder.rename(moved / folder.name)
            print(f"The run that was in {shown(path)} is in {shown(moved)} now.")


def _train(path: Path, options: Any, **more: bool) -> Path:
    """Train the recipe of a folder."""
    from mmssl_ext.engine.checkpoint.run_folder import find_run
    from mmssl_ext.run.launch import train

    recipe = path / RECIPE
    train(recipe, options, work_dir=str(path), **more)
    found = find_run(path)
    if found is None:
        raise ConfigError(f"{path} holds no checkpoint; see its log.")
    return found.newest


def _plan(data: Any, asked: Mapping[str, Any], command: str) -> Plan:
    from .stats import measure

    teacher, init = asked["teacher"], asked["init"]
    init = init and place_of(init)
    method = method_named(asked["method"], teacher)
    _check_teacher(method, teacher)
    device = this_device()
    usual = "resnet50" if device.kind == "cuda" else "resnet18"
    backbone = backbone_for(asked["backbone"], init, usual)
    dataset = dataset_of(Path(os.path.expanduser(data)).absolute())
    images = look_at(dataset)
    measured, side = measure(data, asked.get("bands"), asked.get("value_range"))
    images = replace(images, short_side=side or images.short_side)
    settings = choose(
        images, device, METHODS[method], backbone, init is not None, asked
    )
    return Plan(
        method,
        backbone,
        {**dataset, "on_error": "skip"},
        images.count,
        [*settings, *measured],
        init,
        teachers_of(teacher, asked.get("bands")),
        asked["seed"],
        command,
    )


def _check_teacher(method: str, teacher: Any) -> None:
    if METHODS[method].teaches and not teacher:
        raise UserValueError(
            f"{METHODS[method].title} needs a teacher: teacher='resnet50.pth', the "
            "weights of a ResNet or a run, 'torchvision:resnet50' or 'timm:NAME'."
        )
    if teacher and not METHODS[method].teaches:
        raise UserValueError(
            f"{METHODS[method].title} has no teacher; leave method out, which is "
            "'simreg' then, or teacher."
        )


def this_device() -> Device:
    """The GPU that torch would take, or this machine's processors."""
    import torch

    cores = len(os.sched_getaffinity(0))
    if torch.cuda.is_available():
        return Device("cuda", torch.cuda.mem_get_info()[0] / 2**30, cores)
    return Device("cpu", _free_memory() / 2**30, cores)


def _free_memory() -> float:
    """Bytes that this process may still take: of the machine and of its cgroup."""
    pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found = [float(pages)]
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            found = [1024.0 * int(line.split()[1])]
    for line in _lines("/sys/fs/cgroup/memory.max"):
        if line.strip().isdigit():
            used = next(iter(_lines("/sys/fs/cgroup/memory.current")), "0")
            found.append(float(line) - float(used))
    return max(0.0, min(found))


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _tell(plan: Plan, recipe: Path) -> None:
    """Print what was chosen and why, on rank 0."""
    if _rank():
        return
    print(f"{plan.title}.")
    for setting in plan.settings:
        print(f"  {setting.line()}")
    print(f"The whole config: {shown(recipe)}", flush=True)
