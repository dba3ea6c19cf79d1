"""InterCLR's inter-image branch: ours against the reference algorithm.

A bank of 1,281,167 x 128, 10,000 clusters, 32 queries, 16,384 negatives out of the
128,000 most similar entries, margin -0.5, fp32, one thread, CPU time. Ten steps make
one block, since both update centroids every tenth. The reference is written here from
the description of the public code: labels searched through for every query, the sorted
top of the similarities, draws that are repeated until none has the query's label,
gathered negatives, means cluster by cluster. It does not pay for what it would send
around, the whole bank at every step.

``exact`` finds the bound of the pool in the whole bank as the reference does, ``fast``
in the candidates (``SemiHardNegatives(exact=False)``). Before anything is timed, loss
and gradient of the same draws are compared. Run: python benchmarks/inter_branch.py
"""

import time

import common
import numpy as np
import torch
from mmengine.registry import init_default_scope
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from mmssl_ext.models.losses import margin_info_nce
from mmssl_ext.models.memory import (
    FeatureBank,
    Negatives,
    OnlineLabels,
    SemiHardNegatives,
)

IMAGES, DIM, CLUSTERS, QUERIES = 1_281_167, 128, 10_000, 32
NUM, POOL, MARGIN, TEMPERATURE = 16_384, 128_000, -0.5, 0.2
INTERVAL, MIN_SIZE = 10, 20
STEPS, BLOCKS = 10, 3


class Reference:
    """The public code's branch, as its description has it."""

    def __init__(self, bank: Tensor, labels: Tensor, centroids: Tensor) -> None:
        self.bank = bank.clone()  # n x D
        self.labels = labels.long().clone()  # n
        self.centroids = centroids.clone()  # C x D
        self.steps = 0

    def choose(self, q: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """A positive of every query, N, and its negatives, N x J."""
        own = self.labels[images]
        members = [torch.where(self.labels == label)[0] for label in own]
        positives = torch.stack([m[torch.randint(len(m), (1,))[0]] for m in members])
        pool = (q.detach() @ self.bank.T).topk(POOL, dim=1).indices
        drawn = torch.multinomial(torch.ones(len(q), POOL), NUM)
        negatives = pool.gather(1, drawn)
        same = self.labels[negatives] == own[:, None]
        while same.any():  # as long as any has the label of its query
            rows = same.nonzero()[:, 0]
            negatives[same] = pool[rows, torch.randint(POOL, (len(rows),))]
            same = self.labels[negatives] == own[:, None]
        return positives, negatives

    def loss(self, q: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Cross-entropy over gathered negatives."""
        s = (q * self.bank[positives]).sum(1, keepdim=True) - MARGIN
        rest = torch.bmm(self.bank[negatives], q[:, :, None])[:, :, 0]
        logits = torch.cat([s, rest], 1) / TEMPERATURE
        return cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))

    def update(self, images: Tensor, keys: Tensor) -> None:
        """Write the keys, assign them, dissolve small clusters, average at times."""
        self.bank[images] = normalize(keys, dim=1)
        self.labels[images] = (self.bank[images] @ self.centroids.T).argmax(1)
        self.steps += 1
        if self.steps % INTERVAL == 0:
            for cluster in range(CLUSTERS):
                self.average(cluster)
        self.dissolve()

    def average(self, cluster: int) -> None:
        """Mean of the members of one cluster."""
        members = torch.where(self.labels == cluster)[0]
        if len(members):
            self.centroids[cluster] = self.bank[members].mean(0)

    def dissolve(self) -> None:
        """Dissolve small clusters one by one; halve the largest for each of them."""
        sizes = np.bincount(self.labels.numpy(), minlength=CLUSTERS)
        small = torch.from_numpy(np.where(sizes < MIN_SIZE)[0])
        others = torch.from_numpy(np.where(sizes >= MIN_SIZE)[0])
        for cluster in small:
            members = torch.where(self.labels == cluster)[0]
            if len(members):
                similarity = self.bank[members] @ self.centroids[others].T
                self.labels[members] = others[similarity.argmax(1)]
        for cluster in small:
            largest = int(np.bincount(self.labels.numpy()).argmax())
            members = torch.where(self.labels == largest)[0]
            found = KMeans(2, max_iter=20, n_init=1, random_state=0)
            halves = torch.from_numpy(found.fit_predict(self.bank[members].numpy()))
            self.labels[members[halves == 1]] = cluster
            self.average(largest)
            self.average(int(cluster))

    def step(self, q: Tensor, images: Tensor, keys: Tensor) -> tuple[Tensor, ...]:
        """Loss, gradient and upkeep."""
        chosen = self.choose(q, images)
        result = common.loss_and_gradient(lambda: self.loss(q, *chosen), q)
        self.update(images, keys)
        return result


def margin_loss(q: Tensor, positives: Tensor, negatives: Negatives) -> Tensor:
    """Mean of the term's loss; N x D queries and positives."""
    found = negatives.features, negatives.similarity, negatives.mask
    return margin_info_nce(q, positives, *found, TEMPERATURE, MARGIN).mean()


class Ours:
    """The term InterImage: its loss and what it remembers."""

    def __init__(
        self, bank: FeatureBank, labels: OnlineLabels, exact: bool, dtype: str
    ) -> None:
        self.bank = FeatureBank(DIM, dtype=dtype)
        self.bank.fill(bank.features)
        self.labels = OnlineLabels(CLUSTERS, INTERVAL, MIN_SIZE)
        self.labels.load_state_dict(labels.state_dict())
        self.sampler = SemiHardNegatives(NUM, POOL, exact)
        self.generator = torch.Generator().manual_seed(0)

    def choose(self, q: Tensor, images: Tensor) -> tuple[Tensor, Negatives]:
        """A positive of every query, N, and the negatives."""
        own = self.labels.labels[images]
        positives = self.labels.draw_members(images, self.generator)
        arguments = self.bank, self.labels, self.generator
        return positives, self.sampler.draw(q.detach(), own, *arguments)

    def loss(self, q: Tensor, positives: Tensor, negatives: Negatives) -> Tensor:
        """That of the term."""
        return margin_loss(q, self.bank.read(positives), negatives)

    def step(self, q: Tensor, images: Tensor, keys: Tensor) -> tuple[Tensor, ...]:
        """Loss, gradient and upkeep."""
        chosen = self.choose(q, images)
        result = common.loss_and_gradient(lambda: self.loss(q, *chosen), q)
        self.labels.update(self.bank.update(images, keys), self.bank)
        return result


def start() -> tuple[FeatureBank, OnlineLabels]:
    """A bank of 10,000 noisy groups, with their labels: k-means would take an hour."""
    generator = torch.Generator().manual_seed(0)
    centres = normalize(torch.randn(CLUSTERS, DIM, generator=generator), dim=1)
    groups = torch.randint(CLUSTERS, (IMAGES,), generator=generator)
    features = torch.randn(IMAGES, DIM, generator=generator).mul_(0.08)
    bank = FeatureBank(DIM)
    bank.fill(features.add_(centres[groups]))
    labels = OnlineLabels(CLUSTERS, INTERVAL, MIN_SIZE)
    labels.set_labels(groups, bank)
    return bank, labels


def batches(bank: FeatureBank) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Queries near their images' entries, the images, and keys."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(STEPS):
        images = torch.randint(IMAGES, (QUERIES,), generator=generator)
        noise = torch.randn(2, QUERIES, DIM, generator=generator) * 0.04
        q, k = normalize(bank.read(images) + noise, dim=2)
        found.append((q.requires_grad_(), images, k))
    return found


def check_equal(reference: Reference, ours: Ours, batch: tuple[Tensor, ...]) -> None:
    """The same draws give the same loss and gradient, and our draws are valid."""
    q, images, _ = batch
    positives, negatives = ours.choose(q, images)
    assert (reference.labels[positives] == reference.labels[images]).all()
    rows = torch.stack([negatives.rows[mask] for mask in negatives.mask])  # N x J
    assert rows.shape == (QUERIES, NUM)
    assert (reference.labels[rows] != reference.labels[images][:, None]).all()
    if ours.sampler.exact:
        similarity = q.detach() @ reference.bank.T
        bound = similarity.topk(POOL, dim=1).values[:, -1:]
        assert (similarity.gather(1, rows) >= bound - 1e-6).all()
    common.compare(
        common.loss_and_gradient(lambda: ours.loss(q, positives, negatives), q),
        common.loss_and_gradient(lambda: reference.loss(q, positives, rows), q),
    )


def main() -> None:
    """Compare, time, write."""
    torch.set_num_threads(1)
    common.keep_freed_memory()
    init_default_scope("mmssl_ext")
    bank, labels = start()
    steps = batches(bank)
    reference = Reference(bank.features, labels.labels, labels.centroids)
    arms = {
        "exact": Ours(bank, labels, exact=True, dtype="float32"),
        "fast": Ours(bank, labels, exact=False, dtype="float32"),
        "exact_bf16": Ours(bank, labels, exact=True, dtype="bfloat16"),
        "fast_bf16": Ours(bank, labels, exact=False, dtype="bfloat16"),
    }
    for name in ("exact", "fast"):
        check_equal(reference, arms[name], steps[0])
    everything = {"reference": reference} | arms
    seconds: dict[str, list[float]] = {name: [] for name in everything}
    for block in range(-1, BLOCKS):  # the first one warms up
        for name, arm in everything.items():
            begin = time.process_time()
            for batch in steps:
                arm.step(*batch)
            if block >= 0:
                seconds[name].append((time.process_time() - begin) / STEPS)
    rows = []
    for name, arm in arms.items():
        speedup, low, high = common.ratio(seconds["reference"], seconds[name])
        rows.append(
            {
                "n": IMAGES,
                "d": DIM,
                "clusters": CLUSTERS,
                "queries": QUERIES,
                "negatives": NUM,
                "pool": POOL,
                "threads": 1,
                "arm": name,
                "peer": "reference",
                "arm_cpu_ms": common.median_ms(seconds[name]),
                "peer_cpu_ms": common.median_ms(seconds["reference"]),
                "speedup": round(speedup, 2),
                "speedup_low": round(low, 2),
                "speedup_high": round(high, 2),
                "bank_mb": round(
                    arm.bank.features.numel() * arm.bank.features.element_size() / 1e6
                ),
            }
        )
    common.write_rows("inter_branch_cpu", rows)


if __name__ == "__main__":
    main()
