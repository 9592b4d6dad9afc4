"""Claims about tokens as text, by the same cases as the front-end's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sae_explorer.analyses.tree_formats import percent
from sae_explorer.text import visible, visible_token
from sae_explorer.widget.panels import OPTIONS, SOURCES

HERE = Path(__file__).parent
CASES = json.loads((HERE / "visible.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: ascii(case["text"]))
def test_python_and_the_browser_show_the_same(case: dict[str, str]) -> None:
    assert visible(case["text"]) == case["visible"]
    assert visible_token(case["text"]) == case["token"]


def test_the_front_ends_tests_know_the_controls_as_they_are() -> None:
    known = json.loads((HERE / "js" / "controls.json").read_text(encoding="utf-8"))
    shown = [entry for name, entry in OPTIONS.items() if name not in SOURCES]
    assert known == json.loads(json.dumps(shown))  # tuples travel as lists


@pytest.mark.parametrize(
    ("probability", "shown"),
    [
        (1.0, "100.0 %"),
        (0.1234, "12.3 %"),
        (0.0082, "0.82 %"),
        (0.000031, "0.0031 %"),
        (2e-9, "2e-7 %"),
        (0.0, "0 %"),
    ],
)
def test_probabilities_are_short(probability: float, shown: str) -> None:
    assert percent(probability) == shown
