"""Every forward says what its tokens are, so that an intervention acts where it is to act.

What is announced is read at the model's first layer while trees grow, and held against the texts
that the tree spells.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from sae_explorer import Ablate, Clamp, ExplorerError, Steer, Subject, grow_tree, grow_trees
from sae_explorer.model.changes import applied
from sae_explorer.model.interventions import Intervention
from sae_explorer.model.positions import Layout, announced, current
from test_trees_parity import GHOST_TOKEN, ghost_id
from zoo import attentions, build_model, build_sae, build_tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor
    from transformers import PreTrainedModel

BOS, GHOST, OTHER_GHOST = 2, 8, 9
PROMPT = (BOS, 30, GHOST, 31, GHOST, 32)


def subject_of(architecture: str) -> Subject:
    model = build_model(architecture, attentions(architecture)[0])
    return Subject(model, build_tokenizer(), build_sae(48))


@contextmanager
def listening(model: PreTrainedModel) -> Iterator[list[Layout]]:
    """Collect what is announced of each forward, checking it against the forward's own tokens."""
    heard: list[Layout] = []

    def listen(_module: Any, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        layout = current()
        if layout is not None:
            assert layout.ids.tolist() == inputs[0].tolist()
            heard.append(layout)

    handle = model.get_input_embeddings().register_forward_hook(listen)
    try:
        yield heard
    finally:
        handle.remove()


# --- Layout -------------------------------------------------------------------------------------


def test_a_layout_counts_the_places_of_each_row() -> None:
    layout = Layout.of(torch.tensor([[5, 6, 7], [8, 9, 10]]), [2, 3], ghost_ids=[9])
    assert layout.ids.tolist() == [[5, 6, 7], [8, 9, 10]]
    assert layout.position.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert layout.prompt_length.tolist() == [[2, 2, 2], [3, 3, 3]]
    assert layout.ghost_ids == (9,)


def test_a_layout_of_a_cached_step_goes_on_where_the_cache_ends() -> None:
    layout = Layout.of(torch.tensor([[5], [6]]), 4, first=7)
    assert layout.position.tolist() == [[7], [7]]
    assert layout.prompt_length.tolist() == [[4], [4]]


def test_what_is_announced_holds_for_the_block_and_no_longer() -> None:
    outer, inner = (Layout.of(torch.tensor([[n]]), 1) for n in (1, 2))
    assert current() is None
    with announced(outer):
        with announced(inner):
            assert current() is inner
        assert current() is outer
    assert current() is None


# --- Forwards -----------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt_neo", "qwen3_5"])
def test_every_forward_of_a_tree_announces_its_tokens(architecture: str) -> None:
    subject = subject_of(architecture)
    options = {"cutoff": 5e-3, "top_k": 4, "max_depth": 4, "ghost_token": GHOST_TOKEN}
    prompts = ['A typical definition of "{ghost}" would be "', 'What is "{ghost}"? It is "']
    with listening(subject.model) as heard:
        trees = grow_trees(subject, [1, 5], prompts=prompts, **options)
    # A node of depth d stands d - 1 places behind the prompt of its tree.
    expected = {
        (len(tree.prompt_ids), len(tree.prompt_ids) + int(depth) - 1, int(token))
        for tree in trees
        for depth, token, run in zip(tree.depth, tree.token_id, tree.expanded, strict=True)
        if depth and run
    }
    found, in_prompts = set(), set()
    for layout in heard:
        columns = zip(
            layout.prompt_length.ravel().tolist(),
            layout.position.ravel().tolist(),
            layout.ids.ravel().tolist(),
            strict=True,
        )
        for length, position, token in columns:
            (in_prompts if position < length else found).add((length, position, token))
            if position < length and token == ghost_id():
                assert layout.ghost_ids == (ghost_id(),)
    assert expected <= found
    places = {
        (len(tree.prompt_ids), n, token)
        for tree in trees
        for n, token in enumerate(map(int, tree.prompt_ids))
    }
    assert places == in_prompts


# --- Where interventions act ---------------------------------------------------------------------

PLACES = [
    ({}, [0, 1, 2, 3, 4, 5, 6, 7]),
    ({"skip_bos": True}, [1, 2, 3, 4, 5, 6, 7]),
    ({"at": "prompt"}, [0, 1, 2, 3, 4, 5]),
    ({"at": "prompt", "skip_bos": True}, [1, 2, 3, 4, 5]),
    ({"at": "generated"}, [6, 7]),
    ({"at": "ghost"}, [2, 4]),
    ({"at": 3}, [3]),
    ({"at": [-1]}, [5]),
    ({"at": [-6, 0, 7, 100]}, [0, 7]),
    ({"at": [0, 1], "skip_bos": True}, [0, 1]),  # a place that is listed is meant
    ({"at": np.array([1, -2])}, [1, 4]),
    ({"at": range(2)}, [0, 1]),
]


@pytest.mark.parametrize(("where", "places"), PLACES, ids=str)
@pytest.mark.parametrize("first", [0, 4, 6], ids=["whole", "from-the-prompt", "cached"])
def test_an_intervention_acts_at_its_places_and_nowhere_else(
    where: dict[str, Any], places: list[int], first: int
) -> None:
    text = [*PROMPT, 33, BOS][first:]
    changed = places_changed(subject_of("llama"), Steer(1, 2.0, **where), text, first)
    assert [place + first for place in changed] == [place for place in places if place >= first]


@pytest.mark.parametrize(
    ("at", "places"),
    [("prompt", [0, 1, 2, 3, 4, 5]), ("generated", [6, 7]), ("ghost", [2, 4]), ((-1, 6), [5, 6])],
    ids=str,
)
def test_clamps_and_ablations_act_at_their_places_too(at: Any, places: list[int]) -> None:
    subject, text = subject_of("llama"), [*PROMPT, 33, BOS]
    assert places_changed(subject, Clamp(1, 50.0, at=at), text) == places
    fires = places_changed(subject, Ablate(1), text)
    assert 0 < len(fires) < len(text)
    ablated = places_changed(subject, Ablate(1, at=at), text)
    assert ablated == [place for place in fires if place in places]


def places_changed(
    subject: Subject, one: Intervention, text: list[int], first: int = 0
) -> list[int]:
    """Return the columns at which the activation where the SAE writes is another."""
    ids, seen = torch.tensor([text]), []
    layout = Layout.of(ids, len(PROMPT), first=first, ghost_ids=[GHOST])
    for interventions in ([], [one]):
        with applied(subject, interventions), announced(layout):
            handle = subject.site_out().module.register_forward_hook(
                lambda _module, _inputs, output: seen.append(
                    output if isinstance(output, torch.Tensor) else output[0]
                )
            )
            subject.model(input_ids=ids, use_cache=False)
            handle.remove()
    return torch.nonzero((seen[0] != seen[1]).any(dim=-1)[0]).flatten().tolist()


def test_both_ghosts_of_a_prompt_are_meant() -> None:
    subject = subject_of("llama")
    layout = Layout.of(torch.tensor([[BOS, GHOST, 30, OTHER_GHOST]]), 4, ghost_ids=[8, 9])
    logits = []
    for at in ("ghost", (1, 3)):
        with applied(subject, [Steer(1, 3.0, at=at)]), announced(layout):
            logits.append(subject.model(input_ids=torch.from_numpy(layout.ids)).logits)
    assert torch.equal(*logits)


def test_a_token_like_the_ghost_in_the_answer_is_none() -> None:
    assert places_changed(subject_of("llama"), Steer(1, 2.0, at="ghost"), [*PROMPT, GHOST]) == [
        2,
        4,
    ]


def test_without_a_begin_token_none_is_left_out() -> None:
    tokenizer = build_tokenizer()
    for bos in (None, "<eos>"):  # a tokenizer that has none, and one that does not begin with it
        other = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, bos_token=bos)
        subject = Subject(build_model("gpt2"), other, build_sae(48))
        changed = places_changed(subject, Steer(1, 2.0, skip_bos=True), list(PROMPT[1:]))
        assert changed == [0, 1, 2, 3, 4]


# --- Refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (Steer(1, 2.0, at=(-7,)), r"place -7 .feature 1 \+2 at -7., but the prompt has 6 tokens"),
        (Steer(1, 2.0, at="ghost"), "at the ghost .*, but the text has none"),
    ],
)
def test_places_that_a_text_has_not_are_refused(one: Intervention, message: str) -> None:
    subject, ids = subject_of("llama"), torch.tensor([PROMPT])
    with (
        pytest.raises(ExplorerError, match=message) as caught,
        applied(subject, [one]),
        announced(Layout.of(ids, len(PROMPT))),
    ):
        subject.model(input_ids=ids)
    assert "\n" not in str(caught.value)


def test_a_tree_under_an_intervention_before_its_prompt_is_refused() -> None:
    with pytest.raises(ExplorerError, match=r"place -99 .* the prompt has \d+ tokens"):
        grow_tree(subject_of("llama"), feature=1, interventions=[Steer(1, 2.0, at=-99)])


@pytest.mark.parametrize("where", [{"at": "prompt"}, {"at": (1,)}, {"skip_bos": True}])
def test_a_forward_that_does_not_say_what_its_tokens_are_is_refused(where: dict[str, Any]) -> None:
    subject = subject_of("llama")
    with (
        pytest.raises(ExplorerError, match="whose positions are not known"),
        applied(subject, [Steer(1, 2.0, **where)]),
    ):
        subject.model(input_ids=torch.tensor([PROMPT]))


def test_places_that_no_answer_of_a_tree_reaches_are_refused() -> None:
    subject = subject_of("llama")
    far = Steer(1, 2.0, at=500)
    with pytest.raises(ExplorerError, match="would do nothing: prompt and answers have"):
        grow_tree(subject, feature=1, interventions=[far], max_depth=3)
