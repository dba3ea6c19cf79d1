"""``init_cfg=dict(type="Pretrained")``, verified.

mmengine's own initializer loads the tensors that happen to match and leaves the rest at
random. Once installed, it refuses what cannot be meant, weights of another network, and
warns of what may be: parts that the file cannot have, such as the offsets of deformable
convolutions. :class:`PretrainedBackbone` allows neither.
"""

from __future__ import annotations

from logging import WARNING

from mmengine.logging import print_log
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from mmssl_ext import compat
from mmssl_ext.engine.weights.match import Match
from mmssl_ext.engine.weights.record import structure_text
from mmssl_ext.engine.weights.start import as_loaded


def install() -> None:
    """Verify what mmengine's ``Pretrained`` is about to load, from now on."""
    compat.before_pretrained(_verify)


def _verify(module: nn.Module, path: str, prefix: str | None) -> None:
    weights = as_loaded(CheckpointLoader.load_checkpoint(path, "cpu", None), path)
    start = "" if prefix is None else f"{prefix.removesuffix('.')}."
    start = start.removeprefix("module.")  # as of the tensors
    found = Match(module.state_dict(), weights, start)
    # Heads may differ.
    backbone = found.part("backbone.") if hasattr(module, "backbone") else found
    who = f"{type(module).__name__} from {path} by init_cfg 'Pretrained'"
    if not backbone.report.likely:
        advice = "mmssl_ext.PretrainedBackbone in place of Pretrained finds a backbone."
        found.refuse(who, *found.causes(), advice)
    found.sound()
    texts = [] if found.report.complete else [found.partial(who)]
    texts.append(structure_text(weights.record, module, path))
    for text in filter(None, texts):
        print_log(text, "current", WARNING)
