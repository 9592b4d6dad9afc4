"""Rankings equal the formula in float64, filters only remove, and the logit lens is the model's."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from transformers import AutoModelForCausalLM, PhiConfig, PreTrainedModel

from sae_explorer import ExplorerError, LogitLens, Subject, TokenRanking, logit_lens, rank_tokens
from sae_explorer.analyses import logit_lens as lens
from sae_explorer.analyses import tokens
from sae_explorer.model import geometry as geometry_module
from sae_explorer.model import sites
from sae_explorer.text import visible, visible_token
from zoo import VOCAB_SIZE, build_model, build_sae, build_tokenizer

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@cache
def subject(architecture: str = "llama", dtype: torch.dtype = torch.float32) -> Subject:
    attention = "eager" if architecture == "gemma2" else "sdpa"
    model = build_model(architecture, attention, dtype=dtype)
    return Subject(model, build_tokenizer(), build_sae(model.config.hidden_size))


def fresh(dtype: torch.dtype = torch.float32) -> Subject:
    """A subject of its own, for tests that change the model or count passes over it."""
    model = copy.deepcopy(build_model("llama", dtype=dtype))
    return Subject(model, build_tokenizer(), build_sae(48))


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def embeddings(of: Subject) -> np.ndarray:
    return of.embedding_weight.double().numpy()


def naive_ghost(of: Subject, options: dict[str, Any]) -> np.ndarray:
    """The ghost vector in float64, from the whole matrix."""
    rows = embeddings(of)
    centroid = rows.mean(axis=0)
    if "token" in options:
        return rows[of.token_id(options["token"])]
    if "embedding" in options:
        return np.asarray(options["embedding"])
    if "vector" in options:
        direction = unit(np.asarray(options["vector"]))
    else:
        sae, feature = of.sae.sae, options["feature"]
        encoder = unit(sae.W_enc[:, feature].detach().double().numpy())
        decoder = unit(sae.W_dec[feature].detach().double().numpy())
        weights = options.get("weights", "encoder")
        share = {"encoder": (1, 0), "decoder": (0, 1)}.get(weights, weights)
        direction = unit(share[0] * encoder + share[1] * decoder)
    scale = options.get("scale") or np.linalg.norm(rows - centroid, axis=1).mean()
    pca = options.get("pca", ())
    axes = np.linalg.svd(rows - centroid)[2][: len(pca)]
    signs = np.sign(axes[np.arange(len(pca)), np.abs(axes).argmax(axis=1)])
    mixed = (1 - sum(pca)) * direction + (np.asarray(pca) * signs) @ axes
    return scale * mixed + (centroid if options.get("centroid") else 0)


def naive_ranking(of: Subject, options: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and ratios in float64, by a full sort."""
    rows, ghost = embeddings(of), naive_ghost(of, options)
    centroid = rows.mean(axis=0)

    def cosines(vector: np.ndarray) -> np.ndarray:
        return rows @ vector / (np.linalg.norm(vector) * np.linalg.norm(rows, axis=1))

    ratio = (1 - cosines(ghost)).clip(0) ** options.get("exponent", 1.4) / (1 - cosines(centroid))
    return np.lexsort([np.arange(len(rows)), ratio]), ratio


def assert_same_order(found: np.ndarray, expected: np.ndarray, ratio: np.ndarray) -> None:
    """The same order, up to exchanges of tokens whose ratios differ by rounding alone."""
    np.testing.assert_allclose(ratio[found], ratio[expected[: len(found)]], rtol=1e-5, atol=1e-6)
    assert len(set(found.tolist())) == len(found)


# --- The formula --------------------------------------------------------------------------------

CASES: dict[str, dict[str, Any]] = {
    "feature": {"feature": 3},
    "decoder": {"feature": 3, "weights": "decoder"},
    "mix": {"feature": 3, "weights": (0.3, -0.7)},
    "low-exponent": {"feature": 4, "exponent": 0.1},
    "high-exponent": {"feature": 4, "exponent": 5.0},
    "centroid": {"feature": 5, "centroid": True, "scale": 0.7},
    "centroid-default-scale": {"feature": 5, "centroid": True},
    "pca": {"feature": 5, "pca": (0.4,)},
    "pca-2-centroid": {"feature": 6, "pca": (0.2, 0.5), "centroid": True, "exponent": 2.0},
    "vector": {"vector": tuple(np.sin(np.arange(48.0)))},
    "embedding": {"embedding": tuple(np.cos(np.arange(48.0)))},
    "token": {"token": " the"},
}


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_the_ranking_equals_the_formula_in_float64(options, dtype):
    of = subject(dtype=dtype)
    expected, ratio = naive_ranking(of, options)
    found = rank_tokens(of, **options)
    assert len(found) == 100
    assert_same_order(found.token_id, expected, ratio)
    np.testing.assert_allclose(found.ratio, ratio[found.token_id], rtol=1e-5, atol=1e-6)
    assert (np.diff(found.ratio) >= 0).all()


def test_cosines_and_texts_belong_to_their_tokens():
    of = subject()
    found = rank_tokens(of, feature=2, centroid=True, limit=30)
    rows = embeddings(of)[found.token_id]
    ghost = naive_ghost(of, {"feature": 2, "centroid": True})
    lengths = np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(found.cosine, rows @ unit(ghost) / lengths, atol=1e-6)
    centroid = unit(embeddings(of).mean(axis=0))
    np.testing.assert_allclose(found.centroid_cosine, rows @ centroid / lengths, atol=1e-6)
    assert found.token == of.token_texts(found.token_id.tolist())


def test_a_token_is_nearest_to_itself():
    found = rank_tokens(subject(), token=" the", limit=1)
    assert found.token == [" the"]
    assert found.cosine[0] == pytest.approx(1)


def test_the_first_use_takes_two_passes_and_a_slider_none(monkeypatch):
    passes: list[int] = []
    original = geometry_module.pieces

    def counted(*arguments: Any):
        passes.append(len(arguments))
        yield from original(*arguments)

    monkeypatch.setattr(geometry_module, "pieces", counted)
    of = fresh()
    rank_tokens(of, feature=1)
    assert len(passes) == 2
    rank_tokens(of, feature=1, exponent=3.0, scale=0.5)
    rank_tokens(of, feature=1, centroid=True)
    assert len(passes) == 2
    rank_tokens(of, feature=2)
    assert len(passes) == 3


# --- Rows that have no direction, and other edges ------------------------------------------------


def with_rows(edit: Any) -> Subject:
    of = fresh()
    with torch.no_grad():
        edit(of.model.get_input_embeddings().weight)
    return of


def test_zero_rows_are_left_out_and_counted():
    def edit(weight: torch.Tensor) -> None:
        weight[[0, 40]] = 0

    found = rank_tokens(with_rows(edit), feature=3, limit=VOCAB_SIZE)
    assert found.left_out == 2
    assert len(found) == found.candidates == VOCAB_SIZE - 2
    assert not {0, 40} & set(found.token_id.tolist())
    assert np.isfinite(found.ratio).all()


def test_a_token_in_the_direction_of_the_centroid_gets_no_infinite_ratio():
    def edit(weight: torch.Tensor) -> None:
        weight[:] = weight[0].clone()  # every row is the centroid: all denominators are 0

    found = rank_tokens(with_rows(edit), feature=3, scale=1.0, limit=VOCAB_SIZE)
    assert np.isfinite(found.ratio).all()
    assert found.token_id.tolist() == list(range(VOCAB_SIZE))  # all equal: by token id


def test_embeddings_around_zero_have_no_centroid_direction():
    def edit(weight: torch.Tensor) -> None:
        weight[VOCAB_SIZE // 2 :] = -weight[: VOCAB_SIZE // 2]

    found = rank_tokens(with_rows(edit), feature=3, exponent=1.0, limit=50)
    np.testing.assert_allclose(found.ratio, 1 - found.cosine, atol=1e-12)
    assert not found.centroid_cosine.any()


def test_equal_tokens_are_ranked_by_id_also_at_the_limit():
    def edit(weight: torch.Tensor) -> None:
        weight[100:200] = weight[50]

    of = with_rows(edit)
    whole = rank_tokens(of, feature=3, limit=VOCAB_SIZE)
    places = [i for i, t in enumerate(whole.token_id.tolist()) if t == 50 or 100 <= t < 200]
    assert places == list(range(places[0], places[0] + 101))
    assert whole.token_id[places].tolist() == [50, *range(100, 200)]
    cut = rank_tokens(of, feature=3, limit=places[0] + 10)
    np.testing.assert_array_equal(cut.token_id, whole.token_id[: len(cut)])


ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "pattern": ({"feature": 1, "pattern": "(a"}, r"\(a.* is no regular expression"),
    "slow pattern": ({"feature": 1, "pattern": "^(a|aa)+$"}, "takes for ever"),
    "script": ({"feature": 1, "script": "latin"}, "Did you mean 'Latin'"),
    "feature": ({"feature": 99}, "24 features, 0 to 23"),
    "nothing": ({}, "Give one of"),
    "vector": ({"vector": (1.0, 2.0)}, "has 2 numbers"),
    "zero vector": ({"embedding": (0.0,) * 48}, "is zero"),
    "exponent": ({"feature": 1, "exponent": 0.0}, "above 0"),
    "limit": ({"feature": 1, "limit": 0}, "at least 1"),
    "unknown": ({"feature": 1, "exponant": 2.0}, "Did you mean 'exponent'"),
}


@pytest.mark.parametrize(("options", "message"), ERRORS.values(), ids=ERRORS)
def test_what_cannot_be_ranked_is_refused(options, message, monkeypatch):
    monkeypatch.setattr(tokens, "_PATTERN_SECONDS", 0.01)
    of = subject()
    if "for ever" in message:
        monkeypatch.setattr(tokens, "_vocabularies", {})
        monkeypatch.setattr(type(of), "token_texts", lambda _, ids: ["a" * 60 + "!" for _ in ids])
    with pytest.raises(ExplorerError, match=message):
        rank_tokens(of, **options)


def test_embeddings_with_nan_are_refused():
    def edit(weight: torch.Tensor) -> None:
        weight[17, 0] = float("nan")

    with pytest.raises(ExplorerError, match=r"1 of the 320 token embeddings .* row 17"):
        rank_tokens(with_rows(edit), feature=1)


# --- Properties ---------------------------------------------------------------------------------

quick = settings(max_examples=30, deadline=None)
features = st.integers(0, 23)


@quick
@given(
    feature=features,
    scale=st.floats(1e-3, 1e3),
    exponent=st.floats(0.1, 5.0),
    weights=st.sampled_from(["encoder", "decoder", (0.5, 0.5)]),
)
def test_without_centroid_and_pca_the_scale_changes_nothing(feature, scale, exponent, weights):
    options = {"feature": feature, "exponent": exponent, "weights": weights}
    plain, scaled = (
        rank_tokens(subject(), **options),
        rank_tokens(subject(), **options, scale=scale),
    )
    np.testing.assert_array_equal(plain.token_id, scaled.token_id)
    np.testing.assert_allclose(plain.ratio, scaled.ratio, rtol=1e-6)


@quick
@given(feature=features, length=st.floats(1e-3, 1e3))
def test_the_length_of_a_given_vector_changes_nothing(feature, length):
    row = subject().sae.encoder(feature).astype(np.float64)
    found = rank_tokens(subject(), vector=tuple(row * length))
    np.testing.assert_array_equal(found.token_id, rank_tokens(subject(), feature=feature).token_id)


@quick
@given(feature=features, limit=st.integers(1, VOCAB_SIZE + 5), centroid=st.booleans())
def test_a_shorter_ranking_is_the_beginning_of_a_longer_one(feature, limit, centroid):
    options = {"feature": feature, "centroid": centroid}
    whole = rank_tokens(subject(), **options, limit=VOCAB_SIZE)
    cut = rank_tokens(subject(), **options, limit=limit)
    assert len(cut) == min(limit, VOCAB_SIZE)
    np.testing.assert_array_equal(cut.token_id, whole.token_id[: len(cut)])
    np.testing.assert_array_equal(cut.ratio, whole.ratio[: len(cut)])


@quick
@given(
    feature=features,
    pattern=st.sampled_from([None, "e", "^ ?[a-z]+$", r"\p{Lu}", "$^"]),
    script=st.sampled_from([None, "Latin", "Greek"]),
    min_length=st.integers(0, 4),
    leading_space=st.sampled_from([None, True, False]),
)
def test_filters_only_remove(feature, pattern, script, min_length, leading_space):
    filters = {
        "pattern": pattern,
        "script": script,
        "min_length": min_length,
        "leading_space": leading_space,
    }
    whole = rank_tokens(subject(), feature=feature, limit=VOCAB_SIZE).to_frame()
    found = rank_tokens(subject(), feature=feature, limit=VOCAB_SIZE, **filters)
    assert found.candidates == len(found)
    kept = whole[whole.token_id.isin(found.token_id)].drop(columns="rank")
    pd.testing.assert_frame_equal(
        found.to_frame().drop(columns="rank"), kept.reset_index(drop=True), check_exact=True
    )


# --- Filters ------------------------------------------------------------------------------------

FILTERS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "pattern": ({"pattern": "an"}, [" and", "an"]),
    "pattern, tied": ({"pattern": "^an$"}, ["an"]),
    "Latin": ({"script": "Latin"}, [" and", "an", "Ünï ", "  x1"]),
    "Cyrillic": ({"script": "Cyrillic"}, ["да", " нет"]),
    "Han": ({"script": "Han"}, ["中文"]),
    "Devanagari": ({"script": "Devanagari"}, ["हिन्दी"]),
    "length": ({"min_length": 3}, [" and", "Ünï ", "mиx", " нет", "हिन्दी", "123"]),
    "space": ({"leading_space": True}, [" and", "  x1", " нет", " "]),
    "no space": (
        {"leading_space": False, "script": "Latin"},
        ["an", "Ünï "],
    ),
    "all": ({"leading_space": True, "script": "Latin", "min_length": 3, "pattern": "d$"}, [" and"]),
    "none": ({"script": "Thai"}, []),
}
TEXTS = [" and", "an", "Ünï ", "  x1", "mиx", "да", " нет", "中文", "हिन्दी", "123", " ", ""]


@pytest.mark.parametrize(("filters", "expected"), FILTERS.values(), ids=FILTERS)
def test_a_filter_keeps_the_tokens_it_names(filters, expected, monkeypatch):
    def texts(_: Subject, ids: Any) -> list[str]:
        return [TEXTS[i] if i < len(TEXTS) else "" for i in ids]

    monkeypatch.setattr(tokens, "_vocabularies", {})
    monkeypatch.setattr(Subject, "token_texts", texts)
    found = rank_tokens(subject(), feature=1, **filters)
    assert sorted(found.token) == sorted(expected)
    assert found.candidates == len(expected)


def test_every_script_is_one_that_unicode_knows():
    of = subject()
    for script in tokens.SCRIPTS:
        rank_tokens(of, feature=1, script=script)


def test_texts_are_made_once_and_only_for_a_filter(monkeypatch):
    made: list[int] = []
    original = Subject.token_texts

    def counted(self: Subject, ids: Any) -> list[str]:
        made.append(len(ids))
        return original(self, ids)

    monkeypatch.setattr(tokens, "_vocabularies", {})
    monkeypatch.setattr(Subject, "token_texts", counted)
    rank_tokens(subject(), feature=1, limit=5)
    rank_tokens(subject(), feature=1, limit=5, min_length=2)
    rank_tokens(subject(), feature=2, limit=5, leading_space=True)
    assert made == [5, VOCAB_SIZE, 5, 5]


# --- Results ------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [*CASES.values(), {"feature": 1, "pattern": "$^"}])
def test_a_saved_ranking_is_read_back_equal(options, tmp_path):
    found = rank_tokens(subject(), **options)
    path = tmp_path / "ranking.json"
    assert found.to_json(path) == str(path)
    text = found.to_json()
    for source in (path, text):
        again = TokenRanking.from_json(source)
        assert again == found
        assert again.request == found.request
        pd.testing.assert_frame_equal(again.to_frame(), found.to_frame(), check_exact=True)
    assert json.loads(text)["kind"] == "token-ranking"


def test_equal_questions_give_equal_json_whatever_was_asked_before():
    one, two = fresh(), fresh()
    rank_tokens(two, feature=8, pca=(0.1, 0.1, 0.1), centroid=True)
    rank_tokens(two, feature=9, scale=1.0)
    options = {"feature": 3, "pca": (0.2,), "centroid": True, "min_length": 1}
    assert rank_tokens(one, **options).to_json() == rank_tokens(two, **options).to_json()


def test_the_table_survives_csv(tmp_path):
    found = rank_tokens(subject(), feature=3, limit=VOCAB_SIZE)
    text, path = found.to_csv(), tmp_path / "tokens.csv"
    assert found.to_csv(path) == str(path)
    assert path.read_bytes().decode() == text
    again = pd.read_csv(io.StringIO(text, newline=""), keep_default_na=False)
    columns = ["rank", "token_id", "token", "ratio", "cosine", "centroid_cosine"]
    assert list(again.columns) == columns
    assert again.token.tolist() == found.token
    np.testing.assert_allclose(again.ratio, found.ratio, rtol=1e-15)


def rendered(result: Any) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(result)
    return console.file.getvalue()


def test_untrusted_tokens_are_made_visible_in_the_table():
    found = rank_tokens(subject(), feature=3, limit=3)
    nasty = ["[bold]x[/bold]", " a\x1b[31m\n", "\u202etxt\u200b"]
    shown = rendered(dataclasses.replace(found, token=nasty))
    assert "[bold]x[/bold]" in shown
    assert "␣a<U+001B>[31m⏎" in shown
    assert "<U+202E>txt<U+200B>" in shown
    assert f"{found.ratio[0]:.4f}" in shown
    assert "\x1b" not in repr(dataclasses.replace(found, token=nasty))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain words", "plain words"),
        ("a\nb\r\tc", "a⏎b␍⇥c"),
        ("\x00\x7f", "<U+0000><U+007F>"),
        ("\u2066x\u2069\ufeff", "<U+2066>x<U+2069><U+FEFF>"),
        ("a\u00a0b\u2028", "a<U+00A0>b<U+2028>"),
        ("é 中 हिन्दी 🙂", "é 中 हिन्दी 🙂"),
        ("\ud800", "<U+D800>"),
    ],
)
def test_what_cannot_be_seen_is_spelled_out(text, expected):
    assert visible(text) == expected
    assert visible_token(text) == expected.replace(" ", "␣")


# --- Logit lens ---------------------------------------------------------------------------------


def randomised_phi() -> PreTrainedModel:
    """A model whose unembedding has a bias."""
    config = PhiConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
    )
    generator = torch.Generator().manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


@cache
def lens_subject(architecture: str) -> Subject:
    if architecture != "phi":
        return subject(architecture)
    return Subject(randomised_phi(), build_tokenizer(), build_sae(48))


@torch.no_grad()
def own_forward(model: PreTrainedModel, direction: torch.Tensor) -> np.ndarray:
    """Logits of the model's own forward with the last block's output replaced by a direction."""

    def replace(_module: Any, _inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (direction.expand_as(output[0]), *output[1:])
        return direction.expand_as(output)

    handle = sites.blocks(model)[-1].register_forward_hook(replace)
    try:
        found = model(input_ids=torch.tensor([[5, 6, 7]])).logits[0, -1]
    finally:
        handle.remove()
    return found.double().numpy()


@pytest.mark.parametrize("feature", [0, 7])
@pytest.mark.parametrize("architecture", ["gemma2", "gemma3", "llama", "gpt2", "gpt_neox", "phi"])
def test_the_lens_reads_as_the_models_own_forward_does(architecture, feature):
    of = lens_subject(architecture)
    row = of.sae.sae.W_dec[feature].detach()
    expected = own_forward(of.model, row)
    normalised, raw = lens.logits(of, lens.LogitLensRequest(feature=feature)).astype(np.float64)
    cap = getattr(of.model.config, "final_logit_softcapping", None)
    capped = cap * np.tanh(normalised / cap) if cap else normalised
    np.testing.assert_allclose(capped, expected, rtol=1e-5, atol=1e-5)
    head = of.model.get_output_embeddings()
    plain = head.weight.detach().double().numpy() @ row.double().numpy()
    if head.bias is not None:
        plain += head.bias.detach().double().numpy()
    np.testing.assert_allclose(raw, plain, rtol=1e-5, atol=1e-5)
    assert np.abs(normalised - raw).max() > 0.1  # the norm did something


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("architecture", ["gemma2", "llama", "gpt2"])
def test_the_lens_is_exact_for_weights_of_half_precision(architecture, dtype):
    attention = "eager" if architecture == "gemma2" else "sdpa"
    half = copy.deepcopy(build_model(architecture, attention)).to(dtype)
    of = Subject(half, build_tokenizer(), build_sae(48))
    request = lens.LogitLensRequest(feature=3)
    before = {name: tensor.clone() for name, tensor in half.state_dict().items()}
    found = lens.logits(of, request)
    for name, tensor in half.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert tensor.dtype == dtype
    exact = lens.logits(Subject(half.float(), build_tokenizer(), build_sae(48)), request)
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-5)


def test_the_table_holds_both_ends_of_both_readings():
    of = subject("gemma2")
    found = logit_lens(of, feature=3, limit=6)
    whole = lens.logits(of, found.request)
    frame = found.to_frame()
    assert list(frame.columns) == ["lens", "side", "rank", "token_id", "token", "logit"]
    for index, name in enumerate(lens.LENSES):
        order = np.argsort(whole[index], kind="stable")
        for side, ids in (("top", order[::-1][:6]), ("bottom", order[:6])):
            block = frame[(frame.lens == name) & (frame.side == side)]
            assert block["rank"].tolist() == [1, 2, 3, 4, 5, 6]
            np.testing.assert_array_equal(block.token_id, ids)
            np.testing.assert_array_equal(block.logit, whole[index][ids])
            assert block.token.tolist() == of.token_texts(ids.tolist())


@pytest.mark.parametrize(
    "options",
    [{"feature": 3}, {"feature": 3, "weights": "encoder", "limit": 500}, {"vector": [0.1] * 48}],
)
def test_a_saved_lens_is_read_back_equal(options, tmp_path):
    found = logit_lens(subject(), **options)
    assert len(found) == 4 * min(found.request.limit, VOCAB_SIZE)
    again = LogitLens.from_json(found.to_json())
    assert again == found
    pd.testing.assert_frame_equal(again.to_frame(), found.to_frame(), check_exact=True)
    found.to_csv(tmp_path / "lens.csv")
    table = pd.read_csv(tmp_path / "lens.csv", keep_default_na=False)
    assert table.token.tolist() == found.token
    assert "top, normalised" in rendered(found)


def test_the_length_of_a_direction_counts_in_the_raw_reading_alone():
    of = subject()
    row = of.sae.decoder(3).astype(np.float64)
    once, twice = (
        lens.logits(of, lens.LogitLensRequest(vector=tuple(row * k))) for k in (1.0, 2.0)
    )
    np.testing.assert_allclose(2 * once[1], twice[1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(once[0], twice[0], rtol=1e-3, atol=1e-3)


LENS_ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "none was given"),
    "both": ({"feature": 1, "vector": (1.0,)}, "feature and vector were given"),
    "feature": ({"feature": 24}, "24 features, 0 to 23"),
    "length": ({"vector": (1.0, 2.0)}, "has 2 numbers"),
    "zero": ({"vector": (0.0,) * 48}, "is zero"),
    "weights": ({"feature": 1, "weights": "decoded"}, "Did you mean 'decoder'"),
}


@pytest.mark.parametrize(("options", "message"), LENS_ERRORS.values(), ids=LENS_ERRORS)
def test_what_cannot_be_read_is_refused(options, message):
    with pytest.raises(ExplorerError, match=message):
        logit_lens(subject(), **options)


def test_an_unembedding_with_nan_is_refused():
    of = fresh()
    with torch.no_grad():
        of.model.get_output_embeddings().weight[3, 3] = float("nan")
    with pytest.raises(ExplorerError, match="NaN"):
        logit_lens(of, feature=1)
