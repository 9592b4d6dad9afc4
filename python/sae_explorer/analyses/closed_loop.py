"""The closed loop: whether a feature itself answers to the definitions that its tree gives.

Every definition is run as a text through the plain model and the SAE, and the feature's activation
is read off at the definition's own tokens. A tree that says what the feature stands for has
definitions that make it fire, more than those of trees grown from random directions do. How often
that is so is the score: the area under the ROC curve (AUROC) of activation, own definitions against
random ones; 0.5 is chance, 1 is perfect.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from itertools import groupby, zip_longest
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch

from sae_explorer.analyses import Progress
from sae_explorer.analyses.lift import random_vectors
from sae_explorer.analyses.trees import TreeProgress, TreeRequest, run_many
from sae_explorer.errors import ExplorerError, PartialResultWarning
from sae_explorer.model.ghost import SOURCES
from sae_explorer.model.reading import begin_ids, check_length, feature_activations
from sae_explorer.request import option, options, takes
from sae_explorer.results import Provenance, Result, packed
from sae_explorer.text import visible

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Sequence

    import pandas as pd
    from numpy.typing import NDArray
    from rich.table import Table

    from sae_explorer.analyses.definition_tree import Definition, DefinitionTree
    from sae_explorer.subject import Subject

#: Where a definition stands in the text that is run.
PLACE = "{definition}"

_RESAMPLES = 1_000

Path = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class LoopRequest(TreeRequest):
    """The question whose answer is a :class:`ClosedLoop`."""

    group: ClassVar[str] = "loop"

    definitions: int = option(
        50,
        "How many of the most probable definitions to run, those that the tree breaks off included.",
        minimum=1,
        maximum=100_000,
        slider=(10, 200),
    )
    random_trees: int = option(
        4,
        "Number of trees of random directions whose definitions are run for comparison.",
        minimum=1,
        maximum=1_000,
        slider=(1, 16),
    )
    template: str = option(
        PLACE,
        "The text that is run; {definition} marks where the definition goes. What comes after it "
        "changes nothing.",
    )
    loop_seed: int = option(
        0, "Seed of the random directions, and of the score's interval.", minimum=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.feature is None:
            source = next(name for name in SOURCES if getattr(self, name) is not None)
            raise ExplorerError(
                f"The closed loop measures how a feature of the SAE fires; a {source}= has no "
                "activation. Give a feature, as in feature=17."
            )
        if self.template.count(PLACE) != 1:
            raise ExplorerError(
                f"template is {self.template!r}; it must hold {PLACE} once, where the definition "
                f"goes, as in '{PLACE}' or 'It means \"{PLACE}\".'"
            )


@dataclass(frozen=True)
class MeasuredDefinition:
    """A definition, and how the feature answers to it.

    Parameters
    ----------
    text
        The answer; one that the tree breaks off ends in "…".
    probability
        Cumulative probability of the path in its tree.
    activation
        The feature's largest activation at the definition's own tokens, in the SAE's units.
    complete
        Whether the answer ends by itself, in its tree.
    tree
        None for the feature's own tree, else the number of the random one, from 0.
    row
        Row of the path's last node in its tree.
    """

    text: str
    probability: float
    activation: float
    complete: bool
    tree: int | None
    row: int


@dataclass(frozen=True, eq=False, repr=False)
class ClosedLoop(Result):
    """How a feature answers to the definitions of its own tree, and to those of random directions.

    Parameters
    ----------
    request
        The options.
    provenance
        Model, SAE and versions.
    status
        ``"complete"``, or ``"partial"`` when it was cancelled.
    definitions
        Of the feature's own tree, the most probable first.
    random
        Of trees of random directions, as many in all as there are of the feature's own, if they
        have so many.
    score
        Probability that an own definition has a larger activation than a random one, ties counted
        half (AUROC); None where either are missing.
    low, high
        Its 95 % interval by bootstrap; see :func:`bootstrap_interval`.
    nodes
        Activation at each row of the feature's own tree, float32; NaN where its text was not run.
    """

    kind: ClassVar[str] = "closed-loop"

    request: LoopRequest
    provenance: Provenance
    status: str
    definitions: tuple[MeasuredDefinition, ...]
    random: tuple[MeasuredDefinition, ...]
    score: float | None
    low: float | None
    high: float | None
    nodes: NDArray[np.float32]

    def __post_init__(self) -> None:
        self.nodes.setflags(write=False)

    def __len__(self) -> int:
        """Return the number of definitions of the feature's own tree."""
        return len(self.definitions)

    def __repr__(self) -> str:
        return f"ClosedLoop({self.request.label}: {self._verdict})"

    @property
    def _verdict(self) -> str:
        counted = f"{len(self.definitions)} definitions against {len(self.random)} random ones"
        if self.score is None:
            return f"no score, {counted}"
        return f"AUROC {self.score:.2f} ({self.low:.2f} to {self.high:.2f}), {counted}"

    def __rich__(self) -> Table:
        return self.table()

    def table(self, limit: int = 20) -> Table:
        """Return the definitions that activate the feature most, for a terminal."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=f"Closed loop of {self.request.label}: {self._verdict}")
        for name in ("definition", "probability", "activation"):
            table.add_column(name, justify="left" if name == "definition" else "right")
        for one in sorted(self.definitions, key=lambda one: -one.activation)[:limit]:
            shown = Text(visible(one.text))
            table.add_row(shown, f"{one.probability:.3%}", f"{one.activation:.3f}")
        return table

    def to_frame(self) -> pd.DataFrame:
        """Return one row a definition, the feature's own first.

        Columns: ``definition, probability, activation, complete, tree, row``; ``tree`` is -1 for the
        feature's own, else the number of the random one, and ``row`` a row of that tree.
        """
        import pandas as pd

        rows = [vars(one) for one in (*self.definitions, *self.random)]
        frame = pd.DataFrame(
            rows, columns=["text", "probability", "activation", "complete", "tree", "row"]
        )
        frame["tree"] = [-1 if one["tree"] is None else one["tree"] for one in rows]
        return frame.rename(columns={"text": "definition"})

    def payload(self, subject: Subject | None = None) -> dict[str, Any]:
        """Return the definitions and the score; see :meth:`Result.payload`."""
        own = ("text", "probability", "activation", "row", "complete")
        return {
            **super().payload(subject),
            "status": self.status,
            "definitions": [{name: getattr(one, name) for name in own} for one in self.definitions],
            "random": [{"text": one.text, "activation": one.activation} for one in self.random],
            "score": self.score,
            "low": self.low,
            "high": self.high,
            "feature": self.request.feature,
            "nodes": packed(self.nodes),
            "template": self.request.template,
        }

    def _body(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "definitions": [vars(one) for one in self.definitions],
            "random": [vars(one) for one in self.random],
            "score": self.score,
            "low": self.low,
            "high": self.high,
            "nodes": [None if np.isnan(value) else value for value in self.nodes.tolist()],
        }

    @classmethod
    def _from_body(
        cls, body: dict[str, Any], request: dict[str, Any], provenance: Provenance
    ) -> Self:
        return cls(
            request=LoopRequest.from_options(request),
            provenance=provenance,
            status=body["status"],
            definitions=tuple(MeasuredDefinition(**one) for one in body["definitions"]),
            random=tuple(MeasuredDefinition(**one) for one in body["random"]),
            score=body["score"],
            low=body["low"],
            high=body["high"],
            nodes=np.asarray(body["nodes"], np.float32),
        )


@takes(LoopRequest, without=("direction", "vector", "token", "embedding", "lift", "lift_seed"))
def close_loop(
    subject: Subject,
    *,
    progress: Callable[[Progress], object] | None = None,
    cancel: threading.Event | None = None,
    **options: Any,
) -> ClosedLoop:
    """Run a feature's definitions as texts, and measure how the feature answers to them.

    Parameters
    ----------
    subject
        The model and the SAE.
    progress
        Called after every step with a :class:`~sae_explorer.analyses.Progress`.
    cancel
        When it is set, what has been measured by then is returned, marked partial. An interrupt
        (Ctrl-C) does the same, with a :class:`~sae_explorer.PartialResultWarning`.

    Returns
    -------
    ClosedLoop
        Every definition with its activation, and the score of the tree.

    Raises
    ------
    ExplorerError
        If no feature is given, the template has no place for the definition, the SAE's features have
        no activation of their own, the texts are longer than the model reads, or as
        :func:`~sae_explorer.grow_tree` does.

    Examples
    --------
    >>> close_loop(Subject.demo(), feature=302, weights="decoder", centroid=True)  # doctest: +SKIP
    """
    request = LoopRequest.from_options(options)
    return run(subject, request, progress=progress, cancel=cancel)


def run(
    subject: Subject,
    request: LoopRequest,
    *,
    progress: Callable[[Progress], object] | None = None,
    cancel: threading.Event | None = None,
    tree: DefinitionTree | None = None,
) -> ClosedLoop:
    """Answer one request; see :func:`close_loop`.

    ``tree`` is the one that the request's own options describe, where it has been grown already.
    """
    assert request.feature is not None  # guaranteed by the request
    subject.sae.check_feature(request.feature)
    lead = _lead(subject, request)

    def grown(requests: Sequence[TreeRequest], text: str) -> list[DefinitionTree]:
        def told(step: TreeProgress) -> None:
            if progress is not None:
                progress(Progress(None, f"{text}, {step.nodes:,} nodes", lambda: None))

        return run_many(subject, requests, progress=told, cancel=cancel)

    # Whatever stops a tree stops all: after an interrupt nothing more is begun.
    stopped = False
    trees: list[DefinitionTree] = []
    if tree is None:
        plain = {name: getattr(request, name) for name in options(TreeRequest)}
        (tree,) = grown([TreeRequest(**{**plain, "lift": 0})], "tree of the feature")
        stopped = tree.partial
    own = _with_text(tree, request.definitions)
    if not stopped:
        others = _random_requests(subject, tree.request, request)
        trees = grown(others, "trees of random directions")
        stopped = any(one.partial for one in trees)
    random = _shared_out([_with_text(one, request.definitions) for one in trees], len(own))
    paths = {_said(one) for one in own}
    paths |= {_said(one) for _, one in random}
    measured: dict[Path, NDArray[np.float32]] = {}

    def result(status: str) -> ClosedLoop:
        return _result(subject, request, status, tree, own, random, measured)

    if stopped:
        return result("partial")
    try:
        for found in _activations(subject, request.feature, lead, paths):
            if cancel is not None and cancel.is_set():
                return result("partial")
            measured.update(found)
            if progress is not None:
                share, text = len(measured) / len(paths), f"{len(measured)} of {len(paths)} texts"
                progress(Progress(share, text, lambda: result("partial")))
    except KeyboardInterrupt:
        warnings.warn("Interrupted: the result is partial.", PartialResultWarning, stacklevel=3)
        return result("partial")
    return result("partial" if tree.partial else "complete")


def auroc(own: NDArray[np.floating[Any]], random: NDArray[np.floating[Any]]) -> float:
    """Return how often a value of the one is larger than one of the other, ties counted half.

    Parameters
    ----------
    own, random
        Shape ``[n]`` and ``[m]``, neither empty.
    """
    ordered = np.sort(random)
    below = np.searchsorted(ordered, own, "left") + np.searchsorted(ordered, own, "right")
    return float(below.mean() / 2 / len(ordered))


def bootstrap_interval(
    own: NDArray[np.floating[Any]], random: Sequence[NDArray[np.floating[Any]]], seed: int
) -> tuple[float, float]:
    """Return the 95 % interval of :func:`auroc` over 1,000 resamples.

    Own values are resampled one by one. The random ones come in groups, one a tree: groups are
    resampled first and then the values within them, since those of one tree are alike.

    Parameters
    ----------
    own
        Shape ``[n]``, not empty.
    random
        Groups of values, of which at least one has any.
    seed
        Of the random numbers.
    """
    numbers = np.random.default_rng(seed)
    groups = [group for group in random if len(group)]
    found = []
    for _ in range(_RESAMPLES):
        chosen = (groups[i] for i in numbers.integers(len(groups), size=len(groups)))
        others = np.concatenate([numbers.choice(group, len(group)) for group in chosen])
        found.append(auroc(numbers.choice(own, len(own)), others))
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


def _said(definition: Definition) -> Path:
    """Return the tokens of a definition without the one that ends it."""
    return definition.token_ids[:-1] if definition.complete else definition.token_ids


def _with_text(tree: DefinitionTree, count: int) -> list[Definition]:
    """Return the most probable definitions that say anything."""
    return [one for one in tree.definitions(None) if _said(one)][:count]


def _random_requests(subject: Subject, own: TreeRequest, request: LoopRequest) -> list[TreeRequest]:
    """Return the requests for trees like the feature's own, of random directions."""
    vectors = random_vectors(subject, own, request.random_trees, request.loop_seed)
    nothing: dict[str, Any] = dict.fromkeys(SOURCES)
    sources = [{**nothing, "embedding": tuple(vector.tolist())} for vector in vectors]
    return [replace(own, **source, lift=0) for source in sources]


def _shared_out(
    definitions: Sequence[Sequence[Definition]], count: int
) -> list[tuple[int, Definition]]:
    """Take ``count`` definitions from several trees by turns, each with the number of its tree."""
    turns = zip_longest(*definitions)
    taken = ((tree, one) for turn in turns for tree, one in enumerate(turn) if one is not None)
    return [pair for pair, _ in zip(taken, range(count), strict=False)]


def _lead(subject: Subject, request: LoopRequest) -> list[int]:
    """Return the tokens that stand before every definition; none is measured at the first place."""
    before = request.template.split(PLACE)[0]
    said = subject.tokenizer.encode(before, add_special_tokens=False)
    lead = [*begin_ids(subject), *map(int, said)]
    if not lead:
        raise ExplorerError(
            f"template is {request.template!r}, and the tokenizer has no token to begin a text with, "
            "whose first token has an activation unlike all others. Give a template with words "
            f"before the place, as in 'It means \"{PLACE}\".'"
        )
    check_length(subject, len(lead), request.max_depth)
    return lead


def _activations(
    subject: Subject, feature: int, lead: Sequence[int], paths: set[Path]
) -> Iterator[dict[Path, NDArray[np.float32]]]:
    """Yield the feature's activation at each token of the paths, those of one length together."""
    for _, alike in groupby(sorted(paths, key=lambda path: (len(path), path)), key=len):
        rows = list(alike)
        ids = torch.tensor([[*lead, *path] for path in rows])
        found = feature_activations(subject, [feature], ids)[:, len(lead) :, 0].numpy()
        yield dict(zip(rows, found, strict=True))


def _result(
    subject: Subject,
    request: LoopRequest,
    status: str,
    tree: DefinitionTree,
    own: Sequence[Definition],
    random: Sequence[tuple[int, Definition]],
    measured: dict[Path, NDArray[np.float32]],
) -> ClosedLoop:
    """Put together what has been measured."""

    def taken(number: int | None, one: Definition) -> MeasuredDefinition | None:
        activations = measured.get(_said(one))
        if activations is None:
            return None
        strongest = float(activations.max())
        return MeasuredDefinition(
            one.text, one.probability, strongest, one.complete, number, one.row
        )

    nodes = np.full(len(tree), np.nan, np.float32)
    for one in own:
        rows = tree.path(one.row)
        # Texts that share a beginning agree on it but for rounding.
        activations = measured.get(_said(one), np.empty(0, np.float32))
        for row, activation in zip(rows, activations, strict=False):
            nodes[row] = np.fmax(nodes[row], activation)
    definitions = tuple(filter(None, (taken(None, one) for one in own)))
    others = tuple(filter(None, (taken(number, one) for number, one in random)))
    score = low = high = None
    if definitions and others:
        activation = np.array([one.activation for one in definitions])
        groups = [
            np.array([one.activation for one in others if one.tree == number])
            for number in range(request.random_trees)
        ]
        score = auroc(activation, np.concatenate(groups))
        low, high = bootstrap_interval(activation, groups, request.loop_seed)
    return ClosedLoop(
        request=request,
        provenance=subject.provenance(with_sae=True),
        status=status,
        definitions=definitions,
        random=others,
        score=score,
        low=low,
        high=high,
        nodes=nodes,
    )
