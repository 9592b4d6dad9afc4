"""The definition tree as a result: its columns, what can be read off it, and its file formats."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, overload

import numpy as np

from sae_explorer.analyses import tree_drawing, tree_formats
from sae_explorer.errors import ExplorerError
from sae_explorer.results import Provenance, Result, column, packed, write_bytes
from sae_explorer.text import join_tokens

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import networkx as nx
    import pandas as pd
    from numpy.typing import NDArray
    from rich.console import Group

    from sae_explorer.analyses.trees import TreeRequest
    from sae_explorer.model.decoding import Prompt
    from sae_explorer.subject import Subject

#: What closes the quotation that a prompt leaves open.
_CLOSING = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "„": "“", "(": ")", "[": "]"}


def closing_of(prompt: str) -> str:
    """Return what closes the quotation that a prompt leaves open; empty if none is open."""
    return _CLOSING.get(prompt.rstrip()[-1:], "")


_COLUMNS = {
    "parent": np.int32,
    "depth": np.int32,
    "token_id": np.int32,
    "probability": np.float64,
    "cumulative_probability": np.float64,
    "cut_probability": np.float64,
    "expanded": np.bool_,
}


@dataclass(frozen=True)
class Definition:
    """One path through a tree, as text.

    Parameters
    ----------
    text
        The answer without its closing quote; an answer that the tree breaks off ends in "…".
    probability
        Cumulative probability of the path, the closing quote included.
    complete
        Whether the answer ends by itself, in the tree.
    row
        Row of the path's last node.
    token_ids
        The path.
    lift
        Log of how many times as probable the path is as after random directions; None where that
        was not measured.
    """

    text: str
    probability: float
    complete: bool
    row: int
    token_ids: tuple[int, ...]
    lift: float | None = None


@dataclass(frozen=True, eq=False, repr=False)
class DefinitionTree(Result):
    """All answers above a cutoff to the question what a vector means.

    Nodes are rows, the most probable first, a parent before its children; row 0 is the root, the
    end of the prompt. A tree with a higher cutoff, or a smaller budget, is therefore made of the
    first rows of this one.

    Parameters
    ----------
    request
        The options that the tree was grown with.
    provenance
        Model, SAE and versions.
    status
        ``"complete"``; ``"budget"``, when it holds only the most probable nodes; or ``"partial"``,
        when it was cancelled.
    prompt_ids
        Token ids of the prompt.
    ghost_ids
        Token ids whose embedding the vector took, and whose probability was removed.
    end_ids
        Token ids that end a text.
    ghost_vectors
        The vector of each of them, shape ``[ghosts, d_model]``, float32.
    parent
        Row of the parent, -1 for the root; int32.
    depth
        Number of tokens after the prompt; int32.
    token_id
        Token of the node, -1 for the root; int32.
    probability
        Probability of the token after its parent; float64.
    cumulative_probability
        Product of the probabilities along the path; float64.
    cut_probability
        How much of the cumulative probability goes on to tokens that are not in the tree; float64,
        0 for a node that was not run.
    expanded
        Whether the node was run. Nodes at the largest depth are not, and in a partial tree others.
    texts
        Text of every token in the tree, a leading space included.
    lift
        ``log P(path | ghost) - log mean_r P(path | random direction r)`` of each node, natural
        logarithm, 0 for the root; float64. None where it was not asked for, or not finished.
    subject
        The live subject, None for a tree read from a file.
    """

    kind: ClassVar[str] = "definition-tree"
    format: ClassVar[int] = 2
    index_label: ClassVar[str | None] = "row"

    request: TreeRequest
    provenance: Provenance
    status: str
    prompt_ids: tuple[int, ...]
    ghost_ids: tuple[int, ...]
    end_ids: tuple[int, ...]
    ghost_vectors: NDArray[np.float32]
    parent: NDArray[np.int32]
    depth: NDArray[np.int32]
    token_id: NDArray[np.int32]
    probability: NDArray[np.float64]
    cumulative_probability: NDArray[np.float64]
    cut_probability: NDArray[np.float64]
    expanded: NDArray[np.bool_]
    texts: dict[int, str]
    lift: NDArray[np.float64] | None = None
    subject: Subject | None = field(default=None)

    def __post_init__(self) -> None:
        for name in (*_COLUMNS, "ghost_vectors"):
            getattr(self, name).setflags(write=False)
        if self.lift is not None:
            self.lift.setflags(write=False)

    @property
    def ghost_vector(self) -> NDArray[np.float32]:
        """The vector in place of the made-up word, shape ``[d_model]``; the first of two."""
        first: NDArray[np.float32] = self.ghost_vectors[0]
        return first

    def __len__(self) -> int:
        """Return the number of nodes, the root included."""
        return len(self.parent)

    def __repr__(self) -> str:
        best = "; ".join(repr(d.text) for d in self.definitions(3))
        return (
            f"DefinitionTree({self.request.label}, {len(self):,} nodes, {self.status}, "
            f"covers {self.covered_probability:.0%}: {best})"
        )

    def __rich__(self) -> Group:
        from rich.console import Group

        return Group(tree_formats.answers(self), tree_formats.rich_tree(self))

    @property
    def partial(self) -> bool:
        """Whether growth was stopped before the tree was complete or its budget was used up."""
        return self.status == "partial"

    @property
    def tokens(self) -> list[str]:
        """Text of each node's token; empty for the root."""
        return [self.texts.get(i, "") for i in self.token_id.tolist()]

    @cached_property
    def children(self) -> list[list[int]]:
        """Rows of each node's children, most probable first."""
        rows: list[list[int]] = [[] for _ in range(len(self))]
        for row, parent in enumerate(self.parent.tolist()):
            if parent >= 0:
                rows[parent].append(row)
        return rows

    @cached_property
    def covered_probability(self) -> float:
        """Probability that an answer begins with a path from the root to a tip of the tree.

        Every answer either does, or leaves the tree at a node before: the rest is the sum of
        ``cut_probability`` over the nodes with children in the tree, and over the root. What comes
        after a tip is left open; :meth:`coverage` counts token by token instead.
        """
        tips = np.ones(len(self), dtype=bool)
        tips[0] = False
        tips[self.parent[1:]] = False
        return float(self.cumulative_probability[tips].sum())

    def coverage(self) -> pd.DataFrame:
        """Return how much of the probability the tree keeps, token by token.

        Returns
        -------
        pandas.DataFrame
            One row a depth from 1: ``kept``, the probability that an answer's first ``depth``
            tokens (all of them, if it ends before) are in the tree; ``cut``, that they are not;
            ``open``, what is not known because a node before was not run, which is 0 but in a
            partial tree. The three add up to 1.
        """
        import pandas as pd

        ended = np.isin(self.token_id, self.end_ids)
        beyond = self._behind(ended)
        not_run = ~self.expanded & (self.depth < self.request.max_depth) & ~ended
        rows = []
        # One depth further than the tree: there only what ended before is kept.
        for depth in range(1, min(int(self.depth.max()) + 1, self.request.max_depth) + 1):
            before = (self.depth < depth) & ~beyond
            reached = (self.depth == depth) & ~beyond
            kept = self.cumulative_probability[reached | (before & ended)].sum()
            unknown = self.cumulative_probability[before & not_run].sum()
            cut = self.cut_probability[before & ~ended].sum()
            rows.append((depth, kept, cut, unknown))
        return pd.DataFrame(rows, columns=["depth", "kept", "cut", "open"])

    @property
    def closing(self) -> str:
        """What closes the quotation that the prompt leaves open; empty if none is open."""
        return closing_of(self.request.prompt)

    def _behind(self, ends: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which nodes have one of the nodes marked in ``ends`` among their ancestors."""
        behind = np.zeros(len(self), dtype=bool)
        # A child's row comes after its parent's, so one pass is enough.
        for row, parent in enumerate(self.parent.tolist()):
            if parent >= 0:
                behind[row] = behind[parent] or ends[parent]
        return behind

    def path(self, row: int) -> list[int]:
        """Return the rows from the root's child down to ``row``; empty for the root."""
        if not 0 <= row < len(self):
            raise ExplorerError(f"There is no node {row}: the tree has rows 0 to {len(self) - 1}.")
        rows = []
        while row > 0:
            rows.append(row)
            row = int(self.parent[row])
        return rows[::-1]

    def text(self, row: int) -> str:
        """Return the answer up to a node, as it would be written."""
        return join_tokens([self.texts[int(self.token_id[r])] for r in self.path(row)]).lstrip()

    def definitions(
        self, limit: int | None = 10, by: Literal["probability", "lift"] = "probability"
    ) -> list[Definition]:
        """Return the most probable answers as text.

        An answer is complete where it closes the quotation that the prompt leaves open, or ends the
        text. Where a branch of the tree stops before, its tip stands for what follows. What comes
        after a complete answer is no part of any.

        Parameters
        ----------
        limit
            How many; None for all.
        by
            ``"lift"`` puts those first which random directions would have said least.

        Raises
        ------
        ExplorerError
            For ``by="lift"`` if the tree has no lift.
        """
        if by not in ("probability", "lift"):
            raise ExplorerError(f"by is {by!r}; it must be 'probability' or 'lift'.")
        if by == "lift" and self.lift is None:
            raise ExplorerError(
                "The tree has no lift. Grow it with lift=8, or take measure_lift(tree)."
            )
        closing = self.closing
        ends = np.array([self._ends(token_id, closing) for token_id in self.token_id.tolist()])
        behind = self._behind(ends)
        found = []
        for row in range(1, len(self)):
            if behind[row] or not (ends[row] or not self.children[row]):
                continue
            text = self.text(row)
            if ends[row]:
                if int(self.token_id[row]) in self.end_ids:
                    text = self.text(int(self.parent[row])) if self.parent[row] > 0 else ""
                elif closing:
                    text = text[: text.index(closing)]
            else:
                text += "…"
            path = tuple(int(self.token_id[r]) for r in self.path(row))
            probability = float(self.cumulative_probability[row])
            lift = None if self.lift is None else float(self.lift[row])
            found.append(Definition(text, probability, bool(ends[row]), row, path, lift))
            if by == "probability" and limit is not None and len(found) == limit:
                break
        if by == "lift":
            # What was not measured comes last.
            found.sort(key=lambda one: -np.nan_to_num(one.lift or 0.0, nan=-np.inf, posinf=np.inf))
        return found[:limit]

    def _ends(self, token_id: int, closing: str) -> bool:
        text = self.texts.get(token_id, "")
        return token_id in self.end_ids or bool(closing and closing in text)

    def probability_of(self, answer: str | Sequence[int], subject: Subject | None = None) -> float:
        """Return the probability of a given answer, also where it leaves the tree.

        Parameters
        ----------
        answer
            Text, as it would follow the prompt, or token ids.
        subject
            The model, needed for a tree that was read from a file.

        Returns
        -------
        float
            Product of the probabilities along the answer's tokens; 0 if it holds the ghost's own.
        """
        from sae_explorer.model.scoring import score

        live = self.live_subject(subject)
        if isinstance(answer, str):
            path = live.continuation_ids(self.request.prompt, answer)
        else:
            path = [int(i) for i in answer]
        if not path:
            return 1.0
        # A tree of one branch: each node's parent is the one before it.
        parent = np.arange(-1, len(path), dtype=np.int32)
        tokens = np.array([-1, *path], np.int32)
        prompts = [self.prompt_with_ghosts()]
        found = score(live, parent, tokens, prompts, self.request.interventions)
        return float(np.exp(found.sum()))

    def greedy(
        self, stop: str | None = None, max_tokens: int = 50, subject: Subject | None = None
    ) -> Definition:
        """Return the answer that takes the most probable token at every step.

        Parameters
        ----------
        stop
            Text before which the answer ends; None for the quote that closes the prompt's, or a
            line break where it leaves none open.
        max_tokens
            Length at which it is broken off.
        subject
            As in :meth:`probability_of`.
        """
        from sae_explorer.model.changes import applied
        from sae_explorer.model.decoding import open_decoder

        live = self.live_subject(subject)
        closing = (self.closing or "\n") if stop is None else stop
        if not closing:
            raise ExplorerError("stop is empty; give the text before which the answer ends.")
        path: list[int] = []
        probability, text, complete = 1.0, "", False
        with live.run():
            decoder = open_decoder(live.model, 1, max_tokens, self.prompt_with_ghosts())
            with applied(live, self.request.interventions):
                prefix, found = decoder.start([self.prompt_with_ghosts()])
                while True:
                    token = int(found.token_ids[0, 0])
                    probability *= float(found.probabilities[0, 0])
                    path.append(token)
                    text = live.continuation_text(self.prompt_ids, path).lstrip()
                    ended = token in self.end_ids
                    complete = ended or closing in text
                    if complete or len(path) == max_tokens:
                        break
                    prefix, found = decoder.extend(prefix, found.token_ids[:, 0])
        if closing in text:
            text = text[: text.index(closing)]
        elif complete:
            text = live.continuation_text(self.prompt_ids, path[:-1]).lstrip()
        else:
            text += "…"
        return Definition(text, probability, complete, self.row_of(path), tuple(path))

    def row_of(self, path: Sequence[int]) -> int:
        """Return the row that a path of token ids ends in, -1 if it leaves the tree."""
        row = 0
        for token in path:
            matching = [r for r in self.children[row] if self.token_id[r] == token]
            if not matching:
                return -1
            row = matching[0]
        return row

    def prompt_with_ghosts(self) -> Prompt:
        """Return the prompt as the model is given it: its tokens, and the vectors in some of them."""
        from sae_explorer.model.decoding import Prompt

        return Prompt(self.prompt_ids, dict(zip(self.ghost_ids, self.ghost_vectors, strict=True)))

    def live_subject(self, subject: Subject | None = None) -> Subject:
        """Return the model that can be asked about the tree: its own, or the one that is given.

        Raises
        ------
        ExplorerError
            If there is none, or it is not the one that the tree was grown with.
        """
        live = subject or self.subject
        if live is None:
            raise ExplorerError(
                "The tree was read from a file, so it has no model to ask. Give one: subject=..."
            )
        if live.d_model != len(self.ghost_vector):
            raise ExplorerError(
                f"The tree's vector has {len(self.ghost_vector)} numbers, the model's embeddings "
                f"have {live.d_model}. Give the model it was grown with: "
                f"{self.provenance.model['id']}."
            )
        if live is not self.subject:
            self._check_model(live)
        if self.request.interventions and live is not self.subject:
            grown_with = self.provenance.sae
            chosen = live.sae.describe() if live.saes else {}
            if chosen.get("fingerprint") != grown_with["fingerprint"]:
                raise ExplorerError(
                    f"The tree was grown under interventions of {grown_with['id']}, which is not "
                    "the SAE that the subject has selected. Select it first, as in "
                    "subject.select(sae_id=...)."
                )
        return live

    def _check_model(self, live: Subject) -> None:
        """Refuse a model whose answers are not those that the tree holds."""
        known, given = self.provenance.model, live.provenance(with_sae=False).model
        # In another dtype the weights are others, to the letter.
        names = ["fingerprint"] if known["dtype"] == given["dtype"] else ["id", "architecture"]
        if any(known[name] != given[name] for name in names):
            raise ExplorerError(
                f"The tree was grown with {known['id']} ({known['architecture']}, weights "
                f"{known['fingerprint']}), not with this {given['id']} ({given['architecture']}, "
                f"weights {given['fingerprint']}). Give the model it was grown with."
            )

    def to_frame(self) -> pd.DataFrame:
        """Return one row a node, the root first with parent -1; ``parent`` is a row number.

        Columns: ``parent, depth, token_id, token, probability, cumulative_probability,
        cut_probability, expanded``, and ``lift`` where it was measured.
        """
        import pandas as pd

        frame = pd.DataFrame({name: getattr(self, name) for name in _COLUMNS})
        frame.insert(3, "token", self.tokens)
        if self.lift is not None:
            frame["lift"] = self.lift
        return frame

    def to_newick(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return the tree in Newick format; or write it to ``path``, and return that.

        A branch is as long as -log of its probability.
        """
        return self._written(tree_formats.newick(self), path)

    def to_dot(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return the tree in Graphviz' DOT language; or write it to ``path``, and return that.

        It is drawn left to right, with lines as wide as in the view.
        """
        return self._written(tree_formats.dot(self), path)

    def to_svg(
        self,
        path: str | os.PathLike[str] | None = None,
        limit: int | None = tree_drawing.DEFAULT_LIMIT,
    ) -> str:
        """Return a drawing of the tree as SVG; or write it to ``path``, and return that.

        The root is on the left.

        Parameters
        ----------
        path
            Where to write it.
        limit
            How many nodes to draw, the most probable; None for all.
        """
        return self._written(tree_drawing.svg(self, limit), path)

    @overload
    def to_png(self, path: None = None, limit: int | None = ..., dpi: float = ...) -> bytes: ...

    @overload
    def to_png(
        self, path: str | os.PathLike[str], limit: int | None = ..., dpi: float = ...
    ) -> str: ...

    def to_png(
        self,
        path: str | os.PathLike[str] | None = None,
        limit: int | None = tree_drawing.DEFAULT_LIMIT,
        dpi: float = tree_drawing.DEFAULT_DPI,
    ) -> bytes | str:
        """Return the drawing of :meth:`to_svg` as PNG; or write it to ``path``, and return that.

        Parameters
        ----------
        path, limit
            As in :meth:`to_svg`.
        dpi
            Dots per inch; a label is an eighth of an inch high.
        """
        drawn = tree_drawing.png(self, limit, dpi)
        if path is None:
            return drawn
        write_bytes(path, drawn)
        return os.fspath(path)

    def to_networkx(self) -> nx.DiGraph[int]:
        """Return a directed graph: nodes are rows, with the columns as their attributes."""
        return tree_formats.networkx_graph(self)

    def preorder(self) -> Iterator[tuple[int, int]]:
        """Yield ``(row, depth)`` from the root, each node before its children."""
        stack = [0]
        while stack:
            row = stack.pop()
            yield row, int(self.depth[row])
            stack.extend(reversed(self.children[row]))

    def payload(
        self, subject: Subject | None = None, *, first: int = 0, stop: int | None = None
    ) -> dict[str, Any]:
        """Return rows of the tree as columns; see :meth:`Result.payload`.

        Parameters
        ----------
        subject
            Not needed.
        first, stop
            The rows to return. Tokens are numbered in the order in which rows bring them up, so
            that rows which are sent later go on from those before.
        """
        rows = slice(first, stop)
        ids, begins, entries = np.unique(
            self.token_id[:stop], return_index=True, return_inverse=True
        )
        order = np.argsort(begins)
        number = np.empty(len(order), np.int32)
        number[order] = np.arange(len(order), dtype=np.int32)
        first_token = int(np.count_nonzero(begins < first))
        new = ids[order[first_token:]].astype(np.int32)
        numbers = number[entries][rows].astype(np.uint16 if len(ids) <= 2**16 else np.int32)
        return {
            **super().payload(subject),
            "status": self.status,
            "prompt": self.request.prompt,
            "scale": self.request.scale,
            "end_ids": list(self.end_ids),
            "closing": self.closing,
            "covered": self.covered_probability,
            "first": first,
            "parent": packed(self.parent[rows]),
            "token": packed(numbers),
            "probability": packed(self.probability[rows].astype(np.float32)),
            "expanded": packed(self.expanded[rows].astype(np.uint8)),
            "lift": None if self.lift is None else packed(self.lift[rows].astype(np.float32)),
            "first_token": first_token,
            "token_id": packed(new),
            "text": [self.texts.get(i, "") for i in new.tolist()],
        }

    def _body(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "prompt_ids": list(self.prompt_ids),
            "ghost_ids": list(self.ghost_ids),
            "end_ids": list(self.end_ids),
            "ghost_vectors": column(self.ghost_vectors),
            "columns": {name: column(getattr(self, name)) for name in _COLUMNS},
            "lift": None if self.lift is None else column(self.lift),
            "texts": {str(token_id): text for token_id, text in self.texts.items()},
        }

    @classmethod
    def _from_body(
        cls, body: dict[str, Any], request: dict[str, Any], provenance: Provenance
    ) -> Self:
        from sae_explorer.analyses.trees import TreeRequest

        columns: dict[str, Any] = {
            name: np.asarray(body["columns"][name], kind) for name, kind in _COLUMNS.items()
        }
        return cls(
            request=TreeRequest.from_options(request),
            provenance=provenance,
            status=body["status"],
            prompt_ids=tuple(body["prompt_ids"]),
            ghost_ids=tuple(body["ghost_ids"]),
            end_ids=tuple(body["end_ids"]),
            ghost_vectors=np.asarray(body["ghost_vectors"], np.float32),
            lift=None if body["lift"] is None else np.asarray(body["lift"], np.float64),
            texts={int(token_id): text for token_id, text in body["texts"].items()},
            **columns,
        )
