"""Probabilities of known paths after many prompts, in full batches.

Where the paths are known, as those of a tree that has been grown, nothing has to wait for an
answer: nodes are run together with their own ancestors, as one sequence whose attention mask lets
each token see the prompt, its ancestors and itself, for many prompts at a time. Nodes come in
preorder, in which a node's ancestors stand close before it: what a chunk needs of the chunks before
is the path to its first node, and no more is kept. Only nodes with children are run.

Models that cannot share keys and values between branches run whole paths instead.
"""

from __future__ import annotations

import logging
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers.cache_utils import DynamicCache

from sae_explorer.model.changes import Changes
from sae_explorer.model.decoding import (
    FloatArray,
    IntArray,
    Masks,
    Prompt,
    chunk_size,
    ghost_rows,
    last_logits,
    prompt_layout,
    refuse_nan,
    shares_keys,
)
from sae_explorer.model.ghost import ghosts
from sae_explorer.model.positions import Layout, announced

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from sae_explorer.model.interventions import Intervention
    from sae_explorer.subject import Subject

#: Prompts that are run together; more leave each too short a stretch of the tree at a time.
_PROMPTS_AT_ONCE = 16

_log = logging.getLogger(__name__)


class PathScorer:
    """Scores the nodes of a tree after one or many prompts. It can be stopped and gone on with.

    Parameters
    ----------
    subject
        The model.
    parent
        Shape ``[nodes]``: number of each node's parent, which stands before it; -1 for the root,
        which is node 0 and the end of every prompt.
    token_id
        Shape ``[nodes]``: token of each node; that of the root is not looked at.
    prompts
        What the tree follows. They may differ in everything.
    interventions
        At work in every forward.
    """

    def __init__(
        self,
        subject: Subject,
        parent: IntArray,
        token_id: IntArray,
        prompts: Sequence[Prompt],
        interventions: Sequence[Intervention] = (),
    ) -> None:
        self._subject = subject
        self._token_id = np.asarray(token_id, np.int64)
        self._parent = np.asarray(parent, np.int64)
        self._prompts = tuple(prompts)
        self._changes = Changes(subject, [interventions])
        self._chunk = chunk_size(subject.device)

        nodes = len(self._parent)
        #: Nodes but the root, those of one parent together, and where each parent's begin.
        self._by_parent = np.argsort(self._parent[1:], kind="stable") + 1
        self._first = np.searchsorted(self._parent[self._by_parent], np.arange(nodes + 1))
        self._has_children = np.diff(self._first) > 0
        self._depth = np.zeros(nodes, np.int64)
        for node in range(1, nodes):
            self._depth[node] = self._depth[self._parent[node]] + 1

        self._found = np.full((len(self._prompts), nodes), np.nan)
        self._found[:, 0] = 0.0
        self._left = self._found.size - len(self._prompts)
        self._work = self._forwards()

    @property
    def log_probability(self) -> FloatArray:
        """Log of the probability of each node's token after its parent, for each prompt.

        Shape ``[prompts, nodes]``, float64: 0 for the root, ``-inf`` for a ghost's own token, NaN
        for what has not been scored yet. Probabilities are as in a tree: a softmax in float32 over
        the whole vocabulary without the ghosts' own tokens.
        """
        return self._found

    @property
    def share(self) -> float:
        """Share of the scores that have been found, 0 to 1."""
        total = self._found.size - len(self._prompts)
        return 1 - self._left / total if total else 1.0

    def steps(self, cancel: threading.Event | None = None) -> Iterator[None]:
        """Score until all is done or ``cancel`` is set, giving way after every forward."""
        if not self._left:
            return
        with self._subject.run():  # tried out on the model as it is
            shares_keys(self._subject.model, self._prompts[0])
        done = object()
        while cancel is None or not cancel.is_set():
            with self._changes.applied():
                if next(self._work, done) is done:
                    return
            yield

    def _forwards(self) -> Iterator[None]:
        """Do all the work, one forward at a time; the caller holds the model between the pauses."""

        def kind(index: int) -> tuple[int, tuple[int, ...]]:
            prompt = self._prompts[index]
            return len(prompt.ids), tuple(prompt.ghosts)

        run = self._share if shares_keys(self._subject.model, self._prompts[0]) else self._replay
        for _, alike in groupby(sorted(range(len(self._prompts)), key=kind), key=kind):
            chosen = list(alike)
            for begin in range(0, len(chosen), _PROMPTS_AT_ONCE):
                yield from run(chosen[begin : begin + _PROMPTS_AT_ONCE])

    def _share(self, chosen: list[int]) -> Iterator[None]:
        """Run every node once, its keys and values being those that its descendants see."""
        model, device = self._subject.model, self._subject.device
        prompts = [self._prompts[index] for index in chosen]
        length = len(prompts[0].ids)
        ids = torch.tensor([prompt.ids for prompt in prompts], device=device)
        # Without a configuration it keeps every key, sliding window or not.
        cache = DynamicCache()
        with ghosts(model, ghost_rows(prompts, device)), announced(prompt_layout(prompts, ids)):
            logits = last_logits(model, ids, 1, past_key_values=cache, use_cache=True)
        self._record(logits, chosen, np.zeros(1, np.int64))
        yield

        masks = Masks(model)
        waiting = self._preorder()[1:]
        held = np.empty(0, np.int64)  # nodes whose keys stand behind the prompt's
        while len(waiting):
            nodes = waiting[: max(1, self._chunk // len(chosen))]
            above = self._path(int(nodes[0]))[1:-1]
            place = {node: place for place, node in enumerate(held.tolist())}
            _keep(cache, length, [place[node] for node in above])
            held = np.array([*above, *nodes])
            position = length - 1 + self._depth[nodes]
            places = np.concatenate([np.arange(length), length - 1 + self._depth[held]])
            sees = self._sees(held, len(nodes), length)
            mask = masks.of(sees, position, places, cache.layers[0].keys)
            rows = (len(chosen), len(nodes))
            layout = Layout(
                np.broadcast_to(self._token_id[nodes], rows),
                np.broadcast_to(position, rows),
                np.full(rows, length),
            )
            try:
                with announced(layout):
                    logits = model(
                        input_ids=torch.tensor(layout.ids, device=device),
                        attention_mask=mask,
                        position_ids=torch.tensor(layout.position, device=device),
                        past_key_values=cache,
                        use_cache=True,
                    ).logits
            except torch.OutOfMemoryError:
                if len(nodes) == 1:
                    raise
                held = held[: len(above)]
                _keep(cache, length, range(len(above)))
                self._halve(len(nodes), len(chosen))
                continue
            self._record(logits, chosen, nodes)
            waiting = waiting[len(nodes) :]
            yield

    def _replay(self, chosen: list[int]) -> Iterator[None]:
        """Run whole paths without any cache, those of equal length together."""
        model, device = self._subject.model, self._subject.device
        for size, alike in groupby(sorted(self._whole_paths(), key=_length), key=_length):
            rows = [(index, *path) for path in alike for index in chosen]
            while rows:
                batch = rows[: max(1, self._chunk // size)]
                prompts = [self._prompts[index] for index, _, _ in batch]
                tokens = self._token_id[[path[1:] for _, path, _ in batch]]
                whole = np.hstack([[prompt.ids for prompt in prompts], tokens])
                ids = torch.tensor(whole, device=device)
                layout = prompt_layout(prompts, ids)
                try:
                    with ghosts(model, ghost_rows(prompts, device)), announced(layout):
                        logits = last_logits(model, ids, size, use_cache=False)
                except torch.OutOfMemoryError:
                    if len(batch) == 1:
                        raise
                    self._halve(len(batch), size)
                    continue
                for row, (index, path, new) in enumerate(batch):
                    self._record(logits[row : row + 1, new:], [index], np.array(path[new:]))
                rows = rows[len(batch) :]
                yield

    def _record(self, logits: Tensor, chosen: list[int], nodes: NDArray[np.int64]) -> None:
        """Take the children's scores from logits of shape ``[chosen, nodes, vocabulary]``."""
        logits = logits.float()
        logits[..., list(self._prompts[chosen[0]].ghosts)] = -torch.inf
        places = np.repeat(np.arange(len(nodes)), self._first[nodes + 1] - self._first[nodes])
        children = np.concatenate(
            [self._by_parent[self._first[node] : self._first[node + 1]] for node in nodes]
        )
        # By index, so that no more than what is asked for leaves the device.
        at, tokens = torch.from_numpy(places), torch.from_numpy(self._token_id[children])
        found = logits[:, at, tokens] - logits.logsumexp(dim=-1)[:, at]
        scores = found.cpu().double().numpy()
        refuse_nan(scores)
        self._found[np.array(chosen)[:, None], children] = scores
        self._left -= scores.size

    def _preorder(self) -> NDArray[np.int64]:
        """Return the nodes that have children, each before its children, branch by branch."""
        order = []
        stack = [0]
        while stack:
            node = stack.pop()
            order.append(node)
            below = self._by_parent[self._first[node] : self._first[node + 1]]
            stack += below[self._has_children[below]][::-1].tolist()
        return np.array(order)

    def _path(self, node: int) -> list[int]:
        """Return the nodes from the root to a node, both included."""
        path = []
        while node >= 0:
            path.append(node)
            node = int(self._parent[node])
        return path[::-1]

    def _whole_paths(self) -> list[tuple[list[int], int]]:
        """Return paths to all nodes with children, and where in each those not met before begin."""
        order = self._preorder()
        goes_on = np.zeros(len(self._parent), dtype=bool)
        goes_on[self._parent[order[1:]]] = True
        paths = []
        last: list[int] = []
        for tip in order[~goes_on[order]].tolist():
            path = self._path(tip)
            shared = [one == other for one, other in zip(path, last, strict=False)]
            paths.append((path, sum(shared)))
            last = path
        return paths

    def _sees(self, held: NDArray[np.int64], count: int, length: int) -> NDArray[np.bool_]:
        """Return what the last ``count`` nodes that are held see: the prompt, their paths."""
        place = {node: place for place, node in enumerate(held.tolist())}
        path = np.eye(len(held), dtype=bool)
        for node, row in place.items():
            above = place.get(int(self._parent[node]))
            if above is not None:
                path[row] |= path[above]
        prompt = np.ones((count, length), dtype=bool)
        return np.hstack([prompt, path[-count:]])

    def _halve(self, rows: int, size: int) -> None:
        """Run half as many rows of ``size`` tokens at once from now on."""
        self._chunk = rows // 2 * size
        _log.warning("out of memory with %d tokens at once: trying half", rows * size)


def score(
    subject: Subject,
    parent: IntArray,
    token_id: IntArray,
    prompts: Sequence[Prompt],
    interventions: Sequence[Intervention] = (),
) -> FloatArray:
    """Return the log-probabilities that a :class:`PathScorer` of the same arguments finds."""
    scorer = PathScorer(subject, parent, token_id, prompts, interventions)
    for _ in scorer.steps():
        pass
    return scorer.log_probability


def _length(path: tuple[list[int], int]) -> int:
    return len(path[0])


def _keep(cache: DynamicCache, length: int, places: Sequence[int]) -> None:
    """Drop all keys but the prompt's, ``length`` of them, and those at some places behind them."""
    for layer in cache.layers:
        columns = torch.tensor([*range(length), *(length + p for p in places)])
        layer.keys = layer.keys.index_select(2, columns.to(layer.keys.device))
        layer.values = layer.values.index_select(2, columns.to(layer.values.device))
