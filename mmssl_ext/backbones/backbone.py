"""A backbone by its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .table import FAMILIES, Family

# ResNets of one view of 224 x 224 px in training, in GiB.
_MEMORY = {18: 0.03, 34: 0.045, 50: 0.09, 101: 0.13, 152: 0.18}


@dataclass(frozen=True)
class Backbone:
    """A backbone by its name.

    Attributes:
        name: By which configs and commands call it.
        family: Its row of the table.
        arch: Options that say which of the family it is.
        channels: Of its maps of strides 4, 8, 16 and 32.
    """

    name: str
    family: Family
    arch: Mapping[str, Any]
    channels: tuple[int, ...]

    @property
    def is_resnet(self) -> bool:
        """Configs know it by depth and width, too."""
        return self.family is FAMILIES[0]

    @property
    def has_maps(self) -> bool:
        """Its output has cells, N x C x h x w; a class token is N x C."""
        return self.arch.get("out_type") != "cls_token"

    @property
    def stride(self) -> int:
        """Pixels of an image to a cell of the last map."""
        return 16 if self.family.flat else 32

    @property
    def title(self) -> str:
        """What a reader calls it."""
        if not self.is_resnet:
            return self.name
        share = self.arch["base_channels"] / 64
        return f"ResNet-{self.arch['depth']}" + f" of {share:g} width" * (share != 1)

    @property
    def variables(self) -> dict[str, Any]:
        """Variables of a config that choose it."""
        if not self.is_resnet:
            return {"backbone": self.name}
        return {name: self.arch[name] for name in ("depth", "base_channels")}

    def memory(self, size: int) -> float:
        """Memory of one view of ``size`` x ``size`` pixels in training, in GiB."""
        whole = self.family.memory * self.channels[0] / 1024
        if self.is_resnet:
            whole = _MEMORY[self.arch["depth"]] * self.arch["base_channels"] / 64
        return whole * (size / 224) ** 2

    def pretraining(self) -> dict[str, Any]:
        """Config of the backbone in a pretraining, which returns its last map."""
        family = self.family
        found = {"type": family.pretrained_type or family.type, **self.arch}
        found |= {**family.always, **family.pretraining}
        last = family.levels[-1]
        default = self.is_resnet or last == -1
        return found | ({} if default else {"out_indices": (last,)})

    def transfer(self) -> dict[str, Any]:
        """Config of the same network in a detector or segmentor, without out_indices.

        ResNets are those of the toolbox at hand, all others mmpretrain's.
        """
        family, arch = self.family, dict(self.arch)
        if self.is_resnet:
            del arch["stem_channels"]  # not known to mmdet
            free = {"frozen_stages": -1, "norm_eval": False, "style": "pytorch"}
            return {"type": "ResNet", **arch, **free}
        if not self.has_maps:
            arch["out_type"] = "featmap"
        found = {"type": f"mmpretrain.{family.type}", **arch}
        return found | {**family.always, **family.transfer}
