"""Small networks, images and a tool's command line for the tests of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from matplotlib.text import Text

from mmssl_ext.run.launch import load_config
from mmssl_ext.visualization.pictures import learned
from mmssl_ext.visualization.pictures.sheet import Sheet
from mmssl_ext.visualization.pictures.subject import Options, Subject
from tests.harness import config, write_images
from tests.models.common import build, model_config

METHODS = ("DenseCL", "RegionCLM", "RegionCLD", "RegionCLS", "DetCo", "MoCo")


def write_config(root: Path, method: str, model: dict | None = None) -> None:
    """Write the config of a method with views of 64 pixels."""
    cfg = config(root / "images", root / "work_dir")
    cfg.model = model or model_config(method)
    view = [
        {"type": "RandomResizedCrop", "size": 64, "scale": [0.3, 1.0]},
        {"type": "RandomFlip", "prob": 0.5},
    ]
    patches = [
        {"type": "RandomResizedCrop", "size": 120, "scale": [0.6, 1.0]},
        {"type": "CutPatches", "size": 32},
    ]
    views = [view, view, patches, patches] if method == "DetCo" else [view, view]
    cfg.train_dataloader.dataset.pipeline[1].views = views
    cfg.train_dataloader.dataset.labels = "none"
    (root / f"{method}.py").write_text(cfg.pretty_text)


def write_folder(root: Path) -> Path:
    """Images of two classes, folders that are of no use, configs and checkpoints."""
    write_images(root / "images", per_class=5)
    for name in ("flat", "empty", "broken"):
        (root / name).mkdir()
    for i, path in enumerate(sorted((root / "images").rglob("*.png"))[:2]):
        (root / "flat" / f"{i}.png").write_bytes(path.read_bytes())
        (root / "broken" / f"{i}.png").write_bytes(b"")
    for method in METHODS:
        write_config(root, method)
        torch.save({"state_dict": build(method).state_dict()}, root / f"{method}.pth")
    return root


def subject(
    root: Path, method: str = "MoCo", images: Any = "images", **options: Any
) -> Subject:
    """A network of that folder, as the tool shows it."""
    cfg = load_config(root / f"{method}.py")
    weights = root / f"{method}.pth"
    return learned.load_subject(cfg, weights, root / images, Options(**options))


def draw(given: Subject, kind: str = "method") -> Sheet:
    """The sheet of a kind, before it is rendered."""
    with learned.undisturbed(given.model):
        return learned.DRAWINGS[kind].draw(given)


def texts(sheet: Sheet) -> list[str]:
    """What stands on a sheet, each text in one line."""
    found = (text.get_text() for text in sheet.figure.findobj(Text))
    return [" ".join(text.split()) for text in found if text]
