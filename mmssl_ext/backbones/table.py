"""What each family of backbones needs: the one table of it.

The options are those by which pretraining and transfer compute the same features: maps
in place of vectors, the last norm before the mean over the map, windows of one size.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

# Options that say which of a family it is, and the channels of its four maps.
Made = tuple[dict[str, Any], tuple[int, ...]]
Options = Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """A row of the table.

    Attributes:
        title: What a reader calls it.
        type: Class of mmpretrain.
        names: Pattern of the names.
        examples: Some names, for messages and for the page.
        make: Of the match of a name, what says which it is. KeyError: there is none.
        levels: ``out_indices`` of the maps of strides 4, 8, 16 and 32.
        always: Options in pretraining and transfer.
        pretraining: Options in pretraining alone.
        transfer: Options in transfer alone.
        fresh: Children that a detector adds, which no pretraining has.
        adamw: Rate of AdamW for 256 images and weight decay, in pretraining. Empty: SGD
            or LARS, as the method says. Those of ViT are MoCo v3's, those of Swin
            EsViT's; for ConvNeXt none are published, and these are Swin's.
        tuned: The same in detection and segmentation, for 16 images.
        pretrained_type: Class in pretraining where it is another one.
        flat: All maps have a stride of 16; detectors need a pyramid of them.
        memory: Of one view of 224 x 224 px in training, in MiB for each channel of the
            first map: what is kept for the gradient, measured on a few and rounded up.
            ResNets have figures of their own.
    """

    title: str
    type: str
    names: str
    examples: tuple[str, ...]
    make: Callable[[re.Match], Made]
    levels: tuple[int, ...] = (0, 1, 2, 3)
    always: Options = field(default_factory=dict)
    pretraining: Options = field(default_factory=dict)
    transfer: Options = field(default_factory=dict)
    fresh: tuple[str, ...] = ()
    adamw: tuple[float, ...] = ()
    tuned: tuple[float, ...] = ()
    pretrained_type: str = ""
    flat: bool = False
    memory: float = 0.5


def _sized(sizes: Mapping[str, int], options: Options | None = None) -> Any:
    """``make`` of a family by the channels of its first map, which double thrice."""

    def make(match: re.Match) -> Made:
        first = sizes[match[1]]
        arch = {"arch": match[1], **(options or {})}
        return arch, tuple(first * share for share in (1, 2, 4, 8))

    return make


def _resnet(match: re.Match) -> Made:
    depth, width = int(match[1]), int(match[2] or 64)
    first = width * (4 if depth >= 50 else 1)
    arch = {"depth": depth, "stem_channels": width, "base_channels": width}
    return arch, tuple(first * share for share in (1, 2, 4, 8))


def _resnext(match: re.Match) -> Made:
    groups, width = int(match[2] or 32), int(match[3] or 4)
    arch = {"depth": int(match[1]), "groups": groups, "width_per_group": width}
    return arch, (256, 512, 1024, 2048)


_VIT = {
    "tiny": ("deit-tiny", 192),
    "small": ("deit-small", 384),
    "base": ("base", 768),
    "large": ("large", 1024),
}


def _vit(match: re.Match) -> Made:
    arch, channels = _VIT[match[1]]
    out_type = "cls_token" if match[2] else "featmap"
    return {"arch": arch, "out_type": out_type}, (channels,) * 4


def _mobilenet_v2(match: re.Match) -> Made:
    factor = float(match[1] or 1)
    channels = tuple(divisible(x * factor) for x in (24, 32, 96))
    return {"widen_factor": factor}, (*channels, int(1280 * max(1.0, factor)))


_MOBILENET_V3 = {
    "small": (16, 24, 48, 576),
    "small-075": (16, 24, 40, 432),
    "small-050": (8, 16, 24, 288),
    "large": (24, 40, 112, 960),
}


def _mobilenet_v3(match: re.Match) -> Made:
    return {"arch": match[1].replace("-", "_")}, _MOBILENET_V3[match[1]]


def _efficientnet(match: re.Match) -> Made:
    factor = (1.0, 1.0, 1.1, 1.2, 1.4, 1.6, 1.8, 2.0)[int(match[1])]
    channels = tuple(divisible(x * factor) for x in (24, 40, 112, 1280))
    return {"arch": f"b{match[1]}"}, channels


_REGNETX = {
    "400mf": (32, 64, 160, 384),
    "800mf": (64, 128, 288, 672),
    "1.6gf": (72, 168, 408, 912),
    "3.2gf": (96, 192, 432, 1008),
    "4.0gf": (80, 240, 560, 1360),
    "6.4gf": (168, 392, 784, 1624),
    "8.0gf": (80, 240, 720, 1920),
    "12gf": (224, 448, 896, 2240),
}


def _regnet(match: re.Match) -> Made:
    return {"arch": f"regnetx_{match[1]}"}, _REGNETX[match[1]]


def divisible(channels: float, by: int = 8) -> int:
    """The nearest multiple, but no tenth less, as mmpretrain's ``make_divisible``."""
    found = max(by, int(channels + by / 2) // by * by)
    return found + by * (found < 0.9 * channels)


_CONVNEXT = {"atto": 40, "femto": 48, "pico": 64, "nano": 80, "tiny": 96, "small": 96}
_CONVNEXT |= {"base": 128, "large": 192}
_SWIN = {"tiny": 96, "small": 96, "base": 128, "large": 192}
_NO_ZERO = {"zero_init_residual": False}  # else half of it starts without a gradient
_NORMS = ("norm0", "norm1", "norm2")  # behind the first three stages
# The last norm sees the map, as it will in a detector.
_MAPS = {"gap_before_final_norm": False}

FAMILIES = (
    Family(
        title="ResNet",
        type="ResNet",
        names=r"resnet[-_]?(18|34|50|101|152)(?:[-_]w([1-9]\d*))?",
        examples=(
            *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
            "resnet18-w32",
        ),
        make=_resnet,
        pretraining=_NO_ZERO,
    ),
    Family(
        title="ResNeXt",
        type="ResNeXt",
        names=r"resnext(50|101|152)(?:-([1-9]\d*)x([1-9]\d*)d)?",
        examples=("resnext50", "resnext101-32x8d"),
        make=_resnext,
        pretraining=_NO_ZERO,
    ),
    Family(
        title="ConvNeXt",
        type="ConvNeXt",
        names=r"convnext-(\w+)",
        examples=("convnext-atto", "convnext-tiny", "convnext-small", "convnext-base"),
        make=_sized(_CONVNEXT),
        always=_MAPS,
        transfer={"drop_path_rate": 0.2},
        fresh=_NORMS,
        adamw=(5e-4, 0.05),
        tuned=(1e-4, 0.05),
        memory=2.0,
    ),
    Family(
        title="ConvNeXt V2",
        type="ConvNeXt",
        names=r"convnextv2-(\w+)",
        examples=("convnextv2-atto", "convnextv2-tiny"),
        make=_sized(_CONVNEXT, {"use_grn": True, "layer_scale_init_value": 0.0}),
        always=_MAPS,
        transfer={"drop_path_rate": 0.2},
        fresh=_NORMS,
        adamw=(5e-4, 0.05),
        tuned=(1e-4, 0.05),
        memory=3.0,
    ),
    Family(
        title="Swin",
        type="SwinTransformer",
        names=r"swin-(\w+)",
        examples=("swin-tiny", "swin-small", "swin-base"),
        make=_sized(_SWIN),
        # Small maps are padded to the window, so that images of every size will do.
        always={"pad_small_map": True},
        pretraining={"drop_path_rate": 0.1},
        transfer={"drop_path_rate": 0.2},
        fresh=_NORMS,
        adamw=(5e-4, 0.05),
        tuned=(1e-4, 0.05),
        memory=2.0,
    ),
    Family(
        title="ViT",
        type="VisionTransformer",
        names=r"vit-(tiny|small|base|large)(-token)?",
        examples=("vit-tiny", "vit-small", "vit-base", "vit-small-token"),
        make=_vit,
        levels=(-1,),
        # Positions are those of 224 px, and resized for images of every other size.
        always={"img_size": 224, "patch_size": 16},
        # A frozen patch embedding is MoCo v3's remedy for spikes of the loss.
        pretraining={"stop_grad_conv1": True},
        transfer={"drop_path_rate": 0.1},
        adamw=(1.5e-4, 0.1),
        tuned=(1e-4, 0.1),
        pretrained_type="ContrastiveViT",
        flat=True,
        memory=0.4,
    ),
    Family(
        title="MobileNet v2",
        type="MobileNetV2",
        names=r"mobilenet-?v2(?:-w(?!0(?:\.0+)?$)(\d(?:\.\d+)?))?",
        examples=("mobilenet-v2", "mobilenet-v2-w0.5"),
        make=_mobilenet_v2,
        levels=(1, 2, 4, 7),
        memory=4.0,
    ),
    Family(
        title="MobileNet v3 small",
        type="MobileNetV3",
        names=r"mobilenet-?v3-(small|small-075|small-050)",
        examples=("mobilenet-v3-small", "mobilenet-v3-small-050"),
        make=_mobilenet_v3,
        levels=(1, 3, 8, 12),
        memory=1.3,
    ),
    Family(
        title="MobileNet v3 large",
        type="MobileNetV3",
        names=r"mobilenet-?v3-(large)",
        examples=("mobilenet-v3-large",),
        make=_mobilenet_v3,
        levels=(3, 6, 12, 16),
        memory=2.3,
    ),
    Family(
        title="EfficientNet",
        type="EfficientNet",
        names=r"efficientnet-b([0-7])",
        examples=("efficientnet-b0", "efficientnet-b3"),
        make=_efficientnet,
        levels=(2, 3, 4, 6),
        memory=8.0,
    ),
    Family(
        title="RegNet",
        type="RegNet",
        names=r"regnetx-([\d.]+[mg]f)",
        examples=("regnetx-400mf", "regnetx-3.2gf"),
        make=_regnet,
        pretraining=_NO_ZERO,
        memory=1.2,
    ),
)
