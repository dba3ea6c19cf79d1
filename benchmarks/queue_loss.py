"""Queue losses against mmpretrain's ContrastiveHead: time and peak extra memory.

K = 65,536, D = 128, forward and backward, fp32. The peer's arm is what its MoCo does
with the features: two einsums, the copy of the queue, the head. Values and gradients
are compared before anything is timed.

On a CPU glibc gives the memory of large tensors back to the kernel, so an arm that
holds all logits pays for page faults at every call. The rows "keeps memory" are without
them: what remains is arithmetic, the same number of products for both.

Run: python benchmarks/queue_loss.py
"""

import os
from collections.abc import Callable

import common
import mmpretrain.models  # noqa: F401, registers CrossEntropyLoss
import torch
from mmpretrain.models.heads import ContrastiveHead
from torch import Tensor
from torch.nn.functional import normalize

from mmssl_ext.models.losses import info_nce, queue_attention, queue_consistency

QUEUE_LEN, DIM, TEMPERATURE = 65536, 128, 0.2
SIZES = (64, 256, 1568)


def unit(rows: int, seed: int) -> Tensor:
    """Random unit rows."""
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(rows, DIM, generator=generator), dim=1)


class Losses:
    """The arms on one set of inputs; each returns loss and gradient."""

    def __init__(self, rows: int) -> None:
        self.q, self.k = unit(rows, 0).requires_grad_(), unit(rows, 1)
        self.queue = unit(QUEUE_LEN, 2)
        self.peer_queue = self.queue.T.contiguous()  # D x K, as the peer keeps it
        self.head = ContrastiveHead(
            loss={"type": "CrossEntropyLoss", "loss_weight": 1.0},
            temperature=TEMPERATURE,
        )

    def _run(self, loss: Callable[[], Tensor]) -> tuple[Tensor, ...]:
        return common.loss_and_gradient(loss, self.q)

    def mmpretrain(self) -> tuple[Tensor, ...]:
        """The peer: einsums, copy of the queue, ContrastiveHead."""

        def loss() -> Tensor:
            positive = torch.einsum("nc,nc->n", [self.q, self.k]).unsqueeze(-1)
            queue = self.peer_queue.clone().detach()
            return self.head.loss(positive, torch.einsum("nc,ck->nk", [self.q, queue]))

        return self._run(loss)

    def ours(self) -> tuple[Tensor, ...]:
        """The queue softmax as attention."""
        return self._run(
            lambda: info_nce(self.q, self.k, self.queue, TEMPERATURE).mean()
        )

    def ours_chunked(self) -> tuple[Tensor, ...]:
        """The fallback in public ops."""
        queue_attention.use_fused(False)
        try:
            return self.ours()
        finally:
            queue_attention.use_fused(True)

    def consistency(self) -> tuple[Tensor, ...]:
        """The term of CO2."""
        return self._run(
            lambda: queue_consistency(self.q, self.k, self.queue, 0.05).mean()
        )

    def consistency_naive(self) -> tuple[Tensor, ...]:
        """Two KL divergences of materialised profiles."""

        def loss() -> Tensor:
            log_q = (self.q @ self.queue.T / 0.05).log_softmax(1)
            with torch.no_grad():
                log_p = (self.k @ self.queue.T / 0.05).log_softmax(1)
            kl = torch.nn.functional.kl_div
            sums = {"reduction": "batchmean", "log_target": True}
            return (kl(log_q, log_p, **sums) + kl(log_p, log_q, **sums)) / 2

        return self._run(loss)


PEERS = {
    "ours": "mmpretrain",
    "ours_chunked": "mmpretrain",
    "consistency": "consistency_naive",
}


def settings(size: int, threads: int, allocator: str) -> dict:
    """What a row was measured with."""
    return {"n": size, "k": QUEUE_LEN, "threads": threads, "allocator": allocator}


def main() -> None:
    """Compare, time, write."""
    names = sorted({*PEERS, *PEERS.values()})
    rows: list[dict] = []
    measured: dict[int, tuple[Losses, dict[str, int]]] = {}
    for size in SIZES:
        losses = Losses(size)
        for ours, peer in PEERS.items():
            common.compare(getattr(losses, ours)(), getattr(losses, peer)())
        peaks = {name: common.fresh_peak_memory(Losses, size, name) for name in names}
        for threads in sorted({1, os.cpu_count() or 1}):
            torch.set_num_threads(threads)
            arms = {name: getattr(losses, name) for name in names}
            blocks, steps = (5, 2) if size < 1000 else (3, 1)
            seconds = common.time_arms(arms, blocks, steps, warmups=1)
            for ours, peer in PEERS.items():
                figures = common.against_peer(ours, peer, seconds, peaks)
                rows.append(settings(size, threads, "glibc") | figures)
        measured[size] = losses, peaks
    common.keep_freed_memory()
    for size, (losses, peaks) in measured.items():
        arms = {"ours": losses.ours, "mmpretrain": losses.mmpretrain}
        seconds = common.time_arms(arms, 5, 2 if size < 1000 else 1)
        figures = common.against_peer("ours", "mmpretrain", seconds, peaks)
        rows.append(settings(size, torch.get_num_threads(), "keeps memory") | figures)
    common.write_rows("queue_loss_cpu", rows)


if __name__ == "__main__":
    main()
