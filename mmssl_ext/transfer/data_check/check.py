"""Look at the data of a detection, segmentation or classification config first.

The toolboxes find a missing file or a misspelt class only after minutes, deep in a
traceback, and some faults never: mmdet trains on nothing where no class name of the
config occurs in the annotations. Here the files are read before anything is built.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

from mmengine.registry import DATASETS

from mmssl_ext.errors import ConfigError

from . import coco, folder, semantic, voc
from .json import read_coco
from .objects import report_absent
from .source import Fault, Findings, Source
from .splits import check_splits

_Read = Callable[[Source], Any]
_Report = Callable[[list[Any]], None]

# The class that reads the annotations -> what reads a data set of it, and what says
# what all those of a dataloader lack together. A data set with a reader of its own is
# unknown and passed over.
_CHECKS: dict[str, tuple[_Read, _Report]] = {
    "CocoDataset": (coco.read, report_absent),
    "XMLDataset": (voc.read, voc.report),
    "VOCDetectionDataset": (voc.read, voc.report),
    "BaseSegDataset": (semantic.read, semantic.report),
    "CustomDataset": (folder.read, lambda parts: None),
}
# What stands for a class whose toolbox is not imported yet.
_READERS = {
    ("mmdet", "CityscapesDataset"): "CocoDataset",
    ("mmdet", "VOCDataset"): "XMLDataset",
    ("mmssl_ext", "CocoDetectionDataset"): "CocoDataset",
    ("mmssl_ext", "CityscapesDetectionDataset"): "CocoDataset",
    ("mmssl_ext", "VOCDetectionDataset"): "VOCDetectionDataset",
    ("mmseg", "CityscapesDataset"): "BaseSegDataset",
    ("mmseg", "PascalVOCDataset"): "BaseSegDataset",
    ("mmpretrain", "ImageNet"): "CustomDataset",
}


def check_data(cfg: Any) -> list[tuple[int, str]]:
    """Check the files that the dataloaders of a config will read.

    Args:
        cfg: A config whose ``default_scope`` is mmdet, mmseg or mmpretrain; others have
            checks of their own and are passed over.

    Returns:
        Notices, each a logging level and a sentence.

    Raises:
        ConfigError: One sentence per problem, with its place in the config.
    """
    scope = cfg.get("default_scope")
    if scope not in ("mmdet", "mmseg", "mmpretrain"):
        return []
    findings: Findings = {}
    seen: set[str] = set()
    loaders: dict[str, list[Source]] = {}
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        groups: dict[str, list[Source]] = {}
        for place, node in datasets((cfg.get(loader) or {}).get("dataset"), loader):
            cls, reader = _identify(node["type"], scope)
            training, model = loader == "train_dataloader", cfg.get("model") or {}
            source = Source(node, place, training, cls, model, findings)
            content = {k: v for k, v in node.items() if k != "pipeline"}
            key = f"{training}{content}"  # test data are mostly the validation data
            if reader in _CHECKS and key not in seen and not source.is_remote:
                seen.add(key)
                groups.setdefault(reader, []).append(source)
        for reader, sources in groups.items():
            _check(sources, *_CHECKS[reader])
        loaders[loader] = [s for sources in groups.values() for s in sources]
    check_splits(cfg, loaders, findings)
    said = [
        (level, f"{', '.join(places)}: {sentence}")
        for (level, sentence), places in findings.items()
    ]
    if problems := [text for level, text in said if level >= logging.ERROR]:
        raise ConfigError("\n".join(problems))
    return said


def _check(sources: list[Source], read: _Read, report: _Report) -> None:
    """Read data sets; where each can be read, say what they lack together."""
    parts = []
    for source in sources:
        try:
            source.check_root()
            parts.append(read(source))
        except Fault as fault:
            for sentence in fault.args:
                source.problem(sentence)
        except OSError as error:  # no permission, an unreachable disk
            source.problem(f"The data cannot be read: {error}.")
    read_coco.cache_clear()  # gigabytes for COCO's own file
    if len(parts) == len(sources):
        report(parts)


def datasets(node: Any, place: str) -> Iterator[tuple[str, dict]]:
    """The innermost data sets below the wrappers."""
    if not isinstance(node, dict):
        return
    place = place if "." in place else f"{place}.dataset"
    if isinstance(node.get("datasets"), (list, tuple)):
        for i, part in enumerate(node["datasets"]):
            yield from datasets(part, f"{place}.datasets[{i}]")
    elif isinstance(node.get("dataset"), dict):
        yield from datasets(node["dataset"], f"{place}.dataset")
    elif "type" in node:
        yield place, node


def _identify(name: Any, scope: str) -> tuple[type | None, str]:
    """The class of a data set and the one that reads its files; imports nothing."""
    if isinstance(name, type):
        cls: type | None = name
    else:
        head, _, name = str(name).rpartition(".")
        scope = head or scope
        registry = DATASETS.children.get(scope)
        cls = registry.module_dict.get(name) if registry else None
    if cls is None:
        return None, _READERS.get((scope, name), name)
    readers = ("load_data_list", "parse_data_info", "_find_samples")
    owners = (c.__name__ for c in cls.__mro__ if any(r in vars(c) for r in readers))
    return cls, next(owners, "")
