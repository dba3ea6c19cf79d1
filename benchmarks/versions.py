"""A whole training step beside that of another checkout of this repository.

Two processes, one of each checkout, take turns (A, B, A, B, ...), so that another load
on the machine changes both alike; on one thread, ResNet-18 with 16 images of 64 x 64
pixels, two cells of RegionCL's, K = 16,384, a bank of 20,000 images. Run:

    git worktree add ../before 150e349          # version 0.1, before the method core
    python benchmarks/versions.py ../before     # writes results/step_versions_cpu.csv
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import torch

METHODS = (
    *("MoCo", "CO2", "DenseCL", "RegionCLM", "RegionCLD", "DetCo", "InterCLR"),
    *("SimSiam", "RegionCLS"),
)
FRESH = 5  # pairs of the same two processes
WIDTH, IMAGES, CLUSTERS, QUEUE_LEN, BATCH, SIZE = 512, 20_000, 150, 16_384, 16, 64


def mlp(in_channels: int, hidden: int, **changes: Any) -> dict:
    """SimSiam's projector or predictor."""
    return {
        "type": "NonLinearNeck",
        "in_channels": in_channels,
        "hid_channels": hidden,
        "out_channels": WIDTH,
        "num_layers": 2,
        "norm_cfg": {"type": "BN1d"},
        **changes,
    }


def config(kind: str) -> dict:
    """A model as both versions understand it: that of version 0.1."""
    backbone = {"type": "ResNet", "depth": 18, "zero_init_residual": False}
    neck = {"in_channels": WIDTH, "hid_channels": WIDTH, "out_channels": 128}
    model: dict[str, Any] = {
        "type": kind,
        "backbone": backbone,
        "neck": {"type": "MoCoV2Neck", **neck},
        "head": {"type": "InstanceHead", "temperature": 0.2},
        "queue_len": QUEUE_LEN,
        "bn_splits": 4,
    }
    if kind in ("SimSiam", "RegionCLS"):
        model = {"type": kind, "backbone": backbone, "neck": mlp(WIDTH, WIDTH)}
        ends = {"with_avg_pool": False, "with_last_bn": False, "with_last_bias": True}
        model["head"] = {
            "type": "LatentPredictHead",
            "loss": {"type": "CosineSimilarityLoss"},
            "predictor": mlp(WIDTH, WIDTH // 4, **ends),
        }
    if kind == "CO2":
        model["consistency"] = {
            "type": "ConsistencyHead",
            "temperature": 0.05,
            "weight": 0.3,
        }
    if kind in ("DenseCL", "RegionCLD"):
        model["neck"]["type"] = "DenseCLNeck"
    if kind.startswith("RegionCL"):
        model["region"] = {"cells": (1, 1), "stride": 32}
    if kind == "DetCo":
        model["backbone"] = backbone | {"out_indices": (0, 1, 2, 3)}
        model["neck"] = {"type": "MultiLevelNeck", "in_channels": (64, 128, 256, 512)}
        model["head"] = {"type": "MultiLevelHead"}
    if kind == "InterCLR":
        model |= {
            "pseudo_labels": {"type": "OnlineLabels", "num_clusters": CLUSTERS},
            "negatives": {"type": "SemiHardNegatives", "num": 0.013, "pool": 0.1},
            "inter_head": {"temperature": 0.2},
        }
        model["inter_head"]["type"] = "MarginHead"
    return model


def one_step(kind: str) -> Callable[[], object]:
    """``train_step`` as the Runner calls it, by the package of this process."""
    from mmengine.optim import OptimWrapper
    from mmengine.registry import init_default_scope
    from mmpretrain.structures import DataSample

    from mmssl_ext.registry import MODELS

    init_default_scope("mmssl_ext")
    torch.manual_seed(0)
    model = MODELS.build(config(kind)).train()
    if kind == "InterCLR":  # time does not depend on what is in the bank
        old = hasattr(model, "start_bank")
        bank = model.bank if old else model.terms.inter.bank
        labels = model.pseudo_labels if old else model.terms.inter.labels
        bank.fill(torch.randn(IMAGES, 128))
        labels.set_labels(torch.arange(IMAGES) % CLUSTERS, bank)
    trained = [p for p in model.parameters() if p.requires_grad]
    sgd = torch.optim.SGD(trained, lr=0.03, momentum=0.9, weight_decay=1e-4)
    wrapper = OptimWrapper(sgd)
    inputs = [*torch.randint(256, (2, BATCH, 3, SIZE, SIZE), dtype=torch.uint8)]
    if kind == "DetCo":
        shape = (2, BATCH, 9, 3, 21, 21)
        inputs += [*torch.randint(256, shape, dtype=torch.uint8)]
    numbers = torch.randperm(IMAGES)[:BATCH].tolist()
    samples = [DataSample(metainfo={"sample_idx": i}) for i in numbers]
    batch = {"inputs": inputs, "data_samples": samples}
    return lambda: model.train_step(dict(batch), wrapper)


def work(kind: str, steps: int) -> None:
    """Time blocks of steps when asked, on standard input; the peak memory at last."""
    torch.set_num_threads(1)
    step = one_step(kind)
    for _ in range(3):
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "memory":
            print(common.peak_memory(step), flush=True)
            continue
        start = time.process_time()
        for _ in range(steps):
            step()
        print((time.process_time() - start) / steps, flush=True)


class Worker:
    """A process of one checkout."""

    def __init__(self, checkout: Path, kind: str, steps: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(checkout), "--worker", kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ
            | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
            | {"STEPS": str(steps)},
        )

    def read(self) -> float:
        """The next number that it prints; "ready" is 0."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip() == "ready":
                return 0.0
            try:
                return float(json.loads(line))
            except ValueError:
                continue  # what the libraries print
        raise RuntimeError("A worker ended early; run it by hand with --worker.")

    def ask(self, what: str) -> float:
        """Ask for a block or the memory."""
        assert self._process.stdin is not None
        print(what, file=self._process.stdin, flush=True)
        return self.read()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def measure(before: Path, kind: str, pairs: int, steps: int) -> dict:
    """Time of a step now over that before, and the least peak memory of both.

    Every fifth pair has new processes: where memory comes to lie in one of them makes
    up to 6 % of its time, and more of its peak.
    """
    checkouts = {"before": before, "now": common.REPOSITORY}
    seconds: dict[str, list[float]] = {name: [] for name in checkouts}
    memory: dict[str, list[float]] = {name: [] for name in checkouts}
    for start in range(0, pairs, FRESH):
        workers = {n: Worker(path, kind, steps) for n, path in checkouts.items()}
        for worker in workers.values():
            worker.read()
        for pair in range(start, min(start + FRESH, pairs)):  # A B, B A, A B, ...
            for name in list(workers)[:: 1 if pair % 2 else -1]:
                seconds[name].append(workers[name].ask("block"))
        for name, worker in workers.items():
            memory[name] += [worker.ask("memory") for _ in range(3)]
            worker.close()
    value, low, high = common.ratio(seconds["now"], seconds["before"])
    row = {"method": kind, "pairs": pairs, "steps": steps}
    row |= {"processes": -(-pairs // FRESH), "batch": BATCH, "size": SIZE}
    row |= {"now_over_before": round(value, 3)}
    row |= {"low": round(low, 3), "high": round(high, 3)}
    row |= {f"{n}_ms": common.median_ms(seconds[n]) for n in checkouts}
    return row | {f"{n}_peak_mb": round(min(memory[n]) / 1e6, 1) for n in checkouts}


def main() -> None:
    """Time and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("before", type=Path, help="the other checkout")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--steps", type=int, default=4, help="of a block")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker, int(os.environ["STEPS"]))
        return
    before = args.before.resolve()
    rows = [measure(before, kind, args.pairs, args.steps) for kind in args.methods]
    common.write_rows("step_versions_cpu", rows)


if __name__ == "__main__":
    main()
