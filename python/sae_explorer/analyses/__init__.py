"""One module for each question that the tool can answer.

Each holds a request, a result and ``run(subject, request, *, progress, cancel)``, which answers the
one with the other. The command line and the widget find them in :data:`ANALYSES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Progress:
    """How far an analysis has come.

    Parameters
    ----------
    share
        0 to 1; None where it is not known.
    text
        What it is doing, in a few words.
    snapshot
        Returns the result as it is now, None where there is nothing to show yet. Call it only from
        the callback that was given the progress.
    """

    share: float | None
    text: str
    snapshot: Callable[[], Any]


@dataclass(frozen=True)
class Analysis:
    """Where an analysis is found, so that it can be loaded when it is first needed.

    Parameters
    ----------
    module
        Module in this package.
    request, result
        Names of its request class and of its result class.
    summary
        What it answers, in one line.
    own
        Options that mean something of their own here, though others have some of the same name: the
        widget leaves them at their defaults.
    on_request
        Whether the widget runs it only when it is asked to.
    uses_tree
        Whether ``run`` takes a ``tree=`` that answers the same options, and so need not grow it.
    """

    module: str
    request: str
    result: str
    summary: str
    own: tuple[str, ...] = ()
    on_request: bool = False
    uses_tree: bool = False

    def load(self) -> tuple[type[Any], type[Any], Any]:
        """Import the analysis; return its request class, its result class and its ``run``."""
        module = import_module(f"{__name__}.{self.module}")
        return getattr(module, self.request), getattr(module, self.result), module.run


ANALYSES = {
    "tree": Analysis(
        "trees", "TreeRequest", "DefinitionTree", "grow the definition tree of a feature"
    ),
    "tokens": Analysis(
        "tokens", "TokenRequest", "TokenRanking", "rank the tokens nearest a feature"
    ),
    "lens": Analysis(
        "logit_lens",
        "LogitLensRequest",
        "LogitLens",
        "list the tokens a feature raises and lowers",
        own=("weights", "limit"),
    ),
    "scales": Analysis(
        "scale_sweep",
        "ScaleRequest",
        "ScaleSweep",
        "sweep the scale of a feature's vector",
        on_request=True,
    ),
    "steering": Analysis(
        "steering",
        "SteeringRequest",
        "SteeredTexts",
        "write texts with a feature steered",
        on_request=True,
    ),
    "dose": Analysis(
        "dose_response",
        "DoseRequest",
        "DoseResponse",
        "measure what steering does at many strengths",
        on_request=True,
    ),
    "difference": Analysis(
        "tree_difference",
        "DifferenceRequest",
        "TreeDifference",
        "compare a feature's tree with another one",
        on_request=True,
        uses_tree=True,
    ),
    "loop": Analysis(
        "closed_loop",
        "LoopRequest",
        "ClosedLoop",
        "run a tree's definitions as text, measure the feature",
        on_request=True,
        uses_tree=True,
    ),
}
