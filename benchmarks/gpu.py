"""The benchmarks that need a GPU: B5 to B8 and B10, each of at most nine minutes.

    b5   MoCo v2, ResNet-50, 224 px, batch 256, made-up images on the device: the whole
         step against its parts, against supervised training, against the peers
    b6   the same at batch 32, the stock load of one GPU, with and without CUDA graphs
    b7   DenseCL: step against MoCo's, and its dense loss with peak memory
    b8   from JPEG files to the step, 16 workers, ours and mmpretrain's stock
    b10  steps of CO2, RegionCL, DetCo and InterCLR against MoCo's

Ours is what users run: model, optimizer and runtime come from configs/*_imagenet.py.
Peers run as installed: mmpretrain from its own config, in fp32 as it stands and with
its --amp; lightly's modules as its own ImageNet benchmark puts them together, in
16-mixed; solo-learn's MoCoV2Plus.training_step in fp16, per positive pair, of which it
has two per image. Lightning's loop, logging, the online classifier of lightly are
spared the peers. cudnn.benchmark is on for all, channels_last where the arm offers it.

CUDA events time blocks of steps; the arms take turns block by block, so that each finds
the memory free; the first steps of a turn are not timed. Ours and mmpretrain start from
the same weights and their losses are compared before anything is timed.

Without a GPU every arm runs at toy size to show that it can, and the table says "not
measured" wherever a figure belongs. Run: benchmarks/gpu.sh b5 OUT_DIR
"""

import argparse
import functools
from collections.abc import Callable
from pathlib import Path

import peers
import torch
from gpu_files import b8
from gpu_ours import MOCO, Ours, made_up, our_step
from gpu_peers import (
    MMPRETRAIN,
    MMPRETRAIN_DENSECL,
    lightly_step,
    mmpretrain_step,
    same_loss,
    solo_step,
    supervised_step,
)
from gpu_timing import (
    UNMEASURED,
    Ratio,
    Scale,
    Step,
    full_or_toy,
    table,
    time_steps,
    write,
)
from mmengine.logging import MMLogger
from torch import Tensor

CLUSTERS = 10_000  # of InterCLR


def b5(scale: Scale) -> list[dict]:
    """MoCo v2 at full batch."""
    difference = same_loss(MOCO, MMPRETRAIN, scale)
    batch, views = made_up(scale)
    built: dict[str, Ours] = {}

    def ours() -> Step:
        built["ours"] = Ours(MOCO, scale)
        return functools.partial(built["ours"].step, batch)

    arms, missing = peers.available(
        {
            "ours": ours,
            "parts": lambda: functools.partial(built["ours"].parts, batch),
            "supervised": lambda: supervised_step(scale, views[0]),
            "mmpretrain": lambda: mmpretrain_step(MMPRETRAIN, scale, batch, False),
            "mmpretrain_amp": lambda: mmpretrain_step(MMPRETRAIN, scale, batch, True),
            "lightly_amp": lambda: lightly_step(scale, views),
            "solo_amp": lambda: solo_step(scale, views),
        }
    )
    ratios: list[Ratio] = [
        ("parts / step", "parts", "ours", 0.95, False, 1),
        ("throughput / supervised", "supervised", "ours", 0.69, False, 1),
        ("speed-up", "mmpretrain", "ours", 2.0, False, 1),
        ("speed-up", "mmpretrain_amp", "ours", 1.25, False, 1),
        ("speed-up", "lightly_amp", "ours", 1.2, False, 1),
        ("speed-up per positive pair", "solo_amp", "ours", 1.1, False, 0.5),
    ]
    note = f"loss equals mmpretrain's to {difference:.0e}"
    return table("b5", time_steps(arms, scale), ratios, missing, scale, note)


def b6(scale: Scale) -> list[dict]:
    """MoCo v2 at the stock load of one GPU, where launches count."""
    scale = scale.at(32)
    batch, views = made_up(scale)
    graphs = {"mode": "reduce-overhead"} if scale.measures else None
    arms, missing = peers.available(
        {
            "ours": lambda: our_step(MOCO, scale, batch),
            "ours_graphs": lambda: our_step(MOCO, scale, batch, compile=graphs),
            "mmpretrain": lambda: mmpretrain_step(MMPRETRAIN, scale, batch, False),
            "mmpretrain_amp": lambda: mmpretrain_step(MMPRETRAIN, scale, batch, True),
            "lightly_amp": lambda: lightly_step(scale, views),
        }
    )
    ratios: list[Ratio] = [
        ("speed-up", "mmpretrain_amp", "ours_graphs", 1.6, False, 1),
        ("speed-up", "ours", "ours_graphs", 1.3, False, 1),
        ("speed-up", "mmpretrain_amp", "ours", 0, False, 1),
        ("speed-up", "mmpretrain", "ours", 0, False, 1),
        ("speed-up", "lightly_amp", "ours", 0, False, 1),
    ]
    return table("b6", time_steps(arms, scale), ratios, missing, scale)


def b7(scale: Scale) -> list[dict]:
    """DenseCL, whole and its dense loss alone."""
    ours = "densecl/densecl_r50_imagenet.py"
    at_once = {"start_iters": 0}  # not without the dense loss at first
    difference = same_loss(ours, MMPRETRAIN_DENSECL, scale, **at_once)
    batch, _ = made_up(scale)
    arms, missing = peers.available(
        {
            "densecl": lambda: our_step(ours, scale, batch, **at_once),
            "moco": lambda: our_step(MOCO, scale, batch),
            "mmpretrain_densecl_amp": lambda: mmpretrain_step(
                MMPRETRAIN_DENSECL, scale, batch, True
            ),
            "mmpretrain_moco_amp": lambda: mmpretrain_step(
                MMPRETRAIN, scale, batch, True
            ),
        }
    )
    timings = time_steps(arms, scale)
    arms.clear()
    half = torch.bfloat16 if scale.measures else torch.float32
    timings |= time_steps(dense_losses(scale, half), scale)
    ratios: list[Ratio] = [
        ("step / MoCo's", "densecl", "moco", 1.05, True, 1),
        ("step / MoCo's", "mmpretrain_densecl_amp", "mmpretrain_moco_amp", 0, True, 1),
        ("speed-up", "mmpretrain_densecl_amp", "densecl", 0, False, 1),
        ("speed-up", "mmpretrain_dense_loss", "dense_loss", 6, False, 1),
    ]
    note = f"loss equals mmpretrain's to {difference:.0e}"
    rows = table("b7", timings, ratios, missing, scale, note)
    saved = UNMEASURED
    if scale.measures and {"mmpretrain_dense_loss", "dense_loss"} <= set(timings):
        gap = timings["mmpretrain_dense_loss"].peak - timings["dense_loss"].peak
        saved = f"{gap / 1e9:.2f}"
    last = rows[-1] | dict.fromkeys(("low", "high"), "")
    return [*rows, last | {"what": "peak memory saved, GB", "value": saved, "goal": 8}]


def dense_losses(scale: Scale, dtype: torch.dtype) -> dict[str, Step]:
    """The dense loss, forward and backward, in the precision of each one's training."""
    import dense_loss

    sizes = (dense_loss.QUEUE_LEN, dense_loss.CHANNELS)
    if scale.queue is not None:
        dense_loss.QUEUE_LEN, dense_loss.CHANNELS = scale.queue, 64
    try:
        losses = dense_loss.Losses(scale.batch)
    finally:
        dense_loss.QUEUE_LEN, dense_loss.CHANNELS = sizes
    for name, value in vars(losses).items():
        if isinstance(value, Tensor):
            setattr(losses, name, value.detach().to(scale.device))
    losses.query.requires_grad_()
    ours, peer = losses.ours(), losses.mmpretrain()
    torch.testing.assert_close(ours[0], peer[0], rtol=1e-3, atol=1e-4)

    def autocast(loss: Step, kind: torch.dtype) -> Step:
        def step() -> None:
            with torch.autocast(scale.device.type, kind, enabled=scale.measures):
                loss()

        return step

    return {
        "dense_loss": autocast(losses.ours, dtype),
        "mmpretrain_dense_loss": autocast(losses.mmpretrain, torch.float16),
    }


def b10(scale: Scale) -> list[dict]:
    """The methods against MoCo, each as its config has it."""
    if not scale.measures:  # regions are cut from 7 x 7 cells
        scale = Scale(**(vars(scale) | {"size": 224}))
    batch, _ = made_up(scale)
    paths = {
        "co2": "co2/co2_r50_imagenet.py",
        "regionclm": "regioncl/regionclm_r50_imagenet.py",
        "detco": "detco/detco_r50_imagenet.py",
    }
    makers: dict[str, Callable[[], Step]] = {
        "moco": lambda: our_step(MOCO, scale, batch)
    }
    for name, path in paths.items():
        given = made_up(scale, 64)[0] if name == "detco" else batch
        makers[name] = functools.partial(our_step, path, scale, given)
    makers["interclr"] = lambda: interclr_step(scale, batch)
    arms, missing = peers.available(makers)
    goals = {"co2": 1.02, "regionclm": 1.85, "detco": 1.95, "interclr": 1.15}
    ratios: list[Ratio] = [
        ("step / MoCo's", name, "moco", goal, True, 1) for name, goal in goals.items()
    ]
    return table("b10", time_steps(arms, scale), ratios, missing, scale)


def interclr_step(scale: Scale, batch: dict) -> Step:
    """InterCLR with a full bank; time does not depend on what is in it."""
    # A toy bank has not so many images to draw from.
    toy = {} if scale.measures else dict(num_clusters=20, negatives=50, pool=200)
    clusters = toy.get("num_clusters", CLUSTERS)
    ours = Ours("interclr/interclr_r50_imagenet.py", scale, **toy)
    inter, device = ours.model.terms.inter, scale.device
    inter.bank.fill(torch.randn(scale.images, 128, device=device))
    labels = torch.arange(scale.images, device=device) % clusters
    inter.labels.set_labels(labels, inter.bank)
    return functools.partial(ours.step, batch)


BENCHES: dict[str, Callable[..., list[dict]]] = {
    "b5": b5,
    "b6": b6,
    "b7": b7,
    "b8": b8,
    "b10": b10,
}


def main() -> None:
    """Run one benchmark and write its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bench", choices=BENCHES)
    parser.add_argument("out", type=Path, help="folder of the table")
    parser.add_argument("--images", type=Path, help="photographs for b8")
    args = parser.parse_args()
    MMLogger.get_instance("benchmark", log_level="ERROR")
    scale = full_or_toy()
    torch.backends.cudnn.benchmark = True
    if not scale.measures:
        print("No GPU: every arm runs at toy size, and nothing is measured.")
    more = {"images": args.images} if args.bench == "b8" else {}
    write(args.bench, BENCHES[args.bench](scale, **more), args.out)


if __name__ == "__main__":
    main()
