"""Releases of SAELens' registry, and the models they belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sae_explorer.errors import ExplorerError, did_you_mean
from sae_explorer.loading import folder
from sae_explorer.model.sites import layer_of
from sae_explorer.subject import StudiedSAE, Subject

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load(
    release: str,
    *,
    layer: int | None = None,
    sae_id: str | None = None,
    model: str | PreTrainedModel | None = None,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
) -> Subject:
    """Load one SAE of a release and its model; see :meth:`Subject.from_pretrained`."""
    from sae_lens import SAE

    chosen = choose_sae(release, layer, sae_id)
    target = folder.choose_device(device)
    live: Any = None if isinstance(model, str) else model
    if live is not None:
        target = live.get_input_embeddings().weight.device
    sae = SAE.from_pretrained(release, chosen, device=str(target))
    studied = StudiedSAE(sae, chosen, release)
    name = model if isinstance(model, str) else hub_id(str(sae.cfg.metadata.model_name))
    if live is not None:
        from transformers import AutoTokenizer

        return Subject(live, AutoTokenizer.from_pretrained(live.config._name_or_path), studied)
    loaded, tokenizer = folder.language_model(name, target, folder.choose_dtype(dtype, target))
    return Subject(loaded, tokenizer, studied)


def choose_sae(release: str, layer: int | None, sae_id: str | None) -> str:
    """Return the id of the SAE that is meant by a release and a layer or an id.

    Raises
    ------
    ExplorerError
        If the release or the id is unknown, or the layer has none or several SAEs.
    """
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    directory = get_pretrained_saes_directory()
    if release not in directory:
        hint = did_you_mean(release, directory)
        raise ExplorerError(f"SAELens' registry has no release {release!r}.{hint}")
    ids = list(directory[release].saes_map)
    if sae_id is not None:
        if sae_id not in ids:
            raise ExplorerError(
                f"{release} has no SAE {sae_id!r}.{did_you_mean(sae_id, ids)} It has {_some(ids)}."
            )
        return sae_id
    at_layer = [i for i in ids if layer_of(i) == layer] if layer is not None else ids
    if len(at_layer) != 1:
        where = "" if layer is None else f" at layer {layer}"
        how_many = "no SAE" if not at_layer else f"{len(at_layer)} SAEs"
        raise ExplorerError(
            f"{release} has {how_many}{where}. Give sae_id=, one of {_some(at_layer or ids)}."
        )
    return at_layer[0]


def hub_id(model_name: str) -> str:
    """Return the hub id of a model that an SAE names, perhaps by TransformerLens' short name."""
    if "/" in model_name:
        return model_name
    from transformer_lens.loading_from_pretrained import get_official_model_name

    try:
        return str(get_official_model_name(model_name))
    except ValueError:
        return model_name


def _some(names: list[str], limit: int = 12) -> str:
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(map(repr, names[:limit])) + more
