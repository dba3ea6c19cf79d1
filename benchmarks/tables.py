"""Put the measured figures of results/*.csv into the pages, or check the pages.

    python benchmarks/tables.py            # rewrite what is between the markers
    python benchmarks/tables.py --check    # print a diff and fail where that is old

In README.md, docs and the READMEs of configs a comment names what follows it:

    <!-- table: queue_loss -->             a table of TABLES, with its caption
    <!-- /table -->
    <!-- table: demo_methods:co2 -->       rows of one method beside MoCo and random
    <!-- /table -->
    <!-- value: checkpoint_cpu scope=hook stall_ratio -->0.16<!-- /value -->

A value is CSV, conditions, column and, where two decimals do not suit, a format.
"""

from __future__ import annotations

import argparse
import csv
import difflib
import os
import re
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"
TABLE = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- /table -->)", re.DOTALL)
VALUE = re.compile(r"(<!-- value: ([^>]+) -->).*?(<!-- /value -->)")

ROOT = "root:"  # in a link, what a page replaces by its own way to the repository

Row = dict[str, str]
Cells = list[list[str]]  # the header first


def pages() -> list[Path]:
    """The pages that may hold figures."""
    found = [REPOSITORY / "README.md"]
    for folder in ("docs", "configs", "projects"):
        found += sorted((REPOSITORY / folder).rglob("*.md"))
    return [page for page in found if "_build" not in page.parts]


@cache
def read(name: str) -> list[Row]:
    """Rows of a CSV.

    Raises:
        KeyError: There is no such CSV.
    """
    try:
        with (RESULTS / f"{name}.csv").open(newline="") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        raise KeyError(f"There is no benchmarks/results/{name}.csv.") from None


def select(name: str, **conditions: str | int) -> list[Row]:
    """Rows of a CSV that fulfil all conditions."""
    return [
        row
        for row in read(name)
        if all(row[key] == str(value) for key, value in conditions.items())
    ]


def one(name: str, **conditions: str | int) -> Row:
    """The row that fulfils all conditions.

    Raises:
        KeyError: There is none, or several.
    """
    rows = select(name, **conditions)
    if len(rows) != 1:
        raise KeyError(f"{len(rows)} rows of {name} have {conditions}.")
    return rows[0]


# --- cells


def short(value: float | str) -> str:
    """Three digits, and all before the point: 0.16, 6.45, 20.4, 1,393."""
    number = float(value)
    digits = 2 if abs(number) < 10 else 1 if abs(number) < 100 else 0
    return f"{number:,.{digits}f}"


def with_interval(
    row: Row, name: str = "speedup", low: str = "", high: str = ""
) -> str:
    """A ratio with its 95 % interval."""
    ends = row[low or f"{name}_low"], row[high or f"{name}_high"]
    return f"{short(row[name])} ({short(ends[0])} to {short(ends[1])})"


def mean(values: list[float]) -> str:
    """Mean and sample standard deviation; only the value where it is one; or a dash."""
    if len(values) < 2:
        return f"{values[0]:.1f}" if values else "-"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def time_and_memory(row: Row, arm: str) -> str:
    """Median time and peak memory of an arm."""
    return f"{short(row[f'{arm}_ms'])} ms, {short(row[f'{arm}_peak_mb'])} MB"


# --- results of trainings

METHODS = {
    "random": "random weights",
    "mocov2": "MoCo v2",
    "co2": "CO2",
    "densecl": "DenseCL",
    "regionclm": "RegionCL-M",
    "detco": "DetCo",
    "interclr": "InterCLR",
    "byol": "BYOL",
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
WITH_TERMS = METHODS | {"byol-co2": "BYOL with CO2's term"}
DEMO_METRICS = {
    "knn": "kNN, top-1",
    "linear": "linear, top-1",
    "voc": "detection, AP",
    "cityscapes": "segmentation, mIoU",
}


def demo_methods(name: str, method: str = "") -> Cells:
    """A row per method, a column per transfer."""
    shown = ("random", "mocov2", method) if method else tuple(METHODS)
    cells = [["pretraining", *DEMO_METRICS.values()]]
    for key in dict.fromkeys(shown):
        rows = {
            transfer: [
                float(r["value"]) for r in select(name, method=key, transfer=transfer)
            ]
            for transfer in DEMO_METRICS
        }
        if rows["voc"]:
            cells.append([METHODS[key], *map(mean, rows.values())])
    return cells


def all_methods(name: str, cost: str) -> Cells:
    """A row per method: both seeds of what needs no detector, and what a step costs."""
    head = [f"{DEMO_METRICS[t]}, seed 0 / 1" for t in ("knn", "linear")]
    cells = [["pretraining", "arXiv", *head, "time of a step", "memory of a step"]]
    costs = {row["method"]: row for row in read(cost)}
    for key, label in METHODS.items():
        found = [
            [float(r["value"]) for r in select(name, method=key, transfer=t, seed=seed)]
            for t in ("knn", "linear")
            for seed in ("0", "1")
        ]
        if not all(found):
            continue
        knn, knn_1, linear, linear_1 = (f"{values[0]:.1f}" for values in found)
        row = costs.get(key)
        step = (
            [f"{float(row['value']):.2f}", f"{row['peak_mb']} MB"]
            if row
            else ["-", "-"]
        )
        page, paper = read_more(key)
        linked = f"[{label}]({ROOT}{page})" if page else label
        scores = f"{knn} / {knn_1}", f"{linear} / {linear_1}"
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


# --- speed and memory


def queue_loss(name: str) -> Cells:
    """InfoNCE by the number of queries."""
    cells = [["N", "mmpretrain", "here", "speed-up", "speed-up, memory kept"]]
    for row in select(name, arm="ours", threads=2, allocator="glibc"):
        kept = one(name, arm="ours", n=row["n"], allocator="keeps memory")
        cells.append(
            [
                row["n"],
                time_and_memory(row, "peer"),
                time_and_memory(row, "arm"),
                with_interval(row),
                with_interval(kept),
            ]
        )
    return cells


def embed(name: str) -> Cells:
    """Throughput beside that of the work alone, and memory."""
    (row,) = read(name)
    arms = {"parts": "decoding and forward pass", "alone": "`embed` in one process"}
    arms["whole"] = "`embed` with its workers"
    cells = [["what", "images/s", "share of the work"]]
    for arm, label in arms.items():
        share, ends = row.get(f"{arm}_share", ""), ""
        if share:
            ends = f" ({row[f'{arm}_share_low']} to {row[f'{arm}_share_high']})"
        cells.append([label, row[f"{arm}_img_per_s"], share + ends])
    for count in (1000, 10_000):
        text = f"memory for {count:,} images, without the features"
        cells.append([text, f"{float(row[f'peak_mb_{count}']):.0f} MB", ""])
    return cells


def co2_loss(name: str) -> Cells:
    """CO2's consistency term by the number of queries."""
    return [
        ["N", "naive", "here", "speed-up"],
        *(
            [
                row["n"],
                time_and_memory(row, "peer"),
                time_and_memory(row, "arm"),
                with_interval(row),
            ]
            for row in select(name, arm="consistency", threads=2)
        ),
    ]


QUEUE_PARTS = {
    "soft_target": "soft target (ReSSL)",
    "masked": "InfoNCE without slots of the query's own label",
    "own_negatives": "InfoNCE with 128 more negatives per query",
    "top64": "the 64 most similar keys",
    "top1024": "the 1,024 most similar keys",
}


def queue_parts(name: str) -> Cells:
    """What methods add to a queue loss."""
    cells = [["what", "naive", "here", "speed-up", "speed-up, memory kept"]]
    for arm, label in QUEUE_PARTS.items():
        row = one(name, arm=arm, threads=2, allocator="glibc")
        kept = one(name, arm=arm, allocator="keeps memory")
        cells.append(
            [
                label,
                time_and_memory(row, "peer"),
                time_and_memory(row, "arm"),
                with_interval(row),
                with_interval(kept),
            ]
        )
    return cells


def dense_loss(name: str) -> Cells:
    """DenseCL's dense loss by threads and path."""
    paths = {"ours": "fused attention", "ours_chunked": "public ops"}
    return [
        ["threads", "path", "mmpretrain", "here", "speed-up"],
        *(
            [
                row["threads"],
                paths[row["arm"]],
                time_and_memory(row, "peer"),
                time_and_memory(row, "arm"),
                with_interval(row),
            ]
            for row in read(name)
        ),
    ]


def inter_branch(name: str) -> Cells:
    """InterCLR's branch by how negatives are bounded and how the bank is stored."""
    arms = {
        "exact": "`exact=True`, float32",
        "fast": "`exact=False`, float32",
        "exact_bf16": "`exact=True`, bfloat16",
        "fast_bf16": "`exact=False`, bfloat16",
    }
    return [
        ["negatives, bank", "memory of the bank", "reference", "here", "speed-up"],
        *(
            [
                arms[row["arm"]],
                f"{row['bank_mb']} MB",
                f"{short(row['peer_cpu_ms'])} ms",
                f"{short(row['arm_cpu_ms'])} ms",
                with_interval(row),
            ]
            for row in read(name)
        ),
    ]


def pipeline(name: str) -> Cells:
    """From file to batch, against the peers."""
    arms = {
        "ours": "all in the worker",
        "ours_device": '`augment_on="device"`: the worker\'s share',
        "ours_pil": "all in the worker by PIL, as version 0.1 could",
        "limit": "decode and two crops alone",
        "ours_crops": "eight crops, two of 224 px and six of 96 px",
        "ours_crops_device": "the worker's share of these",
    }
    peers = {
        "mmpretrain": "mmpretrain",
        "torchvision_v1": "torchvision",
        "lightly": "lightly",
    }
    cells = [
        [
            "what the worker does",
            "ms per image",
            *(f"{label} / here" for label in peers.values()),
        ]
    ]
    for arm, label in arms.items():
        chosen = select(name, arm=arm)
        if not chosen:
            continue  # not measured yet
        rows = {row["peer"].removesuffix("_crops"): row for row in chosen}
        ratios = [with_interval(rows[p]) if p in rows else "-" for p in peers]
        cells.append([label, short(next(iter(rows.values()))["arm_cpu_ms"]), *ratios])
    return cells


def pipeline_stages(name: str) -> Cells:
    """What each stage of the worker takes."""
    return [
        ["stage", "on arrays, ms", "by PIL in version 0.1, ms"],
        *(
            [
                f"`{row['stage']}`",
                short(row["cpu_ms_per_sample"]),
                short(
                    one(name, backend="pil", stage=row["stage"])["cpu_ms_per_sample"]
                ),
            ]
            for row in select(name, backend="array")
        ),
    ]


def workers(name: str) -> Cells:
    """Throughput of the loader by its workers."""
    rows = [row for row in read(name) if row["what"] == "throughput of the loader"]
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    arms = {"worker": '`augment_on="worker"`', "device": '`augment_on="device"`'}
    return [
        ["images per second", *(f"{n} workers" for n in sizes)],
        *(
            [
                label,
                *(short(r["value"]) for n in sizes for r in rows if pick(r, arm, n)),
            ]
            for arm, label in arms.items()
        ),
    ]


def pick(row: Row, arm: str, size: str) -> bool:
    """Whether a row belongs to an arm and a size."""
    return (row["arm"], row["size"]) == (arm, size)


STEPS = {
    "co2_over_moco": "CO2 / MoCo",
    "densecl_over_moco": "DenseCL / MoCo",
    "regionclm_over_moco": "RegionCL-M / MoCo",
    "detco_over_moco": "DetCo / MoCo",
    "interclr_over_moco": "InterCLR, ImageNet's bank / MoCo",
    "interclr_fast_over_moco": "the same with `exact=False` / MoCo",
    "moco_over_parts": "MoCo / sum of its convolutions and SGD",
    "moco_fast_over_parts_fast": "the same by `runtime_fast.py`",
    "moco_over_moco_fast": "MoCo / MoCo by `runtime_fast.py`",
    "mmpretrain_over_moco": "mmpretrain's MoCo / ours",
    "mmpretrain_over_moco_fast": "mmpretrain's MoCo / ours by `runtime_fast.py`",
    "mmpretrain_over_densecl": "mmpretrain's DenseCL / ours",
}


def steps(name: str) -> Cells:
    """Time of whole steps, as ratios."""
    return [
        ["time of a step", "ResNet-18, 32 x 96 px", "ResNet-50, 8 x 224 px"],
        *(
            [label, *(step_ratio(one(name, ratio=key, depth=d)) for d in (18, 50))]
            for key, label in STEPS.items()
        ),
    ]


def step_ratio(row: Row) -> str:
    """A ratio of steps with its interval."""
    return with_interval(row, "value", "low", "high")


def bounded_steps(name: str) -> Cells:
    """Time and memory of a step of methods by their ImageNet configs."""
    head = ["method"]
    found: dict[str, list[str]] = {}
    for row in read(name):
        size = f"R{row['depth']}, {row['image_size']} px"
        if size not in " ".join(head):
            head += [f"{size}: step / MoCo v2's", "bound", "memory of a step"]
        found.setdefault(row["method"], [METHODS[row["method"]]]).extend(
            (
                with_interval(row, "value", "low", "high"),
                row["bound"],
                f"{row['peak_mb']} MB",
            )
        )
    return [head, *found.values()]


def versions(name: str) -> Cells:
    """Steps of every method beside those of version 0.1."""
    return [
        ["method", "step, now / version 0.1", "peak memory of a step, now / 0.1"],
        *(
            [
                row["method"],
                with_interval(row, "now_over_before", "low", "high"),
                f"{row['now_peak_mb']} / {row['before_peak_mb']} MB",
            ]
            for row in read(name)
        ),
    ]


def checkpoint(name: str) -> Cells:
    """Saving as a whole hook, and the file alone."""
    scopes = {"hook": "the hook", "file": "the file alone"}
    head = "here / mmengine"
    return [
        [
            "",
            f"stall of the loop, {head}",
            f"until the file is safe, {head}",
            "extra memory",
        ],
        *(
            [
                label,
                with_interval(row, "stall_ratio", "stall_low", "stall_high"),
                with_interval(row, "safe_ratio", "safe_low", "safe_high"),
                f"{float(row['ours_peak_over_file']):.1%} of the file, there "
                f"{float(row['mmengine_peak_over_file']):.0%}",
            ]
            for scope, label in scopes.items()
            for row in select(name, scope=scope)
        ),
    ]


def scale(name: str) -> Cells:
    """Exponents of growth, against the peer's where there is one."""
    peers = {"ours": "here", "mmpretrain": "mmpretrain"}
    labels = peers | {"exact": "here, `exact=True`", "fast": "here, `exact=False`"}
    return [
        ["what", "grows with", "of", "from", "to", "as the power of"],
        *(
            [
                row["what"],
                row["variable"],
                labels[row["arm"]],
                *(f"{int(row[end]):,}" for end in ("from", "to")),
                row["exponent"],
            ]
            for row in read(name)
        ),
    ]


def headline(*names: str) -> Cells:
    """One line each of what is faster or smaller, on both CPUs where there are both."""
    loss = {"arm": "ours", "threads": 2, "allocator": "glibc", "n": 256}
    step = {"depth": 50, "ratio": "mmpretrain_over_moco_fast"}
    saving = one("checkpoint_cpu", scope="hook")
    stall = [1 / float(saving[f"stall_{end}"]) for end in ("ratio", "high", "low")]
    k = int(one("queue_loss_cpu", **loss)["k"])
    worker = {"peer": "mmpretrain", "arm": "ours"}
    lines = (
        ("image file to two views, all in the worker", "pipeline", worker),
        (
            'the same, `augment_on="device"`: the worker\'s share',
            *("pipeline", worker | {"arm": "ours_device"}),
        ),
        (f"InfoNCE, {loss['n']} queries, K = {k:,}", "queue_loss", loss),
        (
            "the same, without page faults of the peer",
            *("queue_loss", loss | {"allocator": "keeps memory"}),
        ),
        ("a whole step of MoCo, ResNet-50, `runtime_fast.py`", "step", step),
    )
    both = [
        [label, "mmpretrain", *(of_cpu(name, units, where) for units in UNITS)]
        for label, name, where in lines
    ]
    dense = one("dense_loss_cpu", arm="ours", threads=2)
    branch = one("inter_branch_cpu", arm="fast")
    return [
        ["what", "compared with", "times as fast", "on a CPU with AVX2 alone"],
        *both,
        ["DenseCL's dense loss", "mmpretrain", with_interval(dense), "-"],
        [
            "InterCLR's branch with ImageNet's bank, `exact=False`",
            *("reference", with_interval(branch), "-"),
        ],
        [
            "the loop's stop while a checkpoint is saved",
            *("mmengine", "{} ({} to {})".format(*map(short, stall)), "-"),
        ],
    ]


UNITS = ("cpu", "avx2")  # ends of the names of results


def of_cpu(name: str, units: str, where: dict[str, Any]) -> str:
    """A ratio of the results of one kind of CPU."""
    row = one(f"{name}_{units}", **where)
    return step_ratio(row) if name == "step" else with_interval(row)


# --- all of them


@dataclass(frozen=True)
class Table:
    """What a marker stands for.

    Attributes:
        results: The CSVs; the first is the argument of ``cells``.
        cells: Header and rows; takes what follows a colon in the marker's name.
        caption: Which run it was, and how to read it.
    """

    results: tuple[str, ...]
    cells: Callable[..., Cells]
    caption: str | Callable[[], str]


DEMO = "demo_methods_seeds_cpu"
CIFAR10 = (
    "kNN on CIFAR-10, top-1 in percent, seed 0: `*_r18_cifar10.py` with "
    "`cpu=True augment_on=worker`, ResNet-18 of {} of the width"
)
QUARTER = CIFAR10.format("a quarter")
TABLES = {
    "all_methods": Table(
        (DEMO, "demo_methods_cost_cpu"),
        all_methods,
        "Percent on held-out demo scenes after 10 epochs, ResNet-18 of half the width, "
        "two seeds that all methods share. Time is relative to MoCo v2's step, by "
        "processor time in turn; memory is what a step of 64 images adds. Views have "
        "64 px, and 112 px with DSC, DenseSiam, LC-loss, PixPro and PixContrast.",
    ),
    "demo_methods": Table(
        (DEMO,),
        demo_methods,
        lambda: (
            "Percent on held-out demo scenes, mean ± sample standard deviation over "
            f"n = {seeds(DEMO)} seeds of pretraining and transfer (divisor n - 1). "
            "ResNet-18 of half the width; the pretraining has 10 of the config's 30 "
            "epochs, and the chain no COCO stage."
        ),
    ),
    "demo_chain": Table(
        ("demo_chain_cpu",),
        demo_chain,
        "Percent, seed 0; ASCL pretrained for 6 epochs, the chain of `make demo-full`.",
    ),
    "cifar10_methods": Table(
        ("cifar10_methods_cpu",),
        cifar10_methods,
        lambda: (
            f"{QUARTER}. Last bits of the arithmetic alone move such runs: by later "
            "code, which adds up the queue in another order, MoCo v2 reached "
            + value("cifar10_interclr_cpu method=MoCo epoch=4 backbone_top1 .1f")
            + "."
        ),
    ),
    "cifar10_interclr": Table(
        ("cifar10_interclr_cpu",), cifar10_methods, f"{QUARTER}, both by the same code."
    ),
    "cifar10_bases": Table(
        ("cifar10_bases_cpu",),
        cifar10_methods,
        lambda: (
            "kNN on CIFAR-10, top-1 in percent, mean ± sample standard deviation over "
            f"n = {len({row['seed'] for row in read('cifar10_bases_cpu')})} seeds "
            "(divisor n - 1): `*_r18_cifar10.py` with `cpu=True augment_on=worker`, "
            "ResNet-18 of a quarter of the width, also for CO2; SGD, for BYOL with a "
            "higher rate than for all others."
        ),
    ),
    "cifar10_12epochs": Table(
        ("cifar10_interclr_12epochs_cpu",),
        cifar10_long,
        f"{QUARTER}, `max_epochs=12` and for InterCLR `warmup_epochs=4`.",
    ),
    "cifar10_co2": Table(
        ("cifar10_co2_r18_cpu",),
        cifar10_long,
        CIFAR10.format("half")
        + ": `max_epochs=12 base_channels=32 strides=(2,2,2,2)`.",
    ),
    "bccd": Table(
        ("bccd_voc_cpu",),
        bccd,
        "Blood cells (BCCD, 292 training and 72 test images) by "
        "`faster_rcnn_r50_fpn_voc0712.py`, 300 steps of 4 images, ResNet-18 of half "
        "the width; percent, mean ± sample standard deviation over n = 3 seeds of the "
        "transfer (divisor n - 1), all from one pretraining; the teacher of "
        "SimReg is EfficientNet-Lite0 with ImageNet's weights.",
    ),
    "augment_on": Table(
        ("demo_augment_on_cpu",),
        augment_on,
        "MoCo on the demo scenes, 15 epochs: kNN in percent, mean ± sample standard "
        "deviation over n = 3 seeds (divisor n - 1).",
    ),
    "queue_loss": Table(
        ("queue_loss_cpu",),
        queue_loss,
        "InfoNCE of N queries, K = 65,536, against mmpretrain's `ContrastiveHead`: "
        "time and peak extra memory on two threads, ratio with 95 % interval. The last "
        "column is without the page faults of a CPU's allocator, as on a GPU.",
    ),
    "embed": Table(
        ("embed_cpu",),
        embed,
        "ResNet-18, 512 JPEG files of 640 x 480 pixels, two cores; interval of 95 %. "
        "Memory is the peak of one call in a process of its own.",
    ),
    "co2_loss": Table(
        ("queue_loss_cpu",),
        co2_loss,
        "CO2's consistency term of N queries, K = 65,536, against two materialised KL "
        "divergences, on two threads.",
    ),
    "queue_parts": Table(
        ("queue_parts_cpu",),
        queue_parts,
        "256 queries, K = 65,536, against the same over materialised logits, on two "
        "threads. In the last column, without the page faults of a CPU's allocator.",
    ),
    "dense_loss": Table(
        ("dense_loss_cpu",),
        dense_loss,
        "DenseCL's dense loss with its matching, 32 images of 7 x 7 cells, K = 65,536.",
    ),
    "inter_branch": Table(
        ("inter_branch_cpu",),
        inter_branch,
        "InterCLR's inter-image branch, 32 queries, bank of 1,281,167 x 128 in 10,000 "
        "clusters: loss, gradient and upkeep, processor time of one thread, against "
        "the public algorithm written from its description.",
    ),
    "pipeline": Table(
        ("pipeline_cpu",),
        pipeline,
        "From a JPEG file of 640 x 480 px to two MoCo v2 views of 224 px in a batch, "
        "or to SwAV's eight crops: processor time of one thread per image, and ratios "
        "with 95 % intervals.",
    ),
    "pipeline_stages": Table(
        ("pipeline_stages_cpu",), pipeline_stages, "Processor time per image."
    ),
    "workers": Table(
        ("scale_cpu",),
        workers,
        "Two views of 224 px per image; the two cores also ran the measuring process.",
    ),
    "steps": Table(
        ("step_cpu",),
        steps,
        "Whole training steps, K = 65,536, float32, memory kept; on a CPU "
        "`runtime_fast.py` is channels_last and fused SGD.",
    ),
    "versions": Table(
        ("step_versions_cpu",),
        versions,
        "Processor time of whole steps on one thread, ResNet-18, 16 x 64 px, K = "
        "16,384, in turn with the code before the method core; median of 15 pairs, in "
        "three pairs of processes where the CSV says so. Where memory comes to lie in "
        "a process makes some percent of both.",
    ),
    "checkpoint": Table(
        ("checkpoint_cpu",),
        checkpoint,
        "Checkpoint of MoCo's ResNet-50. A file is safe when it is complete on the "
        "disk, read back and described.",
    ),
    "scale": Table(("scale_fit_cpu",), scale, "Fits to the points of scale_cpu.csv."),
    "bounded_steps": Table(
        ("imagenet_methods_cost_cpu",),
        bounded_steps,
        "Batches of 8 with ResNet-50, of 32 with ResNet-18, one thread, processor time "
        "in turn, ratio with 95 % interval. The bound counts multiplications: those of "
        "forward and backward passes, and those with a queue or bank.",
    ),
    "headline": Table(
        (
            *("queue_loss_cpu", "pipeline_cpu", "step_cpu", "checkpoint_cpu"),
            *("queue_loss_avx2", "pipeline_avx2", "step_avx2"),
        ),
        headline,
        "Two cores, ratio with 95 % interval.",
    ),
}
# A method whose rows are not in the table of all.
INSTEAD = {
    "cifar10_methods:co2": "cifar10_co2",
    "cifar10_methods:interclr": "cifar10_interclr",
}


def render(name: str, page: Path) -> str:
    """Return a table with its caption, as a page shows it.

    Raises:
        KeyError: There is no table of that name, or no row for it.
    """
    base, _, method = INSTEAD.get(name, name).partition(":")
    if base not in TABLES:
        raise KeyError(f"There is no table '{base}'; there are {', '.join(TABLES)}.")
    table = TABLES[base]
    cells = table.cells(*table.results, **({"method": method} if method else {}))
    up = os.path.relpath(REPOSITORY, page.parent)
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    lines = [line.replace(ROOT, "" if up == "." else f"{up}/") for line in lines]
    lines.insert(1, "|" + "---|" * len(cells[0]))
    caption = table.caption if isinstance(table.caption, str) else table.caption()
    links = ", ".join(link(name, page) for name in table.results)
    return "\n".join(
        ["", *lines, "", *wrap(f"{caption} {links}; {machine(table)}."), ""]
    )


def link(name: str, page: Path) -> str:
    """Link from a page to a CSV."""
    path = os.path.relpath(RESULTS / f"{name}.csv", page.parent)
    return f"[{name}.csv]({Path(path).as_posix()})"


def machine(table: Table) -> str:
    """Hardware, version of torch and code of a table's rows."""
    rows = [row for name in table.results for row in read(name)]
    units = (row.get("vector_units") for row in rows)
    cpus = dict.fromkeys(
        f"{row['cpu']} with {unit}" if unit else row["cpu"]
        for row, unit in zip(rows, units, strict=True)
    )
    versions = dict.fromkeys(row["torch"].split("+")[0] for row in rows)
    found = f"{', '.join(cpus)}, torch {', '.join(versions)}"
    commits = sorted({c for row in rows for c in row.get("commit", "").split()})
    return f"{found}, commit {', '.join(commits)}" if commits else found


def wrap(text: str, width: int = 88) -> list[str]:
    """Lines of a caption; a link is never broken."""
    lines = [""]
    for word in re.findall(r"\[[^]]*\]\S*|\S+", text):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return lines


def value(query: str) -> str:
    """Return one figure: ``CSV KEY=VALUE ... COLUMN [FORMAT]``.

    Raises:
        KeyError: That is not exactly one figure.
    """
    name, *words = query.split()
    conditions = dict(word.split("=", 1) for word in words if "=" in word)
    column, *formats = [word for word in words if "=" not in word]
    return format(float(one(name, **conditions)[column]), *(formats or [".2f"]))


def fill(text: str, page: Path) -> str:
    """Return the text of a page with all its figures up to date."""
    text = TABLE.sub(lambda m: f"{m[1]}{render(m[2], page)}{m[3]}", text)
    return VALUE.sub(lambda m: f"{m[1]}{value(m[2])}{m[3]}", text)


def main(check: bool) -> int:
    """Rewrite the pages, or compare."""
    old = 0
    for page in pages():
        text = page.read_text(encoding="utf-8")
        try:
            new = fill(text, page)
        except KeyError as error:
            sys.exit(f"{page.relative_to(REPOSITORY)}: {error.args[0]}")
        if new == text:
            continue
        old += 1
        name = str(page.relative_to(REPOSITORY))
        if check:
            lines = text.splitlines(), new.splitlines()
            print(
                "\n".join(difflib.unified_diff(*lines, name, "results", "", "", 1, ""))
            )
        else:
            page.write_text(new, encoding="utf-8")
            print(f"{name}: figures rewritten")
    if check and old:
        print("Run `python benchmarks/tables.py`.")
    return int(check and old > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="print a diff, fail")
    sys.exit(main(parser.parse_args().check))
