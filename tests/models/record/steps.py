"""Three training steps of every algorithm, and the figures that tell them apart.

The names of parts and tensors here are those of version 0.1. Weights and images are
drawn by their names and numbers, so that neither the order in which a model is built
nor the version of torch plays a part.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from ..common import OF_0_1, build, samples

BATCH, STEPS = 16, 3  # images of all ranks
QUEUE = 26  # wraps around in the middle of a batch
GROUPED = ("backbone.", "neck.", "head.", "encoder_k.backbone.", "encoder_k.neck.")


class Version(NamedTuple):
    """What the code at hand calls what a run needs of it.

    Attributes:
        name: The name in version 0.1 of a tensor or module of the model; empty where it
            had no such thing.
        fill: ``fill(model, features)`` fills InterCLR's bank.
        gather: ``gather(model, i, n)`` says that i of n iterations wait already for the
            optimizer's step.
    """

    name: Callable[[str], str]
    fill: Callable[[Any, Tensor], None]
    gather: Callable[[Any, int, int], None]


def _fill(model: Any, features: Tensor) -> None:
    model.start_bank(features)


def _gather(model: Any, done: int, of: int) -> None:
    model.gathered = done


VERSION_0_1 = Version(str, _fill, _gather)


class Case(NamedTuple):
    """A run of three steps.

    Attributes:
        algorithm: Its name.
        changes: Keys of its config that differ from ``model_config``.
        accumulated: Two iterations make a step of the optimizer.
    """

    algorithm: str
    changes: dict
    accumulated: bool = False


_OFFLINE = {"type": "OfflineLabels", "num_clusters": 6}
_GRID = {
    "type": "DenseCLNeck",
    "in_channels": 64,
    "hid_channels": 64,
    "out_channels": 16,
    "num_grid": 3,
}
_SILENT = {"type": "ConsistencyHead", "temperature": 0.05, "weight": 0.0}

CASES = {
    **{
        f"{name}, {kind}": Case(name, {"bn_splits": splits})
        for kind, splits in (("plain", 1), ("split", 4))
        for name in OF_0_1
    },
    "SimSiam": Case("SimSiam", {}),
    "RegionCLS": Case("RegionCLS", {}),
    "MoCo, accumulated": Case("MoCo", {"bn_splits": 4}, accumulated=True),
    "CO2, weight 0": Case("CO2", {"consistency": _SILENT}),
    "DenseCL, num_grid 3": Case("DenseCL", {"neck": _GRID, "bn_splits": 4}),
    "DenseCL, lambda 0": Case("DenseCL", {"loss_lambda": 0.0}),
    "RegionCLM, weight 0": Case("RegionCLM", {"region_weight": 0.0}),
    "InterCLR, offline": Case("InterCLR", {"pseudo_labels": _OFFLINE, "bn_splits": 4}),
    "InterCLR, lambda 0": Case("InterCLR", {"loss_lambda": 0.0}),
    "InterCLR, lambda 1": Case("InterCLR", {"loss_lambda": 1.0, "bn_splits": 4}),
}
# Several ranks have plain BatchNorm and shuffle the keys, whatever bn_splits says.
ON_TWO_RANKS = [
    *(f"{name}, split" for name in OF_0_1),
    *("SimSiam", "RegionCLS", "MoCo, accumulated", "InterCLR, offline"),
]


def run(
    case: Case, rank: int = 0, world_size: int = 1, version: Version = VERSION_0_1
) -> dict:
    """Train for three steps in double precision.

    Args:
        case: What is trained.
        rank: This rank trains on its part of the batch.
        world_size: Number of ranks.
        version: Of the code at hand.

    Returns:
        ``losses`` and ``gradients`` of every iteration and the ``state`` at the end;
        losses by name and the others, as :func:`figures`, by part.
    """
    names, changes = version.name, case.changes
    if case.algorithm in OF_0_1:
        changes = {"queue_len": QUEUE} | changes
    model = build(case.algorithm, **changes)
    model.double()
    for name, module in model.named_modules():
        if names(f"{name}.") in ("bank.", "pseudo_labels."):
            module.float()  # they always are
    model.load_state_dict({k: _start(names(k), v) for k, v in _items(model)})
    if case.algorithm == "InterCLR":
        version.fill(model, torch.from_numpy(_noise("bank", 100, 16)).float())
    # Buffers stay those of each rank, as in the runs of the tools.
    call = (
        DistributedDataParallel(model, broadcast_buffers=False)
        if world_size > 1
        else model
    )
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4
    )
    period = 2 if case.accumulated else 1
    found: dict[str, Any] = {"losses": [], "gradients": []}
    for i in range(STEPS * period):
        torch.manual_seed(i)
        version.gather(model, i % period, period)
        inputs = [x.chunk(world_size)[rank] for x in _views(case.algorithm, i)]
        images = torch.arange(BATCH).add(BATCH * i).chunk(world_size)[rank]
        losses = call(inputs, samples(images), mode="loss")
        sum(v for k, v in losses.items() if "loss" in k).backward()
        found["losses"].append({k: v.item() for k, v in losses.items()})
        named = model.named_parameters()
        gradients = [(names(k), p.grad) for k, p in named if p.grad is not None]
        found["gradients"].append(by_part(gradients))
        if i % period == period - 1:
            optimizer.step()
            optimizer.zero_grad()
    found["state"] = by_part((names(k), v) for k, v in _items(model))
    return found


def by_part(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, list[float]]:
    """Figures of named tensors by part: the networks, and what else has a name."""
    parts: dict[str, list[Tensor]] = {}
    for name, tensor in tensors:
        if not name:
            continue
        part = next((x for x in GROUPED if name.startswith(x)), name).strip(".")
        parts.setdefault(part, []).append(tensor)
    return {part: figures(parts[part]) for part in sorted(parts)}


def figures(tensors: Iterable[Tensor]) -> list[float]:
    """Four figures that change with the tensors, whatever their order.

    Returns:
        Number of elements; sum; sum of squares; sum of each tensor's inner product with
        a fixed vector of the numbers sin(0.7 i^2).
    """
    total = np.zeros(4)
    for tensor in tensors:
        x = tensor.detach().double().flatten().cpu().numpy()
        i = np.arange(1.0, len(x) + 1)
        total += len(x), x.sum(), x @ x, x @ np.sin(0.7 * i * i)
    return total.tolist()


def close(now: list[float], then: list[float], tolerance: float) -> bool:
    """Whether figures agree, relative to the norm of what they were made from."""
    norm = then[2] ** 0.5
    return (
        now[0] == then[0]
        and abs(now[2] - then[2]) <= tolerance * then[2]
        and all(abs(now[i] - then[i]) <= tolerance * norm for i in (1, 3))
    )


def _items(model: torch.nn.Module) -> list[tuple[str, Tensor]]:
    return list(model.state_dict().items())


def _noise(name: str, *shape: int) -> np.ndarray:
    """Gaussian numbers that follow from a name; NumPy never changes this generator."""
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)


def _start(name: str, tensor: Tensor) -> Tensor:
    """The tensor's value before the first step: a key encoder is the query's copy."""
    name = name.removeprefix("encoder_k.")
    kept = name.startswith(("bank.", "pseudo_labels.")) or "running_" in name
    if not name or kept or not tensor.is_floating_point():
        return tensor
    x = torch.from_numpy(_noise(name, *tensor.shape)).to(tensor.dtype)
    if "queue." in name:
        return torch.nn.functional.normalize(x, dim=-1)
    if x.ndim > 1:
        return x * (2 / x[0].numel()) ** 0.5
    return 0.1 * x + name.endswith("weight")


def _views(algorithm: str, seed: int) -> list[Tensor]:
    """Views of all ranks' images in an iteration."""
    shapes = 2 * [(BATCH, 3, 64, 64)]
    if algorithm == "DetCo":
        shapes += 2 * [(BATCH, 9, 3, 16, 16)]
    return [
        torch.from_numpy(_noise(f"view {i} of step {seed}", *shape))
        for i, shape in enumerate(shapes)
    ]
