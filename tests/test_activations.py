"""How strongly and how often features fire: a scan equals one text at a time, written down naively.

The truth runs each text alone and computes every feature from the SAE's raw weights. Texts differ
in length, so that a scan which counts what fills the shorter rows up is noticed.
"""

from __future__ import annotations

import copy
import string
import threading
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import sae_lens
import torch

from naive import Place, _at, _feature
from sae_explorer import Clamp, ExplorerError, PartialResultWarning, Subject
from sae_explorer.analyses import activations
from sae_explorer.analyses.activations import (
    ActivationScan,
    measure_activations,
    measure_first,
)
from sae_explorer.model import reading
from sae_explorer.model.reading import corpus, feature_activations, largest, residual_norm
from zoo import attentions, build_model, build_sae, build_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from sae_explorer.analyses import Progress

FEATURES = 24
BOS = 2

TEXTS = (
    "A typical definition of a word would be the smallest unit of meaning.",
    "the sea",
    "In the morning the water of the river is cold, and in the evening the light is red.",
    "One of them was a teacher, and the other one would be a doctor.",
    "12 May 1987",
)


@dataclass(frozen=True)
class Case:
    """An SAE on a model, and the modules at which its hook points lie."""

    family: str
    kind: str
    reads: Place
    writes: Place
    hook: str = "blocks.1.hook_resid_post"
    hook_out: str | None = None
    threshold: float = 2.5
    width: int = 48
    config: tuple[tuple[str, Any], ...] = ()

    @property
    def model(self) -> PreTrainedModel:
        return build_model(self.family, attentions(self.family)[0])

    @property
    def sae(self) -> sae_lens.SAE[Any]:
        return build_sae(
            self.width,
            FEATURES,
            hook_name=self.hook,
            hook_name_out=self.hook_out,
            kind=self.kind,
            seed=2,
            threshold=self.threshold,
            **dict(self.config),
        )

    def subject(self) -> Subject:
        return Subject(self.model, build_tokenizer(), self.sae)


_BLOCKS = {
    "gemma3": "model.layers.1",
    "gpt2": "transformer.h.1",
    "gpt_neo": "transformer.h.1",
    "qwen3_5": "model.layers.1",
}


def _residual(family: str, kind: str, **config: Any) -> Case:
    place = (_BLOCKS[family], "output")
    return Case(family, kind, place, place, config=tuple(config.items()))


CASES = {
    **{
        f"{family}-{kind}": _residual(family, kind)
        for family in ("gemma3", "gpt_neo")
        for kind in ("standard", "gated", "jumprelu", "topk", "topk-rescaled", "batchtopk")
    },
    "qwen3_5-standard": _residual("qwen3_5", "standard"),
    "gemma3-layer_norm": _residual("gemma3", "standard", normalize_activations="layer_norm"),
    "gpt2-centred": _residual("gpt2", "standard", centred=True),
    "gemma3-transcoder": Case(
        "gemma3",
        "transcoder",
        ("model.layers.1.mlp", "input"),
        ("model.layers.1.post_feedforward_layernorm", "output"),
        hook="blocks.1.mlp.hook_in",
        hook_out="blocks.1.hook_mlp_out",
    ),
    "gemma3-z-of-heads": Case(
        "gemma3",
        "standard",
        ("model.layers.1.self_attn.o_proj", "input"),
        ("model.layers.1.self_attn.o_proj", "input"),
        hook="blocks.1.attn.hook_z",
        width=64,
        config=(("reshape_activations", "hook_z"),),
    ),
}


@torch.no_grad()
def passed(model: PreTrainedModel, ids: list[int], *places: Place) -> list[torch.Tensor]:
    """What passes at some places while one text runs alone, each of shape [1, n, width]."""
    seen: dict[Place, torch.Tensor] = {}
    for place in places:
        with _at(model, place, lambda x, at=place: seen.__setitem__(at, x.clone())):
            model(input_ids=torch.tensor([ids]))
    return [seen[place] for place in places]


@cache
def truth(name: str, texts: tuple[str, ...] = TEXTS) -> tuple[np.ndarray, np.ndarray, float]:
    """Activations of all features at all tokens but the first of each text; lengths' mean."""
    case = CASES[name]
    found, lengths = [], []
    for text in texts:
        ids = build_tokenizer().encode(text)
        assert ids[0] == BOS
        read, written = passed(case.model, ids, case.reads, case.writes)
        columns = [_feature(case.sae, feature, read)[0][0, 1:] for feature in range(FEATURES)]
        found.append(torch.stack(columns, dim=-1))
        lengths.append(written[0, 1:].norm(dim=-1))
    every = torch.cat(found).numpy()
    return every.max(axis=0), (every > 0).mean(axis=0), float(torch.cat(lengths).mean())


@pytest.mark.parametrize("name", CASES)
def test_a_scan_equals_one_text_at_a_time(name: str) -> None:
    scan = measure_activations(CASES[name].subject(), TEXTS)
    most, density, norm = truth(name)
    assert ((density > 0) & (density < 1)).sum() >= 5  # there is something to be counted
    np.testing.assert_allclose(scan.max_activation, most, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(scan.density, density, atol=1e-12)
    assert scan.mean_norm == pytest.approx(norm, rel=1e-4)
    assert scan.tokens == sum(len(build_tokenizer().encode(text)) - 1 for text in TEXTS)
    assert scan.status == "complete"


@pytest.mark.parametrize("at_once", [1, 20, 60])
def test_a_scan_does_not_depend_on_what_is_run_together(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = CASES["gemma3-jumprelu"].subject()
    whole = measure_activations(subject, TEXTS)
    monkeypatch.setattr(reading, "_TOKENS_AT_ONCE", at_once)
    monkeypatch.setattr("sae_explorer.model.encoding._POSITIONS_AT_ONCE", 3)
    parts = measure_activations(subject, TEXTS)
    np.testing.assert_allclose(parts.max_activation, whole.max_activation, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(parts.density, whole.density)


def test_a_begin_token_that_is_counted_would_be_noticed() -> None:
    case = CASES["gpt2-centred"]
    most, _, _ = truth("gpt2-centred")
    (read,) = passed(case.model, [BOS], case.reads)
    at_begin = [float(_feature(case.sae, feature, read)[0][0, 0]) for feature in range(FEATURES)]
    assert (np.array(at_begin) > most).any()


@pytest.mark.parametrize("has_end", [True, False])
def test_where_there_is_no_begin_token_the_end_token_or_the_first_one_is_left_out(
    has_end: bool,
) -> None:
    case = CASES["gemma3-standard"]
    tokenizer = copy.deepcopy(build_tokenizer())
    tokenizer.bos_token = None
    lead = [tokenizer.eos_token_id] if has_end else []
    if not has_end:
        tokenizer.eos_token = None
    scan = measure_activations(Subject(case.model, tokenizer, case.sae), TEXTS[:1])
    ids = [*lead, *tokenizer.encode(TEXTS[0], add_special_tokens=False)]
    (read,) = passed(case.model, ids, case.reads)
    most = [float(_feature(case.sae, feature, read)[0][0, 1:].max()) for feature in range(FEATURES)]
    assert scan.tokens == len(ids) - 1
    np.testing.assert_allclose(scan.max_activation, most, rtol=1e-4, atol=1e-5)


def test_a_text_longer_than_the_context_is_run_in_pieces() -> None:
    subject = CASES["gemma3-standard"].subject()
    text = " ".join(TEXTS * 6)
    scan = measure_activations(subject, [text])
    ids = build_tokenizer().encode(text, add_special_tokens=False)
    assert len(ids) > subject.model.config.max_position_embeddings
    assert scan.tokens == len(ids)


@pytest.mark.parametrize("most", [1, 10, 37])
def test_no_more_tokens_are_run_than_asked_for(most: int) -> None:
    subject = CASES["gemma3-standard"].subject()
    assert measure_activations(subject, TEXTS, max_tokens=most).tokens == most


def test_the_whole_corpus_is_run_unless_fewer_tokens_are_asked_for() -> None:
    subject = CASES["gemma3-standard"].subject()
    tokens = [build_tokenizer().encode(text, add_special_tokens=False) for text in corpus()]
    assert measure_activations(subject).tokens == sum(map(len, tokens))


def test_a_cancelled_scan_returns_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_TOKENS_AT_ONCE", 30)
    cancel, shares = threading.Event(), []

    def progress(report: Any) -> None:
        shares.append(report.share)
        snapshot = report.snapshot()
        assert snapshot.status == "partial"
        if len(shares) == 2:
            cancel.set()

    subject = CASES["gemma3-standard"].subject()
    whole = measure_activations(subject, TEXTS)
    scan = measure_activations(subject, TEXTS, progress=progress, cancel=cancel)
    assert scan.status == "partial"
    assert 0 < scan.tokens < whole.tokens
    assert (scan.max_activation <= whole.max_activation + 1e-4).all()
    assert shares == sorted(shares)
    assert len(shares) in (2, 3)


def test_a_scan_says_what_it_is_and_comes_back_from_json(tmp_path: Path) -> None:
    scan = measure_activations(CASES["gemma3-jumprelu"].subject(), TEXTS)
    silent = int((scan.max_activation == 0).sum())
    assert repr(scan) == (
        f"ActivationScan({FEATURES} features on {scan.tokens} tokens, {silent} of them silent)"
    )
    scan.to_json(tmp_path / "scan.json")
    back = ActivationScan.from_json(tmp_path / "scan.json")
    assert back == scan
    assert back.max_activation.dtype == np.float32
    frame = scan.to_frame()
    assert list(frame.columns) == ["feature", "max_activation", "density"]
    assert len(frame) == len(scan) == FEATURES
    other = measure_activations(CASES["gemma3-jumprelu"].subject(), TEXTS[:2])
    assert len({scan.source, other.source, activations.BUILT_IN}) == 3


def test_the_largest_activation_is_measured_once_for_an_sae_on_a_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "corpus", lambda: TEXTS)
    case = CASES["gemma3-standard"]
    subject = Subject(case.model, build_tokenizer(), copy.deepcopy(case.sae))
    most, _, _ = truth("gemma3-standard")
    found = [largest(subject, feature) for feature in (3, 4)]
    assert found == pytest.approx([most[3], most[4]], rel=1e-4)
    monkeypatch.setattr(reading, "corpus", lambda: TEXTS[:1])
    assert [largest(subject, feature) for feature in (3, 4)] == found
    twin = Subject(case.model, build_tokenizer(), copy.deepcopy(case.sae))
    one_text, _, _ = truth("gemma3-standard", TEXTS[:1])
    assert largest(twin, 3) == pytest.approx(one_text[3], rel=1e-4)


@pytest.mark.parametrize("kind", ["standard", "gated", "jumprelu", "transcoder", "topk"])
def test_of_an_sae_larger_than_the_model_only_what_is_asked_for_is_measured(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "corpus", lambda: TEXTS)
    hooks = {"hook_name": "blocks.1.mlp.hook_in", "hook_name_out": "blocks.1.hook_mlp_out"}
    sae = build_sae(48, 3000, kind=kind, seed=2, **(hooks if kind == "transcoder" else {}))
    subject = Subject(CASES["gemma3-standard"].model, build_tokenizer(), sae)
    most = measure_activations(subject, TEXTS).max_activation  # all features, on texts of one's own
    fewer = measure_activations(subject, TEXTS[:1]).max_activation
    one, other, third = map(int, np.flatnonzero((most > fewer) & (fewer > 0))[-3:])
    assert [largest(subject, one), largest(subject, other)] == pytest.approx(
        [most[one], most[other]], rel=1e-4
    )
    monkeypatch.setattr(reading, "corpus", lambda: TEXTS[:1])
    assert largest(subject, one) == pytest.approx(most[one], rel=1e-4)  # which is kept
    # The features of a TopK SAE compete, so all of them were measured.
    expected = most if kind == "topk" else fewer
    assert largest(subject, third) == pytest.approx(expected[third], rel=1e-4)


@pytest.mark.parametrize("change", ["fold", "move"])
def test_an_sae_that_was_changed_is_measured_anew(
    change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "corpus", lambda: TEXTS)
    case = CASES["gemma3-standard"]
    sae = copy.deepcopy(case.sae)
    with torch.no_grad():
        sae.W_dec.mul_(3.0)
    subject = Subject(case.model, build_tokenizer(), sae)
    before = largest(subject, 3), residual_norm(subject)
    if change == "fold":
        sae.fold_W_dec_norm()
    else:
        sae.cfg.metadata.hook_name = "blocks.0.hook_resid_post"
    anew = Subject(case.model, build_tokenizer(), copy.deepcopy(sae))
    assert largest(subject, 3) == largest(anew, 3) != pytest.approx(before[0], rel=1e-2)
    assert residual_norm(subject) == residual_norm(anew)
    assert (residual_norm(subject) == before[1]) == (change == "fold")


@pytest.mark.parametrize("interrupt", [False, True])
def test_texts_that_are_given_up_leave_nothing_behind(
    interrupt: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "corpus", lambda: TEXTS)
    monkeypatch.setattr(reading, "_TOKENS_AT_ONCE", 10)
    case = CASES["gemma3-standard"]
    subject = Subject(case.model, build_tokenizer(), copy.deepcopy(case.sae))
    cancel, counted = threading.Event(), [Clamp(3, 1.0, "max_activation")]

    def stop(_step: Progress) -> None:
        if interrupt:
            raise KeyboardInterrupt
        cancel.set()

    if interrupt:
        with pytest.warns(PartialResultWarning, match="Interrupted"):
            assert not measure_first(subject, counted, stop, cancel)
    else:
        assert not measure_first(subject, counted, stop, cancel)
    most, _, _ = truth("gemma3-standard")
    assert measure_first(subject, counted, None, None)
    assert largest(subject, 3) == pytest.approx(most[3], rel=1e-4)


def test_a_feature_that_never_fires_has_no_largest_activation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "corpus", lambda: TEXTS)
    case, sae = CASES["gemma3-standard"], copy.deepcopy(CASES["gemma3-standard"].sae)
    with torch.no_grad():
        sae.b_enc[3] = -1000.0
    subject = Subject(case.model, build_tokenizer(), sae)
    with pytest.raises(ExplorerError, match=r'Feature 3 .* fires at none of .*Use unit="absolute"'):
        largest(subject, 3)
    with pytest.raises(ExplorerError, match="There is no feature 24"):
        largest(subject, 24)


def test_the_residual_norm_is_that_of_the_place_where_the_sae_writes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "corpus", lambda: TEXTS)
    monkeypatch.setattr(reading, "_SAMPLE", (2, 9))
    case = CASES["gemma3-transcoder"]
    subject = Subject(case.model, build_tokenizer(), copy.deepcopy(case.sae))
    rows = [build_tokenizer().encode(text)[:9] for text in (TEXTS[0], TEXTS[2])]
    lengths = [passed(case.model, row, case.writes)[0][0, 1:].norm(dim=-1) for row in rows]
    assert residual_norm(subject) == pytest.approx(float(torch.cat(lengths).mean()), rel=1e-4)


@pytest.mark.parametrize("name", ["gemma3-standard", "gemma3-topk", "gpt2-centred"])
def test_chosen_features_are_read_at_every_token(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_TOKENS_AT_ONCE", 10)
    case = CASES[name]
    ids = torch.tensor([build_tokenizer().encode(text)[:9] for text in (TEXTS[0], TEXTS[2])])
    found = feature_activations(case.subject(), [7, 3], ids)
    assert found.shape == (2, 9, 2)
    assert found.dtype == torch.float32
    for row, text_ids in enumerate(ids.tolist()):
        (read,) = passed(case.model, text_ids, case.reads)
        expected = torch.stack([_feature(case.sae, feature, read)[0][0] for feature in (7, 3)], -1)
        torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-4)


def _unfolded() -> sae_lens.SAE[Any]:
    return build_sae(48, normalize_activations="expected_average_only_in")


def _matching_pursuit() -> sae_lens.SAE[Any]:
    options = {"d_in": 48, "d_sae": FEATURES, "residual_threshold": 0.1}
    config = sae_lens.MatchingPursuitSAEConfig(**options)
    config.metadata.hook_name = "blocks.1.hook_resid_post"
    return sae_lens.MatchingPursuitSAE(config)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (_unfolded, "Fold it in first"),
        (_matching_pursuit, "cannot be measured or clamped: it picks features one after another"),
    ],
)
def test_an_sae_that_measures_nothing_is_refused(build: Any, message: str) -> None:
    subject = Subject(CASES["gemma3-standard"].model, build_tokenizer(), build())
    ids = torch.tensor([[BOS, 5, 6]])
    for ask in (
        lambda: measure_activations(subject, TEXTS),
        lambda: feature_activations(subject, [0], ids),
    ):
        with pytest.raises(ExplorerError, match=message):
            ask()


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("one text", r"texts is 'one text'; give a list of texts"),
        (5, r"texts is 5; give a list of texts"),
        (["a text", 3], r"give a list of texts"),
        (b"bytes", r"give a list of texts"),
        ([], "no token to measure"),
        ([""], "no token"),
    ],
)
def test_texts_without_tokens_are_refused(texts: Any, message: str) -> None:
    with pytest.raises(ExplorerError, match=message):
        measure_activations(CASES["gemma3-standard"].subject(), texts)


def test_texts_longer_than_the_model_reads_are_refused() -> None:
    subject = CASES["gpt2-centred"].subject()
    with pytest.raises(
        ExplorerError, match="has 129 tokens, but GPT2LMHeadModel reads 128 at most"
    ):
        feature_activations(subject, [0], torch.full((1, 129), 5))


def test_activations_that_are_no_numbers_are_refused() -> None:
    case = CASES["gemma3-standard"]
    model = copy.deepcopy(case.model)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.fill_(float("inf"))
    subject = Subject(model, build_tokenizer(), case.sae)
    with pytest.raises(ExplorerError, match="NaN or infinite in torch"):
        measure_activations(subject, TEXTS)


def test_the_corpus_is_small_plain_and_without_repetition() -> None:
    texts = corpus()
    assert 2000 <= len(texts) == len(set(texts))
    assert sum(len(text) + 1 for text in texts) < 250_000
    assert set("".join(texts)) <= set(string.printable) - set("\t\n\r\v\f")
    assert all(text == " ".join(text.split()) and 25 <= len(text) <= 200 for text in texts)
    assert sum(text.startswith('A typical definition of "') for text in texts) > 200


def test_nearly_every_living_feature_of_the_bundled_model_fires_in_the_corpus() -> None:
    scan = measure_activations(Subject.demo(layer=3))
    assert scan.tokens > 40_000
    # 64 features fire nowhere in 126,533 positions; see the model card.
    assert (scan.max_activation == 0).sum() < 64 + 60
