"""SAEs of SAELens' registry, and the models they belong to."""

from __future__ import annotations

import difflib
import inspect
import operator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_explorer.errors import ExplorerError
from sae_explorer.loading import downloads, folder, registry
from sae_explorer.loading.failures import PICKLED, cannot_load
from sae_explorer.studied_sae import StudiedSAE, check_same_model
from sae_explorer.subject import Subject

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sae_explorer.loading.downloads import Tell
    from sae_explorer.loading.registry import Entry


def load(
    release: str,
    *,
    layer: int | None = None,
    layers: Sequence[int] | None = None,
    sae_id: str | Sequence[str] | None = None,
    model: str | PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    allow_pickle: bool = False,
    other_model: bool = False,
    tell: Tell = folder.say_nothing,
    **model_kwargs: Any,
) -> Subject:
    """Load SAEs of a release and their model; see :meth:`Subject.from_pretrained`.

    Parameters
    ----------
    tell
        Is told what is going on, and how far it is, 0 to 1; what it raises breaks off a download.
    """
    _check_names(model_kwargs)
    entries = _choose(release, layer, layers, sae_id)
    for entry in entries:
        _check_pickle(entry, allow_pickle)
    live: Any = None if model is None or isinstance(model, str) else model
    name = str(model or entries[0].model)
    if live is None:
        if not other_model and not Path(name).exists():
            check_same_model(entries[0].sae_id, name, entries[0].model)
        wanted = folder.choose_device(device)
        folder.choose_dtype(dtype, wanted)
    else:
        _check_live(live, device, dtype, revision, model_kwargs)
        if tokenizer is None and not getattr(live.config, "_name_or_path", ""):
            raise ExplorerError(
                "The live model does not say where its tokenizer is. Give it with the model: "
                "tokenizer=..."
            )
    with downloads.access(local_files_only):
        if live is None and not force_download:
            # What is most often refused comes first, and what takes longest last.
            _fetch_config(name, {"revision": revision, **model_kwargs})
        for entry in entries:
            downloads.fetch_sae(entry, tell, force_download=force_download)
        if live is None:
            live, its_own = folder.language_model(
                name,
                wanted,
                dtype,
                revision=revision,
                allow_pickle=allow_pickle,
                force_download=force_download,
                tell=tell,
                **model_kwargs,
            )
        else:
            its_own = tokenizer or _tokenizer_of(live)
        target = live.get_input_embeddings().weight.device
        studied = []
        for entry in entries:
            tell(f"reading {entry.sae_id}", None)
            studied.append(_studied(entry, target))
    return Subject(live, tokenizer or its_own, studied, other_model=other_model)


def add_sae(
    subject: Subject,
    release: str,
    sae_id: str,
    *,
    local_files_only: bool = False,
    allow_pickle: bool = False,
    tell: Tell = folder.say_nothing,
) -> Subject:
    """Return the subject with one more SAE of SAELens' registry, selected; its model is not touched.

    Raises
    ------
    ExplorerError
        If the SAE cannot be loaded, or does not fit the model.
    """
    entry = registry.choose(release, sae_id=sae_id)
    _check_pickle(entry, allow_pickle)
    with downloads.access(local_files_only):
        downloads.fetch_sae(entry, tell)
        tell(f"reading {entry.sae_id}", None)
        return subject.with_sae(_studied(entry, subject.device))


def _check_names(model_kwargs: dict[str, Any]) -> None:
    """Refuse misspelt options of ours before transformers is given them, after a long download."""
    folder.check_names(model_kwargs)
    ours = set(inspect.signature(Subject.from_pretrained).parameters) - {"model_kwargs"}
    for name in model_kwargs:
        near = difflib.get_close_matches(name, ours, n=1, cutoff=0.8)
        if near:
            raise ExplorerError(f"There is no option {name!r}. Did you mean {near[0]!r}?")


def _choose(
    release: str,
    layer: int | None,
    layers: Sequence[int] | None,
    sae_id: str | Sequence[str] | None,
) -> list[Entry]:
    if sae_id is not None and not isinstance(sae_id, str):
        if layer is not None or layers is not None or not sae_id:
            raise ExplorerError("Give several ids in sae_id=, at least one, and no layer.")
        return [registry.choose(release, sae_id=one) for one in dict.fromkeys(sae_id)]
    if layers is None:
        return [registry.choose(release, layer=layer, sae_id=sae_id)]
    if layer is not None or sae_id is not None:
        raise ExplorerError("Give layers=, or layer= and sae_id=, not both.")
    try:
        several = [*map(operator.index, layers)]
    except TypeError:
        several = []
    if not several:
        raise ExplorerError(f"layers is {layers!r}. Give layers in a list, as in layers=[6, 12].")
    return [registry.choose(release, layer=one) for one in dict.fromkeys(several)]


def _check_pickle(entry: Entry, allow_pickle: bool) -> None:
    if entry.pickled and not allow_pickle:
        raise ExplorerError(
            f"The SAE {entry.sae_id} of {entry.release} cannot be loaded: {PICKLED}"
        )


def _fetch_config(name: str, options: dict[str, Any]) -> None:
    """Find out at once whether the model may be fetched at all."""
    from transformers import AutoConfig

    try:
        AutoConfig.from_pretrained(name, **folder.for_all(options))
    except Exception as error:
        at = f" at {options['revision']!r}" if options["revision"] else ""
        raise cannot_load(f"The model {name}{at}", error, token=options.get("token")) from error


def _studied(entry: Entry, device: torch.device) -> StudiedSAE:
    """Read an SAE."""
    from sae_lens import SAE

    try:
        sae = SAE.from_pretrained(entry.release, entry.sae_id, device=str(device))
    except Exception as error:
        raise cannot_load(f"The SAE {entry.sae_id} of {entry.release}", error) from error
    return StudiedSAE(sae, entry.sae_id, entry.release, entry.model)


def _check_live(
    live: Any, device: object, dtype: object, revision: object, model_kwargs: dict[str, Any]
) -> None:
    """Refuse what is no language model, and what would have to change a live one."""
    if not hasattr(live, "get_input_embeddings") or not hasattr(live, "config"):
        raise ExplorerError(
            f"model is a {type(live).__name__}; it must be a hub id, a folder or a live Hugging "
            "Face causal language model."
        )
    given = {"device": device, "dtype": dtype, "revision": revision, **model_kwargs}
    left = [name for name, value in given.items() if value is not None]
    if left:
        raise ExplorerError(
            "A live model is used where it is and as it is: leave "
            f"{' and '.join(left)} out, or change the model first, as in model.to(device)."
        )


def _tokenizer_of(live: Any) -> Any:
    """Load the tokenizer that belongs to a live model, from where the model is from."""
    from transformers import AutoTokenizer

    name = str(live.config._name_or_path)  # noqa: SLF001 - its only place
    try:
        return AutoTokenizer.from_pretrained(name)
    except Exception as error:
        failure = cannot_load(f"The tokenizer of {name}", error)
        raise ExplorerError(f"{failure} Give it with the model: tokenizer=...") from error
