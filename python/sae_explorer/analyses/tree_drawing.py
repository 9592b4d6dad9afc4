"""A definition tree drawn for print, from left to right."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_explorer.analyses import tree_formats
from sae_explorer.errors import ExplorerError
from sae_explorer.text import visible, visible_token

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties
    from matplotlib.path import Path
    from numpy.typing import NDArray

    from sae_explorer.analyses.definition_tree import DefinitionTree

#: How many nodes are drawn where nothing is said: as many as can be read on a page.
DEFAULT_LIMIT = 200
#: Dots per inch of a bitmap where nothing is said.
DEFAULT_DPI = 150

#: Beyond these nobody reads the drawing, and making it takes minutes or gigabytes.
_MOST_NODES = 10_000
_MOST_DOTS = 100_000_000
_LONGEST_SIDE = 2**16 - 1  # of matplotlib's bitmaps

# Sizes in points.
_TEXT = 9.0
_SMALL = 7.5
_ROW = 16.0
_MARGIN = 12.0
_CLEARANCE = 3.0
_LINE = 14.0
#: A fork takes more room, the more it spreads, so that its lines are no cliffs.
_SPREAD, _WIDEST_FORK = 0.25, 90.0
#: Row B9's widths reach 33, twice a row's height.
_WIDTH_SCALE = 0.25

_INK, _MUTED, _LINES = "#1a1a1a", "#5f5f5f", "#5c9fcb"

#: Fonts with the letters that matplotlib's own lacks, taken where they are installed.
_WORLD_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "PingFang SC",
    "Hiragino Sans",
    "Apple SD Gothic Neo",
    "Microsoft YaHei",
    "Yu Gothic",
    "Malgun Gothic",
    "Noto Sans",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
    "Nirmala UI",
    "Leelawadee UI",
    "Arial Unicode MS",
    "Noto Emoji",
    "Segoe UI Symbol",
)
#: Frames with the name of the script, for what no font has.
_LAST_FONT = "Last Resort High-Efficiency"


@dataclass(frozen=True)
class _Layout:
    """Where the nodes of a drawing are, in points from its top left corner."""

    labels: list[str]
    left: NDArray[np.float64]
    right: NDArray[np.float64]
    middle: NDArray[np.float64]
    tip: NDArray[np.bool_]
    width: float
    height: float


def figure(tree: DefinitionTree, *, limit: int | None = DEFAULT_LIMIT) -> Figure:
    """Return the most probable nodes as a matplotlib figure that belongs to no window.

    Lines are as wide as in the view (:func:`~sae_explorer.analyses.tree_formats.line_widths`, scaled
    down), the more probable of two branches is above, and a branch ends in its cumulative
    probability. The figure grows with the number of branches.

    Parameters
    ----------
    tree
        The tree.
    limit
        How many nodes to draw; None for all.

    Raises
    ------
    ExplorerError
        If there are more nodes than a drawing can show.
    """
    from matplotlib.collections import PathCollection
    from matplotlib.figure import Figure
    from matplotlib.transforms import Affine2D

    count = _count(tree, limit)
    text, small = _fonts(_TEXT), _fonts(_SMALL)
    layout = _layout(tree, count, text, small)
    drawing = Figure(figsize=(layout.width / 72, layout.height / 72), dpi=72, facecolor="white")
    # From points, counted downwards, to the figure.
    points = Affine2D().scale(1, -1).translate(0, layout.height).scale(1 / 72)
    place = points + drawing.dpi_scale_trans

    widths = tree_formats.line_widths(tree)[1:count]
    drawing.add_artist(
        PathCollection(
            _lines(tree, layout),
            linewidths=[width * _WIDTH_SCALE for width in widths],
            facecolors="none",
            edgecolors=_LINES,
            transform=place,
        )
    )

    def write(x: float, y: float, what: str, font: FontProperties, color: str) -> None:
        drawing.text(
            x,
            y,
            what,
            fontproperties=font,
            color=color,
            verticalalignment="center_baseline",
            transform=place,
            parse_math=False,
            usetex=False,
        )

    for row, label in enumerate(layout.labels):
        write(layout.left[row], layout.middle[row], label, text, _INK)
        if layout.tip[row]:
            beside = layout.right[row] + 2 * _CLEARANCE
            write(beside, layout.middle[row], _probability(tree, row), small, _MUTED)
    write(_MARGIN, layout.height - _MARGIN, _caption(tree, count), small, _MUTED)
    return drawing


def svg(tree: DefinitionTree, limit: int | None = DEFAULT_LIMIT) -> str:
    """Return :func:`figure` as SVG; its text can be searched, and equal trees give equal files."""
    import matplotlib as mpl

    drawing = figure(tree, limit=limit)
    file = io.StringIO()
    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "sae-explorer",
        "font.sans-serif": ["DejaVu Sans"],  # and then whatever the reader's program has
    }
    with mpl.rc_context(settings):
        drawing.savefig(file, format="svg", metadata={"Date": None, "Creator": "sae-explorer"})
    return file.getvalue()


def png(tree: DefinitionTree, limit: int | None = DEFAULT_LIMIT, dpi: float = DEFAULT_DPI) -> bytes:
    """Return :func:`figure` as PNG.

    Raises
    ------
    ExplorerError
        If the bitmap would be too large.
    """
    drawing = figure(tree, limit=limit)
    width, height = (float(side) * dpi for side in drawing.get_size_inches())
    if not dpi > 0 or max(width, height) > _LONGEST_SIDE or width * height > _MOST_DOTS:
        raise ExplorerError(
            f"At {dpi:g} dots per inch the drawing would have {width:,.0f} by {height:,.0f} dots; "
            f"at most {_MOST_DOTS:,} are possible, {_LONGEST_SIDE:,} on a side. Lower limit or dpi, "
            "or write SVG."
        )
    file = io.BytesIO()
    drawing.savefig(file, format="png", dpi=dpi, metadata={"Software": None})
    return file.getvalue()


def _count(tree: DefinitionTree, limit: int | None) -> int:
    if limit is not None and limit < 1:
        raise ExplorerError(f"limit={limit} draws nothing; give 1 or more, or None for all nodes.")
    count = len(tree) if limit is None else min(limit, len(tree))
    if count > _MOST_NODES:
        raise ExplorerError(
            f"{count:,} nodes are too many for a drawing; it shows up to {_MOST_NODES:,}. "
            f"Give a limit, or write the whole tree for another program: to_dot(), to_newick()."
        )
    return count


def _fonts(size: float) -> FontProperties:
    from matplotlib.font_manager import FontProperties, fontManager

    installed = {font.name for font in fontManager.ttflist}
    world = [name for name in _WORLD_FONTS if name in installed]
    return FontProperties(family=["DejaVu Sans", *world, "sans-serif", _LAST_FONT], size=size)


def _layout(
    tree: DefinitionTree, count: int, text: FontProperties, small: FontProperties
) -> _Layout:
    parent = tree.parent[:count]
    labels = [_label(tree, row) for row in range(count)]
    tip = np.ones(count, dtype=bool)
    tip[parent[1:]] = False

    # Tips stand below each other, and a node in the middle between its first and its last child.
    middle = np.zeros(count)
    order = [row for row, _ in tree.preorder() if row < count]
    tips = [row for row in order if tip[row]]
    middle[tips] = _MARGIN + _ROW * (np.arange(len(tips)) + 0.5)
    first = np.full(count, np.inf)
    last = np.full(count, -np.inf)
    for row in range(count - 1, -1, -1):
        if not tip[row]:
            middle[row] = (first[row] + last[row]) / 2
        above = parent[row]
        if above >= 0:
            first[above] = min(first[above], middle[row])
            last[above] = max(last[above], middle[row])

    left = np.full(count, _MARGIN)
    right = np.zeros(count)
    end = _MARGIN + _width(_caption(tree, count), small)
    for row in range(count):
        above = parent[row]
        if above >= 0:
            room = _LINE + _SPREAD * (last[above] - first[above])
            left[row] = right[above] + min(room, _WIDEST_FORK) + 2 * _CLEARANCE
        right[row] = left[row] + _width(labels[row], text)
        beside = 2 * _CLEARANCE + _width(_probability(tree, row), small) if tip[row] else 0
        end = max(end, right[row] + beside)
    height = _MARGIN + _ROW * (len(tips) + 1) + _MARGIN
    return _Layout(labels, left, right, middle, tip, float(end) + _MARGIN, height)


def _lines(tree: DefinitionTree, layout: _Layout) -> list[Path]:
    """Return the curves from each node's parent to it."""
    from matplotlib.path import Path

    codes = [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4]
    curves = []
    for row in range(1, len(layout.labels)):
        above = tree.parent[row]
        start, stop = layout.right[above] + _CLEARANCE, layout.left[row] - _CLEARANCE
        half = (start + stop) / 2
        y, to = layout.middle[above], layout.middle[row]
        curves.append(Path([(start, y), (half, y), (half, to), (stop, to)], codes))
    return curves


def _label(tree: DefinitionTree, row: int) -> str:
    if row == 0:
        return visible(tree.request.label)
    token_id = int(tree.token_id[row])
    if token_id in tree.end_ids:
        return "(end)"
    text = tree.texts[token_id]
    # The space before a word says nothing here, but a token of spaces alone must be seen.
    return visible(text).strip() or visible_token(text)


def _probability(tree: DefinitionTree, row: int) -> str:
    return tree_formats.percent(float(tree.cumulative_probability[row]))


def _caption(tree: DefinitionTree, count: int) -> str:
    sae = tree.provenance.sae.get("id")
    about = f"{sae}, {tree.provenance.model['id']}" if sae else f"{tree.provenance.model['id']}"
    drawn = f"{count:,} of {len(tree):,}" if count < len(tree) else f"{len(tree):,}"
    return visible(f"{about}; {drawn} node{'' if len(tree) == 1 else 's'}, {tree.status}")


def _width(text: str, font: FontProperties) -> float:
    from matplotlib.textpath import text_to_path

    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0])
