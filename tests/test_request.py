"""Claims about requests: what an option takes, what it refuses, and what is derived from it."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sae_explorer import ExplorerError, grow_tree, grow_trees, logit_lens, rank_tokens
from sae_explorer.analyses import ANALYSES
from sae_explorer.model.ghost import SOURCES
from sae_explorer.request import Request, from_text, option, options, schema, takes

quick = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)

FUNCTIONS = {"tree": grow_tree, "tokens": rank_tokens, "lens": logit_lens}


@dataclass(frozen=True, kw_only=True)
class Sample(Request):
    """One option of every kind."""

    count: int = option(3, "A whole number.", unit="things", minimum=1, maximum=10)
    limit: int | None = option(None, "A whole number or none.", minimum=0)
    size: float = option(0.5, "A number.", above=0.0, slider=(0.1, 10.0), log=True)
    offset: float | None = option(None, "Any number.")
    word: str = option("one", "A word.", choices=("one", "two", "three"))
    text: str | None = option(None, "Any text, 100 % of it.")
    flag: bool = option(False, "Yes or no.")
    maybe: bool | None = option(None, "Yes, no or either.")
    numbers: tuple[float, ...] = option((), "Numbers.", minimum=0.0, maximum=1.0)
    mix: str | tuple[float, ...] = option("one", "A word or numbers.")


# --- Values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("count", 5, 5),
        ("count", 5.0, 5),
        ("count", np.int64(5), 5),
        ("count", np.float32(5), 5),
        ("count", torch.tensor(5), 5),
        ("limit", None, None),
        ("limit", 0, 0),
        ("limit", 10**30, 10**30),
        ("size", 2, 2.0),
        ("size", np.float32(0.25), 0.25),
        ("size", np.array(0.25), 0.25),
        ("size", torch.tensor(0.25, dtype=torch.bfloat16, requires_grad=True), 0.25),
        ("offset", -1e300, -1e300),
        ("word", "three", "three"),
        ("word", np.str_("two"), "two"),
        ("text", "", ""),
        ("flag", True, True),
        ("flag", np.bool_(True), True),
        ("maybe", None, None),
        ("maybe", False, False),
        ("numbers", [0, 1], (0.0, 1.0)),
        ("numbers", (), ()),
        ("numbers", np.array([0.25, 0.5], np.float16), (0.25, 0.5)),
        ("numbers", torch.tensor([0.25, 0.5]), (0.25, 0.5)),
        ("numbers", [np.float32(0.25), torch.tensor(1)], (0.25, 1.0)),
        ("mix", "anything", "anything"),
        ("mix", [1, 2], (1.0, 2.0)),
    ],
)
def test_a_good_value_is_kept_as_plain_python(name: str, given: Any, expected: Any) -> None:
    value = getattr(Sample.from_options({name: given}), name)
    assert value == expected
    assert type(value) is type(expected)
    if isinstance(value, tuple):
        assert all(type(item) is float for item in value)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("count", 0, "count is 0; it must be at least 1, at most 10"),
        ("count", 11, "count is 11; it must be at least 1, at most 10"),
        ("count", 2.5, "count is 2.5; it must be a whole number"),
        ("count", "5", "count is '5'; it must be a whole number"),
        ("count", True, "count is True; it must be a whole number"),
        ("count", None, "count is None; it needs a value"),
        ("count", math.nan, "count is nan; it must be a whole number"),
        ("count", np.array([5]), "count is [5]; it must be a whole number"),
        ("count", 10**400, "it must be at least 1, at most 10"),
        ("limit", -1, "limit is -1; it must be at least 0"),
        ("limit", "none", "limit is 'none'; it must be a whole number or None"),
        ("size", 0, "size is 0.0; it must be above 0"),
        ("size", math.nan, "size is nan; it must be finite"),
        ("size", math.inf, "size is inf; it must be finite"),
        ("size", 10**400, "size is inf; it must be finite"),
        ("size", "big", "size is 'big'; it must be a number"),
        ("size", 1j, "size is 1j; it must be a number"),
        ("offset", -math.inf, "offset is -inf; it must be finite"),
        (
            "word",
            "tow",
            "word is 'tow'; it must be one of 'one', 'two', 'three'. Did you mean 'two'",
        ),
        ("word", 1, "word is 1; it must be text"),
        ("text", b"bytes", "text is b'bytes'; it must be text or None"),
        ("flag", 1, "flag is 1; it must be True or False"),
        ("flag", "yes", "flag is 'yes'; it must be True or False"),
        ("numbers", [0.5, 2], "numbers is 2.0; it must be at least 0, at most 1"),
        ("numbers", [math.nan], "numbers is nan; it must be finite"),
        ("numbers", [[0.5]], "numbers is [0.5]; it must be a number"),
        ("numbers", 0.5, "numbers is 0.5; it must be a list of numbers"),
        ("numbers", "0.5", "numbers is '0.5'; it must be a list of numbers"),
        ("numbers", [None], "numbers is None; it needs a value"),
        ("mix", 5, "mix is 5; it must be text or a list of numbers"),
    ],
)
def test_a_bad_value_is_refused_with_what_is_possible(name: str, given: Any, message: str) -> None:
    with pytest.raises(ExplorerError) as caught:
        Sample.from_options({name: given})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_refusal_does_not_print_a_whole_vector() -> None:
    with pytest.raises(ExplorerError, match=r"count is .*; it must be") as caught:
        Sample.from_options({"count": np.zeros(10_000)})
    assert len(str(caught.value)) < 200


def test_an_unknown_option_is_refused_with_the_likely_one() -> None:
    with pytest.raises(
        ExplorerError, match=r"no option 'cuont'. Did you mean 'count'\? Possible: "
    ):
        Sample.from_options({"cuont": 3})


def test_a_request_does_not_change() -> None:
    request = Sample.from_options({})
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.count = 5  # type: ignore[misc]
    assert request == Sample.from_options({})
    assert hash(request) == hash(Sample.from_options({}))


samples = st.fixed_dictionaries(
    {},
    optional={
        "count": st.integers(1, 10),
        "limit": st.none() | st.integers(0),
        "size": st.floats(0, exclude_min=True, allow_infinity=False, allow_nan=False),
        "offset": st.none() | st.floats(allow_infinity=False, allow_nan=False),
        "word": st.sampled_from(["one", "two", "three"]),
        "text": st.none() | st.text(),
        "flag": st.booleans(),
        "maybe": st.none() | st.booleans(),
        "numbers": st.lists(st.floats(0, 1)),
        "mix": st.text() | st.lists(st.floats(-1, 1)),
    },
)


@quick
@given(samples)
def test_a_request_survives_json_exactly(given_options: dict[str, Any]) -> None:
    request = Sample.from_options(given_options)
    document = request.to_dict()
    assert list(document) == [f.name for f in dataclasses.fields(Sample)]
    assert Sample.from_options(json.loads(json.dumps(document))) == request


@quick
@given(st.sampled_from(list(options(Sample))), st.from_type(type).flatmap(st.from_type))
def test_any_value_is_taken_or_refused_but_never_breaks(name: str, value: Any) -> None:
    try:
        request = Sample.from_options({name: value})
    except ExplorerError as error:
        assert str(error).startswith(f"{name} is ")  # noqa: PT017 - most values raise nothing
    else:
        json.dumps(request.to_dict(), allow_nan=False)


# --- Text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("count", "5", 5),
        ("limit", "None", None),
        ("limit", "7", 7),
        ("size", "1e-3", 1e-3),
        ("offset", "-2", -2.0),
        ("word", "two", "two"),
        ("text", "none", "none"),  # a word like any other
        ("text", " a b ", " a b "),
        ("numbers", "", ()),
        ("numbers", "0.5", (0.5,)),
        ("numbers", "0.5, 1", (0.5, 1.0)),
        ("mix", "0.5,-0.5", (0.5, -0.5)),
        ("mix", "encoder", "encoder"),
    ],
)
def test_text_says_a_value(name: str, text: str, expected: Any) -> None:
    value = from_text(Sample, name, text)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("count", "five", "count is 'five'; it must be a whole number"),
        ("count", "2.5", "count is '2.5'; it must be a whole number"),
        ("count", "none", "count is 'none'; it must be a whole number"),
        ("size", "", "size is ''; it must be a number"),
        ("numbers", "1,,0", "numbers is '1,,0'; it must be numbers separated by commas"),
        ("numbers", "0.5;1", "numbers is '0.5;1'; it must be numbers separated by commas"),
    ],
)
def test_text_that_says_no_value_is_refused(name: str, text: str, message: str) -> None:
    with pytest.raises(ExplorerError) as caught:
        from_text(Sample, name, text)
    assert message in str(caught.value)


@quick
@given(samples)
def test_what_is_written_as_text_is_read_back(given_options: dict[str, Any]) -> None:
    for name, value in given_options.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            assert from_text(Sample, name, repr(value)) == value
        elif isinstance(value, list):
            assert from_text(Sample, "numbers", ",".join(map(repr, value))) == tuple(value)


# --- What is derived ------------------------------------------------------------------------------


def test_the_schema_describes_every_option() -> None:
    entries = {entry["name"]: entry for entry in schema(Sample)}
    assert list(entries) == [f.name for f in dataclasses.fields(Sample)]
    assert {n: (e["kind"], e["optional"]) for n, e in entries.items()} == {
        "count": ("int", False),
        "limit": ("int", True),
        "size": ("float", False),
        "offset": ("float", True),
        "word": ("str", False),
        "text": ("str", True),
        "flag": ("bool", False),
        "maybe": ("bool", True),
        "numbers": ("floats", False),
        "mix": ("str", False),
    }
    assert entries["count"]["default"] == 3
    assert entries["count"]["unit"] == "things"
    assert (entries["count"]["minimum"], entries["count"]["maximum"]) == (1, 10)
    assert entries["size"]["above"] == 0
    assert entries["size"]["log"] is True
    assert entries["word"]["choices"] == ("one", "two", "three")
    assert entries["numbers"]["default"] == []


@pytest.mark.parametrize("name", ANALYSES)
def test_every_schema_is_json_and_makes_sense(name: str) -> None:
    request = ANALYSES[name].load()[0]
    entries = json.loads(json.dumps(schema(request), allow_nan=False))
    for entry in entries:
        assert entry["help"].endswith((".", ")"))
        about = options(request)[entry["name"]]
        if entry["slider"]:
            low, high = entry["slider"]
            assert low < high
            about.check(entry["name"], low)
            about.check(entry["name"], high)
            assert not entry["log"] or low > 0
        if entry["default"] is not None:
            value = entry["default"]
            about.check(entry["name"], tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signature_and_reference_list_every_option_once(name: str) -> None:
    function, request = FUNCTIONS[name], ANALYSES[name].load()[0]
    parameters = inspect.signature(function).parameters
    assert next(iter(parameters)) == "subject"
    assert not any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    reference = inspect.getdoc(function).partition("Other Parameters\n----------------\n")[2]
    lines = reference.splitlines()
    for field in dataclasses.fields(request):
        parameter = parameters[field.name]
        assert parameter.kind is parameter.KEYWORD_ONLY
        assert parameter.default == field.default
        heads = [line for line in lines if line.startswith(f"{field.name} : ")]
        assert len(heads) == 1
        assert f"default {field.default!r}" in heads[0]
        below = lines[lines.index(heads[0]) + 1]
        assert below.strip() == options(request)[field.name].help
        assert below.startswith("    ")


def test_an_option_that_a_function_handles_itself_is_left_out() -> None:
    parameters = inspect.signature(grow_trees).parameters
    left_out = set(SOURCES)
    assert not left_out & set(parameters)
    expected = {f.name for f in dataclasses.fields(ANALYSES["tree"].load()[0])} - left_out
    assert expected <= set(parameters)
    assert not any(f"\n{name} : default" in inspect.getdoc(grow_trees) for name in left_out)


def test_takes_keeps_a_functions_own_parameters_and_text() -> None:
    @takes(Sample, without=("mix",))
    def work(subject: object, *, cancel: object = None, **given: Any) -> Any:
        """Work.

        Examples
        --------
        >>> work(1)
        """
        return subject, cancel, given

    names = list(inspect.signature(work).parameters)
    assert names[0] == "subject"
    assert names[-1] == "cancel"
    assert "mix" not in names
    assert len(names) == len(set(names)) == len(dataclasses.fields(Sample)) + 1
    # Without the empty line doctest would take the reference for the example's output.
    assert ">>> work(1)\n\nOther Parameters\n" in inspect.getdoc(work)
    assert "size : default 0.5, above 0\n    A number." in inspect.getdoc(work)
    assert work(1, size=2.0) == (1, None, {"size": 2.0})
