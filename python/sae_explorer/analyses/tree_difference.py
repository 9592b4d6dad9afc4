"""Two trees aligned node by node: which answers appear, vanish, gain and lose.

The trees are laid on top of each other, token by token from the root. A node that only one of them
has may have vanished from the other, or lie just below its cutoff: with a live model its probability
in the other is computed, so that the two can be told apart.
"""

from __future__ import annotations

import threading
import warnings
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from sae_explorer.analyses import Progress
from sae_explorer.analyses.definition_tree import DefinitionTree
from sae_explorer.analyses.lift import along_paths
from sae_explorer.analyses.trees import TreeProgress, TreeRequest, run_many
from sae_explorer.errors import ExplorerError, PartialResultWarning, did_you_mean
from sae_explorer.model.ghost import SOURCES, DirectionRequest
from sae_explorer.model.scoring import PathScorer
from sae_explorer.request import from_text, option, options, takes
from sae_explorer.results import Provenance, Result, packed
from sae_explorer.text import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pandas as pd
    from numpy.typing import NDArray
    from rich.table import Table

    from sae_explorer.subject import Subject

PLAIN = "plain"

#: Log ratio of probabilities that are taken to be alike: 2 %.
_ALIKE = 0.02

#: What stops a step before it begins, once the one before was interrupted.
_STOPPED = threading.Event()
_STOPPED.set()

_COLUMNS = {
    "probability_one": np.float64,
    "probability_two": np.float64,
    "in_one": np.bool_,
    "in_two": np.bool_,
}


@dataclass(frozen=True, kw_only=True)
class DifferenceRequest(TreeRequest):
    """The question whose answer is a :class:`TreeDifference`."""

    group: ClassVar[str] = "difference"

    against: str = option(
        PLAIN,
        "What the tree is compared with: 'plain' for the one without interventions, or one option "
        "with another value, such as 'weights=decoder', 'feature=17' or 'scale=2'.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.pair()

    @property
    def label(self) -> str:
        """What is compared, in a few words."""
        return f"{super().label}, against {self.against}"

    @property
    def tree(self) -> TreeRequest:
        """The tree that is compared with another one."""
        return TreeRequest(**{name: getattr(self, name) for name in options(TreeRequest)})

    def pair(self) -> tuple[TreeRequest, TreeRequest]:
        """Return the first and the second tree.

        The plain tree is the first: what appears is what the interventions bring. Otherwise the
        first is the tree that the options describe.

        Raises
        ------
        ExplorerError
            If ``against`` says no other tree.
        """
        own = replace(self.tree, lift=0)
        if self.against == PLAIN:
            return replace(own, interventions=()), own
        name, equals, text = (part.strip() for part in self.against.partition("="))
        known = [each for each in options(TreeRequest) if not each.startswith("lift")]
        if not equals or name not in known:
            hint = did_you_mean(name, (PLAIN, *known))
            raise ExplorerError(
                f"against is {self.against!r}; it must be 'plain', or an option of the tree with "
                f"another value, such as 'weights=decoder' or 'feature=17'.{hint}"
            )
        others = dict.fromkeys(SOURCES) if name in SOURCES else {}
        changed: dict[str, Any] = {**others, name: from_text(TreeRequest, name, text)}
        return own, replace(own, **changed)


@dataclass(frozen=True)
class Change:
    """One answer of two trees.

    Parameters
    ----------
    text
        The answer, as a :class:`~sae_explorer.Definition` has it.
    probability_one, probability_two
        Of the whole path in each tree; None where it is not known.
    fate
        ``"appears"``, ``"vanishes"``, ``"gains"``, ``"loses"`` or ``"stays"``, from the first tree
        to the second. What appears was below the cutoff of the first tree, what vanishes is below
        that of the second.
    complete
        Whether the answer ends by itself.
    row
        Row of the path's last node.
    """

    text: str
    probability_one: float | None
    probability_two: float | None
    fate: str
    complete: bool
    row: int


@dataclass(frozen=True, eq=False, repr=False)
class TreeDifference(Result):
    """Two trees in one, node by node.

    Parameters
    ----------
    request
        The options, where both trees were grown for the comparison; else those of the first.
    provenance
        Model, SAE and versions of the first tree.
    other, other_provenance
        Options and provenance of the second tree.
    status
        ``"complete"``, or ``"partial"`` when a tree is partial, or the comparison was cancelled.
    union
        A tree of the nodes of both; a node's cumulative probability is the larger of the two.
    probability_one, probability_two
        Cumulative probability of each row of the union in either tree; float64. It is exact also
        where the tree lacks the node, NaN where that was not computed.
    in_one, in_two
        Whether each tree has the node.
    """

    kind: ClassVar[str] = "tree-difference"
    index_label: ClassVar[str | None] = "row"

    request: TreeRequest
    provenance: Provenance
    other: TreeRequest
    other_provenance: Provenance
    status: str
    union: DefinitionTree
    probability_one: NDArray[np.float64]
    probability_two: NDArray[np.float64]
    in_one: NDArray[np.bool_]
    in_two: NDArray[np.bool_]

    def __post_init__(self) -> None:
        for name in _COLUMNS:
            getattr(self, name).setflags(write=False)

    @classmethod
    def of(
        cls, one: DefinitionTree, two: DefinitionTree, subject: Subject | None = None
    ) -> TreeDifference:
        """Compare two trees that have been grown.

        Parameters
        ----------
        one, two
            Trees of the same vocabulary.
        subject
            The model, to compute what a tree lacks where it was read from a file.

        Raises
        ------
        ExplorerError
            If the trees' tokens are not the same, or the subject is not the trees' own.

        Examples
        --------
        >>> TreeDifference.of(  # doctest: +SKIP
        ...     grow_tree(subject, feature=302), grow_tree(subject, feature=302, weights="decoder")
        ... )
        """
        for tree in (one, two):
            if not isinstance(tree, DefinitionTree):
                raise ExplorerError(
                    f"{type(tree).__name__} is no tree; give two, such as grow_tree(...) returns."
                )
        comparison = _Comparison(one, two, subject)
        for _ in comparison.steps():
            pass
        return comparison.result(one.request)

    def __len__(self) -> int:
        """Return the number of nodes of both trees together, the root included."""
        return len(self.union)

    def __repr__(self) -> str:
        counts = self.counts
        return (
            f"TreeDifference({self.names[0]} to {self.names[1]}: {counts['both']:,} nodes in both, "
            f"{counts['two']:,} appear, {counts['one']:,} vanish)"
        )

    def __rich__(self) -> Table:
        return self.table()

    def table(self, limit: int = 20) -> Table:
        """Return the definitions that change most, for a terminal."""
        from rich.table import Table
        from rich.text import Text

        about, (one, two) = self.request.label, self.names
        table = Table(title=f"{about}: from {one} to {two}")
        table.add_column("definition")
        table.add_column("")
        for name in self.names:
            table.add_column(name, justify="right")
        for change in self.definitions(limit):
            shown = [
                "" if p is None else f"{p:.3%}"
                for p in (change.probability_one, change.probability_two)
            ]
            table.add_row(Text(visible(change.text)), change.fate, *shown)
        return table

    @property
    def names(self) -> tuple[str, str]:
        """What each tree is, in the words by which they differ."""
        one, two = self.union.request, self.other
        differ = [n for n in options(TreeRequest) if getattr(one, n) != getattr(two, n)]
        parts = [name for name in differ if name not in (*SOURCES, "lift", "lift_seed")]
        told = (_told(one, parts), _told(two, parts))
        if any(name in SOURCES for name in differ):
            sources = (DirectionRequest.label.fget(r) for r in (one, two))  # type: ignore[attr-defined]
            told = tuple(", ".join(filter(None, pair)) for pair in zip(sources, told, strict=True))  # type: ignore[assignment]
        if told[0] == told[1]:
            return ("first", "second")
        return told

    @property
    def counts(self) -> dict[str, int]:
        """How many nodes, the root left out, are in ``both`` trees, only in ``one``, only in ``two``."""
        one, two = self.in_one[1:], self.in_two[1:]
        found = {"both": one & two, "one": one & ~two, "two": two & ~one}
        return {name: int(np.count_nonzero(rows)) for name, rows in found.items()}

    @property
    def log_ratio(self) -> NDArray[np.float64]:
        """Log of how many times as probable each node is in the second tree; NaN if not known."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(self.probability_two) - np.log(self.probability_one)

    @property
    def fate(self) -> list[str]:
        """What becomes of each node from the first tree to the second; see :class:`Change`."""
        ratio = self.log_ratio
        words = np.full(len(self), "stays", dtype=object)
        words[ratio > _ALIKE] = "gains"
        words[ratio < -_ALIKE] = "loses"
        # A node may also be missing because it is not among the most probable next tokens, though it is
        # more probable than the cutoff.
        words[~self.in_one & ~(self.probability_one >= self.union.request.cutoff)] = "appears"
        words[~self.in_two & ~(self.probability_two >= self.other.cutoff)] = "vanishes"
        return words.tolist()

    def definitions(self, limit: int | None = 10) -> list[Change]:
        """Return the answers of both trees, those first whose probability changes most.

        Parameters
        ----------
        limit
            How many; None for all.
        """
        fate = self.fate
        changes = [
            Change(
                found.text,
                _known(self.probability_one[found.row]),
                _known(self.probability_two[found.row]),
                fate[found.row],
                found.complete,
                found.row,
            )
            for found in self.union.definitions(None)
        ]
        changes.sort(key=lambda c: -abs((c.probability_two or 0.0) - (c.probability_one or 0.0)))
        return changes[:limit]

    def to_frame(self) -> pd.DataFrame:
        """Return one row a node, the root first with parent -1; ``parent`` is a row number.

        Columns: ``parent, depth, token_id, token, probability_one, probability_two, in_one, in_two,
        log_ratio, fate``. The probabilities are cumulative; NaN stands for what is not known.
        """
        import pandas as pd

        return pd.DataFrame(
            {
                "parent": self.union.parent,
                "depth": self.union.depth,
                "token_id": self.union.token_id,
                "token": self.union.tokens,
                **{name: getattr(self, name) for name in _COLUMNS},
                "log_ratio": self.log_ratio,
                "fate": self.fate,
            }
        )

    def payload(self, subject: Subject | None = None) -> dict[str, Any]:
        """Return the union as a tree, and both trees' columns; see :meth:`Result.payload`.

        ``one`` and ``two`` are -1 where a tree lacks the node; ``exact_one`` and ``exact_two`` have
        its probability there too, NaN where it is not known.
        """
        exact = (self.probability_one, self.probability_two)
        own = [np.where(i, p, -1.0) for i, p in zip((self.in_one, self.in_two), exact, strict=True)]
        return {
            **self.union.payload(subject),
            **super().payload(subject),
            "status": self.status,
            "run": 0,
            "settled": len(self),
            "one": packed(own[0].astype(np.float32)),
            "two": packed(own[1].astype(np.float32)),
            "exact_one": packed(exact[0].astype(np.float32)),
            "exact_two": packed(exact[1].astype(np.float32)),
            "names": list(self.names),
            "counts": self.counts,
        }

    def _body(self) -> dict[str, Any]:
        columns = {
            name: [_known(value) for value in getattr(self, name).tolist()] for name in _COLUMNS
        }
        return {
            "status": self.status,
            "one": self.union.request.to_dict(),
            "two": {"request": self.other.to_dict(), "provenance": asdict(self.other_provenance)},
            "union": self.union._body(),  # noqa: SLF001 - a result within a result
            "columns": columns,
        }

    @classmethod
    def _from_body(
        cls, body: dict[str, Any], request: dict[str, Any], provenance: Provenance
    ) -> Self:
        kind = DifferenceRequest if "against" in request else TreeRequest
        columns: dict[str, Any] = {
            name: np.asarray(body["columns"][name], dtype) for name, dtype in _COLUMNS.items()
        }
        return cls(
            request=kind.from_options(request),
            provenance=provenance,
            other=TreeRequest.from_options(body["two"]["request"]),
            other_provenance=Provenance(**body["two"]["provenance"]),
            status=body["status"],
            union=DefinitionTree._from_body(body["union"], body["one"], provenance),  # noqa: SLF001
            **columns,
        )


@takes(DifferenceRequest, without=("lift", "lift_seed"))
def compare_trees(
    subject: Subject,
    *,
    progress: Callable[[Progress], object] | None = None,
    cancel: threading.Event | None = None,
    **options: Any,
) -> TreeDifference:
    """Grow two trees that differ in one option, and compare them node by node.

    Parameters
    ----------
    subject
        The model and the SAE.
    progress
        Called after every step with a :class:`~sae_explorer.analyses.Progress`.
    cancel
        When it is set, what there is by then is compared, marked partial. An interrupt (Ctrl-C) does
        the same, with a :class:`~sae_explorer.PartialResultWarning`.

    Returns
    -------
    TreeDifference
        One row a node of either tree.

    Raises
    ------
    ExplorerError
        If ``against`` says no other tree, or as :func:`~sae_explorer.grow_tree` does.

    Examples
    --------
    >>> compare_trees(  # doctest: +SKIP
    ...     Subject.demo(), feature=302, interventions=[Clamp(302, 20)]
    ... ).definitions()
    """
    request = DifferenceRequest.from_options(options)
    return run(subject, request, progress=progress, cancel=cancel)


def run(
    subject: Subject,
    request: DifferenceRequest,
    *,
    progress: Callable[[Progress], object] | None = None,
    cancel: threading.Event | None = None,
    tree: DefinitionTree | None = None,
) -> TreeDifference:
    """Answer one request; see :func:`compare_trees`.

    ``tree`` is the one that the request's own options describe, where it has been grown already.
    """
    pair = request.pair()
    if pair[0] == pair[1]:
        raise ExplorerError(
            "Without interventions the tree is the plain one. Add some, such as 'clamp 17 8', or "
            "say what else to compare with, as in against='weights=decoder'."
            if request.against == PLAIN
            else f"against is {request.against!r}, which is what the tree has anyway. Give another "
            "value."
        )
    own = replace(request.tree, lift=0)
    trees = [tree if of == own else None for of in pair]

    def compared() -> _Comparison | None:
        one, two = trees
        return None if one is None or two is None else _Comparison(one, two, subject)

    def growing(text: str, side: int, step: TreeProgress) -> None:
        def snapshot() -> TreeDifference | None:
            trees[side] = next(iter(step.snapshot()), None)
            begun = compared()
            return None if begun is None else begun.result(request)

        if progress is not None:
            progress(Progress(None, f"{text}, {step.nodes:,} nodes", snapshot))

    interrupted = False
    for side, text in enumerate(("first tree", "second tree")):
        if trees[side] is None:
            told = partial(growing, text, side)
            stop = _STOPPED if interrupted else cancel
            (grown,) = run_many(subject, [pair[side]], progress=told, cancel=stop)
            trees[side], interrupted = grown, grown.partial
    comparison = compared()
    assert comparison is not None  # both trees are there, if only their roots
    try:
        for share in comparison.steps(_STOPPED if interrupted else cancel):
            if progress is not None:
                told_of = "nodes that one tree lacks"
                progress(Progress(share, told_of, lambda: comparison.result(request)))
    except KeyboardInterrupt:
        warnings.warn("Interrupted: the result is partial.", PartialResultWarning, stacklevel=3)
    return comparison.result(request)


class _Comparison:
    """The work of a comparison: the union, and the scores that are missing.

    Without a live model the missing scores stay unknown.
    """

    def __init__(
        self, one: DefinitionTree, two: DefinitionTree, subject: Subject | None = None
    ) -> None:
        _check_same_tokens(one, two)
        self._trees = (one, two)
        parent, token, rows = _aligned(one, two)
        self._parent, self._token = parent, token
        self._has = rows >= 0
        self._found = np.full(rows.shape, np.nan)
        for side, tree in enumerate(self._trees):
            own = self._has[side]
            self._found[side, own] = tree.cumulative_probability[rows[side, own]]
        self._rows = rows
        self._subject = subject
        #: Whether all has been computed that can be.
        self._scored = False

    def steps(self, cancel: threading.Event | None = None) -> Iterator[float]:
        """Compute what each tree lacks; give the share that is done after every step."""
        for side, tree in enumerate(self._trees):
            live = self._subject or tree.subject
            if live is None or self._has[side].all():
                continue
            tree.live_subject(live)  # refuses one that the tree is not of
            # What is missing, and the paths that lead there.
            needed = ~self._has[side]
            for node in range(len(needed) - 1, 0, -1):
                needed[self._parent[node]] |= needed[node]
            nodes = np.flatnonzero(needed)
            number = np.cumsum(needed) - 1
            parent = np.where(nodes > 0, number[self._parent[nodes]], -1).astype(np.int32)
            scorer = PathScorer(
                live,
                parent,
                self._token[nodes],
                [tree.prompt_with_ghosts()],
                tree.request.interventions,
            )
            for _ in scorer.steps(cancel):
                yield (side + scorer.share) / 2
            if scorer.share < 1:
                return
            step = np.exp(np.minimum(scorer.log_probability[0], 0.0))
            found = self._found[side]
            for place, node in enumerate(nodes.tolist()):
                # From the tree's own number on, where it has an ancestor.
                if not self._has[side, node]:
                    found[node] = found[self._parent[node]] * step[place]
        self._scored = True

    def result(self, request: TreeRequest) -> TreeDifference:
        """Return the comparison as it is now."""
        one, two = self._trees
        largest = np.fmax(*self._found)
        depth = along_paths(self._parent, (self._parent >= 0).astype(np.float64))
        order = np.lexsort((self._token, depth, -largest))
        row = np.empty(len(order), np.int64)
        row[order] = np.arange(len(order))
        parent = np.where(self._parent[order] >= 0, row[self._parent[order]], -1).astype(np.int32)
        largest = largest[order]
        expanded = np.zeros(len(order), dtype=bool)
        for side, tree in enumerate(self._trees):
            has = self._has[side, order]
            expanded[has] |= tree.expanded[self._rows[side, order][has]]
        union = replace(
            one,
            status="complete",
            parent=parent,
            depth=depth[order].astype(np.int32),
            token_id=self._token[order],
            probability=np.where(parent >= 0, largest / largest[parent], 1.0),
            cumulative_probability=largest,
            cut_probability=np.zeros(len(order)),
            expanded=expanded,
            texts=one.texts | two.texts,
            lift=None,
        )
        broken_off = one.partial or two.partial or not self._scored
        return TreeDifference(
            request=request,
            provenance=one.provenance,
            other=two.request,
            other_provenance=two.provenance,
            status="partial" if broken_off else "complete",
            union=union,
            probability_one=self._found[0, order],
            probability_two=self._found[1, order],
            in_one=self._has[0, order],
            in_two=self._has[1, order],
        )


def _aligned(
    one: DefinitionTree, two: DefinitionTree
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
    """Return the union of two trees: parents, tokens, and the rows of both, ``[2, nodes]``."""
    known: dict[tuple[int, int], int] = {(-1, -1): 0}
    places = []
    for tree in (one, two):
        place: list[int] = []
        for above, token in zip(tree.parent.tolist(), tree.token_id.tolist(), strict=True):
            key = (place[above], token) if above >= 0 else (-1, -1)
            place.append(known.setdefault(key, len(known)))
        places.append(place)
    rows = np.full((2, len(known)), -1, np.int64)
    for side, place in enumerate(places):
        rows[side, place] = np.arange(len(place))
    parent, token = np.array(list(known), np.int32).T
    return parent, token, rows


def _check_same_tokens(one: DefinitionTree, two: DefinitionTree) -> None:
    for token in one.texts.keys() & two.texts.keys():
        if one.texts[token] != two.texts[token]:
            raise ExplorerError(
                f"Token {token} is {one.texts[token]!r} in the first tree and {two.texts[token]!r} in "
                "the second, so their vocabularies differ. Compare trees of one tokenizer."
            )


def _told(request: TreeRequest, names: list[str]) -> str:
    """Return the values of some options in a few words."""
    words = []
    for name in names:
        value = getattr(request, name)
        if name == "interventions":
            words.append(", ".join(one.label for one in value) or PLAIN)
        elif isinstance(value, float):
            words.append(f"{name} {value:g}")
        else:
            words.append(f"{name} {value}")
    return ", ".join(words)


def _known(value: Any) -> Any:
    """Return a number, None for one that is not known."""
    return None if value != value else value  # NaN alone differs from itself
