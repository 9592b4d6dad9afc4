"""Known paths score what one full forward for each node gives them."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from naive import clamped, embedded
from sae_explorer import Clamp, ExplorerError, Steer, Subject, grow_tree
from sae_explorer.model.decoding import Prompt
from sae_explorer.model.scoring import PathScorer, score
from zoo import attentions, build_model, build_sae, build_tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

ARCHITECTURES = ["gemma2", "gemma3", "llama", "mistral", "gpt2", "gpt_neo", "qwen3_5"]
REPLAYED = ["gpt_neo", "qwen3_5"]
GHOSTS = ("<unused0>", "<unused1>")
PROMPTS = [
    'A typical definition of "{}" and of "{}" would be "',
    'A typical definition of "{}" and of "{}" would be "',
    'What would "{}" mean, if not "{}"? It is a "',
]
CLAMPED = {
    "gpt2": "transformer.h.1",
    "gpt_neo": "transformer.h.1",
}


@cache
def subject_of(architecture: str) -> Subject:
    model = build_model(architecture, attentions(architecture)[0])
    return Subject(
        model, build_tokenizer(), build_sae(model.get_input_embeddings().weight.shape[1])
    )


@cache
def tree(architecture: str = "llama", max_depth: int = 6, cutoff: float = 2e-3) -> Any:
    return grow_tree(
        subject_of(architecture),
        feature=3,
        scale=2.0,
        ghost_token=GHOSTS[0],
        cutoff=cutoff,
        max_depth=max_depth,
    )


def prompts(subject: Subject, texts: list[str] = PROMPTS, seed: int = 0) -> list[Prompt]:
    """Give each text two ghosts of its own."""
    random = np.random.default_rng(seed)
    ids = [subject.token_id(name) for name in GHOSTS]
    return [
        Prompt(
            tuple(subject.tokenizer(text.format(*GHOSTS))["input_ids"]),
            {i: random.normal(size=subject.d_model).astype(np.float32) / 4 for i in ids},
        )
        for text in texts
    ]


@torch.no_grad()
def one_forward_each(subject: Subject, grown: Any, prompt: Prompt) -> np.ndarray:
    """Score every node by a whole forward of its own, without a cache."""
    found = np.ones(len(grown))
    vectors = {i: torch.tensor(vector) for i, vector in prompt.ghosts.items()}
    with embedded(subject.model, vectors):
        for row in range(1, len(grown)):
            before = [int(grown.token_id[r]) for r in grown.path(row)[:-1]]
            ids = torch.tensor([[*prompt.ids, *before]])
            logits = subject.model(input_ids=ids, use_cache=False).logits[0, -1]
            logits[list(prompt.ghosts)] = -torch.inf
            found[row] = logits.softmax(-1)[int(grown.token_id[row])]
    return found


@contextmanager
def counted(model: PreTrainedModel) -> Iterator[list[int]]:
    """Count the tokens that each forward is given."""
    counts: list[int] = []
    hook = model.get_input_embeddings().register_forward_pre_hook(
        lambda _module, inputs: counts.append(inputs[0].numel())
    )
    try:
        yield counts
    finally:
        hook.remove()


@pytest.mark.parametrize("interventions", [(), (Clamp(7, 3.0),)], ids=["plain", "clamped"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_equal_one_forward_per_node(
    architecture: str, interventions: tuple[Clamp, ...]
) -> None:
    subject, grown = subject_of(architecture), tree(architecture)
    assert len(grown) > 50
    assert grown.depth.max() > 3
    given = prompts(subject)
    found = np.exp(score(subject, grown.parent, grown.token_id, given, interventions))
    place = (CLAMPED.get(architecture, "model.layers.1"), "output")
    held = {clamp.feature: clamp.value for clamp in interventions}
    for prompt, scores in zip(given, found, strict=True):
        if held:
            with clamped(subject.model, subject.sae.sae, held, place, place):
                truth = one_forward_each(subject, grown, prompt)
        else:
            truth = one_forward_each(subject, grown, prompt)
        np.testing.assert_allclose(scores, truth, rtol=5e-4, atol=1e-9)


@pytest.mark.parametrize("architecture", ["llama", "gpt_neo"])
def test_a_tree_under_its_own_prompt_scores_its_own_probabilities(architecture: str) -> None:
    subject, grown = subject_of(architecture), tree(architecture, 8, 3e-4)
    assert len(grown) > 300  # several chunks
    own = Prompt(grown.prompt_ids, dict.fromkeys(grown.ghost_ids, grown.ghost_vector))
    found = score(subject, grown.parent, grown.token_id, [own])
    np.testing.assert_allclose(np.exp(found[0]), grown.probability, rtol=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gpt_neo"])
@pytest.mark.parametrize("at", ["prompt", "generated", "ghost", (-1, 3), "deep"])
def test_interventions_act_at_the_places_where_they_act_in_a_tree(
    architecture: str, at: Any
) -> None:
    subject = subject_of(architecture)
    if at == "deep":  # the second and the third token of the answer
        at = (len(tree(architecture).prompt_ids) + 1, len(tree(architecture).prompt_ids) + 2)
    held = (Clamp(7, 3.0, at=at, skip_bos=True), Steer(5, 2.0, at=at))
    grown = grow_tree(
        subject,
        feature=3,
        scale=2.0,
        ghost_token=GHOSTS[0],
        cutoff=2e-3,
        max_depth=6,
        interventions=held,
    )
    own = Prompt(grown.prompt_ids, dict.fromkeys(grown.ghost_ids, grown.ghost_vector))
    found = score(subject, grown.parent, grown.token_id, [own], held)
    np.testing.assert_allclose(np.exp(found[0]), grown.probability, rtol=1e-4)
    plain = score(subject, grown.parent, grown.token_id, [own])
    assert not np.allclose(np.exp(plain[0]), grown.probability, rtol=1e-2)


def test_one_path_scores_as_one_forward_of_it() -> None:
    subject = subject_of("llama")
    prompt, path = prompts(subject)[0], [70, 80, 90, 100]
    vectors = {token: torch.tensor(vector) for token, vector in prompt.ghosts.items()}
    with embedded(subject.model, vectors), torch.no_grad():
        ids = torch.tensor([[*prompt.ids, *path]])
        logits = subject.model(input_ids=ids, use_cache=False).logits[0, len(prompt.ids) - 1 : -1]
    logits[:, list(prompt.ghosts)] = -torch.inf
    expected = logits.softmax(-1)[range(len(path)), path].numpy()
    chain = np.arange(-1, len(path), dtype=np.int32)
    found = score(subject, chain, np.array([-1, *path], np.int32), [prompt])
    np.testing.assert_allclose(np.exp(found[0, 1:]), expected, rtol=1e-5)


def test_a_ghosts_own_token_has_no_probability() -> None:
    subject = subject_of("llama")
    prompt = prompts(subject)[0]
    ghost = next(iter(prompt.ghosts))
    parent, tokens = np.array([-1, 0, 0], np.int32), np.array([-1, ghost, 70], np.int32)
    found = score(subject, parent, tokens, [prompt])
    assert found[0, 1] == -np.inf
    assert np.isfinite(found[0, 2])


def test_only_nodes_with_children_are_run_and_in_full_batches() -> None:
    subject, grown = subject_of("llama"), tree("llama", 8, 3e-4)
    many = prompts(subject, PROMPTS[:1] * 8)
    inner = len(np.unique(grown.parent[1:]))
    with counted(subject.model) as counts:
        score(subject, grown.parent, grown.token_id, many)
    assert inner < 0.8 * len(grown)
    assert sum(counts[1:]) == 8 * (inner - 1)  # the root is the prompt's last token
    assert set(counts[1:-1]) == {128}


def test_scoring_goes_on_where_it_was_cancelled() -> None:
    subject, grown = subject_of("llama"), tree("llama", 8, 3e-4)
    scorer = PathScorer(subject, grown.parent, grown.token_id, prompts(subject))
    cancel, shares = threading.Event(), []
    for _ in scorer.steps(cancel):
        shares.append(scorer.share)
        if len(shares) == 2:
            cancel.set()
    assert len(shares) == 2
    assert 0 < shares[0] < shares[1] < 1
    assert np.isnan(scorer.log_probability).any()
    for _ in scorer.steps():
        pass
    assert scorer.share == 1
    whole = score(subject, grown.parent, grown.token_id, prompts(subject))
    np.testing.assert_array_equal(scorer.log_probability, whole)


@pytest.mark.parametrize("architecture", ["llama", "gpt_neo"])
def test_too_little_memory_makes_the_batches_smaller(architecture: str) -> None:
    subject, grown = subject_of(architecture), tree(architecture, 8, 3e-4)
    given = prompts(subject)
    whole = score(subject, grown.parent, grown.token_id, given)

    def small(_module: Any, inputs: Any, output: Any) -> None:
        if (output if isinstance(output, torch.Tensor) else output[0]).numel() > 64 * 48:
            raise torch.OutOfMemoryError

    # Behind the first layer, whose keys are then in the cache already.
    layer = subject.model.get_submodule(CLAMPED.get(architecture, "model.layers.1"))
    hook = layer.register_forward_hook(small)
    try:
        found = score(subject, grown.parent, grown.token_id, given)
    finally:
        hook.remove()
    np.testing.assert_allclose(found, whole, rtol=1e-4, atol=1e-4)


def test_nan_logits_are_refused() -> None:
    subject, grown = subject_of("llama"), tree("llama")
    hook = subject.model.lm_head.register_forward_hook(lambda _m, _i, output: output * torch.nan)
    try:
        with pytest.raises(ExplorerError, match="NaN or infinite logits"):
            score(subject, grown.parent, grown.token_id, prompts(subject))
    finally:
        hook.remove()


def test_a_tree_of_a_root_alone_needs_no_forward() -> None:
    subject = subject_of("llama")
    root = np.array([-1], np.int32)
    with counted(subject.model) as counts:
        np.testing.assert_array_equal(
            score(subject, root, root, prompts(subject)), np.zeros((3, 1))
        )
    assert counts == []
