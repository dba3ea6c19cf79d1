"""Whole steps on places, on objects and with small crops, beside their bounds.

ResNet-18 with 32 images of 96 pixels and ResNet-50 with 8 of 224, the models and
batches of `step.py`; CCOP with 10 and with 50 boxes to an image, crops with six of 32
or 96 pixels besides the two. On one thread, by processor time, in turn; the memory is
what a step adds to that of a fresh process at most. A bound is the multiplications of
one side over those of the other, from the sizes of the layers. Run:

    python benchmarks/bounds.py
"""

import time
from collections.abc import Callable

import common
import step
import torch

NAME = "step_bounds_cpu"
SIZES = ((18, 32, 96), (50, 8, 224))  # depth, images, their side
# Million multiplications of a forward: a ResNet-18 at 96 pixels 333, its FPN 469; a
# ResNet-50 at 224 pixels 4,090, its FPN 2,840, a small crop 751; a box of CCOP 26.
# Backward counts two forwards. The rest are heads, 9 or 49 cells of them where they are
# dense, and the products with the queue.
BOUNDS = {  # numerator over denominator with ResNet-18, and with ResNet-50
    ("lcloss", "moco"): (1.01, 1.05),
    ("lcloss_byol", "byol"): (1.02, 1.07),
    ("pixpro", "byol"): (1.07, 1.11),
    ("densesiam", "simsiam"): (1.45, 1.21),
    ("dsc_pm", "densecl"): (1.0, 1.0),
    ("dsc_km", "densecl"): (1.0, 1.0),
    ("bgswaps", "moco"): (1.25, 1.25),
    ("ccop", "moco"): (5.08, 1.91),
    ("ccop_50", "moco"): (15.9, 2.8),
    ("moco_crops", "moco"): (1.57, 1.84),
    ("simsiam_crops", "simsiam"): (1.42, 1.56),
    ("byol_crops", "byol"): (1.28, 1.42),
}


def step_of(name: str, depth: int, batch_size: int, size: int) -> Callable[[], object]:
    """A step, by its name in ``step.ARMS``."""
    return step.arm(name, depth, step.batches(batch_size, size))


def measure(number: int) -> list[dict]:
    """Rows of one of SIZES."""
    depth, batch_size, size = SIZES[number]
    names = sorted({name for both in BOUNDS for name in both})
    memory = common.peaks_of_steps(step_of, names, *SIZES[number])
    common.keep_freed_memory()
    ratios = [(f"{a}_over_{b}", a, b) for a, b in BOUNDS]
    rows = step.measure(depth, batch_size, size, 5, ratios, time.process_time)
    for row, (a, b) in zip(rows, BOUNDS, strict=True):
        row |= {"numerator_mb": memory[a], "denominator_mb": memory[b]}
        row["bound"] = BOUNDS[a, b][number]
    return rows


def main() -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    common.write_rows(NAME, [row for number in (0, 1) for row in measure(number)])


if __name__ == "__main__":
    main()
