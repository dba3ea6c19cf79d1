"""Images that stand in a test set and among those it is judged by."""

from __future__ import annotations

import logging

from mmengine.logging import print_log

from mmssl_ext.text import shown

from .features import Features

SHARE = 0.01  # of the test images, from which copies are worth a warning


def say_copies(query: Features, bank: Features, names: tuple[str, str]) -> None:
    """Log how many images of a test set have the pixels of an image learned from.

    Both with digests; ``names`` are those of the sets, e.g. ``("query", "bank")``.
    """
    if query.digests is None or bank.digests is None:
        return
    twins = dict(zip(bank.digests.tolist(), bank.paths, strict=True))
    own = zip(query.digests.tolist(), query.paths, strict=True)
    copies = [(path, twins[digest]) for digest, path in own if digest in twins]
    if not copies:
        return
    size = len(query.paths)
    many = len(copies) >= SHARE * size
    print_log(
        f"{len(copies)} of the {size} {names[0]} images are also among the {names[1]} "
        f"images, e.g. {shown(copies[0][0])} and {shown(copies[0][1])}"
        + (": their accuracy is that of images seen before." if many else "."),
        logger="current",
        level=logging.WARNING if many else logging.INFO,
    )
