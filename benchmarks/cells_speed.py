"""The tables of speed and memory."""

from __future__ import annotations

from typing import Any

from cells_trainings import METHODS
from rows import Cells, Row, one, read, select, short, step_ratio, with_interval


def time_and_memory(row: Row, arm: str) -> str:
    """Median time and peak memory of an arm."""
    return f"{short(row[f'{arm}_ms'])} ms, {short(row[f'{arm}_peak_mb'])} MB"


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


def bounded_steps(name: str) -> Cells:
    """Time and memory of a step of methods by their ImageNet configs."""
    return beside_bounds(
        ("method", "step / MoCo v2's", "memory of a step"),
        [
            (METHODS[row["method"]], row["image_size"], row, f"{row['peak_mb']} MB")
            for row in read(name)
        ],
    )


PAIRS = {
    "lcloss_over_moco": "LC-loss on MoCo / MoCo",
    "lcloss_byol_over_byol": "LC-loss on BYOL / BYOL",
    "pixpro_over_byol": "PixPro / BYOL",
    "densesiam_over_simsiam": "DenseSiam / SimSiam",
    "dsc_pm_over_densecl": "DSC, prototypes / DenseCL",
    "dsc_km_over_densecl": "DSC, k-means / DenseCL",
    "bgswaps_over_moco": "swapped backgrounds / MoCo",
    "ccop_over_moco": "CCOP, 10 boxes / MoCo",
    "ccop_50_over_moco": "CCOP, 50 boxes / MoCo",
    "moco_crops_over_moco": "MoCo, 2 + 6 crops / 2",
    "simsiam_crops_over_simsiam": "SimSiam, 2 + 6 crops / 2",
    "byol_crops_over_byol": "BYOL, 2 + 6 crops / 2",
}


def bounded_pairs(name: str) -> Cells:
    """Time and memory of steps on places, on objects and with small crops."""
    return beside_bounds(
        ("step", "time", "memory, MB"),
        [
            (
                *(PAIRS[row["ratio"]], row["size"], row),
                f"{row['numerator_mb']} / {row['denominator_mb']}",
            )
            for row in read(name)
        ],
    )


def beside_bounds(
    words: tuple[str, str, str], rows: list[tuple[str, str, Row, str]]
) -> Cells:
    """A line for each label, with time, bound and memory for each size in columns."""
    first, time, memory = words
    head = [first]
    found: dict[str, list[str]] = {}
    for label, side, row, peak in rows:
        size = f"R{row['depth']}, {side} px"
        if size not in " ".join(head):
            head += [f"{size}: {time}", "bound", memory]
        cells = found.setdefault(label, [label])
        cells += [step_ratio(row), row["bound"], peak]
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
