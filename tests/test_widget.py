"""Claims about the widget, in this process: a tree grows, is streamed, stopped and resumed."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest
import torch

from explorers import (
    OPTIONS,
    REQUESTED,
    Breaking,
    Counted,
    Gate,
    assert_same,
    browser,
    run_nodes,
    small_steps,
    stopped,
    subject,
)
from front_end import FrontEnd, Rows
from sae_explorer import ExplorerError, FeatureExplorer, Subject, grow_tree
from sae_explorer.widget.panels import Status

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("recording")

# --- From the cell to the tree -------------------------------------------------------------------


def test_explorer_is_there_at_once_and_goes_from_loading_to_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small_steps(monkeypatch)
    let_load = threading.Event()
    load = Subject.demo

    def slow(layer: int) -> Subject:
        assert let_load.wait(60)
        return load(layer)

    monkeypatch.setattr(Subject, "demo", slow)
    explorer = FeatureExplorer.demo()
    front_end = browser(explorer)
    assert explorer.subject is None
    assert explorer.tree is None
    assert explorer.status.state == front_end.state["_status"]["state"] == "loading"
    let_load.set()
    assert explorer.wait() is explorer
    states = [status["state"] for status in front_end.statuses]
    order = [state for at, state in enumerate(states) if states[at - 1 : at] != [state]]
    assert order == ["loading", "growing", "done"]
    texts = {status["text"] for status in front_end.statuses if status["state"] == "loading"}
    assert any("dictionary model" in text for text in texts)
    assert front_end.state["_subject"]["model"] == explorer.subject.model_id
    assert front_end.state["_subject"]["featured"][0].keys() == {"feature", "label"}
    explorer.close()


def test_whoever_asks_while_it_is_made_finds_its_state_whole(
    explore: Callable[..., FeatureExplorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[dict[str, Any]] = []
    hear = FrontEnd.hear

    def listen(front_end: FrontEnd, data: dict[str, Any], buffers: Any) -> None:
        heard.append(data)
        hear(front_end, data, buffers)

    monkeypatch.setattr(FrontEnd, "hear", listen)
    explore()
    # A page that is loaded just now makes its view of what opens the line to it.
    state = next(data["state"] for data in heard if "_esm" in data["state"])
    assert state["_status"] == Status().to_dict()
    assert set() < {control["name"] for control in state["_controls"]} <= state["_values"].keys()
    assert list(state["_jobs"]) == REQUESTED


def test_streamed_rows_make_the_tree(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small_steps(monkeypatch)
    explorer = FeatureExplorer.demo().wait()
    front_end = browser(explorer)
    alone = grow_tree(explorer.subject, **explorer.tree.request.to_dict())
    assert explorer.tree == alone
    assert len(front_end.appends) > 3
    streamed = Rows.of(front_end.appends[0])
    for payload in front_end.appends[1:]:
        assert payload["first"] == streamed.settled
        streamed.append(payload)
        streamed.assert_settled(alone)
    front_end.rows.assert_are(alone)
    assert front_end.rows.run == streamed.run == front_end.status["run"]
    assert front_end.status["nodes"] == len(alone)
    assert front_end.status["covered"] == pytest.approx(alone.covered_probability)
    explorer.close()


def test_lift_is_measured_after_the_growth_and_told(
    explore: Callable[..., FeatureExplorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    small_steps(monkeypatch)
    explorer = explore(lift=2).wait()
    told = [(s["text"], s["progress"]) for s in browser(explorer).statuses]
    shares = [share for text, share in told if text == "measuring lift"]
    assert shares
    assert shares == sorted(shares)
    assert explorer.tree.lift is not None
    assert browser(explorer).state["_tree"]["lift"] is not None


def test_rows_come_in_order_whatever_the_cutoff(
    explore: Callable[..., FeatureExplorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    small_steps(monkeypatch)
    for feature, max_nodes in ((3, 50_000), (5, 100)):
        explorer = explore(feature, cutoff=1e-4, max_nodes=max_nodes).wait()
        appends = browser(explorer).appends
        settled = [payload["settled"] for payload in appends]
        assert settled == sorted(settled)
        assert [payload["first"] for payload in appends] == [0, *settled[:-1]]
        nodes = [status["nodes"] for status in browser(explorer).statuses]
        assert nodes == sorted(nodes)
        thresholds = [s["threshold"] for s in browser(explorer).statuses if s["nodes"]]
        assert thresholds == sorted(thresholds, reverse=True)
        browser(explorer).rows.assert_are(explorer.tree)
        assert explorer.tree.status == ("budget" if max_nodes == 100 else "complete")


def test_wait_in_a_coroutine_leaves_the_loop_free(explore: Callable[..., FeatureExplorer]) -> None:
    ticks = []

    async def tick() -> None:
        while True:
            ticks.append(1)
            await asyncio.sleep(0)

    async def main() -> Any:
        ticking = asyncio.ensure_future(tick())
        explorer = await explore()
        ticking.cancel()
        return explorer.tree

    assert_same(asyncio.run(main()), grow_tree(subject(), feature=3, **OPTIONS))
    assert ticks


def test_a_cancelled_coroutine_cancels_the_growth(
    explore: Callable[..., FeatureExplorer], gate: Gate
) -> None:
    explorer = explore()

    async def main() -> None:
        await asyncio.wait_for(explorer, 0.2)

    gate.let(3)
    with pytest.raises(TimeoutError):
        asyncio.run(main())
    gate.open()
    assert explorer.wait().tree.partial


def test_wait_gives_up_in_time_and_the_work_goes_on(
    explore: Callable[..., FeatureExplorer], gate: Gate
) -> None:
    explorer = explore()
    with pytest.raises(TimeoutError, match="still growing"):
        explorer.wait(timeout=0.05)
    gate.open()
    assert explorer.wait(timeout=60).status.state == "done"


# --- A client that loses messages, or comes late -------------------------------------------------


def test_a_client_that_lost_rows_asks_for_them(
    explore: Callable[..., FeatureExplorer], gate: Gate
) -> None:
    explorer = explore()
    front_end = browser(explorer)
    gate.let(3)
    front_end.until(lambda: front_end.appends)
    front_end.losing = True
    told = len(front_end.statuses)
    gate.let(3)
    front_end.until(lambda: len(front_end.statuses) >= told + 3)
    front_end.losing = False
    gate.let(2)
    front_end.until(lambda: front_end.gap)
    run, first = front_end.gap
    assert first == front_end.rows.settled
    assert front_end.ask({"type": "since", "panel": "tree", "run": run, "first": first})["ok"]
    assert front_end.rows.settled > first
    gate.open()
    explorer.wait()
    front_end.rows.assert_are(explorer.tree)


def test_a_page_that_is_reloaded_gets_all_rows_so_far(
    explore: Callable[..., FeatureExplorer], gate: Gate
) -> None:
    explorer = explore()
    front_end = browser(explorer)
    gate.let(6)
    front_end.until(lambda: len(front_end.appends) > 2)
    front_end.until(lambda: gate.waiting)
    before = front_end.rows
    front_end.rows = None
    front_end.appends.clear()
    assert front_end.ask({"type": "hello"})["ok"]
    assert front_end.appends[0]["first"] == 0
    assert front_end.rows == before
    assert front_end.status["state"] == "growing"
    gate.open()
    explorer.wait()
    front_end.rows.assert_are(explorer.tree)


def test_since_an_old_run_sends_no_rows_and_any_row_is_answered(
    explore: Callable[..., FeatureExplorer], gate: Gate
) -> None:
    explorer = explore()
    front_end = browser(explorer)
    gate.let(4)
    front_end.until(lambda: front_end.rows and gate.waiting)
    front_end.appends.clear()
    run, settled = front_end.rows.run, front_end.rows.settled

    def since(run: int, first: int) -> list[int]:
        front_end.appends.clear()
        assert front_end.ask({"type": "since", "panel": "tree", "run": run, "first": first})["ok"]
        return [payload["first"] for payload in front_end.appends]

    assert since(run - 1, 0) == []
    assert since(run, 10**9) == [settled]
    assert since(run, -5) == [0]


# --- Cancel and resume ---------------------------------------------------------------------------


def test_cancel_keeps_a_partial_tree_of_real_rows(
    explore: Callable[..., FeatureExplorer], gate: Gate
) -> None:
    explorer = explore()
    partial = stopped(explorer, gate)
    front_end = browser(explorer)
    assert explorer.status.state == front_end.state["_status"]["state"] == "partial"
    assert explorer.status.resumable
    assert explorer.status.error is None
    assert partial.partial
    front_end.rows.assert_are(partial)
    gate.open()
    whole = grow_tree(subject(), feature=3, **OPTIONS)
    assert 1 < len(partial) < len(whole)
    rows = {tuple(whole.token_id[whole.path(row)]): row for row in range(len(whole))}
    for row in range(len(partial)):
        same = rows[tuple(partial.token_id[partial.path(row)])]
        assert partial.probability[row] == pytest.approx(whole.probability[same], rel=1e-4)


def test_resume_ends_with_the_tree_of_an_uninterrupted_growth(
    explore: Callable[..., FeatureExplorer], gate: Gate, decoders: list[Counted]
) -> None:
    explorer = explore()
    stopped(explorer, gate)
    assert browser(explorer).ask({"type": "resume"})["ok"]
    assert explorer.status.state == "growing"
    stopped(explorer, gate, 2)
    gate.open()
    explorer.resume()
    explorer.wait()
    assert explorer.status.state == "done"
    (decoder,) = decoders
    assert decoder.extended == run_nodes(explorer.tree)
    assert_same(explorer.tree, grow_tree(subject(), feature=3, **OPTIONS))
    browser(explorer).rows.assert_are(explorer.tree)
    with pytest.raises(ExplorerError, match="no partial tree"):
        explorer.resume()


def test_cancel_before_anything_has_grown_keeps_what_was_shown(
    explore: Callable[..., FeatureExplorer], gate: Gate
) -> None:
    gate.let(float("inf"))
    explorer = explore().wait()
    before = explorer.tree
    for hurried in (False, True):
        explorer.scale = 3.0 + hurried
        if hurried:
            explorer._session.hurry()
        explorer.cancel()
        explorer.wait()
        assert explorer.tree is before
        assert browser(explorer).rows is not None
        browser(explorer).rows.assert_are(before)
        # It is not the answer to the options, and the widget must not say that all is done.
        assert explorer.status.state == "partial"
        assert explorer.status.resumable
    explorer.resume()
    assert explorer.wait().tree.request.scale == 4.0
    assert explorer.status.state == "done"


def test_cancel_of_a_change_during_the_first_growth_leaves_no_endless_loading(
    explore: Callable[..., FeatureExplorer], gate: Gate
) -> None:
    explorer = explore()
    gate.let(3)
    browser(explorer).until(lambda: browser(explorer).appends)
    explorer.scale = 3.0
    explorer.cancel()
    gate.open()
    explorer.wait()
    assert explorer.status.state == "partial"
    explorer.resume()
    assert explorer.wait().tree.request.scale == 3.0


def test_resume_after_a_change_that_was_cancelled_grows_what_the_options_say(
    explore: Callable[..., FeatureExplorer], gate: Gate
) -> None:
    explorer = explore()
    stopped(explorer, gate)
    explorer.scale = 3.0
    explorer.cancel()
    gate.open()
    explorer.resume()
    explorer.wait()
    assert_same(explorer.tree, grow_tree(subject(), feature=3, **{**OPTIONS, "scale": 3.0}))


# --- What is left in the end ---------------------------------------------------------------------


def test_the_model_is_left_as_it_was(
    explore: Callable[..., FeatureExplorer], gate: Gate, breaking: Breaking
) -> None:
    model = subject().model
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    explorer = explore()
    stopped(explorer, gate)
    gate.open()
    explorer.resume()
    explorer.wait()
    breaking.error, breaking.after = RuntimeError("broken off"), 2
    explorer.update(scale=3.0, centroid=True)
    with pytest.raises(ExplorerError):
        explorer.wait()
    breaking.error = None
    explorer.update(token="Ġthe", pca=(0.1,))
    explorer.wait()
    breaking.remove()
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name])
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert not model.training


def test_a_closed_explorer_holds_nothing_and_does_nothing(
    explore: Callable[..., FeatureExplorer],
) -> None:
    explorer = explore(feature=3).wait()
    explorer.close()
    assert explorer.tree is None
    assert explorer.subject is None
    with pytest.raises(ExplorerError, match="was closed"):
        explorer.feature = 5
    with pytest.raises(ExplorerError, match="was closed"):
        explorer.retry()
