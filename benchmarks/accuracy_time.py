"""Accuracy against time: MoCo v2 on CIFAR-10 here and in three other libraries.

Every library trains the same ResNet-18 of a quarter of the width with its own model,
loss, augmentation and loop over the same 50,000 images: batches of 256, a queue of
4,096, SGD with half a cosine, 8 epochs, one thread, no worker processes. solo-learn's
loss has both directions; its partner here has them too. The arms take turns by epoch
in one process, each with random states of its own; kNN of the frozen backbone, by one
function for all, is outside the measured time. Run, once for each seed; the same
command goes on after the last epoch that all arms have finished:

    python benchmarks/accuracy_time.py --seed 0 --out work_dirs/accuracy    # hours
    python benchmarks/accuracy_time.py --collect --out work_dirs/accuracy

CIFAR10_ROOT names the folder of the images. `make peers` installs the others.
"""

import argparse
import json
import math
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import common
import numpy as np
import peers
import torch
from accuracy_arms import ARMS, LR, MEAN, STD, Arm
from torch import Tensor, nn

from mmssl_ext.evaluation.knn import weighted_knn
from mmssl_ext.registry import DATASETS
from mmssl_ext.run.launch import load_config

NAME = "accuracy_time_cpu"
EPOCHS, EVERY = 8, 2


class Randomness:
    """The states of all generators, one set for each arm."""

    def __init__(self, seed: int) -> None:
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002, the one that peers draw from
        torch.manual_seed(seed)
        self.keep()

    def keep(self) -> None:
        """Remember where the generators stand."""
        self.states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002

    def restore(self) -> None:
        """Go on from there."""
        random.setstate(self.states[0])
        np.random.set_state(self.states[1])  # noqa: NPY002
        torch.set_rng_state(self.states[2])


def read_cifar10(split: str, count: int | None) -> tuple[np.ndarray, Tensor]:
    """Images, N x 32 x 32 x 3, and labels."""
    path = common.REPOSITORY / "configs/mocov2/mocov2_r18_cifar10.py"
    given = load_config(path, {"verify_md5": False}).train_dataloader.dataset
    data = DATASETS.build({**given, "split": split, "pipeline": []})
    return data.images[:count], torch.as_tensor(np.asarray(data.labels)[:count])


def accuracy(
    backbone: nn.Module,
    train: tuple[np.ndarray, Tensor],
    test: tuple[np.ndarray, Tensor],
) -> float:
    """Top-1 of kNN (k = 200, T = 0.1) by globally pooled features, percent."""
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (MEAN, STD))
    features = []
    training = backbone.training
    backbone.train(False)
    with torch.no_grad():
        for arrays, _ in (train, test):
            parts = [
                backbone((torch.from_numpy(x).permute(0, 3, 1, 2) - mean) / std)[-1]
                for x in np.split(arrays, range(500, len(arrays), 500))
            ]
            features.append(torch.cat([part.mean((2, 3)) for part in parts]))
    backbone.train(training)
    bank, query = (nn.functional.normalize(x, dim=1) for x in features)
    k = min(200, len(bank))
    scores = weighted_knn(query, bank, train[1], 10, k=k, temperature=0.1)
    return float((scores.argmax(1) == test[1]).float().mean() * 100)


def train_epoch(arm: Arm, epoch: int, epochs: int) -> None:
    """One pass over the images, with half a cosine over all of them."""
    batches = arm.batches(epoch)
    total = len(batches) * epochs  # type: ignore[arg-type]
    for number, batch in enumerate(batches):
        done = (epoch * len(batches) + number) / total  # type: ignore[arg-type]
        for group in arm.optimizer.param_groups:
            group["lr"] = LR * 0.5 * (1 + math.cos(math.pi * done))
        arm.step(batch)


class Comparison:
    """Arms that train in turn by epoch, and can be stopped between two rounds.

    Raises:
        ValueError: What was kept is of another number of images, epochs or arms.
    """

    def __init__(self, seed: int, count: int | None, epochs: int, kept: Path) -> None:
        self.seed, self.epochs, self.kept = seed, epochs, kept
        self.train, self.test = (read_cifar10(x, count) for x in ("train", "test"))
        self.arms: dict[str, Arm] = {}
        self.states: dict[str, Randomness] = {}
        for name, make in ARMS.items():
            state = Randomness(seed)
            try:
                self.arms[name] = make(self.train[0], seed)
            except peers.PeerMissing as error:
                print(f"Left out: {name}: {error}.")
                continue
            state.keep()
            self.states[name] = state
        self.spent = {name: [0.0, 0.0] for name in self.arms}
        self.rows: list[dict] = []
        self.done = -1  # the last round; 0 is the untrained networks
        if kept.is_file():
            self.load()

    def recipe(self) -> list:
        """What a kept state must have been made with."""
        return [self.seed, len(self.train[0]), self.epochs, *self.arms]

    def run(self) -> Iterator[list[dict]]:
        """Rows of a round of all arms, once all that they need to go on is kept."""
        for epoch in range(self.done + 1, self.epochs + 1):
            rows = []
            for name, arm in self.arms.items():
                self.states[name].restore()
                if epoch:
                    start = time.perf_counter(), time.process_time()
                    train_epoch(arm, epoch - 1, self.epochs)
                    self.spent[name][0] += time.perf_counter() - start[0]
                    self.spent[name][1] += time.process_time() - start[1]
                self.states[name].keep()
                if epoch % EVERY == 0 or epoch == self.epochs:
                    rows.append(self.row(name, epoch))
            self.rows += rows
            self.done = epoch
            self.save()
            yield rows

    def row(self, name: str, epoch: int) -> dict:
        """What an arm has reached, and the seconds that it took."""
        knn = accuracy(self.arms[name].backbone, self.train, self.test)
        return {
            **{"arm": name, "seed": self.seed, "epoch": epoch},
            "knn_top1": round(knn, 2),
            "wall_s": round(self.spent[name][0], 1),
            "cpu_s": round(self.spent[name][1], 1),
            **{"images": len(self.train[0]), "threads": 1, "commit": common.commit()},
        }

    def save(self) -> None:
        """Keep the state of all arms, in one step."""
        arms = {
            name: [
                arm.model.state_dict(),
                buffers(arm.model),
                arm.optimizer.state_dict(),
            ]
            for name, arm in self.arms.items()
        }
        states = {name: state.states for name, state in self.states.items()}
        progress = [self.recipe(), self.done, self.spent, self.rows]
        part = self.kept.with_suffix(".part")
        torch.save([progress, states, arms], part)
        os.replace(part, self.kept)

    def load(self) -> None:
        """Go on from there."""
        progress, states, arms = torch.load(self.kept, weights_only=False)
        recipe, self.done, self.spent, self.rows = progress
        if recipe != self.recipe():
            raise ValueError(
                f"{self.kept} is of the seed, images, epochs and arms {recipe}, not "
                f"{self.recipe()}; delete it or choose another --out."
            )
        for name, (*found, optimizer) in arms.items():
            restore(self.arms[name].model, *found)
            self.arms[name].optimizer.load_state_dict(optimizer)
            self.states[name].states = states[name]


def buffers(model: nn.Module) -> dict[str, Tensor]:
    """All buffers, also those that a state dict leaves out."""
    return dict(model.named_buffers())


def restore(model: nn.Module, state: dict, found: dict[str, Tensor]) -> None:
    """Put a state back; a buffer may have another shape than a new model's."""
    for name, value in found.items():
        place, _, key = name.rpartition(".")
        setattr(model.get_submodule(place), key, value)
    model.load_state_dict(state)


def main(args: Sequence[str] | None = None) -> int:
    """Train a seed, or collect all that are there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, help="fewer, to try it")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--out", type=Path, default=Path("work_dirs/accuracy"))
    parser.add_argument("--collect", action="store_true", help="train nothing")
    chosen = parser.parse_args(args)
    if chosen.collect:
        files = sorted(chosen.out.glob("seed*.json"))
        if not files:
            print(f"{chosen.out} has no seed*.json: no seed has finished.")
            return 1
        parts = [json.loads(line) for f in files for line in f.read_text().splitlines()]
        facts = {name: peers.installed(name) for name in ("lightly", "solo-learn")}
        common.write_rows(NAME, [row | facts for row in parts])
        return 0
    torch.set_num_threads(1)
    common.keep_freed_memory()
    chosen.out.mkdir(parents=True, exist_ok=True)
    kept = chosen.out / f"seed{chosen.seed}.pt"
    comparison = Comparison(chosen.seed, chosen.images, chosen.epochs, kept)
    for rows in comparison.run():
        for row in rows:
            print(row, flush=True)
    lines = [json.dumps(row) for row in comparison.rows]
    kept.with_suffix(".json").write_text("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
