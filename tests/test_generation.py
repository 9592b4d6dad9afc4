"""Texts under interventions: each token is the one that a full forward without a cache chooses.

The truth is one forward of the whole text for each token of each row, with a hook that is written
down here and a sampler that goes through the vocabulary one by one. A batch and a single row agree
up to rounding, so where two candidates are as close as that, either is right.
"""

from __future__ import annotations

import copy
import math
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from tokenizers import processors

from sae_explorer import ExplorerError, Subject
from sae_explorer.model.generation import (
    ENDED,
    Continuations,
    Sampling,
    Step,
    _choose,
    continue_rows,
    text_ids,
)
from sae_explorer.model.interventions import Clamp, Intervention, Steer
from zoo import attentions, build_model, build_sae, build_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from transformers import PreTrainedModel

FEATURE = 3
TEXT = "A typical definition of a word"

#: Families, each with the module whose output is the residual stream after layer 1.
BLOCKS = {
    "llama": "model.layers.1",
    "gemma2": "model.layers.1",
    "gpt2": "transformer.h.1",
    "gpt_neo": "transformer.h.1",
    "qwen3_5": "model.layers.1",
}

#: Two candidates for a token that are as close as this are told apart by rounding alone.
CLOSE = 1e-4


def nowhere(_place: int, _prompt: int) -> bool:
    return False


def everywhere(_place: int, _prompt: int) -> bool:
    return True


def behind_the_first(place: int, _prompt: int) -> bool:
    return place > 0


#: Plans of interventions, and at which places of a text of which prompt each acts.
PLANS: dict[str, tuple[tuple[Intervention, ...], Callable[[int, int], bool]]] = {
    "plain": ((), nowhere),
    "everywhere": ((Steer(FEATURE, 3.0),), everywhere),
    "away": ((Steer(FEATURE, -4.0, skip_bos=True),), behind_the_first),
    "prompt": ((Steer(FEATURE, 3.0, at="prompt"),), lambda place, prompt: place < prompt),
    "generated": ((Steer(FEATURE, 3.0, at="generated"),), lambda place, prompt: place >= prompt),
    "places": ((Steer(FEATURE, 3.0, at=(1, -1)),), lambda place, prompt: place in (1, prompt - 1)),
    "clamp": ((Clamp(FEATURE, 5.0, at="generated"),), lambda place, prompt: place >= prompt),
}


def subject_of(family: str, tokenizer: Any = None) -> Subject:
    model = build_model(family, attentions(family)[0])
    return Subject(model, tokenizer or build_tokenizer(), build_sae(48, seed=2))


def hooks_of(model: PreTrainedModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@contextmanager
def changed(
    subject: Subject, family: str, plan: Sequence[Intervention], where: Callable[[int], bool]
) -> Iterator[None]:
    """Change the residual stream of a whole text by hand, from the SAE's raw weights."""
    sae = subject.sae.sae

    def hook(_module: Any, _inputs: Any, output: Any) -> Any:
        x = output if isinstance(output, torch.Tensor) else output[0]
        y = x.clone()
        for one in plan:
            before = (x - sae.b_dec) @ sae.W_enc[:, one.feature] + sae.b_enc[one.feature]
            for place in filter(where, range(x.shape[1])):
                if isinstance(one, Steer):
                    amount = one.strength
                else:
                    amount = one.value - before[0, place].relu()
                y[0, place] += amount * sae.W_dec[one.feature]
        return y if isinstance(output, torch.Tensor) else (y, *output[1:])

    handle = subject.model.get_submodule(BLOCKS[family]).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def full_logits(
    subject: Subject,
    family: str,
    plan: Sequence[Intervention],
    where: Callable[[int, int], bool],
    prompt: int,
    ids: list[int],
) -> torch.Tensor:
    """Return the logits at all positions of a text, from one forward without a cache."""
    with changed(subject, family, plan, lambda place: where(place, prompt)):
        logits = subject.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return logits.float()


def naive_scores(
    logits: torch.Tensor, so_far: list[int], sampling: Sampling, noise: list[float]
) -> list[float]:
    """Return what the next token has the most of, one number for each entry of the vocabulary."""
    scores = [
        v - sampling.frequency_penalty * so_far.count(t) for t, v in enumerate(logits.tolist())
    ]
    if sampling.temperature == 0:
        return scores
    scores = [score / sampling.temperature for score in scores]
    largest = max(scores)
    weights = [math.exp(score - largest) for score in scores]
    total, nucleus, mass = sum(weights), set(), 0.0
    for token in sorted(range(len(scores)), key=lambda t: -scores[t]):
        if nucleus and mass >= sampling.top_p:
            break
        nucleus.add(token)
        mass += weights[token] / total
    return [
        score + noise[token] if token in nucleus else -math.inf
        for token, score in enumerate(scores)
    ]


def texts_of(
    subject: Subject, rows: Sequence[Sequence[Intervention]], sampling: Sampling, text: str = TEXT
) -> Continuations:
    written = Continuations(len(rows), subject.end_ids)
    for step in continue_rows(subject, text_ids(subject, text), rows, sampling):
        written.add(step)
    return written


def check_against_full_forwards(family: str, sampling: Sampling) -> None:
    subject = subject_of(family)
    prompt = text_ids(subject, TEXT)
    written = texts_of(subject, [plan for plan, _ in PLANS.values()], sampling)
    uniform = torch.Generator().manual_seed(sampling.seed)
    draws = [
        torch.rand(subject.vocabulary_size, generator=uniform, dtype=torch.float64).tolist()
        for _ in range(sampling.max_tokens)
    ]
    noises = [[-math.log(-math.log(u)) for u in draw] for draw in draws]
    for row, (plan, where) in enumerate(PLANS.values()):
        ids = written.token_ids[row]
        assert len(ids) == sampling.max_tokens or ids[-1] in subject.end_ids
        for place, token in enumerate(ids):
            whole = [*prompt, *ids[:place]]
            logits = full_logits(subject, family, plan, where, len(prompt), whole)[-1]
            scores = naive_scores(logits, ids[:place], sampling, noises[place])
            assert scores[token] >= max(scores) - CLOSE / (sampling.temperature or 1)
            expected = float(logits.softmax(-1)[token])
            assert written.probability[row][place] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("family", BLOCKS)
def test_each_token_is_the_one_that_a_full_forward_prefers(family: str) -> None:
    check_against_full_forwards(family, Sampling(max_tokens=10))


@pytest.mark.parametrize("family", ["llama", "qwen3_5"])
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0, seed=1, max_tokens=8),
        Sampling(temperature=1.5, top_p=0.6, seed=2, max_tokens=8),
        Sampling(frequency_penalty=1.5, max_tokens=12),
        Sampling(temperature=0.7, top_p=0.9, frequency_penalty=0.5, seed=3, max_tokens=8),
    ],
    ids=["temperature", "nucleus", "penalty", "all"],
)
def test_each_drawn_token_is_the_one_that_a_naive_sampler_draws(
    family: str, sampling: Sampling
) -> None:
    check_against_full_forwards(family, sampling)


@pytest.mark.parametrize("family", BLOCKS)
def test_the_plain_text_is_what_the_model_itself_generates(family: str) -> None:
    subject = subject_of(family)
    prompt = text_ids(subject, TEXT)
    ids = texts_of(subject, [(), (Steer(FEATURE, 5.0),)], Sampling(max_tokens=10)).token_ids[0]
    own = subject.model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=10,
        do_sample=False,
    )
    assert ids == own[0, len(prompt) :].tolist()


def test_a_model_without_a_cache_gives_the_same_texts() -> None:
    model = copy.deepcopy(build_model("llama"))

    def forget(_module: Any, _inputs: Any, output: Any) -> Any:
        output.past_key_values = None
        return output

    rows, sampling = [plan for plan, _ in PLANS.values()], Sampling(max_tokens=10)
    cached = texts_of(subject_of("llama"), rows, sampling)
    model.register_forward_hook(forget)
    whole = texts_of(Subject(model, build_tokenizer(), build_sae(48, seed=2)), rows, sampling)
    assert whole.token_ids == cached.token_ids
    np.testing.assert_allclose(whole.probability, cached.probability, rtol=1e-3)


def test_the_interventions_change_the_texts() -> None:
    written = texts_of(
        subject_of("llama"), [plan for plan, _ in PLANS.values()], Sampling(max_tokens=10)
    )
    assert len(set(map(tuple, written.token_ids))) >= len(PLANS) - 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_strength_of_0_is_the_plain_text_to_the_bit(temperature: float) -> None:
    rows = [(), (Steer(FEATURE, 4.0),), (Steer(FEATURE, 0.0),), (Steer(FEATURE, 4.0),)]
    subject, sampling = subject_of("gemma2"), Sampling(temperature=temperature, max_tokens=8)
    steps = list(continue_rows(subject, text_ids(subject, TEXT), rows, sampling))
    for first, second in ((0, 2), (1, 3)):
        for step in steps:
            assert step.token_ids[first] == step.token_ids[second]
            assert step.probability[first] == step.probability[second]
            assert torch.equal(step.logits[first], step.logits[second])
    assert not torch.equal(steps[0].logits[0], steps[0].logits[1])


def test_rows_under_equal_interventions_are_run_once() -> None:
    model = copy.deepcopy(build_model("llama"))
    subject = Subject(model, build_tokenizer(), build_sae(48, seed=2))
    rows = [(), (Steer(FEATURE, 4.0),), (Steer(FEATURE, 0.0),), (Steer(FEATURE, 4.0),)]
    shapes: list[torch.Size] = []
    embedding = model.get_input_embeddings()
    embedding.register_forward_hook(lambda _m, inputs, _out: shapes.append(inputs[0].shape))
    prompt = text_ids(subject, TEXT)
    list(continue_rows(subject, prompt, rows, Sampling(max_tokens=3)))
    assert shapes[-3:] == [(2, len(prompt)), (2, 1), (2, 1)]


def test_texts_differ_by_their_interventions_alone() -> None:
    sampling = Sampling(temperature=1.5, seed=5, max_tokens=15)
    barely = (Steer(FEATURE, 1e-6),)
    written = texts_of(subject_of("llama"), [(), barely], sampling)
    assert written.token_ids[0] == written.token_ids[1]


def test_a_seed_gives_its_text_again() -> None:
    subject = subject_of("llama")
    texts = [
        texts_of(subject, [()], Sampling(temperature=1.5, seed=seed, max_tokens=12)).token_ids[0]
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_tokens_are_drawn_as_often_as_they_are_probable(top_p: float) -> None:
    p = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05])
    expected = p.clone()
    if top_p < 1:
        expected[3:] = 0  # the first three are the fewest that reach 0.8
        expected /= expected.sum()
    generator = torch.Generator().manual_seed(0)
    draws = [
        int(_choose(2 * p.log()[None], Sampling(temperature=2.0, top_p=top_p), generator))
        for _ in range(5000)
    ]
    share = torch.bincount(torch.tensor(draws), minlength=5) / len(draws)
    assert float((share - expected).abs().max()) < 0.03
    assert share[expected == 0].sum() == 0


def test_a_nucleus_holds_at_least_the_most_probable_token() -> None:
    logits = torch.tensor([[0.0, 1.0, 0.5]])
    generator = torch.Generator().manual_seed(0)
    sampling = Sampling(temperature=1.0, top_p=1e-9)
    assert {int(_choose(logits, sampling, generator)) for _ in range(50)} == {1}


# --- Ends ---------------------------------------------------------------------------------------


def ending_in(token: int) -> Any:
    """A tokenizer for which a text ends in the given token."""
    tokenizer = copy.deepcopy(build_tokenizer())
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(token)
    return tokenizer


@dataclass
class Ending:
    """A steered text that ends while the plain one goes on."""

    subject: Subject
    rows: list[tuple[Intervention, ...]]
    free: Continuations
    row: int
    length: int


@pytest.fixture(scope="module")
def ending() -> Ending:
    rows = [plan for plan, _ in PLANS.values()]
    free = texts_of(subject_of("llama"), rows, Sampling(max_tokens=10))
    for row, ids in enumerate(free.token_ids):
        for place, token in enumerate(ids[1:-1], start=1):
            if token not in free.token_ids[0] and token not in ids[:place]:
                subject = subject_of("llama", ending_in(token))
                return Ending(subject, rows, free, row, place + 1)
    raise AssertionError("no token is in one text only")


def test_a_text_ends_where_the_model_ends_it_and_others_go_on(ending: Ending) -> None:
    written = texts_of(ending.subject, ending.rows, Sampling(max_tokens=10))
    ended = written.token_ids[ending.row]
    assert ended == ending.free.token_ids[ending.row][: ending.length]
    assert written.ended[ending.row]
    assert written.said()[ending.row] == ended[:-1]
    assert not written.ended[0]
    assert written.token_ids[0] == ending.free.token_ids[0] == written.said()[0]
    assert written.length == 10


def test_an_ended_row_has_no_tokens_any_more(ending: Ending) -> None:
    prompt = text_ids(ending.subject, TEXT)
    steps = list(continue_rows(ending.subject, prompt, ending.rows, Sampling(max_tokens=10)))
    assert steps[ending.length - 1].token_ids[ending.row] == ending.subject.end_ids[0]
    for step in steps[ending.length :]:
        assert step.token_ids[ending.row] == ENDED
        assert math.isnan(step.probability[ending.row])


def test_nothing_is_run_once_all_texts_have_ended(ending: Ending) -> None:
    prompt = text_ids(ending.subject, TEXT)
    rows = [ending.rows[ending.row]] * 2
    steps = list(continue_rows(ending.subject, prompt, rows, Sampling(max_tokens=10)))
    assert len(steps) == ending.length


# --- Leaving nothing behind ---------------------------------------------------------------------


def steps_of(subject: Subject) -> Iterator[Step]:
    rows = [(), (Steer(FEATURE, 4.0),), (Clamp(FEATURE, 3.0, at="generated"),)]
    return continue_rows(subject, text_ids(subject, TEXT), rows, Sampling(max_tokens=20))


def test_between_two_tokens_the_model_is_as_it_was_and_free() -> None:
    subject = subject_of("qwen3_5")
    free: list[bool] = []

    def look() -> None:
        free.append(subject.lock.acquire(blocking=False))
        if free[-1]:
            subject.lock.release()

    steps = steps_of(subject)
    for _ in range(3):
        next(steps)
        assert hooks_of(subject.model) == 0
        other = threading.Thread(target=look)
        other.start()
        other.join()
    assert free == [True] * 3


def test_hooks_are_gone_when_the_steps_are_not_taken_to_their_end() -> None:
    subject = subject_of("llama")
    steps = steps_of(subject)
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    assert hooks_of(subject.model) == 0


def test_hooks_are_gone_after_an_error_in_the_model() -> None:
    model = copy.deepcopy(build_model("llama"))
    subject = Subject(model, build_tokenizer(), build_sae(48, seed=2))
    steps = steps_of(subject)
    next(steps)

    def fail(*_args: Any) -> None:
        assert hooks_of(model) > 1
        raise RuntimeError("in the middle")

    handle = model.model.layers[2].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        next(steps)
    handle.remove()
    assert hooks_of(model) == 0


def test_the_weights_are_the_same_to_the_bit() -> None:
    subject = subject_of("gpt2")
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    list(steps_of(subject))
    after = subject.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


# --- Refusals -----------------------------------------------------------------------------------


def test_a_text_longer_than_the_model_reads_is_refused() -> None:
    subject = subject_of("gpt2")
    with pytest.raises(
        ExplorerError, match=r"has 2 tokens and 127 are .* GPT2LMHeadModel reads 128"
    ):
        continue_rows(subject, [2, 70], [()], Sampling(max_tokens=127))
    assert len(list(continue_rows(subject, [2, 70], [()], Sampling(max_tokens=126)))) > 0


def test_a_temperature_that_is_as_good_as_0_takes_the_most_probable_tokens() -> None:
    subject = subject_of("llama")
    ids = text_ids(subject, TEXT)
    greedy, coldest = (
        [step.token_ids.tolist() for step in continue_rows(subject, ids, [()], sampling)]
        for sampling in (Sampling(max_tokens=4), Sampling(max_tokens=4, temperature=1e-300))
    )
    assert coldest == greedy


def test_an_empty_text_is_the_beginning_of_text_or_refused() -> None:
    subject = subject_of("llama")
    assert text_ids(subject, "") == [subject.tokenizer.bos_token_id]
    without = copy.deepcopy(build_tokenizer())
    without.bos_token = None
    with pytest.raises(
        ExplorerError, match=r"to go on from, '', has no tokens, .* Give a word or more"
    ):
        text_ids(subject_of("llama", without), "")


def test_a_text_that_the_tokenizer_ends_goes_on() -> None:
    ending = copy.deepcopy(build_tokenizer())
    ending.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)]
    )
    assert ending.encode("a word")[-1] == 1
    assert text_ids(subject_of("llama", ending), "a word") == build_tokenizer().encode("a word")


def test_logits_that_are_no_numbers_are_refused() -> None:
    model = copy.deepcopy(build_model("llama"))
    subject = Subject(model, build_tokenizer(), build_sae(48, seed=2))
    with torch.no_grad():
        model.lm_head.weight[7] = torch.inf
    with pytest.raises(ExplorerError, match=r"NaN or infinite logits\. Take smaller strengths"):
        list(steps_of(subject))
    assert hooks_of(model) == 0
