"""The filters of the first convolution."""

from __future__ import annotations

import numpy as np
from torch import nn

from mmssl_ext.errors import ConfigError

from .sheet import Sheet, show, tiled
from .subject import Subject

TITLE = "Filters of the first convolution"
JUDGE = (
    "Good: smooth edges, stripes and colour blobs of many directions; bad: noise, as "
    "before training, or many filters that are flat."
)
_ZOOM = 9  # pixels of a weight; few enough for a gap that is fine


def draw(subject: Subject) -> Sheet:
    """Draw the filters as colours, those of the untrained network beside them.

    Raises:
        ConfigError: They are no colours.
    """
    found = {"trained": first_filters(subject.model.backbone)}
    if subject.untrained is not None:
        found["untrained"] = first_filters(subject.untrained.backbone)
    count, rows, columns, _ = found["trained"].shape
    sheet = subject.sheet(
        TITLE,
        (
            f"{count} filters of {rows} × {columns} px on red, green and blue, the "
            "strongest first, on one scale: middle grey is 0; full and no brightness "
            "of a colour are plus and minus the largest weight.",
        ),
        1,
        2 * len(found) - 1,
        [1, 0.03, 1] if len(found) > 1 else None,
    )
    across = 8 if len(found) > 1 or count <= 32 else 16
    for ax, (title, weights) in zip(sheet.axes[0, ::2], found.items(), strict=True):
        order = np.argsort(-np.sqrt((weights**2).sum((1, 2, 3))), kind="stable")
        tiles = filter_colors(weights)[order].repeat(_ZOOM, 1).repeat(_ZOOM, 2)
        show(ax, tiled(tiles, across, _ZOOM))
        ax.set_title(f"{title} (largest weight {np.abs(weights).max():.2g})")
    return sheet


def first_filters(backbone: nn.Module) -> np.ndarray:
    """Filters of the first convolution, n x h x w x 3.

    Raises:
        ConfigError: There is none, or it takes no RGB.
    """
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight.detach().float().cpu()
            if weight.shape[1] >= 3:  # of bands those that are drawn
                return weight[:, :3].movedim(1, -1).numpy()
            break
    raise ConfigError(
        f"The first convolution of {type(backbone).__name__} does not take red, green "
        "and blue, so its filters are no colours."
    )


def filter_colors(weights: np.ndarray) -> np.ndarray:
    """Weights n x h x w x 3 as uint8: 0 is middle grey, one scale for all."""
    top = max(float(np.abs(weights).max()), 1e-12)
    return np.rint(127.5 + 127.5 * weights / top).clip(0, 255).astype(np.uint8)
