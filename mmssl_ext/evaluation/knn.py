"""Weighted kNN classification of frozen features.

The protocol of instance discrimination (Wu et al., arXiv 1805.01978, section 3.4), also
used by the MoCo CIFAR demo: cosine similarity to a labelled bank, the k nearest vote
for their class with weight exp(similarity / temperature).
"""

from __future__ import annotations

import warnings

import torch
from mmengine.dist import all_reduce, get_dist_info
from torch import Tensor
from torch.nn.functional import normalize

from mmssl_ext.errors import UserValueError

from .classes import in_numbers_of
from .features import Features


@torch.no_grad()
def weighted_knn(
    query: Tensor,
    bank: Tensor,
    bank_labels: Tensor,
    num_classes: int,
    k: int = 200,
    temperature: float = 0.1,
    chunk: int = 8192,
) -> Tensor:
    """Class scores of each query from its k nearest bank rows.

    Runs on the device of ``query``; the bank may lie on the host and is moved once, in
    chunks, so it need not fit on the device.

    Args:
        query: n x C.
        bank: m x C.
        bank_labels: m, integers in [0, num_classes).
        num_classes: Number of columns of the result.
        k: Number of voters; a k above m is lowered to m with a warning.
        temperature: Sharpness of the vote.
        chunk: Rows of query and of bank that are compared at once.

    Returns:
        n x num_classes, each row the votes divided by their sum.

    Raises:
        ValueError: Empty bank, unequal lengths, or k or temperature not positive.
    """
    if len(bank) == 0 or len(bank) != len(bank_labels):
        raise UserValueError(
            f"The kNN bank has {len(bank)} rows and {len(bank_labels)} labels; it "
            "needs one label per row and at least one row."
        )
    if k < 1 or temperature <= 0:
        raise UserValueError(f"k={k} and temperature={temperature} must be positive.")
    if k > len(bank):
        warnings.warn(
            f"k={k} exceeds the {len(bank)} images of the kNN bank; all of them vote.",
            stacklevel=2,
        )
        k = len(bank)
    queries = normalize(query.float(), dim=1).split(chunk)  # n x C in all
    # similarity and class of the nearest so far, chunk x up to k
    empty = [rows.new_empty(len(rows), 0) for rows in queries]
    nearest = [(none, none.long()) for none in empty]
    for part, labels in zip(bank.split(chunk), bank_labels.split(chunk), strict=True):
        part = normalize(part.to(query.device).float(), dim=1)
        labels = labels.to(query.device)
        for i, (rows, best) in enumerate(zip(queries, nearest, strict=True)):
            nearest[i] = _nearer(best, rows @ part.T, labels, k)
    similarity, votes = map(torch.cat, zip(*nearest, strict=True))
    # softmax divides by the sum of the votes and cannot overflow at a low temperature
    weights = (similarity / temperature).softmax(dim=1)
    return weights.new_zeros(len(query), num_classes).scatter_add_(1, votes, weights)


def _nearer(
    best: tuple[Tensor, Tensor], similarity: Tensor, labels: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """The k most similar, with their classes, of ``best`` and a part of the bank."""
    near, where = similarity.topk(min(k, len(labels)), dim=1)
    near, votes = (
        torch.cat(x, 1) for x in zip(best, (near, labels[where]), strict=True)
    )
    near, where = near.topk(min(k, near.shape[1]), dim=1)
    return near, votes.gather(1, where)


def knn_accuracy(
    query: Features,
    bank: Features,
    k: int = 200,
    temperature: float = 0.1,
    names: tuple[str, ...] | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Top-1 (and with more than five classes top-5) accuracy of every feature.

    The ranks share the queries; all get the result, ``<name>_top1`` and
    ``<name>_top5`` in percent. Classes are compared by name where both sets have names.
    ``names`` chooses features, ``None`` takes all; see :func:`weighted_knn`.

    Raises:
        ValueError: Labels or a named feature are missing, or a query is of a class
            that the bank does not know.
    """
    if query.labels is None or bank.labels is None:
        raise UserValueError("kNN needs a label for every image of query set and bank.")
    names = tuple(query.features) if names is None else names
    if unknown := [name for name in names if name not in query.features]:
        raise UserValueError(
            f"The model returns the features {', '.join(query.features)}, not "
            f"{', '.join(unknown)}."
        )
    truth = torch.from_numpy(
        in_numbers_of(query.labels.numpy(), query.classes, bank.classes)
    )
    num_classes = int(max(truth.max(), bank.labels.max())) + 1
    rank, world_size = get_dist_info()
    labels = truth[rank::world_size].to(device)
    result = {}
    for name in names:
        scores = weighted_knn(
            query.features[name][rank::world_size].to(device),
            bank.features[name],
            bank.labels,
            num_classes,
            min(k, len(bank.paths)),
            temperature,
        )
        ranking = scores.topk(min(5, num_classes), dim=1).indices == labels[:, None]
        hits = torch.stack([ranking[:, 0].sum(), ranking.sum()]).double()
        all_reduce(hits)
        top1, top5 = (100 * hits / len(query.labels)).tolist()
        result[f"{name}_top1"] = top1
        if num_classes > 5:
            result[f"{name}_top5"] = top5
    return result
