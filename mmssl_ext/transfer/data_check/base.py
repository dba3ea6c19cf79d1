"""What the data checks share: where a data set stands, and what was found."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmssl_ext.text import closest, shown

from .images import look_at_files

NUM_FILES = 300  # so many images are looked for one by one, more in lists of folders
BY_NAME = ("CocoDetectionDataset", "CityscapesDetectionDataset")


@dataclass
class Findings:
    """Problems and notices of a check; the same sentence is kept once.

    Attributes:
        problems: Sentence to the places of the config that it holds for.
        notices: The same for what does not stop a run, with its logging level.
    """

    problems: dict[str, list[str]] = field(default_factory=dict)
    notices: dict[tuple[int, str], list[str]] = field(default_factory=dict)

    def problem(self, place: str, sentence: str) -> None:
        """Note what must be mended before a run can start."""
        self.problems.setdefault(sentence, []).append(place)

    def notice(self, place: str, sentence: str, level: int = logging.WARNING) -> None:
        """Note what the user should read in the log."""
        self.notices.setdefault((level, sentence), []).append(place)


@dataclass
class Source:
    """A data set as a config states it.

    Attributes:
        cfg: Its part of the config.
        place: Where that stands, e.g. ``train_dataloader.dataset.datasets[0]``.
        training: It belongs to the train_dataloader.
        cls: Its class, where the toolbox that holds it is imported already.
        model: The config of the model.
        labels: Names in the order of the labels, which a check finds out.
        order: Names in the order of an annotation file in COCO's format.
        images: Paths of the images, which a check finds out.
    """

    cfg: dict[str, Any]
    place: str
    training: bool
    cls: type | None
    model: dict[str, Any]
    labels: tuple[str, ...] | None = None
    order: tuple[str, ...] | None = None
    images: list[str] = field(default_factory=list)

    @property
    def by_name(self) -> bool:
        """Its labels follow ``classes``, not the order in an annotation file."""
        return self.type_name in BY_NAME

    @property
    def learns_difficult(self) -> bool:
        """It trains on VOC's difficult objects too."""
        return self.type_name == "VOCDetectionDataset"

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
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes: the config's, else those of the class, if known."""
        names = (self.cfg.get("metainfo") or {}).get("classes")
        if names is None:
            names = getattr(self.cls, "METAINFO", {}).get("classes")
        if isinstance(names, str):  # mmengine reads a file of names
            file = Path(names)
            names = file.read_text().splitlines() if file.is_file() else None
        return tuple(map(str, names)) if names else None

    def path(self, *parts: str) -> Path:
        """A path below the data root, as mmengine joins them."""
        return Path(self.cfg.get("data_root") or "", *(p for p in parts if p))

    def prefix(self, *names: str) -> str:
        """The first entry of ``data_prefix`` that there is; it may be one string."""
        prefix = self.cfg.get("data_prefix") or ""
        if isinstance(prefix, str):
            return prefix
        return next((prefix[n] for n in names if prefix.get(n)), "")

    @property
    def is_remote(self) -> bool:
        """It is read through a storage backend, where nothing can be looked up."""
        backend = (self.cfg.get("backend_args") or {}).get("backend", "local")
        prefix = self.cfg.get("data_prefix") or ""
        prefixes = list(prefix.values()) if isinstance(prefix, dict) else [prefix]
        paths = [self.cfg.get("data_root"), self.cfg.get("ann_file"), *prefixes]
        return backend != "local" or any("://" in str(path) for path in paths)


def missing_path(source: Source, path: Path, key: str, what: str) -> str:
    """Sentence on a file or folder that is not there, with names that are close."""
    parent = path.parent
    near = closest(path.name, _names(parent)) if parent.is_dir() else ""
    first = next((p for p in path.parents if p.is_dir()), None)
    where = "" if path.is_absolute() else f" (looked from {Path.cwd()})"
    if not near and first and first != parent and str(first) != ".":
        where += f"; {first} is there, what stands below it is not"
    return f"{what} {path} does not exist{where}. Correct {key}.{near}"


def check_root(source: Source, findings: Findings) -> bool:
    """Whether the folder of the data set exists; a problem is noted otherwise."""
    root = source.cfg.get("data_root")
    if not root or Path(root).is_dir():
        return True
    key = "data_root (the shipped configs take --cfg-options data_root=FOLDER)"
    sentence = missing_path(source, Path(root), key, "The data root")
    findings.problem(source.place, sentence)
    return False


def read_lines(
    source: Source, findings: Findings, what: str, stripped: bool = True
) -> list[str] | None:
    """Lines of the text file ``ann_file``; None where it cannot be read.

    ``stripped``: the toolbox takes blanks at the ends of a line off.
    """
    path = source.path(source.cfg["ann_file"])
    if not path.is_file():
        findings.problem(source.place, missing_path(source, path, "ann_file", what))
        return None
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        findings.problem(source.place, f"{what} {path} is not a text file.")
        return None
    raw = [line.rstrip("\r") for line in text.removesuffix("\n").split("\n")]
    lines = [line.strip() for line in raw]
    if not any(lines):
        findings.problem(
            source.place,
            f"{what} {path} is empty: the split has no images. Fill it, or name "
            "another one by ann_file.",
        )
        return None
    if blank := [i for i, line in enumerate(lines, 1) if not line]:
        findings.problem(
            source.place,
            f"{what} {path} has a blank line ({blank[0]}), which counts as an image "
            "without a name. Delete it.",
        )
        return None
    odd = {
        "begins with a byte order mark": [text] if text.startswith("\ufeff") else [],
        "has lines that end in a carriage return": [x for x in lines if "\r" in x],
        "has blanks at the ends of lines": []
        if stripped
        else [x for x, line in zip(raw, lines, strict=True) if x != line],
    }
    if faults := [fault for fault, found in odd.items() if found]:
        findings.problem(
            source.place,
            f"{what} {path} {faults[0]}, which would be part of a name. Save it as "
            "plain UTF-8, a name per line.",
        )
        return None
    return lines


def check_files(
    source: Source,
    findings: Findings,
    paths: Sequence[Path | str],
    what: str,
    hint: str = "",
) -> None:
    """Look for images on disk; note what is missing, and what is in them unread.

    ``hint`` names a likely cause.
    """
    missing = missing_files([os.fspath(path) for path in paths])
    sample = [Path(p) for p in spread(paths, NUM_FILES) if os.path.isfile(p)]
    look_at_files(source, findings, sample)
    if missing:
        count = f"All {len(paths)}" if len(missing) == len(paths) else len(missing)
        of = "" if len(missing) == len(paths) else f" of {len(paths)}"
        findings.problem(
            source.place,
            f"{count}{of} {what} looked for have no file, the first is {missing[0]}. "
            "Correct data_root, data_prefix or the suffix, or complete the data."
            f"{hint}",
        )


def missing_files(paths: Sequence[str]) -> list[str]:
    """Paths without a file; of large sets most are looked up in lists of folders."""
    missing = [path for path in paths[:NUM_FILES] if not os.path.isfile(path)]
    folders: dict[str, set[str]] = {}
    for path in paths[NUM_FILES:]:
        folder, name = os.path.split(path)
        if folder not in folders:
            try:
                folders[folder] = set(os.listdir(folder))
            except OSError:
                folders[folder] = set()
        if name not in folders[folder]:
            missing.append(path)
    return missing


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


def _names(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry, _ in zip(entries, range(2000), strict=False)]
