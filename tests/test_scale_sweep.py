"""The sweep measures each scale as one forward would, and finds the best."""

from __future__ import annotations

import dataclasses
import threading
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from naive import embedded
from sae_explorer import Clamp, ExplorerError, PartialResultWarning, Subject, grow_tree
from sae_explorer.analyses.scale_sweep import (
    ScaleRequest,
    ScaleSweep,
    best_scale,
    scaled,
    sweep_scales,
)
from sae_explorer.analyses.trees import TreeRequest
from sae_explorer.model.direction import feature
from zoo import attentions, build_model, build_sae, build_tokenizer

GRID = (0.3, 1.0, 3.0)
PROMPT = 'A typical definition of "{ghost}" would be "'


@cache
def subject(architecture: str = "llama") -> Subject:
    model = build_model(architecture, attentions(architecture)[0])
    return Subject(model, build_tokenizer(), build_sae(48))


@torch.no_grad()
def one_by_one(live: Subject, vector: np.ndarray, block: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the stream and the answer at the prompt's end, from a forward of this vector alone."""
    ghost = live.token_id("<unused0>")
    ids = live.tokenizer(PROMPT.replace("{ghost}", "<unused0>"), return_tensors="pt")["input_ids"]
    seen: list[Any] = []
    hook = live.model.get_submodule(block).register_forward_hook(
        lambda _m, _i, output: seen.append(output if torch.is_tensor(output) else output[0])
    )
    try:
        with embedded(live.model, {ghost: torch.tensor(vector, dtype=torch.float32)}):
            logits = live.model(input_ids=ids, use_cache=False).logits[0, -1].double()
    finally:
        hook.remove()
    keep = torch.arange(len(logits)) != ghost
    return seen[0][0, -1].double(), logits[keep].softmax(-1)


@pytest.mark.parametrize("centroid", [False, True])
@pytest.mark.parametrize(
    ("architecture", "block"), [("llama", "model.layers.1"), ("gpt_neo", "transformer.h.1")]
)
def test_each_scale_is_measured_as_one_forward_would(
    architecture: str, block: str, centroid: bool
) -> None:
    live = subject(architecture)
    sweep = sweep_scales(live, feature=3, centroid=centroid, grid=GRID, weights="decoder")
    direction = live.sae.sae.W_dec[3].detach().double()
    direction /= direction.norm()
    mean = live.embedding_weight.double().mean(dim=0)
    _, of_mean = one_by_one(live, mean.numpy(), block)
    for row, scale in enumerate(GRID):
        vector = scale * direction + (mean if centroid else 0)
        stream, answer = one_by_one(live, vector.numpy(), block)
        assert sweep.self_similarity[row] == pytest.approx(
            float(stream @ direction / stream.norm()), abs=1e-5
        )
        expected = float(-(answer * of_mean.log()).sum())
        assert sweep.cross_entropy[row] == pytest.approx(expected, rel=1e-4)
    similarity, surprise = map(scaled, (sweep.self_similarity, sweep.cross_entropy))
    np.testing.assert_allclose(sweep.composite, 0.4 * similarity - 0.6 * surprise)
    assert sweep.best_scale == GRID[int(np.argmax(sweep.composite))]


def test_a_constant_curve_counts_for_nothing() -> None:
    np.testing.assert_array_equal(scaled(np.full(3, 0.7)), np.zeros(3))
    np.testing.assert_allclose(scaled(np.array([2.0, 3.0, 6.0])), [0.0, 0.25, 1.0])
    alone = sweep_scales(subject(), feature=3, grid=[2.0])
    assert alone.best_scale == 2.0
    assert alone.composite.tolist() == [0.0]


def test_the_default_grid_spans_a_fifth_to_four_times_the_subjects_scale() -> None:
    sweep = sweep_scales(subject(), feature=3)
    own = subject().default_scale
    np.testing.assert_allclose(sweep.scale[[0, -1]], [0.2 * own, 4 * own])
    np.testing.assert_allclose(np.diff(np.log(sweep.scale)), np.log(20) / 23)
    assert sweep.payload()["shown"] == own
    assert sweep_scales(subject(), feature=3, scale="auto").payload()["shown"] is None


@pytest.mark.parametrize("centroid", [False, True])
def test_a_tree_of_automatic_scale_is_the_tree_of_the_best_one(centroid: bool) -> None:
    live = subject()
    options: dict[str, Any] = {"feature": 3, "centroid": centroid, "interventions": [Clamp(5, 2.0)]}
    best = sweep_scales(live, **options).best_scale
    assert best_scale(live, TreeRequest(**options, scale="auto")) == best
    limits = {"cutoff": 1e-2, "max_depth": 3}
    chosen = grow_tree(live, scale="auto", **options, **limits)
    assert chosen.request.scale == best
    assert chosen.to_frame().equals(grow_tree(live, scale=best, **options, **limits).to_frame())


def test_answers_are_the_trees_greedy_ones() -> None:
    sweep = sweep_scales(subject(), feature=3, grid=GRID)
    for scale, answer in zip(GRID, sweep.answers, strict=True):
        tree = grow_tree(subject(), feature=3, scale=scale, cutoff=0.1, max_depth=1)
        assert answer == tree.greedy(max_tokens=6).text


@pytest.mark.parametrize("source", [{"token": "the"}, {"embedding": (0.1,) * 48}])
def test_what_stands_in_as_it_is_has_no_scale_to_sweep(source: dict[str, Any]) -> None:
    with pytest.raises(ExplorerError, match="without a scale"):
        sweep_scales(subject(), **source)


@pytest.mark.parametrize("grid", [(0.0, 1.0), (-1.0,), (float("nan"),)])
def test_scales_that_are_none_are_refused(grid: tuple[float, ...]) -> None:
    with pytest.raises(ExplorerError, match="grid is"):
        sweep_scales(subject(), feature=3, grid=grid)


def test_two_made_up_words_are_swept_together() -> None:
    prompt = '"{ghost}" and "{ghost2}" are "'
    sweep = sweep_scales(subject(), feature=3, second="7", prompt=prompt, grid=GRID)
    alone = sweep_scales(subject(), feature=3, second="8", prompt=prompt, grid=GRID)
    assert not np.allclose(sweep.cross_entropy, alone.cross_entropy)


def test_a_second_made_up_word_is_said_and_counted_as_it_is_for_a_tree() -> None:
    options: dict[str, Any] = {"vector": (1.0,) * 48, "second": feature(3)}
    prompt = '"{ghost}" and "{ghost2}" are "'
    sweep = sweep_scales(subject(), **options, prompt=prompt, grid=GRID)
    assert sweep.request.label == TreeRequest(**options, prompt=prompt).label
    assert "second 3" in sweep.request.label
    assert sweep.provenance.sae
    assert not sweep_scales(subject(), **options, grid=GRID).provenance.sae
    with pytest.raises(ExplorerError, match="second= does not say what it stands for"):
        sweep_scales(subject(), feature=3, prompt=prompt)


@pytest.mark.parametrize("words", [116, 200])
def test_a_prompt_longer_than_the_model_reads_is_refused(words: int) -> None:
    live = subject("gpt2")
    prompt = "a " * words + '"{ghost}" is "'
    with pytest.raises(ExplorerError, match="GPT2LMHeadModel reads 128 at most"):
        sweep_scales(live, feature=3, grid=GRID, prompt=prompt)


def test_a_cancelled_sweep_has_its_curves_and_says_that_it_is_partial() -> None:
    cancel = threading.Event()
    shares = []

    def stop(step: Any) -> None:
        shares.append(step.share)
        assert len(step.snapshot()) == len(GRID)
        cancel.set()

    sweep = sweep_scales(subject(), feature=3, grid=GRID, progress=stop, cancel=cancel)
    assert shares == [1 / 6]
    assert sweep.status == "partial"
    assert sweep.best_scale == sweep_scales(subject(), feature=3, grid=GRID).best_scale


def test_an_interrupt_keeps_the_curves() -> None:
    def interrupt(_step: Any) -> None:
        raise KeyboardInterrupt

    with pytest.warns(PartialResultWarning, match="Interrupted"):
        sweep = sweep_scales(subject(), feature=3, grid=GRID, progress=interrupt)
    assert sweep.status == "partial"
    assert len(sweep) == len(GRID)


def test_a_sweep_is_kept_to_the_letter() -> None:
    sweep = sweep_scales(subject(), feature=3, grid=GRID, weights=(0.5, 0.5))
    assert ScaleSweep.from_json(sweep.to_json()) == sweep
    assert list(sweep.to_frame()["scale"]) == list(GRID)
    assert sweep.payload()["best"] == sweep.best
    assert f"best {sweep.best_scale:.3g}" in repr(sweep)


def test_a_grid_of_more_scales_than_run_together_is_refused() -> None:
    with pytest.raises(ExplorerError, match="grid has 65 scales; at most 64"):
        ScaleRequest(feature=3, grid=tuple(range(1, 66)))


def test_a_best_scale_at_the_end_of_the_grid_says_so() -> None:
    swept = sweep_scales(Subject.demo(), feature=302, grid=(1.0,))
    assert "at the end of the grid" in swept.caveat
    assert swept.caveat in repr(swept)
    assert swept.__rich__().caption == swept.caveat == swept.payload()["caveat"]


def test_a_best_scale_within_the_grid_has_no_caveat() -> None:
    swept = sweep_scales(Subject.demo(), feature=302, grid=(1.0, 2.0, 3.0))
    within = dataclasses.replace(swept, composite=np.array([0.0, 1.0, 0.0]))
    assert within.caveat == ""
    assert repr(within).endswith("')")
    assert within.__rich__().caption is None
