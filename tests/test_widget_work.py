"""Claims about what the widget computes: what a change runs again, and who waits for whom."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from explorers import OPTIONS, Counted, Gate, assert_same, browser, run_nodes, small_steps, subject
from sae_explorer import FeatureExplorer, grow_tree, rank_tokens
from sae_explorer.analyses import trees

if TYPE_CHECKING:
    from collections.abc import Callable


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
