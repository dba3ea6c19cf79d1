"""What methods add to a queue loss, against the same over materialised logits.

N = 256 queries, K = 65,536 keys, D = 128, fp32: cross-entropy with a soft target,
InfoNCE without the slots of a query's own label and with hard negatives of its own,
forward and backward; and the k most similar keys. Time and peak extra memory; values
and gradients are compared before anything is timed.

Run: python benchmarks/queue_parts.py
"""

import os
from collections.abc import Callable

import common
import torch
from queue_loss import DIM, QUEUE_LEN, TEMPERATURE, settings, unit
from torch import Tensor

from mmssl_ext.models.losses import attend, info_nce, queue_topk, soft_nce

ROWS, TARGET_TEMPERATURE, LABELS, OWN = 256, 0.05, 1000, 128


class Parts:
    """The arms on one set of inputs; each returns two tensors to compare."""

    def __init__(self, rows: int) -> None:
        self.q, self.k = unit(rows, 0).requires_grad_(), unit(rows, 1)
        self.queue = unit(QUEUE_LEN, 2)
        generator = torch.Generator().manual_seed(3)
        self.labels = tuple(
            torch.randint(LABELS, (n,), generator=generator) for n in (rows, QUEUE_LEN)
        )
        self.own = unit(rows * OWN, 4).view(rows, OWN, DIM)

    def _run(self, loss: Callable[[], Tensor]) -> tuple[Tensor, ...]:
        return common.loss_and_gradient(loss, self.q)

    def soft_target(self) -> tuple[Tensor, ...]:
        """ReSSL's loss by the mean of its target."""

        def loss() -> Tensor:
            mean, _ = attend(self.k, self.queue, 1 / TARGET_TEMPERATURE)
            return soft_nce(self.q, mean, self.queue, TEMPERATURE).mean()

        return self._run(loss)

    def soft_target_naive(self) -> tuple[Tensor, ...]:
        """The same by torch's cross-entropy with probabilities."""

        def loss() -> Tensor:
            target = (self.k @ self.queue.T / TARGET_TEMPERATURE).softmax(1)
            logits = self.q @ self.queue.T / TEMPERATURE
            return torch.nn.functional.cross_entropy(logits, target)

        return self._run(loss)

    def masked(self) -> tuple[Tensor, ...]:
        """InfoNCE without the slots of a query's own label."""
        inputs = self.q, self.k, self.queue, TEMPERATURE
        return self._run(lambda: info_nce(*inputs, labels=self.labels).mean())

    def masked_naive(self) -> tuple[Tensor, ...]:
        """The same by filling the logits with -inf."""
        rows, slots = self.labels

        def loss() -> Tensor:
            negatives = self.q @ self.queue.T
            negatives = negatives.masked_fill(rows[:, None] == slots, -torch.inf)
            return self._cross_entropy(negatives)

        return self._run(loss)

    def own_negatives(self) -> tuple[Tensor, ...]:
        """InfoNCE with 128 more negatives for every query."""
        inputs = self.q, self.k, self.queue, TEMPERATURE, self.own
        return self._run(lambda: info_nce(*inputs).mean())

    def own_negatives_naive(self) -> tuple[Tensor, ...]:
        """The same by more columns of logits."""

        def loss() -> Tensor:
            own = torch.einsum("nd,nsd->ns", self.q, self.own)
            return self._cross_entropy(torch.cat([self.q @ self.queue.T, own], 1))

        return self._run(loss)

    def _cross_entropy(self, negatives: Tensor) -> Tensor:
        positive = (self.q * self.k).sum(1, keepdim=True)
        logits = torch.cat([positive, negatives], 1) / TEMPERATURE
        first = torch.zeros(len(logits), dtype=torch.long)
        return torch.nn.functional.cross_entropy(logits, first)

    def _topk(self, k: int) -> tuple[Tensor, ...]:
        values, places = queue_topk(self.q, self.queue, k)
        return values, places

    def _topk_naive(self, k: int) -> tuple[Tensor, ...]:
        values, places = (self.q.detach() @ self.queue.T).topk(k)
        return values, places

    def top64(self) -> tuple[Tensor, ...]:
        """The 64 most similar keys."""
        return self._topk(64)

    def top64_naive(self) -> tuple[Tensor, ...]:
        """The same by torch.topk."""
        return self._topk_naive(64)

    def top1024(self) -> tuple[Tensor, ...]:
        """The 1,024 most similar keys."""
        return self._topk(1024)

    def top1024_naive(self) -> tuple[Tensor, ...]:
        """The same by torch.topk."""
        return self._topk_naive(1024)


ARMS = ("soft_target", "masked", "own_negatives", "top64", "top1024")


def compare(arm: str, ours: tuple[Tensor, ...], naive: tuple[Tensor, ...]) -> None:
    """Fail unless both found the same; of equal similarities either may come first."""
    if not arm.startswith("top"):
        common.compare(ours, naive)
        return
    torch.testing.assert_close(ours[0], naive[0], rtol=0, atol=1e-6)
    assert (ours[1] == naive[1]).float().mean() > 0.99


def main() -> None:
    """Compare, time, write."""
    parts = Parts(ROWS)
    peers = {arm: f"{arm}_naive" for arm in ARMS}
    for arm, peer in peers.items():
        compare(arm, getattr(parts, arm)(), getattr(parts, peer)())
    names = [*peers, *peers.values()]
    peaks = {name: common.fresh_peak_memory(Parts, ROWS, name) for name in names}
    rows: list[dict] = []

    def measure(threads: int, allocator: str) -> None:
        torch.set_num_threads(threads)
        for arm, peer in peers.items():
            arms = {name: getattr(parts, name) for name in (arm, peer)}
            seconds = common.time_arms(arms, blocks=7, steps=2, warmups=1)
            figures = common.against_peer(arm, peer, seconds, peaks)
            rows.append(settings(ROWS, threads, allocator) | figures)

    most = os.cpu_count() or 1
    for threads in sorted({1, most}):
        measure(threads, "glibc")
    common.keep_freed_memory()
    measure(most, "keeps memory")
    common.write_rows("queue_parts_cpu", rows)


if __name__ == "__main__":
    main()
