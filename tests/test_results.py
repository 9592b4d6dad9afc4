"""Claims about the names of results' files."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sae_explorer.analyses import ANALYSES
from sae_explorer.analyses.trees import TreeRequest
from sae_explorer.loading import registry
from sae_explorer.results import FORMATS, Provenance, file_stem

#: The longest that follows a stem.
ENDING = max([f"-{name}.{form.suffix}" for name in ANALYSES for form in FORMATS.values()], key=len)
SAE = {"id": "sae", "release": ""}


def of(model: str = "gpt2", **sae: str) -> Provenance:
    return Provenance(model={"id": model}, sae=sae, versions={})


def stem_of(source: Provenance | None = None, **about: Any) -> str:
    return file_stem(TreeRequest(**about), source or of(**SAE))


@pytest.mark.parametrize(
    ("source", "about", "stem"),
    [
        (of("dictionary", **SAE), {"feature": 302}, "dictionary-sae-feature-302"),
        (
            of("google/gemma-2-2b", id="layer_12/width_16k/canonical", release="gemma-scope-2b"),
            {"feature": 7},
            "gemma-scope-2b-layer_12-width_16k-canonical-feature-7",
        ),
        (of("google/gemma-2-2b"), {"token": "fish"}, "gemma-2-2b-token-'fish'"),
        (of("/home/somebody/models/own/"), {"token": "魚"}, "own-token-'魚'"),
        (of("C:\\Users\\somebody\\own"), {"token": "हिन्दी"}, "own-token-'हिन्दी'"),
        (of(id="..", release=""), {"feature": 7}, "gpt2-feature-7"),
        (of(**SAE), {"direction": "3 + 5"}, "gpt2-sae-direction-3-+-5"),
    ],
)
def test_a_name_says_of_what_and_about_what(
    source: Provenance, about: dict[str, Any], stem: str
) -> None:
    assert stem_of(source, **about) == stem


SUBJECTS = st.one_of(
    st.builds(lambda token: {"token": token}, st.text()),
    st.builds(lambda feature: {"feature": feature}, st.integers(0, 10**6)),
    st.builds(
        lambda feature, weight, other: {"direction": f"{feature} {weight:+g}*{other}"},
        st.integers(0, 99),
        st.floats(-9, 9).filter(bool),
        st.integers(0, 99),
    ),
    st.builds(lambda vector: {"vector": vector}, st.lists(st.floats(-9, 9), min_size=1)),
)


@given(SUBJECTS, SUBJECTS, st.text(), st.text())
@example({"token": " car"}, {"token": "car"}, "gpt2", "sae")
@example({"token": "Car"}, {"token": "car"}, "gpt2", "sae")
@example({"token": "!"}, {"token": "?"}, "gpt2", "sae")
@example({"token": "\u202e"}, {"token": "\u200b"}, "con", "aux")
@example({"token": "é"}, {"token": "e\u0301"}, "gpt2", "sae")
@example({"token": "中" * 99}, {"token": "中" * 98}, "/a" * 60, "..")
@example({"token": "m" * 99}, {"token": "m" * 98}, "m" * 300, "s" * 300)
@example({"vector": [1.0]}, {"vector": [2.0]}, "", "")
def test_any_name_is_that_of_a_file_and_no_other_subjects(
    about: dict[str, Any], other: dict[str, Any], model: str, sae_id: str
) -> None:
    source = of(model, id=sae_id, release="")
    stem = stem_of(source, **about)
    assert stem
    assert len((stem + ENDING).encode()) <= 200
    assert stem.isprintable()
    assert not set(stem) & set('<>:"/\\|?* ')
    assert stem[0] not in ".-"
    assert stem[-1] not in ".-"
    if TreeRequest(**about) != TreeRequest(**other):
        # As a disk compares them that does not tell upper from lower case.
        assert stem.casefold() != stem_of(source, **other).casefold()


def test_no_two_saes_of_the_registry_give_one_name() -> None:
    entries = registry.find(None, None, None)
    names = {stem_of(of(id=one.sae_id, release=one.release), feature=0) for one in entries}
    assert len(names) == len(entries) > 10_000
    assert all(name.endswith("-feature-0") for name in names)


def test_long_names_that_differ_at_their_ends_stay_apart() -> None:
    sources = [of("m" * 99 + end, **SAE) for end in "ab"]
    one, two = (stem_of(source, feature=3) for source in sources)
    assert one != two
    assert "-sae-feature-3-" in one


def test_the_rest_of_a_request_is_no_part_of_a_plain_name() -> None:
    one = TreeRequest(feature=3)
    other = dataclasses.replace(one, cutoff=1e-2)
    assert file_stem(one, of(**SAE)) == file_stem(other, of(**SAE))
