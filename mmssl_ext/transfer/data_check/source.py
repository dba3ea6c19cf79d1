"""A data set as a config states it, and what the checks say of it."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmssl_ext.text import closest, shown

# Logging level and sentence -> the places of the config that it holds for.
Findings = dict[tuple[int, str], list[str]]


class Fault(Exception):
    """Nothing more can be checked of a data set; the arguments are sentences why."""


@dataclass
class Source:
    """A data set as a config states it.

    Attributes:
        cfg: Its part of the config.
        place: Where that stands, e.g. ``train_dataloader.dataset.datasets[0]``.
        training: It belongs to the train_dataloader.
        cls: Its class, where the toolbox that holds it is imported already.
        model: The config of the model.
        findings: Receives what is said.
        labels: Names in the order of the labels, which a check finds out.
        order: Names in the order of an annotation file in COCO's format.
        images: Paths of the images, which a check finds out.
    """

    cfg: dict[str, Any]
    place: str
    training: bool
    cls: type | None
    model: dict[str, Any]
    findings: Findings
    labels: tuple[str, ...] | None = None
    order: tuple[str, ...] | None = None
    images: list[str] = field(default_factory=list)

    def problem(self, sentence: str) -> None:
        """Say what must be fixed before a run can start."""
        self.notice(sentence, logging.ERROR)

    def notice(self, sentence: str, level: int = logging.WARNING) -> None:
        """Say what the user should read in the log."""
        places = self.findings.setdefault((level, sentence), [])
        if self.place not in places:
            places.append(self.place)

    @property
    def level(self) -> int:
        """How bad it is if nothing can be learnt from the data, or scored."""
        return logging.ERROR if self.training else logging.WARNING

    @property
    def verb(self) -> str:
        """What is done with the data: "learnt from" or "scored"."""
        return "learnt from" if self.training else "scored"

    @property
    def type_name(self) -> str:
        """Name of its class."""
        name = self.cls.__name__ if self.cls else str(self.cfg["type"])
        return name.rpartition(".")[2]

    def option(self, name: str, default: Any = None) -> Any:
        """An option of the data set, or the default in the signature of its class."""
        if self.cfg.get(name) is not None:
            return self.cfg[name]
        for cls in self.cls.__mro__ if self.cls else ():
            parameter = inspect.signature(cls).parameters.get(name)
            if parameter is not None and parameter.default is not parameter.empty:
                return parameter.default
        return default

    @property
    def known_classes(self) -> tuple[str, ...]:
        """Names that its class has itself, such as those of VOC."""
        return tuple(getattr(self.cls, "METAINFO", {}).get("classes") or ())

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes: the config's, else those of the class, if known."""
        names = (self.cfg.get("metainfo") or {}).get("classes")
        if names is None:
            names = self.known_classes
        if isinstance(names, str):  # mmengine reads a file of names
            file = Path(names)
            names = file.read_text().splitlines() if file.is_file() else None
        return tuple(map(str, names)) if names else None

    def path(self, *parts: str) -> Path:
        """A path below the data root, as mmengine joins them."""
        return Path(self.cfg.get("data_root") or "", *(p for p in parts if p))

    @property
    def ann_file(self) -> Path:
        """The file that lists the images, which must be set."""
        if not self.cfg.get("ann_file"):
            raise Fault(
                "ann_file is not set. Name the list of images, of COCO the JSON file."
            )
        return self.path(self.cfg["ann_file"])

    def prefix(self, *names: str) -> Path:
        """The folder of the first of these entries of ``data_prefix`` that is set."""
        prefix = self.cfg.get("data_prefix") or ""  # may be one string
        if not isinstance(prefix, str):
            prefix = next((prefix[n] for n in names if prefix.get(n)), "")
        return self.path(prefix)

    def check_root(self) -> None:
        """Refuse a data root that does not exist."""
        if root := self.cfg.get("data_root"):
            key = "data_root (the shipped configs take --cfg-options data_root=FOLDER)"
            need_folders((Path(root), key, "The data root"))

    @property
    def is_remote(self) -> bool:
        """It is read through a storage backend, where nothing can be looked up."""
        backend = (self.cfg.get("backend_args") or {}).get("backend", "local")
        prefix = self.cfg.get("data_prefix") or ""
        prefixes = list(prefix.values()) if isinstance(prefix, dict) else [prefix]
        paths = [self.cfg.get("data_root"), self.cfg.get("ann_file"), *prefixes]
        return backend != "local" or any("://" in str(path) for path in paths)


def missing_path(path: Path, key: str, what: str) -> str:
    """Sentence on a file or folder that is not there, with names that are close."""
    parent = path.parent
    near = ""
    if parent.is_dir():
        with os.scandir(parent) as entries:
            names = [entry.name for entry, _ in zip(entries, range(2000), strict=False)]
        near = closest(path.name, names)
    first = next((p for p in path.parents if p.is_dir()), None)
    where = "" if path.is_absolute() else f" (looked from {Path.cwd()})"
    if not near and first and first != parent and str(first) != ".":
        where += f"; {first} is there, what stands below it is not"
    return f"{what} {path} does not exist{where}. Correct {key}.{near}"


def need_folders(*folders: tuple[Path, str, str]) -> None:
    """Refuse folders that do not exist; each with its key in the config and a name."""
    if missing := [folder for folder in folders if not folder[0].is_dir()]:
        raise Fault(*(missing_path(*folder) for folder in missing))


def spread(items: Sequence[Any], number: int) -> list[Any]:
    """At most ``number`` of the items, evenly spread, the first among them."""
    step = max(1, -(-len(items) // number))
    return list(items[::step])


def listed(names: Iterable[Any], limit: int = 8) -> str:
    """``a, b, c and 4 more``."""
    names = [shown(name) for name in names]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def unknown_classes(missing: Sequence[str], present: Sequence[str], file: str) -> str:
    """Sentence on names in ``classes`` that the annotations do not have."""
    hints = ((name, closest(name, present)) for name in missing[:3])
    near = "".join(f" '{shown(name)}':{hint}" for name, hint in hints if hint)
    near = near if len(missing) <= 3 else ""
    return (
        f"{listed(missing)}: named in metainfo.classes, but not in {file}, which has "
        f"{listed(present, 20) or 'no class'}.{near} Set the variable `classes` to the "
        "names of the data."
    )
