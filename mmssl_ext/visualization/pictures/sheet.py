"""A figure on which all coordinates are pixels."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image

from mmssl_ext.errors import UserValueError
from mmssl_ext.files import write_bytes
from mmssl_ext.text import shown
from mmssl_ext.visualization.curves import FAINT, INK

WIDTH, MARGIN = 900, 24  # pixels of a sheet
TOP = 96  # of the first row, below the titles
SCALE = 1.5  # pixels of the file per pixel of the sheet, for sharp screens
LINE = "#d0d7de"

_DPI = 100
_TITLE, _HEAD, _SMALL = 17, 13, 11.5  # pixels, sizes of text
_HALO = [withStroke(linewidth=2, foreground="white")]  # keeps lines out of the text


class Box(NamedTuple):
    """A rectangle on a sheet, in pixels."""

    x: float
    y: float
    width: float
    height: float


class Sheet:
    """A figure of 900 pixels width with one pair of axes in pixels, y downwards.

    Args:
        height: In pixels.
        title: One line.
        captions: At most two lines below it.
        scale: Pixels of the file per pixel of the sheet.
    """

    def __init__(
        self,
        height: float,
        title: str,
        captions: Sequence[str],
        scale: float = SCALE,
    ) -> None:
        self.scale = scale
        self.figure = Figure(
            figsize=(WIDTH / _DPI, round(height) / _DPI), dpi=_DPI, facecolor="white"
        )
        FigureCanvasAgg(self.figure)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.axis("off")
        self.axes.set_xlim(0, WIDTH)
        self.axes.set_ylim(round(height), 0)
        self.axes.autoscale(False)
        self.text(MARGIN, 22, title, _TITLE, fontweight="bold")
        for i, caption in enumerate(captions):
            self.text(MARGIN, 46 + 16 * i, caption, color=FAINT)

    def text(
        self, x: float, y: float, text: str, size: float = _SMALL, **style: Any
    ) -> None:
        """Write a line whose middle is at height ``y``; ``size`` in pixels."""
        style = {"color": INK, "va": "center_baseline", "path_effects": _HALO} | style
        style["parse_math"] = False  # a file may be called $x^$
        self.axes.text(x, y, shown(text), fontsize=size * 72 / _DPI, **style)

    def head(self, x: float, text: str, color: str = INK) -> None:
        """Write the head of a column of pictures."""
        self.text(x, TOP - 14, text, _HEAD, color=color, ha="center")

    def image(
        self, pixels: np.ndarray, box: Box, smooth: bool = True, above: bool = False
    ) -> None:
        """Draw an image in a box, smooth or as squares, ``above`` everything else."""
        width, height = (max(round(v * self.scale), 1) for v in box[2:])
        how = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
        resized = Image.fromarray(pixels).resize((width, height), how)
        self.axes.imshow(
            np.asarray(resized),
            extent=(box.x, box.x + box.width, box.y + box.height, box.y),
            interpolation="nearest",
            aspect="auto",
            zorder=5 if above else 0,
        )

    def frame(
        self,
        box: Box,
        color: str,
        width: float = 3,
        inset: float = 0,
        style: Any = "solid",
        above: bool = False,
    ) -> None:
        """Draw a frame along the inner side of a box, ``inset`` pixels from it."""
        inset += width / 2
        self.axes.add_patch(
            Rectangle(
                (box.x + inset, box.y + inset),
                box.width - 2 * inset,
                box.height - 2 * inset,
                fill=False,
                edgecolor=color,
                linewidth=_points(width),
                linestyle=style,
                joinstyle="miter",
                zorder=5 if above else 1,
            )
        )

    def grid(self, grid: tuple[int, int], box: Box, alpha: float = 0.45) -> None:
        """Draw the inner borders of the cells."""
        rows, columns = grid
        right, bottom = box.x + box.width, box.y + box.height
        x = box.x + np.arange(1, columns) / columns * box.width
        y = box.y + np.arange(1, rows) / rows * box.height
        lines = [((v, box.y), (v, bottom)) for v in x]
        lines += [((box.x, v), (right, v)) for v in y]
        self.lines(np.array(lines), "white", 1, alpha)

    def tint(self, mask: np.ndarray, box: Box, color: str) -> None:
        """Tint the cells (h x w) of a mask and fade all others."""
        height, width = box.height / mask.shape[0], box.width / mask.shape[1]
        for (row, column), chosen in np.ndenumerate(mask):
            self.axes.add_patch(
                Rectangle(
                    (box.x + column * width, box.y + row * height),
                    width,
                    height,
                    facecolor=color if chosen else "white",
                    alpha=0.5 if chosen else 0.85,
                    linewidth=0,
                )
            )

    def lines(
        self,
        lines: np.ndarray,
        colors: Any,
        width: float,
        alpha: float = 1.0,
        style: Any = "solid",
    ) -> None:
        """Draw n lines through k points each, n x k x 2, ``width`` in pixels."""
        drawn = LineCollection(
            list(lines),
            colors=colors,
            linewidths=_points(width),
            linestyles=style,
            alpha=alpha,
            zorder=3,
        )
        self.axes.add_collection(drawn, autolim=False)

    def dots(
        self, points: np.ndarray, colors: Any, filled: bool = True, size: float = 10
    ) -> None:
        """Draw points n x 2, with a white rim, or hollow."""
        self.axes.scatter(
            points[:, 0],
            points[:, 1],
            s=_points(size) ** 2,
            c=colors if filled else "white",
            edgecolors="white" if filled else colors,
            linewidths=_points(1.5),
            zorder=4,
        )

    def marks(self, points: np.ndarray, color: str, marker: str, size: float) -> None:
        """Draw points n x 2 by a marker of a size in pixels, one upon another."""
        self.axes.scatter(
            points[:, 0],
            points[:, 1],
            s=_points(size) ** 2,
            c=color,
            marker=marker,
            linewidths=0,
            alpha=0.8,
            zorder=2,
        )

    def pixels(self) -> np.ndarray:
        """Render the sheet as H x W x 3, in steps of 10, which halve a PNG."""
        self.figure.set_dpi(_DPI * self.scale)
        canvas = FigureCanvasAgg(self.figure)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3].astype(int)
        return np.minimum((pixels + 5) // 10 * 10, 255).astype(np.uint8)


def write_sheet(sheet: Sheet, out: str | Path) -> Path:
    """Write a sheet as PNG, in one step; folders that are missing are made.

    Raises:
        ValueError: ``out`` is no name of a PNG.
    """
    out = Path(out)
    check_png(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(out, png_bytes(sheet.pixels()))
    return out


def check_png(out: Path) -> None:
    """Refuse a file name that does not end in .png."""
    if out.suffix.lower() != ".png":
        raise UserValueError(f"The picture is a PNG; let --out end in .png, not {out}.")


def png_bytes(pixels: np.ndarray) -> bytes:
    """Encode H x W x 3 as PNG."""
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, format="PNG", optimize=True)
    return png.getvalue()


def shortened(name: str, length: int = 32) -> str:
    """Leave out the middle of a long file name."""
    name = shown(name)
    half = length // 2
    return name if len(name) <= length else f"{name[: half - 1]}…{name[-half:]}"


def _points(pixels: float) -> float:
    return pixels * 72 / _DPI
