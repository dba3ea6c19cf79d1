"""Names of a ResNet's tensors in the libraries' layouts.

mmpretrain, mmdet, mmseg, torchvision and timm name them alike (``conv1.weight``,
``bn1.*``, ``layer1.0.conv1.weight``, ``layer1.0.downsample.0.weight``); detectron2 does
not (``stem.conv1.weight``, ``stem.conv1.norm.*``, ``res2.0.shortcut.weight``).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from mmssl_ext.engine.weights.files import from_detectron2, renamed

__all__ = ["from_detectron2", "to_detectron2"]

# torchvision's name -> detectron2's, applied in turn; from_detectron2 undoes it.
_TO_DETECTRON2 = (
    (r"^conv1\.", "stem.conv1."),
    (r"^bn1\.", "stem.conv1.norm."),
    (r"^layer(\d)\.", lambda m: f"res{int(m[1]) + 1}."),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
)


def to_detectron2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a ResNet's tensors as detectron2 does."""
    return {renamed(name, _TO_DETECTRON2): value for name, value in state.items()}
