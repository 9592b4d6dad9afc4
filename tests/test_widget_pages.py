"""Claims about what the widget hands out: exported files, pages, and figures to rank by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from explorers import Gate, browser, subject
from front_end import numbers
from sae_explorer import ExplorerError, FeatureExplorer, rank_tokens
from sae_explorer.analyses import trees
from sae_explorer.analyses.tokens import TokenRequest
from sae_explorer.request import options as options_of

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("recording")


def test_exports_are_what_python_writes(explore: Callable[..., FeatureExplorer]) -> None:
    explorer = explore().wait()
    front_end = browser(explorer)
    files = front_end.state["_files"]
    assert files[-1] == "report.html"
    expected = {
        "tree.json": explorer.tree.to_json,
        "tree.csv": explorer.tree.to_csv,
        "tree.nwk": explorer.tree.to_newick,
        "tree.dot": explorer.tree.to_dot,
        "tokens.json": explorer.tokens.to_json,
        "tokens.csv": explorer.tokens.to_csv,
        "lens.json": explorer.lens.to_json,
        "lens.csv": explorer.lens.to_csv,
        "report.html": explorer.to_html,
    }
    assert set(files) == set(expected)
    for name, written in expected.items():
        file = front_end.ask({"type": "export", "file": name})["file"]
        about = explorer.tree if name == "report.html" else getattr(explorer, name.split(".")[0])
        assert file["name"] == f"{about.stem}-{name}"
        assert bytes(file["data"]).decode() == written()
    reply = front_end.ask({"type": "export", "file": "../secret"})
    assert not reply["ok"]
    assert "Possible: tree.json" in reply["error"]


def test_a_saved_report_is_named_after_what_it_holds(
    explore: Callable[..., FeatureExplorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    explorer = explore(feature=3).wait()
    content = type(explorer._session).content

    def then_another(session: Any) -> Any:
        found = content(session)
        monkeypatch.undo()
        explorer.feature = 5
        explorer.wait()
        return found

    monkeypatch.setattr(type(explorer._session), "content", then_another)
    file = explorer._exported("report.html")
    assert file["name"].endswith("-feature-3-report.html")
    assert b"<title>Feature 3 of" in file["data"]


def test_a_page_written_in_mid_change_is_about_what_it_holds(
    explore: Callable[..., FeatureExplorer],
) -> None:
    explorer = explore(feature=3).wait()
    gate = Gate(subject().model)
    explorer.feature = 5
    page = explorer.to_html()
    assert "<title>Feature 3 of" in page
    assert "Feature 5" not in page
    assert "the tree before the last change" in page
    gate.open()
    assert "<title>Feature 5 of" in explorer.wait().to_html()


def test_a_page_does_not_repeat_errors(
    explore: Callable[..., FeatureExplorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    explorer = explore(feature=3).wait()

    def broken(*_given: Any) -> None:
        raise FileNotFoundError("/somebody/private.bin")

    monkeypatch.setattr(trees.TreeGrower, "_step", broken)
    explorer.scale = 2.5
    with pytest.raises(ExplorerError, match="private"):
        explorer.wait()
    assert "private" not in explorer.to_html()


def test_the_browser_can_rank_the_tokens_at_any_exponent_of_the_slider() -> None:
    explorer = FeatureExplorer.demo(cutoff=0.1).wait()
    payload = browser(explorer).state["_tokens"]
    low, high = options_of(TokenRequest)["exponent"].slider
    assert payload["exponents"] == [low, high]
    ids, cosine, centroid = (
        numbers(payload[name]) for name in ("token_id", "cosine", "centroid_cosine")
    )
    asked = explorer.tokens.request.to_dict()
    for exponent in np.linspace(low, high, 50):
        ratio = (1 - cosine) ** exponent / np.maximum(1 - centroid, np.finfo(np.float32).eps)
        order = np.lexsort((ids, ratio))[: payload["limit"]]
        expected = rank_tokens(explorer.subject, **{**asked, "exponent": float(exponent)})
        assert ids[order].tolist() == expected.token_id.tolist()
        assert [payload["text"][place] for place in order] == expected.token
    assert len(ids) < explorer.subject.vocabulary_size / 4
    explorer.close()
