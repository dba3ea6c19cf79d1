"""From the name of a backbone to what a config takes of it."""

from __future__ import annotations

import re
from typing import Any

from mmssl_ext.errors import UserValueError
from mmssl_ext.text import closest

from .backbone import Backbone
from .table import FAMILIES


def backbone_named(name: str) -> Backbone:
    """The backbone of a name.

    Args:
        name: ``resnet50``, ``resnet18-w32`` of 32 channels in the first stage in place
            of 64, ``convnext-tiny``, ``timm:resnet26d`` and so on.

    Raises:
        UserValueError: There is none of that name, or timm's has no maps.
    """
    text = str(name)
    if text.startswith("timm:"):
        from .timm import timm_backbone

        return timm_backbone(text)
    text = text.lower()
    for family in FAMILIES:
        match = re.fullmatch(family.names, text)
        try:
            arch, channels = family.make(match) if match else ({}, ())
        except KeyError:  # a size that the family has not got
            continue
        if arch:
            found = Backbone(text, family, arch, channels)
            return found if not found.is_resnet else _resnet(found)
    names = [example for family in FAMILIES for example in family.examples]
    raise UserValueError(
        f"There is no backbone '{name}'.{closest(text, names)} There are "
        f"{', '.join(names)}, others of these families, and timm:NAME."
    )


def _resnet(found: Backbone) -> Backbone:
    """By the usual one of its names."""
    width = found.arch["base_channels"]
    name = f"resnet{found.arch['depth']}" + f"-w{width}" * (width != 64)
    return Backbone(name, found.family, found.arch, found.channels)


def network(name: str, use: str = "pretraining") -> dict[str, Any]:
    """What a config has to know of a backbone; plain data.

    Args:
        name: See :func:`backbone_named`.
        use: ``pretraining``; ``stages`` where that takes maps of four sizes;
            ``transfer`` into detectors and segmentors; ``resnet`` in configs that are
            made for ResNets alone.

    Returns:
        ``backbone``: its config. ``channels``: of its last map; ``stages``: of four.
        ``stride``: of the last. ``maps``: it has cells. ``levels``: ``out_indices`` of
        the four maps. ``adamw``: rate and weight decay, nothing for SGD. ``fresh``:
        children that no pretraining has. ``flat``: it needs a pyramid. ``is_resnet``.

    Raises:
        UserValueError: There is no such backbone, or it does not serve that use.
    """
    found = backbone_named(name)
    family = found.family
    if use == "resnet" and not found.is_resnet:
        raise UserValueError(
            f"backbone={name!r} does not serve this config, which is made for the "
            "stages of a ResNet. Take resnet50 and its like, or for a detector a "
            "config with FPN, for a segmentor FCN or UPerNet."
        )
    if use == "stages" and family.flat:
        raise UserValueError(
            f"backbone={name!r} does not serve DetCo, which compares maps of four "
            "sizes; all of its maps have one. Take resnet50, swin-tiny and their like, "
            "or another method."
        )
    pretraining = use in ("pretraining", "stages")
    return {
        "name": found.name,
        "backbone": found.pretraining() if pretraining else found.transfer(),
        "channels": found.channels[-1],
        "stages": list(found.channels),
        "stride": found.stride,
        "maps": found.has_maps,
        "levels": list(family.levels),
        "adamw": list(family.adamw if pretraining else family.tuned),
        "fresh": list(family.fresh),
        "flat": family.flat,
        "is_resnet": found.is_resnet,
    }
