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
import difflib
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cells_speed as speed
import cells_trainings as trainings
import rows
from rows import NOT_RECORDED, REPOSITORY, ROOT, Cells, one, read

TABLE = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- /table -->)", re.DOTALL)
VALUE = re.compile(r"(<!-- value: ([^>]+) -->).*?(<!-- /value -->)")


def pages() -> list[Path]:
    """The pages that may hold figures."""
    found = [REPOSITORY / "README.md"]
    for folder in ("docs", "configs", "projects"):
        found += sorted((REPOSITORY / folder).rglob("*.md"))
    return [page for page in found if "_build" not in page.parts]


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
        trainings.all_methods,
        "Percent on held-out demo scenes after 10 epochs, ResNet-18 of half the width, "
        "with the seeds that were run, two or more. Time is relative to MoCo v2's "
        "step, by processor time in turn; memory is what a step of 64 images adds. "
        "Views have 64 px, and 112 px with DSC, DenseSiam, LC-loss, PixPro and "
        "PixContrast.",
    ),
    "demo_methods": Table(
        (DEMO,),
        trainings.demo_methods,
        lambda: (
            "Percent on held-out demo scenes, mean ± sample standard deviation over "
            f"n = {trainings.seeds(DEMO)} seeds of pretraining and transfer "
            "(divisor n - 1). "
            "ResNet-18 of half the width; the pretraining has 10 of the config's 30 "
            "epochs, and the chain no COCO stage."
        ),
    ),
    "demo_chain": Table(
        ("demo_chain_cpu",),
        trainings.demo_chain,
        "Percent, seed 0; ASCL pretrained for 6 epochs, the chain of `make demo-full`.",
    ),
    "cifar10_methods": Table(
        ("cifar10_methods_cpu",),
        trainings.cifar10_methods,
        lambda: (
            f"{QUARTER}. Last bits of the arithmetic alone move such runs: by later "
            "code, which adds up the queue in another order, MoCo v2 reached "
            + value("cifar10_interclr_cpu method=MoCo epoch=4 backbone_top1 .1f")
            + "."
        ),
    ),
    "cifar10_interclr": Table(
        ("cifar10_interclr_cpu",),
        trainings.cifar10_methods,
        f"{QUARTER}, both by the same code.",
    ),
    "cifar10_bases": Table(
        ("cifar10_bases_cpu",),
        trainings.cifar10_methods,
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
        trainings.cifar10_long,
        f"{QUARTER}, `max_epochs=12` and for InterCLR `warmup_epochs=4`.",
    ),
    "cifar10_co2": Table(
        ("cifar10_co2_r18_cpu",),
        trainings.cifar10_long,
        CIFAR10.format("half")
        + ": `max_epochs=12 base_channels=32 strides=(2,2,2,2)`.",
    ),
    "bccd": Table(
        ("bccd_voc_cpu",),
        trainings.bccd,
        "Blood cells (BCCD, 292 training and 72 test images) by "
        "`faster_rcnn_r50_fpn_voc0712.py`, 300 steps of 4 images, ResNet-18 of half "
        "the width; percent, mean ± sample standard deviation over n = 3 seeds of the "
        "transfer (divisor n - 1), all from one pretraining; the teacher of "
        "SimReg is EfficientNet-Lite0 with ImageNet's weights.",
    ),
    "augment_on": Table(
        ("demo_augment_on_cpu",),
        trainings.augment_on,
        "MoCo on the demo scenes, 15 epochs: kNN in percent, mean ± sample standard "
        "deviation over n = 3 seeds (divisor n - 1).",
    ),
    "queue_loss": Table(
        ("queue_loss_cpu",),
        speed.queue_loss,
        "InfoNCE of N queries, K = 65,536, against mmpretrain's `ContrastiveHead`: "
        "time and peak extra memory on two threads, ratio with 95 % interval. The last "
        "column is without the page faults of a CPU's allocator, as on a GPU.",
    ),
    "embed": Table(
        ("embed_cpu",),
        speed.embed,
        "ResNet-18, 512 JPEG files of 640 x 480 pixels, two cores; interval of 95 %. "
        "Memory is the peak of one call in a process of its own.",
    ),
    "co2_loss": Table(
        ("queue_loss_cpu",),
        speed.co2_loss,
        "CO2's consistency term of N queries, K = 65,536, against two materialised KL "
        "divergences, on two threads.",
    ),
    "queue_parts": Table(
        ("queue_parts_cpu",),
        speed.queue_parts,
        "256 queries, K = 65,536, against the same over materialised logits, on two "
        "threads. In the last column, without the page faults of a CPU's allocator.",
    ),
    "dense_loss": Table(
        ("dense_loss_cpu",),
        speed.dense_loss,
        "DenseCL's dense loss with its matching, 32 images of 7 x 7 cells, K = 65,536.",
    ),
    "inter_branch": Table(
        ("inter_branch_cpu",),
        speed.inter_branch,
        "InterCLR's inter-image branch, 32 queries, bank of 1,281,167 x 128 in 10,000 "
        "clusters: loss, gradient and upkeep, processor time of one thread, against "
        "the public algorithm written from its description.",
    ),
    "pipeline": Table(
        ("pipeline_cpu",),
        speed.pipeline,
        "From a JPEG file of 640 x 480 px to two MoCo v2 views of 224 px in a batch, "
        "or to SwAV's eight crops: processor time of one thread per image, and ratios "
        "with 95 % intervals.",
    ),
    "pipeline_stages": Table(
        ("pipeline_stages_cpu",), speed.pipeline_stages, "Processor time per image."
    ),
    "workers": Table(
        ("scale_cpu",),
        speed.workers,
        "Two views of 224 px per image; the two cores also ran the measuring process.",
    ),
    "steps": Table(
        ("step_cpu",),
        speed.steps,
        "Whole training steps, K = 65,536, float32, memory kept; on a CPU "
        "`runtime_fast.py` is channels_last and fused SGD.",
    ),
    "versions": Table(
        ("step_versions_cpu",),
        speed.versions,
        "Processor time of whole steps on one thread, ResNet-18, 16 x 64 px, K = "
        "16,384, in turn with the code before the method core; median of 15 pairs, in "
        "three pairs of processes where the CSV says so. Where memory comes to lie in "
        "a process makes some percent of both.",
    ),
    "checkpoint": Table(
        ("checkpoint_cpu",),
        speed.checkpoint,
        "Checkpoint of MoCo's ResNet-50. A file is safe when it is complete on the "
        "disk, read back and described.",
    ),
    "scale": Table(
        ("scale_fit_cpu",), speed.scale, "Fits to the points of scale_cpu.csv."
    ),
    "bounded_steps": Table(
        ("imagenet_methods_cost_cpu",),
        speed.bounded_steps,
        "Batches of 8 with ResNet-50, of 32 with ResNet-18, one thread, processor time "
        "in turn, ratio with 95 % interval. The bound counts multiplications: those of "
        "forward and backward passes, and those with a queue or bank.",
    ),
    "bounded_pairs": Table(
        ("step_bounds_cpu",),
        speed.bounded_pairs,
        "Batches of 32 with ResNet-18, of 8 with ResNet-50, one thread, processor time "
        "in turn, ratio with 95 % interval. The bound counts multiplications.",
    ),
    "headline": Table(
        (
            *("queue_loss_cpu", "pipeline_cpu", "step_cpu", "checkpoint_cpu"),
            *("queue_loss_avx2", "pipeline_avx2", "step_avx2"),
        ),
        speed.headline,
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
    path = os.path.relpath(rows.RESULTS / f"{name}.csv", page.parent)
    return f"[{name}.csv]({Path(path).as_posix()})"


def machine(table: Table) -> str:
    """Hardware, version of torch and code of a table's rows."""
    own = [row for name in table.results for row in read(name)]

    def said(row: dict[str, str], name: str) -> str:
        return row.get(name, "").replace(NOT_RECORDED, "")

    units = [said(row, "vector_units") for row in own]
    cpus = dict.fromkeys(
        f"{row['cpu']} with {unit}" if unit else row["cpu"]
        for row, unit in zip(own, units, strict=True)
    )
    versions = dict.fromkeys(row["torch"].split("+")[0] for row in own)
    found = f"{', '.join(cpus)}, torch {', '.join(versions)}"
    commits = sorted({c for row in own for c in said(row, "commit").split()})
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
