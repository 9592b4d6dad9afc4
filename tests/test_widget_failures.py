"""Claims about what goes wrong in the widget: it is told, and the explorer works on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from explorers import OPTIONS, Breaking, Gate, assert_same, browser, subject
from sae_explorer import ExplorerError, FeatureExplorer, Subject, grow_tree
from zoo import NO_MEMORY, build_model, build_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("by", ["Python", "the browser"])
@pytest.mark.parametrize("after", [0, 5])
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (SystemExit(1), "SystemExit"),
        (RuntimeError("the cable was pulled"), "the cable was pulled"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
    ids=repr,
)
def test_a_worker_that_fails_is_told_and_the_explorer_works_again(
    explore: Callable[..., FeatureExplorer],
    breaking: Breaking,
    error: BaseException,
    words: str,
    after: int,
    by: str,
) -> None:
    explorer = explore().wait()
    front_end = browser(explorer)
    before = explorer.tree
    breaking.error, breaking.after = error, after
    explorer.scale = 3.0
    front_end.until(lambda: front_end.status["state"] == "error")
    # The previous result stays, in Python and on the screen, though rows of another had come.
    front_end.rows.assert_are(before)
    with pytest.raises(ExplorerError, match=words):
        explorer.wait()
    assert front_end.state["_status"] == explorer.status.to_dict()
    assert front_end.status["state"] == "error"
    assert words in front_end.status["error"]
    assert "Try again" in front_end.status["error"]
    assert explorer.tree is before
    assert explorer.tokens.request.scale == 3.0
    breaking.error = None
    if by == "Python":
        explorer.retry()
    else:
        assert front_end.ask({"type": "run"})["ok"]
    explorer.wait()
    assert explorer.status.state == "done"
    assert explorer.status.error is None
    assert explorer.tree == grow_tree(subject(), feature=3, **{**OPTIONS, "scale": 3.0})
    front_end.rows.assert_are(explorer.tree)


@pytest.mark.parametrize("error", NO_MEMORY, ids=repr)
def test_out_of_memory_keeps_what_has_grown(
    explore: Callable[..., FeatureExplorer], breaking: Breaking, error: BaseException
) -> None:
    breaking.error, breaking.after = error, 5
    explorer = explore()
    with pytest.raises(ExplorerError, match=r"Out of memory: the tree is partial\. Raise"):
        explorer.wait()
    assert explorer.status.state == "partial"
    assert len(explorer.tree) > 1
    browser(explorer).rows.assert_are(explorer.tree)
    breaking.error = None
    explorer.resume()
    assert_same(explorer.wait().tree, grow_tree(subject(), feature=3, **OPTIONS))


def test_too_little_memory_for_the_prompt_says_so(
    explore: Callable[..., FeatureExplorer], breaking: Breaking
) -> None:
    breaking.error = torch.OutOfMemoryError("no room")
    with pytest.raises(ExplorerError, match="too little memory for even the prompt"):
        explore().wait()


def test_the_error_of_another_panel_stays_while_the_tree_grows(
    explore: Callable[..., FeatureExplorer], gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    explorer = explore()
    front_end = browser(explorer)

    def fail(*_given: object, **_options: object) -> None:
        raise ExplorerError("The pattern takes too long.")

    explorer._session.panels["tokens"].run = fail
    gate.let(2)
    front_end.until(lambda: gate.waiting and explorer.status.error)
    gate.let(2)
    told = len(front_end.statuses)
    front_end.until(lambda: len(front_end.statuses) > told + 1)
    assert front_end.status["state"] == "growing"
    assert front_end.status["error"] == "The pattern takes too long."
    gate.open()
    with pytest.raises(ExplorerError, match="takes too long"):
        explorer.wait()
    assert explorer.status.state == "done"


def test_a_feature_that_the_loaded_sae_has_not_can_be_put_right(
    explore: Callable[..., FeatureExplorer],
) -> None:
    explorer = explore(24)
    with pytest.raises(ExplorerError, match="There is no feature 24"):
        explorer.wait()
    assert explorer.tree is None
    assert browser(explorer).state["_subject"]["width"] == 24
    explorer.feature = 23
    assert explorer.wait().tree.request.feature == 23


def test_what_goes_wrong_when_the_subject_is_described_is_told(
    monkeypatch: pytest.MonkeyPatch, explore: Callable[..., FeatureExplorer]
) -> None:
    def none(_self: Subject) -> str:
        raise ExplorerError("The vocabulary has no entry fit as a placeholder.")

    bare = Subject(build_model("gpt2"), build_tokenizer())
    monkeypatch.setattr(Subject, "default_ghost_token", property(none))
    explorer = explore(None, on=bare, token="Ġthe")
    with pytest.raises(ExplorerError, match="no entry fit"):
        explorer.wait()
    assert explorer.status.state == "error"
