"""Which files a training began with; its checkpoints say so."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from mmssl_ext.files import sha256

from .download import local_path

ORIGIN = "origin"  # in the message hub and in a checkpoint's meta
_TEACHER = re.compile(r"(^|\.)(teacher|target)\.")


def find_origin(model: nn.Module, load_from: str | None) -> dict[str, Any]:
    """What the weights of a model began as.

    Args:
        model: Initialised; parts that took weights say so by ``handover``.
        load_from: A file with the weights of the whole model, or None.

    Returns:
        ``start`` and ``teachers``, where there are some: lists of ``part`` (of the
        model), ``file``, ``sha256`` and, where the file states one, ``license``.
    """
    found: dict[str, list[dict[str, str]]] = {}
    for name, module in model.named_modules():
        if (handover := getattr(module, "handover", None)) is None:
            continue
        kind = "teachers" if _TEACHER.search(f"{name}.") else "start"
        entry = {
            "part": name,
            "file": str(handover.checkpoint),
            "sha256": handover.sha256,
        }
        if handover.license:
            entry["license"] = handover.license
        found.setdefault(kind, []).append(entry)
    if load_from is not None:
        digest = sha256(local_path(load_from))
        whole = {"part": "model", "file": str(load_from), "sha256": digest}
        found.setdefault("start", []).append(whole)
    return found


def origin_lines(origin: dict[str, Any] | None) -> list[str]:
    """Sentences on where weights come from; ``origin`` is anyone's."""
    origin, lines = origin or {}, []
    for kind, text in (("start", "Began with"), ("teachers", "Taught by")):
        entries = origin.get(kind)
        for entry in entries if isinstance(entries, list) else []:
            if isinstance(entry, dict):
                digest = str(entry.get("sha256", ""))[:12]
                license = entry.get("license")
                stated = f", licence {license}" if license else ", no licence stated"
                lines.append(f"{text} {entry.get('file')} (sha256 {digest}{stated}).")
    data = origin.get("data")
    if isinstance(data, dict) and data.get("digest"):
        digest = str(data["digest"])[:12]
        lines.append(f"Trained on {data.get('files')} files (fingerprint {digest}).")
    return lines
