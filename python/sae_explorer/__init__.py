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
    from sae_explorer.model.direction import Direction, feature, vector
    from sae_explorer.model.interventions import Ablate, Clamp, Steer
    from sae_explorer.subject import Subject
    from sae_explorer.widget.explorer import FeatureExplorer

_HOMES = {
    "Ablate": "model.interventions",
    "Clamp": "model.interventions",
    "Definition": "analyses.definition_tree",
    "DefinitionTree": "analyses.definition_tree",
    "Direction": "model.direction",
    "ExplorerError": "errors",
    "FeatureExplorer": "widget.explorer",
    "LogitLens": "analyses.logit_lens",
    "PartialResultWarning": "errors",
    "Steer": "model.interventions",
    "Subject": "subject",
    "TokenRanking": "analyses.tokens",
    "TreeProgress": "analyses.trees",
    "feature": "model.direction",
    "grow_tree": "analyses.trees",
    "grow_trees": "analyses.trees",
    "logit_lens": "analyses.logit_lens",
    "rank_tokens": "analyses.tokens",
    "registry": "loading.registry",
    "vector": "model.direction",
}

__all__ = [
    "Ablate",
    "Clamp",
    "Definition",
    "DefinitionTree",
    "Direction",
    "ExplorerError",
    "FeatureExplorer",
    "LogitLens",
    "PartialResultWarning",
    "Steer",
    "Subject",
    "TokenRanking",
    "TreeProgress",
    "feature",
    "grow_tree",
    "grow_trees",
    "logit_lens",
    "rank_tokens",
    "registry",
    "vector",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
