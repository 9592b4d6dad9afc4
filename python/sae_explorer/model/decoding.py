"""Next-token distributions after many prefixes that share their beginnings.

A tree of answers asks the model for what follows each of its nodes. Done one at a time, every
forward repeats the prompt and the path. Here the prompt is run once, every node once with its own
token only, and the keys and values of all of them stay in a pool. A chunk of nodes of any depth and
of any number of prompts is run as *one* sequence whose attention mask lets each token see its own
prompt, its own ancestors and itself; positions are the positions in the tree.

The model's own forward does all the arithmetic. Whether a model can be used in this way is tried
out on its first prompt; where it cannot, whole prefixes are run in batches instead.
"""

from __future__ import annotations

import inspect
import logging
import weakref
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

from sae_explorer.errors import ExplorerError
from sae_explorer.model.ghost import Vector, ghosts
from sae_explorer.model.positions import Layout, announced
from sae_explorer.model.sites import text_config

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

IntArray: TypeAlias = NDArray[np.int32]
FloatArray: TypeAlias = NDArray[np.float64]

#: Prefixes run together on a CPU, which is busy with half as many as an accelerator. They are fixed,
#: since the size of a batch changes the last digits of a result, and cut only where memory runs out.
_CHUNK_CPU, _CHUNK = 128, 256

_log = logging.getLogger(__name__)

#: Whether a model, under one attention implementation, gives the same numbers through the pool.
_poolable: weakref.WeakKeyDictionary[Any, dict[str, bool]] = weakref.WeakKeyDictionary()


def chunk_size(device: torch.device) -> int:
    """Return how many prefixes are run together on a device."""
    return _CHUNK_CPU if device.type == "cpu" else _CHUNK


@dataclass(frozen=True)
class Prompt:
    """Token ids, and the vectors that stand in for the embeddings of some of them.

    Parameters
    ----------
    ids
        Token ids of the prompt, the beginning-of-text token included.
    ghosts
        Map from token id to a vector of shape ``[d_model]``.
    """

    ids: tuple[int, ...]
    ghosts: Mapping[int, Vector]


@dataclass(frozen=True)
class NextTokens:
    """The most probable next tokens after each of ``n`` prefixes, most probable first.

    Parameters
    ----------
    token_ids
        Shape ``[n, k]``.
    probabilities
        Shape ``[n, k]``: softmax over the whole vocabulary without the ghosts' own tokens, computed
        in float32.
    """

    token_ids: IntArray
    probabilities: FloatArray


class Decoder(ABC):
    """Answers what follows a prefix; a prefix is known by a number that the decoder gave out."""

    def __init__(self, model: nn.Module, top_k: int, max_depth: int) -> None:
        self._model = model
        self._top_k = top_k
        self._max_depth = max_depth

    @abstractmethod
    def start(self, prompts: Sequence[Prompt]) -> tuple[IntArray, NextTokens]:
        """Run the prompts. Return their numbers, shape ``[n]``, and what follows each of them."""

    @abstractmethod
    def extend(self, prefixes: IntArray, tokens: IntArray) -> tuple[IntArray, NextTokens]:
        """Lengthen each prefix by one token. Return the new prefixes and what follows them.

        Parameters
        ----------
        prefixes
            Shape ``[n]``; a prefix may occur several times, with different tokens.
        tokens
            Shape ``[n]``.
        """

    @abstractmethod
    def release(self, start: int) -> None:
        """Forget a prompt and every prefix that begins with it."""


def open_decoder(model: nn.Module, top_k: int, max_depth: int, example: Prompt) -> Decoder:
    """Return the fastest decoder that is right for the model; see :func:`shares_keys`."""
    kind = PooledDecoder if shares_keys(model, example) else ReplayDecoder
    return kind(model, top_k, max_depth)


def shares_keys(model: nn.Module, example: Prompt) -> bool:
    """Return whether branches of a text can share keys and values in this model.

    On a model's first use, the pool is compared on two branches of ``example`` with whole forwards.
    The verdict holds for all later uses, so no intervention may be at work meanwhile.
    """
    verdicts = _poolable.setdefault(model, {})
    attention = str(getattr(text_config(model), "_attn_implementation", ""))
    if attention not in verdicts:
        verdicts[attention] = _pool_is_right(model, example)
        if not verdicts[attention]:
            _log.warning(
                "%s with %s attention cannot share its keys and values between branches: whole "
                "prefixes are run instead, which is right but slower.",
                type(model).__name__,
                attention,
            )
    return verdicts[attention]


def _pool_is_right(model: nn.Module, example: Prompt) -> bool:
    """Compare the pool with whole forwards on two siblings and a child of each."""
    if _masks_by_itself(model):
        return False
    k = min(20, len(_embedding(model)))
    found: list[tuple[IntArray, IntArray, NextTokens]] = []
    for kind in (PooledDecoder, ReplayDecoder):
        try:
            decoder = kind(model, k, 2)
            roots, first = decoder.start([example])
            tokens = first.token_ids[0, :2] if not found else found[0][0]
            siblings, after = decoder.extend(np.repeat(roots, 2), tokens)
            children = after.token_ids[:, 0] if not found else found[0][1]
            _, last = decoder.extend(siblings, children)
            if not found and not _alone(decoder, siblings, after, last):
                return False
        except (TypeError, AttributeError, IndexError, KeyError, RuntimeError, ValueError):
            # Whatever a foreign modelling file makes of an unusual cache: then not this way. An
            # error that has nothing to do with the cache comes again in the other decoder.
            if found or kind is ReplayDecoder:
                raise
            _log.debug("pool refused", exc_info=True)
            return False
        found.append((tokens, children, last))
    pooled, whole = found[0][2], found[1][2]
    half = _embedding(model).dtype in (torch.float16, torch.bfloat16)
    # In half precision the two orders of summation alone move probabilities by some percent.
    return all(_agreement(pooled, whole, row) > (0.8 if half else 0.999) for row in range(2))


def _masks_by_itself(model: nn.Module) -> bool:
    """Tell whether attention masks by the places of keys, which in the pool are no positions.

    GPT-Neo and its kin keep a triangle of booleans; chunked attention counts keys; recurrent layers
    go on from whatever was run before.
    """
    kinds = getattr(text_config(model), "layer_types", None) or []
    triangles = any(b.ndim == 4 and b.dtype == torch.bool for b in model.buffers())
    return triangles or not {"full_attention", "sliding_attention"}.issuperset(kinds)


def _alone(decoder: Decoder, siblings: IntArray, after: NextTokens, last: NextTokens) -> bool:
    """Tell whether a node's answer stays the same when another is run beside it.

    What a mask hides has a weight of exactly 0, so this holds to the last digits in any precision.
    """
    other = np.array([after.token_ids[0, 0], after.token_ids[1, 1]])
    _, again = decoder.extend(siblings, other)
    return bool(np.allclose(again.probabilities[0], last.probabilities[0], rtol=1e-5))


def _agreement(first: NextTokens, second: NextTokens, row: int) -> float:
    """Return the share of probability that two answers to one prefix have in common."""
    expected = dict(zip(second.token_ids[row], second.probabilities[row], strict=True))
    mine = zip(first.token_ids[row], first.probabilities[row], strict=True)
    common = sum(min(p, expected.get(token, 0.0)) for token, p in mine)
    return float(common / max(first.probabilities[row].sum(), second.probabilities[row].sum()))


class Masks:
    """Attention masks for sequences that are no plain texts, as a model wants to be given them.

    Sliding windows are counted in the positions of the texts, not in the places of the keys.
    """

    def __init__(self, model: nn.Module) -> None:
        config = text_config(model)
        kinds = getattr(config, "layer_types", None) or []
        self._window: int | None = getattr(config, "sliding_window", None)
        if getattr(config, "use_sliding_window", True) is False:
            self._window = None
        self._mixed = "sliding_attention" in kinds and self._window is not None
        if kinds and not self._mixed:
            self._window = None

    def of(
        self,
        visible: NDArray[np.bool_],
        queries: NDArray[np.integer[Any]],
        keys: NDArray[np.integer[Any]],
        like: Tensor,
    ) -> Tensor | dict[str, Tensor]:
        """Return the mask, or that of each kind of layer.

        Parameters
        ----------
        visible
            Shape ``[queries, keys]``: which key each query may see.
        queries, keys
            Positions in their texts.
        like
            A tensor of the dtype and on the device that the mask is to have.
        """

        def additive(allowed: NDArray[np.bool_]) -> Tensor:
            blocked = torch.from_numpy(~allowed).to(like.device)
            mask = torch.zeros(allowed.shape, dtype=like.dtype, device=like.device)
            return mask.masked_fill_(blocked, torch.finfo(like.dtype).min)[None, None]

        if self._window is None:
            return additive(visible)
        near = additive(visible & (queries[:, None] - keys[None, :] < self._window))
        if not self._mixed:
            return near
        return {"full_attention": additive(visible), "sliding_attention": near}


class PooledDecoder(Decoder):
    """Every token is run once; keys and values live in a pool that all branches read.

    A prefix is named by the pool's row for its last token.
    """

    def __init__(self, model: nn.Module, top_k: int, max_depth: int) -> None:
        super().__init__(model, top_k, max_depth)
        self._layers: list[_PoolLayer] = []
        self._free: IntArray = np.empty(0, np.int32)
        self._position: IntArray = np.empty(0, np.int32)
        self._start: IntArray = np.empty(0, np.int32)
        #: Rows of a prefix's own tokens after the prompt, -1 beyond its end.
        self._path: IntArray = np.empty((0, max_depth), np.int32)
        #: Rows of each prompt and the ids of its ghosts, by the row of its last token.
        self._prompts: dict[int, tuple[IntArray, tuple[int, ...]]] = {}
        self._masks = Masks(model)

    def start(self, prompts: Sequence[Prompt]) -> tuple[IntArray, NextTokens]:
        device = _device(self._model)
        ids = torch.tensor([prompt.ids for prompt in prompts], device=device)
        # A cache without a configuration keeps every key, sliding window or not: later branches
        # see the prompt from further away than the prompt sees itself.
        cache = DynamicCache()
        with (
            ghosts(self._model, ghost_rows(prompts, device)),
            announced(prompt_layout(prompts, ids)),
        ):
            logits = last_logits(self._model, ids, 1, past_key_values=cache, use_cache=True)[:, 0]
        count, length = ids.shape
        if not self._layers:
            self._layers = [_PoolLayer(layer.keys, layer.values) for layer in cache.layers]
        rows = self._allocate(count * length)
        for pool, layer in zip(self._layers, cache.layers, strict=True):
            pool.write(rows, layer.keys, layer.values)
        by_prompt = rows.reshape(count, length)
        starts: IntArray = by_prompt[:, -1].copy()
        self._position[by_prompt] = np.arange(length, dtype=np.int32)
        self._start[by_prompt] = starts[:, None]
        self._path[rows] = -1
        excluded = [tuple(prompt.ghosts) for prompt in prompts]
        opened = zip(by_prompt, excluded, strict=True)
        self._prompts.update(zip(starts.tolist(), opened, strict=True))
        return starts, _most_probable(logits, self._top_k, excluded)

    def extend(self, prefixes: IntArray, tokens: IntArray) -> tuple[IntArray, NextTokens]:
        rows = self._allocate(len(prefixes))
        try:
            return rows, self._run(prefixes, tokens, rows)
        except torch.OutOfMemoryError:
            # Marked as nobody's: release must not free them a second time.
            self._start[rows] = -1
            self._free = np.concatenate([self._free, rows])
            if len(prefixes) == 1:
                raise
        half = len(prefixes) // 2
        _log.warning("out of memory with %d prefixes at once: trying %d", len(prefixes), half)
        parts = [self.extend(prefixes[s], tokens[s]) for s in (slice(half), slice(half, None))]
        token_ids = np.concatenate([found.token_ids for _, found in parts])
        probabilities = np.concatenate([found.probabilities for _, found in parts])
        return np.concatenate([new for new, _ in parts]), NextTokens(token_ids, probabilities)

    def release(self, start: int) -> None:
        self._prompts.pop(start)
        rows = np.flatnonzero(self._start == start).astype(np.int32)
        self._start[rows] = -1
        self._free = np.concatenate([self._free, rows])

    def _run(self, prefixes: IntArray, tokens: IntArray, rows: IntArray) -> NextTokens:
        self._start[rows] = self._start[prefixes]
        self._position[rows] = self._position[prefixes] + 1
        self._path[rows] = self._path[prefixes]
        depth = (self._path[prefixes] >= 0).sum(axis=1)
        self._path[rows, depth] = rows

        context, visible = self._visible(prefixes, rows)
        device = _device(self._model)
        for layer in self._layers:
            layer.aim(context, rows)
        position = self._position
        mask = self._masks.of(visible, position[rows], position[context], self._layers[0].keys)
        lengths = [len(self._prompts[start][0]) for start in self._start[rows].tolist()]
        layout = Layout(
            tokens[None].astype(np.int64),
            position[rows][None].astype(np.int64),
            np.array([lengths]),
        )
        with announced(layout):
            output = self._model(
                input_ids=torch.from_numpy(layout.ids).to(device),
                attention_mask=mask,
                position_ids=torch.from_numpy(layout.position).to(device),
                past_key_values=Cache(layers=self._layers),
                use_cache=True,
            )
        excluded = [self._prompts[start][1] for start in self._start[rows].tolist()]
        return _most_probable(output.logits[0], self._top_k, excluded)

    def _visible(self, prefixes: IntArray, rows: IntArray) -> tuple[IntArray, NDArray[np.bool_]]:
        """Return the pool rows that the chunk needs and who sees which, shape ``[n, rows]``."""
        starts, own_start = np.unique(self._start[rows], return_inverse=True)
        prompts = [self._prompts[start][0] for start in starts.tolist()]
        prompt_of = np.repeat(np.arange(len(prompts)), [len(p) for p in prompts])
        sees_prompt = own_start[:, None] == prompt_of[None, :]

        paths = self._path[prefixes]
        used, column = np.unique(paths, return_inverse=True)
        column = column.reshape(paths.shape)
        sees_path = np.zeros((len(rows), len(used)), dtype=bool)
        np.put_along_axis(sees_path, column, values=True, axis=1)
        if used.size and used[0] == -1:
            used, sees_path = used[1:], sees_path[:, 1:]

        context = np.concatenate([*prompts, used, rows]).astype(np.int32)
        visible = np.concatenate([sees_prompt, sees_path, np.eye(len(rows), dtype=bool)], axis=1)
        return context, visible

    def _allocate(self, count: int) -> IntArray:
        """Take ``count`` free rows, growing the pool where there are too few."""
        if len(self._free) < count:
            size = len(self._position)
            larger = max(2 * size, size + count, 1024)
            for layer in self._layers:
                layer.resize(larger)
            more = larger - size
            self._position = np.concatenate([self._position, np.zeros(more, np.int32)])
            self._start = np.concatenate([self._start, np.full(more, -1, np.int32)])
            path = np.full((more, self._max_depth), -1, np.int32)
            self._path = np.concatenate([self._path, path])
            self._free = np.concatenate([self._free, np.arange(size, larger, dtype=np.int32)])
        rows, self._free = self._free[:count], self._free[count:]
        return rows


class _PoolLayer(CacheLayerMixin):  # type: ignore[misc]  # untyped there
    """One layer's keys and values, shape ``[rows, heads, head_dim]``, shown to the model as a cache.

    Before a forward, :meth:`aim` says which rows the new tokens take and which rows they look at.
    """

    is_sliding = False

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        # Heads and sizes may differ between layers, and between keys and values.
        self.keys = keys.new_empty((0, keys.shape[1], keys.shape[3]))
        self.values = values.new_empty((0, values.shape[1], values.shape[3]))
        self.is_initialized = True
        self._context = self._rows = torch.empty(0, dtype=torch.long)

    def resize(self, rows: int) -> None:
        """Make room for ``rows`` rows, keeping those there are."""
        for name in ("keys", "values"):
            old: Tensor = getattr(self, name)
            new = old.new_empty((rows, *old.shape[1:]))
            new[: old.shape[0]] = old
            setattr(self, name, new)

    def write(self, rows: IntArray, keys: Tensor, values: Tensor) -> None:
        """Store keys and values of shape ``[batch, heads, tokens, head_dim]``, batch first."""
        index = torch.from_numpy(rows.astype(np.int64)).to(self.keys.device)
        self.keys[index] = keys.transpose(1, 2).flatten(0, 1)
        self.values[index] = values.transpose(1, 2).flatten(0, 1)

    def aim(self, context: IntArray, rows: IntArray) -> None:
        """Set the rows that the next forward reads, ``rows`` at their end, and those it writes."""
        device = self.keys.device
        self._context = torch.from_numpy(context.astype(np.int64)).to(device)
        self._rows = torch.from_numpy(rows.astype(np.int64)).to(device)

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store the new tokens and return all that they may look at, as transformers asks."""
        self.keys.index_copy_(0, self._rows, key_states[0].transpose(0, 1))
        self.values.index_copy_(0, self._rows, value_states[0].transpose(0, 1))
        keys = self.keys.index_select(0, self._context).transpose(0, 1)[None]
        values = self.values.index_select(0, self._context).transpose(0, 1)[None]
        return keys, values

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing is lazy here: the pool is made with the first prompt."""

    def get_mask_sizes(self, _query_length: int) -> tuple[int, int]:
        """Return the number of keys of the next forward and their offset."""
        return len(self._context), 0

    def get_seq_length(self) -> int:
        """Return the number of keys seen before the next forward's own."""
        return len(self._context) - len(self._rows)

    def get_max_length(self) -> int:
        """Return -1: the pool grows as needed."""
        return -1


class ReplayDecoder(Decoder):
    """Whole prefixes, run in batches of equal length without any cache: right for every model."""

    def __init__(self, model: nn.Module, top_k: int, max_depth: int) -> None:
        super().__init__(model, top_k, max_depth)
        self._prefixes: dict[int, tuple[int, Prompt, tuple[int, ...]]] = {}
        self._next = 0

    def start(self, prompts: Sequence[Prompt]) -> tuple[IntArray, NextTokens]:
        return self._add([(None, prompt, ()) for prompt in prompts])

    def extend(self, prefixes: IntArray, tokens: IntArray) -> tuple[IntArray, NextTokens]:
        longer = []
        for prefix, token in zip(prefixes.tolist(), tokens.tolist(), strict=True):
            start, prompt, path = self._prefixes[prefix]
            longer.append((start, prompt, (*path, token)))
        return self._add(longer)

    def release(self, start: int) -> None:
        self._prefixes = {k: v for k, v in self._prefixes.items() if v[0] != start}

    def _add(
        self, prefixes: Sequence[tuple[int | None, Prompt, tuple[int, ...]]]
    ) -> tuple[IntArray, NextTokens]:
        lengths = [len(prompt.ids) + len(path) for _, prompt, path in prefixes]
        order = sorted(range(len(prefixes)), key=lengths.__getitem__)
        token_ids = np.empty((len(prefixes), self._top_k), np.int32)
        probabilities = np.empty((len(prefixes), self._top_k), np.float64)
        device = _device(self._model)
        for _, group in groupby(order, key=lengths.__getitem__):
            batch = list(group)
            prompts = [prefixes[i][1] for i in batch]
            ids = torch.tensor(
                [(*prefixes[i][1].ids, *prefixes[i][2]) for i in batch], device=device
            )
            with (
                ghosts(self._model, ghost_rows(prompts, device)),
                announced(prompt_layout(prompts, ids)),
            ):
                logits = last_logits(self._model, ids, 1, use_cache=False)[:, 0]
            found = _most_probable(logits, self._top_k, [tuple(p.ghosts) for p in prompts])
            token_ids[batch], probabilities[batch] = found.token_ids, found.probabilities
        numbers = np.arange(self._next, self._next + len(prefixes), dtype=np.int32)
        self._next += len(prefixes)
        for number, (start, prompt, path) in zip(numbers.tolist(), prefixes, strict=True):
            self._prefixes[number] = (number if start is None else start, prompt, path)
        return numbers, NextTokens(token_ids, probabilities)


@contextmanager
def quiet_forward(model: nn.Module) -> Iterator[None]:
    """Run forwards without gradients and without autocast, in this thread.

    Raises
    ------
    ExplorerError
        If the model is in training mode, in which dropout would make every run another one.
    """
    if model.training:
        raise ExplorerError(
            f"The {type(model).__name__} is in training mode, where dropout makes its answers "
            "random. Call model.eval() first."
        )
    with torch.inference_mode(), torch.autocast(_device(model).type, enabled=False):
        yield


def _device(model: nn.Module) -> torch.device:
    """Return the device that takes token ids; the layers may be spread over others."""
    return _embedding(model).device


def _embedding(model: nn.Module) -> Tensor:
    """Return the input embeddings, shape ``[vocabulary, d_model]``."""
    weight: Tensor = model.get_input_embeddings().weight  # type: ignore[operator]
    return weight


def ghost_rows(prompts: Sequence[Prompt], device: torch.device) -> list[dict[int, Tensor]]:
    """Return the prompts' ghosts as :func:`~sae_explorer.model.ghost.ghosts` takes them."""
    return [
        {token: torch.tensor(vector, device=device) for token, vector in prompt.ghosts.items()}
        for prompt in prompts
    ]


def prompt_layout(prompts: Sequence[Prompt], ids: Tensor) -> Layout:
    """Return what the tokens of texts are that begin with prompts, one a row of ``ids``."""
    ghost_ids = {token for prompt in prompts for token in prompt.ghosts}
    return Layout.of(ids, [len(prompt.ids) for prompt in prompts], ghost_ids=sorted(ghost_ids))


def last_logits(model: nn.Module, ids: Tensor, count: int, **options: Any) -> Tensor:
    """Return the logits after the last positions, shape ``[batch, count, vocabulary]``."""
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        options["logits_to_keep"] = count
    logits: Tensor = model(input_ids=ids, **options).logits
    return logits[:, -count:]


def _most_probable(logits: Tensor, k: int, excluded: Sequence[tuple[int, ...]]) -> NextTokens:
    """Return the ``k`` most probable tokens of each row of ``logits``, shape ``[n, vocabulary]``."""
    logits = logits.float()
    distinct = set(excluded)
    for ids in distinct:
        chosen = [i for i, own in enumerate(excluded) if own == ids] if len(distinct) > 1 else None
        for token in ids:
            if chosen is None:
                logits[:, token] = -torch.inf
            else:
                logits[chosen, token] = -torch.inf
    probabilities = logits.softmax(dim=-1)
    values, token_ids = _top(probabilities, k)
    top = values.cpu().double().numpy()  # not every device has float64
    refuse_nan(top)
    return NextTokens(token_ids.to("cpu", torch.int32).numpy(), top)


def refuse_nan(answers: FloatArray) -> None:
    """Raise :class:`ExplorerError` if the model's answers hold NaN."""
    if np.isnan(answers).any():
        raise ExplorerError(
            "The model gave NaN or infinite logits. Take smaller strengths of interventions, if there "
            "are any; else its weights may hold NaN, or float16 is too narrow for it: load it with "
            "dtype='bfloat16' or 'float32'."
        )


def _top(values: Tensor, k: int, block: int = 128) -> tuple[Tensor, Tensor]:
    """Return the ``k`` largest of each row and their indices, as ``torch.topk`` does, but faster.

    The ``k`` largest lie in the ``k`` blocks with the largest maxima, and the maxima of blocks take
    a fraction of the time that a selection in a whole vocabulary takes.
    """
    size = values.shape[-1]
    blocks = size // block
    if blocks <= 4 * k:
        whole = values.topk(k, dim=-1)
        return whole.values, whole.indices
    best = values.unfold(-1, block, block).amax(dim=-1).topk(k, dim=-1).indices
    offsets = torch.arange(block, device=values.device)
    candidates = (best[..., None] * block + offsets).flatten(-2)
    rest = torch.arange(blocks * block, size, device=values.device).expand(len(values), -1)
    candidates = torch.cat([candidates, rest], dim=-1)
    top = values.gather(-1, candidates).topk(k, dim=-1)
    return top.values, candidates.gather(-1, top.indices)
