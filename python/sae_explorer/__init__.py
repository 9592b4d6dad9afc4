"""Find out what a feature of a sparse autoencoder means and does.

The public names are loaded when they are first used: importing the package needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sae_explorer.analyses.definition_tree import Definition, DefinitionTree
    from sae_explorer.analyses.logit_lens import LogitLens, logit_lens
    from sae_explorer.analyses.tokens import TokenRanking, rank_tokens
    from sae_explorer.analyses.trees import TreeProgress, grow_tree, grow_trees
    from sae_explorer.errors import ExplorerError, PartialResultWarning
    from sae_explorer.loading.registry import registry
    from sae_explorer.model.interventions import Clamp
    from sae_explorer.subject import Subject
    from sae_explorer.widget.explorer import FeatureExplorer

_HOMES = {
    "Clamp": "model.interventions",
    "Definition": "analyses.definition_tree",
    "DefinitionTree": "analyses.definition_tree",
    "ExplorerError": "errors",
    "FeatureExplorer": "widget.explorer",
    "LogitLens": "analyses.logit_lens",
    "PartialResultWarning": "errors",
    "Subject": "subject",
    "TokenRanking": "analyses.tokens",
    "TreeProgress": "analyses.trees",
    "grow_tree": "analyses.trees",
    "grow_trees": "analyses.trees",
    "logit_lens": "analyses.logit_lens",
    "rank_tokens": "analyses.tokens",
    "registry": "loading.registry",
}

__all__ = [
    "Clamp",
    "Definition",
    "DefinitionTree",
    "ExplorerError",
    "FeatureExplorer",
    "LogitLens",
    "PartialResultWarning",
    "Subject",
    "TokenRanking",
    "TreeProgress",
    "grow_tree",
    "grow_trees",
    "logit_lens",
    "rank_tokens",
    "registry",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
