"""The bundled dictionary model: small, offline, and trained to read vectors in place of words."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_explorer.errors import ExplorerError

if TYPE_CHECKING:
    from sae_explorer.subject import Subject

_loading = threading.Lock()

LAYERS = (1, 3)

#: The layer that is shown first.
SHOWN_LAYER = 3

#: How a feature of these SAEs is best turned into a vector: the model was trained on vectors around
#: the mean embedding, and without it the nearest tokens are function words.
DIRECTION: dict[str, Any] = {"weights": "decoder", "centroid": True}

#: What the bundled model goes on from when it is steered: it has read little but definitions.
TEXT = 'A typical definition of "dog" would be "'

#: Features to show first: among the featured ones, those that read best to a person.
_SHOWN = {1: 933, 3: 302}


@dataclass(frozen=True)
class Featured:
    """A feature of the bundled SAEs that its tree and its tokens both explain well."""

    layer: int
    feature: int
    label: str


def assets() -> Path:
    """Return the folder of the model, its SAEs, their card and licence."""
    return Path(str(resources.files("sae_explorer"))) / "assets" / "dictionary"


def load() -> Subject:
    """Load the model with its SAEs on the CPU in float32; a second call returns the same."""
    with _loading:  # a second call may come from another thread before the first one is done
        return _loaded()


@lru_cache(maxsize=1)
def _loaded() -> Subject:
    from sae_explorer.loading import folder

    return folder.load(assets(), [_sae(layer) for layer in LAYERS], device="cpu")


def _sae(layer: int) -> Path:
    return assets() / f"sae_layer_{layer}"


def rows(layer: int | None = None) -> list[dict[str, Any]]:
    """Return what is known of the SAEs, without loading them.

    The columns are those of :func:`sae_explorer.registry` that say something of them.

    Raises
    ------
    ExplorerError
        If there is none at the layer.
    """
    if layer not in (None, *LAYERS):
        raise ExplorerError(
            f"The bundled model has no SAE at layer {layer}; there are some at layers "
            f"{', '.join(map(str, LAYERS))}."
        )
    figures = json.loads((assets() / "figures.json").read_text(encoding="utf-8"))["saes"]
    found = []
    for at in LAYERS if layer is None else (layer,):
        config = json.loads((_sae(at) / "cfg.json").read_text(encoding="utf-8"))
        found.append(
            {
                "id": _sae(at).name,
                "model": config["metadata"]["model_name"],
                "layer": at,
                "hook": config["metadata"]["hook_name"],
                "width": config["d_sae"],
                "l0": round(figures[str(at)]["l0"], 1),
                "variance_explained": round(figures[str(at)]["explained_variance"], 3),
            }
        )
    return found


@lru_cache(maxsize=1)
def featured() -> tuple[Featured, ...]:
    """Return the features to look at first, best first, layer by layer."""
    listed = json.loads((assets() / "featured.json").read_text(encoding="utf-8"))
    return tuple(
        Featured(int(layer), entry["feature"], entry["label"])
        for layer, entries in listed.items()
        for entry in entries
    )


def shown(layer: int | None = None) -> int:
    """Return the feature to show first at a layer."""
    return _SHOWN[SHOWN_LAYER if layer is None else layer]
