"""Models and SAEs from folders on disk, or any id that transformers takes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sae_explorer.errors import ExplorerError, did_you_mean
from sae_explorer.subject import StudiedSAE, Subject

if TYPE_CHECKING:
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
    for folder, needed in [(model, "config.json"), *((sae, "cfg.json") for sae in saes)]:
        if not folder.is_dir():
            raise ExplorerError(f"There is no folder {folder}.")
        if not (folder / needed).is_file():
            what = "model written by save_pretrained" if folder == model else "SAELens SAE"
            raise ExplorerError(f"{folder} holds no {needed}, so it is no {what}.")
    target = choose_device(device)
    live, tokenizer = language_model(str(model), target, choose_dtype(dtype, target))
    return Subject(live, tokenizer, [studied_sae(folder, target) for folder in saes])


def studied_sae(folder: Path, device: torch.device) -> StudiedSAE:
    """Load one SAE in SAELens' format; it is known by its folder's name."""
    from sae_lens import SAE

    try:
        sae = SAE.load_from_disk(str(folder), device=str(device))
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise ExplorerError(f"{folder} cannot be loaded as a SAELens SAE: {error}") from error
    return StudiedSAE(sae, folder.name)


def language_model(
    name: str, device: torch.device, dtype: torch.dtype | None, **options: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer, from a folder or by its hub id."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    # A bar a tensor says nothing that the caller's own progress does not say better.
    had_bars = logging.is_progress_bar_enabled()
    if os.path.isdir(name):
        logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
        model = AutoModelForCausalLM.from_pretrained(
            name, dtype="auto" if dtype is None else dtype, **options
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ExplorerError(f"The model {name} cannot be loaded: {error}") from error
    finally:
        if had_bars:
            logging.enable_progress_bar()
    return model.to(device).eval(), tokenizer


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
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in _DTYPES:
        hint = did_you_mean(dtype, _DTYPES)
        raise ExplorerError(f"dtype is {dtype!r}; it must be one of {', '.join(_DTYPES)}.{hint}")
    return _DTYPES[dtype]
