"""DenseCL's dense loss against mmpretrain's DenseCL: time and peak extra memory.

N = 32 images of S x S = 7 x 7 cells, C = 2,048 backbone channels for the match, D =
128, K = 65,536; forward and backward with respect to the query's dense features, fp32.
The peer's arm is what its DenseCL does with the same tensors: product and maximum of
the cells, gather, einsum with a copy of the queue, the head. Value and gradient are
compared before anything is timed. Run: python benchmarks/dense_loss.py
"""

import os

import common
import mmpretrain.models  # noqa: F401, registers CrossEntropyLoss
import torch
from mmpretrain.models.heads import ContrastiveHead
from torch import Tensor
from torch.nn.functional import normalize

from mmssl_ext.models.losses import (
    info_nce,
    match_cells,
    queue_attention,
    take_cells,
)

IMAGES, GRID, CHANNELS = 32, 7, 2048
QUEUE_LEN, DIM, TEMPERATURE = 65536, 128, 0.2
PEERS = {"ours": "mmpretrain", "ours_chunked": "mmpretrain"}


class Losses:
    """The arms on one set of inputs; each returns loss and gradient."""

    def __init__(self, images: int) -> None:
        generator = torch.Generator().manual_seed(0)

        def unit(*shape: int) -> Tensor:
            return normalize(torch.randn(*shape, generator=generator), dim=1)

        cells = GRID * GRID
        # As the networks return them: N x C x S^2 and N x D x S^2, unit columns.
        self.query_cells = unit(images, CHANNELS, cells)
        noise = unit(images, CHANNELS, cells)
        self.key_cells = normalize(self.query_cells.flip(2) + noise, dim=1)
        self.query = unit(images, DIM, cells).requires_grad_()
        self.key = unit(images, DIM, cells)
        self.queue = unit(QUEUE_LEN, DIM)
        self.peer_queue = self.queue.T.contiguous()  # D x K, as the peer keeps it
        self.peer_head = ContrastiveHead(
            loss={"type": "CrossEntropyLoss", "loss_weight": 1.0},
            temperature=TEMPERATURE,
        )

    def mmpretrain(self) -> tuple[Tensor, ...]:
        """The lines of the peer's DenseCL.loss."""

        def loss() -> Tensor:
            similarity = torch.matmul(self.query_cells.permute(0, 2, 1), self.key_cells)
            index = similarity.max(dim=2)[1]  # N x S^2
            indexed = torch.gather(
                self.key, 2, index.unsqueeze(1).expand(-1, self.key.size(1), -1)
            )  # N x D x S^2
            positive = (self.query * indexed).sum(1).view(-1).unsqueeze(-1)
            rows = self.query.permute(0, 2, 1)
            rows = rows.reshape(-1, rows.size(2))  # N*S^2 x D
            queue = self.peer_queue.clone().detach()
            negative = torch.einsum("nc,ck->nk", [rows, queue])
            return self.peer_head.loss(positive, negative)

        return common.loss_and_gradient(loss, self.query)

    def ours(self) -> tuple[Tensor, ...]:
        """The lines of our term Dense."""

        def loss() -> Tensor:
            match = match_cells(
                self.query_cells.transpose(1, 2), self.key_cells.transpose(1, 2)
            )
            positives = take_cells(self.key.transpose(1, 2), match)  # N x S^2 x D
            rows = self.query.transpose(1, 2).flatten(0, 1)  # N*S^2 x D
            t = positives.flatten(0, 1)
            return info_nce(rows, t, self.queue, TEMPERATURE).mean()

        return common.loss_and_gradient(loss, self.query)

    def ours_chunked(self) -> tuple[Tensor, ...]:
        """With the fallback in public ops."""
        queue_attention.use_fused(False)
        try:
            return self.ours()
        finally:
            queue_attention.use_fused(True)


def main() -> None:
    """Compare, time, write."""
    names = sorted({*PEERS, *PEERS.values()})
    losses = Losses(IMAGES)
    for ours, peer in PEERS.items():
        common.compare(getattr(losses, ours)(), getattr(losses, peer)())
    peaks = {name: common.fresh_peak_memory(Losses, IMAGES, name) for name in names}
    sizes = {"n": IMAGES, "s": GRID, "c": CHANNELS, "d": DIM, "k": QUEUE_LEN}
    rows = []
    for threads in sorted({1, os.cpu_count() or 1}):
        torch.set_num_threads(threads)
        arms = {name: getattr(losses, name) for name in names}
        seconds = common.time_arms(arms, blocks=5, steps=1, warmups=1)
        for ours, peer in PEERS.items():
            figures = common.against_peer(ours, peer, seconds, peaks)
            rows.append(sizes | {"threads": threads} | figures)
    common.write_rows("dense_loss_cpu", rows)


if __name__ == "__main__":
    main()
