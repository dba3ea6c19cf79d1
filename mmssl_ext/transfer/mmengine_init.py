"""``init_cfg=dict(type="Pretrained")``, verified.

mmengine's own initializer loads the tensors that happen to match and leaves the rest at
random. Once installed, it refuses what cannot be meant, weights of another network, and
warns of what may be: parts that the file cannot have, such as the offsets of deformable
convolutions. :class:`PretrainedBackbone` allows neither.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from logging import WARNING
from typing import Any

from mmengine.logging import print_log
from mmengine.model import PretrainedInit
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from mmssl_ext.engine.weights.names import below, best_prefix
from mmssl_ext.engine.weights.record import (
    describe_backbone,
    find_record,
    structure_changes,
)
from mmssl_ext.engine.weights.report import compare, explain
from mmssl_ext.engine.weights.values import check_values
from mmssl_ext.errors import CheckpointFileError


def install() -> None:
    """Verify what mmengine's ``Pretrained`` is about to load, from now on."""
    load = PretrainedInit.__call__
    if hasattr(load, "__wrapped__"):
        return

    @functools.wraps(load)
    def verified(self: Any, module: nn.Module) -> None:
        _verify(module, self.checkpoint, self.prefix)
        load(self, module)

    PretrainedInit.__call__ = verified


def _verify(module: nn.Module, path: str, prefix: str | None) -> None:
    checkpoint = CheckpointLoader.load_checkpoint(path, "cpu", None)
    state = checkpoint.get("state_dict", checkpoint)
    tensors = {str(n): v for n, v in state.items() if isinstance(v, Tensor)}
    if prefix is None:
        found = {re.sub(r"^module\.", "", n): v for n, v in tensors.items()}
    else:
        found = below(tensors, f"{prefix.removesuffix('.')}.")
    wanted = module.state_dict()
    report = compare(wanted, found)
    inside = "backbone." if hasattr(module, "backbone") else ""  # heads may differ
    name = type(module).__name__
    said = f"{name} from {path} by init_cfg 'Pretrained': {report.summary()}."
    if not _is_meant(below(wanted, inside), below(found, inside)):
        likely = best_prefix(wanted, tensors, "query")
        fits = likely is not None and _is_meant(wanted, below(tensors, likely))
        causes = [f"The likely prefix is '{likely}'."] if fits else []
        causes = causes or explain(wanted, found)
        raise CheckpointFileError(
            f"{said} {' '.join(causes)} mmssl_ext.PretrainedBackbone in place of "
            f"Pretrained finds a backbone by itself.{report.details()}"
        )
    floating = {n for n, v in wanted.items() if v.is_floating_point()}
    check_values({n: found[n] for n in report.matched}, path, floating)
    if not report.complete:
        print_log(
            f"{said} What is missing stays at random.{report.details()}",
            "current",
            WARNING,
        )
    record = find_record(checkpoint.get("meta"))
    if changes := structure_changes(record, describe_backbone(module)):
        print_log(
            f"The weights of {path} compute other features in this {name} than they "
            f"were trained for: {'; '.join(changes)}.",
            "current",
            WARNING,
        )


def _is_meant(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> bool:
    """Whether most tensors match and none of the rest contradicts them."""
    report = compare(wanted, found)
    return not report.misfits and 2 * len(report.matched) > report.total
