"""Models and SAEs from folders on disk, or any id that transformers takes."""

from __future__ import annotations

import math
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sae_explorer.errors import ExplorerError, did_you_mean
from sae_explorer.loading import downloads
from sae_explorer.loading.failures import PICKLED, cannot_load
from sae_explorer.studied_sae import StudiedSAE
from sae_explorer.subject import Subject

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sae_explorer.loading.downloads import Tell

#: transformers changes settings of the whole process while it loads: one model at a time.
_loading = threading.Lock()

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(
    model: Path,
    saes: Sequence[Path],
    *,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    allow_pickle: bool = False,
    **model_kwargs: Any,
) -> Subject:
    """Load a model's folder and SAE folders; see :meth:`Subject.from_folder`."""
    # A full path tells the subject that the model is from disk, wherever the process goes later;
    # it is not kept in results.
    model, saes = _full(model), [_full(sae) for sae in saes]
    for folder, needed in [(model, "config.json"), *((sae, "cfg.json") for sae in saes)]:
        if not folder.is_dir():
            hub = " A model on the Hub is loaded by Subject.from_pretrained(release, ...)."
            raise ExplorerError(
                f"There is no folder {folder}.{hub if needed == 'config.json' else ''}"
            )
        if not (folder / needed).is_file():
            what = "SAELens SAE" if needed == "cfg.json" else "model written by save_pretrained"
            raise ExplorerError(f"{folder} holds no {needed}, so it is no {what}.")
    live, tokenizer = language_model(
        str(model), choose_device(device), dtype, allow_pickle=allow_pickle, **model_kwargs
    )
    home = live.get_input_embeddings().weight.device
    found = [studied_sae(folder, home) for folder in saes]
    return Subject(live, tokenizer, found)


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


def say_nothing(_text: str, _progress: float | None) -> None:
    """Tell nobody how far a download is."""


#: Options of the model's loading that its configuration and its tokenizer take too.
_FOR_ALL = ("cache_dir", "revision", "subfolder", "token")


#: Options of transformers that would be ignored or collide, and what to give in their place.
_NOT_HERE = {
    "torch_dtype": "it is called dtype, as in dtype='bfloat16'",
    "output_loading_info": "what is missing in the files is an error in any case",
    "use_safetensors": "give allow_pickle=True where there are only pickled weights",
    "layer": "choose one of the SAEs afterwards, as in .select(layer=12)",
    "sae_id": "choose one of the SAEs afterwards, as in .select(sae_id=...)",
}


def check_names(options: Iterable[str]) -> None:
    """Refuse options of transformers that would be ignored here."""
    for name, reason in _NOT_HERE.items():
        if name in options:
            raise ExplorerError(f"{name} is no option here: {reason}.")


def for_all(options: dict[str, Any]) -> dict[str, Any]:
    """Return those options that not only the weights' loading takes."""
    shared = {name: options[name] for name in _FOR_ALL if name in options}
    # Unless it is said, transformers asks at the terminal whether to run a model's code.
    return shared | {"trust_remote_code": options.get("trust_remote_code", False)}


def language_model(
    name: str,
    device: torch.device | str,
    dtype: str | torch.dtype | None,
    *,
    revision: str | None = None,
    allow_pickle: bool = False,
    force_download: bool = False,
    tell: Tell = say_nothing,
    **options: Any,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer, from a folder or by its hub id.

    Parameters
    ----------
    name
        Folder or hub id.
    device
        Where to, or ``"auto"`` for all GPUs.
    dtype
        Of the weights; None chooses.
    revision, allow_pickle, force_download
        As in :meth:`Subject.from_pretrained`.
    tell
        Is told how far the download is.
    **options
        Passed on to transformers.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    check_names(options)
    wanted = choose_dtype(dtype, device)
    options |= {"revision": revision} if revision else {}
    options |= for_all(options)
    is_folder = Path(name).is_dir()
    if is_folder:
        name = str(_full(Path(name)))
    elif not {"subfolder", "variant", "cache_dir"} & set(options):  # else transformers fetches it
        downloads.fetch_model(
            name,
            revision,
            tell,
            allow_pickle=allow_pickle,
            token=options.get("token"),
            force_download=force_download,
        )
    with _alone(tell):
        # A bar a tensor says nothing that the caller's own progress does not say better.
        had_bars = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        tell(f"reading {Path(name).name if is_folder else name}", None)
        try:
            tokenizer = AutoTokenizer.from_pretrained(name, **for_all(options))
            files = _snapshot(name, options)
            target = _spread_if_large(files, device, wanted)
            model, found = AutoModelForCausalLM.from_pretrained(
                name,
                output_loading_info=True,
                use_safetensors=_use_safetensors(name, files, allow_pickle),
                **{
                    "dtype": wanted or "auto",
                    "device_map": target if isinstance(target, str) else {"": target},
                    **options,
                },
            )
            model = model.eval()
        except ExplorerError:
            raise
        except Exception as error:
            raise cannot_load(f"The model {name}", error, token=options.get("token")) from error
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
    if not is_folder and files is not None:
        # transformers 5 no longer notes it; provenance reads it where earlier versions put it.
        model.config._commit_hash = files.name  # noqa: SLF001
    return model, tokenizer


@contextmanager
def _alone(tell: Tell) -> Iterator[None]:
    """Wait until no other model is being loaded; ``tell`` ends the wait by raising, as a cancel does."""
    while not _loading.acquire(timeout=0.2):
        tell("waiting until another model is loaded", None)
    try:
        yield
    finally:
        _loading.release()


def _snapshot(name: str, options: dict[str, Any]) -> Path | None:
    """Return the folder of a model's files: its own, or that of its commit in the hub's cache.

    None where they are elsewhere than usual, which is then left to transformers.
    """
    from huggingface_hub import try_to_load_from_cache

    if "subfolder" in options:
        return None
    if Path(name).is_dir():
        return Path(name)
    path = try_to_load_from_cache(
        name, "config.json", cache_dir=options.get("cache_dir"), revision=options.get("revision")
    )
    return Path(path).parent if isinstance(path, str) else None


def _use_safetensors(name: str, files: Path | None, allow_pickle: bool) -> bool | None:
    """Return whether weights are read from safetensors; refuse others unless they are allowed."""
    if files is None:
        return None if allow_pickle else True
    has_safetensors = any(files.glob("*.safetensors"))
    if not has_safetensors and not allow_pickle and any(files.glob("*.bin")):
        raise ExplorerError(f"The model {name} cannot be loaded: {PICKLED}")
    return has_safetensors or not allow_pickle


def _spread_if_large(
    files: Path | None, device: torch.device | str, dtype: torch.dtype | None
) -> torch.device | str:
    """Return "auto" in place of the first GPU where there are several and it is too small."""
    if files is None or str(device) != "cuda" or torch.cuda.device_count() < 2:
        return device
    size = sum(_bytes_as(dtype, file) for file in files.glob("*.safetensors"))
    free, _total = torch.cuda.mem_get_info(0)
    # A fifth is left for the SAE, the keys and values, and the logits.
    return "auto" if size > 0.8 * free else device


def _bytes_as(dtype: torch.dtype | None, file: Path) -> int:
    """Return the size of a file's tensors, as they are or in another dtype."""
    from safetensors import safe_open

    if dtype is None:
        return file.stat().st_size
    with safe_open(file, framework="pt") as tensors:
        shapes = (tensors.get_slice(name).get_shape() for name in tensors.keys())  # noqa: SIM118
        numbers = sum(math.prod(shape) for shape in shapes)
    return int(numbers * dtype.itemsize)


def choose_device(device: str | None) -> torch.device | str:
    """Return the device asked for, or the best there is.

    Raises
    ------
    ExplorerError
        If the name is no device, or the device is not there or of no use.
    """
    possible = ["cpu"]
    if torch.cuda.is_available():
        possible = ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), "auto", "cpu"]
    if torch.backends.mps.is_available():
        possible.insert(0, "mps")
    if device is None:
        best = torch.device(possible[0])
        return torch.device("cpu") if _useless(best) else best
    name = str(device)
    if name not in possible:
        hint = " A GPU is called cuda." if name == "gpu" else did_you_mean(name, possible)
        listing = ", ".join(possible)
        raise ExplorerError(
            f"The device {name!r} is not there.{_why_no_cuda(name)}{hint} This machine has: "
            f"{listing}."
        )
    if name == "auto":
        return name
    chosen = torch.device(name)
    if reason := _useless(chosen):
        raise ExplorerError(
            f"The device {name!r} is of no use: {reason}. Install a PyTorch that supports it, or "
            "use device='cpu'."
        )
    return chosen


def _why_no_cuda(name: str) -> str:
    if not name.startswith(("cuda", "auto")) or torch.cuda.is_available():
        return ""
    version: Any = torch.version  # as it was built here: mypy knows of no other
    if version.cuda is None and version.hip is None:
        return " This PyTorch is built for CPUs alone: install a build for your GPU (pytorch.org)."
    return " PyTorch finds no GPU, or no driver for it: see what nvidia-smi says."


def _useless(device: torch.device) -> str:
    """Return why nothing can be computed on a device, or an empty text."""
    try:
        (torch.zeros(2, device=device) + 1).sum().item()
    except (RuntimeError, AssertionError) as error:
        # Such as "no kernel image is available for execution on the device", and how to debug it.
        return str(error).strip().splitlines()[0].rstrip(".")
    return ""


def choose_dtype(dtype: str | torch.dtype | None, device: torch.device | str) -> torch.dtype | None:
    """Return the dtype asked for; None means the file's own.

    Unless one is asked for, it is float32 on a CPU, and on a GPU that computes bfloat16 only in
    emulation: it is slow there, and float16 too narrow for some models.
    """
    if dtype is None:
        kind = device if isinstance(device, str) else device.type
        emulated = kind in ("cuda", "auto") and not torch.cuda.is_bf16_supported(
            including_emulation=False
        )
        return torch.float32 if kind == "cpu" or emulated else None
    name = str(dtype).removeprefix("torch.")
    if name not in _DTYPES:
        hint = did_you_mean(name, _DTYPES)
        raise ExplorerError(f"dtype is {name!r}; it must be one of {', '.join(_DTYPES)}.{hint}")
    return _DTYPES[name]
