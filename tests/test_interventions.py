"""A clamp changes a tree as it changes the model: with a cache or without, for every kind of SAE.

The truth is one full forward per node, with a clamp that `naive` writes down from the SAE's raw
weights. In each case the feature fires at some positions and not at others, so that forgetting
``a_f`` is noticed.
"""

from __future__ import annotations

import copy
import json
import math
import threading
import types
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import sae_lens
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sae_lens.saes.sae import SAEMetadata

from naive import Edit, Place, Tree, changed, clamped, compare, naive_tree, paths
from sae_explorer import (
    ExplorerError,
    Subject,
    feature,
    grow_tree,
    grow_trees,
    measure_activations,
    vector,
)
from sae_explorer.analyses.definition_tree import DefinitionTree
from sae_explorer.analyses.trees import TreeGrower, TreeRequest
from sae_explorer.model import decoding, sites
from sae_explorer.model.changes import applied, check
from sae_explorer.model.interventions import Ablate, Clamp, Intervention, Steer
from sae_explorer.request import from_text, schema
from test_trees_parity import GHOST_TOKEN, PROMPTS, ghost_id, prompt_ids, state, width_of
from zoo import SAE_KINDS, attentions, build_model, build_sae, build_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from transformers import PreTrainedModel

FEATURE = 3
CLAMP = Clamp(FEATURE, 6.0)
LIMITS: dict[str, Any] = {"cutoff": 1e-3, "top_k": 5, "max_depth": 6}


@dataclass(frozen=True)
class Case:
    """An SAE on a model, and the places in the model that its hook points mean."""

    family: str
    kind: str
    hook: str
    reads: Place
    writes: Place
    hook_out: str | None = None
    d_in: int = 48
    seed: int = 2
    threshold: float = 0.4
    config: tuple[tuple[str, Any], ...] = ()

    @property
    def model(self) -> PreTrainedModel:
        return build_model(self.family, attentions(self.family)[0])

    @property
    def sae(self) -> sae_lens.SAE[Any]:
        return build_sae(
            self.d_in,
            hook_name=self.hook,
            hook_name_out=self.hook_out,
            kind=self.kind,
            seed=self.seed,
            threshold=self.threshold,
            **dict(self.config),
        )


# One family whose branches share their keys and values, and one whose branches are run whole.
_BLOCKS = {"gemma3": "model.layers.1", "gpt_neo": "transformer.h.1"}
_MLP_OUT = {
    "gemma3": "model.layers.1.post_feedforward_layernorm",
    "gpt_neo": "transformer.h.1.mlp",
    "llama": "model.layers.1.mlp",
}


def _residual(family: str, kind: str, **config: Any) -> Case:
    place = (_BLOCKS[family], "output")
    hook, settings = "blocks.1.hook_resid_post", tuple(config.items())
    return Case(family, kind, hook, place, place, threshold=2.5, config=settings)


def _transcoder(family: str, kind: str) -> Case:
    reads, writes = (f"{_BLOCKS[family]}.mlp", "input"), (_MLP_OUT[family], "output")
    hook, hook_out = "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out"
    return Case(family, kind, hook, reads, writes, hook_out, threshold=0.3)


def _mlp_out(family: str) -> Case:
    place = (_MLP_OUT[family], "output")
    return Case(family, "jumprelu", "blocks.1.hook_mlp_out", place, place, threshold=1.5)


def _attention_z(family: str, width: int, seed: int = 2, **config: Any) -> Case:
    projections = {"gemma3": "self_attn.o_proj", "gpt_neo": "attn.attention.out_proj"}
    place = (f"{_BLOCKS[family]}.{projections[family]}", "input")
    hook = "blocks.1.attn.hook_z"
    settings = tuple(config.items())
    return Case(family, "standard", hook, place, place, d_in=width, seed=seed, config=settings)


CASES = {
    **{
        f"{family}-{kind}": (_transcoder if "transcoder" in kind else _residual)(family, kind)
        for family in _BLOCKS
        for kind in SAE_KINDS
    },
    **{
        f"gemma3-{how}": _residual("gemma3", "standard", normalize_activations=how)
        for how in ("constant_norm_rescale", "layer_norm")
    },
    "gpt2-centred": Case(
        "gpt2",
        "standard",
        "blocks.1.hook_resid_post",
        ("transformer.h.1", "output"),
        ("transformer.h.1", "output"),
        config=(("centred", True),),
    ),
    "llama-mlp_out": _mlp_out("llama"),
    "gemma3-mlp_out": _mlp_out("gemma3"),
    "gpt_neo-z": _attention_z("gpt_neo", 48, seed=1),
    "gemma3-z": _attention_z("gemma3", 64),
    "gemma3-z-of-heads": _attention_z("gemma3", 64, reshape_activations="hook_z"),
    "gemma3-embed": Case(
        "gemma3",
        "standard",
        "hook_embed",
        ("model.embed_tokens", "output"),
        ("model.embed_tokens", "output"),
    ),
}


def subject_of(case: Case) -> Subject:
    return Subject(case.model, build_tokenizer(), case.sae)


def ghost(width: int) -> torch.Tensor:
    vector = torch.randn(width, generator=torch.Generator().manual_seed(4))
    return 2 * vector / vector.norm()


def tree_of(subject: Subject, **options: Any) -> DefinitionTree:
    vector = tuple(ghost(subject.d_model).tolist())
    settings = {"embedding": vector, "prompt": PROMPTS[1], "ghost_token": GHOST_TOKEN, **LIMITS}
    return grow_tree(subject, **{**settings, **options})


def truth(case: Case, clamps: dict[int, float]) -> Tree:
    with clamped(case.model, case.sae, clamps, case.reads, case.writes):
        return unclamped(case.model)


def unclamped(model: PreTrainedModel) -> Tree:
    vector = torch.tensor(ghost(width_of(model)).tolist())
    return naive_tree(model, prompt_ids(1), {ghost_id(): vector}, **LIMITS)


@cache
def plain(family: str) -> Tree:
    return unclamped(build_model(family, attentions(family)[0]))


def hooks_of(model: torch.nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks")
    return sum(len(getattr(part, kind)) for part in model.modules() for kind in kinds)


# --- Parity -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_a_clamped_tree_equals_one_forward_per_node(name: str) -> None:
    case = CASES[name]
    before = state(case.model, case.sae)
    found = compare(
        paths(tree_of(subject_of(case), interventions=[CLAMP])),
        expected := truth(case, {FEATURE: CLAMP.value}),
        LIMITS["cutoff"],
    )
    assert found.nodes >= 50
    assert found.missing == ()
    assert found.unexpected == ()
    assert found.agrees()
    assert not compare(expected, plain(case.family), LIMITS["cutoff"]).agrees()
    assert state(case.model, case.sae) == before
    assert hooks_of(case.model) == 0


@pytest.mark.parametrize("name", CASES)
def test_the_feature_fires_at_some_positions_and_not_at_others(name: str) -> None:
    case = CASES[name]
    subject, sae = subject_of(case), copy.deepcopy(case.sae)
    sae.turn_off_forward_pass_hook_z_reshaping()
    with applied(subject, []), sites.read(subject.site()) as seen:
        case.model(input_ids=torch.tensor([prompt_ids(1)]))
        fires = sae.encode(seen[0])[..., FEATURE] > 0
        if "topk" in case.kind or hasattr(sae, "threshold"):
            x = seen[0] - sae.b_dec * sae.cfg.apply_b_dec_to_input
            plainly = x @ sae.W_enc[:, FEATURE] + sae.b_enc[FEATURE] > 0
            assert (plainly & ~fires).any()  # it is held back somewhere
    assert fires.any()
    assert not fires.all()


@pytest.mark.parametrize("name", ["gemma3-standard", "gpt_neo-transcoder"])
def test_several_features_are_clamped_together(name: str) -> None:
    case = CASES[name]
    tree = tree_of(subject_of(case), interventions=[CLAMP, Clamp(7, 0.0), Clamp(11, -2.5)])
    expected = truth(case, {FEATURE: CLAMP.value, 7: 0.0, 11: -2.5})
    assert compare(paths(tree), expected, LIMITS["cutoff"]).agrees()


@pytest.mark.parametrize("name", ["gemma3-standard", "gemma3-transcoder", "gpt_neo-topk"])
def test_ablating_a_feature_that_never_fires_changes_nothing(name: str) -> None:
    case = CASES[name]
    sae = copy.deepcopy(case.sae)
    with torch.no_grad():
        sae.b_enc[FEATURE] = -1000.0
    subject = Subject(case.model, build_tokenizer(), sae)
    ablated, free = tree_of(subject, interventions=[Clamp(FEATURE, 0.0)]), tree_of(subject)
    assert paths(ablated) == paths(free)


def test_a_clamp_acts_in_both_decoders() -> None:
    case = CASES["gemma3-standard"]
    subject = subject_of(case)
    prompt = decoding.Prompt(tuple(prompt_ids(1)), {ghost_id(): ghost(48).numpy()})
    answers = []
    with applied(subject, [CLAMP]):
        for kind in (decoding.PooledDecoder, decoding.ReplayDecoder):
            decoder = kind(subject.model, 5, 2)
            start, first = decoder.start([prompt])
            _, then = decoder.extend(np.repeat(start, 5), first.token_ids[0])
            answers.append((first, then))
    for pooled, whole in zip(*answers, strict=True):
        np.testing.assert_allclose(pooled.probabilities, whole.probabilities, rtol=1e-3)


def test_a_clamp_is_computed_in_the_precision_of_the_sae() -> None:
    model, sae = build_model("llama", dtype=torch.bfloat16), build_sae(48)
    subject, ids = Subject(model, build_tokenizer(), sae), torch.tensor([prompt_ids(1)])
    site = subject.site()
    with applied(subject, []), sites.read(site) as free:
        model(input_ids=ids)
    with applied(subject, [CLAMP]), sites.read(site) as held:
        model(input_ids=ids)
    with torch.no_grad():
        x = free[-1].float()
        change = (CLAMP.value - sae.encode(x)[..., FEATURE, None]) * sae.W_dec[FEATURE]
    assert held[-1].dtype == torch.bfloat16
    # Rounded once, to 8 bits, whatever the size of the two parts.
    torch.testing.assert_close(held[-1].float(), x + change, rtol=2**-8, atol=1e-5)


def test_many_trees_are_clamped_in_shared_batches() -> None:
    subject = subject_of(CASES["gemma3-standard"])
    options = {**LIMITS, "scale": 2.0, "ghost_token": GHOST_TOKEN, "interventions": [CLAMP]}
    together = grow_trees(subject, [1, 2], prompt=PROMPTS[1], **options)
    for index, tree in zip([1, 2], together, strict=True):
        alone = grow_tree(subject, feature=index, prompt=PROMPTS[1], **options)
        assert compare(paths(tree), paths(alone), LIMITS["cutoff"]).agrees()


def test_trees_under_different_clamps_are_not_grown_together() -> None:
    subject = subject_of(CASES["gemma3-standard"])
    requests = [TreeRequest(feature=1, interventions=clamps) for clamps in ((), (CLAMP,))]
    with pytest.raises(ExplorerError, match="same top_k, max_depth and interventions"):
        TreeGrower(subject, requests)


def test_what_is_asked_of_a_clamped_tree_later_is_clamped_too() -> None:
    subject = subject_of(CASES["gemma3-standard"])
    tree = tree_of(subject, interventions=[CLAMP])
    row = len(tree) - 1
    path = [int(tree.token_id[r]) for r in tree.path(row)]
    assert tree.probability_of(path) == pytest.approx(tree.cumulative_probability[row], rel=1e-4)
    best = tree.greedy(stop="\0", max_tokens=3)
    row = 0
    for _ in range(3):
        row = tree.children[row][0]
    assert best.row == row
    assert best.probability == pytest.approx(tree.cumulative_probability[row], rel=1e-4)


# --- Hooks --------------------------------------------------------------------------------------


def test_hooks_are_gone_after_an_error() -> None:
    subject = subject_of(CASES["gemma3-transcoder"])

    def fail() -> None:
        with applied(subject, [CLAMP]):
            assert hooks_of(subject.model) > 0
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert hooks_of(subject.model) == 0


def test_hooks_are_gone_after_a_cancel() -> None:
    subject = subject_of(CASES["gemma3-standard"])
    stop = threading.Event()
    tree = tree_of(
        subject, interventions=[CLAMP], cancel=stop, progress=lambda _progress: stop.set()
    )
    assert tree.partial
    assert hooks_of(subject.model) == 0


def test_an_edit_that_does_not_reach_the_output_is_refused() -> None:
    model = copy.deepcopy(build_model("llama"))
    layer = model.model.layers[1]
    layer.forward = types.MethodType(lambda _self, hidden_states, **_: hidden_states, layer)
    subject = Subject(model, build_tokenizer(), build_sae(48, hook_name="blocks.1.hook_mlp_out"))
    with pytest.raises(ExplorerError, match=r"model\.layers\.1\.mlp does not reach the output"):
        tree_of(subject, interventions=[CLAMP])
    assert hooks_of(model) == 0


def test_an_sae_that_would_write_before_it_reads_is_refused() -> None:
    hooks = {"hook_name": "blocks.2.mlp.hook_in", "hook_name_out": "blocks.1.hook_mlp_out"}
    sae = build_sae(48, kind="transcoder", **hooks)
    subject = Subject(build_model("llama"), build_tokenizer(), sae)
    with pytest.raises(ExplorerError, match=r"had not run blocks\.2\.mlp\.hook_in before"):
        tree_of(subject, interventions=[CLAMP])
    assert hooks_of(subject.model) == 0


# --- Refusals -----------------------------------------------------------------------------------


def test_a_feature_that_is_not_there_is_refused() -> None:
    with pytest.raises(ExplorerError, match=r"no feature 24: .* has 24 features, 0 to 23"):
        tree_of(subject_of(CASES["gemma3-standard"]), interventions=[Clamp(24, 1.0)])


def test_a_feature_clamped_twice_is_refused() -> None:
    with pytest.raises(
        ExplorerError, match="Feature 3 is held at one value and changed by another"
    ):
        tree_of(subject_of(CASES["gemma3-standard"]), interventions=[CLAMP, Clamp(3, 1.0)])


def test_a_feature_without_a_decoder_vector_is_refused() -> None:
    sae = copy.deepcopy(build_sae(48))
    with torch.no_grad():
        sae.W_dec[FEATURE] = 0
    subject = Subject(build_model("llama"), build_tokenizer(), sae)
    with pytest.raises(ExplorerError, match="decoder vector of feature 3 is zero"):
        tree_of(subject, interventions=[CLAMP])


def test_a_subject_without_an_sae_cannot_be_clamped() -> None:
    with pytest.raises(ExplorerError, match="has no SAE"):
        tree_of(Subject(build_model("llama"), build_tokenizer()), interventions=[CLAMP])


_METADATA = {"hook_name": "blocks.1.hook_resid_post", "model_name": "tiny-llama"}


@pytest.mark.parametrize(
    ("sae", "reason"),
    [
        (
            lambda: sae_lens.TemporalSAE(
                sae_lens.TemporalSAEConfig(
                    d_in=48,
                    d_sae=24,
                    n_heads=2,
                    bottleneck_factor=2,
                    metadata=SAEMetadata(**_METADATA),
                )
            ),
            "temporal SAE, whose features cannot be measured or clamped: it predicts",
        ),
        (
            lambda: sae_lens.MatchingPursuitSAE(
                sae_lens.MatchingPursuitSAEConfig(
                    d_in=48, d_sae=24, metadata=SAEMetadata(**_METADATA)
                )
            ),
            "matching_pursuit SAE, whose features cannot be measured or clamped: it picks features",
        ),
        (
            lambda: sae_lens.BatchTopKTrainingSAE(
                sae_lens.BatchTopKTrainingSAEConfig(
                    d_in=48, d_sae=24, k=4, metadata=SAEMetadata(**_METADATA)
                )
            ),
            "batchtopk SAE, .* save it as an inference model first",
        ),
    ],
    ids=["temporal", "matching-pursuit", "batchtopk-in-training"],
)
def test_saes_without_an_activation_of_one_feature_are_refused(sae: Any, reason: str) -> None:
    subject = Subject(build_model("llama"), build_tokenizer(), sae())
    with pytest.raises(ExplorerError, match=reason):
        tree_of(subject, interventions=[CLAMP])


@pytest.mark.parametrize(
    ("feature", "value", "message"),
    [
        (-1, 0.0, "feature of a Clamp is -1; it must be a whole number of at least 0"),
        (1.5, 0.0, "feature of a Clamp is 1.5"),
        ("3", 0.0, "feature of a Clamp is '3'; it must be a number"),
        (True, 0.0, "feature of a Clamp is True"),
        (3, math.inf, "value of a Clamp is inf; it must be finite"),
        (3, math.nan, "value of a Clamp is nan"),
        (3, None, "value of a Clamp is None"),
        (3, 10**400, "value of a Clamp is 1000.*; it must be finite"),
        (10**400, 1.0, "feature of a Clamp is 1000"),
        (
            np.array([1, 2]),
            1.0,
            r"feature of a Clamp is array\(\[1, 2\]\); it must be a number",
        ),
    ],
)
def test_a_clamp_is_checked(feature: Any, value: Any, message: str) -> None:
    with pytest.raises(ExplorerError, match=message):
        Clamp(feature, value)


def test_a_clamp_takes_numbers_of_numpy_and_torch() -> None:
    clamp = Clamp(np.int64(3), torch.tensor(2))  # type: ignore[arg-type]
    assert clamp == Clamp(3, 2.0)
    assert json.dumps(clamp.to_dict()) == '{"kind": "clamp", "feature": 3, "value": 2.0}'


# --- The request --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["expected_average_only_in", "covariance_whitening"])
def test_an_sae_whose_scale_is_not_in_its_weights_is_refused(how: str) -> None:
    sae = copy.deepcopy(build_sae(48))
    sae.cfg.normalize_activations = how
    with pytest.raises(ExplorerError, match=r"units are unknown. Fold it in first: sae\.fold_act"):
        tree_of(Subject(build_model("llama"), build_tokenizer(), sae), interventions=[CLAMP])


def test_a_clamp_before_the_queries_reaches_the_output() -> None:
    # On a single token attention has nothing to choose from, and queries have no effect.
    model = build_model("llama")
    sae = build_sae(48, hook_name="model.layers.1.self_attn.q_proj.output")
    plain_tree = tree_of(Subject(model, build_tokenizer(), sae))
    held = tree_of(Subject(model, build_tokenizer(), sae), interventions=[Clamp(FEATURE, 30.0)])
    assert not compare(paths(held), paths(plain_tree), LIMITS["cutoff"]).agrees()


def test_a_clamped_tree_asks_only_a_subject_with_its_own_sae(tmp_path: Path) -> None:
    saes = [build_sae(48, layer=1), build_sae(48, layer=2, seed=1)]
    subject = Subject(build_model("llama"), build_tokenizer(), saes)
    tree = tree_of(subject, interventions=[CLAMP])
    tree.to_json(tmp_path / "tree.json")
    read = DefinitionTree.from_json(tmp_path / "tree.json")
    answer = tree.definitions(1)[0].token_ids
    assert read.probability_of(answer, subject=subject) == tree.probability_of(answer)
    with pytest.raises(ExplorerError, match=r"under interventions of blocks.1.*Select it first"):
        read.probability_of(answer, subject=subject.select(layer=2))


def test_a_clamped_tree_says_so() -> None:
    tree = tree_of(subject_of(CASES["llama-mlp_out"]), interventions=[Clamp(FEATURE, 2.5)])
    assert tree.request.label == f"embedding, feature {FEATURE} at 2.5"
    assert tree.request.label in repr(tree)


def test_a_tree_without_interventions_has_the_hash_that_it_had_before_there_were_any() -> None:
    tree = tree_of(subject_of(CASES["llama-mlp_out"]))
    assert "interventions" not in json.loads(tree.to_json())["request"]
    assert (
        "interventions"
        in json.loads(tree_of(subject_of(CASES["llama-mlp_out"]), interventions=[CLAMP]).to_json())[
            "request"
        ]
    )


def test_interventions_survive_the_way_through_json() -> None:
    request = TreeRequest(feature=1, interventions=[CLAMP, Clamp(5, 0)])  # type: ignore[arg-type]
    written = json.loads(json.dumps(request.to_dict()))
    assert TreeRequest.from_options(written) == request
    tree = tree_of(subject_of(CASES["gemma3-standard"]), interventions=[CLAMP], max_depth=1)
    again = DefinitionTree.from_json(tree.to_json())
    assert again.request == tree.request
    assert again.request.interventions == (CLAMP,)


def test_a_clamped_tree_says_which_sae_and_has_another_hash() -> None:
    subject = subject_of(CASES["gemma3-standard"])
    free = tree_of(subject, max_depth=1)
    held = tree_of(subject, max_depth=1, interventions=[Clamp(FEATURE, 0.0)])
    assert free.provenance.sae == {}
    assert held.provenance.sae["hook_name"] == "blocks.1.hook_resid_post"
    assert json.loads(held.to_json())["hash"] != json.loads(free.to_json())["hash"]


# --- Hostile values ------------------------------------------------------------------------------


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
NUMBER = st.integers(0, 30) | st.floats() | ANYTHING
FIELDS = st.fixed_dictionaries(
    {"kind": st.sampled_from(["steer", "clamp", "ablate"]) | ANYTHING, "feature": NUMBER},
    optional={
        "strength": NUMBER,
        "value": NUMBER,
        "unit": st.sampled_from(["absolute", "max_activation", "residual_norm"]) | ANYTHING,
        "at": st.sampled_from(["all", "prompt", "ghost"]) | st.lists(st.integers()) | ANYTHING,
        "skip_bos": st.booleans() | ANYTHING,
    },
)


def read_or_refused(read: Callable[[], Intervention]) -> None:
    """Check that a value is an intervention that survives JSON, or is refused in one line."""
    said = "read"
    try:
        found = read()
        assert Intervention.from_dict(json.loads(json.dumps(found.to_dict()))) == found
        assert found.label
    except ExplorerError as error:
        said = str(error)
    assert len(said.splitlines()) == 1
    assert len(said) < 500


@pytest.mark.parametrize(
    ("made", "label"),
    [
        (Steer(3, 0.5, "residual_norm"), "feature 3 +0.5 × residual norm"),
        (
            Steer(3, -2.0, "max_activation", at="ghost"),
            "feature 3 -2 × largest activation at the ghost",
        ),
        (Clamp(3, 1.5, "max_activation"), "feature 3 at 1.5 × largest activation"),
        (Clamp(3, 8.0, at="prompt", skip_bos=True), "feature 3 at 8 in the prompt without BOS"),
        (Ablate(3), "feature 3 ablated"),
    ],
)
def test_a_label_says_what_is_done_and_in_which_unit(made: Intervention, label: str) -> None:
    assert made.label == label


@given(FIELDS | st.dictionaries(st.text(max_size=5), ANYTHING, max_size=3))
@settings(max_examples=300, deadline=None)
def test_any_json_is_an_intervention_or_an_error_in_one_line(values: dict[str, Any]) -> None:
    read_or_refused(lambda: Intervention.from_dict(values))


DIGITS = "9" * 5000
WORDS = st.sampled_from(
    (
        "steer clamp ablate 17 8 -0.5 nan 4021-17 3:decoder residual_norm at= at=1,-2 at=ghost at=1,,2 "
        f"skip_bos ; at={DIGITS} {DIGITS}"
    ).split()
)


@given(st.lists(WORDS | st.text(max_size=6), max_size=6))
@settings(max_examples=300, deadline=None)
def test_any_text_is_an_intervention_or_an_error_in_one_line(words: list[str]) -> None:
    read_or_refused(lambda: Intervention.parse(" ".join(words)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Steer(3, 1.0, None), "unit of a Steer is None; it must be one of 'absolute'"),  # type: ignore[arg-type]
        (lambda: Steer(3, 1.0, np.zeros(2)), r"unit of a Steer is array\(\[0., 0.\]\)"),  # type: ignore[arg-type]
        (lambda: Clamp(3, 1.0, "residual_norm"), "unit of a Clamp is 'residual_norm'"),
        (lambda: Clamp(3, 1.0, "max"), "must be one of 'absolute', 'max_activation'"),
        (lambda: Steer(feature(3), 1.0, "max_activation"), "has no activation, so no largest one"),
        (
            lambda: Clamp(feature(3), 1.0),
            "is the direction '3'; it must be the index of one feature",
        ),  # type: ignore[arg-type]
        (lambda: Clamp(np.zeros((3, 3)), 1.0), r"feature of a Clamp is array"),  # type: ignore[arg-type]
        (lambda: Clamp(10**5000, 1.0), "feature of a Clamp is a number too long to be shown"),
        (lambda: Ablate(3, at=[]), r"at of an Ablate is \[\]; it must be one of 'all', 'prompt'"),  # type: ignore[arg-type]
        (lambda: Ablate(3, at=[True]), r"at of an Ablate is \[True\]; places are whole numbers"),  # type: ignore[arg-type]
        (lambda: Ablate(3, at=True), "places are whole numbers"),  # type: ignore[arg-type]
        (lambda: Ablate(3, at=[1.5]), "places are whole numbers"),  # type: ignore[arg-type]
        (lambda: Ablate(3, at={1}), "or a list of places such as"),  # type: ignore[arg-type]
        (lambda: Ablate(3, at=b"ab"), "or a list of places such as"),  # type: ignore[arg-type]
        (lambda: Ablate(3, at=[2**70]), "no text has as many places"),  # type: ignore[arg-type]
        (lambda: Ablate(3, at="ghosts"), "Did you mean 'ghost'"),
        (lambda: Ablate(3, skip_bos=1), "skip_bos of an Ablate is 1; it must be True or False"),  # type: ignore[arg-type]
        (
            lambda: Clamp.from_dict({"kind": "ablate", "feature": 3}),
            "is of kind 'ablate'; Clamp reads its own alone",
        ),
        (lambda: Intervention.from_dict({"kind": [], "feature": 3}), "is no intervention"),
    ],
)
def test_an_intervention_that_makes_no_sense_is_refused_in_one_line(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(ExplorerError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


SAME_PLACES = [
    ("all", "prompt"),
    ("ghost", "prompt"),
    ((3,), "prompt"),
    ((-1,), "ghost"),
    ((3,), (3, 4)),
    ((3,), (-1,)),
    ("generated", (9,)),
]
OTHER_PLACES = [
    ("prompt", "generated"),
    ("ghost", "generated"),
    ((-1,), "generated"),
    ((3,), (4, 5)),
    ((-3,), (-1,)),
]


@pytest.mark.parametrize("places", SAME_PLACES + OTHER_PLACES, ids=str)
def test_a_feature_may_be_held_at_two_values_where_the_places_are_apart(places: Any) -> None:
    subject = subject_of(CASES["gemma3-standard"])
    for first, second in (places, places[::-1]):
        plan = [Clamp(3, 1.0, at=first), Steer(3, 2.0, at=second)]
        if places in OTHER_PLACES:
            check(subject, plan)
            continue
        with pytest.raises(ExplorerError, match=r"at the same places .*Take one of them out"):
            check(subject, plan)


def test_a_feature_in_a_direction_is_not_held_as_well() -> None:
    subject = subject_of(CASES["gemma3-standard"])
    with pytest.raises(ExplorerError, match="Feature 3 is held at one value and changed by"):
        check(subject, [Clamp(3, 1.0), Steer(feature(5) - feature(3), 2.0)])
    check(subject, [Clamp(3, 1.0), Steer(feature(5) - feature(3, "encoder"), 2.0)])


# --- Precisions, widths and numbers --------------------------------------------------------------

HALVES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
PLAN = [
    Steer(FEATURE, 2.0),
    Steer(5, 0.5, "residual_norm"),
    Steer(7 * feature(5) - feature(2, "encoder"), 0.5),
    Clamp(9, 3.0),
]


@pytest.mark.parametrize("of_sae", HALVES[1:], ids=str)
@pytest.mark.parametrize("of_model", HALVES[:3], ids=str)
@pytest.mark.parametrize("config", [{}, {"normalize_activations": "layer_norm"}], ids=str)
@pytest.mark.parametrize("kind", ["standard", "topk"])
def test_model_and_sae_may_have_any_precision(
    of_model: torch.dtype, of_sae: torch.dtype, config: dict[str, Any], kind: str
) -> None:
    model, ids = build_model("llama", dtype=of_model), torch.tensor([prompt_ids(1)])
    logits = {}
    for dtype in (torch.float32, of_sae):
        sae = copy.deepcopy(build_sae(48, kind=kind, **config))
        as_module: torch.nn.Module = sae
        as_module.to(dtype)
        sae.dtype = dtype
        subject = Subject(model, build_tokenizer(), sae)
        for plan in ([PLAN[0]], PLAN):
            with applied(subject, plan):
                out = model(input_ids=ids).logits
            assert out.dtype == of_model
            logits[dtype, len(plan)] = out.float().softmax(dim=-1)
    for size in (1, len(PLAN)):
        apart = (logits[torch.float32, size] - logits[of_sae, size]).abs().max()
        assert apart < 0.15  # a last digit may decide whether a feature fires


def test_a_transcoder_may_write_vectors_of_another_width() -> None:
    metadata = SAEMetadata(
        hook_name="blocks.1.mlp.hook_in",
        hook_name_out="blocks.1.mlp.hook_post",
        model_name="tiny-llama",
    )
    config = sae_lens.TranscoderConfig(
        d_in=48, d_sae=24, d_out=96, apply_b_dec_to_input=False, metadata=metadata
    )
    sae = sae_lens.Transcoder(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    model = build_model("llama")
    subject = Subject(model, build_tokenizer(), sae.eval())
    reads, writes = ("model.layers.1.mlp", "input"), ("model.layers.1.mlp.down_proj", "input")
    plan = [Clamp(FEATURE, 6.0), Steer(5, 4.0), Steer(vector([0.1] * 96), 5.0)]
    edits = [Edit(hold=(FEATURE, 6.0)), Edit(add={5: 4.0}, vector=torch.full((96,), 0.5))]
    with changed(model, sae, edits, reads, writes):
        expected = unclamped(model)
    assert compare(paths(tree_of(subject, interventions=plan)), expected, LIMITS["cutoff"]).agrees()
    for what, size in ((vector([0.1] * 48), "vector"), (feature(3, "encoder"), "3:encoder")):
        with pytest.raises(ExplorerError, match=f"{size} in a direction has 48 numbers; .* of 96"):
            tree_of(subject, interventions=[Steer(what, 1.0)])


@pytest.mark.parametrize("name", ["gemma3-standard", "gpt_neo-topk", "gemma3-layer_norm"])
def test_a_hundred_interventions_act_as_their_sum(name: str) -> None:
    case = CASES[name]
    plan = [Steer(number % 20, 0.1 * number - 4) for number in range(80)]
    plan += [Clamp(number, 1.0) for number in range(20, 24)]
    sums: dict[int, float] = {}
    for one in plan[:80]:
        sums[one.feature] = sums.get(one.feature, 0.0) + one.strength
    edits = [Edit(add=sums), *(Edit(hold=(number, 1.0)) for number in range(20, 24))]
    with changed(case.model, case.sae, edits, case.reads, case.writes):
        expected = unclamped(case.model)
    tree = tree_of(subject_of(case), interventions=plan)
    assert compare(paths(tree), expected, LIMITS["cutoff"]).agrees()


@pytest.mark.parametrize("values", [[3], [(3, 6.0)], {"feature": 3}, [{"feature": 3}], "3=6"])
def test_what_is_no_intervention_is_refused(values: Any) -> None:
    with pytest.raises(ExplorerError, match=r"Clamp\(17|clamp 17 8"):
        TreeRequest(feature=1, interventions=values)


def test_interventions_have_a_control_and_a_flag() -> None:
    (entry,) = [entry for entry in schema(TreeRequest) if entry["name"] == "interventions"]
    assert (entry["kind"], entry["group"], entry["default"]) == (
        "interventions",
        "interventions",
        [],
    )
    assert from_text(TreeRequest, "interventions", "clamp 17 8; ablate 3") == (
        Clamp(17, 8.0),
        Ablate(3),
    )


@pytest.mark.parametrize("how", ["constant_norm_rescale", "layer_norm"])
def test_nothing_is_left_on_the_users_sae(how: str) -> None:
    sae = build_sae(48, normalize_activations=how, seed=31)
    subject = Subject(build_model("llama"), build_tokenizer(), sae)
    before = set(vars(sae))
    tree_of(subject, interventions=[Clamp(FEATURE, 2.0)], max_depth=2)
    measure_activations(subject, ["A tree is a plant with leaves."])
    assert set(vars(sae)) == before


def test_an_sae_that_normalises_is_run_on_two_models_at_once() -> None:
    sae = build_sae(48, normalize_activations="layer_norm", seed=32)
    models = [build_model("llama", seed=seed) for seed in (0, 1)]
    subjects = [Subject(model, build_tokenizer(), sae) for model in models]

    def grown(subject: Subject) -> str:
        return tree_of(subject, interventions=[Clamp(FEATURE, 2.0)]).to_json()

    alone = [grown(subject) for subject in subjects]
    found: dict[int, list[str]] = {0: [], 1: []}

    def work(which: int) -> None:
        for _ in range(3):
            found[which].append(grown(subjects[which]))

    threads = [threading.Thread(target=work, args=(which,)) for which in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {which: [alone[which]] * 3 for which in found}
