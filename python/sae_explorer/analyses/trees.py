"""Definition trees: all likely answers to "what is a <ghost>?", grown exactly and best first.

Every node asks the model for the ``top_k`` most probable next tokens; a child's cumulative
probability is its parent's times its own, and it is kept while that is at least ``cutoff``. Since a
child is never more probable than its parent, running the most probable open nodes first gives, at
every moment, all nodes above the best one still open: a tree with a higher cutoff, complete.
"""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from sae_explorer.analyses.definition_tree import DefinitionTree
from sae_explorer.errors import ExplorerError, PartialResultWarning, out_of_memory
from sae_explorer.model.changes import Changes
from sae_explorer.model.changes import check as check_interventions
from sae_explorer.model.decoding import (
    Decoder,
    IntArray,
    NextTokens,
    Prompt,
    chunk_size,
    open_decoder,
)
from sae_explorer.model.direction import Direction, shown
from sae_explorer.model.ghost import AUTO, SOURCES, DirectionRequest, Vector, ghost_vector
from sae_explorer.model.interventions import Intervention  # noqa: TC001 - a request reads its annotations
from sae_explorer.model.reading import check_length
from sae_explorer.request import option, takes
from sae_explorer.subject import SECOND_PLACEHOLDER

if TYPE_CHECKING:
    import threading

    from numpy.typing import NDArray

    from sae_explorer.analyses.lift import LiftMeasurement
    from sae_explorer.results import Provenance
    from sae_explorer.subject import Subject

#: Trees whose prompts are run together when many trees are grown.
_PROMPTS_AT_ONCE = 16


TOO_LITTLE_MEMORY = (
    "The device has too little memory for even the prompt. Load the model in a smaller dtype, free "
    "other models, or use device='cpu'."
)


@dataclass(frozen=True, kw_only=True)
class TreeRequest(DirectionRequest):
    """The question whose answer is a :class:`DefinitionTree`."""

    group: ClassVar[str] = "tree"

    prompt: str = option(
        'A typical definition of "{ghost}" would be "',
        "What the model is asked; {ghost} marks the made-up word, once or more, {ghost2} a second one.",
    )
    second: Direction | None = option(
        None,
        "What {ghost2} in the prompt stands for, such as 17 or 17:decoder; it is made a vector as "
        "the first one is.",
    )
    ghost_token: str | None = option(
        None,
        "Vocabulary entry whose place the vector takes; None chooses one for the model. Its "
        "probability is removed from the answers.",
    )
    cutoff: float = option(
        5e-5,
        "Smallest probability of a path in the tree: lower it to see rarer definitions, which takes "
        "longer.",
        above=0.0,
        maximum=1.0,
        slider=(1e-8, 1e-2),
        log=True,
    )
    top_k: int = option(
        5,
        "How many next tokens are tried after each token, the most probable ones: raise it where "
        "definitions branch more widely than the tree shows.",
        minimum=1,
        slider=(1, 20),
    )
    max_depth: int = option(
        25,
        "How many tokens a definition may have: raise it where definitions break off.",
        unit="tokens",
        minimum=1,
        maximum=4096,
        slider=(1, 50),
    )
    max_nodes: int | None = option(
        50_000,
        "Where growth ends, whatever the cutoff: the most probable nodes are kept, the root included; "
        "None for no limit.",
        minimum=1,
        slider=(100, 50_000),
        log=True,
    )
    lift: int = option(
        0,
        "Number of random directions that lift is measured against, such as 8; 0 leaves it out. Lift "
        "tells what this vector says from what any vector would.",
        minimum=0,
        maximum=1024,
        slider=(0, 16),
    )
    lift_seed: int = option(
        0, "Seed of the random directions: another one tells how much of lift is chance.", minimum=0
    )
    interventions: tuple[Intervention, ...] = option(
        (),
        "Features steered, clamped or ablated while the model runs, such as 'steer 17 4; clamp 5 8 "
        "at=generated; ablate 9'; in Python also [Steer(17, 4.0), Ablate(9)].",
        group="interventions",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        # The other way round nothing is wrong yet: a prompt that asks for it may come next.
        if SECOND_PLACEHOLDER in self.prompt and self.second is None:
            raise ExplorerError(
                f"The prompt {self.prompt!r} has a second made-up word, but second= does not say "
                "what it stands for. Give it, as in second=feature(17), or second 17 as text."
            )

    @property
    def second_used(self) -> Direction | None:
        """What the second made-up word of the prompt stands for, None where there is none."""
        return self.second if SECOND_PLACEHOLDER in self.prompt else None

    @property
    def uses_sae(self) -> bool:
        """Whether the answer hangs on the subject's SAE."""
        second = self.second_used is not None and bool(self.second_used.features)
        return super().uses_sae or second or bool(self.interventions)

    @property
    def label(self) -> str:
        """What the vector stands for, and what else is changed, in a few words."""
        second = [] if self.second_used is None else [f"second {self.second_used}"]
        return ", ".join((super().label, *second, *(one.label for one in self.interventions)))


@dataclass(frozen=True)
class TreeProgress:
    """How far the growth of one or many trees has come.

    Parameters
    ----------
    nodes
        Nodes kept by now, over all trees.
    done, total
        Trees finished, and trees asked for.
    threshold
        Cumulative probability down to which every unfinished tree is complete.
    seconds
        Time since the start.
    snapshot
        Returns the trees as they are now, those not yet begun left out. It costs a copy; call it
        only from the callback that was given the progress.
    """

    nodes: int
    done: int
    total: int
    threshold: float
    seconds: float
    snapshot: Callable[[], list[DefinitionTree]]


Progress = Callable[[TreeProgress], object]


@takes(TreeRequest)
def grow_tree(
    subject: Subject,
    *,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
    **options: Any,
) -> DefinitionTree:
    """Grow the definition tree of one feature, token or vector.

    Parameters
    ----------
    subject
        The model and the SAE.
    progress
        Called after every step with a :class:`TreeProgress`.
    cancel
        When it is set, growth stops at the next step and what there is by then is returned, marked
        partial. An interrupt (Ctrl-C) does the same, with a :class:`PartialResultWarning`.

    Returns
    -------
    DefinitionTree
        One row a node, most probable first.

    Raises
    ------
    ExplorerError
        If an option is unknown or out of range, the feature does not exist, the prompt has no
        placeholder, or the tokenizer does not keep the placeholder in one piece.

    Examples
    --------
    >>> tree = grow_tree(Subject.demo(), feature=288, weights="decoder")  # doctest: +SKIP
    >>> tree.definitions(limit=3)  # doctest: +SKIP
    """
    return run(subject, TreeRequest.from_options(options), progress=progress, cancel=cancel)


@takes(TreeRequest, without=SOURCES)
def grow_trees(
    subject: Subject,
    features: Sequence[int] = (),
    *,
    vectors: Sequence[Vector] = (),
    prompts: Sequence[str] | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
    **options: Any,
) -> list[DefinitionTree]:
    """Grow the trees of many features in shared batches, several times as fast as one by one.

    Parameters
    ----------
    subject
        The model and the SAE.
    features
        Indices of features.
    vectors
        Directions of shape ``[d_model]``, whose trees follow those of the features.
    prompts
        Several prompts in place of ``prompt``: every feature and vector gets a tree for each, one
        after another.
    progress, cancel
        As in :func:`grow_tree`.

    Returns
    -------
    list of DefinitionTree
        In the order given; each has the nodes that :func:`grow_tree` gives for it, and their
        probabilities up to rounding, which depends on what is computed together. After a cancel,
        trees that were not begun hold only their root.
    """
    if isinstance(features, int):
        raise ExplorerError(f"features is {features}; it must be a list, such as [{features}].")
    taken = [name for name in SOURCES if name in options]
    if taken or not (len(features) or len(vectors)):
        given = f"{taken[0]}= is" if taken else "nothing was"
        raise ExplorerError(
            f"{given} given to grow_trees, which takes features=[...] or vectors=[...]. For one "
            "tree use grow_tree."
        )
    if prompts is not None and "prompt" in options:
        raise ExplorerError("Give prompt= or prompts=, not both.")
    sources: list[dict[str, Any]]
    sources = [{"feature": f} for f in features] + [{"vector": v} for v in vectors]
    variants: list[dict[str, Any]] = (
        [{}] if prompts is None else [{"prompt": prompt} for prompt in prompts]
    )
    requests = [
        TreeRequest.from_options({**options, **source, **variant})
        for source in sources
        for variant in variants
    ]
    return run_many(subject, requests, progress=progress, cancel=cancel)


def run(
    subject: Subject,
    request: TreeRequest,
    *,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> DefinitionTree:
    """Answer one request; see :func:`grow_tree`."""
    return run_many(subject, [request], progress=progress, cancel=cancel)[0]


def run_many(
    subject: Subject,
    requests: Sequence[TreeRequest],
    *,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> list[DefinitionTree]:
    """Answer several requests, which may differ in the vector and the prompt, together.

    ``top_k``, ``max_depth`` and ``interventions`` must be the same in all of them.
    """
    if not requests:
        return []
    grower = TreeGrower(subject, requests)
    try:
        for _ in grower.steps(cancel):
            if progress is not None:
                progress(grower.progress())
    except (KeyboardInterrupt, RuntimeError, MemoryError, OSError) as stopped:
        memory = out_of_memory(stopped)
        if not memory and not isinstance(stopped, KeyboardInterrupt):
            raise
        if memory and grower.progress().nodes <= len(requests):
            raise ExplorerError(TOO_LITTLE_MEMORY) from stopped
        why = "Out of memory" if memory else "Interrupted"
        warnings.warn(
            f"{why}: the result is partial, with {grower.progress().nodes:,} nodes.",
            PartialResultWarning,
            stacklevel=3,
        )
    return grower.trees()


def check(subject: Subject, request: TreeRequest) -> None:
    """Raise the error that :func:`run` would begin with, computing next to nothing.

    Raises
    ------
    ExplorerError
        As :func:`grow_tree` does.
    """
    # The components and the scale may have to be computed first, and nothing about them can be wrong.
    scale = None if request.scale == AUTO else request.scale
    _Growth.planned(subject, replace(request, pca=(), scale=scale))


class TreeGrower:
    """Trees in growth. It can be stopped and gone on with, and the cutoff can be lowered later.

    Parameters
    ----------
    subject
        The model and the SAE.
    requests
        Requests with the same ``top_k``, ``max_depth`` and ``interventions``.
    keep
        Whether finished trees keep their place in the model's memory, so that :meth:`lower` can
        go on from them.
    """

    def __init__(
        self, subject: Subject, requests: Sequence[TreeRequest], *, keep: bool = False
    ) -> None:
        shared = {(r.top_k, r.max_depth, r.interventions) for r in requests}
        if len(shared) > 1:
            raise ExplorerError(
                "Trees grown together need the same top_k, max_depth and interventions."
            )
        self._subject = subject
        self._keep = keep
        self._trees = [_Growth.planned(subject, request) for request in requests]
        self._waiting = deque(self._trees)
        self._active: list[_Growth] = []
        self._decoder: Decoder | None = None
        self._changes = Changes(subject, [self._trees[0].request.interventions])
        self._measuring: LiftMeasurement | None = None
        self._chunk = chunk_size(subject.device)
        self._began = time.perf_counter()

    def steps(self, cancel: threading.Event | None = None) -> Iterator[None]:
        """Grow until all trees are done or ``cancel`` is set, giving way after every step.

        Lift is measured last, where it was asked for.
        """
        while self._waiting or self._active:
            if cancel is not None and cancel.is_set():
                return
            with self._subject.run():
                decoder = self._opened()  # tried out on the model as it is
                with self._changes.applied():
                    self._step(decoder)
            yield
        for tree in self._trees:
            self._measuring = measuring = tree.lift_measurement()
            if measuring is not None:
                yield from measuring.steps(cancel)
                tree.take_lift(measuring)
            self._measuring = None
            if cancel is not None and cancel.is_set():
                return

    @property
    def lift_share(self) -> float | None:
        """Share of the work on the lift of the tree that is measured now, None before that."""
        return None if self._measuring is None else self._measuring.share

    def lower(self, cutoff: float) -> None:
        """Lower the cutoff of all trees; nothing that was computed is computed again.

        Raises
        ------
        ExplorerError
            If the new cutoff is not lower, or the trees were not kept.
        """
        if not self._keep:
            raise ExplorerError("Only a TreeGrower made with keep=True can go on from its trees.")
        for tree in self._trees:
            tree.lower(cutoff)
        self._active = [tree for tree in self._trees if tree.begun and not tree.finished]

    def progress(self) -> TreeProgress:
        """Return how far the growth has come."""
        open_trees = [*self._active, *self._waiting]
        return TreeProgress(
            nodes=sum(tree.kept for tree in self._trees),
            done=len(self._trees) - len(open_trees),
            total=len(self._trees),
            threshold=max(tree.threshold for tree in open_trees or self._trees),
            seconds=time.perf_counter() - self._began,
            snapshot=lambda: self._results([tree for tree in self._trees if tree.begun]),
        )

    def trees(self) -> list[DefinitionTree]:
        """Return the trees as they are now; those that are not finished are marked partial."""
        return self._results(self._trees)

    def _results(self, trees: Sequence[_Growth]) -> list[DefinitionTree]:
        provenance = {
            with_sae: self._subject.provenance(with_sae=with_sae)
            for with_sae in {tree.request.uses_sae for tree in trees}
        }
        return [tree.result(provenance[tree.request.uses_sae]) for tree in trees]

    def _opened(self) -> Decoder:
        """Return the decoder that all trees share, opened with the first."""
        if self._decoder is None:
            first = self._trees[0]
            self._decoder = open_decoder(
                self._subject.model, first.request.top_k, first.request.max_depth, first.prompt
            )
        return self._decoder

    def _step(self, decoder: Decoder) -> None:
        """Run the prompts of trees that wait, or the next chunk of open nodes."""
        open_nodes = sum(tree.open for tree in self._active)
        if self._waiting and open_nodes < self._chunk:
            self._open_some(decoder)
            return
        chunk: list[tuple[_Growth, IntArray]] = []
        room = self._chunk
        for tree in self._active:
            if room:
                chunk.append((tree, tree.best_open(room)))
                room -= len(chunk[-1][1])
        parents = np.concatenate([tree.prefix[tree.parent[nodes]] for tree, nodes in chunk])
        tokens = np.concatenate([tree.token_id[nodes] for tree, nodes in chunk])
        prefixes, found = decoder.extend(parents, tokens)
        begin = 0
        for tree, nodes in chunk:
            part = slice(begin, begin + len(nodes))
            begin = part.stop
            children = NextTokens(found.token_ids[part], found.probabilities[part])
            tree.grow(nodes, prefixes[part], children)
        self._close_finished(decoder)

    def _open_some(self, decoder: Decoder) -> None:
        """Run the prompts of the next trees, as many of one length as go together."""
        length = len(self._waiting[0].prompt.ids)
        batch: list[_Growth] = []
        while self._waiting and len(batch) < _PROMPTS_AT_ONCE:
            if len(self._waiting[0].prompt.ids) != length:
                break
            batch.append(self._waiting.popleft())
        starts, found = decoder.start([tree.prompt for tree in batch])
        for row, tree in enumerate(batch):
            one = slice(row, row + 1)
            children = NextTokens(found.token_ids[one], found.probabilities[one])
            tree.grow(np.zeros(1, np.int32), starts[one], children)
        self._active += batch
        self._close_finished(decoder)

    def _close_finished(self, decoder: Decoder) -> None:
        for tree in self._active:
            if tree.finished and not self._keep:
                decoder.release(int(tree.prefix[0]))
        self._active = [tree for tree in self._active if not tree.finished]


class _Growth:
    """One tree in growth: every child ever seen, in order of discovery, those below the cutoff too.

    All columns have one entry a node; the first is the root. ``prefix`` is the decoder's number for
    the path to the node, -1 until the node itself has been run.
    """

    def __init__(
        self, subject: Subject, request: TreeRequest, prompt: Prompt, scale: float | str | None
    ) -> None:
        self.subject = subject
        self.request = request
        self.prompt = prompt
        self.scale = scale
        #: Lift of the rows of the result, and the cutoff that they are for.
        self._lift: tuple[float, NDArray[np.float64]] | None = None
        self.cutoff = request.cutoff
        self.parent: IntArray = np.full(1, -1, np.int32)
        self.depth: IntArray = np.zeros(1, np.int32)
        self.token_id: IntArray = np.full(1, -1, np.int32)
        self.probability: NDArray[np.float64] = np.ones(1)
        self.cumulative: NDArray[np.float64] = np.ones(1)
        self.prefix: IntArray = np.full(1, -1, np.int32)
        self.kept = 1
        #: Nodes that are to be run and have not been.
        self._open: IntArray = np.zeros(1, np.int32)

    @classmethod
    def planned(cls, subject: Subject, request: TreeRequest) -> _Growth:
        """Check the request against the subject and prepare its prompt."""
        if request.top_k > subject.vocabulary_size:
            raise ExplorerError(
                f"top_k is {shown(request.top_k)}; the vocabulary has only "
                f"{subject.vocabulary_size:,} entries."
            )
        check_interventions(subject, request.interventions)
        ghost_token = request.ghost_token or subject.default_ghost_token
        second_token = subject.second_ghost_token(ghost_token) if request.second_used else ""
        ids = subject.encode_prompt(request.prompt, ghost_token, second_token)
        check_length(subject, len(ids))
        for one in request.interventions:
            end = len(ids) + request.max_depth
            if not isinstance(one.at, str) and all(place >= end for place in one.at):
                raise ExplorerError(
                    f"{one.label} would do nothing: prompt and answers have {end} tokens at most, places "
                    f"0 to {end - 1}. Give other places."
                )
        scale = request.scale
        if scale == AUTO:
            from sae_explorer.analyses.scale_sweep import best_scale

            scale = best_scale(subject, request)
        scaled = replace(request, scale=scale)
        vectors = {subject.token_id(ghost_token): ghost_vector(subject, scaled)}
        if request.second_used is not None:
            source: dict[str, Any] = {**dict.fromkeys(SOURCES), "direction": request.second_used}
            second = ghost_vector(subject, replace(scaled, **source))
            vectors[subject.token_id(second_token)] = second
        return cls(subject, request, Prompt(tuple(ids), vectors), scale)

    def lift_measurement(self) -> LiftMeasurement | None:
        """Return what measures the lift of the tree, None where there is nothing to measure."""
        from sae_explorer.analyses.lift import LiftMeasurement, random_prompts

        if not self.request.lift or self._has_lift or not self.finished:
            return None
        order, parent = self._rows()
        request = replace(self.request, scale=self.scale)
        prompts = random_prompts(
            self.subject, request, self.prompt, self.request.lift, self.request.lift_seed
        )
        return LiftMeasurement(
            self.subject,
            parent,
            self.token_id[order],
            np.log(self.cumulative[order]),
            prompts,
            self.request.interventions,
        )

    @property
    def _has_lift(self) -> bool:
        """Whether the lift of all rows is known, as they are now."""
        return self._lift is not None and self._lift[0] == self.cutoff

    def take_lift(self, measured: LiftMeasurement) -> None:
        """Keep the lift of the rows, unless it was broken off."""
        if measured.finished:
            self._lift = (self.cutoff, measured.result())

    @property
    def begun(self) -> bool:
        return bool(self.prefix[0] >= 0)

    @property
    def open(self) -> int:
        return len(self._open)

    @property
    def threshold(self) -> float:
        """Cumulative probability above which the tree is complete."""
        return float(self.cumulative[self._open].max()) if len(self._open) else self.cutoff

    @property
    def full(self) -> bool:
        """Whether the budget is used up by nodes that nothing still open can displace."""
        budget = self.request.max_nodes
        if budget is None or not len(self._open):
            return False
        # A node found is not yet a node earned: an open branch may still bring better ones.
        settled = np.count_nonzero(self.cumulative > self.threshold)
        return bool(settled >= budget)

    @property
    def finished(self) -> bool:
        return self.begun and (not len(self._open) or self.full)

    def best_open(self, limit: int) -> IntArray:
        """Take the ``limit`` most probable open nodes, all of them where there are fewer."""
        if len(self._open) > limit:
            order = np.argsort(-self.cumulative[self._open], kind="stable")
            return self._open[np.sort(order[:limit])]
        return self._open

    def grow(self, nodes: IntArray, prefixes: IntArray, children: NextTokens) -> None:
        """Record that ``nodes`` were run as ``prefixes``, and what follows them."""
        k = children.token_ids.shape[1]
        size = len(self.parent)
        cumulative = self.cumulative[nodes][:, None] * children.probabilities
        new = np.arange(size, size + cumulative.size, dtype=np.int32)
        self.parent = np.concatenate([self.parent, np.repeat(nodes, k)])
        self.depth = np.concatenate([self.depth, np.repeat(self.depth[nodes] + 1, k)])
        self.token_id = np.concatenate([self.token_id, children.token_ids.ravel()])
        self.probability = np.concatenate([self.probability, children.probabilities.ravel()])
        self.cumulative = np.concatenate([self.cumulative, cumulative.ravel()])
        prefix = np.concatenate([self.prefix, np.full(len(new), -1, np.int32)])
        prefix[nodes] = prefixes
        # Last, since an interrupt may come anywhere: what prefix does not cover does not count.
        self.prefix = prefix
        self.kept += int(np.count_nonzero(cumulative >= self.cutoff))
        still = self._open[~np.isin(self._open, nodes)]
        self._open = np.concatenate([still, self._to_run(new)])

    def lower(self, cutoff: float) -> None:
        """Lower the cutoff: children already seen come in, and are to be run in their turn."""
        if not 0 < cutoff < self.cutoff:
            raise ExplorerError(
                f"The cutoff is {self.cutoff:g}; {cutoff:g} is not lower. Grow a new tree instead."
            )
        self.cutoff = cutoff
        self.kept = int(np.count_nonzero(self.cumulative >= cutoff))
        self._open = self._to_run(np.flatnonzero(self.prefix < 0).astype(np.int32))

    def _to_run(self, nodes: IntArray) -> IntArray:
        deep = self.depth[nodes] < self.request.max_depth
        return nodes[(self.cumulative[nodes] >= self.cutoff) & deep]

    def _kept(self) -> IntArray:
        """Return the nodes above the cutoff, most probable first."""
        kept = np.flatnonzero(self.cumulative[: len(self.prefix)] >= self.cutoff)
        # A parent comes before its children even where they are as probable as it is.
        by_rank = np.lexsort((self.token_id[kept], self.depth[kept], -self.cumulative[kept]))
        return kept[by_rank].astype(np.int32)

    def _rows(self) -> tuple[IntArray, IntArray]:
        """Return the nodes of the result's rows, and the row of each one's parent."""
        order = self._kept()[: self.request.max_nodes]
        row_of = np.full(len(self.prefix), -1, np.int32)
        row_of[order] = np.arange(len(order), dtype=np.int32)
        parent = row_of[self.parent[order]]
        parent[0] = -1
        return order, parent

    def result(self, provenance: Provenance) -> DefinitionTree:
        """Return the tree as it is now."""
        order, parent = self._rows()
        budget = self.request.max_nodes
        over = budget is not None and not len(self._open) and len(self._kept()) > budget
        status = "partial" if len(self._open) else "complete"
        if self.full or over:
            status = "budget"
        if self.request.lift and self.finished and not self._has_lift:
            status = "partial"
        lift = self._lift[1] if self._lift and self._has_lift else None
        probability, cumulative = self.probability[order], self.cumulative[order]
        expanded = self.prefix[order] >= 0
        followed = np.bincount(parent[1:], weights=probability[1:], minlength=len(order))
        cut = np.where(expanded, cumulative * np.clip(1 - followed, 0.0, 1.0), 0.0)
        token_id = self.token_id[order]
        used = np.unique(token_id[1:])
        return DefinitionTree(
            request=replace(self.request, cutoff=self.cutoff, scale=self.scale),
            provenance=provenance,
            status=status,
            prompt_ids=self.prompt.ids,
            ghost_ids=tuple(self.prompt.ghosts),
            end_ids=self.subject.end_ids,
            ghost_vectors=np.stack(list(self.prompt.ghosts.values())),
            parent=parent,
            depth=self.depth[order],
            token_id=token_id,
            probability=probability,
            cumulative_probability=cumulative,
            cut_probability=cut,
            expanded=expanded,
            texts=dict(zip(used.tolist(), self.subject.token_texts(used.tolist()), strict=True)),
            lift=lift,
            subject=self.subject,
        )
