"""Directions are sums: they add up as vectors do, and stand wherever a feature does."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from naive import compare, naive_tree, paths
from sae_explorer import (
    Direction,
    ExplorerError,
    Steer,
    Subject,
    feature,
    grow_tree,
    logit_lens,
    rank_tokens,
    vector,
)
from sae_explorer.analyses.trees import TreeRequest
from sae_explorer.model.changes import applied
from sae_explorer.model.direction import Term
from sae_explorer.model.ghost import DirectionRequest, ghost_vector
from test_trees_parity import GHOST_TOKEN, ghost_id
from zoo import attentions, build_model, build_sae, build_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

WIDTH, FEATURES = 48, 24
LIMITS: dict[str, Any] = {"cutoff": 2e-3, "top_k": 5, "max_depth": 4}
FEW = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])

weights = st.floats(-8, 8).filter(lambda w: abs(w) > 1e-3)
terms = st.one_of(
    st.builds(feature, st.integers(0, FEATURES - 1), st.sampled_from([None, "encoder", "decoder"])),
    st.builds(
        lambda seed: vector(np.random.default_rng(seed).standard_normal(WIDTH), f"probe {seed}"),
        st.integers(0, 3),
    ),
)
sums = st.lists(st.tuples(weights, terms), min_size=1, max_size=4).map(
    lambda parts: sum((w * t for w, t in parts[1:]), start=parts[0][0] * parts[0][1])
)
feature_sums = sums.filter(lambda d: bool(d.terms) and all(term.vector is None for term in d.terms))


@cache
def subject(architecture: str = "llama") -> Subject:
    model = build_model(architecture, attentions(architecture)[0])
    return Subject(model, build_tokenizer(), build_sae(WIDTH))


def resolved(direction: Direction) -> np.ndarray[Any, Any]:
    """Add up a direction by hand, features as the unit vectors of their encoders unless said."""
    sae, total = subject().sae.sae, np.zeros(WIDTH)
    for term in direction.terms:
        if term.vector is not None:
            own = np.asarray(term.vector)
        elif term.weights == "decoder":
            own = sae.W_dec[term.feature].detach().double().numpy()
        else:
            own = sae.W_enc[:, term.feature].detach().double().numpy()
        total += term.weight * (own if term.vector is not None else own / np.linalg.norm(own))
    return total


def same(first: Direction, second: Direction) -> None:
    np.testing.assert_allclose(resolved(first), resolved(second), atol=1e-9)


# --- Algebra ------------------------------------------------------------------------------------


@given(sums, sums, sums)
@FEW
def test_sums_do_not_hang_on_their_order(a: Direction, b: Direction, c: Direction) -> None:
    same((a + b) + c, a + (b + c))
    same(a + b, b + a)
    np.testing.assert_allclose(resolved(a + b), resolved(a) + resolved(b), atol=1e-9)


@given(sums, sums, weights)
@FEW
def test_a_number_multiplies_every_term(a: Direction, b: Direction, factor: float) -> None:
    same(factor * (a + b), factor * a + b * factor)
    same((a * factor) / factor, a)
    np.testing.assert_allclose(resolved(factor * a), factor * resolved(a), atol=1e-9)


@given(sums, sums)
@FEW
def test_what_was_taken_away_can_be_given_back(a: Direction, b: Direction) -> None:
    same((a - b) + b, a)
    negated = -a
    same(-negated, a)
    assert (a - a).terms == ()


@given(sums)
@FEW
def test_the_parts_that_analyses_take_add_up_to_the_sum(a: Direction) -> None:
    if np.linalg.norm(resolved(a)) < 1e-3:
        return
    parts = a.parts(subject(), "encoder", as_unit=True)
    total = sum((w * v.astype(np.float64) for w, v in parts), start=np.zeros(WIDTH))
    np.testing.assert_allclose(total, resolved(a), atol=1e-4)


def test_a_feature_named_twice_is_one_term() -> None:
    assert (feature(3) + 2 * feature(3)).terms == (Term(3.0, 3),)
    assert len((feature(3) + feature(3, "decoder")).terms) == 2
    assert (feature(5) + feature(3) - feature(5, "decoder")).features == (5, 3)


@pytest.mark.parametrize(
    "number", [2, 2.0, np.float32(2), np.int64(2), np.array(2), torch.tensor(2)]
)
def test_numbers_of_any_library_multiply(number: Any) -> None:
    twice = Direction((Term(2.0, 3),))
    assert feature(3) * number == twice
    assert number * feature(3) == twice
    assert 4 * feature(3) / number == twice


@pytest.mark.parametrize("other", [3, "4021", None, True, [1.0], np.ones(2)])
def test_what_is_no_direction_is_not_added(other: Any) -> None:
    with pytest.raises(TypeError):
        feature(3) + other
    with pytest.raises(TypeError):
        feature(3) - other


# --- Text and JSON ------------------------------------------------------------------------------


@given(feature_sums)
@settings(max_examples=300, deadline=None)
def test_a_direction_is_read_from_its_own_text(direction: Direction) -> None:
    assert Direction.parse(str(direction)) == direction


@given(sums.filter(lambda d: bool(d.terms)))
@FEW
def test_a_direction_survives_json(direction: Direction) -> None:
    written = json.loads(json.dumps(direction.to_dict()))
    again = Direction.parse(written) if isinstance(written, str) else Direction.from_dict(written)
    assert again == direction
    request = TreeRequest(direction=direction)
    assert TreeRequest.from_options(json.loads(json.dumps(request.to_dict()))) == request


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("4021", [(1.0, 4021, None)]),
        ("-3", [(-1.0, 3, None)]),
        ("4021 - 17", [(1.0, 4021, None), (-1.0, 17, None)]),
        ("4021-17", [(1.0, 4021, None), (-1.0, 17, None)]),
        (" 0.5*4021:encoder+ 17 : decoder ", [(0.5, 4021, "encoder"), (1.0, 17, "decoder")]),
        ("1e-3*5 - .5*6 + 2.*7", [(1e-3, 5, None), (-0.5, 6, None), (2.0, 7, None)]),
    ],
)
def test_a_direction_is_written_as_one_would(
    text: str, terms: list[tuple[float, int, str | None]]
) -> None:
    assert [(t.weight, t.feature, t.weights) for t in Direction.parse(text).terms] == terms


# --- Errors -------------------------------------------------------------------------------------

CANNOT_BE_READ = "cannot be read. Write features with their signs and weights"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Direction.parse("4021 17"), CANNOT_BE_READ),
        (lambda: Direction.parse("house - 17"), f"'house - 17' {CANNOT_BE_READ}"),
        (lambda: Direction.parse("4021 -"), CANNOT_BE_READ),
        (lambda: Direction.parse("1.5"), CANNOT_BE_READ),
        (lambda: Direction.parse("  "), "The direction is empty"),
        (lambda: Direction.parse("17:middle"), "must be 'encoder' or 'decoder'"),
        (lambda: Direction.parse("9" * 5000), "is no feature"),
        (lambda: Direction.parse("1e999*3"), "weight is inf; it must be finite"),
        (lambda: feature(-1), "feature is -1; it must be the index of a feature"),
        (lambda: feature(1.5), "feature is 1.5"),  # type: ignore[arg-type]
        (lambda: feature(True), "feature is True"),
        (lambda: feature(np.array([1, 2])), r"feature is array\(\[1, 2\]\)"),  # type: ignore[arg-type]
        (lambda: feature(10**5000), "feature is a number too long to be shown"),
        (lambda: feature(3, "both"), "weights of feature 3 are 'both'"),
        (lambda: feature(3) * float("nan"), "weight is nan; it must be finite"),
        (lambda: feature(3) * 10**400, "weight is 1000.*; it must be finite"),
        (lambda: feature(3) / 0, "direction 3 cannot be divided by 0"),
        (lambda: vector([]), "vector holds no numbers; give d_model finite numbers"),
        (lambda: vector([1.0, np.inf], "probe"), "probe holds numbers that are not finite"),
        (lambda: vector([1e300], "probe"), "probe holds numbers that are not finite"),
        (lambda: vector([10**400], "probe"), "probe is no vector"),
        (lambda: vector([[1.0]], "probe"), "probe is no vector"),  # type: ignore[list-item]
        (lambda: vector("123"), "vector is no vector"),
        (lambda: vector(3), "vector is no vector"),
        (lambda: Direction.from_dict({"terms": []}), "is no direction"),
        (lambda: Direction.from_dict({"terms": [3]}), "is no direction"),
        (lambda: Direction.from_dict({}), "is no direction"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_is_no_direction_is_refused_in_one_line(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(ExplorerError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


hostile = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["terms", "weight", "feature", "weights", "vector", "name"]), inner
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["terms", "weight", "feature"]), hostile), hostile)
@settings(max_examples=300, deadline=None)
def test_any_json_is_a_direction_or_an_error_in_one_line(
    values: dict[str, Any], other: Any
) -> None:
    entry = {"weight": other, "feature": other, "weights": other}
    named = {"weight": 1.0, "vector": other, "name": other}
    for given_values in (values, {"terms": other}, {"terms": [entry]}, {"terms": [named]}):
        refused_or(Direction, lambda v=given_values: Direction.from_dict(v))


@given(st.text(max_size=20) | st.text("0123456789.eE+-*: \ndecor", max_size=20))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_direction_or_an_error_in_one_line(text: str) -> None:
    refused_or(Direction, lambda: Direction.parse(text))


def refused_or(kind: type, make: Callable[[], object]) -> None:
    said = "of the kind"
    try:
        assert isinstance(make(), kind)
    except ExplorerError as error:
        said = str(error)
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("direction", "message"),
    [
        (feature(3) - feature(3), "The direction nothing cancels out"),
        (Direction.parse("3 - 3"), "The direction 3 - 3 cancels out, so it points nowhere"),
        (0 * feature(3), "cancels out"),
        (feature(FEATURES), "There is no feature 24"),
        (vector([1.0, 2.0], "my probe"), "my probe has 2 numbers; .* residual stream has 48"),
    ],
)
def test_a_direction_that_the_subject_has_not_is_refused(
    direction: Direction, message: str
) -> None:
    with pytest.raises(ExplorerError, match=message):
        grow_tree(subject(), direction=direction, max_depth=1)
    with pytest.raises(ExplorerError, match=message):
        rank_tokens(subject(), direction=direction)


# --- Wherever a feature is -----------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["encoder", "decoder", (0.3, 0.7)], ids=str)
def test_a_feature_as_a_direction_gives_the_same_tree_to_the_bit(weights: Any) -> None:
    options = {**LIMITS, "weights": weights, "scale": 2.0, "ghost_token": GHOST_TOKEN}
    columns = [
        json.loads(grow_tree(subject(), **source, **options).to_json())["columns"]
        for source in ({"feature": 5}, {"direction": feature(5)}, {"feature": feature(5)})
    ]
    assert columns[0] == columns[1] == columns[2]


@pytest.mark.parametrize("analysis", [rank_tokens, logit_lens], ids=["tokens", "lens"])
@pytest.mark.parametrize("weights", ["encoder", "decoder"])
def test_a_feature_as_a_direction_gives_the_same_tokens_to_the_bit(
    analysis: Any, weights: str
) -> None:
    feature_one, direction_one = (
        analysis(subject(), **source, weights=weights).to_frame()
        for source in ({"feature": 5}, {"direction": feature(5)})
    )
    assert feature_one.equals(direction_one)


@pytest.mark.parametrize(
    "config",
    [{"kind": "standard"}, {"kind": "topk-rescaled"}, {"normalize_activations": "layer_norm"}],
    ids=["standard", "rescaled", "normalised"],
)
@pytest.mark.parametrize(("unit", "half"), [("absolute", 1.5), ("residual_norm", 3.0)])
def test_steering_along_a_feature_as_a_direction_is_steering_it(
    config: dict[str, Any], unit: str, half: float
) -> None:
    model, ids = build_model("llama"), torch.tensor([[2, 40, 50, 60]])
    steered = Subject(model, build_tokenizer(), build_sae(WIDTH, **config))
    logits = []
    for what, strength in (
        (5, 3.0),
        (feature(5), 3.0),
        (feature(5, "decoder"), 3.0),
        (2 * feature(5), half),  # along a unit vector its length does not count
    ):
        with applied(steered, [Steer(what, strength, unit)]):
            logits.append(model(input_ids=ids).logits)
    assert all(torch.equal(logits[0], other) for other in logits[1:])


def test_the_mean_of_two_features_is_the_tree_of_their_mean_vector() -> None:
    sae = subject().sae.sae
    rows = sae.W_dec[[5, 9]].detach().double()
    mean = (rows / rows.norm(dim=1, keepdim=True)).mean(dim=0)
    options = {**LIMITS, "scale": 2.0, "ghost_token": GHOST_TOKEN}
    summed = grow_tree(
        subject(), direction=(feature(5) + feature(9)) / 2, weights="decoder", **options
    )
    by_hand = grow_tree(subject(), vector=tuple(mean.tolist()), **options)
    np.testing.assert_allclose(summed.ghost_vector, by_hand.ghost_vector, rtol=1e-5)
    assert compare(paths(summed), paths(by_hand), LIMITS["cutoff"]).agrees()


def test_encoder_and_decoder_of_a_feature_are_mixed_as_weights_mix_them() -> None:
    options = {**LIMITS, "scale": 2.0, "ghost_token": GHOST_TOKEN}
    mixed = grow_tree(subject(), feature=5, weights=(0.3, 0.7), **options)
    summed = grow_tree(
        subject(), direction=0.3 * feature(5, "encoder") + 0.7 * feature(5, "decoder"), **options
    )
    np.testing.assert_array_equal(summed.ghost_vector, mixed.ghost_vector)
    assert paths(summed) == paths(mixed)


# --- Two made-up words ---------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_two_made_up_words_take_two_vectors(architecture: str) -> None:
    given = subject(architecture)
    sae, model = given.sae.sae, given.model
    prompt = 'The difference between "{ghost}" and "{ghost2}", or "{ghost}", would be "'
    tree = grow_tree(
        given,
        feature=5,
        weights="decoder",
        second=feature(9) - 0.5 * feature(2),
        prompt=prompt,
        scale=2.0,
        ghost_token=GHOST_TOKEN,
        **LIMITS,
    )
    rows = sae.W_dec.detach().double()
    units = rows / rows.norm(dim=1, keepdim=True)
    second = units[9] - 0.5 * units[2]
    second_id = build_tokenizer().get_vocab()["<unused1>"]
    ghosts = {ghost_id(): 2 * units[5], second_id: 2 * second / second.norm()}
    written = prompt.replace("{ghost}", GHOST_TOKEN).replace("{ghost2}", "<unused1>")
    ids = build_tokenizer()(written)["input_ids"]
    assert list(tree.prompt_ids) == ids
    assert tree.ghost_ids == (ghost_id(), second_id)
    vectors = {token: v.float() for token, v in ghosts.items()}
    truth = naive_tree(model, ids, vectors, **LIMITS)
    assert compare(paths(tree), truth, LIMITS["cutoff"]).agrees()
    swapped = dict(zip(vectors, reversed(vectors.values()), strict=True))
    wrong = naive_tree(model, ids, swapped, **LIMITS)
    assert not compare(wrong, truth, LIMITS["cutoff"]).agrees()


@pytest.mark.parametrize("shares", [(1.0, -1.0), (3.0, 1.0), (1.0, 1.0)])
def test_what_says_its_own_weights_counts_once_in_a_mix(shares: tuple[float, float]) -> None:
    of = subject()
    own = np.linspace(-1, 1, WIDTH, dtype=np.float32)
    asked = feature(3) + 5 * vector(own) + feature(5, "decoder")

    def mixed(index: int) -> np.ndarray:
        sides = [of.direction(index, side).astype(np.float64) for side in ("encoder", "decoder")]
        total = sum(w * v / np.linalg.norm(v) for w, v in zip(shares, sides, strict=True))
        return np.asarray(total / np.linalg.norm(total))

    decoder = of.direction(5, "decoder").astype(np.float64)
    expected = mixed(3) + 5 * own + decoder / np.linalg.norm(decoder)
    request = DirectionRequest(direction=asked, weights=shares, scale=1.0)
    found = ghost_vector(of, request)
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-6)


@pytest.mark.parametrize("given", [5, None, [1], b"3"])
def test_what_is_no_text_of_a_direction_is_refused(given: Any) -> None:
    with pytest.raises(ExplorerError, match="is no text of a direction"):
        Direction.parse(given)
    with pytest.raises(ExplorerError, match="is no intervention"):
        Steer.from_dict(given)
