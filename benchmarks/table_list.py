"""Which tables there are: their CSVs, what their cells show, and their captions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cells_speed as speed
import cells_trainings as trainings
from rows import Cells, read, value


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
    "demo_pairs": Table(
        (DEMO,),
        trainings.demo_pairs,
        "The same runs: mean of the differences by seed, and its 95 % interval by "
        "Student's t. Each is compared with MoCo v2 on views of the same size; random "
        "weights with that of 64 px.",
    ),
    "cell_contents": Table(
        ("cell_contents_cpu",),
        trainings.cell_contents,
        "Shares and mIoU in percent, mean ± sample standard deviation where there are "
        "several seeds. Cells of the last stage at unit length, held-out scenes of the "
        "segmentation; the linear map is fitted by ridge regression on cells of "
        "training scenes.",
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
    "bccd_processors": Table(
        ("bccd_voc_cpu", "bccd_random_avx2_cpu"),
        trainings.bccd_processors,
        "AP in percent of the same detector from random weights, same seeds and "
        "settings; on AVX2 alone by one thread.",
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
