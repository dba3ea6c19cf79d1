"""Queue losses against mmpretrain's ContrastiveHead: time and peak extra memory.

K = 65,536, D = 128, forward and backward, fp32. The peer's arm is what its MoCo does
with the features: two einsums, the copy of the queue, the head. Values and gradients
are compared before anything is timed. Run: python benchmarks/queue_loss.py
"""

import multiprocessing as mp
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

    def _run(self, loss: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        self.q.grad = None
        value = loss()
        value.backward()
        return value.detach(), self.q.grad

    def mmpretrain(self) -> tuple[Tensor, Tensor]:
        """The peer: einsums, copy of the queue, ContrastiveHead."""

        def loss() -> Tensor:
            positive = torch.einsum("nc,nc->n", [self.q, self.k]).unsqueeze(-1)
            queue = self.peer_queue.clone().detach()
            return self.head.loss(positive, torch.einsum("nc,ck->nk", [self.q, queue]))

        return self._run(loss)

    def ours(self) -> tuple[Tensor, Tensor]:
        """The queue softmax as attention."""
        return self._run(
            lambda: info_nce(self.q, self.k, self.queue, TEMPERATURE).mean()
        )

    def ours_chunked(self) -> tuple[Tensor, Tensor]:
        """The fallback in public ops."""
        fused = queue_attention._fast_path_agrees
        queue_attention._fast_path_agrees = lambda *_: False
        try:
            return self.ours()
        finally:
            queue_attention._fast_path_agrees = fused

    def consistency(self) -> tuple[Tensor, Tensor]:
        """The term of CO2."""
        return self._run(
            lambda: queue_consistency(self.q, self.k, self.queue, 0.05).mean()
        )

    def consistency_naive(self) -> tuple[Tensor, Tensor]:
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


def measure_memory(rows: int, arm: str, pipe) -> None:
    """In a fresh process: peak extra bytes of the second call."""
    torch.set_num_threads(1)
    call = getattr(Losses(rows), arm)
    getattr(Losses(8), arm)()  # one-time allocations of libraries
    pipe.send(common.peak_memory(call))


def memory(rows: int, arm: str) -> int:
    """Peak extra bytes of an arm."""
    ours, theirs = mp.get_context("spawn").Pipe(duplex=False)
    context = mp.get_context("spawn")
    process = context.Process(target=measure_memory, args=(rows, arm, theirs))
    process.start()
    result = ours.recv()
    process.join()
    return result


def compare(losses: Losses) -> None:
    """Fail unless every arm equals its peer in loss and gradient."""
    for ours, peer in PEERS.items():
        (value, grad), (peer_value, peer_grad) = (
            getattr(losses, name)() for name in (ours, peer)
        )
        torch.testing.assert_close(value, peer_value, rtol=1e-5, atol=1e-6)
        assert (grad - peer_grad).norm() / peer_grad.norm() < 1e-5


def main() -> None:
    """Compare, time, write."""
    names = sorted({*PEERS, *PEERS.values()})
    rows = []
    for size in SIZES:
        losses = Losses(size)
        compare(losses)
        peaks = {name: memory(size, name) for name in names}
        for threads in sorted({1, os.cpu_count() or 1}):
            torch.set_num_threads(threads)
            arms = {name: getattr(losses, name) for name in names}
            steps = 5 if size < 1000 else 1
            seconds = common.time_arms(arms, blocks=5, steps=steps)
            for ours, peer in PEERS.items():
                speedup, low, high = common.ratio(seconds[peer], seconds[ours])
                rows.append(
                    {
                        "n": size,
                        "k": QUEUE_LEN,
                        "threads": threads,
                        "arm": ours,
                        "peer": peer,
                        "arm_ms": common.median_ms(seconds[ours]),
                        "peer_ms": common.median_ms(seconds[peer]),
                        "speedup": round(speedup, 2),
                        "speedup_low": round(low, 2),
                        "speedup_high": round(high, 2),
                        "arm_peak_mb": round(peaks[ours] / 1e6, 1),
                        "peer_peak_mb": round(peaks[peer] / 1e6, 1),
                    }
                )
    common.write_rows("queue_loss_cpu", rows)


if __name__ == "__main__":
    main()
