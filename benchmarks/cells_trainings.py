"""The tables of what trainings gave."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

from rows import REPOSITORY, ROOT, Cells, Row, difference, mean, one, read, select

METHODS = {
    "random": "random weights",
    "mocov2": "MoCo v2",
    "mocov2_112": "MoCo v2, larger views",
    "co2": "CO2",
    "densecl": "DenseCL",
    "regionclm": "RegionCL-M",
    "detco": "DetCo",
    "interclr": "InterCLR",
    "byol": "BYOL",
    "byol_112": "BYOL, larger views",
    "simclr": "SimCLR",
    "simsiam": "SimSiam",
    "ascl": "ASCL",
    "ressl": "ReSSL",
    "mochi": "MoCHi",
    "xmoco": "terms inspired by XMoCo, on MoCo v2",
    "unmix_mocov2": "Un-Mix on MoCo v2",
    "unmix_byol": "Un-Mix on BYOL",
    "msf": "MSF",
    "cmsf-2q": "CMSF-2Q",
    "cmsf-km": "CMSF, k-means",
    "ifnd": "IFND, inspired by",
    "tkc": "TKC, inspired by",
    "pixpro": "PixPro",
    "pixcontrast": "PixContrast",
    "lcloss_mocov2": "LC-loss on MoCo v2",
    "lcloss_byol": "LC-loss on BYOL",
    "lcloss_simsiam": "LC-loss on SimSiam",
    "densesiam": "DenseSiam, inspired by",
    "dsc-pm": "DSC, prototypes, inspired by",
    "dsc-km": "DSC, k-means, inspired by",
    "bgswaps": "BG-Aug, swapped backgrounds",
    "ccop": "CCOP",
    "propos": "ProPos",
    "swav": "SwAV",
    "mira": "MIRA",
    "dino": "DINO",
    "scfs": "SCFS",
}
LARGE = (  # views of 112 px, in configs/chains/demo_methods.py
    *("mocov2_112", "byol_112", "pixpro", "pixcontrast", "densesiam", "dsc-pm"),
    *("dsc-km", "lcloss_mocov2", "lcloss_byol", "lcloss_simsiam"),
)
WITH_TERMS = METHODS | {"byol-co2": "BYOL with CO2's term"}
DEMO_METRICS = {
    "knn": "kNN, top-1",
    "linear": "linear, top-1",
    "voc": "detection, AP",
    "cityscapes": "segmentation, mIoU",
}


def demo_methods(name: str, method: str = "") -> Cells:
    """A row per method, a column per transfer."""
    shown = ("random", like(method), method) if method else tuple(METHODS)
    cells = [["pretraining", "views", *DEMO_METRICS.values()]]
    for key in dict.fromkeys(shown):
        found = [[*by_seed(name, key, t).values()] for t in DEMO_METRICS]
        if by_seed(name, key, "voc"):
            cells.append([METHODS[key], views(key), *map(mean, found)])
    return cells


def like(method: str) -> str:
    """MoCo v2 with views of the size that a method has."""
    return "mocov2_112" if method in LARGE else "mocov2"


def views(method: str) -> str:
    """Size of a method's views."""
    return "-" if method == "random" else f"{112 if method in LARGE else 64} px"


def demo_pairs(name: str) -> Cells:
    """A row per method, what it adds to MoCo v2 with the same seed and size of view."""
    cells = [["minus MoCo v2", "views", "seeds", *DEMO_METRICS.values()]]
    for key, label in METHODS.items():
        own = by_seed(name, key, "voc")
        if not own or key == like(key):
            continue
        line = []
        for transfer in DEMO_METRICS:
            base = by_seed(name, like(key), transfer)
            found = by_seed(name, key, transfer)
            line.append(difference([found[s] - base[s] for s in found if s in base]))
        cells.append([label, views(key), ", ".join(sorted(own)), *line])
    return cells


def by_seed(name: str, method: str, transfer: str) -> dict[str, float]:
    """What the seeds of a method reached."""
    rows = select(name, method=method, transfer=transfer)
    return {row["seed"]: float(row["value"]) for row in rows}


def all_methods(name: str, cost: str) -> Cells:
    """A row per method: its seeds, of what needs no detector, and a step's cost."""
    head = [f"{DEMO_METRICS[t]}, seeds 0 / 1 (/ 2)" for t in ("knn", "linear")]
    cells = [["pretraining", "arXiv", *head, "time of a step", "memory of a step"]]
    costs = {row["method"]: row for row in read(cost)}
    for key, label in METHODS.items():
        found = [by_seed(name, key, transfer) for transfer in ("knn", "linear")]
        if not all({"0", "1"} <= x.keys() for x in found):
            continue
        scores = [" / ".join(f"{x[s]:.1f}" for s in sorted(x)) for x in found]
        row = costs.get(key)
        step = ["-", "-"]
        if row:
            step = [f"{float(row['value']):.2f}", f"{row['peak_mb']} MB"]
        page, paper = read_more(key)
        linked = f"[{label}]({ROOT}{page})" if page else label
        cells.append([linked, paper, *scores, *step])
    return cells


@cache
def read_more(key: str) -> tuple[str, str]:
    """README of a method, from the repository's root, and its paper's number."""
    for config in (REPOSITORY / "configs").glob(f"*/{key}_r18_demo.py"):
        about = (config.parent / "metafile.yml").read_text(encoding="utf-8")
        (paper,) = re.findall(r"arxiv\.org/abs/(\S+)", about)
        return (config.parent / "README.md").relative_to(REPOSITORY).as_posix(), paper
    return "", "-"


def seeds(name: str) -> str:
    """How many seeds the methods have."""
    counts = {
        len(select(name, method=method, transfer=transfer))
        for method in METHODS
        for transfer in DEMO_METRICS
    } - {0}
    return " to ".join(map(str, sorted({min(counts), max(counts)})))


def cell_contents(name: str) -> Cells:
    """A row per method: what the variance of cells follows from."""
    columns = {
        "place": "variance by place",
        "image": "by image",
        "neither": "by neither",
        "linear_miou": "linear map of a cell, mIoU",
        "effective_rank": "effective rank",
    }
    cells = [["pretraining", "cells", *columns.values()]]
    for key, label in METHODS.items():
        rows = select(name, method=key)
        if rows:
            found = [mean([float(row[column]) for row in rows]) for column in columns]
            cells.append([label, rows[0]["cells"], *found])
    return cells


def curve(rows: list[Row], label: Callable[[Row], str], first: str) -> Cells:
    """A row per run, a column per epoch after which kNN was measured."""
    epochs = sorted({int(row["epoch"]) for row in rows})
    found: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        run = found.setdefault(label(row), {})
        run.setdefault(int(row["epoch"]), []).append(float(row["backbone_top1"]))
    head = ["untrained" if not n else f"{n} epochs" for n in epochs]
    return [
        [first, *head],
        *(
            [name, *(mean(run.get(n, [])) for n in epochs)]
            for name, run in found.items()
        ),
    ]


def family(row: Row) -> str:
    """Method of a row, as its configs call it."""
    return row["config"].split("_")[0]


def cifar10_methods(name: str, method: str = "") -> Cells:
    """Four epochs each."""
    shown = ("mocov2", method) if method else tuple(WITH_TERMS)
    rows = [row for row in read(name) if family(row) in shown]
    return curve(rows, lambda row: WITH_TERMS[family(row)], "method")


def cifar10_long(*names: str) -> Cells:
    """Twelve epochs."""
    rows = [row for name in names for row in read(name)]
    return curve(rows, lambda row: METHODS[family(row)], "method")


def augment_on(name: str) -> Cells:
    """Where the augmentation runs."""
    places = {
        "worker": "in the workers, on arrays",
        "device": "in batches, by the device's operations",
        "pil": "in the workers, by PIL, as version 0.1 could",
    }
    rows = [row for row in read(name) if row["epoch"] != "0"]
    return curve(rows, lambda row: places[row["run"].split("_")[0]], "augmentation")


def demo_chain(name: str) -> Cells:
    """A row per transfer, beside each other random weights and ASCL."""
    lines = {
        "kNN, top-1": ("knn", "top1"),
        "linear probe, top-1": ("linear", "top1"),
        "detection (VOC layout), AP": ("voc", "AP"),
        "instance segmentation (COCO layout), box AP": ("coco", "box AP"),
        "instance segmentation (COCO layout), mask AP": ("coco", "mask AP"),
        "semantic segmentation (Cityscapes layout), mIoU": ("cityscapes", "mIoU"),
    }
    cells = [["held-out scenes", "random weights", "ASCL"]]
    for label, (transfer, metric) in lines.items():
        pair = [one(name, transfer=transfer, source=s) for s in ("random", "ascl")]
        cells.append([label, *(f"{float(row[metric]):.1f}" for row in pair)])
    return cells


def bccd(name: str) -> Cells:
    """A row per source."""
    metrics = ("AP", "AP50", "AP75")
    sources = {
        "random": "random weights",
        "co2_demo": "CO2 on the demo scenes",
        "distilled": "SimReg on the training images",
        "co2": "the same, then CO2",
        "byol": "the same, then BYOL",
    }
    return [
        ["start", *metrics],
        *(
            [
                label,
                *(mean([float(r[m]) for r in select(name, source=s)]) for m in metrics),
            ]
            for s, label in sources.items()
        ),
    ]


def bccd_processors(first: str, other: str) -> Cells:
    """The same detectors from random weights, by two processors; a row per seed."""
    found = [["seed", "the run above", "AVX2"]]
    for row in select(other, vector_units="AVX2"):
        same = {name: row[name] for name in ("source", "seed", "recipe")}
        pair = one(first, **same), row
        found.append([row["seed"], *(f"{float(r['AP']):.1f}" for r in pair)])
    return found
