"""Claims about the widget, in this process: a recording comm, played by a front-end, real models."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import subprocess
import sys
import threading
import weakref
from functools import cache
from typing import TYPE_CHECKING, Any

import comm
import numpy as np
import pytest
import torch
from comm.base_comm import BaseComm

from front_end import FrontEnd, Rows, numbers
from hub import gemma_stand_in, serving
from sae_explorer import (
    ExplorerError,
    FeatureExplorer,
    Subject,
    grow_tree,
    rank_tokens,
)
from sae_explorer.analyses import logit_lens, trees
from sae_explorer.analyses.tokens import TokenRequest
from sae_explorer.request import options as options_of
from sae_explorer.request import schema
from sae_explorer.studied_sae import StudiedSAE
from sae_explorer.widget import session
from sae_explorer.widget.protocol import choices
from zoo import build_model, build_sae, build_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from sae_explorer import DefinitionTree
    from sae_explorer.loading.downloads import Tell
    from sae_explorer.loading.registry import Entry

OPTIONS: dict[str, Any] = {
    "weights": "decoder",
    "scale": 2.0,
    "cutoff": 1e-3,
    "max_depth": 6,
    "ghost_token": "<unused0>",
}


@cache
def subject(architecture: str = "llama") -> Subject:
    model = build_model(architecture)
    subject = Subject(model, build_tokenizer(), build_sae(model.config.hidden_size))
    grow_tree(subject, feature=0, **OPTIONS)  # what is tried out on a model's first use
    return subject


class Recording(BaseComm):
    """A comm whose other end is a :class:`FrontEnd`."""

    def __init__(self, **details: Any) -> None:
        self.front_end = FrontEnd(self._from_browser)
        super().__init__(**details)

    def publish_msg(
        self, msg_type: str, data: Any = None, _metadata: Any = None, buffers: Any = None, **_: Any
    ) -> None:
        if msg_type in ("comm_open", "comm_msg"):
            self.front_end.hear(data, buffers or [])

    def _from_browser(self, content: dict[str, Any]) -> None:
        self.deliver({"method": "custom", "content": content})

    def deliver(self, data: dict[str, Any], buffers: Sequence[bytes] = ()) -> None:
        self.handle_msg({"content": {"data": data}, "buffers": [*buffers]})


@pytest.fixture(autouse=True)
def _recording(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comm, "create_comm", Recording)


@pytest.fixture
def explore() -> Iterator[Callable[..., FeatureExplorer]]:
    """Return what makes explorers; they are closed in the end."""
    with contextlib.ExitStack() as stack:

        def make(feature: int | None = 3, on: Subject | None = None, **given: Any) -> Any:
            given = {**OPTIONS, **given}
            explorer = FeatureExplorer(feature, subject=on or subject(), **given)
            stack.callback(explorer.close)
            return explorer

        yield make


def browser(explorer: FeatureExplorer) -> FrontEnd:
    front_end: FrontEnd = explorer.comm.front_end
    return front_end


class Gate:
    """Stands before a model's forward: they go through one by one, as the test lets them."""

    def __init__(self, model: torch.nn.Module, seconds: float = 60) -> None:
        self._left = 0.0
        self._seconds = seconds
        self._changed = threading.Condition()
        self.waiting = False
        self._handle = model.register_forward_pre_hook(self._pass)

    def _pass(self, *_: object) -> None:
        with self._changed:
            self.waiting = True
            assert self._changed.wait_for(lambda: self._left > 0, timeout=self._seconds)
            self.waiting = False
            self._left -= 1

    def let(self, count: float = 1) -> None:
        with self._changed:
            self._left += count
            self._changed.notify_all()

    def shut(self) -> None:
        self._left = 0.0

    def open(self) -> None:
        self._handle.remove()
        self.let(float("inf"))


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Return a gate before the model of `subject`; trees take small steps and tell of each."""
    small_steps(monkeypatch)
    gate = Gate(subject().model)
    yield gate
    gate.open()


def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "chunk_size", lambda _device: 16)
    monkeypatch.setattr(session, "_INTERVAL", 0.0)
    monkeypatch.setattr(session, "_TELLING", float("inf"))


class Counted:
    """A real decoder that counts."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        self.starts = self.extended = 0

    def start(self, prompts: Any) -> Any:
        self.starts += len(prompts)
        return self._decoder.start(prompts)

    def extend(self, prefixes: Any, tokens: Any) -> Any:
        self.extended += len(tokens)
        return self._decoder.extend(prefixes, tokens)

    def release(self, start: int) -> None:
        self._decoder.release(start)


@pytest.fixture
def decoders(monkeypatch: pytest.MonkeyPatch) -> list[Counted]:
    """Return a list to which every decoder of a tree is added."""
    subject()  # made before: trying a model out opens one as well
    opened: list[Counted] = []
    real = trees.open_decoder

    def open_decoder(*given: Any) -> Any:
        opened.append(Counted(real(*given)))
        return opened[-1]

    monkeypatch.setattr(trees, "open_decoder", open_decoder)
    return opened


def run_nodes(tree: DefinitionTree) -> int:
    """Return how many nodes of a tree were run besides its root."""
    return int(tree.expanded[1:].sum())


def assert_same(tree: DefinitionTree | None, other: DefinitionTree) -> None:
    """Assert that two trees are the same up to rounding, which depends on what runs together."""
    assert tree is not None
    assert tree.request == other.request
    assert tree.status == other.status
    np.testing.assert_array_equal(tree.token_id, other.token_id)
    np.testing.assert_array_equal(tree.parent, other.parent)
    np.testing.assert_allclose(tree.probability, other.probability, rtol=1e-4)


# --- From the cell to the tree ------------------------------------------------------------------


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


def stopped(explorer: FeatureExplorer, gate: Gate, steps: int = 4) -> DefinitionTree:
    """Cancel after some steps; return the partial tree."""
    gate.let(steps)
    front_end = browser(explorer)
    front_end.until(lambda: len(front_end.statuses) > steps and gate.waiting)
    assert front_end.ask({"type": "cancel"})["ok"]
    gate.let(1)  # the step that is under way
    explorer.wait()
    return explorer.tree


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


# --- What a change costs -------------------------------------------------------------------------


def test_lowering_only_the_cutoff_runs_nothing_again(
    explore: Callable[..., FeatureExplorer],
    decoders: list[Counted],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small_steps(monkeypatch)
    explorer = explore(cutoff=1e-2).wait()
    front_end = browser(explorer)
    high = len(explorer.tree)
    run = front_end.rows.run
    for cutoff in (3e-3, 1e-3):
        front_end.appends.clear()
        explorer.cutoff = cutoff
        explorer.wait()
        assert front_end.appends[0]["first"] == high
        high = len(explorer.tree)
    assert front_end.rows.run == run
    (decoder,) = decoders
    assert decoder.starts == 1
    assert decoder.extended == run_nodes(explorer.tree)
    low = grow_tree(subject(), feature=3, **OPTIONS)
    assert_same(explorer.tree, low)
    front_end.rows.assert_are(explorer.tree)


def test_lowering_the_cutoff_while_the_tree_grows_runs_nothing_again(
    explore: Callable[..., FeatureExplorer], decoders: list[Counted], gate: Gate
) -> None:
    explorer = explore(cutoff=1e-2)
    gate.let(3)
    browser(explorer).until(lambda: browser(explorer).appends)
    explorer.cutoff = 3e-3
    explorer._session.hurry()
    gate.let(3)
    explorer.cutoff = 1e-3
    gate.open()
    explorer.wait()
    (decoder,) = decoders
    assert decoder.starts == 1
    assert decoder.extended == run_nodes(explorer.tree)
    assert_same(explorer.tree, grow_tree(subject(), feature=3, **OPTIONS))
    browser(explorer).rows.assert_are(explorer.tree)


@pytest.mark.parametrize(
    "change",
    [
        {"cutoff": 5e-3},
        {"scale": 3.0},
        {"weights": "encoder"},
        {"weights": (0.5, 0.5)},
        {"centroid": True},
        {"pca": (0.25,)},
        {"top_k": 3},
        {"max_depth": 2},
        {"max_nodes": 20},
        {"feature": 4},
        {"token": "Ġthe"},
        {"prompt": 'The meaning of "{ghost}" would be "'},
        {"cutoff": 5e-4, "scale": 3.0},
    ],
    ids=str,
)
def test_any_other_change_grows_the_tree_anew(
    explore: Callable[..., FeatureExplorer], decoders: list[Counted], change: dict[str, Any]
) -> None:
    explorer = explore().wait()
    run = browser(explorer).rows.run
    explorer.update(**change)
    explorer.wait()
    assert len(decoders) == 2
    expected = grow_tree(
        subject(), **({"feature": 3} if "token" not in change else {}) | OPTIONS | change
    )
    assert explorer.tree == expected
    assert browser(explorer).rows.run > run
    browser(explorer).rows.assert_are(expected)


@pytest.mark.parametrize(
    "change",
    [
        {"exponent": 2.5},
        {"pattern": "^ "},
        {"script": "Latin"},
        {"leading_space": True},
        {"limit": 7},
    ],
    ids=str,
)
def test_options_of_the_tokens_do_not_touch_the_tree(
    explore: Callable[..., FeatureExplorer], decoders: list[Counted], change: dict[str, Any]
) -> None:
    explorer = explore().wait()
    tree, lens = explorer.tree, explorer.lens
    told = len(browser(explorer).appends)
    explorer.update(**change)
    explorer.wait()
    assert explorer.tree is tree
    assert explorer.lens is lens
    assert len(browser(explorer).appends) == told
    assert len(decoders) == 1
    assert explorer.tokens == rank_tokens(subject(), **explorer.tokens.request.to_dict())
    assert {**explorer.tokens.request.to_dict(), **change} == explorer.tokens.request.to_dict()


def test_changes_in_quick_succession_grow_one_tree(
    explore: Callable[..., FeatureExplorer], decoders: list[Counted]
) -> None:
    explorer = explore().wait()
    for scale in np.linspace(2.1, 4, 20):
        explorer.scale = scale
    explorer.wait()
    assert len(decoders) == 2
    assert explorer.tree.request.scale == explorer.scale == 4.0


# --- Two explorers on one model ------------------------------------------------------------------


def test_two_explorers_growing_at_once_do_not_disturb_each_other(
    explore: Callable[..., FeatureExplorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    small_steps(monkeypatch)
    other = {"weights": "encoder", "scale": 3.0}
    pair = [explore(3), explore(7, **other)]
    for explorer, expected in zip(
        pair,
        [
            grow_tree(subject(), feature=3, **OPTIONS),
            grow_tree(subject(), feature=7, **{**OPTIONS, **other}),
        ],
        strict=True,
    ):
        explorer.wait()
        assert explorer.tree == expected
        browser(explorer).rows.assert_are(expected)


def test_a_long_tree_does_not_keep_the_tokens_of_another_explorer_waiting(
    explore: Callable[..., FeatureExplorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trees, "chunk_size", lambda _device: 1)
    long = explore(3, cutoff=1e-7, max_depth=40, max_nodes=None)
    browser(long).until(lambda: browser(long).appends)
    other = explore(7)
    browser(other).until(lambda: other.tokens is not None and other.lens is not None)
    assert long.status.state == "growing"
    browser(other).until(lambda: other.tree is not None)
    assert long.status.state == "growing"
    long.cancel()
    assert long.wait().tree.partial


# --- Options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("scale", -1, "scale is -1"),
        ("scale", "long", "auto"),
        ("scale", float("nan"), "scale is nan"),
        ("cutoff", 0, "above 0"),
        ("cutoff", None, "cutoff is None"),
        ("feature", 24, "There is no feature 24"),
        ("feature", -1, "at least 0"),
        ("feature", None, "Give one of feature"),
        ("prompt", "no place for it", "no placeholder"),
        ("weights", "decodr", "'decoder'"),
        ("weights", (0, 0), "not both 0"),
        ("pca", (0.7, 0.7), "add up to"),
        ("top_k", 321, "320"),
        ("ghost_token", "not one token", "no single token"),
        ("pattern", "(", "no regular expression"),
        ("script", "Latn", "Did you mean 'Latin'"),
        ("vector", (1.0, 2.0), "2 numbers"),
    ],
)
def test_a_value_that_cannot_be_is_refused_and_nothing_changes(
    explore: Callable[..., FeatureExplorer], name: str, value: Any, words: str
) -> None:
    explorer = explore().wait()
    front_end = browser(explorer)
    before, tree, state = dict(explorer._session.values), explorer.tree, dict(front_end.state)
    with pytest.raises(ExplorerError) as raised:
        setattr(explorer, name, value)
    assert words in str(raised.value)
    with pytest.raises(ExplorerError):
        explorer.update(**{"exponent": 3.0, name: value})
    sendable = "NaN" if value != value else value  # JSON has none
    reply = front_end.ask({"type": "set", "values": {"exponent": 3.0, name: sendable}})
    assert not reply["ok"]
    assert "fault in sae-explorer" not in reply["error"]
    assert {name: getattr(explorer, name) for name in before} == before == explorer._session.values
    assert explorer.tree is tree
    assert explorer.status.state == "done"
    assert front_end.state == state


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"scal": 2.0}, "no option 'scal'. Did you mean 'scale'"),
        ({"scale": -1.0}, "scale is -1"),
        ({"feature": 3, "token": "the"}, "feature and token were given"),
        ({"release": "gemma-2b-res-jb"}, "subject= was given together with release"),
        ({"layer": 9}, "no SAE at layer 9"),
        ({"layers": [1]}, "subject= was given together with layers"),
        ({"model_kwargs": {"dtype": "float16"}}, "model_kwargs holds dtype"),
    ],
    ids=str,
)
def test_an_explorer_that_cannot_be_made_says_why(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ExplorerError) as raised:
        FeatureExplorer(subject=subject(), **given)
    assert words in str(raised.value)


def test_setting_a_source_ends_the_others(explore: Callable[..., FeatureExplorer]) -> None:
    explorer = explore().wait()
    sources: list[tuple[str, Any]] = [
        ("token", "Ġthe"),
        ("vector", tuple(float(n) for n in range(48))),
        ("embedding", tuple(n / 10 for n in range(48))),
        ("feature", 5),
    ]
    for name, value in sources:
        setattr(explorer, name, value)
        explorer.wait()
        for source in session.SOURCES:
            assert getattr(explorer, source) == (value if source == name else None)
            assert getattr(explorer.tree.request, source) == getattr(explorer, source)
            assert getattr(explorer.tokens.request, source) == getattr(explorer, source)
        shown = browser(explorer).state["_values"]
        assert shown[name] == (list(value) if isinstance(value, tuple) else value)
        assert explorer.tree == grow_tree(subject(), **{**OPTIONS, name: value})


def test_a_token_has_no_logit_lens(explore: Callable[..., FeatureExplorer]) -> None:
    explorer = explore().wait()
    assert explorer.lens == logit_lens.run(subject(), explorer.lens.request)
    explorer.token = "Ġthe"
    explorer.wait()
    assert explorer.lens is None
    assert browser(explorer).state["_lens"] is None
    explorer.feature = 3
    assert explorer.wait().lens is not None


def test_options_are_observed_and_an_observer_may_wait(
    explore: Callable[..., FeatureExplorer],
) -> None:
    explorer = explore().wait()
    seen = []

    def changed(change: dict[str, Any]) -> None:
        seen.append((change["old"], change["new"], explorer.wait().tree.request.scale))

    explorer.observe(changed, "scale")
    explorer.scale = 3
    explorer.exponent = 2.0
    assert browser(explorer).ask({"type": "set", "values": {"scale": 4.5}})["ok"]
    explorer.scale = 4.5
    with pytest.raises(ExplorerError):
        explorer.scale = -1
    assert seen == [(2.0, 3.0, 3.0), (3.0, 4.5, 4.5)]


def test_an_observer_that_fails_leaves_trait_and_view_the_same(
    explore: Callable[..., FeatureExplorer],
) -> None:
    explorer = explore().wait()

    def changed(_change: dict[str, Any]) -> None:
        raise RuntimeError("not my day")

    explorer.observe(changed, "scale")
    with pytest.raises(RuntimeError):
        explorer.update(scale=3.0, centroid=True)
    explorer.unobserve_all()
    explorer.wait()
    shown = browser(explorer).state["_values"]
    for name, value in {"scale": 3.0, "centroid": True}.items():
        assert getattr(explorer, name) == shown[name] == getattr(explorer.tree.request, name)
        assert value == shown[name]


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (RuntimeError("not my day"), "RuntimeError: not my day"),
        (ExplorerError("scale is 9."), "scale is 9."),
    ],
    ids=["another's error", "an error of the explorer"],
)
def test_the_browser_is_told_that_a_change_was_made_though_an_observer_failed(
    explore: Callable[..., FeatureExplorer], raised: Exception, said: str
) -> None:
    explorer = explore().wait()

    def changed(_change: dict[str, Any]) -> None:
        raise raised

    explorer.observe(changed, "feature")
    told = browser(explorer).ask({"type": "set", "values": {"direction": "3 - 5"}})
    assert told["error"] == (
        f"The change was made, but code that observes the explorer failed: {said}"
    )
    assert browser(explorer).state["_values"]["feature"] is None
    assert explorer.feature is None
    assert str(explorer.wait().tree.request.direction) == str(explorer.direction)
    # What the explorer itself refuses was not done.
    refused = browser(explorer).ask({"type": "set", "values": {"scale": -1}})["error"]
    assert "observes" not in refused
    with pytest.raises(type(raised)) as failed:
        explorer.feature = 5
    assert failed.value is raised


@pytest.mark.parametrize("name", ["pca", "targets", "interventions", "strengths"])
def test_setting_an_option_to_what_it_is_changes_nothing(
    explore: Callable[..., FeatureExplorer], name: str
) -> None:
    explorer = explore().wait()
    changes: list[Any] = []
    explorer.observe(changes.append, name)
    before = getattr(explorer, name)
    assert isinstance(before, tuple)
    explorer.update(**{name: list(before)})
    assert changes == []


def test_changes_from_two_threads_end_in_one_state(
    explore: Callable[..., FeatureExplorer],
) -> None:
    explorer = explore(cutoff=0.1).wait()

    def change(start: float) -> None:
        for step in range(100):
            explorer.scale = start + step / 100

    threads = [threading.Thread(target=change, args=(start,)) for start in (1.0, 3.0, 5.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    explorer.wait()
    shown = browser(explorer).state["_values"]["scale"]
    assert explorer.scale == shown == explorer._session.values["scale"]
    assert explorer.tree.request.scale == shown


def test_reset_goes_back_to_what_the_explorer_was_made_with(
    explore: Callable[..., FeatureExplorer],
) -> None:
    explorer = explore(exponent=2.0).wait()
    tree = explorer.tree
    explorer.update(scale=4.0, exponent=3.0, centroid=True, feature=5)
    assert browser(explorer).ask({"type": "reset"})["ok"]
    assert (explorer.scale, explorer.exponent, explorer.centroid) == (2.0, 2.0, False)
    assert explorer.feature == 5
    explorer.feature = 3
    assert explorer.wait().tree == tree


def test_every_option_of_the_analyses_is_a_trait_and_a_control(
    explore: Callable[..., FeatureExplorer],
) -> None:
    explorer = explore().wait()
    for request in (trees.TreeRequest, TokenRequest):
        for entry in schema(request):
            assert explorer.has_trait(entry["name"])
    controls = {entry["name"] for entry in browser(explorer).state["_controls"]}
    assert controls == set(session.OPTIONS) - set(session.SOURCES)
    assert browser(explorer).state["_values"].keys() == session.OPTIONS.keys()


# --- What goes wrong -----------------------------------------------------------------------------


class Breaking:
    """Makes the forwards of a model fail."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.error: BaseException | None = None
        self.after = 0
        self._handle = model.register_forward_pre_hook(self._pass)

    def _pass(self, *_: object) -> None:
        self.after -= 1
        if self.error is not None and self.after < 0:
            raise self.error

    def remove(self) -> None:
        self._handle.remove()


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> Iterator[Breaking]:
    small_steps(monkeypatch)
    breaking = Breaking(subject().model)
    yield breaking
    breaking.remove()


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
    assert front_end.ask({"type": "run"})["ok"]
    explorer.wait()
    assert explorer.status.state == "done"
    assert explorer.status.error is None
    assert explorer.tree == grow_tree(subject(), feature=3, **{**OPTIONS, "scale": 3.0})
    front_end.rows.assert_are(explorer.tree)


def test_out_of_memory_keeps_what_has_grown(
    explore: Callable[..., FeatureExplorer], breaking: Breaking
) -> None:
    breaking.error, breaking.after = torch.OutOfMemoryError("no room"), 5
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


def test_a_release_that_does_not_exist_is_an_error_in_the_widget() -> None:
    explorer = FeatureExplorer(release="gemma-2b-res-jbb", layer=12)
    with pytest.raises(ExplorerError, match="gemma-2b-res-jb"):
        explorer.wait()
    status = browser(explorer).state["_status"]
    assert status["state"] == "error"
    assert "gemma-2b-res-jb" in status["error"]
    assert explorer.subject is None
    assert browser(explorer).ask({"type": "run"})["ok"]
    with pytest.raises(ExplorerError, match="gemma-2b-res-jb"):
        explorer.wait()
    explorer.close()


def test_loading_can_be_cancelled_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    let_load = threading.Event()
    load = Subject.demo

    def slow(layer: int) -> Subject:
        assert let_load.wait(60)
        return load(layer)

    monkeypatch.setattr(Subject, "demo", slow)
    explorer = FeatureExplorer.demo(cutoff=1e-2)
    assert browser(explorer).ask({"type": "cancel"})["ok"]
    with pytest.raises(ExplorerError, match="Loading was cancelled"):
        explorer.wait()
    let_load.set()
    explorer.retry()
    assert explorer.wait().tree is not None
    explorer.close()


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


# --- Subjects without an SAE ---------------------------------------------------------------------


def test_vectors_need_no_sae(explore: Callable[..., FeatureExplorer]) -> None:
    bare = Subject(build_model("llama"), build_tokenizer())
    vector = np.linspace(-1, 1, 48)
    explorer = explore(None, on=bare, vector=vector).wait()
    assert explorer.tree == grow_tree(bare, vector=vector, **OPTIONS)
    assert explorer.tokens is not None
    assert explorer.lens is not None
    shown = browser(explorer).state["_subject"]
    assert (shown["sae"], shown["width"], shown["layer"]) == ("", 0, None)
    with pytest.raises(ExplorerError, match="no SAE, so it has no features"):
        explorer.feature = 3
    assert explorer.feature is None


# --- One SAE of several --------------------------------------------------------------------------

RELEASE = "gemma-2b-res-jb"


def of_release(layer: int, features: int = 24) -> StudiedSAE:
    """Return a small SAE in the place of one of the release's."""
    sae = build_sae(48, features=features, layer=layer, seed=layer)
    return StudiedSAE(sae, f"blocks.{layer}.hook_resid_post", RELEASE)


@cache
def several() -> Subject:
    """Return a model with SAEs at layers 0 and 6, the latter selected, as if of the release."""
    model = build_model("gemma", layers=13)
    both = Subject(model, build_tokenizer(), [of_release(0), of_release(6)]).select(layer=6)
    grow_tree(both, feature=0, **OPTIONS)  # what is tried out on a model's first use
    return both


class Shelf:
    """Where more SAEs are fetched from, once the test lets them go."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.asked: list[int | None] = []
        self.features = 24
        self.error: Exception | None = None

    def __call__(self, subject: Subject, entry: Entry, tell: Tell) -> Subject:
        assert entry.layer is not None
        self.asked.append(entry.layer)
        tell(f"downloading {entry.sae_id}: 0.1 of 0.4 GB", 0.25)
        while not self.open.wait(0.01):
            tell(f"downloading {entry.sae_id}: 0.2 of 0.4 GB", 0.5)
        if self.error is not None:
            raise self.error
        return subject.with_sae(of_release(entry.layer, self.features))


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    shelf = Shelf()
    yield shelf
    shelf.open.set()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Return a gate before the model of `several`, which is open; trees tell of each step."""
    small_steps(monkeypatch)
    gate = Gate(several().model)
    gate.let(float("inf"))
    yield gate
    gate.open()


@pytest.fixture
def look(shelf: Shelf) -> Iterator[Callable[..., FeatureExplorer]]:
    """Return what makes explorers of `several`, to which the shelf's SAEs can be added."""
    with contextlib.ExitStack() as stack:

        def make(**given: Any) -> Any:
            explorer = FeatureExplorer.__new__(FeatureExplorer)
            stack.callback(explorer.close)
            given = {"feature": 3, **OPTIONS, **given}
            explorer._begin(lambda _tell: several(), given, add=shelf)
            return explorer

        yield make


def assert_shows(explorer: FeatureExplorer, on: Subject, **changed: Any) -> None:
    """Assert that every panel, the header and Python are about an SAE."""
    options = {"feature": 3, **OPTIONS, **changed}
    assert_same(explorer.tree, grow_tree(on, **options))
    assert explorer.tokens == rank_tokens(on, **explorer.tokens.request.to_dict())
    described = on.sae.describe()
    for result in (explorer.tree, explorer.tokens, explorer.lens):
        assert result.provenance.sae == described
    shown = browser(explorer).state["_subject"]
    assert (shown["sae"], shown["layer"]) == (on.sae.sae_id, on.sae.layer)
    assert (explorer.sae_id, explorer.layer) == (on.sae.sae_id, on.sae.layer)
    assert f'"sae":"{on.sae.sae_id}"' in explorer.to_html()


def ask(explorer: FeatureExplorer, sae_id: str) -> None:
    """Choose an SAE in the browser's menu."""
    (choice,) = (
        choice
        for choice in browser(explorer).state["_subject"]["saes"]
        if choice["sae_id"] == sae_id
    )
    message = {"type": "select", "release": choice["release"], "sae_id": sae_id}
    assert browser(explorer).ask(message)["ok"]


FIRST = "blocks.0.hook_resid_post"
WAYS: dict[str, Callable[[FeatureExplorer], object]] = {
    "select(layer=)": lambda explorer: explorer.select(layer=0),
    "select(sae_id=)": lambda explorer: explorer.select(sae_id=FIRST),
    "layer =": lambda explorer: setattr(explorer, "layer", 0),
    "sae_id =": lambda explorer: setattr(explorer, "sae_id", FIRST),
    "the menu": lambda explorer: ask(explorer, FIRST),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_sae_that_is_held_is_shown_at_once(
    look: Callable[..., FeatureExplorer], shelf: Shelf, way: str
) -> None:
    explorer = look().wait()
    assert_shows(explorer, several())
    told = len(browser(explorer).statuses)
    WAYS[way](explorer)
    assert explorer.layer == 0
    assert_shows(explorer.wait(), several().select(layer=0))
    assert "loading" not in [status["state"] for status in browser(explorer).statuses[told:]]
    assert explorer.subject.model is several().model
    assert shelf.asked == []


def test_the_saes_to_choose_from_are_the_held_ones_and_those_of_the_release(
    look: Callable[..., FeatureExplorer],
) -> None:
    saes = browser(look().wait()).state["_subject"]["saes"]
    assert [(sae["layer"], sae["held"]) for sae in saes] == [
        (0, True),
        (6, True),
        (10, False),
        (12, False),
        (17, False),
    ]
    assert {sae["release"] for sae in saes} == {RELEASE}
    assert all(sae["sae_id"] and sae["label"] for sae in saes)


@pytest.mark.parametrize("release", ["gemma-scope-2b-pt-res", "gemma-2b-res-jb", "not-there"])
def test_the_saes_of_a_layer_are_told_apart(release: str) -> None:
    sae_id = "layer_6/width_16k/average_l0_70"
    alone = StudiedSAE(build_sae(48, layer=6), sae_id, release)
    saes = choices(Subject(several().model, several().tokenizer, alone))
    assert len(saes) > (100 if "scope" in release else 0)
    assert [sae["sae_id"] for sae in saes if sae["held"]] == [sae_id]
    named = [(sae["layer"], sae["label"]) for sae in saes]
    assert len(set(named)) == len({(sae["release"], sae["sae_id"]) for sae in saes}) == len(saes)
    layers = [layer for layer, _label in named if layer is not None]
    assert layers == sorted(layers)


def test_an_sae_of_elsewhere_has_only_its_own_to_choose_from() -> None:
    explorer = FeatureExplorer.demo(layer=1, cutoff=1e-2).wait()
    saes = browser(explorer).state["_subject"]["saes"]
    assert [(sae["layer"], sae["held"]) for sae in saes] == [(1, True), (3, True)]
    before = browser(explorer).state["_subject"]["featured"]
    explorer.layer = 3
    assert explorer.wait().subject.sae.layer == 3
    assert browser(explorer).state["_subject"]["featured"] not in ([], before)
    with pytest.raises(ExplorerError, match=r"no SAE at layer 7. It has: .*layer 1.*layer 3"):
        explorer.layer = 7
    assert explorer.wait().layer == 3
    explorer.close()


def test_an_sae_of_the_release_is_loaded_when_it_is_chosen(
    look: Callable[..., FeatureExplorer], shelf: Shelf
) -> None:
    explorer = look().wait()
    front_end = browser(explorer)
    explorer.layer = 12
    front_end.until(lambda: front_end.status["progress"] == 0.5)
    assert front_end.status["state"] == explorer.status.state == "loading"
    assert "0.2 of 0.4 GB" in front_end.status["text"]
    # What was there before stays, with its figures, and can be saved.
    assert front_end.status["nodes"] == len(explorer.tree)
    assert_shows(explorer, several())
    shelf.open.set()
    on = explorer.wait().subject
    assert on.sae.layer == 12
    assert on.model is several().model
    assert_shows(explorer, several().with_sae(of_release(12)))
    # It is held from now on.
    assert [sae["held"] for sae in front_end.state["_subject"]["saes"]].count(True) == 3
    explorer.layer = 6
    explorer.layer = 12
    assert_shows(explorer.wait(), several().with_sae(of_release(12)))
    assert shelf.asked == [12]


def test_loading_another_sae_can_be_cancelled(
    look: Callable[..., FeatureExplorer], shelf: Shelf
) -> None:
    explorer = look().wait()
    front_end = browser(explorer)
    explorer.layer = 12
    front_end.until(lambda: front_end.status["progress"] == 0.5)
    assert front_end.ask({"type": "cancel"})["ok"]
    assert explorer.wait().status.state == "done"
    assert_shows(explorer, several())
    # What was cancelled has ended, though nothing was ever let go; the next one is loaded.
    explorer.layer = 10
    front_end.until(lambda: shelf.asked == [12, 10])
    shelf.open.set()
    assert explorer.wait().layer == 10


def test_the_sae_that_was_chosen_last_is_shown(
    look: Callable[..., FeatureExplorer], shelf: Shelf
) -> None:
    explorer = look().wait()
    for layer in (12, 10, 12, 10):
        explorer.layer = layer
    shelf.open.set()
    assert explorer.wait().layer == 10
    assert_shows(explorer, several().with_sae(of_release(10)))
    shelf.open.clear()
    explorer.layer = 12
    explorer.layer = 6  # a held one, after one that would have to be loaded
    shelf.open.set()
    assert explorer.wait().layer == 6
    assert_shows(explorer, several())


def test_an_sae_that_cannot_be_loaded_leaves_the_one_before_usable(
    look: Callable[..., FeatureExplorer], shelf: Shelf
) -> None:
    explorer = look().wait()
    front_end = browser(explorer)
    shelf.open.set()
    explorer.layer = 17  # which this model has not
    with pytest.raises(ExplorerError, match="17"):
        explorer.wait()
    assert front_end.status["state"] == "error"
    assert front_end.status["nodes"] == len(explorer.tree)
    assert_shows(explorer, several())
    explorer.feature = 5
    assert explorer.wait().status.error is None
    assert_shows(explorer, several(), feature=5)
    explorer.layer = 17
    with pytest.raises(ExplorerError, match="17"):
        explorer.wait()
    explorer.layer = 6  # the one that is shown
    assert explorer.wait().status.state == "done"


def test_nothing_of_the_sae_before_is_left_when_growth_for_the_next_is_cancelled(
    look: Callable[..., FeatureExplorer], slow: Gate
) -> None:
    explorer = look().wait()
    front_end = browser(explorer)
    slow.shut()
    explorer.layer = 0
    explorer.cancel()
    slow.open()
    explorer.wait()
    assert explorer.layer == front_end.state["_subject"]["layer"] == 0
    assert explorer.tree is None or explorer.tree.provenance.sae["hook_name"] == FIRST
    assert explorer.status.nodes == len(explorer.tree or ())
    explorer.resume()
    assert_shows(explorer.wait(), several().select(layer=0))


def test_only_the_last_saes_that_were_loaded_in_passing_stay_in_memory(
    look: Callable[..., FeatureExplorer], shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sae_explorer.widget.session._IN_PASSING", 1)
    shelf.open.set()
    explorer = look().wait()
    for layer in (12, 10, 12):
        explorer.layer = layer
        explorer.wait()
    assert shelf.asked == [12, 10, 12]
    held = [sae["layer"] for sae in browser(explorer).state["_subject"]["saes"] if sae["held"]]
    assert held == [0, 6, 12]  # what it began with, and the last one


def test_saes_of_the_same_name_in_two_releases_can_all_be_chosen(
    look: Callable[..., FeatureExplorer],
) -> None:
    name, model = "layer_1/width_16k/canonical", build_model("llama")
    ours = StudiedSAE(build_sae(48, layer=1), name, "gemma-scope-2b-pt-res-canonical")
    theirs = StudiedSAE(build_sae(48, layer=1, seed=5), name, "gemma-scope-2b-pt-mlp-canonical")
    subject = Subject(model, build_tokenizer(), [ours, theirs])
    explorer = FeatureExplorer(subject=subject.select(release=ours.release), feature=3, **OPTIONS)
    explorer.wait()
    labels = {
        (sae["release"], sae["label"])
        for sae in browser(explorer).state["_subject"]["saes"]
        if sae["held"]
    }
    assert len({label for _release, label in labels}) == 2
    for wanted in (theirs, ours):
        message = {"type": "select", "release": wanted.release, "sae_id": name}
        assert browser(explorer).ask(message)["ok"]
        assert explorer.wait().subject.sae is wanted
    explorer.layer = 1  # of the release that is shown
    assert explorer.wait().subject.sae is ours
    explorer.close()


def test_an_sae_that_could_not_be_loaded_can_be_tried_again(
    look: Callable[..., FeatureExplorer], shelf: Shelf
) -> None:
    explorer = look().wait()
    shelf.open.set()
    shelf.error = ExplorerError("The hub does not answer.")
    explorer.layer = 12
    with pytest.raises(ExplorerError, match="does not answer"):
        explorer.wait()
    shelf.error = None
    assert browser(explorer).ask({"type": "run"})["ok"]
    assert explorer.wait().layer == 12
    assert_shows(explorer, several().with_sae(of_release(12)))


def test_a_feature_that_the_next_sae_has_not_can_be_put_right(
    look: Callable[..., FeatureExplorer], shelf: Shelf
) -> None:
    explorer = look(feature=20).wait()
    front_end = browser(explorer)
    shelf.features = 8
    shelf.open.set()
    explorer.layer = 12
    with pytest.raises(ExplorerError, match=r"no feature 20: .* has 8 features"):
        explorer.wait()
    # Nothing of the SAE before stands under the name of this one.
    assert front_end.state["_subject"]["layer"] == 12
    assert (explorer.tree, explorer.tokens, explorer.lens) == (None, None, None)
    assert front_end.state["_tree"] is front_end.state["_tokens"] is None
    assert front_end.status["nodes"] == 0
    explorer.to_html()
    explorer.feature = 7
    assert_shows(explorer.wait(), several().with_sae(of_release(12, 8)), feature=7)
    explorer.layer = 6
    explorer.feature = 20
    explorer.layer = 12
    with pytest.raises(ExplorerError, match="no feature 20"):
        explorer.wait()
    explorer.layer = 6
    assert_shows(explorer.wait(), several(), feature=20)


def test_a_page_written_during_a_switch_is_about_one_sae(
    look: Callable[..., FeatureExplorer], slow: Gate
) -> None:
    explorer = look().wait()
    slow.shut()
    explorer.layer = 0
    front_end = browser(explorer)
    slow.let(1)
    # The other panels need no forward: they are about the next SAE already.
    front_end.until(lambda: explorer.tokens is not None)
    page = explorer.to_html()
    assert f"{FIRST} of" in page
    assert "there was no tree yet" in page
    assert "blocks.6" not in page + explorer.snapshot()._repr_html_()
    slow.open()
    assert_shows(explorer.wait(), several().select(layer=0))
    assert "blocks.6" not in explorer.to_html()


def test_a_tree_grows_on_while_another_sae_is_loaded(
    look: Callable[..., FeatureExplorer], shelf: Shelf, slow: Gate
) -> None:
    slow.shut()
    explorer = look(cutoff=1e-6)
    front_end = browser(explorer)
    slow.let(4)
    front_end.until(lambda: front_end.appends and slow.waiting)
    explorer.layer = 12
    front_end.until(lambda: front_end.status["progress"] == 0.5)
    seen = front_end.status["nodes"]
    slow.let(4)
    front_end.until(lambda: front_end.status["nodes"] > seen)
    assert front_end.status["state"] == "loading"
    explorer.cancel()  # the loading; the tree goes on
    assert explorer.status.state == "growing"
    explorer.layer = 12
    shelf.open.set()
    slow.open()
    assert_shows(explorer.wait(), several().with_sae(of_release(12)), cutoff=1e-6)


def test_an_sae_that_is_not_clear_is_refused_and_nothing_changes(
    look: Callable[..., FeatureExplorer],
) -> None:
    explorer = look().wait()
    for wrong in ({}, {"layer": 5}, {"layer": "6"}, {"sae_id": "blocks.5"}, {"release": "none"}):
        with pytest.raises(ExplorerError):
            explorer.select(**wrong)
    reply = browser(explorer).ask({"type": "select", "release": "none", "sae_id": "x"})
    assert not reply["ok"]
    assert explorer.status.state == "done"
    assert_shows(explorer, several())


def test_an_sae_cannot_be_chosen_before_there_is_a_model() -> None:
    go = threading.Event()

    def load(_tell: Any) -> Subject:
        go.wait(30)
        return several()

    explorer = FeatureExplorer.__new__(FeatureExplorer)
    explorer._begin(load, {"feature": 3, **OPTIONS})
    assert (explorer.layer, explorer.sae_id) == (None, None)
    with pytest.raises(ExplorerError, match="no model yet"):
        explorer.layer = 6
    go.set()
    assert explorer.wait().layer == 6
    explorer.close()


def test_a_script_that_ends_while_the_model_is_loaded_ends_in_order() -> None:
    script = "from sae_explorer import FeatureExplorer; FeatureExplorer.demo().layer = 1"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1  # of the error, and no abort
    assert done.stderr.strip().splitlines()[-1].startswith("sae_explorer.errors.ExplorerError:")


def test_a_closed_explorer_ends_its_loading(
    look: Callable[..., FeatureExplorer], shelf: Shelf
) -> None:
    explorer = look().wait()
    explorer.layer = 12
    front_end = browser(explorer)
    front_end.until(lambda: shelf.asked == [12])
    explorer.close()
    front_end.until(lambda: explorer._session._loader is None)
    assert explorer.subject is None


def test_what_is_loaded_is_what_was_asked_for(tmp_path: Path) -> None:
    gemma_stand_in(tmp_path / "hub")
    with serving(tmp_path / "hub", tmp_path / "cache"):
        explorer = FeatureExplorer(
            3,
            layers=[12, 6],
            device="cpu",
            dtype="float32",
            revision="main",
            model_kwargs={"attn_implementation": "eager"},
            **OPTIONS,
        )
        on = explorer.wait().subject
        told = [status for status in browser(explorer).statuses if status["state"] == "loading"]
    assert [sae.layer for sae in on.saes] == [12, 6]
    assert explorer.layer == 12
    assert on.model.config._attn_implementation == "eager"
    assert any("downloading" in status["text"] for status in told)
    assert any(status["progress"] is not None for status in told)
    explorer.layer = 6
    assert explorer.wait().layer == 6
    explorer.close()


def test_a_live_model_from_nowhere_takes_its_tokenizer_along(tmp_path: Path) -> None:
    gemma_stand_in(tmp_path / "hub")
    model, tokenizer = build_model("gemma", layers=13), build_tokenizer()
    with serving(tmp_path / "hub", tmp_path / "cache"):
        explorer = FeatureExplorer(3, layer=12, model=model, tokenizer=tokenizer, **OPTIONS)
        on = explorer.wait().subject
    assert on.model is model
    assert on.tokenizer is tokenizer
    explorer.close()


# --- Tokens --------------------------------------------------------------------------------------


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


# --- What the browser may do ---------------------------------------------------------------------


def test_the_browser_cannot_write_what_the_kernel_alone_writes(
    explore: Callable[..., FeatureExplorer],
) -> None:
    explorer = explore().wait()
    front_end = browser(explorer)
    before = {name: getattr(explorer, name) for name in explorer.keys}
    forged = {"_status": {"state": "broken"}, "_values": {}, "_tree": None, "_esm": "alert(1)"}
    explorer.comm.deliver({"method": "update", "state": forged})
    assert {name: getattr(explorer, name) for name in explorer.keys} == before
    assert front_end.ask({"type": "hello"})["ok"]
    explorer.comm.deliver({"method": "request_state"})
    assert front_end.state["_status"]["state"] == "done"


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
        assert file["name"] == name
        assert bytes(file["data"]).decode() == written()
    reply = front_end.ask({"type": "export", "file": "../secret"})
    assert not reply["ok"]
    assert "Possible: tree.json" in reply["error"]


# --- The model -----------------------------------------------------------------------------------


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


# --- What a page, a summary and an end hold together ---------------------------------------------


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


def test_one_tree_grows_at_a_time_whatever_is_asked(
    explore: Callable[..., FeatureExplorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: weakref.WeakSet[trees.TreeGrower] = weakref.WeakSet()
    most = 0
    make = trees.TreeGrower.__init__

    def counted(grower: Any, *given: Any, **options: Any) -> None:
        nonlocal most
        alive.add(grower)
        make(grower, *given, **options)
        gc.collect()
        most = max(most, len(alive))

    monkeypatch.setattr(trees.TreeGrower, "__init__", counted)
    explorer = explore(feature=3, cutoff=1e-6)
    for scale in (1.0, 2.0, 3.0):
        explorer.scale = scale
        explorer._session.hurry()
    explorer.wait()
    assert explorer.tree.request.scale == 3.0
    assert most == 1


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


def test_trying_again_after_a_cancelled_loading_does_not_load_twice() -> None:
    begun, go = [], threading.Event()

    def load(_tell: Any) -> Subject:
        begun.append(1)
        go.wait(30)
        return Subject.demo()

    explorer = FeatureExplorer.__new__(FeatureExplorer)
    explorer._begin(load, {"feature": 3, "cutoff": 1e-2})
    explorer.cancel()
    assert explorer.status.error is not None
    explorer.retry()
    go.set()
    assert explorer.wait().tree is not None
    assert begun == [1]
    explorer.close()


def test_resume_after_an_error_forgets_it(
    explore: Callable[..., FeatureExplorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    explorer = explore(feature=3, cutoff=1e-3).wait()
    with monkeypatch.context() as patched:
        patched.setattr(trees.TreeGrower, "_step", lambda *_given: 1 / 0)
        explorer.scale = 2.5
        with pytest.raises(ExplorerError, match="ZeroDivisionError"):
            explorer.wait()
    explorer.retry()
    assert explorer.wait().status.error is None


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("layr", "Did you mean 'layer'"),
        ("release", r"select\(sae_id="),
    ],
)
def test_an_attribute_that_would_do_nothing_is_refused(
    explore: Callable[..., FeatureExplorer], name: str, hint: str
) -> None:
    with pytest.raises(ExplorerError, match=rf"There is no option '{name}'. .*{hint}"):
        setattr(explore(), name, 6)


def test_a_misspelt_option_is_refused(explore: Callable[..., FeatureExplorer]) -> None:
    explorer = explore(feature=3)
    with pytest.raises(ExplorerError, match="Did you mean 'feature'"):
        explorer.featur = 9
    explorer.remark = "mine"
    assert explorer.remark == "mine"
