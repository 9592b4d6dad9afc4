"""The gallery of all states: that it has them all, and that its pictures show something."""

from __future__ import annotations

import re
import struct
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tools" / "gallery"))

import build
from states import STATES, TITLES

from sae_explorer.analyses import ANALYSES

ROOT = Path(__file__).parents[1]
PROTOCOL = (ROOT / "js" / "src" / "state" / "protocol.ts").read_text(encoding="utf-8")
TAKEN = ("tree-growing", "tree-done-diagram", "steering-running")


def words(pattern: str) -> set[str]:
    """Return the words of a type of the protocol, as in ``"done" | "partial"``."""
    found = re.search(pattern, PROTOCOL)
    assert found is not None
    return set(re.findall(r'"(\w+)"', found[1]))


def shown(panel: str) -> set[str]:
    return {state.word for state in STATES if state.panel == panel}


def test_every_panel_is_in_the_gallery() -> None:
    assert {state.panel for state in STATES} == set(ANALYSES) == set(TITLES)


def test_every_state_of_the_tree_is_in_the_gallery() -> None:
    assert shown("tree") >= words(r"type State = (.+);")


@pytest.mark.parametrize("panel", [name for name in ANALYSES if ANALYSES[name].on_request])
def test_every_state_of_an_analysis_on_request_is_in_the_gallery(panel: str) -> None:
    assert shown(panel) >= words(r"interface Job \{[^}]*?state: ([^;]+);")


def test_every_state_has_a_name_of_its_own() -> None:
    names = [state.name for state in STATES]
    assert len(set(names)) == len(names)


def test_pictures_are_as_wide_as_asked_and_differ(tmp_path: Path) -> None:
    chosen = [state for state in STATES if state.name in TAKEN]
    assert len(chosen) == len(TAKEN)
    assert build.take(chosen, tmp_path, themes=("dark",), widths=(800, 400)) == 6
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    pictures = set()
    for state in chosen:
        for width in (800, 400):
            file = tmp_path / build.file_of(state, "dark", width)
            assert file.name in page
            content = file.read_bytes()
            assert content.startswith(b"\x89PNG")
            assert struct.unpack(">I", content[16:20]) == (width,)
            pictures.add(content)
    assert len(pictures) == 6
