"""Messages that were lost or are late come again: each is done once, and answered every time."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Any

import pytest

from explorers import browser
from front_end import FrontEnd
from sae_explorer.widget import html
from sae_explorer.widget.answers import Answers

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
    explore: Callable[..., FeatureExplorer],
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


def test_a_refusal_is_given_again(explore: Callable[..., FeatureExplorer]) -> None:
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


def test_who_asks_again_meanwhile_hears_that_it_is_being_done(
    explore: Callable[..., FeatureExplorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    explorer = explore().wait()
    front_end = browser(explorer)
    begun, go_on = threading.Event(), threading.Event()
    repeat = explorer._session.repeat

    def slowly(run: Any) -> None:
        begun.set()
        assert go_on.wait(60)
        repeat(run)

    monkeypatch.setattr(explorer._session, "repeat", slowly)
    hello = {"type": "hello", "run": None, "rid": "view-1"}
    first = threading.Thread(target=front_end.send, args=(hello,))
    first.start()
    assert begun.wait(60)
    front_end.send(hello)
    assert (front_end.doing, "view-1" in front_end.replies) == (["view-1"], False)
    go_on.set()
    first.join()
    assert front_end.replies["view-1"]["ok"]


def test_only_the_last_answers_are_remembered() -> None:
    answers = Answers()
    for number in range(10_000):
        told = {"type": "run", "rid": f"view{number}-1"}
        answers.to(told, lambda _told: {"ok": True})
    assert len(answers._answers) <= 256
    assert len(answers._decided) <= 256


def setting(number: int, view: str = "view", **values: Any) -> dict[str, Any]:
    return {"type": "set", "values": values, "rid": f"{view}-{number}"}


@pytest.mark.parametrize(
    ("later", "late", "there"),
    [
        (setting(3, scale=3.5), setting(2, scale=2.5), {"scale": 3.5}),
        (setting(10, scale=3.5), setting(9, scale=2.5), {"scale": 3.5}),
        (setting(3, scale=3.5), setting(2, scale=2.5, top_k=7), {"scale": 3.5, "top_k": 7}),
        (setting(3, scale=3.5), {"type": "reset", "rid": "view-2"}, {"scale": 3.5, "top_k": 5}),
        ({"type": "reset", "rid": "view-3"}, setting(2, scale=3.5), {"scale": 2.0}),
        (setting(3, feature=5), setting(2, direction="1 - 2"), {"feature": 5, "direction": None}),
        # Another browser's numbers are others, and what was refused has changed nothing.
        (setting(3, scale=3.5), setting(2, "other", scale=2.5), {"scale": 2.5}),
        (setting(3, scale=-1), setting(2, scale=2.5), {"scale": 2.5}),
    ],
)
def test_a_message_that_is_late_takes_nothing_back(
    explore: Callable[..., FeatureExplorer],
    later: dict[str, Any],
    late: dict[str, Any],
    there: dict[str, Any],
) -> None:
    explorer = explore()
    explorer.update(top_k=6)
    front_end = browser(explorer)
    heard(front_end, later)
    assert heard(front_end, late)["ok"]
    assert {name: getattr(explorer, name) for name in there} == there


def test_a_run_that_is_heard_after_its_cancel_does_not_begin(
    explore: Callable[..., FeatureExplorer],
) -> None:
    explorer = explore().wait()
    front_end = browser(explorer)
    assert heard(front_end, {"type": "cancel", "panel": "scales", "rid": "view-2"})["ok"]
    assert heard(front_end, {"type": "run", "panel": "scales", "rid": "view-1"})["ok"]
    assert explorer.jobs["scales"].state == "idle"


def test_what_was_interrupted_is_answered_though_it_may_be_half_done(
    explore: Callable[..., FeatureExplorer],
) -> None:
    explorer = explore().wait()
    front_end = browser(explorer)
    heard_of: list[Any] = []

    def interrupted(change: Any) -> None:
        heard_of.append(change.new)
        raise KeyboardInterrupt

    explorer.observe(interrupted, "scale")
    message = {"type": "set", "values": {"scale": 2.5}, "rid": "view-1"}
    with pytest.raises(KeyboardInterrupt):
        front_end.send(message)
    first = front_end.replies["view-1"]
    assert not first["ok"]
    assert "interrupted" in first["error"]
    assert heard(front_end, message) == first
    assert heard_of == [2.5]


def test_a_file_is_written_once_however_often_it_is_asked_for_meanwhile(
    explore: Callable[..., FeatureExplorer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    explorer = explore().wait()
    front_end = browser(explorer)
    written = itertools.count()
    write = html.page

    def counted(*given: Any, **options: Any) -> str:
        next(written)
        return write(*given, **options)

    monkeypatch.setattr(html, "page", counted)
    message = {"type": "export", "file": "report.html", "rid": "view-1"}
    assert heard(front_end, message)["file"]["data"]
    # It waited behind the first; whoever lost that answer asks anew.
    assert heard(front_end, message) == {
        "type": "reply",
        "rid": "view-1",
        "ok": True,
        "gone": True,
        "buffers": [],
    }
    assert heard(front_end, {**message, "rid": "view-2"})["file"]["data"]
    assert next(written) == 2


@pytest.mark.parametrize("lost", ["tree", "tokens", "lens"])
def test_a_result_that_did_not_arrive_is_sent_when_a_browser_says_what_it_knows(
    explore: Callable[..., FeatureExplorer],
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
