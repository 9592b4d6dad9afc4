"""A feature's definitions, run as text, make it fire more than those of random directions."""

from __future__ import annotations

import copy
import threading
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import processors

from naive import paths
from sae_explorer import (
    ClosedLoop,
    ExplorerError,
    PartialResultWarning,
    Subject,
    close_loop,
    grow_tree,
)
from sae_explorer.analyses.closed_loop import LoopRequest, auroc, bootstrap_interval, run
from sae_explorer.loading import demo
from sae_explorer.model.reading import feature_activations

#: A feature of the bundled model that fires at vehicles.
FEATURE = 302
OPTIONS: dict[str, Any] = {**demo.DIRECTION, "feature": FEATURE, "cutoff": 2e-3}


def subject() -> Subject:
    return Subject.demo(3)


@cache
def loop(**options: Any) -> ClosedLoop:
    return close_loop(subject(), **OPTIONS, **options)


def activation_in(text: str, said: str) -> float:
    """Return the largest activation at the last tokens of a text, those of what is said in it."""
    live = subject()
    lead = live.tokenizer.encode(text.removesuffix(said))
    ids = live.tokenizer.encode(text)
    found = feature_activations(live, [FEATURE], torch.tensor([ids]))[0, len(lead) :, 0]
    return float(found.max())


@pytest.mark.parametrize("template", ["{definition}", 'The word for "{definition}" is'])
def test_a_definition_is_measured_at_its_own_tokens_in_the_template(template: str) -> None:
    before = template.partition("{definition}")[0]
    found = loop(template=template)
    assert len(found) > 10
    for one in found.definitions:
        if one.complete:
            assert one.activation == pytest.approx(
                activation_in(before + one.text, one.text), abs=1e-4
            )


def without_begin(*, end: bool) -> Subject:
    """Return the bundled model with a tokenizer that knows no begin token."""
    live = subject()
    tokenizer = copy.deepcopy(live.tokenizer)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A")
    tokenizer.bos_token = None
    if not end:
        tokenizer.eos_token = None
    return Subject(live.model, tokenizer, live.sae.sae)


def test_where_there_is_no_begin_token_no_definition_is_measured_at_the_first_place() -> None:
    live = without_begin(end=True)
    found = close_loop(live, **OPTIONS, definitions=10, random_trees=1)
    end = live.tokenizer.eos_token_id
    for one in found.definitions:
        said = live.tokenizer.encode(one.text.removesuffix("…"))
        at = feature_activations(live, [FEATURE], torch.tensor([[end, *said]]))[0, 1:, 0]
        assert one.activation == pytest.approx(float(at.max()), abs=1e-4)


def test_a_tokenizer_with_nothing_to_begin_with_needs_words_before_the_definition() -> None:
    live = without_begin(end=False)
    with pytest.raises(ExplorerError, match="Give a template with words before"):
        close_loop(live, feature=FEATURE)


def test_a_template_that_leaves_no_room_is_refused_before_anything_is_grown() -> None:
    told: list[str] = []
    with pytest.raises(ExplorerError, match=r"and 25 are to follow, but \w+ reads \d+ at most"):
        close_loop(
            subject(),
            feature=FEATURE,
            template="word " * 2000 + "{definition}",
            progress=lambda step: told.append(step.text),
        )
    assert not told


def test_a_clear_features_definitions_score_above_chance() -> None:
    found = loop()
    assert len(found.random) == len(found)
    assert found.score is not None
    assert found.low is not None
    assert found.high is not None
    assert 0.5 < found.low < found.score < found.high <= 1
    own = np.array([one.activation for one in found.definitions])
    others = np.array([one.activation for one in found.random])
    assert found.score == auroc(own, others)


def test_shuffled_definitions_score_about_a_half() -> None:
    found = loop()
    values = np.array([one.activation for one in (*found.definitions, *found.random)])
    numbers = np.random.default_rng(0)
    scores = []
    for _ in range(400):
        numbers.shuffle(values)
        scores.append(auroc(values[: len(found)], values[len(found) :]))
    assert abs(np.mean(scores) - 0.5) < 4 * np.std(scores) / 400**0.5


@pytest.mark.parametrize(
    ("own", "random", "expected"),
    [
        ([3.0, 4.0], [1.0, 2.0], 1.0),
        ([1.0, 2.0], [3.0, 4.0], 0.0),
        ([0.0, 0.0], [0.0], 0.5),
        ([1.0, 3.0], [2.0], 0.5),
        ([2.0, 3.0], [2.0, 1.0], 3.5 / 4),
    ],
)
def test_auroc_counts_pairs_and_half_of_ties(
    own: list[float], random: list[float], expected: float
) -> None:
    assert auroc(np.array(own), np.array(random)) == expected


def test_auroc_is_what_mann_whitney_counts() -> None:
    stats = pytest.importorskip("scipy.stats")
    numbers = np.random.default_rng(3)
    own, random = numbers.integers(0, 9, 60) + 1.0, numbers.integers(0, 9, 45) + 0.0
    pairs = stats.mannwhitneyu(own, random).statistic / 60 / 45
    assert auroc(own, random) == pytest.approx(pairs)


def test_the_interval_holds_the_true_score_about_as_often_as_it_says() -> None:
    """Normal values one apart have an AUROC of Phi(1 / sqrt 2) = 0.760."""
    held = 0
    for seed in range(40):
        numbers = np.random.default_rng(seed)
        random = [numbers.standard_normal(10) for _ in range(5)]
        low, high = bootstrap_interval(numbers.standard_normal(50) + 1, random, seed)
        held += low <= 0.760 <= high
    assert 34 <= held <= 40


def test_trees_that_differ_among_themselves_widen_the_interval() -> None:
    numbers = np.random.default_rng(0)
    own, values = numbers.standard_normal(60) + 1, np.sort(numbers.standard_normal(60))
    alike = [values[start::6] for start in range(6)]
    unlike = np.split(values, 6)
    widths = [np.ptp(bootstrap_interval(own, groups, 0)) for groups in (alike, unlike)]
    assert widths[1] > 1.5 * widths[0]


def test_nodes_have_the_activation_at_their_own_token() -> None:
    found = loop()
    tree = grow_tree(subject(), **OPTIONS)
    assert len(found.nodes) == len(tree)
    bos = subject().tokenizer.bos_token_id
    known = np.flatnonzero(~np.isnan(found.nodes))
    assert len(known) > 20
    for row in known.tolist():
        path = [int(tree.token_id[r]) for r in tree.path(row)]
        (at,) = feature_activations(subject(), [FEATURE], torch.tensor([[bos, *path]]))[:, -1, 0]
        assert found.nodes[row] == pytest.approx(float(at), abs=1e-4)
    # The root and the closing quotes are no part of any text.
    assert np.isnan(found.nodes[0])
    for one in found.definitions:
        assert np.isnan(found.nodes[one.row]) == one.complete
        row = tree.parent[one.row] if one.complete else one.row
        assert one.activation >= found.nodes[row]


def test_random_trees_have_the_same_options_and_share_the_places_evenly() -> None:
    found = loop(random_trees=3)
    counts = np.bincount([one.tree for one in found.random], minlength=3)
    assert counts.sum() == len(found)
    assert np.ptp(counts) <= 1
    assert all(one.probability >= OPTIONS["cutoff"] for one in found.random)
    again = close_loop(subject(), **OPTIONS, random_trees=3)
    assert again == found
    other = close_loop(subject(), **OPTIONS, random_trees=3, loop_seed=1)
    assert other.definitions == found.definitions
    assert other.random != found.random


def test_only_as_many_definitions_as_asked_for_are_run() -> None:
    found = loop(definitions=5)
    assert [one.text for one in found.definitions] == [one.text for one in loop().definitions[:5]]
    assert len(found.random) == 5


def test_a_tree_that_is_there_is_not_grown_again() -> None:
    told: list[str] = []
    tree = grow_tree(subject(), **OPTIONS)
    found = run(
        subject(), LoopRequest(**OPTIONS), tree=tree, progress=lambda step: told.append(step.text)
    )
    assert found.definitions == loop().definitions
    assert not any(text.startswith("tree of the feature") for text in told)
    assert paths(tree)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ({"direction": "302 - 17"}, "direction"),
        ({"vector": (1.0,) * 160}, "vector"),
        ({"token": "the"}, "token"),
    ],
)
def test_what_is_no_feature_has_no_activation(source: dict[str, Any], name: str) -> None:
    with pytest.raises(ExplorerError, match=f"a {name}= has no activation. Give a feature"):
        close_loop(subject(), **source)


@pytest.mark.parametrize("template", ["a word", "{definition} or {definition}", ""])
def test_a_template_needs_one_place_for_the_definition(template: str) -> None:
    with pytest.raises(ExplorerError, match="template is"):
        close_loop(subject(), feature=FEATURE, template=template)


@pytest.mark.parametrize(
    ("option", "number"), [("random_trees", 10**30), ("definitions", 10**6), ("random_trees", 0)]
)
def test_numbers_beyond_all_use_are_refused(option: str, number: int) -> None:
    with pytest.raises(ExplorerError, match=f"{option} is {str(number)[:4]}"):
        close_loop(subject(), feature=FEATURE, **{option: number})


def test_a_cancelled_loop_keeps_what_was_measured() -> None:
    cancel, snapshots = threading.Event(), []

    def stop(step: Any) -> None:
        if step.share is not None:
            snapshots.append(step.snapshot())
            cancel.set()

    found = close_loop(subject(), **OPTIONS, progress=stop, cancel=cancel)
    assert found.status == snapshots[0].status == "partial"
    assert 0 < len(found.definitions) + len(found.random) < 2 * len(loop())
    assert ClosedLoop.from_json(found.to_json()) == found


@pytest.mark.parametrize("where", ["tree of the feature", "trees of random directions"])
def test_an_interrupt_of_a_tree_stops_all(where: str) -> None:
    told: list[str] = []

    def interrupt(step: Any) -> None:
        told.append(step.text)
        if step.text.startswith(where):
            raise KeyboardInterrupt

    with pytest.warns(PartialResultWarning, match="Interrupted"):
        found = close_loop(subject(), **OPTIONS, progress=interrupt)
    assert found.status == "partial"
    assert sum(text.startswith(where) for text in told) == 1
    assert told[-1].startswith(where)
    assert len(found) == 0
    assert found.score is None


def test_an_interrupt_keeps_what_was_measured() -> None:
    def interrupt(step: Any) -> None:
        if step.share is not None:
            raise KeyboardInterrupt

    with pytest.warns(PartialResultWarning, match="Interrupted"):
        found = close_loop(subject(), **OPTIONS, progress=interrupt)
    assert found.status == "partial"
    assert 0 < len(found.definitions) + len(found.random) < 2 * len(loop())


def test_a_loop_is_kept_to_the_letter() -> None:
    found = loop()
    assert ClosedLoop.from_json(found.to_json()) == found
    payload = found.payload()
    assert payload["definitions"][0] == {
        "text": found.definitions[0].text,
        "probability": found.definitions[0].probability,
        "activation": found.definitions[0].activation,
        "row": found.definitions[0].row,
        "complete": found.definitions[0].complete,
    }
    np.testing.assert_array_equal(np.frombuffer(payload["nodes"]["data"], "<f4"), found.nodes)
    frame = found.to_frame()
    assert len(frame) == len(found) + len(found.random)
    assert set(frame["tree"]) == {-1, 0, 1, 2, 3}
    assert f"AUROC {found.score:.2f}" in repr(found)
