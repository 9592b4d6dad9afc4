"""A dose-response measures what a run of each strength alone would: one full forward at a time.

The truth is written down here with Python's own arithmetic, on forwards without a cache whose
residual stream is changed by hand. Texts are compared token by token, since a batch and a single
row agree up to rounding (see test_generation.py); what is measured of them, on the texts as they
were written.
"""

from __future__ import annotations

import copy
import json
import math
import threading
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from rich.console import Console

from sae_explorer import ExplorerError, PartialResultWarning, Subject
from sae_explorer.analyses import dose_response as module
from sae_explorer.analyses.dose_response import DoseResponse, dose_response
from sae_explorer.analyses.steering import steer_text
from sae_explorer.model import reading
from sae_explorer.model.changes import applied
from sae_explorer.model.direction import feature
from sae_explorer.model.generation import text_ids
from sae_explorer.model.interventions import Clamp, Steer
from sae_explorer.model.reading import corpus, largest, residual_norm
from sae_explorer.model.sites import read
from sae_explorer.request import schema
from test_generation import (
    BLOCKS,
    FEATURE,
    TEXT,
    everywhere,
    full_logits,
    hooks_of,
    nowhere,
    subject_of,
)
from zoo import build_model, build_sae, build_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from sae_explorer.analyses import Progress
    from sae_explorer.analyses.dose_response import DoseRequest

DOSES = (-3.0, 0.0, 2.0, 5.0)
TARGETS = (" of", " would")


def response(subject: Subject | None = None, **options: Any) -> DoseResponse:
    settings = {
        "feature": FEATURE,
        "text": TEXT,
        "doses": DOSES,
        "unit": "absolute",
        "skip_bos": False,
        "targets": TARGETS,
        "watched": (5,),
        "dose_tokens": 6,
    }
    return dose_response(subject or subject_of("llama"), **{**settings, **options})


@cache
def example() -> DoseResponse:
    return response()


def written(subject: Subject, dose: float, tokens: int = 6) -> list[int]:
    """Return the token ids of the text of one dose, as the steering analysis gives them."""
    result = steer_text(
        subject,
        feature=FEATURE,
        text=TEXT,
        unit="absolute",
        skip_bos=False,
        strengths=[d for d in DOSES if d],
        max_tokens=tokens,
    )
    index = [0.0, *(d for d in DOSES if d)].index(dose)
    frame = result.to_frame()
    return [int(i) for i in frame[(frame.text == index) & frame.generated].token_id]


@pytest.mark.parametrize("family", BLOCKS)
def test_each_dose_is_measured_as_if_it_were_alone(family: str) -> None:
    subject = subject_of(family)
    found = response(subject).to_frame()
    prompt = text_ids(subject, TEXT)
    plain = full_logits(subject, family, (), nowhere, len(prompt), prompt)[-1].double()
    q = plain.softmax(-1).tolist()
    for dose, row in zip(DOSES, found.to_dict("records"), strict=True):
        plan = (Steer(FEATURE, dose),)
        logits = full_logits(subject, family, plan, everywhere, len(prompt), prompt)[-1].double()
        p = logits.softmax(-1).tolist()
        kl = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        assert row["kl"] == pytest.approx(kl, rel=1e-3, abs=1e-5)
        top = sorted(p)[-10:]
        entropy = -sum(a / sum(top) * math.log(a / sum(top)) for a in top)
        assert row["entropy_top10"] == pytest.approx(entropy, rel=1e-3)
        for target in TARGETS:
            token = subject.token_id(target)
            assert row[f"P({target})"] == pytest.approx(p[token], rel=1e-3)

        ids = written(subject, dose)
        assert row["text"] == subject.continuation_text(prompt, ids)
        whole = [*prompt, *ids]
        after = full_logits(subject, family, (), nowhere, len(prompt), whole).double()
        losses = [
            -float(after[place - 1].log_softmax(-1)[whole[place]])
            for place in range(len(prompt), len(whole))
        ]
        assert row["perplexity"] == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-3)
        with read(subject.site()) as seen, subject.run():
            subject.model(input_ids=torch.tensor([whole]))
        with torch.no_grad():
            activation = subject.sae.sae.encode(seen[0])[0, len(prompt) :]
        for watched in (FEATURE, 5):
            expected = float(activation[:, watched].mean())
            assert row[f"activation {watched}"] == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_a_dose_of_0_changes_nothing() -> None:
    result = response(doses=[0.0, 3.0])
    assert result.kl[0] == 0.0
    assert result.kl[1] > 0
    alone = response(doses=[0.0])
    assert alone.texts == result.texts[:1] == steered_plain()
    assert alone.kl[0] == 0.0


def steered_plain() -> list[str]:
    return [steer_text(subject_of("llama"), feature=FEATURE, text=TEXT, max_tokens=6).texts[0]]


def test_a_dose_of_minus_0_is_0() -> None:
    assert response(doses=[-0.0, 3.0]).to_json() == response(doses=[0.0, 3.0]).to_json()


def test_the_table_has_a_row_for_each_dose() -> None:
    assert list(example().to_frame()) == [
        *("strength", "kl", "entropy_top10", "perplexity"),
        *("P( of)", "P( would)", "activation 3", "activation 5", "text"),
    ]
    assert example().strength.tolist() == list(DOSES)
    assert len(example()) == len(DOSES)


def test_without_texts_only_the_prediction_is_measured() -> None:
    result = response(dose_tokens=0)
    np.testing.assert_allclose(result.kl, example().kl)
    assert result.texts == [""] * len(DOSES)
    assert np.isnan(result.perplexity).all()
    assert np.isnan(result.activation).all()
    payload = result.payload()
    assert payload["perplexity"] == payload["activations"][0]["activation"] == [None] * len(DOSES)
    assert DoseResponse.from_json(result.to_json()) == result


def test_what_is_changed_besides_is_part_of_the_unsteered_model() -> None:
    held = response(interventions=[Clamp(5, 9.0)], doses=[0.0, 3.0])
    assert held.kl[0] == 0.0
    assert held.texts[0] != example().texts[1]
    texts = steer_text(
        subject_of("llama"),
        feature=FEATURE,
        text=TEXT,
        interventions=[Clamp(5, 9.0)],
        max_tokens=6,
        strengths=[1.0],
    )
    frame = texts.to_frame()
    own = frame[(frame.text == 0) & frame.generated].probability
    assert held.texts[0] == texts.texts[0]
    assert held.perplexity[0] == pytest.approx(math.exp(-np.log(own).mean()), rel=1e-3)


# --- Doses and units ----------------------------------------------------------------------------


def test_16_doses_with_0_among_them_are_swept_unless_others_are_given() -> None:
    result = response(unit="residual_norm", doses=())
    assert result.strength.tolist() == [n / 8 for n in range(-6, 10)]
    assert result.kl[6] == 0.0
    assert result.half_norm == 0.5


@pytest.mark.parametrize(
    "sae",
    [
        {},
        {"kind": "topk-rescaled"},
        {"kind": "jumprelu"},
        {"normalize_activations": "constant_norm_rescale"},
    ],
    ids=["standard", "topk-rescaled", "jumprelu", "normalised"],
)
def test_the_default_doses_span_the_same_in_every_unit(sae: dict[str, Any]) -> None:
    subject = Subject(build_model("llama"), build_tokenizer(), build_sae(48, seed=2, **sae))
    by_norm, absolute, by_activation = (
        response(subject, unit=unit, doses=(), dose_tokens=0)
        for unit in ("residual_norm", "absolute", "max_activation")
    )
    np.testing.assert_allclose(absolute.kl, by_activation.kl, rtol=1e-3, atol=1e-5)
    if "normalize_activations" not in sae:  # there, each position has a norm of its own
        np.testing.assert_allclose(by_norm.kl, absolute.kl, rtol=1e-3, atol=1e-5)
    for result in (by_norm, absolute, by_activation):
        assert result.half_norm is not None
        assert result.strength / result.half_norm == pytest.approx(np.arange(-6, 10) / 4)


@pytest.mark.parametrize("unit", ["residual_norm", "absolute", "max_activation"])
@pytest.mark.parametrize("what", [FEATURE, feature(FEATURE) - 0.5 * feature(5)], ids=str)
def test_half_the_norm_adds_half_the_norm(unit: str, what: Any) -> None:
    if unit == "max_activation" and what != FEATURE:
        with pytest.raises(ExplorerError, match="has no activation"):
            response(feature=what, unit=unit)
        return
    subject = subject_of("llama")
    half = response(subject, feature=what, unit=unit, dose_tokens=0).half_norm
    assert half is not None
    ids = torch.tensor([text_ids(subject, TEXT)])
    seen = []
    for plan in ([], [Steer(what, half, unit)]):
        with applied(subject, plan), read(subject.site_out()) as now:
            subject.model(input_ids=ids)
        seen.append(now[0])
    lengths = (seen[1] - seen[0]).norm(dim=-1)
    torch.testing.assert_close(
        lengths, torch.full_like(lengths, residual_norm(subject) / 2), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_half_the_norm_is_that_of_the_row_however_large_the_bias_in_a_narrow_dtype(
    dtype: str,
) -> None:
    sae = copy.deepcopy(build_sae(48, seed=2))
    with torch.no_grad():
        sae.b_dec.mul_(1000)
    sae = sae.to(getattr(torch, dtype))
    subject = Subject(build_model("llama"), build_tokenizer(), sae)
    half = response(subject, dose_tokens=0).half_norm
    length = float(sae.W_dec[FEATURE].detach().float().norm())
    assert half == pytest.approx(residual_norm(subject) / 2 / length, rel=1e-4)


@pytest.mark.parametrize("normalised", ["constant_norm_rescale", "layer_norm"])
@pytest.mark.parametrize("what", [FEATURE, feature(FEATURE) - 0.5 * feature(5)], ids=str)
def test_half_the_norm_of_a_normalised_transcoder_is_in_units_of_what_it_reads(
    normalised: str, what: Any
) -> None:
    sae = build_sae(
        48,
        seed=2,
        kind="transcoder",
        hook_name="blocks.1.mlp.hook_in",
        hook_name_out="blocks.1.hook_mlp_out",
        normalize_activations=normalised,
    )
    subject = Subject(build_model("llama"), build_tokenizer(), sae)
    half = response(subject, feature=what, dose_tokens=0).half_norm
    assert half is not None
    lengths = []
    for ids in [subject.tokenizer.encode(text)[:24] for text in corpus()[:40]]:
        seen = []
        for plan in ([], [Steer(what, half)]):
            with applied(subject, plan), read(subject.site_out()) as now:
                subject.model(input_ids=torch.tensor([ids]))
            seen.append(now[0])
        lengths.append((seen[1] - seen[0])[0, 1:].norm(dim=-1))
    mean = float(torch.cat(lengths).mean())
    assert mean == pytest.approx(residual_norm(subject) / 2, rel=0.1)


def test_half_the_norm_is_half_of_each_where_an_sae_measures_in_units_of_it() -> None:
    sae = build_sae(48, seed=2, normalize_activations="constant_norm_rescale")
    subject = Subject(build_model("llama"), build_tokenizer(), sae)
    half = response(subject, dose_tokens=0).half_norm
    assert half is not None
    seen = []
    for plan in ([], [Steer(FEATURE, half)]):
        with applied(subject, plan), read(subject.site_out()) as now:
            subject.model(input_ids=torch.tensor([text_ids(subject, TEXT)]))
        seen.append(now[0])
    lengths, half_norms = (seen[1] - seen[0]).norm(dim=-1), seen[0].norm(dim=-1) / 2
    torch.testing.assert_close(lengths, half_norms, rtol=1e-3, atol=0)


def test_a_clamp_is_swept_from_ablation_to_twice_the_largest_activation() -> None:
    by_activation = response(action="clamp", unit="max_activation", doses=(), dose_tokens=0)
    assert by_activation.strength.tolist() == [n / 8 for n in range(16)]
    assert by_activation.half_norm is None
    absolute = response(action="clamp", doses=(), dose_tokens=0)
    np.testing.assert_allclose(absolute.kl, by_activation.kl, rtol=1e-4, atol=1e-6)


def test_a_direction_has_no_activation_but_that_of_the_watched_features() -> None:
    result = response(feature=None, direction="3 - 5")
    assert result.request.features == (5,)
    assert response(watched=(5, 3, 5)).request.features == (3, 5)
    none = response(feature=None, direction="3 - 5", watched=())
    assert none.activation.shape == (len(DOSES), 0)
    assert DoseResponse.from_json(none.to_json()) == none


# --- While it runs ------------------------------------------------------------------------------


def test_a_run_reports_and_shows_what_it_has() -> None:
    seen: list[tuple[float | None, DoseResponse]] = []
    result = response(progress=lambda p: seen.append((p.share, p.snapshot())))
    assert [share for share, _ in seen] == [n / 7 for n in range(1, 7)]
    for _, partial in seen:
        assert partial.status == "partial"
        assert partial.kl.tolist() == result.kl.tolist()
        assert np.isnan(partial.perplexity).all()
    assert result == example()


def test_a_cancelled_run_measures_what_was_written() -> None:
    cancel = threading.Event()

    def stop(progress: Progress) -> None:
        if progress.share == 2 / 7:
            cancel.set()

    result = response(progress=stop, cancel=cancel)
    assert result.status == "partial"
    assert "partial" in repr(result)
    short = response(dose_tokens=2)
    assert result.texts == short.texts
    assert result.perplexity.tolist() == short.perplexity.tolist()
    assert hooks_of(subject_of("llama").model) == 0


@pytest.mark.parametrize("at", ["_perplexity", "_activation"])
def test_an_interrupt_while_the_texts_are_read_again_keeps_what_was_measured(
    at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, at, interrupt)
    with pytest.warns(PartialResultWarning, match="Interrupted"):
        result = response()
    assert result.status == "partial"
    assert result.texts == example().texts
    assert result.kl.tolist() == example().kl.tolist()
    assert np.isnan(result.perplexity).all() == (at == "_perplexity")
    assert np.isnan(result.activation).all()
    assert DoseResponse.from_json(result.to_json()) == result


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({"unit": "max_activation"}, 4),
        ({"unit": "max_activation", "doses": ()}, 0),
        ({"action": "clamp", "doses": ()}, 0),
    ],
)
def test_a_cancel_while_the_largest_activation_is_measured_ends_the_run(
    options: dict[str, Any], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "corpus", lambda: ("One text of a few words.",) * 2)
    monkeypatch.setattr(reading, "_TOKENS_AT_ONCE", 10)
    subject = Subject(build_model("llama"), build_tokenizer(), build_sae(48, seed=12))
    cancel, told = threading.Event(), []

    def stop(step: Progress) -> None:
        told.append(step.text)
        cancel.set()

    result = response(subject, **options, progress=stop, cancel=cancel)
    assert len(told) == 1
    assert result.status == "partial"
    assert len(result) == rows
    assert result.texts == [""] * rows
    for column in (result.kl, result.entropy, result.target_probability, result.perplexity):
        assert np.isnan(column).all()
    assert result.half_norm is result.largest_activation is None
    assert "partial" in repr(result)
    assert json.loads(json.dumps(result.payload()))["kl"] == [None] * rows
    assert DoseResponse.from_json(result.to_json()) == result


def test_a_response_says_what_its_unit_is_worth() -> None:
    subject = subject_of("llama")
    worth = largest(subject, FEATURE)
    result = response(subject, unit="max_activation", dose_tokens=0)
    assert result.largest_activation == worth
    assert DoseResponse.from_json(result.to_json()).largest_activation == worth
    assert example().largest_activation is None


def test_nothing_is_left_in_the_model() -> None:
    subject = subject_of("gemma2")
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}

    def fail(_progress: Progress) -> None:
        raise RuntimeError("of the caller")

    with pytest.raises(RuntimeError, match="of the caller"):
        response(subject, progress=fail)
    response(subject)
    assert hooks_of(subject.model) == 0
    after = subject.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


# --- The result ---------------------------------------------------------------------------------


def test_a_result_survives_the_way_through_json(tmp_path: Path) -> None:
    example().to_json(tmp_path / "dose.json")
    again = DoseResponse.from_json(tmp_path / "dose.json")
    assert again == example()
    assert again.to_frame().equals(example().to_frame())
    assert response().to_json() == example().to_json()


def test_the_view_gets_the_curves() -> None:
    payload = json.loads(json.dumps(example().payload()))
    frame = example().to_frame()
    assert payload["strength"] == list(DOSES)
    assert payload["kl"] == frame["kl"].tolist()
    assert payload["entropy"] == frame["entropy_top10"].tolist()
    assert payload["perplexity"] == frame["perplexity"].tolist()
    assert payload["targets"] == [
        {"token": token, "probability": frame[f"P({token})"].tolist()} for token in TARGETS
    ]
    assert payload["activations"] == [
        {"feature": number, "activation": frame[f"activation {number}"].tolist()}
        for number in (FEATURE, 5)
    ]
    assert payload["texts"] == example().texts
    assert payload["half_norm"] == example().half_norm
    assert (payload["unit"], payload["status"]) == ("absolute", "complete")


def test_the_table_is_shown() -> None:
    console = Console(record=True, width=200)
    console.print(example())
    shown = console.export_text()
    assert f"half the residual norm is {example().half_norm:g}" in shown
    assert "P( would)" in shown
    assert repr(example()) == "DoseResponse(feature 3, 4 strengths from -3 to 5)"


# --- Refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"targets": ["would be"]},
            r"The target cannot be followed: 'would be' is no single token",
        ),
        ({"doses": [1.0] * 65}, r"65 doses are given; 64 are possible at once"),
        ({"watched": [24]}, r"no feature 24"),
        ({"feature": 24}, r"no feature 24"),
        ({"feature": 24, "doses": [0.0]}, r"no feature 24"),
        ({"watched": [-1]}, r"watched is -1; it must be at least 0"),
        ({"dose_tokens": 500}, r"LlamaForCausalLM reads 128 at most"),
        ({"at": "ghost"}, r"at is 'ghost'"),
        ({"at": "generated"}, r"at is 'generated'.* before anything is generated. Give at='all'"),
        ({"at": (0, 90)}, r"at has the place 90, .* places up to \d+ come before"),
        ({"text": "", "skip_bos": True}, r"Nothing would be steered .* Give a longer text"),
        ({"action": "clamp", "unit": "residual_norm"}, r"no residual norm"),
        ({"strengths": [1.0]}, r"There is no option 'strengths'"),
    ],
)
def test_what_cannot_be_done_is_refused_in_words(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ExplorerError, match=message):
        response(**options)


def test_the_options_have_the_groups_of_their_controls() -> None:
    request: type[DoseRequest] = type(example().request)
    groups = {entry["name"]: (entry["group"], entry["kind"]) for entry in schema(request)}
    assert groups["doses"] == ("dose", "floats")
    assert groups["targets"] == ("dose", "strs")
    assert groups["watched"] == ("dose", "ints")
    assert groups["unit"] == ("steering", "str")


# --- The bundled model --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "word"), [(302, " vehicle"), (377, " food"), (342, " color"), (1396, " religion")]
)
def test_steering_towards_a_clear_feature_makes_its_word_more_probable(
    number: int, word: str
) -> None:
    subject = Subject.demo(layer=3)
    result = dose_response(
        subject,
        feature=number,
        text="a kind of",
        doses=[-0.5, 0.0, 0.25, 0.5],
        targets=[word],
        dose_tokens=0,
    )
    probability = result.target_probability[:, 0]
    assert (np.diff(probability) > 0).all()
    assert probability[-1] > 10 * probability[1]
