"""Lift tells what a vector adds to an answer from what the prompt says anyway."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from naive import embedded
from sae_explorer import Clamp, DefinitionTree, ExplorerError, Subject, grow_tree
from sae_explorer.analyses.lift import along_paths, log_mean, measure_lift, random_prompts
from sae_explorer.analyses.trees import TreeGrower, TreeRequest
from sae_explorer.loading import demo
from sae_explorer.model.decoding import Prompt
from sae_explorer.model.scoring import score
from zoo import build_model, build_sae, build_tokenizer

LIMITS: dict[str, Any] = {"cutoff": 5e-3, "max_depth": 5, "scale": 2.0}
FEATURE = 302  # of the bundled model


@cache
def subject() -> Subject:
    return Subject(build_model("llama"), build_tokenizer(), build_sae(48))


@cache
def tree(**options: Any) -> DefinitionTree:
    return grow_tree(subject(), **{**LIMITS, "feature": 3, **options})


def prompt_of(grown: DefinitionTree) -> Prompt:
    return Prompt(grown.prompt_ids, dict.fromkeys(grown.ghost_ids, grown.ghost_vector))


@torch.no_grad()
def path_probability(prompt: Prompt, path: list[int]) -> float:
    """Multiply the probabilities of whole forwards, one for each token of a path."""
    probability = 1.0
    vectors = {i: torch.tensor(vector) for i, vector in prompt.ghosts.items()}
    with embedded(subject().model, vectors):
        for end, token in enumerate(path):
            ids = torch.tensor([[*prompt.ids, *path[:end]]])
            logits = subject().model(input_ids=ids, use_cache=False).logits[0, -1]
            logits[list(prompt.ghosts)] = -torch.inf
            probability *= float(logits.softmax(-1)[token])
    return probability


def test_lift_is_log_probability_less_the_log_of_its_mean_over_random_vectors() -> None:
    grown = tree()
    found = measure_lift(grown, random=3, seed=5)
    assert found[0] == 0
    others = random_prompts(subject(), grown.request, prompt_of(grown), 3, 5)
    for row in range(1, len(grown), 5):
        path = [int(grown.token_id[r]) for r in grown.path(row)]
        mean = np.mean([path_probability(other, path) for other in others])
        expected = np.log(path_probability(prompt_of(grown), path)) - np.log(mean)
        assert found[row] == pytest.approx(expected, abs=2e-3)


def test_lift_of_a_random_direction_is_centred_on_0() -> None:
    """One of nine random directions is like the other eight, at every node fixed beforehand.

    The nodes are those of a feature's tree: in a tree of its own, a direction's probabilities are
    the largest found, not any.
    """
    live = Subject.demo()
    options = {**demo.DIRECTION, "cutoff": 5e-3, "max_depth": 3}
    grown = grow_tree(live, feature=FEATURE, **options)
    groups, others = 60, 8
    drawn = random_prompts(live, grown.request, prompt_of(grown), groups * (1 + others), seed=1)
    logs = along_paths(grown.parent, score(live, grown.parent, grown.token_id, drawn))
    logs = logs.reshape(groups, 1 + others, -1)[:, :, 1:]
    explored, mean = np.exp(logs[:, 0]), np.exp(log_mean(logs[:, 1:].swapaxes(0, 1)))
    difference = explored - mean
    error = difference.std(axis=0, ddof=1) / groups**0.5
    probable = grown.cumulative_probability[1:] > 0.02
    assert np.abs(difference.mean(axis=0) / error)[probable].max() < 4
    # And as often above as below the others' median: the direction has no rank of its own.
    rank = (logs[:, :1] > logs[:, 1:]).mean(axis=1)[:, probable]
    assert abs(rank.mean() - 0.5) < 0.12

    # While some answers of the tree are only the feature's own.
    assert measure_lift(grown).max() > 4


def test_random_directions_keep_scale_centroid_and_components() -> None:
    grown = tree(centroid=True, pca=(0.2, 0.1), scale=3.0)
    centroid = subject().geometry.centroid
    components = subject().geometry.components(2)
    for prompt in random_prompts(subject(), grown.request, prompt_of(grown), 4, seed=2):
        (vector,) = prompt.ghosts.values()
        direction = vector - centroid - 3.0 * (0.2 * components[0] + 0.1 * components[1])
        assert np.linalg.norm(direction) == pytest.approx(3.0 * 0.7, rel=1e-4)


@pytest.mark.parametrize("source", ["token", "embedding"])
def test_random_vectors_are_as_long_as_an_embedding_that_is_used_as_it_is(source: str) -> None:
    row = subject().geometry.row(70)
    entry = subject().tokenizer.convert_ids_to_tokens(70)
    given = {"token": entry, "embedding": tuple(row.tolist())}[source]
    grown = grow_tree(subject(), **{**LIMITS, "scale": None, source: given})
    for prompt in random_prompts(subject(), grown.request, prompt_of(grown), 4, seed=2):
        (vector,) = prompt.ghosts.values()
        assert np.linalg.norm(vector) == pytest.approx(np.linalg.norm(row), rel=1e-5)


def test_a_seed_gives_the_same_directions_and_another_one_others() -> None:
    np.testing.assert_array_equal(measure_lift(tree(), 2, seed=1), measure_lift(tree(), 2, seed=1))
    assert not np.array_equal(measure_lift(tree(), 2, seed=1), measure_lift(tree(), 2, seed=2))


def test_lift_asks_the_model_that_the_tree_was_grown_with() -> None:
    read = DefinitionTree.from_json(tree().to_json())
    np.testing.assert_array_equal(
        measure_lift(read, random=2, subject=subject()), measure_lift(tree(), random=2)
    )
    for other in (build_model("llama", seed=1), build_model("gpt2")):
        wrong = Subject(other, build_tokenizer(), other_model=True)
        with pytest.raises(ExplorerError, match="Give the model it was grown with"):
            measure_lift(read, random=2, subject=wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"random": 0}, "at least 1 random direction"),
        ({"random": 2.5}, "lift is 2.5; it must be a whole number"),
        ({"random": 10**9}, "it must be at least 0, at most 1024"),
        ({"seed": -1}, "lift_seed is -1"),
    ],
)
def test_what_lift_cannot_be_measured_with_is_said(options: Any, message: str) -> None:
    with pytest.raises(ExplorerError, match=message):
        measure_lift(tree(), **options)


def test_a_tree_stopped_while_its_lift_is_measured_is_partial_and_can_be_gone_on_with() -> None:
    grower = TreeGrower(subject(), [TreeRequest(feature=3, lift=4, **LIMITS)])
    cancel = threading.Event()
    for _ in grower.steps(cancel):
        if grower.lift_share is not None:
            cancel.set()
    (stopped,) = grower.trees()
    assert (stopped.status, stopped.lift) == ("partial", None)
    for _ in grower.steps():
        pass
    (whole,) = grower.trees()
    assert whole == tree(lift=4)


def test_lift_is_measured_under_the_trees_interventions() -> None:
    held = tree(interventions=(Clamp(5, 4.0),))
    found = measure_lift(held, random=2)
    others = random_prompts(subject(), held.request, prompt_of(held), 2, 0)
    logs = score(subject(), held.parent, held.token_id, others, held.request.interventions)
    expected = np.log(held.cumulative_probability) - log_mean(along_paths(held.parent, logs))
    np.testing.assert_allclose(found, expected)


def test_lift_is_finite_where_random_directions_leave_no_probability() -> None:
    nothing = np.array([[-np.inf, -800.0], [-np.inf, -900.0]])
    assert np.isfinite(log_mean(nothing)).all()
    assert log_mean(np.log([[0.2], [0.4]]))[0] == pytest.approx(np.log(0.3))


def test_a_cancelled_measurement_leaves_what_is_unknown_unknown() -> None:
    cancel = threading.Event()
    cancel.set()
    found = measure_lift(tree(), random=2, cancel=cancel)
    assert np.isnan(found[1:]).all()


def test_no_random_directions_are_refused() -> None:
    with pytest.raises(ExplorerError, match="at least 1 random direction"):
        measure_lift(tree(), random=0)


def test_definitions_by_lift_end_with_those_that_were_not_measured() -> None:
    lifted = tree(lift=4)
    assert lifted.lift is not None
    first = lifted.definitions(1, by="lift")[0]
    some = lifted.lift.copy()
    some[first.row] = np.nan
    found = replace(lifted, lift=some).definitions(None, by="lift")
    assert found[-1].row == first.row
    lifts = [definition.lift for definition in found[:-1]]
    assert lifts == sorted(lifts, reverse=True)
