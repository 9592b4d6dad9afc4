"""Trees under every intervention, everywhere, with every SAE, equal one full forward per node.

Kinds of intervention, sets of positions and SAEs are all combined on one family of models. On three
more, of which one has sliding windows that bind, one learned positions, and one is run without a
cache, every two of them are: each SAE meets each kind and each set, and each kind each set.

The truth comes from `naive`, which adds what the SAE's raw weights say to whole texts.
"""

from __future__ import annotations

import copy
import json
import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import torch

from naive import (
    Edit,
    Place,
    Text,
    Tree,
    changed,
    compare,
    decoder_row,
    largest_activation,
    mean_norm,
    naive_tree,
    paths,
)
from sae_explorer import (
    Ablate,
    Clamp,
    ExplorerError,
    Steer,
    Subject,
    feature,
    grow_tree,
    vector,
)
from sae_explorer.model import reading
from sae_explorer.model.changes import applied, applied_by_row
from sae_explorer.model.positions import Layout, announced
from test_interventions import hooks_of
from test_trees_parity import GHOST_TOKEN, PROMPTS, ghost_id, prompt_ids, state
from zoo import SAE_KINDS, attentions, build_model, build_sae, build_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import sae_lens
    from transformers import PreTrainedModel

    from sae_explorer.model.interventions import Intervention

LIMITS: dict[str, Any] = {"cutoff": 2e-3, "top_k": 5, "max_depth": 3}
WIDTH = 48
PROMPT = prompt_ids(1)
OTHER = 7

#: Texts to measure largest activations and norms on, in place of the built-in ones.
TEXTS = tuple(
    f"{number} is the number of a text that says what a {word} would be: it would be a {word}."
    for number, word in enumerate(("tree", "word", "path", "ghost", "house", "river"))
)


@dataclass(frozen=True)
class Family:
    """A kind of model, its second block, and where its MLP writes to the residual stream.

    The feature fires at the ghost and at some other places, and not at all, in most of the SAEs.
    """

    name: str
    block: str
    mlp_out: str
    feature: int

    @property
    def model(self) -> PreTrainedModel:
        return build_model(self.name, attentions(self.name)[0])


FAMILIES = {
    family.name: family
    for family in (
        Family("llama", "model.layers.1", "mlp", 16),
        Family("gemma2", "model.layers.1", "post_feedforward_layernorm", 15),
        Family("gpt2", "transformer.h.1", "mlp", 5),
        Family("qwen3_5", "model.layers.1", "mlp", 20),
    )
}
WHOLE = "llama"

#: Each kind of SAE, and those that normalise while they run or read activations without their mean.
SAES: dict[str, dict[str, Any]] = {
    **{kind: {"kind": kind} for kind in SAE_KINDS},
    "constant_norm": {"normalize_activations": "constant_norm_rescale"},
    "layer_norm": {"normalize_activations": "layer_norm"},
    "topk-layer_norm": {"kind": "topk", "normalize_activations": "layer_norm"},
    "centred": {"centred": True},
}

KINDS: dict[str, Callable[[int, dict[str, Any]], Intervention]] = {
    "steer": lambda f, where: Steer(f, 5.0, **where),
    "steer-max": lambda f, where: Steer(f, -1.5, "max_activation", **where),
    "steer-norm": lambda f, where: Steer(f, 0.7, "residual_norm", **where),
    "steer-direction": lambda f, where: Steer(
        4 * feature(f) - 2 * feature(OTHER, "decoder") + vector(noise(5)), 1.5, **where
    ),
    "clamp": lambda f, where: Clamp(f, 6.0, **where),
    "ablate": lambda f, where: Ablate(f, **where),
}

PLACES: dict[str, dict[str, Any]] = {
    "all": {},
    "all-but-bos": {"skip_bos": True},
    "prompt": {"at": "prompt"},
    "generated": {"at": "generated"},
    "ghost": {"at": "ghost"},
    "listed": {"at": (1, -2, len(PROMPT) + 1)},
}


def noise(seed: int) -> torch.Tensor:
    drawn = torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))
    return 2 * drawn / drawn.norm()


@dataclass(frozen=True)
class Bench:
    """An SAE on a model, and what the tests work out about them by hand."""

    family: Family
    sae: sae_lens.SAE[Any]
    reads: Place
    writes: Place

    @property
    def model(self) -> PreTrainedModel:
        return self.family.model

    @property
    def subject(self) -> Subject:
        return Subject(self.model, build_tokenizer(), self.sae)

    def tree(self, *interventions: Intervention, **options: Any) -> Any:
        return grow_tree(
            self.subject,
            embedding=tuple(noise(4).tolist()),
            prompt=PROMPTS[1],
            ghost_token=GHOST_TOKEN,
            interventions=interventions,
            **{**LIMITS, **options},
        )

    def truth(self, *edits: Edit, text: Text | None = None, one_by_one: bool = False) -> Tree:
        known = text or Text(PROMPT, [ghost_id()], build_tokenizer().bos_token_id)
        places = (self.reads, self.writes)
        with changed(self.model, self.sae, edits, *places, known, one_by_one=one_by_one):
            return plain_truth(self.model)

    def in_numbers(self, one: Intervention) -> Edit:
        """Write an intervention down with all units worked out by hand."""
        chosen = self.family.feature
        where: dict[str, Any] = {"at": one.at, "skip_bos": one.skip_bos}
        unit = getattr(one, "unit", "absolute")
        factor = self.largest() if unit == "max_activation" else 1.0
        if isinstance(one, Ablate):
            return Edit(hold=(chosen, 0.0), **where)
        if isinstance(one, Clamp):
            return Edit(hold=(chosen, one.value * factor), **where)
        assert isinstance(one, Steer)
        if unit == "residual_norm":
            row = decoder_row(self.sae, chosen)
            return Edit(vector=one.strength * self.norm() * row / row.norm(), **where)
        if isinstance(one.feature, int):
            return Edit(add={chosen: one.strength * factor}, **where)
        rows = {chosen: 4 * one.strength, OTHER: -2 * one.strength}
        return Edit(add=rows, vector=one.strength * noise(5), **where)

    def largest(self) -> float:
        chosen = self.family.feature
        return largest_activation(self.model, self.sae, chosen, self.reads, tokenized())

    def norm(self) -> float:
        rows = [row[:24] for row in tokenized()]
        assert min(map(len, rows)) == 24
        return mean_norm(self.model, self.writes, rows)


@cache
def tokenized() -> list[list[int]]:
    return [build_tokenizer()(text)["input_ids"] for text in TEXTS]


def plain_truth(model: PreTrainedModel) -> Tree:
    return naive_tree(model, PROMPT, {ghost_id(): noise(4)}, **LIMITS)


@cache
def bench(family_name: str, sae_name: str) -> Bench:
    family, options = FAMILIES[family_name], SAES[sae_name]
    out = (family.block, "output")
    if "transcoder" not in sae_name:
        hook = {"hook_name": "blocks.1.hook_resid_post", "threshold": 2.0}
        return Bench(family, build_sae(WIDTH, seed=2, **{**hook, **options}), out, out)
    hooks = {"hook_name": "blocks.1.mlp.hook_in", "hook_name_out": "blocks.1.hook_mlp_out"}
    sae = build_sae(WIDTH, seed=2, threshold=0.3, **hooks, **options)
    reads, writes = (f"{family.block}.mlp", "input"), (f"{family.block}.{family.mlp_out}", "output")
    return Bench(family, sae, reads, writes)


def cases(family: str, sae: str) -> list[tuple[str, str]]:
    """Return the kinds and sets of positions that an SAE is tried with."""
    if family == WHOLE:
        return [(kind, places) for kind in KINDS for places in PLACES]
    shift, sets = list(SAES).index(sae), list(PLACES)
    return [(kind, sets[(n + shift) % len(sets)]) for n, kind in enumerate(KINDS)]


def made(bench: Bench, kind: str, places: str) -> Intervention:
    return KINDS[kind](bench.family.feature, PLACES[places])


@pytest.fixture(autouse=True)
def _few_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "corpus", lambda: TEXTS)


@pytest.fixture(scope="module")
def totals(request: pytest.FixtureRequest) -> Iterator[Counter[str]]:
    """Add up what the cases measured, and print it at the end."""
    found: Counter[str] = Counter()
    yield found
    if found["cases"]:
        with request.config.pluginmanager.get_plugin(
            "capturemanager"
        ).global_and_fixture_disabled():
            print(
                f"\ninterventions against one forward per node: {found['cases']} cases, "
                f"{found['nodes']:,} nodes, {found['forgiven']} forgiven, largest relative error "
                f"{found['error'] / 1e12:.1e}"
            )


# --- The matrix ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sae_name", SAES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_tree_under_an_intervention_equals_one_forward_per_node(
    family: str, sae_name: str, totals: Counter[str]
) -> None:
    given = bench(family, sae_name)
    before = state(given.model, given.sae)
    without = plain_truth_once(family)
    unchanged, nodes = [], []
    for kind, places in cases(family, sae_name):
        one = made(given, kind, places)
        expected = given.truth(given.in_numbers(one))
        found = compare(paths(given.tree(one)), expected, LIMITS["cutoff"])
        assert found.agrees(), f"{kind} at {places}: {found}"
        nodes.append(found.nodes)
        totals.update(cases=1, nodes=found.nodes, forgiven=found.forgiven)
        totals["error"] = max(totals["error"], int(found.largest_relative_error * 1e12))
        if compare(expected, without, LIMITS["cutoff"]).agrees():
            unchanged.append((kind, places))
    assert state(given.model, given.sae) == before
    assert hooks_of(given.model) == 0
    assert sum(nodes) >= 20 * len(nodes)
    # A feature may be silent where it is to be ablated; everything else is seen in the tree.
    assert {kind for kind, _ in unchanged} <= {"ablate"}, unchanged


@cache
def plain_truth_once(family: str) -> Tree:
    return plain_truth(FAMILIES[family].model)


def test_every_two_of_family_sae_kind_and_positions_meet() -> None:
    for family in FAMILIES:
        met = [(sae, *case) for sae in SAES for case in cases(family, sae)]
        assert {(sae, kind) for sae, kind, _ in met} == {(s, k) for s in SAES for k in KINDS}
        assert {(sae, at) for sae, _, at in met} == {(s, p) for s in SAES for p in PLACES}
        assert {(kind, at) for _, kind, at in met} == {(k, p) for k in KINDS for p in PLACES}


@pytest.mark.parametrize("family", FAMILIES)
def test_several_interventions_at_different_places_act_together(family: str) -> None:
    given = bench(family, "jumprelu")
    chosen = given.family.feature
    plan = [
        Steer(chosen, 3.0, "residual_norm", at=(2, -1)),
        Steer(chosen, 2.0, at="generated"),
        Steer(chosen, -1.0),
        Clamp(OTHER, 4.0, at="prompt", skip_bos=True),
        Ablate(OTHER, at="generated"),
    ]
    row = decoder_row(given.sae, chosen)
    edits = [
        Edit(vector=3.0 * given.norm() * row / row.norm(), at=(2, -1)),
        Edit(add={chosen: 2.0}, at="generated"),
        Edit(add={chosen: -1.0}),
        Edit(hold=(OTHER, 4.0), at="prompt", skip_bos=True),
        Edit(hold=(OTHER, 0.0), at="generated"),
    ]
    assert compare(paths(given.tree(*plan)), given.truth(*edits), LIMITS["cutoff"]).agrees()


@pytest.mark.parametrize("family", FAMILIES)
def test_at_the_ghost_means_both_made_up_words(family: str) -> None:
    given = bench(family, "standard")
    sae, chosen = given.sae, given.family.feature
    prompt = 'Both "{ghost}" and "{ghost2}" would be "'
    tree = grow_tree(
        given.subject,
        vector=tuple(noise(4).tolist()),
        second=feature(OTHER, "decoder"),
        scale=2.0,
        prompt=prompt,
        ghost_token=GHOST_TOKEN,
        interventions=[Clamp(chosen, 6.0, at="ghost")],
        **LIMITS,
    )
    row = sae.W_dec[OTHER].detach()
    ghosts = dict(zip(tree.ghost_ids, (noise(4), 2 * row / row.norm()), strict=True))
    ids = list(map(int, tree.prompt_ids))
    assert [token for token in ids if token in ghosts] == list(ghosts)

    def truth(ghost_ids: Sequence[int]) -> Tree:
        edit, text = Edit(hold=(chosen, 6.0), at="ghost"), Text(ids, ghost_ids)
        with changed(given.model, sae, [edit], given.reads, given.writes, text):
            return naive_tree(given.model, ids, ghosts, **LIMITS)

    assert compare(paths(tree), truth(list(ghosts)), LIMITS["cutoff"]).agrees()
    assert not compare(paths(tree), truth(list(ghosts)[:1]), LIMITS["cutoff"]).agrees()


@pytest.mark.parametrize("unit", ["absolute", "max_activation"])
def test_a_clamp_holds_a_multiple_of_the_largest_activation(unit: str) -> None:
    given = bench("gemma2", "topk")
    factor = given.largest() if unit == "max_activation" else 1.0
    tree = given.tree(Clamp(given.family.feature, 1.5, unit))
    held = given.truth(Edit(hold=(given.family.feature, 1.5 * factor)))
    assert compare(paths(tree), held, LIMITS["cutoff"]).agrees()


# --- Near misses, each of which the comparison must notice ---------------------------------------


MISTAKES: dict[str, tuple[list[Edit], list[Edit]]] = {
    "forgotten on cached steps": (
        [Edit(add={OTHER: 4.0})],
        [Edit(add={OTHER: 4.0}, at="prompt")],
    ),
    "forgotten in the prompt": (
        [Edit(hold=(OTHER, 4.0))],
        [Edit(hold=(OTHER, 4.0), at="generated")],
    ),
    "one place too early": (
        [Edit(add={OTHER: 4.0}, at=(3, -2))],
        [Edit(add={OTHER: 4.0}, at=(2, -3))],
    ),
    "begun at the last token of the prompt": (
        [Edit(add={OTHER: 4.0}, at="generated")],
        [Edit(add={OTHER: 4.0}, at="generated"), Edit(add={OTHER: 4.0}, at=(-1,))],
    ),
    "negative places counted from the end of the text": (
        [Edit(add={OTHER: 4.0}, at=(-1,))],
        [Edit(add={OTHER: 4.0}, at=(len(PROMPT),))],
    ),
    "the begin token not left out": (
        [Edit(add={OTHER: 4.0}, skip_bos=True)],
        [Edit(add={OTHER: 4.0})],
    ),
    "another token than the ghost": (
        [Edit(add={OTHER: 4.0}, at="ghost")],
        [Edit(add={OTHER: 4.0}, at=(PROMPT.index(ghost_id()) + 1,))],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_a_near_miss_is_noticed(family: str, mistake: str) -> None:
    right, wrong = (bench(family, "standard").truth(*edits) for edits in MISTAKES[mistake])
    assert not compare(wrong, right, LIMITS["cutoff"]).agrees()


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_measuring_after_steering_would_be_noticed(family: str) -> None:
    given = bench(family, "standard")
    chosen = given.family.feature
    edits = [Edit(add={OTHER: 4.0}), Edit(hold=(chosen, 3.0))]
    right, wrong = (given.truth(*edits, one_by_one=in_turn) for in_turn in (False, True))
    assert not compare(wrong, right, LIMITS["cutoff"]).agrees()
    tree = given.tree(Steer(OTHER, 4.0), Clamp(chosen, 3.0))
    assert compare(paths(tree), right, LIMITS["cutoff"]).agrees()


# --- Nothing changes -----------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "nothing",
    [
        Steer(OTHER, 0.0),
        Steer(OTHER, -0.0, "residual_norm", at="generated", skip_bos=True),
        Steer(feature(OTHER) - feature(1), 0.0),
    ],
    ids=str,
)
def test_a_strength_of_zero_is_the_plain_tree_to_the_bit(
    family: str, nothing: Intervention
) -> None:
    given = bench(family, "standard")
    columns = [
        json.loads(tree.to_json())["columns"] for tree in (given.tree(), given.tree(nothing))
    ]
    assert columns[0] == columns[1]


@pytest.mark.parametrize("sae_name", ["jumprelu", "topk", "constant_norm", "jumprelu_transcoder"])
def test_ablating_a_silent_feature_is_the_plain_tree(sae_name: str) -> None:
    given = bench("llama", sae_name)
    sae = copy.deepcopy(given.sae)
    with torch.no_grad():
        sae.b_enc[OTHER] = -1000.0
    tree = replace(given, sae=sae).tree(Ablate(OTHER))
    assert paths(tree) == paths(given.tree())


# --- Rows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sae_name", ["standard", "topk-rescaled", "layer_norm", "transcoder"])
def test_rows_under_different_plans_equal_single_runs(family: str, sae_name: str) -> None:
    given = bench(family, sae_name)
    subject, chosen = given.subject, given.family.feature
    plans: list[list[Intervention]] = [
        [],
        [Steer(chosen, 4.0), Steer(chosen, 1.0, at="prompt")],
        [Clamp(chosen, 5.0, at=(2, -1)), Steer(OTHER, 0.5, "residual_norm", skip_bos=True)],
        [Steer(feature(OTHER) + vector(noise(5)), -2.0, at="generated")],
        [Steer(chosen, 0.0)],
        [Ablate(chosen), Clamp(OTHER, 2.0)],
    ]
    text = torch.tensor([[*PROMPT, 40, 50, 60]])
    ids = text.repeat(len(plans), 1)
    with applied_by_row(subject, plans), announced(Layout.of(ids, len(PROMPT))):
        together = subject.model(input_ids=ids, use_cache=False).logits
    for row, plan in enumerate(plans):
        with applied(subject, plan), announced(Layout.of(text, len(PROMPT))):
            alone = subject.model(input_ids=text, use_cache=False).logits[0]
        torch.testing.assert_close(together[row], alone, rtol=1e-4, atol=1e-4)
    apart = {round(float(logits.double().sum()), 3) for logits in together}
    assert len(apart) == len(plans) - 1  # two of the plans do nothing


def test_a_batch_of_other_rows_than_plans_is_refused() -> None:
    subject = bench("llama", "standard").subject
    ids = torch.tensor([PROMPT] * 3)
    with (
        pytest.raises(ExplorerError, match="given for 2 rows, but the batch has 3"),
        applied_by_row(subject, [[Steer(1, 2.0)], []]),
    ):
        subject.model(input_ids=ids)
    assert hooks_of(subject.model) == 0


# --- What is left behind -------------------------------------------------------------------------


class StoppedInTheMiddleError(Exception):
    pass


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sae_name", ["standard", "topk-layer_norm", "skip_transcoder"])
def test_nothing_is_left_after_an_error_or_a_cancel(family: str, kind: str, sae_name: str) -> None:
    given = bench(family, sae_name)
    before = state(given.model, given.sae)
    one = made(given, kind, "listed")

    def fail(_progress: object) -> None:
        raise StoppedInTheMiddleError

    with pytest.raises(StoppedInTheMiddleError):
        given.tree(one, progress=fail)
    assert hooks_of(given.model) == 0
    with failing_forward(given.model), pytest.raises(StoppedInTheMiddleError):
        given.tree(one)
    assert hooks_of(given.model) == 0
    stop = threading.Event()
    tree = given.tree(one, cancel=stop, progress=lambda _progress: stop.set())
    assert tree.partial
    assert hooks_of(given.model) == 0
    assert state(given.model, given.sae) == before


@contextmanager
def failing_forward(model: PreTrainedModel) -> Iterator[None]:
    """Let every forward of a model fail after its blocks have run."""

    def fail(*_args: object) -> None:
        raise StoppedInTheMiddleError

    handle = model.get_output_embeddings().register_forward_hook(fail)
    try:
        yield
    finally:
        handle.remove()
