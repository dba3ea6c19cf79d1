"""Features of a whole dataset, in dataset order, on any number of ranks."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dist import all_gather, all_gather_object, all_reduce, get_world_size
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from mmssl_ext.errors import UserValueError
from mmssl_ext.unwrap import unwrap
from mmssl_ext.upstream import embed

from .classes import class_names

# encoder -> modes of forward and the prefixes of their features
MODES = {
    "query": {"embed": ""},
    "key": {"embed_key": "key_"},
    "both": {"embed": "", "embed_key": "key_"},
}
_GATHER_ELEMENTS = 2**26  # per collective call: 256 MB of fp32 on each device


class Features(NamedTuple):
    """What :func:`extract_features` returns, on the host."""

    #: Name (``backbone``, ``embedding``, with prefix ``key_`` from the key encoder) to
    #: fp32 tensor, n x C, not normalised.
    features: dict[str, Tensor]
    labels: Tensor | None  # class of each row, n; None where any image has none
    paths: list[str]  # of each row
    classes: tuple[str, ...] | None = None  # names of the labels, if known
    digests: Tensor | None = None  # 64-bit numbers of the pixels of each row, n


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode; give every submodule its own mode back afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Leave the generators of Python, NumPy and torch as they were found."""
    python, cpu = random.getstate(), torch.get_rng_state()
    numpy_ = np.random.get_state()  # noqa: NPY002
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if devices:
            torch.cuda.set_rng_state_all(devices)


@torch.no_grad()
def extract_features(
    model: nn.Module,
    dataloader: DataLoader,
    encoder: str = "query",
    progress: Callable[[int, int], None] | None = None,
    names: Collection[str] | None = None,
    digests: bool = False,
) -> Features:
    """Run a dataset through ``forward(mode="embed")`` or ``"embed_key"``.

    Under several ranks every rank runs its sampler's share and all ranks get the whole
    result: rows that the sampler repeated to fill up the last round are dropped. The
    model keeps its mode, weights and buffers. Each rank needs host memory for n x C
    floats per feature.

    Args:
        model: The model, wrapped or not.
        dataloader: Loader of evaluation items (one view per image).
        encoder: ``query``, ``key`` or ``both``.
        progress: Called with (batches done, batches in all) after every batch.
        names: Keep only these features; None keeps all.
        digests: Note the digest of the pixels of each image.

    Raises:
        ValueError: ``encoder`` is unknown, the loader's order cannot be known, or it
            leaves images out.
    """
    if encoder not in MODES:
        raise UserValueError(f"encoder='{encoder}' must be one of {', '.join(MODES)}.")
    module: Any = unwrap(model)
    indices = _sample_order(dataloader)
    rows: dict[str, list[Tensor]] = {}
    labels, paths, pixels = [], [], []
    with evaluating(module):
        for step, batch in enumerate(dataloader, 1):
            if digests:
                pixels += [_digest(image) for image in batch["inputs"]]
            data = module.data_preprocessor(batch, False)
            # Only a step of training takes boxes and index.
            given = data["inputs"], data["data_samples"]
            for mode, prefix in MODES[encoder].items():
                for name, value in embed(module, *given, mode=mode).items():
                    if names is None or prefix + name in names:
                        rows.setdefault(prefix + name, []).append(value.float().cpu())
            for sample in given[1]:
                labels.append(int(sample.gt_label) if "gt_label" in sample else -1)
                paths.append(str(sample.get("img_path", "")))
            if progress is not None:
                progress(step, len(dataloader))
    found = _gather(
        indices[: len(paths)],
        {name: torch.cat(value) for name, value in rows.items()},
        (labels, paths, pixels),
        len(dataloader.dataset),  # type: ignore[arg-type]
        next(module.parameters()).device,
    )
    return found._replace(classes=class_names(dataloader.dataset))


def _digest(image: Tensor) -> int:
    """A number that images of other pixels do not share; it fits int64."""
    data = image.detach().cpu().contiguous().numpy().data
    digest = hashlib.blake2b(data, digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def _sample_order(dataloader: DataLoader) -> list[int]:
    """Dataset index of every item that this rank's loader will deliver."""
    sampler: Any = dataloader.batch_sampler or dataloader.sampler
    base = getattr(sampler, "sampler", sampler)
    if isinstance(base, RandomSampler):
        raise UserValueError(
            "Features cannot be put in dataset order when the loader shuffles at "
            "random; use sampler=dict(type='DefaultSampler', shuffle=False)."
        )
    order = list(sampler)
    return [i for batch in order for i in batch] if sampler is not base else order


def _gather(
    indices: list[int],
    rows: dict[str, Tensor],
    told: tuple[list[int], list[str], list[int]],
    size: int,
    device: torch.device,
) -> Features:
    """Bring the shares of all ranks into dataset order, each image once.

    ``told`` are labels, paths and digests (or no digests) of the rows.
    """
    found: dict[int, tuple[int, str, int]] = {}  # by index
    for numbers, labels, paths, digests in all_gather_object((indices, *told)):
        entries = zip(labels, paths, digests or [0] * len(labels), strict=True)
        found.update(zip(numbers, entries, strict=True))
    if len(found) < size:
        raise UserValueError(
            f"The loader delivered {len(found)} of {size} images; set "
            "drop_last=False, and round_up=True in its sampler, for evaluation."
        )
    where = torch.tensor(indices, dtype=torch.long)
    features = {
        name: _gather_rows(value, where, size, device) for name, value in rows.items()
    }
    labels, paths, digests = zip(*(found[i] for i in range(size)), strict=True)
    return Features(
        features,
        None if min(labels) < 0 else torch.tensor(labels),
        list(paths),
        digests=torch.tensor(digests) if told[2] else None,
    )


def _gather_rows(
    rows: Tensor, where: Tensor, size: int, device: torch.device
) -> Tensor:
    out = rows.new_empty(size, rows.shape[1])
    if get_world_size() == 1:
        out[where] = rows
        return out
    longest = torch.tensor(len(rows), device=device)
    all_reduce(longest, op="max")
    missing = int(longest) - len(rows)  # ranks may differ by one row: repeat the last
    rows = torch.cat([rows, rows[-1:].expand(missing, -1)])
    where = torch.cat([where, where[-1:].expand(missing)])
    part = max(1, _GATHER_ELEMENTS // (rows.shape[1] * get_world_size()))
    for start in range(0, len(rows), part):
        piece = rows[start : start + part].to(device)
        places = all_gather(where[start : start + part].to(device))
        for place, value in zip(places, all_gather(piece), strict=True):
            out[place.cpu()] = value.cpu()
    return out
