"""Claims about definition trees that hold for every model, vector and option."""

from __future__ import annotations

import itertools
import json
import math
import threading
from functools import cache
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from naive import compare, paths
from sae_explorer import (
    DefinitionTree,
    ExplorerError,
    PartialResultWarning,
    Subject,
    grow_tree,
    grow_trees,
)
from sae_explorer.analyses.trees import TreeGrower, TreeRequest
from sae_explorer.model import decoding
from zoo import NO_MEMORY, OPTIONS, build_model, build_sae, build_tokenizer

#: Examples that grow trees take long; hypothesis must not take that for a failure.
grown = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
features = st.integers(0, 23)
cutoffs = st.floats(5e-4, 5e-2)


@cache
def subject(architecture: str = "llama") -> Subject:
    model = build_model(architecture)
    return Subject(model, build_tokenizer(), build_sae(model.config.hidden_size))


@cache
def tree_of(feature: int = 3, cutoff: float = 1e-3) -> DefinitionTree:
    return grow_tree(subject(), feature=feature, **{**OPTIONS, "cutoff": cutoff})


def same_rows(first: DefinitionTree, second: DefinitionTree) -> bool:
    rows = min(len(first), len(second))
    return bool(
        np.array_equal(first.token_id[:rows], second.token_id[:rows])
        and np.array_equal(first.parent[:rows], second.parent[:rows])
        and np.allclose(
            first.cumulative_probability[:rows], second.cumulative_probability[:rows], rtol=1e-4
        )
    )


# --- Probabilities ------------------------------------------------------------------------------


@grown
@given(features, cutoffs, st.integers(1, 8), st.integers(1, 7))
def test_probability_falls_along_paths_and_is_never_made(
    feature: int, cutoff: float, top_k: int, max_depth: int
) -> None:
    options = {**OPTIONS, "cutoff": cutoff, "top_k": top_k, "max_depth": max_depth}
    tree = grow_tree(subject(), feature=feature, **options)
    total = tree.cumulative_probability
    assert total[0] == 1.0
    assert tree.depth.max() <= max_depth
    assert (total >= cutoff).all()
    assert (np.diff(total) <= 0).all()
    assert (tree.parent[1:] < np.arange(1, len(tree))).all()
    np.testing.assert_allclose(total[1:], total[tree.parent[1:]] * tree.probability[1:], rtol=1e-12)
    for row, children in enumerate(tree.children):
        assert len(children) <= top_k
        assert total[children].sum() <= total[row] * (1 + 1e-6)


@grown
@given(features, cutoffs)
def test_what_is_kept_and_what_is_cut_add_up_to_one(feature: int, cutoff: float) -> None:
    tree = grow_tree(subject(), feature=feature, **{**OPTIONS, "cutoff": cutoff})
    inner = np.array([bool(rows) for rows in tree.children])
    inner[0] = True
    cut = tree.cut_probability[inner].sum()
    # The probabilities come from a softmax in float32, whose own sum errs by about 1e-6.
    assert tree.covered_probability + cut == pytest.approx(1, abs=1e-5)
    coverage = tree.coverage()
    np.testing.assert_allclose(coverage[["kept", "cut", "open"]].sum(axis=1), 1, atol=1e-5)
    assert (coverage["open"] == 0).all()
    assert (coverage["kept"].diff().dropna() <= 1e-9).all()


@grown
@given(features, st.floats(2e-3, 5e-2), st.floats(0.05, 0.9))
def test_lowering_the_cutoff_only_adds_nodes(feature: int, cutoff: float, factor: float) -> None:
    high = grow_tree(subject(), feature=feature, **{**OPTIONS, "cutoff": cutoff})
    low = grow_tree(subject(), feature=feature, **{**OPTIONS, "cutoff": cutoff * factor})
    assert len(low) >= len(high)
    assert same_rows(high, low)


@grown
@given(features, st.integers(1, 400))
def test_a_budgeted_tree_is_the_top_of_the_full_one(feature: int, budget: int) -> None:
    full = tree_of(feature)
    top = grow_tree(subject(), feature=feature, **OPTIONS, max_nodes=budget)
    assert len(top) == min(budget, len(full))
    assert top.status == ("budget" if budget < len(full) else "complete")
    assert same_rows(top, full)
    np.testing.assert_allclose(top.coverage()[["kept", "cut", "open"]].sum(axis=1), 1, atol=1e-5)


def test_a_shallow_tree_is_the_top_levels_of_the_deep_one() -> None:
    deep = paths(tree_of())
    shallow = grow_tree(subject(), feature=3, **{**OPTIONS, "max_depth": 3})
    expected = {path: value for path, value in deep.items() if len(path) <= 3}
    assert compare(paths(shallow), expected, OPTIONS["cutoff"]).agrees()


# --- Growth -------------------------------------------------------------------------------------


def test_lowering_the_cutoff_of_a_kept_tree_recomputes_nothing() -> None:
    request = TreeRequest.from_options({**OPTIONS, "feature": 3, "cutoff": 1e-2})
    grower = TreeGrower(subject(), [request], keep=True)
    for _ in grower.steps():
        pass
    before = grower.trees()[0]
    tokens_run = count_tokens(grower, lambda: grower.lower(1e-3))
    after = grower.trees()[0]
    assert same_rows(before, tree_of(cutoff=1e-2))
    assert len(after) == len(tree_of())
    assert same_rows(after, tree_of())
    assert after.request.cutoff == 1e-3
    run_before, run_after = before.expanded.sum(), after.expanded.sum()
    assert tokens_run == run_after - run_before > 0
    with pytest.raises(ExplorerError, match="not lower"):
        grower.lower(1e-2)


def count_tokens(grower: TreeGrower, prepare: Any) -> int:
    counts: list[int] = []
    hook = (
        subject()
        .model.get_input_embeddings()
        .register_forward_pre_hook(lambda _module, inputs: counts.append(inputs[0].numel()))
    )
    try:
        prepare()
        for _ in grower.steps():
            pass
    finally:
        hook.remove()
    return sum(counts)


def test_every_step_of_the_growth_is_complete_above_its_threshold() -> None:
    full = paths(tree_of())
    seen = []

    def check(progress: Any) -> None:
        partial = paths(progress.snapshot()[0])
        above = {p for p, (_, total) in full.items() if total > progress.threshold * (1 + 1e-4)}
        assert above <= partial.keys()
        assert partial.keys() <= full.keys()
        seen.append(progress.threshold)

    grow_tree(subject(), feature=3, **OPTIONS, progress=check)
    assert len(seen) > 3
    assert seen[0] > seen[-2]


def test_many_trees_are_each_the_single_tree() -> None:
    chosen = [3, 17, 3, 0, 5, *range(6, 23)]  # more than fit one batch of prompts, one twice
    together = grow_trees(subject(), chosen, **OPTIONS)
    assert len(together) == len(chosen)
    for feature, tree in zip(chosen, together, strict=True):
        assert tree.request.feature == feature
        found = compare(paths(tree), paths(tree_of(feature)), OPTIONS["cutoff"])
        assert found.agrees()
        assert found.largest_relative_error < 5e-4


def test_several_prompts_and_vectors_grow_together() -> None:
    prompts = ['The word "{ghost}" means "', "{ghost} and {ghost} are two of a kind: "]
    vector = np.arange(subject().d_model, dtype=np.float32) - 7.5
    together = grow_trees(subject(), [3], vectors=[vector], prompts=prompts, **OPTIONS)
    assert len(together) == 4
    for tree, source in zip(together, [{"feature": 3}] * 2 + [{"vector": vector}] * 2, strict=True):
        alone = grow_tree(subject(), **source, prompt=tree.request.prompt, **OPTIONS)
        assert compare(paths(tree), paths(alone), OPTIONS["cutoff"]).agrees()
    assert [tree.request.prompt for tree in together] == prompts * 2


def test_a_model_that_cannot_share_its_cache_gives_the_same_tree(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pooled = tree_of()
    monkeypatch.setitem(decoding._poolable, subject().model, {"sdpa": False})
    replayed = grow_tree(subject(), feature=3, **OPTIONS)
    assert compare(paths(replayed), paths(pooled), OPTIONS["cutoff"]).agrees()
    assert len(grow_trees(subject(), [3, 4], **OPTIONS)) == 2


def test_a_model_whose_cache_is_not_what_it_seems_is_found_out() -> None:
    # This attention forgets what it is shown: only whole forwards are right.
    model = build_model("llama", seed=5)
    attention = model.model.layers[0].self_attn
    original = attention.forward

    def forgetful(hidden_states: torch.Tensor, **kwargs: Any) -> Any:
        if hidden_states.shape[1] == 2 and kwargs.get("past_key_values") is not None:
            kwargs = {**kwargs, "attention_mask": torch.zeros_like(kwargs["attention_mask"])}
        return original(hidden_states, **kwargs)

    attention.forward = forgetful
    try:
        prompt = decoding.Prompt((2, 10, 11, 12), {})
        with decoding.quiet_forward(model):
            decoder = decoding.open_decoder(model, 5, 4, prompt)
        assert isinstance(decoder, decoding.ReplayDecoder)
    finally:
        attention.forward = original


def test_running_out_of_memory_makes_smaller_chunks_of_the_same_tree() -> None:
    alone = grow_tree(subject(), feature=3, **{**OPTIONS, "prompt": '"{ghost}" is "'})

    def small_memory(_module: Any, inputs: Any) -> None:
        if inputs[0].numel() > 13:
            raise torch.OutOfMemoryError("no more than 13 tokens at once")

    hook = subject().model.get_input_embeddings().register_forward_pre_hook(small_memory)
    try:
        tree = grow_tree(subject(), feature=3, **{**OPTIONS, "prompt": '"{ghost}" is "'})
    finally:
        hook.remove()
    assert len(tree) > 50
    assert compare(paths(tree), paths(alone), OPTIONS["cutoff"]).agrees()


def test_cancelling_keeps_what_has_grown_and_says_so() -> None:
    cancel = threading.Event()
    steps = itertools.count(1)
    tree = grow_tree(
        subject(),
        feature=3,
        **OPTIONS,
        cancel=cancel,
        progress=lambda _p: cancel.set() if next(steps) == 3 else None,
    )
    assert tree.partial
    assert next(steps) == 4
    assert 1 < len(tree) < len(tree_of())
    assert paths(tree).keys() <= paths(tree_of()).keys()
    assert tree.coverage()["open"].max() > 0
    np.testing.assert_allclose(tree.coverage()[["kept", "cut", "open"]].sum(axis=1), 1, atol=1e-5)
    assert DefinitionTree.from_json(tree.to_json()).partial


def test_an_interrupt_keeps_what_has_grown_with_a_warning() -> None:
    steps = itertools.count(1)

    def press_ctrl_c(_progress: Any) -> None:
        if next(steps) == 2:
            raise KeyboardInterrupt

    with pytest.warns(PartialResultWarning, match="partial"):
        trees = grow_trees(subject(), [*range(24)] * 2, **OPTIONS, progress=press_ctrl_c)
    assert len(trees) == 48
    assert trees[0].partial
    assert len(trees[0]) > 1
    assert len(trees[-1]) == 1  # not begun
    assert len(grow_tree(subject(), feature=3, **OPTIONS)) == len(tree_of())


def test_hooks_are_gone_after_an_error() -> None:
    def fail(_progress: Any) -> None:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        grow_tree(subject(), feature=3, **OPTIONS, progress=fail)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in subject().model.modules())


def test_trees_grown_in_two_threads_at_once_are_right() -> None:
    found: dict[int, DefinitionTree] = {}

    def work(feature: int) -> None:
        found[feature] = grow_tree(subject(), feature=feature, **OPTIONS)

    threads = [threading.Thread(target=work, args=(feature,)) for feature in (3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same_rows(found[f], tree_of(f)) for f in (3, 4))


# --- What stands in for the word ------------------------------------------------------------------


def test_a_plain_tokens_tree_is_the_tree_of_its_embedding() -> None:
    by_token = grow_tree(subject(), token="Ġtypical", **OPTIONS)
    row = subject().geometry.row(subject().token_id("Ġtypical"))
    by_row = grow_tree(subject(), embedding=row, **OPTIONS)
    np.testing.assert_array_equal(by_token.ghost_vector, row)
    assert same_rows(by_token, by_row)
    assert by_token.provenance.sae == {}


def test_the_centroid_has_a_tree() -> None:
    centroid = subject().geometry.centroid
    tree = grow_tree(subject(), embedding=centroid, **OPTIONS)
    np.testing.assert_array_equal(tree.ghost_vector, centroid)
    assert len(tree) > 1


def test_a_vector_is_used_as_the_features_direction_would_be() -> None:
    row = subject().sae.decoder(3)
    by_vector = grow_tree(subject(), vector=17 * row, **OPTIONS)
    np.testing.assert_allclose(by_vector.ghost_vector, tree_of().ghost_vector, rtol=1e-5)
    assert same_rows(by_vector, tree_of())


def test_the_ghost_is_the_formula() -> None:
    geometry, sae = subject().geometry, subject().sae
    mixed = grow_tree(
        subject(),
        feature=3,
        **{**OPTIONS, "weights": (0.25, -0.5), "pca": (0.2, 0.1), "centroid": True, "max_depth": 1},
    )
    encoder, decoder = (row / np.linalg.norm(row) for row in (sae.encoder(3), sae.decoder(3)))
    mix = 0.25 * encoder - 0.5 * decoder
    components = geometry.components(2)
    expected = geometry.centroid + 2.0 * (
        0.7 * mix / np.linalg.norm(mix) + 0.2 * components[0] + 0.1 * components[1]
    )
    np.testing.assert_allclose(mixed.ghost_vector, expected, rtol=2e-5, atol=1e-6)


def test_scale_is_the_mean_distance_unless_given() -> None:
    tree = grow_tree(subject(), feature=3, cutoff=0.1)
    assert np.linalg.norm(tree.ghost_vector) == pytest.approx(
        subject().geometry.mean_distance, rel=1e-5
    )


# --- Reading a tree -------------------------------------------------------------------------------


@grown
@given(features)
def test_json_gives_back_an_equal_tree(feature: int) -> None:
    tree = tree_of(feature)
    text = tree.to_json()
    back = DefinitionTree.from_json(text)
    assert back == tree
    assert back.hash == tree.hash
    assert back.to_json() == text
    assert back.definitions() == tree.definitions()


def test_equal_inputs_give_equal_json() -> None:
    assert grow_tree(subject(), feature=3, **OPTIONS).to_json() == tree_of().to_json()
    other = grow_tree(subject(), feature=4, **OPTIONS)
    assert other.hash != tree_of().hash
    document = json.loads(tree_of().to_json())
    assert document["provenance"]["sae"]["hook_name"] == "blocks.1.hook_resid_post"
    assert document["request"]["cutoff"] == 1e-3
    assert document["hash"] == tree_of().hash


def test_a_changed_or_cut_off_file_is_refused(tmp_path: Any) -> None:
    path = tmp_path / "tree.json"
    assert tree_of().to_json(path) == str(path)
    text = path.read_text(encoding="utf-8")
    assert text == tree_of().to_json()
    assert DefinitionTree.from_json(path) == tree_of()
    assert [p.name for p in tmp_path.iterdir()] == ["tree.json"]
    with pytest.raises(ExplorerError, match="hash does not match"):
        DefinitionTree.from_json(text.replace('"status":"complete"', '"status":"partial"'))
    with pytest.raises(ExplorerError, match="cut off"):
        DefinitionTree.from_json(text[:-50])
    with pytest.raises(ExplorerError, match="holds another"):
        DefinitionTree.from_json(text.replace('"kind":"definition-tree"', '"kind":"another"'))
    with pytest.raises(ExplorerError, match="cannot be read"):
        DefinitionTree.from_json(tmp_path / "none.json")
    with pytest.raises(ExplorerError, match="cannot be written"):
        tree_of().to_json(tmp_path / "none" / "tree.json")


def test_definitions_are_distinct_paths_by_falling_probability() -> None:
    found = tree_of().definitions(limit=None)
    assert len(found) > 20
    assert [d.probability for d in found] == sorted((d.probability for d in found), reverse=True)
    assert len({d.token_ids for d in found}) == len(found)
    assert tree_of().definitions(limit=4) == found[:4]
    for definition in found:
        assert tree_of().row_of(definition.token_ids) == definition.row
        assert definition.complete != definition.text.endswith("…")
        assert definition.probability == tree_of().cumulative_probability[definition.row]
        assert '"' not in definition.text  # it closes the prompt's quotation


def test_probability_of_an_answer_is_that_of_its_path() -> None:
    tree = tree_of()
    for row in (1, 5, len(tree) - 1):
        path = [int(tree.token_id[r]) for r in tree.path(row)]
        assert tree.probability_of(path) == pytest.approx(
            tree.cumulative_probability[row], rel=1e-4
        )
    assert tree.probability_of([]) == 1
    ghost = subject().token_id("<unused0>")
    assert tree.probability_of([int(tree.token_id[1]), ghost]) == 0
    loaded = DefinitionTree.from_json(tree.to_json())
    with pytest.raises(ExplorerError, match="subject="):
        loaded.probability_of("a word")
    assert loaded.probability_of("a word", subject()) == pytest.approx(
        tree.probability_of("a word")
    )


def test_probability_of_an_answer_goes_on_beyond_the_tree() -> None:
    tree = tree_of()
    answer = "a word of the river at 2024"
    longer, shorter = tree.probability_of(answer), tree.probability_of(answer[:-5])
    assert 0 < longer < shorter
    path = subject().continuation_ids(tree.request.prompt, answer)
    assert subject().tokenizer.decode(path) == answer
    assert tree.row_of(path) == -1
    by_hand = 1.0
    for length in range(len(path)):
        step = grow_tree(
            subject(),
            embedding=tree.ghost_vector,
            ghost_token="<unused0>",
            prompt=OPTIONS.get("prompt", tree.request.prompt)
            + subject().tokenizer.decode(path[:length]),
            cutoff=1e-12,
            top_k=320,
            max_depth=1,
        )
        by_hand *= float(step.probability[step.row_of([path[length]])])
    assert longer == pytest.approx(by_hand, rel=1e-3)


def test_greedy_takes_the_most_probable_token_every_time() -> None:
    tree = tree_of()
    greedy = tree.greedy(stop="\n", max_tokens=6)
    row = 0
    for token in greedy.token_ids:
        if not tree.children[row]:
            break
        row = tree.children[row][0]
        assert tree.token_id[row] == token
    assert row > 0
    assert greedy.probability == pytest.approx(tree.probability_of(greedy.token_ids), rel=1e-4)
    whole = tree.greedy(stop="no such text", max_tokens=30)
    assert not whole.complete
    assert whole.text.endswith("…")
    stopped = tree.greedy(stop="ition")
    assert stopped.complete
    assert stopped.text == whole.text[: whole.text.index("ition")]


def test_formats_hold_every_node(tmp_path: Any) -> None:
    tree = tree_of()
    frame = tree.to_frame()
    assert list(frame.columns[:6]) == [
        "parent",
        "depth",
        "token_id",
        "token",
        "probability",
        "cumulative_probability",
    ]
    assert len(frame) == len(tree)
    assert frame.parent[0] == -1

    assert tree.to_csv(tmp_path / "tree.csv") == str(tmp_path / "tree.csv")
    assert (tmp_path / "tree.csv").read_text(encoding="utf-8") == tree.to_csv()

    graph = tree.to_networkx()
    assert nx.is_arborescence(graph)
    assert graph.number_of_nodes() == len(tree)
    assert graph.nodes[1]["token"] == tree.tokens[1]

    newick = tree.to_newick()
    leaves = sum(not rows for rows in tree.children)
    outside = "".join(part for i, part in enumerate(newick.split("'")) if i % 2 == 0)
    assert outside.count("(") == outside.count(")") == len(tree) - leaves
    assert outside.count(",") == leaves - 1 - sum(len(r) == 0 for r in [tree.children[0]])
    assert outside.count(":") == len(tree)

    dot = tree.to_dot()
    assert dot.count(" -> ") == len(tree) - 1


def test_lines_are_as_wide_as_the_formula_says() -> None:
    from sae_explorer.analyses.tree_formats import line_widths

    tree = tree_of()
    logs = np.log(tree.cumulative_probability)
    x = (logs - logs.min()) / (logs.max() - logs.min())
    np.testing.assert_allclose(line_widths(tree), 1 + 32 * x**2.5)


# --- Refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feature": 24}, "There is no feature 24: .* 24 features, 0 to 23"),
        ({"feature": -1}, "feature is -1; it must be at least 0"),
        ({}, "Give one of feature, direction, vector, token or embedding; none was given"),
        ({"feature": 3, "token": "a"}, "feature and token were given"),
        ({"feature": 3, "prompt": "What is a word?"}, r"no placeholder. Write \{ghost\}"),
        ({"feature": 3, "ghost_token": "Ġwould be"}, "no single token"),
        ({"feature": 3, "cutoff": 0}, "cutoff is 0.0; it must be above 0, at most 1"),
        ({"feature": 3, "cutoff": math.nan}, "cutoff is nan"),
        ({"feature": 3, "top_k": 321}, "top_k is 321; the vocabulary has only 320"),
        ({"feature": 3, "top_k": 0}, "top_k is 0; it must be at least 1"),
        ({"feature": 3, "top_k": 2.5}, "top_k is 2.5; it must be a whole number"),
        ({"feature": 3, "scale": 0}, "scale is 0.0; it must be above 0"),
        ({"feature": 3, "weights": "encodr"}, "weights is 'encodr'"),
        ({"feature": 3, "weights": (0, 0)}, "two coefficients"),
        ({"feature": 3, "pca": (0.7, 0.7)}, "add up to 1.4"),
        ({"feature": 3, "cut_off": 0.1}, "no option 'cut_off'. Did you mean 'cutoff'"),
        ({"vector": [1.0, 2.0]}, "The vector has 2 numbers; the model's embeddings have 48"),
        ({"vector": [0.0] * 48}, "The vector is zero"),
        ({"vector": [math.nan] * 48}, "vector is nan"),
        ({"token": "nothing like it"}, "no single token: the tokenizer splits it"),
    ],
)
def test_bad_input_gets_a_line_that_helps(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ExplorerError, match=message) as caught:
        grow_tree(subject(), **options)
    assert "\n" not in str(caught.value)


def test_a_placeholder_that_would_melt_into_its_surroundings_is_kept_whole() -> None:
    # The tokenizer has an entry "definition": left to itself it would swallow the placeholder.
    tree = grow_tree(
        subject(), feature=3, prompt="defin{ghost} is", ghost_token="ition", cutoff=0.1
    )
    pieces = build_tokenizer().convert_ids_to_tokens(list(tree.prompt_ids))
    assert pieces == ["<bos>", "defin", "ition", "Ġis"]


def test_an_sae_that_does_not_fit_is_refused() -> None:
    model = subject().model
    with pytest.raises(ExplorerError, match=r"64 numbers, but blocks.1.hook_resid_post .* has 48"):
        Subject(model, build_tokenizer(), build_sae(64))
    with pytest.raises(ExplorerError, match=r"lies in layer 7, but .* has 3 layers, 0 to 2"):
        Subject(model, build_tokenizer(), build_sae(48, layer=7))
    with pytest.raises(ExplorerError, match="no_such_point' is no hook point of LlamaForCausalLM"):
        Subject(model, build_tokenizer(), build_sae(48, hook_name="blocks.1.hook_no_such_point"))
    broken = build_sae(48, seed=9)
    with torch.no_grad():
        broken.W_enc[5, 7] = math.nan
    with pytest.raises(ExplorerError, match=r"weights W_enc .* hold NaN"):
        Subject(model, build_tokenizer(), broken)
    with pytest.raises(ExplorerError, match=r"The SAE is a dict|The SAE is a str"):
        Subject(model, build_tokenizer(), ["no sae"])
    with pytest.raises(ExplorerError, match="has no SAE"):
        grow_tree(Subject(model, build_tokenizer()), feature=3)


def test_a_model_with_nan_weights_is_refused() -> None:
    model = build_model("llama", seed=7)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = math.nan
    broken = Subject(model, build_tokenizer(), build_sae(48))
    with pytest.raises(ExplorerError, match="NaN or infinite logits"):
        grow_tree(broken, feature=3, **OPTIONS)


def test_a_model_in_training_mode_is_refused_and_left_in_it() -> None:
    model = build_model("gpt2", seed=3)
    model.train()
    trained = Subject(model, build_tokenizer(), build_sae(48))
    with pytest.raises(ExplorerError, match=r"Call model.eval\(\) first"):
        grow_tree(trained, feature=3, **OPTIONS)
    assert model.training


def test_wrong_calls_of_grow_trees_are_refused() -> None:
    for options in ({}, {"feature": 3}, {"features": [3], "token": "a"}):
        with pytest.raises(ExplorerError, match=r"takes features=\[...\] or vectors"):
            grow_trees(subject(), **options)
    with pytest.raises(ExplorerError, match="not both"):
        grow_trees(subject(), [3], prompt="{ghost}", prompts=["{ghost} is"])


def test_a_prompt_that_holds_the_placeholders_own_token_is_refused() -> None:
    with pytest.raises(ExplorerError, match="would take the vector too"):
        grow_tree(subject(), feature=3, prompt="<unused0> is {ghost}", ghost_token="<unused0>")


def test_a_cancelled_tree_keeps_to_its_budget() -> None:
    cancel = threading.Event()
    tree = grow_tree(
        subject(),
        feature=3,
        **OPTIONS,
        max_nodes=4,
        cancel=cancel,
        progress=lambda _p: cancel.set(),
    )
    assert len(tree) <= 4


def test_rows_freed_by_running_out_of_memory_are_freed_once() -> None:
    model = subject().model
    decoder = decoding.PooledDecoder(model, 3, 4)
    prompt = decoding.Prompt((2, 10, 11, 12), {})
    hook = None
    with decoding.quiet_forward(model):
        starts, found = decoder.start([prompt])

        def small_memory(_module: Any, inputs: Any) -> None:
            if inputs[0].numel() > 1:
                raise torch.OutOfMemoryError("one token at a time")

        hook = model.get_input_embeddings().register_forward_pre_hook(small_memory)
        try:
            decoder.extend(np.repeat(starts, 3), found.token_ids[0])
        finally:
            hook.remove()
        decoder.release(int(starts[0]))
    assert len(np.unique(decoder._free)) == len(decoder._free) == len(decoder._start)


def test_attention_that_masks_by_places_of_keys_is_not_pooled() -> None:
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    config = GPTNeoConfig(
        vocab_size=320,
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        attention_types=[[["global", "local"], 1]],
        max_position_embeddings=64,
    )
    model = GPTNeoForCausalLM(config).eval()
    tree = grow_tree(
        Subject(model, build_tokenizer(), build_sae(32)), feature=3, cutoff=1e-3, max_depth=3
    )
    assert decoding._poolable[model] == {model.config._attn_implementation: False}
    assert len(tree) > 1


@pytest.mark.parametrize("error", NO_MEMORY, ids=repr)
def test_running_out_of_memory_for_good_keeps_what_has_grown(error: BaseException) -> None:
    steps = itertools.count(1)

    def no_memory(_progress: Any) -> None:
        if next(steps) == 3:
            raise error

    with pytest.warns(PartialResultWarning, match="Out of memory"):
        tree = grow_tree(subject(), feature=3, **OPTIONS, progress=no_memory)
    assert tree.partial
    assert 1 < len(tree) < len(tree_of())


def test_a_prompt_longer_than_the_model_reads_is_refused_in_words() -> None:
    subject = Subject(build_model("gpt2"), build_tokenizer(), build_sae(48))
    with pytest.raises(ExplorerError, match="Give a shorter text"):
        grow_tree(subject, feature=3, prompt='"{ghost}"' + " tree" * 5000)
