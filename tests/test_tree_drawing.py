"""Claims about the drawing of a tree."""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from functools import cache
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.collections import PathCollection

from sae_explorer import DefinitionTree, ExplorerError, Subject, grow_tree
from sae_explorer.analyses import tree_drawing
from sae_explorer.analyses.tree_formats import line_widths, percent

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.text import Text

HOSTILE = [
    "</text><script>", "$x^2$", "中文", "😀🚗", "हिन्दी", "שלום", "\u202ertl", "\n", "  ", "\x1b[31m", "a\\b&",
]  # fmt: skip


@cache
def subject() -> Subject:
    return Subject.demo()


@cache
def tree(cutoff: float = 5e-4) -> DefinitionTree:
    return grow_tree(subject(), feature=302, weights="decoder", centroid=True, cutoff=cutoff)


def hostile() -> DefinitionTree:
    texts = dict(zip(tree().texts, itertools.cycle(HOSTILE), strict=False))
    return dataclasses.replace(tree(), texts=texts)


def texts_of(svg: str) -> list[str]:
    return [str(e.text) for e in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_svg_holds_every_token_as_text() -> None:
    found = texts_of(tree().to_svg())
    assert found.count("feature 302") == 1
    ends = [row for row in range(1, len(tree())) if int(tree().token_id[row]) in tree().end_ids]
    assert found.count("(end)") == len(ends) > 0
    words = [tree().tokens[row].strip() for row in range(1, len(tree())) if row not in ends]
    probabilities = [
        percent(float(tree().cumulative_probability[row]))
        for row in range(1, len(tree()))
        if not tree().children[row]
    ]
    caption = [text for text in found if "77 nodes, complete" in text]
    assert sorted(found) == sorted(
        ["feature 302", *["(end)"] * len(ends), *words, *probabilities, *caption]
    )


def test_hostile_tokens_are_drawn_as_they_are_or_made_visible() -> None:
    found = set(texts_of(hostile().to_svg()))
    expected = {
        "</text><script>", "$x^2$", "中文", "😀🚗", "हिन्दी", "שלום", "<U+202E>rtl", "⏎", "␣␣", "<U+001B>[31m", "a\\b&",
    }  # fmt: skip
    assert expected <= found


def test_letters_without_a_font_give_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hostile().to_png(dpi=72)
        hostile().to_svg()
    assert caplog.messages == []


@pytest.mark.parametrize("limit", [1, 2, 30, 77, 200, None])
def test_limit_draws_the_most_probable_nodes_with_the_widths_of_the_view(
    limit: int | None,
) -> None:
    count = min(limit or 77, 77)
    drawing = tree_drawing.figure(tree(), limit=limit)
    (lines,) = (a for a in drawing.artists if isinstance(a, PathCollection))
    assert len(lines.get_paths()) == count - 1
    assert np.allclose(lines.get_linewidths(), np.array(line_widths(tree())[1:count]) / 4)
    tips = sum(not [c for c in tree().children[row] if c < count] for row in range(count))
    assert len(drawing.texts) == count + tips + 1


def test_nothing_overlaps_or_leaves_the_page() -> None:
    drawing = tree_drawing.figure(tree(1e-4))
    boxes = [text.get_window_extent() for text in drawing.texts]
    page = drawing.bbox
    for box in boxes:
        assert page.x0 <= box.x0 <= box.x1 <= page.x1
        assert page.y0 <= box.y0 <= box.y1 <= page.y1
    touching = [
        (one.get_text(), other.get_text())
        for (one, a), (other, b) in itertools.combinations(
            zip(drawing.texts, boxes, strict=True), 2
        )
        if a.overlaps(b)
    ]
    assert touching == []


def test_children_stand_right_of_their_parent_the_most_probable_above() -> None:
    drawn = labels(tree())
    places = [drawn[row].get_position() for row in range(len(tree()))]
    for row, children in enumerate(tree().children):
        assert all(places[child][0] > places[row][0] for child in children)
        heights = [places[child][1] for child in children]
        assert heights == sorted(heights)


def labels(drawn: DefinitionTree) -> dict[int, Text]:
    """Return each node's label; after a tip's comes its probability."""
    texts = iter(tree_drawing.figure(drawn).texts)
    found = {}
    for row, children in enumerate(drawn.children):
        found[row] = next(texts)
        if not children:
            next(texts)
    return found


def test_equal_trees_give_equal_files() -> None:
    again = DefinitionTree.from_json(tree().to_json())
    assert tree().to_svg() == again.to_svg()
    assert tree().to_png(dpi=50) == again.to_png(dpi=50)


def test_a_file_holds_what_is_returned_without_one(tmp_path: Path) -> None:
    svg, png = tree().to_svg(), tree().to_png(dpi=50)
    assert tree().to_svg(tmp_path / "tree.svg") == str(tmp_path / "tree.svg")
    assert tree().to_png(tmp_path / "tree.png", dpi=50) == str(tmp_path / "tree.png")
    assert (tmp_path / "tree.svg").read_text(encoding="utf-8") == svg
    assert (tmp_path / "tree.png").read_bytes() == png
    assert png.startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tree.png", "tree.svg"]


def test_the_users_matplotlib_is_left_alone() -> None:
    import matplotlib.pyplot as plt

    before = dict(mpl.rcParams)
    tree().to_svg()
    tree().to_png(dpi=50)
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == []


def many(count: int) -> DefinitionTree:
    """Return a tree of ``count`` nodes, all but the root below it."""
    ones = np.ones(count, dtype=np.int32)
    parent = np.zeros(count, dtype=np.int32)
    parent[0] = -1
    columns: dict[str, Any] = {
        "parent": parent,
        "depth": ones,
        "token_id": ones * int(tree().token_id[1]),
        "probability": np.full(count, 1e-5),
        "cumulative_probability": np.full(count, 1e-5),
        "cut_probability": np.zeros(count),
        "expanded": np.zeros(count, dtype=bool),
    }
    return dataclasses.replace(tree(), **columns)


def test_drawings_that_nobody_could_read_are_refused() -> None:
    with pytest.raises(ExplorerError, match=r"20,000 nodes are too many.*10,000"):
        many(20_000).to_svg(limit=None)
    with pytest.raises(ExplorerError, match=r"limit=0 draws nothing"):
        tree().to_svg(limit=0)
    for dpi in (20_000, 0, float("nan")):
        with pytest.raises(ExplorerError, match="dots per inch"):
            tree().to_png(dpi=dpi)


def test_covered_probability_is_that_of_the_tips() -> None:
    for cutoff in (0.999, 1e-2, 5e-4):
        grown = tree(cutoff)
        tips = [row for row in range(1, len(grown)) if not grown.children[row]]
        assert grown.covered_probability == pytest.approx(
            float(grown.cumulative_probability[tips].sum()), abs=0
        )
