"""Losses as their definitions say, one pair at a time, and rows to compute them of."""

import torch
from torch.nn.functional import normalize


def unit(*shape, seed=0, dtype=torch.double):
    """Random rows of length 1."""
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator, dtype=dtype), dim=-1)


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def info_nce(q, k, negatives, temperature, margin=0.0):
    """Equation 1 of MoCo for one query: -log of the key's share of all candidates."""
    logits = [(torch.dot(q, k) - margin) / temperature]
    logits += [torch.dot(q, negative) / temperature for negative in negatives]
    return sum(logit.exp() for logit in logits).log() - logits[0]


def mean_info_nce(queries, keys, negatives, temperature):
    """Of queries that share their negatives."""
    rows = [
        info_nce(q, k, negatives, temperature)
        for q, k in zip(queries, keys, strict=True)
    ]
    return sum(rows) / len(rows)


def mean_cosine(predictions, targets):
    """Of rows of any length."""
    cosines = [
        torch.dot(p, t) / (p.norm() * t.norm())
        for p, t in zip(predictions, targets, strict=True)
    ]
    return sum(cosines) / len(cosines)
