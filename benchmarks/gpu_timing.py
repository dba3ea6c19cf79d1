"""Blocks of steps by the clock of a GPU, arm by arm in turn, and their table.

Without a GPU everything runs at toy size, and the table says "not measured".
"""

import csv
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import common
import peers
import torch

UNMEASURED = "not measured"
IMAGES = 1_281_167  # of ImageNet's training split

Step = Callable[[], object]
Ratio = tuple[str, str, str, float, bool, float]
# (what, arm above, arm below, goal, whether less is better, factor)


@dataclass
class Scale:
    """How much is run: everything, or a toy for machines without a GPU."""

    device: torch.device
    batch: int = 256
    size: int = 224
    queue: int | None = None  # the config's
    images: int = IMAGES
    blocks: int = 5
    steps: int = 30
    warmups: int = 20  # steps of an arm before its first block
    settle: int = 4  # steps before each later one
    workers: int = 16
    seconds: float = 450  # no further block is begun after this

    @property
    def measures(self) -> bool:
        """Whether figures may be written."""
        return self.device.type == "cuda"

    def at(self, batch: int) -> "Scale":
        """The same with another batch; a toy stays what it is."""
        values = vars(self) | ({"batch": batch} if self.measures else {})
        return Scale(**values)


def full_or_toy() -> Scale:
    """The real thing where there is a GPU."""
    if torch.cuda.is_available():
        return Scale(torch.device("cuda"))
    return Scale(
        torch.device("cpu"),
        batch=2,
        size=32,
        queue=256,
        images=2000,
        blocks=1,
        steps=1,
        warmups=1,
        settle=0,
        workers=0,
    )


@dataclass
class Timing:
    """What an arm cost, block by block."""

    seconds: list[float] = field(default_factory=list)  # per step
    peak: int = 0  # bytes


class Clock:
    """CUDA events around a block, or nothing of the sort."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        if self.cuda:
            self.start, self.end = (
                torch.cuda.Event(enable_timing=True) for _ in range(2)
            )

    def block(self, step: Step, count: int) -> float:
        """Seconds per step."""
        if not self.cuda:
            begin = time.perf_counter()
            for _ in range(count):
                step()
            return (time.perf_counter() - begin) / count
        self.start.record()
        for _ in range(count):
            step()
        self.end.record()
        self.end.synchronize()
        return self.start.elapsed_time(self.end) / 1000 / count


def time_steps(arms: dict[str, Step], scale: Scale) -> dict[str, Timing]:
    """Blocks of steps in turn: A, B, ..., A, B, ... until the time is up.

    An arm that fails is left out, with its reason on the screen: a missing compiler
    must not cost the others their figures.
    """
    timings = {name: Timing() for name in arms}
    clock, begin = Clock(scale.device), time.monotonic()
    for block in range(scale.blocks):
        if block > 1 and time.monotonic() - begin > scale.seconds:
            print(f"{block} blocks instead of {scale.blocks}: the time is up.")
            break
        for name in list(timings):
            if scale.measures:
                torch.cuda.empty_cache()
            try:
                for _ in range(scale.settle if block else scale.warmups):
                    arms[name]()
                if scale.measures:
                    torch.cuda.synchronize()
                    torch.cuda.reset_peak_memory_stats()
                timings[name].seconds.append(clock.block(arms[name], scale.steps))
            except RuntimeError as error:  # torch's, out of memory among them
                print(f"Left out: {name}: {str(error).splitlines()[0]}")
                del timings[name]
                continue
            if scale.measures:
                peak = torch.cuda.max_memory_allocated()
                timings[name].peak = max(timings[name].peak, peak)
    return timings


def describe(scale: Scale) -> dict[str, str]:
    """Versions, hardware and flags."""
    facts = common.describe_machine()
    facts |= {name: peers.installed(name) for name in ("lightly", "solo-learn")}
    facts["cudnn_benchmark"] = str(torch.backends.cudnn.benchmark)
    gpu = scale.device
    if scale.measures:
        facts["gpu"] = torch.cuda.get_device_name(gpu)
        facts["cuda"] = str(torch.version.cuda)
        facts["cudnn"] = str(torch.backends.cudnn.version())
    else:
        facts |= {"gpu": "none", "cuda": "none", "cudnn": "none"}
    return facts


def table(
    bench: str,
    timings: dict[str, Timing],
    ratios: list[Ratio],
    missing: dict[str, str],
    scale: Scale,
    note: str = "",
) -> list[dict]:
    """Rows of the table; without a GPU all values are ``not measured``."""
    facts = describe(scale)
    rows = []
    for what, above, below, goal, less, factor in ratios:
        lost = [f"{n}: {missing.get(n, 'failed')}" for n in (above, below)
                if n not in timings]  # fmt: skip
        row = {"bench": bench, "what": what, "above": above, "below": below}
        row |= dict.fromkeys(("value", "low", "high"), UNMEASURED)
        row["goal"] = f"{'<=' if less else '>='} {goal}" if goal else ""
        units = ("above_ms", "below_ms", "above_peak_mb", "below_peak_mb")
        row |= dict.fromkeys(units, UNMEASURED)
        blocks = 0 if lost else len(timings[below].seconds)
        if scale.measures and not lost:
            a, b = timings[above], timings[below]
            count = min(len(a.seconds), len(b.seconds))
            values = common.ratio(a.seconds[:count], b.seconds[:count])
            row |= {
                key: f"{factor * value:.3f}"
                for key, value in zip(("value", "low", "high"), values, strict=True)
            }
            row |= {
                "above_ms": f"{1000 * statistics.median(a.seconds):.3f}",
                "below_ms": f"{1000 * statistics.median(b.seconds):.3f}",
                "above_peak_mb": f"{a.peak / 1e6:.0f}",
                "below_peak_mb": f"{b.peak / 1e6:.0f}",
            }
        row |= {"batch": scale.batch, "size": scale.size}
        row |= {"blocks": blocks, "steps": scale.steps}
        row["note"] = "; ".join(filter(None, [note, *lost]))
        rows.append(row | facts)
    return rows


def write(name: str, rows: list[dict], folder: Path) -> Path:
    """Write the table and print what matters of it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"gpu_{name}.csv"
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(
            f"{row['what']}: {row['above']} / {row['below']} = {row['value']} "
            f"[{row['low']}, {row['high']}] {row['goal']} {row['note']}"
        )
    return path
