"""Two trees aligned node by node tell what appears, vanishes, gains and loses."""

from __future__ import annotations

import threading
from functools import cache
from typing import Any

import numpy as np
import pytest

from naive import paths
from sae_explorer import (
    Clamp,
    DefinitionTree,
    ExplorerError,
    PartialResultWarning,
    Subject,
    grow_tree,
)
from sae_explorer.analyses.tree_difference import (
    DifferenceRequest,
    TreeDifference,
    compare_trees,
    run,
)
from zoo import build_model, build_sae, build_tokenizer

LIMITS: dict[str, Any] = {"cutoff": 5e-3, "max_depth": 5, "scale": 2.0}


@cache
def subject() -> Subject:
    return Subject(build_model("llama"), build_tokenizer(), build_sae(48))


@cache
def tree(**options: Any) -> DefinitionTree:
    return grow_tree(subject(), **{**LIMITS, "feature": 3, **options})


@cache
def difference() -> TreeDifference:
    return TreeDifference.of(tree(weights="encoder"), tree(weights="decoder"))


def rows_of(found: TreeDifference) -> dict[tuple[int, ...], int]:
    """Return the row of each path of the union."""
    union = found.union
    return {
        tuple(int(union.token_id[r]) for r in union.path(row)): row for row in range(len(union))
    }


def test_the_union_has_the_nodes_of_both_trees_and_no_others() -> None:
    one, two = (paths(tree(weights=weights)) for weights in ("encoder", "decoder"))
    found = difference()
    rows = rows_of(found)
    assert rows.keys() == one.keys() | two.keys()
    for path, row in rows.items():
        assert found.in_one[row] == (path in one)
        assert found.in_two[row] == (path in two)
        if path in one:
            assert found.probability_one[row] == one[path][1]
        if path in two:
            assert found.probability_two[row] == two[path][1]
    assert found.counts["one"] > 0
    assert found.counts["two"] > 0
    assert sum(found.counts.values()) == len(found) - 1


def test_what_a_tree_lacks_is_scored_exactly() -> None:
    found, trees = difference(), [tree(weights="encoder"), tree(weights="decoder")]
    columns = [(found.in_one, found.probability_one), (found.in_two, found.probability_two)]
    for own, (has, probability) in zip(trees, columns, strict=True):
        for path, row in rows_of(found).items():
            if not has[row]:
                assert probability[row] == pytest.approx(own.probability_of(path), rel=1e-3)
    assert np.isfinite(found.log_ratio).all()


def test_a_vanished_node_is_told_from_one_below_the_cutoff() -> None:
    found = TreeDifference.of(tree(), tree(cutoff=2e-2))
    lacking = ~found.in_two
    assert lacking.any()
    # Nothing has changed but the cutoff: the missing nodes are where they were.
    np.testing.assert_allclose(
        found.probability_two[lacking], found.probability_one[lacking], rtol=1e-4
    )
    assert (found.probability_two[lacking] < 2e-2).all()


def test_rows_stand_most_probable_first_and_make_a_tree() -> None:
    found = difference()
    largest = np.fmax(found.probability_one, found.probability_two)
    assert (np.diff(largest) <= 0).all()
    union = paths(found.union)  # refuses what is no tree
    for path, (probability, cumulative) in union.items():
        if path:
            assert cumulative == pytest.approx(union[path[:-1]][1] * probability)


def test_interventions_are_compared_with_the_plain_tree() -> None:
    held = (Clamp(7, 6.0),)
    found = compare_trees(subject(), feature=3, interventions=held, **LIMITS)
    assert found.names == ("plain", "feature 7 at 6")
    expected = TreeDifference.of(tree(), tree(interventions=held))
    assert found.to_frame().equals(expected.to_frame())
    appears = found.to_frame().query("fate == 'appears'")
    assert len(appears)
    assert (appears["probability_two"] >= LIMITS["cutoff"]).all()
    changes = found.definitions(5)
    sizes = [abs((c.probability_two or 0) - (c.probability_one or 0)) for c in changes]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 0.01


@pytest.mark.parametrize(
    ("against", "names", "other"),
    [
        ("weights=decoder", ("weights encoder", "weights decoder"), {"weights": "decoder"}),
        ("feature = 17", ("feature 3", "feature 17"), {"feature": 17}),
        ("scale=3", ("scale 2", "scale 3"), {"scale": 3.0}),
        ("token=Ġthe", ("feature 3", "token 'Ġthe'"), {"feature": None, "token": "Ġthe"}),
        (
            "interventions=clamp 7 6",
            ("plain", "feature 7 at 6"),
            {"interventions": (Clamp(7, 6.0),)},
        ),
    ],
)
def test_a_tree_is_compared_with_one_that_differs_in_one_option(
    against: str, names: tuple[str, str], other: dict[str, Any]
) -> None:
    options = {**LIMITS, "feature": 3, "cutoff": 2e-2, "max_depth": 2}
    found = compare_trees(subject(), against=against, **options)
    assert found.names == names
    one, two = grow_tree(subject(), **options), grow_tree(subject(), **{**options, **other})
    assert found.to_frame().equals(TreeDifference.of(one, two).to_frame())


@pytest.mark.parametrize(
    ("against", "message"),
    [
        ("decoder", "must be 'plain', or an option of the tree"),
        ("wieghts=decoder", r"Did you mean 'weights'"),
        ("scale=long", "scale is 'long'"),
        ("top_k=0", "top_k is 0; it must be at least 1"),
        ("lift=3", "must be 'plain', or an option of the tree"),
    ],
)
def test_what_is_no_other_tree_is_refused(against: str, message: str) -> None:
    with pytest.raises(ExplorerError, match=message):
        DifferenceRequest(feature=3, against=against)


@pytest.mark.parametrize("against", ["plain", "feature=3"])
def test_a_tree_is_not_compared_with_itself(against: str) -> None:
    with pytest.raises(ExplorerError, match=r"Add some|what the tree has anyway"):
        compare_trees(subject(), feature=3, against=against, **LIMITS)


def test_trees_of_other_vocabularies_are_refused() -> None:
    with pytest.raises(ExplorerError, match="vocabularies differ"):
        TreeDifference.of(tree(), grow_tree(Subject.demo(), feature=3, cutoff=1e-2))


def test_a_tree_that_is_there_is_not_grown_again() -> None:
    request = DifferenceRequest(feature=3, against="weights=decoder", **LIMITS)
    told: list[str] = []
    found = run(subject(), request, tree=tree(), progress=lambda step: told.append(step.text))
    assert found.to_frame().equals(difference().to_frame())
    assert not any(text.startswith("first tree") for text in told)


def test_trees_from_files_are_compared_as_far_as_that_goes() -> None:
    one, two = (DefinitionTree.from_json(t.to_json()) for t in (tree(), tree(weights="decoder")))
    found = TreeDifference.of(one, two)
    assert np.isnan(found.probability_two[~found.in_two]).all()
    assert found.status == "complete"
    scored = TreeDifference.of(one, two, subject())
    np.testing.assert_allclose(scored.probability_two, difference().probability_two)
    assert TreeDifference.from_json(found.to_json()) == found


def test_a_cancelled_comparison_says_that_it_is_partial() -> None:
    cancel, snapshots = threading.Event(), []

    def stop(step: Any) -> None:
        if step.text.startswith("second"):
            snapshots.append(step.snapshot())
            cancel.set()

    options = {**LIMITS, "feature": 3, "against": "weights=decoder"}
    found = compare_trees(subject(), **options, progress=stop, cancel=cancel)
    assert found.status == "partial"
    assert snapshots[-1].status == "partial"
    assert len(found) >= len(tree())
    assert TreeDifference.from_json(found.to_json()) == found


@pytest.mark.parametrize("during", ["first tree", "second tree", "nodes that one tree lacks"])
def test_an_interrupt_keeps_what_has_been_compared(during: str) -> None:
    def interrupt(step: Any) -> None:
        if step.text.startswith(during):
            raise KeyboardInterrupt

    options = {**LIMITS, "feature": 3, "against": "weights=decoder"}
    with pytest.warns(PartialResultWarning, match="Interrupted"):
        found = compare_trees(subject(), **options, progress=interrupt)
    assert found.status == "partial"
    assert len(found) > 1
    assert found.in_two.sum() == 1 or during != "first tree"


def test_a_comparison_is_kept_to_the_letter_and_shown_as_a_tree() -> None:
    found = difference()
    assert TreeDifference.from_json(found.to_json()) == found
    payload = found.payload()
    one, two = (np.frombuffer(payload[n]["data"], "<f4") for n in ("one", "two"))
    assert (one < 0).tolist() == (~found.in_one).tolist()
    np.testing.assert_allclose(two[found.in_two], found.probability_two[found.in_two], rtol=1e-6)
    assert payload["names"] == ["weights encoder", "weights decoder"]
    assert payload["counts"] == found.counts
    assert payload["settled"] == len(found) == len(np.frombuffer(payload["parent"]["data"], "<i4"))
    assert "weights encoder to weights decoder" in repr(found)


def test_what_only_left_the_most_probable_tokens_does_not_vanish() -> None:
    subject = Subject.demo()
    options = {"feature": 302, "weights": "decoder", "centroid": True, "cutoff": 1e-3}
    found = compare_trees(subject, **options, against="weights=encoder").to_frame()
    for one, two, fate in (("one", "two", "vanishes"), ("two", "one", "appears")):
        gone = found[found.fate == fate]
        assert (gone[f"probability_{two}"] < 1e-3).all()
        assert (gone[f"probability_{one}"] >= 1e-3).all()
    above = found[found.in_one & ~found.in_two & (found.probability_two >= 1e-3)]
    assert len(above)  # among the five most probable tokens of the first tree only
    assert set(above.fate) <= {"gains", "loses", "stays"}
