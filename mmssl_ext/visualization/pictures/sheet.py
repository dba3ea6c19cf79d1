"""A sheet: a title, captions, and images in a grid that matplotlib lays out."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import ConnectionPatch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.transforms import Bbox, ScaledTranslation
from PIL import Image

from mmssl_ext.errors import UserValueError
from mmssl_ext.files import write_bytes
from mmssl_ext.text import printable, shown
from mmssl_ext.visualization.curves import BLUE, FAINT, GREEN, INK, ORANGE

WIDTH = 900  # pixels of a sheet
SCALE = 1.5  # pixels of the file per pixel of the sheet, for sharp screens
LINE = "#d0d7de"
COLORS = (BLUE, ORANGE, GREEN, "#aa4499", "#6e5494", "#8a6d00")  # dark enough for text
STRENGTH: Colormap = ListedColormap(  # dark enough for white paper at its bright end
    matplotlib.colormaps["plasma"](np.linspace(0.0, 0.78, 64)), "strength"
)

_INCH = 100  # pixels of a sheet
_MARGIN, _GAP = 24, 10  # pixels: around all, and between two columns
_INNER = WIDTH - 2 * _MARGIN
_TALL = 1.3  # height of an image at most, in widths of its column
_TITLE, _HEAD, _TEXT, _SMALL = 12.5, 9.5, 8.3, 7.5  # points
_STYLE = {
    "font.size": _SMALL,
    "text.color": INK,
    "axes.labelcolor": FAINT,
    "axes.labelpad": 3,
    "axes.labelsize": _SMALL,
    **{f"axes.spines.{side}": False for side in ("left", "right", "top", "bottom")},
}


class Sheet:
    """A figure of 900 pixels width whose rows become as high as their images.

    Title and captions, a paragraph each, take as many lines as they need. ``axes`` are
    rows x columns and empty at first, ``ratios`` the widths of the columns relative to
    each other; ``scale`` is pixels of the file per pixel of the sheet.
    """

    def __init__(
        self,
        title: str,
        captions: Sequence[str],
        rows: int = 1,
        columns: int = 1,
        ratios: Sequence[float] | None = None,
        scale: float = SCALE,
    ) -> None:
        self.captions = captions
        self._shares = np.array(ratios or columns * [1.0]) / sum(ratios or [columns])
        self.figure = Figure(dpi=_INCH * scale, layout="constrained", facecolor="white")
        self._canvas = FigureCanvasAgg(self.figure)
        self._head = 14.0  # pixels above the grid
        for line in textwrap.wrap(shown(title), 72):
            self._write(line, _TITLE, color=INK, fontweight="bold")
        for caption in captions:
            for line in textwrap.wrap(shown(caption), 132):
                self._write(line, _TEXT, color=FAINT)
        # More than is needed; what is not, goes when all is drawn.
        height = self._head + rows * (_TALL * max(self._shares) * _INNER + 200)
        self.figure.set_size_inches(WIDTH / _INCH, height / _INCH)
        bare: dict[str, Any] = {"xticks": [], "yticks": []}
        with matplotlib.rc_context(_STYLE):
            self.axes = self.figure.subplots(
                rows, columns, squeeze=False, width_ratios=ratios, subplot_kw=bare
            )

    def _write(self, line: str, size: float, **style: Any) -> None:
        inches = self.figure.dpi_scale_trans
        shift = ScaledTranslation(_MARGIN / _INCH, -self._head / _INCH, inches)
        place = self.figure.transFigure + shift
        self.figure.text(0, 1, line, transform=place, va="top", size=size, **style)
        self._head += 2 * size

    def below(
        self, ax: Any, *texts: str, color: str = FAINT, loc: Any = "left"
    ) -> None:
        """Write texts below an image, each in as many lines as it needs."""
        share = self._shares[ax.get_subplotspec().colspan.start]
        room = (share * _INNER - _GAP) * self.figure.dpi / _INCH
        measure = self._canvas.get_renderer().get_text_width_height_descent
        lines = []
        for text in map(shown, texts):
            width, _, _ = measure(text, FontProperties(size=_SMALL), False)
            letters = len(text) or 1
            if width > room:
                letters = max(int(0.95 * room / width * letters), 1)  # some are wider
            lines += textwrap.wrap(text, letters)
        text = "\n".join([*lines, ""])  # a gap before the next row
        ax.set_xlabel(text, color=color, loc=loc, ma=loc, linespacing=1.4)

    def color_bar(self, lowest: float, highest: float, colors: Colormap) -> Normalize:
        """Show the colours of a range of cosines above the grid."""
        span = Normalize(lowest, highest)
        bar: Any = self.figure.colorbar(
            ScalarMappable(span, colors),
            ax=self.axes,
            location="top",
            anchor=(1.0, 0.5),
            shrink=0.22,
            aspect=22,
            pad=0.01,
        )
        bar.outline.set_visible(False)
        bar.ax.xaxis.set(ticks_position="bottom", label_position="bottom")
        bar.ax.tick_params(length=0, labelsize=_SMALL, labelcolor=FAINT)
        bar.set_ticks([lowest, highest], labels=[signed(lowest), signed(highest)])
        bar.set_label("cosine", fontsize=_SMALL, color=FAINT, labelpad=-8)
        return span

    def connect(
        self, axes: Sequence[Axes], ends: Any, color: Any, solid: bool, bend: float
    ) -> None:
        """Draw a line between points of two axes, dashed and its ends hollow or not."""
        halo = withStroke(linewidth=2.7, foreground="white", alpha=0.85)
        places = [ax.transData for ax in axes]
        dashes: Any = "solid" if solid else (0, (2.5, 1.5))
        line = ConnectionPatch(*ends, *places, connectionstyle=f"arc3,rad={bend}")
        line.set(color=color, lw=1.5, ls=dashes, path_effects=[halo])
        self.figure.add_artist(line)
        face, edge = (color, "white") if solid else ("white", color)
        for (x, y), place in zip(ends, places, strict=True):
            dot = Line2D([x], [y], marker="o", ms=6, mfc=face, mec=edge, zorder=3)
            dot.set_transform(place)
            self.figure.add_artist(dot)

    def pixels(self) -> np.ndarray:
        """Render the sheet as H x W x 3, in steps of 10, which halve a PNG."""
        if isinstance(self.figure.get_layout_engine(), ConstrainedLayoutEngine):
            self._fit()
        self._canvas.draw()
        pixels = np.asarray(self._canvas.buffer_rgba())[..., :3].astype(int)
        return np.minimum((pixels + 5) // 10 * 10, 255).astype(np.uint8)

    def _fit(self) -> None:
        """Lay out with rows as high as their images, and no higher."""
        for text in self.figure.findobj(Text):  # a file may be called $x^$
            text.set_parse_math(False)
            text.set_text(printable(text.get_text()))
        for ax in self.figure.axes:
            ax.title.set_fontsize(_HEAD)
        self._lay_out()
        spare, used = 0.0, []  # pixels of the file
        for row in self.axes:
            axes = [ax for ax in row if ax.get_aspect() != "auto"] or row[:1]
            slots = [self._slot(ax) for ax in axes]
            outer = [ax.get_tightbbox() for ax in axes]
            heights = [
                min(ax.bbox.height, _TALL * slot.width)
                for ax, slot in zip(axes, slots, strict=True)
            ]
            below = [ax.bbox.y0 - o.y0 for ax, o in zip(axes, outer, strict=True)]
            lowest = min([slots[0].y0, *(o.y0 for o in outer)])
            spare += slots[0].y1 - lowest - max(np.add(heights, below))
            used.append(max(heights))
        self.axes[0, 0].get_gridspec().set_height_ratios(used)
        width, height = self.figure.get_size_inches()
        self.figure.set_size_inches(width, round(height - spare / self.figure.dpi, 2))
        self._lay_out()
        self.figure.set_layout_engine("none")
        for ax in self.figure.axes:  # the last digits of the solver vary
            place = np.round(ax.get_position(original=True).bounds, 5)
            ax.set_position(Bbox.from_bounds(*place))

    def _slot(self, ax: Axes) -> Bbox:
        place = ax.get_position(original=True)
        return place.transformed(self.figure.transFigure)

    def _lay_out(self) -> None:
        height = self.figure.get_size_inches()[1] * _INCH
        x, y = (_MARGIN - _GAP / 2) / WIDTH, 0.5 * _MARGIN / height
        rect = (x, y, 1 - 2 * x, 1 - y - self._head / height)
        pads = {"w_pad": _GAP / 2 / _INCH, "h_pad": 3 / _INCH, "wspace": 0, "hspace": 0}
        self.figure.set_layout_engine("constrained", rect=rect, **pads)
        self.figure.draw_without_rendering()


def show(ax: Axes, pixels: np.ndarray, **style: Any) -> None:
    """Draw an image, H x W x 3, or a map; the axes become fractions of it, y downwards.

    Pixels that are much enlarged, and the cells of a map, stay squares.
    """
    height, width = pixels.shape[:2]
    style = {"extent": (0, 1, 1, 0), "aspect": height / width} | style
    ax.imshow(pixels, **style)
    ax.set_anchor("NW")
    ax.autoscale(False)


def frame(ax: Axes, color: str, width: float = 1.5, style: Any = "solid") -> None:
    """Frame an image."""
    for spine in ax.spines.values():
        spine.set(visible=True, color=color, lw=width, ls=style)


def mark(
    ax: Axes,
    box: Sequence[float],
    color: str,
    width: float = 1.5,
    style: Any = "solid",
) -> None:
    """Frame a part (x0, y0, x1, y1) of an image, on white."""
    halo = withStroke(linewidth=width + 1.2, foreground="white")
    left, upper, right, lower = box
    patch = Rectangle((left, upper), right - left, lower - upper, fill=False)
    patch.set(
        edgecolor=color, lw=width, ls=style, joinstyle="miter", path_effects=[halo]
    )
    ax.add_patch(patch).set_clip_on(False)


def draw_cells(ax: Axes, grid: tuple[int, int], alpha: float = 0.45) -> None:
    """Draw the inner borders of the h x w cells of an image."""
    rows, columns = grid
    style: dict[str, Any] = {"colors": "white", "linewidths": 0.7, "alpha": alpha}
    ax.hlines(np.arange(1, rows) / rows, 0, 1, **style)
    ax.vlines(np.arange(1, columns) / columns, 0, 1, **style)


def tiled(tiles: np.ndarray, columns: int, gap: int) -> np.ndarray:
    """Put n tiles, n x h x w x 3, into rows of so many, white between them."""
    count, height, width, _ = tiles.shape
    shape = -(-count // columns) * (height + gap) - gap, columns * (width + gap) - gap
    whole = np.full((*shape, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = i // columns * (height + gap), i % columns * (width + gap)
        whole[y : y + height, x : x + width] = tile
    return whole


def check_png(out: Path) -> None:
    """Refuse a file name that does not end in .png."""
    if out.suffix.lower() != ".png":
        raise UserValueError(f"The picture is a PNG; let --out end in .png, not {out}.")


def write_png(pixels: np.ndarray, out: Path) -> Path:
    """Write H x W x 3 in one step; folders that are missing are made."""
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, format="PNG", optimize=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(out, png.getvalue())
    return out


def shortened(name: str, length: int = 32) -> str:
    """Leave out the middle of a long file name."""
    name = shown(name)
    half = length // 2
    return name if len(name) <= length else f"{name[: half - 1]}…{name[-half:]}"


def signed(number: float, digits: int = 2) -> str:
    """A number with a true minus sign."""
    return f"{number:.{digits}f}".replace("-", "−")
