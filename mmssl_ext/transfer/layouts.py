"""Names of a ResNet's tensors in the libraries' layouts.

mmpretrain, mmdet, mmseg, torchvision and timm name them alike (``conv1.weight``,
``bn1.*``, ``layer1.0.conv1.weight``, ``layer1.0.downsample.0.weight``); detectron2 does
not (``stem.conv1.weight``, ``stem.conv1.norm.*``, ``res2.0.shortcut.weight``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

# torchvision's name -> detectron2's, and back; applied in turn.
_TO_DETECTRON2 = (
    (r"^conv1\.", "stem.conv1."),
    (r"^bn1\.", "stem.conv1.norm."),
    (r"^layer(\d)\.", lambda m: f"res{int(m[1]) + 1}."),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
)
_FROM_DETECTRON2 = (
    (r"\.shortcut\.norm\.", ".downsample.1."),
    (r"\.shortcut\.", ".downsample.0."),
    (r"^stem\.conv1\.norm\.", "bn1."),
    (r"^stem\.conv1\.", "conv1."),
    (r"\.conv(\d)\.norm\.", r".bn\1."),
    (r"^res(\d)\.", lambda m: f"layer{int(m[1]) - 1}."),
)


def to_detectron2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a ResNet's tensors as detectron2 does."""
    return {_renamed(name, _TO_DETECTRON2): value for name, value in state.items()}


def from_detectron2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo :func:`to_detectron2`."""
    return {_renamed(name, _FROM_DETECTRON2): value for name, value in state.items()}


def is_detectron2(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are detectron2's."""
    return "stem.conv1.norm.weight" in state and "res2.0.conv1.weight" in state


def _renamed(name: str, rules: tuple) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
