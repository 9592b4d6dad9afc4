"""Definition trees equal one full forward per node, and near misses do not.

The engine is judged by `naive_tree`; the judge itself is tried first, by a difference that is none
(another attention kernel) and by mistakes that it must notice.
"""

from __future__ import annotations

import copy
import hashlib
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import sae_explorer
from naive import (
    Tree,
    compare,
    misscaled_ghost,
    naive_tree,
    paths,
    seeing_siblings,
    without_ghost,
    without_window,
)
from sae_explorer.model.decoding import (
    PooledDecoder,
    Prompt,
    ReplayDecoder,
    open_decoder,
    quiet_forward,
)
from zoo import (
    ARCHITECTURES,
    POOLABLE,
    SCALED,
    SLIDING,
    attentions,
    build_model,
    build_sae,
    build_tokenizer,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from transformers import PreTrainedModel

GHOST_TOKEN = "<unused0>"
FEATURE = 3
SCALE = 2.0  # the token embeddings have a norm of about 1
LIMITS: dict[str, Any] = {"cutoff": 5e-4, "top_k": 5, "max_depth": 8}
FEWER: dict[str, Any] = {**LIMITS, "cutoff": 2e-3}  # enough to try the judge
PROMPTS = {
    1: 'A typical definition of "{ghost}" would be "',
    2: 'A typical definition of "{ghost}" or of "{ghost}" would be "',
}

CASES = [
    pytest.param(
        architecture, attention, placeholders, id=f"{architecture}-{attention}-{placeholders}"
    )
    for architecture in ARCHITECTURES
    for attention in attentions(architecture)
    for placeholders in PROMPTS
]


# --- What the engine is given, and what should come of it ---------------------------------------


def prompt_ids(placeholders: int) -> list[int]:
    """Tokenize the prompt with the ghost's token in its places."""
    text = PROMPTS[placeholders].replace("{ghost}", GHOST_TOKEN)
    ids: list[int] = build_tokenizer()(text)["input_ids"]
    return ids


def ghost_id() -> int:
    vocabulary: dict[str, int] = build_tokenizer().get_vocab()
    return vocabulary[GHOST_TOKEN]


def width_of(model: PreTrainedModel) -> int:
    # A multimodal model's own configuration does not say it.
    width: int = model.get_input_embeddings().weight.shape[1]
    return width


def direction(model: PreTrainedModel, weights: str) -> np.ndarray:
    """Work out the ghost asked for: `SCALE` times the feature's unit direction, in float64."""
    sae = build_sae(width_of(model))
    chosen = {"decoder": sae.W_dec[FEATURE], "encoder": sae.W_enc[:, FEATURE]}[weights]
    row = chosen.detach().double().numpy()
    return np.asarray(SCALE * row / np.linalg.norm(row))


@cache
def reference(architecture: str, attention: str, placeholders: int) -> Tree:
    """Grow the true tree for the judge's own trial, from the tests' own prompt and ghost."""
    model = build_model(architecture, attention)
    return naive_tree(model, prompt_ids(placeholders), true_ghost(model), **FEWER)


def true_ghost(model: PreTrainedModel) -> dict[int, torch.Tensor]:
    return {ghost_id(): torch.tensor(direction(model, "decoder"), dtype=torch.float32)}


@dataclass(frozen=True)
class Grown:
    """A tree by the engine, and the state of the model around its making."""

    model: PreTrainedModel
    tree: Any
    tokens_run: int
    state_before: str
    state_after: str


@cache
def grown(architecture: str, attention: str, placeholders: int) -> Grown:
    """Let the engine grow the tree of one case."""
    model = build_model(architecture, attention)
    sae = build_sae(width_of(model))
    before = state(model, sae)
    with counted_tokens(model) as counts:
        tree = sae_explorer.grow_tree(
            sae_explorer.Subject(model, build_tokenizer(), sae),
            feature=FEATURE,
            weights="decoder",
            scale=SCALE,
            prompt=PROMPTS[placeholders],
            ghost_token=GHOST_TOKEN,
            **LIMITS,
        )
    return Grown(model, tree, sum(counts), before, state(model, sae))


@contextmanager
def counted_tokens(model: PreTrainedModel) -> Iterator[list[int]]:
    """Count the tokens that each forward is given."""
    counts: list[int] = []
    hook = model.get_input_embeddings().register_forward_pre_hook(
        lambda _module, inputs: counts.append(inputs[0].numel())
    )
    try:
        yield counts
    finally:
        hook.remove()


def state(model: PreTrainedModel, sae: torch.nn.Module) -> str:
    """Hash every bit of all parameters and buffers, the mode and the configuration."""
    digest = hashlib.sha256()
    for module in (model, sae):
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().contiguous().numpy().tobytes())
        digest.update(str([part.training for part in module.modules()]).encode())
    digest.update(model.config.to_json_string(use_diff=False).encode())
    digest.update(str(model.config._attn_implementation).encode())
    return digest.hexdigest()


# --- The engine ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("architecture", "attention", "placeholders"), CASES)
def test_tree_equals_one_forward_per_node(
    architecture: str,
    attention: str,
    placeholders: int,
    record_property: Callable[[str, object], None],
) -> None:
    case = grown(architecture, attention, placeholders)
    ids = [int(token) for token in case.tree.prompt_ids]
    assert ids == prompt_ids(placeholders)
    assert ids.count(ghost_id()) == placeholders

    ghosts = {ghost_id(): torch.tensor(np.array(case.tree.ghost_vector))}
    truth = naive_tree(case.model, ids, ghosts, **LIMITS)
    found = compare(paths(case.tree), truth, LIMITS["cutoff"])
    record_property(
        "parity",
        {
            "architecture": architecture,
            "attention": attention,
            "placeholders": placeholders,
            "nodes": found.nodes,
            "tokens run": case.tokens_run,
            "missing": len(found.missing),
            "unexpected": len(found.unexpected),
            "forgiven": found.forgiven,
            "largest relative error": f"{found.largest_relative_error:.1e}",
        },
    )
    assert found.nodes >= 100
    assert found.missing == ()
    assert found.unexpected == ()
    assert found.largest_relative_error <= 5e-4
    assert found.agrees()


@pytest.mark.parametrize(
    ("architecture", "attention"), [(a, way) for a in ARCHITECTURES for way in attentions(a)]
)
def test_branches_share_keys_and_values_only_where_that_is_right(
    architecture: str, attention: str
) -> None:
    model = build_model(architecture, attention)
    prompt = Prompt(tuple(prompt_ids(1)), {ghost_id(): direction(model, "decoder")})
    with quiet_forward(model):
        decoder = open_decoder(model, 5, 8, prompt)
    assert type(decoder) is (PooledDecoder if architecture in POOLABLE else ReplayDecoder)


@pytest.mark.parametrize(
    ("architecture", "attention", "placeholders"),
    [case for case in CASES if case.values[0] in POOLABLE],
)
def test_each_node_is_run_once_and_alone(
    architecture: str, attention: str, placeholders: int
) -> None:
    case = grown(architecture, attention, placeholders)
    overhead = 20 * len(
        prompt_ids(placeholders)
    )  # the prompt, and trying out what the model can do
    assert case.tokens_run <= len(case.tree.to_frame()) + overhead


@pytest.mark.parametrize(("architecture", "attention", "placeholders"), CASES)
def test_growing_a_tree_leaves_the_model_untouched(
    architecture: str, attention: str, placeholders: int
) -> None:
    case = grown(architecture, attention, placeholders)
    assert case.state_after == case.state_before
    for name, module in case.model.named_modules():
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks"):
            assert not getattr(module, kind), f"{kind} left on {name or 'the model'}"


@pytest.mark.parametrize("architecture", ["llama", "gemma3_multimodal"])
def test_a_model_spread_over_devices_grows_the_same_tree(architecture: str, tmp_path: Path) -> None:
    import accelerate

    whole = grown(architecture, "sdpa", 1)
    model = copy.deepcopy(whole.model)
    core = model.get_decoder()
    parts = {core.embed_tokens: "cpu", core.norm: "cpu", core.rotary_emb: "cpu"}
    parts |= {layer: ("cpu", "disk")[index % 2] for index, layer in enumerate(core.layers)}
    parts |= {model.get_output_embeddings(): "cpu"}
    for aside in ("vision_tower", "multi_modal_projector"):
        if hasattr(model.model, aside):
            parts[getattr(model.model, aside)] = "disk"
    places = {name: parts[part] for name, part in model.named_modules() if part in parts}
    spread = accelerate.dispatch_model(model, places, main_device="cpu", offload_dir=tmp_path)
    assert set(spread.hf_device_map.values()) == {"cpu", "disk"}
    tree = sae_explorer.grow_tree(
        sae_explorer.Subject(spread, build_tokenizer(), build_sae(width_of(model))),
        feature=FEATURE,
        weights="decoder",
        scale=SCALE,
        prompt=PROMPTS[1],
        ghost_token=GHOST_TOKEN,
        **LIMITS,
    )
    assert paths(tree) == paths(whole.tree)


@pytest.mark.parametrize("weights", ["decoder", "encoder"])
@pytest.mark.parametrize("architecture", ["gemma", "llama"])
def test_ghost_is_the_unit_direction_times_the_scale(architecture: str, weights: str) -> None:
    model = build_model(architecture)
    tree = sae_explorer.grow_tree(
        sae_explorer.Subject(model, build_tokenizer(), build_sae(width_of(model))),
        feature=FEATURE,
        weights=weights,
        scale=SCALE,
        cutoff=1e-2,
        top_k=5,
        max_depth=1,
        prompt=PROMPTS[1],
        ghost_token=GHOST_TOKEN,
    )
    ghost = np.asarray(tree.ghost_vector)
    assert ghost.dtype == np.float32
    np.testing.assert_allclose(ghost, direction(model, weights), rtol=1e-5, atol=1e-7)


# --- The judge ----------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if len(attentions(a)) > 1])
def test_reference_is_the_same_under_either_attention(architecture: str) -> None:
    sdpa, eager = (reference(architecture, attention, 2) for attention in ("sdpa", "eager"))
    assert compare(sdpa, eager, FEWER["cutoff"]).agrees()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_missing_ghost_is_noticed(architecture: str) -> None:
    assert_noticed(architecture, without_ghost)


@pytest.mark.parametrize("power", [-0.5, 0.5], ids=["scale-missed", "scale-twice"])
@pytest.mark.parametrize("architecture", SCALED)
def test_a_ghost_scaled_unlike_the_embeddings_is_noticed(architecture: str, power: float) -> None:
    factor = width_of(build_model(architecture, attentions(architecture)[0])) ** power
    assert_noticed(architecture, misscaled_ghost, factor=factor)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_siblings_that_see_each_other_are_noticed(architecture: str) -> None:
    assert_noticed(architecture, seeing_siblings)


@pytest.mark.parametrize("placeholders", PROMPTS)
@pytest.mark.parametrize("architecture", SLIDING)
def test_an_ignored_sliding_window_is_noticed(architecture: str, placeholders: int) -> None:
    def ignoring(model: PreTrainedModel, *arguments: Any, **limits: Any) -> Tree:
        return naive_tree(without_window(model), *arguments, **limits)

    assert_noticed(architecture, ignoring, placeholders)


def assert_noticed(
    architecture: str, mistake: Callable[..., Tree], placeholders: int = 1, **options: Any
) -> None:
    """Check that a tree grown with a mistake does not pass for the true one."""
    attention = attentions(architecture)[0]
    model = build_model(architecture, attention)
    wrong = mistake(model, prompt_ids(placeholders), true_ghost(model), **options, **FEWER)
    found = compare(wrong, reference(architecture, attention, placeholders), FEWER["cutoff"])
    assert not found.agrees()
    assert found.missing or found.unexpected  # a different node set, not only other numbers
