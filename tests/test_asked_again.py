"""Messages that were lost or are late come again: each is done once, and answered every time."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest

from front_end import FrontEnd
from sae_explorer.widget.protocol import Answers
from test_widget import _recording, browser, explore  # noqa: F401 - fixtures

if TYPE_CHECKING:
    from collections.abc import Callable

    from sae_explorer import FeatureExplorer


def heard(front_end: FrontEnd, message: dict[str, Any]) -> dict[str, Any]:
    """Send a message under its own number; return what came back for it."""
    front_end.replies.pop(message["rid"], None)
    front_end.send(message)
    reply: dict[str, Any] = front_end.replies[message["rid"]]
    return reply


def test_what_is_asked_twice_under_one_number_is_done_once(
    explore: Callable[..., FeatureExplorer],  # noqa: F811
) -> None:
    explorer = explore().wait()
    front_end = browser(explorer)
    changes: list[Any] = []
    explorer.observe(lambda change: changes.append(change.new), "scale")
    first = {"type": "set", "values": {"scale": 2.5}, "rid": "view-1"}
    assert heard(front_end, first)["ok"]
    assert heard(front_end, {"type": "set", "values": {"scale": 3.5}, "rid": "view-2"})["ok"]
    assert heard(front_end, first)["ok"]
    assert changes == [2.5, 3.5]
    assert explorer.scale == 3.5


def test_a_refusal_is_given_again(explore: Callable[..., FeatureExplorer]) -> None:  # noqa: F811
    front_end = browser(explore().wait())
    wrong = {"type": "set", "values": {"scale": -1}, "rid": "view-1"}
    assert heard(front_end, wrong) == heard(front_end, wrong)
    assert "scale" in front_end.replies["view-1"]["error"]


def test_a_message_that_is_being_done_is_not_begun_again() -> None:
    answers, done = Answers(), itertools.count()
    told = {"type": "set", "rid": "view-1"}

    def answer(told: Any) -> dict[str, Any]:
        next(done)
        assert answers.to(told, answer) is None
        return {"ok": True}

    assert answers.to(told, answer) == {"ok": True}
    assert next(done) == 1


def test_only_the_last_answers_are_remembered() -> None:
    answers = Answers()
    for number in range(10_000):
        answers.to({"type": "reset", "rid": str(number)}, lambda _told: {"ok": True})
    assert len(answers._answers) <= 256


@pytest.mark.parametrize("lost", ["tree", "tokens", "lens"])
def test_a_result_that_did_not_arrive_is_sent_when_a_browser_says_what_it_knows(
    explore: Callable[..., FeatureExplorer],  # noqa: F811
    lost: str,
) -> None:
    explorer = explore().wait()
    front_end = browser(explorer)
    known = {name: front_end.state[f"_{name}"]["number"] for name in ("tree", "tokens", "lens")}
    before = front_end.state.pop(f"_{lost}")
    others = {name: front_end.state.pop(f"_{name}") for name in known if name != lost}
    told = {"type": "hello", "run": 1, "known": {**known, lost: None}, "rid": "view-1"}
    assert heard(front_end, told)["ok"]
    assert front_end.state[f"_{lost}"] == before
    # What had arrived stays away: a tree may be large.
    assert not any(f"_{name}" in front_end.state for name in others)
