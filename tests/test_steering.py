"""Steered texts as a result: what is in them, how they stream, and what is refused.

That each token is the right one is claimed in test_generation.py.
"""

from __future__ import annotations

import copy
import json
import threading
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from rich.console import Console

from sae_explorer import ExplorerError, PartialResultWarning, Subject
from sae_explorer.analyses import steering
from sae_explorer.analyses.steering import SteeredTexts, SteeringRequest, steer_text
from sae_explorer.model import reading
from sae_explorer.model.direction import feature, vector
from sae_explorer.model.generation import text_ids
from sae_explorer.model.interventions import Clamp
from sae_explorer.request import from_text, schema
from sae_explorer.text import visible
from test_generation import BLOCKS, FEATURE, TEXT, ending_in, hooks_of, subject_of
from zoo import NO_MEMORY, build_model, build_sae, build_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from sae_explorer.analyses import Progress

STRENGTHS = (0.0, 4.0, -3.0)


def steered(subject: Subject | None = None, **options: Any) -> SteeredTexts:
    settings = {
        "feature": FEATURE,
        "text": TEXT,
        "strengths": STRENGTHS,
        "unit": "absolute",
        "max_tokens": 8,
    }
    return steer_text(subject or subject_of("llama"), **{**settings, **options})


@cache
def example() -> SteeredTexts:
    return steered()


def rows_of(result: SteeredTexts, text: int) -> Any:
    frame = result.to_frame()
    return frame[frame.text == text]


def test_the_unsteered_text_is_first_and_the_strengths_follow_in_order() -> None:
    result = example()
    assert result.labels == ["unsteered", "+0", "+4", "-3"]
    assert len(result) == len(result.texts) == 4
    again = steered(strengths=STRENGTHS[::-1])
    assert again.texts == [result.texts[0], *result.texts[:0:-1]]
    assert len(set(result.texts)) == 3


def test_strength_0_is_the_unsteered_text_to_the_bit() -> None:
    for options in ({}, {"temperature": 1.0, "seed": 3}):
        frame = steered(**options).to_frame().drop(columns="text")
        rows = len(frame) // (1 + len(STRENGTHS))
        assert frame[:rows].equals(frame[rows : 2 * rows].reset_index(drop=True))


def test_a_row_is_a_token_and_the_tokens_make_the_texts() -> None:
    result, prompt = example(), text_ids(subject_of("llama"), TEXT)
    for text in range(4):
        rows = rows_of(result, text)
        assert rows.place.tolist() == list(range(len(rows)))
        assert rows.token_id[~rows.generated].tolist() == prompt
        written = rows.token_id[rows.generated].tolist()
        assert subject_of("llama").continuation_text(prompt, written) == result.texts[text]
        assert rows.probability[rows.generated].between(0, 1).all()
        assert rows.probability[~rows.generated].isna().all()


def test_what_differs_is_what_the_unsteered_text_lacks() -> None:
    result = example()
    plain = rows_of(result, 0)
    assert not plain.differs.any()
    for text in range(1, 4):
        rows = rows_of(result, text)
        assert not rows.differs[~rows.generated].any()
        kept = iter(plain.token_id[plain.generated])
        # What does not differ stands in the unsteered text, in the same order.
        assert all(token in kept for token in rows.token_id[rows.generated & ~rows.differs])
    assert rows_of(result, 2).differs.any()


@pytest.mark.parametrize("family", BLOCKS)
def test_the_activation_is_what_the_plain_model_reads_from_the_text(family: str) -> None:
    subject = subject_of(family)
    result = steered(subject, max_tokens=5)
    for text in range(4):
        rows = rows_of(result, text)
        seen: list[torch.Tensor] = []

        def keep(_module: Any, _inputs: Any, output: Any, seen: list[Any] = seen) -> None:
            seen.append(output if isinstance(output, torch.Tensor) else output[0])

        handle = subject.model.get_submodule(BLOCKS[family]).register_forward_hook(keep)
        with torch.no_grad():
            subject.model(input_ids=torch.tensor([rows.token_id.tolist()]))
            expected = subject.sae.sae.encode(seen[0])[0, :, FEATURE]
        handle.remove()
        np.testing.assert_allclose(rows.activation, expected, rtol=1e-4, atol=1e-4)
    assert (result.to_frame().activation > 0).any()


def test_a_text_that_the_model_ends_has_its_end_as_the_last_token() -> None:
    goes_on, steered_on = (
        rows_of(example(), text).query("generated").token_id.tolist() for text in (0, 2)
    )
    end = next(token for token in steered_on if token not in goes_on)
    length = steered_on.index(end) + 1
    result = steered(subject_of("llama", ending_in(end)))
    assert result.ended[:3] == [False, False, True]
    assert [text["ended"] for text in result.payload()["texts"]] == result.ended
    rows = rows_of(result, 2)
    assert rows[rows.generated].token_id.tolist() == steered_on[:length]
    assert result.texts[0] == example().texts[0]
    prompt = text_ids(subject_of("llama"), TEXT)
    said = subject_of("llama").continuation_text(prompt, steered_on[: length - 1])
    assert result.texts[2] == said
    # Each activation is that of its own token, though the texts have several lengths.
    full = rows_of(example(), 2).activation[: len(rows)]
    np.testing.assert_allclose(rows.activation, full, atol=1e-4)
    others = rows_of(result, 3)
    length = min(len(others), len(rows_of(example(), 3)))
    expected = rows_of(example(), 3).activation[:length]
    np.testing.assert_allclose(others.activation[:length], expected, atol=1e-4)


def test_a_clamp_holds_the_feature_instead() -> None:
    result = steered(action="clamp", strengths=[0.0, 9.0])
    assert result.labels == ["unsteered", "clamped at 0", "clamped at 9"]
    assert result.texts[2] != result.texts[0]
    held = [Clamp(FEATURE, 9.0, skip_bos=True)]
    assert steered(feature=5, strengths=[1.0], interventions=held).texts[0] == result.texts[2]


def test_a_strength_of_minus_0_is_0() -> None:
    assert steered(strengths=[-0.0]).to_json() == steered(strengths=[0.0]).to_json()


def test_what_is_changed_besides_is_changed_in_the_unsteered_text_too() -> None:
    result = steered(interventions=[Clamp(5, 9.0)], strengths=[0.0, 4.0])
    assert result.texts[0] == result.texts[1] != example().texts[0]
    assert result.request.label == f"feature {FEATURE}, feature 5 at 9"


@pytest.mark.parametrize(
    ("at", "same_first_token"), [("generated", True), ("prompt", False), ("1,-1", False)]
)
def test_the_steering_acts_where_it_is_asked_to(at: str, same_first_token: bool) -> None:
    result = steered(at=at, strengths=[6.0])
    frame = result.to_frame()
    plain, changed = (
        frame[(frame.text == text) & frame.generated].iloc[0].probability for text in (0, 1)
    )
    assert np.isclose(plain, changed, rtol=1e-5) == same_first_token
    assert result.texts[0] != result.texts[1]


def test_places_are_numbers_in_python_and_text_elsewhere() -> None:
    assert steered(at=[1, -1]).texts == steered(at="1, -1").texts
    assert from_text(SteeringRequest, "at", "1,-1") == (1, -1)
    ways = ("0,-1", "0, -1", (0, -1), [0, -1], "0,-1,0")
    requests = {SteeringRequest.from_options({"feature": 3, "at": at}) for at in ways}
    assert [request.at for request in requests] == [(0, -1)]
    assert from_text(SteeringRequest, "at", "prompt") == "prompt"


def test_a_sum_of_features_is_steered_as_one_feature_is() -> None:
    one = steered(direction="3", feature=None)
    assert one.texts == example().texts
    assert one.activation is None
    assert one.to_frame().activation.isna().all()
    several = steered(feature=feature(FEATURE) - 0.5 * feature(5))
    assert several.request.label == "3 - 0.5*5"
    assert several.texts[0] == example().texts[0]
    assert several.texts[2] != several.texts[0]


def test_the_steering_is_the_same_in_every_unit() -> None:
    from sae_explorer.model.reading import largest, residual_norm

    subject = subject_of("llama")
    length = float(subject.sae.sae.W_dec[FEATURE].detach().norm())
    by_norm = steered(subject, unit="residual_norm", strengths=[0.5])
    absolute = steered(subject, strengths=[0.5 * residual_norm(subject) / length])
    assert by_norm.texts == absolute.texts
    by_activation = steered(subject, unit="max_activation", strengths=[2.0])
    assert by_activation.texts == steered(subject, strengths=[2 * largest(subject, FEATURE)]).texts


# --- While it runs ------------------------------------------------------------------------------


def test_the_texts_stream_token_by_token() -> None:
    shares: list[float | None] = []
    lengths: list[int] = []

    def look(progress: Progress) -> None:
        partial = progress.snapshot()
        assert partial is not None
        assert partial.status == "partial"
        assert partial.activation is None
        assert partial.payload()["texts"][1]["activation"] is None
        shares.append(progress.share)
        lengths.append(int(partial.generated.sum()))

    result = steered(progress=look)
    assert shares == [n / 8 for n in range(1, 9)]
    assert lengths == [4 * n for n in range(1, 9)]
    assert result == example()


def test_a_cancelled_run_gives_what_was_written() -> None:
    cancel = threading.Event()

    def stop(progress: Progress) -> None:
        if progress.share == 3 / 8:
            cancel.set()

    result = steered(progress=stop, cancel=cancel)
    assert result.status == "partial"
    assert "partial" in repr(result)
    assert rows_of(result, 0).generated.sum() == 3
    assert example().texts[2].startswith(result.texts[2])
    assert result.activation is not None
    assert hooks_of(subject_of("llama").model) == 0


def test_a_cancel_with_the_last_token_leaves_nothing_out() -> None:
    cancel = threading.Event()
    cancel.set()
    assert steered(max_tokens=1, cancel=cancel).status == "complete"


def test_a_cancel_while_the_largest_activation_is_measured_leaves_the_text_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "corpus", lambda: ("One text of a few words.",) * 2)
    monkeypatch.setattr(reading, "_TOKENS_AT_ONCE", 10)
    subject = Subject(build_model("llama"), build_tokenizer(), build_sae(48, seed=12))
    cancel, told = threading.Event(), []

    def stop(step: Progress) -> None:
        told.append(step.text)
        cancel.set()

    result = steered(subject, unit="max_activation", progress=stop, cancel=cancel)
    assert len(told) == 1
    assert result.status == "partial"
    assert result.texts == [""] * 4
    assert not result.generated.any()
    assert result.activation is result.largest_activation is None
    assert SteeredTexts.from_json(result.to_json()) == result
    assert len(json.loads(json.dumps(result.payload()))["texts"]) == 4


def test_an_interrupt_while_the_texts_are_read_again_keeps_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*_args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(steering, "feature_activations", interrupt)
    with pytest.warns(PartialResultWarning, match="Interrupted"):
        result = steered()
    assert result.status == "partial"
    assert result.texts == example().texts
    assert result.activation is None


def test_the_texts_say_what_their_unit_is_worth() -> None:
    subject = subject_of("llama")
    result = steered(subject, unit="max_activation", strengths=[1.0])
    assert result.largest_activation == reading.largest(subject, FEATURE)
    assert SteeredTexts.from_json(result.to_json()) == result
    assert "largest_activation" not in result.to_frame()
    assert example().largest_activation is None


def test_an_interrupt_gives_what_was_written_and_says_so() -> None:
    def interrupt(progress: Progress) -> None:
        if progress.share == 2 / 8:
            raise KeyboardInterrupt

    with pytest.warns(PartialResultWarning, match="partial, with 2 tokens a text"):
        result = steered(progress=interrupt)
    assert result.status == "partial"
    assert hooks_of(subject_of("llama").model) == 0


@pytest.mark.parametrize("error", NO_MEMORY, ids=repr)
@pytest.mark.parametrize("tokens", [0, 2])
def test_where_memory_runs_out_what_was_written_is_kept(tokens: int, error: BaseException) -> None:
    model = copy.deepcopy(build_model("llama"))
    subject = Subject(model, build_tokenizer(), build_sae(48, seed=2))
    steered(subject, max_tokens=1)
    forwards = []

    def fail(*_args: Any) -> None:
        forwards.append(1)
        if len(forwards) == tokens + 1:
            raise error

    model.register_forward_pre_hook(fail)
    if tokens:
        with pytest.warns(PartialResultWarning, match="Out of memory: .* with 2 tokens a text"):
            result = steered(subject)
        assert result.generated.sum() == 2 * len(result)
    else:
        with pytest.raises(ExplorerError, match="too little memory for so many texts at once"):
            steered(subject)
    assert hooks_of(model) == 1


def test_an_error_of_the_caller_leaves_no_hook() -> None:
    def fail(_progress: Progress) -> None:
        raise RuntimeError("of the caller")

    with pytest.raises(RuntimeError, match="of the caller"):
        steered(progress=fail)
    assert hooks_of(subject_of("llama").model) == 0


# --- The result ---------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"feature": None, "direction": "3 - 5"}])
def test_a_result_survives_the_way_through_json(options: dict[str, Any], tmp_path: Path) -> None:
    result = steered(**options)
    result.to_json(tmp_path / "texts.json")
    again = SteeredTexts.from_json(tmp_path / "texts.json")
    assert again == result
    assert again.texts == result.texts
    assert again.to_frame().equals(result.to_frame())


def test_a_vector_survives_the_way_through_json() -> None:
    probe = vector(torch.randn(48, generator=torch.Generator().manual_seed(0)), "probe")
    result = steered(feature=None, direction=probe)
    assert SteeredTexts.from_json(result.to_json()).request == result.request
    assert result.request.label == "probe"


def test_the_same_question_has_the_same_json() -> None:
    assert steered().to_json() == example().to_json()
    assert example().provenance.sae["hook_name"] == "blocks.1.hook_resid_post"


def test_the_table_goes_to_csv() -> None:
    lines = example().to_csv().splitlines()
    assert lines[0] == (
        '"text","strength","place","token_id","token","generated","probability","differs","activation"'
    )
    assert len(example().to_frame()) == len(example().token)


def test_the_texts_are_shown_one_under_the_other_with_what_differs() -> None:
    console = Console(record=True, width=200)
    console.print(example())
    shown = console.export_text(styles=False)
    for number, label in enumerate(example().labels):
        line = next(line for line in shown.splitlines() if f" {label} " in line)
        assert "".join(map(visible, rows_of(example(), number).token)) in line
    assert repr(example()).startswith(f"SteeredTexts(feature {FEATURE}, 4 texts: +0: ")


def test_the_view_gets_the_texts_one_by_one() -> None:
    payload = json.loads(json.dumps(example().payload()))
    assert payload["status"] == "complete"
    assert payload["unit"] == "absolute"
    assert [text["label"] for text in payload["texts"]] == example().labels
    assert [text["strength"] for text in payload["texts"]] == [0.0, *STRENGTHS]
    for text in payload["texts"]:
        columns = [text[name] for name in ("tokens", "generated", "differs", "activation")]
        assert len({len(column) for column in columns}) == 1
    inner = [value for text in payload["texts"] for value in text["activation"][1:]]
    assert payload["largest"] == max(inner)


# --- The request --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strengths": []}, r"strengths is empty; give at least one"),
        ({"strengths": [1.0] * 32}, r"32 strengths are given; 32 texts are possible at once"),
        ({"strengths": [float("nan")]}, r"strengths is nan"),
        ({"feature": None}, r"Give one of feature or direction; neither was given"),
        ({"direction": "3"}, r"Give one of feature or direction; both were given"),
        ({"feature": 24}, r"no feature 24"),
        ({"feature": 24, "strengths": [0.0]}, r"no feature 24"),
        ({"at": "ghost"}, r"at is 'ghost', but a free text has no made-up word"),
        ({"interventions": [Clamp(1, 1.0, at="ghost")]}, r"at is 'ghost'"),
        ({"at": "begin"}, r"at is 'begin'; it must be 'all', 'prompt', 'generated' or places"),
        ({"action": "clamp", "unit": "residual_norm"}, r"no residual norm. Give unit='absolute'"),
        (
            {"action": "clamp", "feature": None, "direction": "3 - 5"},
            r"The direction 3 - 5 has no activation to be held at",
        ),
        (
            {"feature": None, "direction": "3 - 5", "unit": "max_activation"},
            r"The direction 3 - 5 has no activation, so no largest one",
        ),
        ({"action": "stir"}, r"action is 'stir'; it must be one of 'steer', 'clamp'"),
        ({"top_p": 0.0}, r"top_p is 0.0; it must be above 0"),
        ({"temperature": -1.0}, r"temperature is -1.0; it must be at least 0"),
        ({"max_tokens": 1000}, r"LlamaForCausalLM reads 128 at most"),
        ({"at": (0, 90)}, r"at has the place 90, .* places up to \d+ come before"),
        ({"at": "generated", "max_tokens": 1}, r"Nothing would be steered .* ask for more tokens"),
        ({"at": "prompt", "text": ""}, r"Nothing would be steered .* skip_bos is True"),
        ({"interventions": [Clamp(FEATURE, 1.0)]}, r"Feature 3 is held at one value and changed"),
    ],
)
def test_what_cannot_be_done_is_refused_in_words(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ExplorerError, match=message):
        steered(**options)
    assert hooks_of(subject_of("llama").model) == 0


def test_the_last_place_that_is_read_is_steered_and_the_next_one_refused() -> None:
    length = len(text_ids(subject_of("llama"), TEXT))
    plain, changed = (
        steered(at=(length,), strengths=[20.0], max_tokens=2).to_frame().query("text == @text")
        for text in (0, 1)
    )
    assert plain.probability.iloc[-1] != changed.probability.iloc[-1]
    with pytest.raises(ExplorerError, match=f"at has the place {length + 1}"):
        steered(at=(length + 1,), max_tokens=2)


def test_a_subject_without_an_sae_is_refused() -> None:
    subject = subject_of("llama")
    with pytest.raises(ExplorerError, match="has no SAE"):
        steered(Subject(subject.model, subject.tokenizer))


def test_the_options_have_the_groups_of_their_controls() -> None:
    groups = {entry["name"]: entry["group"] for entry in schema(SteeringRequest)}
    assert groups["text"] == groups["unit"] == "steering"
    assert groups["strengths"] == groups["seed"] == "sampling"


def test_measuring_the_largest_activation_tells_how_far_it_is() -> None:
    sae = build_sae(48, seed=11)  # one that nothing has been measured of
    subject = Subject(build_model("llama"), build_tokenizer(), sae)
    told: list[str] = []
    request = SteeringRequest(feature=2, text="A tree", unit="max_activation", strengths=(1.0,))
    steering.run(subject, request, progress=lambda step: told.append(step.text))
    assert any("measuring the largest activation" in text for text in told)
    told.clear()
    steering.run(subject, request, progress=lambda step: told.append(step.text))
    assert told
    assert not any("measuring" in text for text in told)
