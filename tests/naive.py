"""Definition trees by one full forward per node: slow, and simple enough to be believed.

`naive_tree` is what every faster engine must equal. `compare` says whether one does, and the
negative controls below are near misses that `compare` must tell apart from the truth.
"""

from __future__ import annotations

import copy
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from transformers import PreTrainedModel

Path = tuple[int, ...]
"""Token ids from the root to a node; the root is the empty path."""

Tree = dict[Path, tuple[float, float]]
"""Each node's probability after its parent, and its cumulative probability."""


def naive_tree(
    model: PreTrainedModel,
    prompt_ids: list[int],
    ghosts: Mapping[int, Tensor],
    *,
    cutoff: float,
    top_k: int,
    max_depth: int,
) -> Tree:
    """Grow a definition tree with one uncached forward of the whole text per node.

    Parameters
    ----------
    model
        A causal language model in eval mode; it is as before at the end.
    prompt_ids
        The prompt, with a ghost's token id wherever that ghost stands.
    ghosts
        For each ghost's token id the vector (d_model) that replaces its input embedding, in the
        units in which embeddings are stored. Ghost tokens are never predicted.
    cutoff, top_k, max_depth
        A node has at most `top_k` children, all with a cumulative probability of at least
        `cutoff`, and none below `max_depth`.
    """

    def next_probabilities(path: Path, _tree: Tree) -> Tensor:
        return _probabilities(model, [*prompt_ids, *path], banned=ghosts)

    with embedded(model, ghosts):
        return _grow(next_probabilities, cutoff=cutoff, top_k=top_k, max_depth=max_depth)


def _grow(
    next_probabilities: Callable[[Path, Tree], Tensor],
    *,
    cutoff: float,
    top_k: int,
    max_depth: int,
) -> Tree:
    """Expand node by node, breadth first, given the next-token probabilities after a path."""
    tree: Tree = {(): (1.0, 1.0)}
    pending: list[Path] = [()]
    for path in pending:  # grows while it is walked
        if len(path) == max_depth:
            continue
        top = next_probabilities(path, tree).topk(top_k)
        for p, token in zip(top.values.tolist(), top.indices.tolist(), strict=True):
            cumulative = tree[path][1] * p
            if cumulative >= cutoff:
                child = (*path, token)
                tree[child] = (p, cumulative)
                pending.append(child)
    return tree


@torch.no_grad()
def _probabilities(
    model: PreTrainedModel, ids: list[int], banned: Mapping[int, Any], **inputs: Any
) -> Tensor:
    """Next-token probabilities after `ids`, from one full forward without any cache."""
    output = model(input_ids=torch.tensor([ids]), use_cache=False, **inputs)
    logits: Tensor = output.logits[0, -1].float()
    logits[list(banned)] = -torch.inf
    return logits.softmax(-1)


@contextmanager
def embedded(model: PreTrainedModel, ghosts: Mapping[int, Tensor]) -> Iterator[None]:
    """Overwrite the ghosts' rows of the embedding matrix, and put them back at the end.

    Where input and output embeddings are tied this also changes the ghosts' own logits, which
    are never looked at.
    """
    weight = _embedding_rows(model)
    saved = {token: weight[token].clone() for token in ghosts}
    try:
        for token, vector in ghosts.items():
            weight[token] = vector.to(weight.dtype)
        yield
    finally:
        for token, row in saved.items():
            weight[token] = row


def _embedding_rows(model: PreTrainedModel) -> Tensor:
    """The stored input embeddings (vocabulary, d_model), to read or to write."""
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, torch.nn.Embedding)
    return embedding.weight.data


# --- Comparison --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """How a tree differs from the reference."""

    nodes: int
    """Nodes of the reference."""
    largest_relative_error: float
    """Over the nodes in both trees, of probability and of cumulative probability."""
    missing: tuple[Path, ...]
    """Nodes of the reference that the tree lacks and that rounding cannot explain."""
    unexpected: tuple[Path, ...]
    """Nodes of the tree that the reference lacks and that rounding cannot explain."""
    forgiven: int
    """Nodes in one tree only that rounding does explain."""

    def agrees(self, tolerance: float = 5e-4) -> bool:
        """Whether the trees are the same but for rounding."""
        return (
            not self.missing
            and not self.unexpected
            and self.largest_relative_error <= tolerance
            and self.forgiven <= 0.02 * self.nodes
        )


def compare(
    tree: Tree,
    reference: Tree,
    cutoff: float,
    *,
    edge: float = 1e-3,
    tie: float = 1e-4,
) -> Comparison:
    """Compare a tree with the reference, node set and probabilities.

    Rounding can push a node over the cutoff (cumulative probability within `edge`, relative) or
    swap two children for the last rank (probabilities within `tie`, relative); such a node is
    forgiven together with its descendants. Nothing else is.
    """
    common = tree.keys() & reference.keys()
    errors = [
        abs(ours - truth) / truth
        for path in common
        for ours, truth in zip(tree[path], reference[path], strict=True)
    ]
    missing, forgiven_missing = _unexplained(reference, tree, cutoff, edge, tie)
    unexpected, forgiven_unexpected = _unexplained(tree, reference, cutoff, edge, tie)
    return Comparison(
        nodes=len(reference),
        largest_relative_error=max(errors, default=float("inf")),
        missing=missing,
        unexpected=unexpected,
        forgiven=forgiven_missing + forgiven_unexpected,
    )


def _unexplained(
    tree: Tree, other: Tree, cutoff: float, edge: float, tie: float
) -> tuple[tuple[Path, ...], int]:
    """Nodes of `tree` that `other` lacks: those without an excuse, and how many have one."""
    swapped: dict[Path, list[float]] = {}  # what `other` has instead, by parent
    for path in other.keys() - tree.keys():
        swapped.setdefault(path[:-1], []).append(other[path][0])

    def excused(path: Path) -> bool:
        top = next(path[:n] for n in range(1, len(path) + 1) if path[:n] not in other)
        p, cumulative = tree[top]
        at_the_cutoff = abs(cumulative - cutoff) <= edge * cutoff
        tied = any(abs(p - q) <= tie * p for q in swapped.get(top[:-1], []))
        return at_the_cutoff or tied

    absent = sorted(tree.keys() - other.keys())
    without_excuse = tuple(path for path in absent if not excused(path))
    return without_excuse, len(absent) - len(without_excuse)


def paths(tree: Any) -> Tree:
    """Read an engine's result through ``tree.to_frame()``, checking that it is a tree.

    Raises
    ------
    ValueError
        If the first row is no root, a parent does not stand before its child, a depth is wrong or
        two rows spell the same path.
    """
    found: list[Path] = []
    result: Tree = {}
    columns = ["parent", "depth", "token_id", "probability", "cumulative_probability"]
    rows = tree.to_frame()[columns].itertuples(index=False, name=None)
    for row, (parent, depth, token, p, cumulative) in enumerate(rows):
        if row == 0:
            if parent != -1 or depth != 0:
                raise ValueError(f"row 0 is no root: parent {parent}, depth {depth}")
            path: Path = ()
        else:
            if not 0 <= parent < row:
                raise ValueError(f"row {row} stands before its parent, row {parent}")
            path = (*found[int(parent)], int(token))
        if depth != len(path):
            raise ValueError(f"row {row} has depth {depth} on a path of {len(path)} tokens")
        if path in result:
            raise ValueError(f"row {row} repeats the path {path}")
        found.append(path)
        result[path] = (float(p), float(cumulative))
    return result


# --- Interventions -------------------------------------------------------------------------------

Place = tuple[str, str]
"""A module's name in the model, and "input" or "output"."""


@dataclass(frozen=True, eq=False)
class Text:
    """What a text is known to begin with: positions are counted by it."""

    prompt_ids: Sequence[int]
    ghost_ids: Sequence[int] = ()
    bos: int | None = None

    def places(self, at: str | Sequence[int], skip_bos: bool, length: int) -> list[int]:
        """Return the places, in a text of `length` tokens, that `at` and `skip_bos` mean."""
        prompt = len(self.prompt_ids)
        if at == "all":
            found = set(range(length))
        elif at == "prompt":
            found = set(range(prompt))
        elif at == "generated":
            found = set(range(prompt, length))
        elif at == "ghost":
            found = {n for n, token in enumerate(self.prompt_ids) if token in self.ghost_ids}
        else:
            found = {prompt + int(n) if int(n) < 0 else int(n) for n in at}
        if skip_bos and self.prompt_ids[0] == self.bos:
            found.discard(0)
        return sorted(n for n in found if 0 <= n < length)


@dataclass(frozen=True, eq=False)
class Edit:
    """A change of activations, in numbers: at some places, what is added is summed up."""

    add: Mapping[int, float] = field(default_factory=dict)
    """Multiples of features' decoder rows."""
    vector: Tensor | None = None
    """Shape ``[d_out]``."""
    hold: tuple[int, float] | None = None
    """A feature and the activation that it is to have."""
    at: str | Sequence[int] = "all"
    skip_bos: bool = False

    def added(self, sae: Any, x: Tensor) -> Tensor:
        """Return what is added everywhere, given what the SAE reads."""
        total = torch.zeros(*x.shape[:-1], sae.W_dec.shape[1])
        for feature, amount in self.add.items():
            total = total + amount * _feature(sae, feature, x)[1]
        if self.hold is not None:
            activation, direction = _feature(sae, self.hold[0], x)
            total = total + (self.hold[1] - activation)[..., None] * direction
        return total if self.vector is None else total + self.vector


@contextmanager
def changed(
    model: PreTrainedModel,
    sae: Any,
    edits: Sequence[Edit],
    reads: Place,
    writes: Place,
    text: Text | None = None,
    *,
    one_by_one: bool = False,
) -> Iterator[None]:
    """Make several edits in every forward, from the SAE's raw weights.

    All edits measure what there was before any of them. With `one_by_one` each measures what those
    before it left over, which is a mistake. Without a text all edits are those of all positions.
    """
    seen: list[Tensor] = []

    def change(y: Tensor) -> Tensor:
        x, new = seen.pop(), y.clone()
        for edit in edits:
            added = edit.added(sae, new if one_by_one else x)
            if text is None:
                new = new + added
                continue
            places = text.places(edit.at, edit.skip_bos, y.shape[1])
            new[:, places] += added[:, places]
        return new

    with _at(model, reads, lambda x: seen.append(x.clone())), _at(model, writes, change):
        yield


def clamped(
    model: PreTrainedModel, sae: Any, clamps: Mapping[int, float], reads: Place, writes: Place
) -> AbstractContextManager[None]:
    """Hold features at values at all positions."""
    return changed(model, sae, [Edit(hold=pair) for pair in clamps.items()], reads, writes)


@torch.no_grad()
def largest_activation(
    model: PreTrainedModel, sae: Any, feature: int, reads: Place, rows: Sequence[Sequence[int]]
) -> float:
    """Return a feature's largest activation on texts, the first token of each left out."""
    passed = [_passing(model, reads, row)[:, 1:] for row in rows]
    return max(float(_feature(sae, feature, x)[0].max()) for x in passed)


@torch.no_grad()
def mean_norm(model: PreTrainedModel, place: Place, rows: Sequence[Sequence[int]]) -> float:
    """Return the mean length of what passes on texts, the first token of each left out."""
    lengths = [_passing(model, place, row)[0, 1:].norm(dim=-1) for row in rows]
    return float(torch.cat(lengths).mean())


def decoder_row(sae: Any, feature: int) -> Tensor:
    """Return what a feature adds at activation 1, but for the scale of a run-time normalisation."""
    row: Tensor = sae.W_dec[feature].detach()
    return row / row.norm() if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False) else row


def _passing(model: PreTrainedModel, place: Place, ids: Sequence[int]) -> Tensor:
    seen: list[Tensor] = []
    with _at(model, place, lambda x: seen.append(x.clone())):
        model(input_ids=torch.tensor([list(ids)]), use_cache=False)
    return seen[0]


@torch.no_grad()
def _feature(sae: Any, feature: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """One feature's activation at each position, and its decoder row in the units of x."""
    kind = sae.cfg.architecture()
    row = sae.W_dec[feature].detach()
    scale = torch.ones_like(x[..., :1])
    if sae.cfg.metadata.model_from_pretrained_kwargs:
        x = x - x.mean(dim=-1, keepdim=True)
    if sae.cfg.normalize_activations == "constant_norm_rescale":
        scale = x.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5
        x = x / scale
    elif sae.cfg.normalize_activations == "layer_norm":
        x = x - x.mean(dim=-1, keepdim=True)
        scale = x.std(dim=-1, keepdim=True)
        x = x / (scale + 1e-5)
    if sae.cfg.apply_b_dec_to_input:
        x = x - sae.b_dec
    projected = x @ sae.W_enc[:, feature]
    if kind == "gated":
        magnitude = projected * sae.r_mag[feature].exp() + sae.b_mag[feature]
        return magnitude.relu() * (projected + sae.b_gate[feature] > 0), row * scale
    before = projected + sae.b_enc[feature]
    if kind.startswith("jumprelu"):
        return before.relu() * (before > sae.threshold[feature]), row * scale
    if kind == "topk":
        everyone = x @ sae.W_enc + sae.b_enc
        if sae.cfg.rescale_acts_by_decoder_norm:
            lengths = sae.W_dec.norm(dim=-1)
            everyone, before = everyone * lengths, before * lengths[feature]
            row = row / lengths[feature]
        smallest = everyone.sort(dim=-1).values[..., -sae.cfg.k]
        return before.relu() * (before >= smallest * (1 - 1e-6)), row * scale
    assert kind in ("standard", "transcoder", "skip_transcoder"), kind
    return before.relu(), row * scale


@contextmanager
def _at(model: PreTrainedModel, place: Place, look: Callable[[Tensor], Any]) -> Iterator[None]:
    """Show what passes at a place to `look`, and replace it by what that returns, if anything."""
    path, side = place
    module = model.get_submodule(path)

    def at_input(_module: Any, inputs: tuple[Any, ...]) -> Any:
        new = look(inputs[0])
        return None if new is None else (new, *inputs[1:])

    def at_output(_module: Any, _inputs: Any, output: Any) -> Any:
        new = look(output if isinstance(output, Tensor) else output[0])
        if new is None or isinstance(output, Tensor):
            return new
        return (new, *output[1:])

    if side == "input":
        handle = module.register_forward_pre_hook(at_input)
    else:
        handle = module.register_forward_hook(at_output)
    try:
        yield
    finally:
        handle.remove()


# --- Negative controls: plausible mistakes, each of which `compare` must catch -------------------


def without_ghost(
    model: PreTrainedModel, prompt_ids: list[int], ghosts: Mapping[int, Tensor], **limits: Any
) -> Tree:
    """Mistake: the placeholder keeps its own embedding."""
    rows = _embedding_rows(model)
    return naive_tree(model, prompt_ids, {t: rows[t].clone() for t in ghosts}, **limits)


def misscaled_ghost(
    model: PreTrainedModel,
    prompt_ids: list[int],
    ghosts: Mapping[int, Tensor],
    *,
    factor: float,
    **limits: Any,
) -> Tree:
    """Mistake: the ghost meets the model's embedding scale once too often or not at all."""
    return naive_tree(model, prompt_ids, {t: factor * v for t, v in ghosts.items()}, **limits)


def seeing_siblings(
    model: PreTrainedModel,
    prompt_ids: list[int],
    ghosts: Mapping[int, Tensor],
    *,
    cutoff: float,
    top_k: int,
    max_depth: int,
) -> Tree:
    """Mistake: a node also attends to the sibling before it, which shares its position."""

    def next_probabilities(path: Path, tree: Tree) -> Tensor:
        last = len(prompt_ids) + len(path) - 1
        ids, positions = [*prompt_ids, *path], list(range(last + 1))
        siblings = [p for p in tree if p and p[:-1] == path[:-1]]
        rank = siblings.index(path) if path else 0
        if rank > 0:
            ids.insert(last, siblings[rank - 1][-1])
            positions.insert(last, last)
        # With the mask given, repeated positions are not taken for a new packed sequence.
        return _probabilities(
            model,
            ids,
            banned=ghosts,
            position_ids=torch.tensor([positions]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        )

    with embedded(model, ghosts):
        return _grow(next_probabilities, cutoff=cutoff, top_k=top_k, max_depth=max_depth)


def without_window(model: PreTrainedModel) -> PreTrainedModel:
    """Mistake: a copy of the model whose sliding layers see everything."""
    boundless = copy.deepcopy(model)
    parts: list[Any] = [boundless.config.get_text_config(), *boundless.modules()]
    for part in parts:
        if getattr(part, "sliding_window", None) is not None:
            part.sliding_window = 1_000_000
        if getattr(part, "attention_type", None) == "local" and hasattr(part, "bias"):
            part.bias = torch.ones_like(part.bias).tril()  # GPT-Neo keeps the mask itself
    return boundless
