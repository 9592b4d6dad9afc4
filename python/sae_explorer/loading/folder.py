"""Models and SAEs from folders on disk, or any id that transformers takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sae_explorer.errors import ExplorerError, did_you_mean
from sae_explorer.loading.failures import cannot_load
from sae_explorer.subject import StudiedSAE, Subject

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(
    model: Path,
    saes: Sequence[Path],
    *,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
) -> Subject:
    """Load a model's folder and SAE folders; see :meth:`Subject.from_folder`."""
    # A full path tells the subject that the model is from disk, wherever the process goes later;
    # it is not kept in results.
    model, saes = _full(model), [_full(sae) for sae in saes]
    for folder, needed in [(model, "config.json"), *((sae, "cfg.json") for sae in saes)]:
        if not folder.is_dir():
            raise ExplorerError(f"There is no folder {folder}.")
        if not (folder / needed).is_file():
            what = "model written by save_pretrained" if folder == model else "SAELens SAE"
            raise ExplorerError(f"{folder} holds no {needed}, so it is no {what}.")
    target = choose_device(device)
    live, tokenizer = language_model(str(model), target, choose_dtype(dtype, target))
    return Subject(live, tokenizer, [studied_sae(folder, target) for folder in saes])


def _full(path: Path) -> Path:
    return path.expanduser().resolve()


def studied_sae(folder: Path, device: torch.device) -> StudiedSAE:
    """Load one SAE in SAELens' format; it is known by its folder's name."""
    from sae_lens import SAE

    try:
        sae = SAE.load_from_disk(str(folder), device=str(device))
    except Exception as error:
        raise cannot_load(f"The SAE in {folder}", error) from error
    return StudiedSAE(sae, folder.name)


def language_model(
    name: str, device: torch.device, dtype: torch.dtype | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer, from a folder or by its hub id."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    # A bar a tensor says nothing that the caller's own progress does not say better.
    had_bars = logging.is_progress_bar_enabled()
    if Path(name).is_dir():
        name = str(_full(Path(name)))
        logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model, found = AutoModelForCausalLM.from_pretrained(
            name, dtype="auto" if dtype is None else dtype, output_loading_info=True
        )
        model = model.to(device).eval()
    except Exception as error:
        raise cannot_load(f"The model {name}", error) from error
    finally:
        if had_bars:
            logging.enable_progress_bar()
    missing = sorted(found["missing_keys"])
    if missing:
        # transformers fills them with random numbers and only warns.
        raise ExplorerError(
            f"The model {name} cannot be loaded: its files hold no weights for "
            f"{len(missing):,} of its parameters, such as {missing[0]}. Use complete files."
        )
    if not Path(name).is_dir():
        # transformers 5 no longer notes it; provenance reads it where earlier versions put it.
        model.config._commit_hash = _cached_commit(name)  # noqa: SLF001
    return model, tokenizer


def _cached_commit(repository: str) -> str:
    """Return the commit that the hub's cache holds as a repository's main branch."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(repository, "config.json")
    return Path(path).parent.name if isinstance(path, str) else ""


def choose_device(device: str | None) -> torch.device:
    """Return the device asked for, or the best there is.

    Raises
    ------
    ExplorerError
        If the name is no device, or the device is not there.
    """
    possible = ["cpu"]
    if torch.cuda.is_available():
        possible = ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), "cpu"]
    if torch.backends.mps.is_available():
        possible.insert(0, "mps")
    if device is None:
        return torch.device(possible[0])
    if str(device) not in possible:
        hint = did_you_mean(str(device), possible)
        listing = ", ".join(possible)
        raise ExplorerError(
            f"The device {str(device)!r} is not there.{hint} This machine has: {listing}."
        )
    return torch.device(device)


def choose_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype | None:
    """Return the dtype asked for; None means float32 on a CPU and the file's own elsewhere."""
    if dtype is None:
        return torch.float32 if device.type == "cpu" else None
    name = str(dtype).removeprefix("torch.")
    if name not in _DTYPES:
        hint = did_you_mean(name, _DTYPES)
        raise ExplorerError(f"dtype is {name!r}; it must be one of {', '.join(_DTYPES)}.{hint}")
    return _DTYPES[name]
