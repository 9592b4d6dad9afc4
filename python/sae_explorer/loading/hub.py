"""Releases of SAELens' registry, and the models they belong to."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sae_explorer.errors import ExplorerError, did_you_mean
from sae_explorer.loading import folder
from sae_explorer.loading.failures import cannot_load
from sae_explorer.subject import StudiedSAE, Subject

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from transformers import PreTrainedModel

#: How the registry's ids name a layer: blocks.12.hook_resid_post, layer_12/width_16k/canonical,
#: layer12, resid_post_layer_12_trainer_1, l12r_32x.
_LAYER = re.compile(r"(?:^|[/_])(?:blocks\.|layer_?)(\d+)|^l(\d+)[ram]_")

_GIVE_TOKENIZER = "Give the tokenizer with the model: Subject(model, tokenizer, sae)."


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
    live: Any = None if model is None or isinstance(model, str) else model
    if live is None:
        target = folder.choose_device(device)
        wanted = folder.choose_dtype(dtype, target)
    else:
        _check_live(live, device, dtype)
        target = live.get_input_embeddings().weight.device
    with _offline_if_unreachable():
        try:
            sae = SAE.from_pretrained(release, chosen, device=str(target))
        except Exception as error:
            raise cannot_load(f"The SAE {chosen} of {release}", error) from error
        if live is None:
            name = hub_id(str(sae.cfg.metadata.model_name)) if model is None else str(model)
            live, tokenizer = folder.language_model(name, target, wanted)
        else:
            tokenizer = _tokenizer_of(live)
    return Subject(live, tokenizer, StudiedSAE(sae, chosen, release))


@contextmanager
def _offline_if_unreachable() -> Iterator[None]:
    """Let the cache serve at once where the hub cannot be reached.

    The loaders ask the hub several times even for what is in the cache, and try for 20 seconds each
    time.
    """
    from huggingface_hub import constants, get_session

    was_offline = constants.HF_HUB_OFFLINE
    if not was_offline:
        try:
            get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        except Exception:  # noqa: BLE001 - whatever it is: there is no way to the hub
            constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = was_offline


def _check_live(live: Any, device: object, dtype: object) -> None:
    """Refuse what is no language model, and what would have to change a live one."""
    if not hasattr(live, "get_input_embeddings") or not hasattr(live, "config"):
        raise ExplorerError(
            f"model is a {type(live).__name__}; it must be a hub id, a folder or a live Hugging "
            "Face causal language model."
        )
    if device is not None or dtype is not None:
        raise ExplorerError(
            "A live model is used where it is and as it is: leave device and dtype out, or move "
            "the model first, as in model.to(device)."
        )
    if not getattr(live.config, "_name_or_path", ""):
        raise ExplorerError(
            f"The live model does not say where its tokenizer is. {_GIVE_TOKENIZER}"
        )


def _tokenizer_of(live: Any) -> Any:
    """Load the tokenizer that belongs to a live model, from where the model is from."""
    from transformers import AutoTokenizer

    name = str(live.config._name_or_path)  # noqa: SLF001 - its only place
    try:
        return AutoTokenizer.from_pretrained(name)
    except Exception as error:
        failure = cannot_load(f"The tokenizer of {name}", error)
        raise ExplorerError(f"{failure} {_GIVE_TOKENIZER}") from error


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
    ids: list[str] = list(directory[release].saes_map)
    if sae_id is not None:
        if sae_id not in ids:
            raise ExplorerError(
                f"{release} has no SAE {sae_id!r}.{did_you_mean(sae_id, ids)} It has {_some(ids)}."
            )
        if layer not in (None, layer_in(sae_id)):
            raise ExplorerError(
                f"{sae_id} is not at layer {layer}; give layer= or sae_id=, not both."
            )
        return sae_id
    at_layer = [i for i in ids if layer_in(i) == layer] if layer is not None else ids
    if len(at_layer) != 1:
        where = "" if layer is None else f" at layer {layer}"
        how_many = "no SAE" if not at_layer else f"{len(at_layer)} SAEs"
        raise ExplorerError(
            f"{release} has {how_many}{where}. Give sae_id=, one of {_some(at_layer or ids)}."
        )
    return at_layer[0]


def layer_in(sae_id: str) -> int | None:
    """Return the layer that an id of the registry names, None if it names none."""
    match = _LAYER.search(sae_id)
    return None if match is None else int(match[1] or match[2])


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
