"""What several ranks do in the tests; few imports, for each rank imports this file."""

from __future__ import annotations

import torch
from mmengine.dataset import default_collate
from mmengine.runner import Runner

from mmssl_ext.datasets import ImageFolder
from mmssl_ext.models.memory import KeyQueue

WORKERS = 2


class Numbers:
    """Stands for the random transforms: numbers of 53 random bits instead of views.

    So many that no two streams share one by chance.
    """

    def __call__(self, results: dict) -> dict:
        streams = [results["rng"], *(results["sample_seed"].view(v) for v in range(2))]
        rows = [torch.from_numpy(stream.random(4)) for stream in streams]
        return {"inputs": torch.cat(rows), "data_samples": results["sample_idx"]}


def drawn(root: str, seed: int, keyed: bool) -> torch.Tensor:
    """All numbers of two epochs of a loader as a Runner with this seed builds it."""
    torch.manual_seed(seed)  # as set_randomness does on every rank
    dataset = ImageFolder(root, pipeline=[Numbers()])
    loader = Runner.build_dataloader(
        {
            "dataset": dataset,
            "batch_size": 4,
            "num_workers": WORKERS,
            "multiprocessing_context": "fork",
            "sampler": {"type": "DefaultSampler", "shuffle": True},
            "collate_fn": default_collate,
        },
        seed=seed,
    )
    found = []
    for epoch in range(2):
        if keyed:
            dataset.set_augmentation_seed(seed, epoch)
        found += [batch["inputs"].flatten() for batch in loader]
    return torch.cat(found)


def drawn_on_rank(rank: int, root: str) -> dict[bool, torch.Tensor]:
    """With and without a key."""
    return {keyed: drawn(root, 0, keyed) for keyed in (True, False)}


def enqueue_near_the_end(rank: int, batches: torch.Tensor) -> dict:
    """Enqueue this rank's sixth of each batch where 64 places are left."""
    torch.manual_seed(0)
    queue = KeyQueue(65_536, 4)
    queue.ptr.fill_(65_536 - 64)  # after 341 batches of 6 x 32
    for batch in batches:
        queue.enqueue(batch.chunk(6)[rank])
    return queue.state_dict()
