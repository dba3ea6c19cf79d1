"""Which backbones have a name here, and the variables of a config that choose them.

No import here needs torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mmssl_ext.errors import UserValueError
from mmssl_ext.text import closest

DEPTHS = (18, 34, 50, 101, 152)
# Of one view of 224 x 224 px in training, in GiB: activations and their gradients.
_MEMORY = {18: 0.03, 34: 0.045, 50: 0.09, 101: 0.13, 152: 0.18}
_RESNET = re.compile(r"resnet[-_]?(\d+)(?:[-_]w(\d+))?")


@dataclass(frozen=True)
class Backbone:
    """A ResNet by depth and width.

    Attributes:
        depth: 18, 34, 50, 101 or 152.
        base_channels: Of the first stage; 64 is the usual width.
    """

    depth: int
    base_channels: int = 64

    @property
    def name(self) -> str:
        """``resnet50``, or ``resnet18-w32`` of half the width."""
        width = "" if self.base_channels == 64 else f"-w{self.base_channels}"
        return f"resnet{self.depth}{width}"

    @property
    def title(self) -> str:
        """What a reader calls it."""
        width = f" of {self.base_channels / 64:g} width" * (self.base_channels != 64)
        return f"ResNet-{self.depth}{width}"

    @property
    def variables(self) -> dict[str, int]:
        """Variables of a config."""
        return {"depth": self.depth, "base_channels": self.base_channels}

    def memory(self, size: int) -> float:
        """Memory of one view of ``size`` x ``size`` pixels in training, in GiB."""
        share = self.base_channels / 64
        return _MEMORY[self.depth] * share * (size / 224) ** 2


def backbone_named(name: str) -> Backbone:
    """The backbone of a name.

    Args:
        name: ``resnet18`` to ``resnet152``; ``resnet18-w32`` has 32 channels in its
            first stage in place of 64.

    Raises:
        UserValueError: There is none of that name.
    """
    found = _RESNET.fullmatch(str(name).lower())
    if found is None or int(found[1]) not in DEPTHS:
        names = [f"resnet{depth}" for depth in DEPTHS]
        raise UserValueError(
            f"There is no backbone '{name}'.{closest(str(name).lower(), names)} There "
            f"are {', '.join(names)}, and with another width resnet18-w32 and its like."
        )
    return Backbone(int(found[1]), int(found[2] or 64))
