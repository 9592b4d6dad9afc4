"""Find out what a feature of a sparse autoencoder means and does.

The public names are loaded when they are first used: importing the package needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sae_explorer.analyses.activations import ActivationScan, measure_activations
    from sae_explorer.analyses.closed_loop import ClosedLoop, close_loop
    from sae_explorer.analyses.definition_tree import Definition, DefinitionTree
    from sae_explorer.analyses.dose_response import DoseResponse, dose_response
    from sae_explorer.analyses.lift import measure_lift
    from sae_explorer.analyses.logit_lens import LogitLens, logit_lens
    from sae_explorer.analyses.scale_sweep import ScaleSweep, sweep_scales
    from sae_explorer.analyses.steering import SteeredTexts, steer_text
    from sae_explorer.analyses.tokens import TokenRanking, rank_tokens
    from sae_explorer.analyses.tree_difference import TreeDifference, compare_trees
    from sae_explorer.analyses.trees import TreeProgress, grow_tree, grow_trees
    from sae_explorer.errors import ExplorerError, PartialResultWarning
    from sae_explorer.loading.registry import registry
    from sae_explorer.model.direction import Direction, feature, vector
    from sae_explorer.model.interventions import Ablate, Clamp, Steer
    from sae_explorer.model.reading import corpus
    from sae_explorer.subject import Subject
    from sae_explorer.widget.explorer import FeatureExplorer

_HOMES = {
    "Ablate": "model.interventions",
    "ActivationScan": "analyses.activations",
    "Clamp": "model.interventions",
    "ClosedLoop": "analyses.closed_loop",
    "Definition": "analyses.definition_tree",
    "DefinitionTree": "analyses.definition_tree",
    "Direction": "model.direction",
    "DoseResponse": "analyses.dose_response",
    "ExplorerError": "errors",
    "FeatureExplorer": "widget.explorer",
    "LogitLens": "analyses.logit_lens",
    "PartialResultWarning": "errors",
    "ScaleSweep": "analyses.scale_sweep",
    "Steer": "model.interventions",
    "SteeredTexts": "analyses.steering",
    "Subject": "subject",
    "TokenRanking": "analyses.tokens",
    "TreeDifference": "analyses.tree_difference",
    "TreeProgress": "analyses.trees",
    "close_loop": "analyses.closed_loop",
    "compare_trees": "analyses.tree_difference",
    "corpus": "model.reading",
    "dose_response": "analyses.dose_response",
    "feature": "model.direction",
    "grow_tree": "analyses.trees",
    "grow_trees": "analyses.trees",
    "logit_lens": "analyses.logit_lens",
    "measure_activations": "analyses.activations",
    "measure_lift": "analyses.lift",
    "rank_tokens": "analyses.tokens",
    "registry": "loading.registry",
    "steer_text": "analyses.steering",
    "sweep_scales": "analyses.scale_sweep",
    "vector": "model.direction",
}

__all__ = [
    "Ablate",
    "ActivationScan",
    "Clamp",
    "ClosedLoop",
    "Definition",
    "DefinitionTree",
    "Direction",
    "DoseResponse",
    "ExplorerError",
    "FeatureExplorer",
    "LogitLens",
    "PartialResultWarning",
    "ScaleSweep",
    "Steer",
    "SteeredTexts",
    "Subject",
    "TokenRanking",
    "TreeDifference",
    "TreeProgress",
    "close_loop",
    "compare_trees",
    "corpus",
    "dose_response",
    "feature",
    "grow_tree",
    "grow_trees",
    "logit_lens",
    "measure_activations",
    "measure_lift",
    "rank_tokens",
    "registry",
    "steer_text",
    "sweep_scales",
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
