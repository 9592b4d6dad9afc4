"""What other libraries' loaders raise, in plain words."""

from __future__ import annotations

import errno
import os
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sae_explorer.errors import ExplorerError, out_of_memory

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOG_IN = "log in with: hf auth login"
_FRESH = "Load it with force_download=True to fetch it anew; in a folder of your own, replace it."
PICKLED = (
    "its weights are a pickle file, which can run code when it is read. If you trust who made it, "
    "pass allow_pickle=True."
)
_FULL = "the disk is full. Free some space, or set HF_HOME to a folder on a larger disk."
BROKEN_OFF = (
    "the connection to the hub broke off. Run it again: a download goes on where it stopped."
)
CHOSEN = "the cache does not hold it, and local_files_only is set. Leave it out to download it."
UNREACHABLE = (
    "the hub cannot be reached and the cache does not hold it. Check the connection, or load "
    "from folders of your own (Subject.from_folder; --model and --sae)."
)
_SMALLER = (
    'there is not enough memory for it. Give a smaller dtype, as in dtype="bfloat16", or another '
    "device, or choose a smaller one."
)

#: What in an address or a header lets its holder in.
_SECRETS = (
    (re.compile(r"\bhf_[A-Za-z0-9]{6,}"), "hf_..."),
    (re.compile(r"\b(Bearer|Basic)\s+\S+", re.IGNORECASE), r"\1 ..."),
    (re.compile(r"(\w+://)[^/\s@]+@"), r"\1"),
    (re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]+"), r"\1"),  # signatures of download addresses
)


def cannot_load(
    what: str, error: BaseException, *, token: str | bool | None = None
) -> ExplorerError:
    """Return the error to raise when another library failed to load something.

    Parameters
    ----------
    what
        What was to be loaded, as a sentence begins.
    error
        What the library raised. Its own message is used, on one line, unless its kind or that of
        one of its causes is known. An :class:`ExplorerError` is returned as it is.
    token
        The access token that was given, so that no message repeats it.
    """
    if isinstance(error, ExplorerError):
        return error
    causes = list(_causes(error))
    hints = [
        *map(_of_the_hub, causes),
        *(hint for cause in causes for hint in (_by_kind(cause), _by_words(cause))),
        " ".join(str(error).split()),
        type(error).__name__,
    ]
    hint = next(filter(None, hints))
    return ExplorerError(without_secrets(f"{what} cannot be loaded: {hint}", token))


def without_secrets(text: str, token: str | bool | None = None) -> str:
    """Return a text without access tokens, passwords in addresses and signed addresses' signatures."""
    from huggingface_hub import get_token

    for secret in (token, get_token()):
        if isinstance(secret, str) and secret:
            text = text.replace(secret, "...").replace(quote(secret, safe=""), "...")
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _kinds(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _of_the_hub(error: BaseException) -> str | None:
    """Say what the hub's answer means."""
    kinds = _kinds(error)
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    page = _page(response)
    if "HubTrouble" in kinds:
        return str(error)
    if "GatedRepoError" in kinds and status == 403:
        return f"it is gated, and your account has no access to it (yet). Ask for it at {page}"
    if "GatedRepoError" in kinds:
        return f"it is gated. Accept its licence at {page}, then {_LOG_IN}"
    if "RevisionNotFoundError" in kinds:
        return f"it has no such revision on the hub. Give a branch, a tag or a commit of {page}"
    if "RemoteEntryNotFoundError" in kinds:
        name = getattr(getattr(response, "url", None), "path", "").rpartition("/resolve/")[2]
        named = f": {name.partition('/')[2]}" if "/" in name else ""
        return f"a file of it is not on the hub (any more){named}. Choose another one."
    if "DisabledRepoError" in kinds:
        return f"its repository is disabled on the hub; see {page}"
    if "RepositoryNotFoundError" in kinds:
        return (
            "there is no such repository on the hub, or it is private. Check the name; for a "
            f"private one {_LOG_IN}"
        )
    if not kinds & {"HfHubHTTPError", "RequestException"} or status is None:
        return None
    if status == 401:
        return f"your access token is not valid (any more). Make a new one, and {_LOG_IN}"
    if status == 403:
        return f"your access token does not allow it. Make one that may read {page}, and {_LOG_IN}"
    return f"the hub refuses it (status {status}). Try again later."


def _page(response: Any) -> str:
    """Return the page of the repository that a request was about."""
    path = getattr(getattr(response, "url", None), "path", "")
    found = re.match(r"/(?:api/models/)?([^/]+/[^/]+?)(?:/(?:resolve|tree|paths-info|rev)|$)", path)
    return f"https://huggingface.co/{found[1]}" if found else "its page on huggingface.co"


def _by_kind(error: BaseException) -> str | None:
    """Say what the kind of an error means."""
    kinds, text, number = _kinds(error), str(error), getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return _FULL
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            "its files, or the hub's cache, may not be read or written by you. Change that, or set "
            "HF_HOME to a folder of your own."
        )
    if out_of_memory(error):
        return _SMALLER
    if kinds & {"JSONDecodeError", "UnicodeDecodeError", "YAMLError"}:
        return f"its configuration is damaged. {_FRESH}"
    if "UnpicklingError" in kinds and "Unsupported global" in text:
        return (
            "its weights are a pickle file that holds more than numbers; since that can run code, "
            "it is not read. Choose another one."
        )
    if kinds & {"SafetensorError", "BadZipFile", "UnpicklingError", "EOFError"}:
        return f"its weights are damaged. {_FRESH}"
    if isinstance(error, ImportError) and error.name and not _TOKENIZER.search(text):
        return f"it needs the package {error.name}. Install it with: pip install {error.name}"
    if kinds & {"LocalEntryNotFoundError", "OfflineModeIsEnabled"}:
        return _not_in_the_cache()
    if kinds & {"TransportError", "RequestException"}:
        return BROKEN_OFF
    return None


def _not_in_the_cache() -> str:
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE:
        return UNREACHABLE
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    name = next((name for name in names if os.environ.get(name)), names[0])
    return (
        f"the cache does not hold it, and the hub is not asked since {name} is set in the "
        f"environment. Start without {name} to download it."
    )


_TOKENIZER = re.compile("sentencepiece|tiktoken", re.IGNORECASE)
_UNKNOWN_TYPE = re.compile(r"model type [`'\"]?([\w.-]+)[`'\"]? but Transformers does not recog")

#: What the messages say of errors whose kind says nothing, and what to say instead.
_WORDS = (
    (r"no space left on device", _FULL),
    (
        r"trust_remote_code",
        (
            "its code is on the hub, and is not run unless you pass trust_remote_code=True. Read "
            "it first."
        ),
    ),
    (
        r"CUDA error|no kernel image|NVIDIA driver|CUDA driver|not compiled with CUDA",
        'the GPU is of no use to this PyTorch. Pass device="cpu", or install a PyTorch for it.',
    ),
    (
        r"PytorchStreamReader|pickled \(object\) data",
        f"its weights are damaged. {_FRESH}",
    ),
    (r"not a valid JSON file", f"its configuration is damaged. {_FRESH}"),
    (r"Consistency check failed", BROKEN_OFF),
    (
        r"repo id must",
        "it is neither a folder nor the name of a repository on the hub, as in google/gemma-2b.",
    ),
)


def _by_words(error: BaseException) -> str | None:
    """Say what the message of an error means."""
    text = str(error)
    if unknown := _UNKNOWN_TYPE.search(text):
        return (
            f"this transformers does not know its architecture ({unknown[1]}). Upgrade it with: "
            "pip install --upgrade transformers"
        )
    if _TOKENIZER.search(text):
        return (
            "its tokenizer cannot be read: its files are missing, or it needs a package more. "
            "Install it with: pip install sentencepiece tiktoken"
        )
    return next((hint for words, hint in _WORDS if re.search(words, text, re.IGNORECASE)), None)
