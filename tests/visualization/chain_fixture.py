"""A work dir as a chain leaves it."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from .conftest import make_run

DIGEST = "0123456789abcdef" * 4
TITLES = {"voc": "VOC detection", "city": "Cityscapes <segmentation>"}
METRICS = {"voc": ("AP", "AP50"), "city": ("mIoU",)}


def result(metrics: dict[str, float], **changes) -> dict:
    (headline, value), *_ = metrics.items()
    curve = {"iterations": [100, 200, 300], "epochs": [0, 0, 0]}
    curve["values"] = [value * part for part in (0.3, 0.8, 1)]
    return {
        **{"metrics": metrics, "headline": headline, "curve": curve, "seed": 0},
        **{"trained": True, "iterations": 300, "checkpoint": "iter_300.pth"},
        **{"seconds": 83.4, "memory_mb": 2048, "memory_of": "process"},
        **{"device": "cpu (x86_64)", "world_size": 4, "handover": None},
        "versions": {"mmssl_ext": "0.1", "torch": "2.11.0", "mmdet": "3.5.1"},
        "finished": "2026-11-21T20:00:00+00:00",
    } | changes


def write_stage(work_dir: Path, name: str, found: dict | None, **state) -> None:
    folder = work_dir / name
    folder.mkdir(parents=True)
    state = {"status": "finished", "config": "configs/some.py"} | state
    state |= {"config_sha256": DIGEST, "output_sha256": DIGEST[::-1]}
    (folder / "stage.json").write_text(json.dumps(state))
    if found is not None:
        (folder / "result.json").write_text(json.dumps(found))


def write_pictures(folder: Path, color: str, count: int = 2) -> None:
    """Two panels of 400 x 200 with a gap of 6: white truth, coloured prediction."""
    target = folder / "predictions"
    target.mkdir()
    entries = []
    for i in range(count):
        picture = Image.new("RGB", (806, 200), "white")
        picture.paste(Image.new("RGB", (400, 200), color), (406, 0))
        picture.save(target / f"{i}.png")
        name = f"scene{i}.jpg"
        entries.append({"file": f"{i}.png", "image": name, "panels": 2, "gap": 6})
    entries.append(entries[0] | {"file": "../../outside.png", "image": "outside.jpg"})
    (target / "index.json").write_text(json.dumps({"pictures": entries}))


def make_chain(
    work_dir: Path,
    scores: dict[str, dict[str, list[tuple[float, ...]]]],
    pretrained: bool = True,
) -> Path:
    """Write finished stages; ``scores[transfer][source]`` holds metrics per seed."""
    stages = []
    if pretrained:
        entry = {"name": "pretrain", "transfer": "pretrain", "title": "Pretraining"}
        stages.append(entry | {"source": None, "scratch": False, "seed": None})
        write_stage(work_dir, "pretrain", result({"knn/backbone_top1": 61.25}))
    for transfer, source, seed, values in (
        (transfer, source, seed, values)
        for transfer, sources in scores.items()
        for source, seeds in sources.items()
        for seed, values in enumerate(seeds)
    ):
        name, scratch = f"{transfer}-{source}-seed{seed}", source == "random"
        entry = {"name": name, "transfer": transfer, "title": TITLES[transfer]}
        stages.append(entry | {"source": source, "scratch": scratch, "seed": seed})
        if values:
            found = result(dict(zip(METRICS[transfer], values, strict=True)), seed=seed)
            found["handover"] = None if scratch else {"matched": 118, "missing": 2}
            digest = None if scratch else DIGEST[::-1]
            write_stage(work_dir, name, found, checkpoint_sha256=digest)
    text = json.dumps({"chain": "configs/chains/small.py", "stages": stages})
    (work_dir / "chain.json").write_text(text)
    return work_dir


def make_full_chain(work_dir: Path, scores: dict) -> Path:
    """The same with all that the page of a chain can show."""
    make_chain(work_dir, scores)
    shown = make_run(work_dir / "pretrain") / "pictures"
    shown.mkdir()
    Image.new("RGB", (600, 400), "teal").save(shown / "pca.png")
    entry = {"file": "pca.png", "kind": "pca", "title": "Maps as colours"}
    entry |= {"caption": "Objects stand out.", "width": 600, "height": 400}
    (shown / "index.json").write_text(json.dumps({"epoch": 4, "pictures": [entry]}))
    write_pictures(work_dir / "voc-random-seed0", "red")
    write_pictures(work_dir / "voc-pretrained-seed0", "blue")
    Image.new("RGB", (806, 200), "green").save(work_dir / "outside.png")
    (work_dir / "configs").mkdir()
    for stage in ("pretrain", "voc-random-seed0", "voc-random-seed1"):
        text = f"name = '<{stage}>'\n"
        (work_dir / "configs" / f"{stage}.py").write_text(text)
    return work_dir
