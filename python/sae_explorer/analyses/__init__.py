"""One module for each question that the tool can answer.

Each holds a request, a result and ``run(subject, request, *, progress, cancel)``, which answers the
one with the other. The command line and the widget find them in :data:`ANALYSES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any


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
    """

    module: str
    request: str
    result: str
    summary: str
    own: tuple[str, ...] = ()

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
}
