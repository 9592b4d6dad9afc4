"""What other libraries' loaders raise, in plain words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sae_explorer.errors import ExplorerError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Errors of the hub by the names of their classes, and what to do about each.
_HINTS = {
    "GatedRepoError": "it is gated. Accept its terms on its page at huggingface.co, then log in "
    "with: hf auth login",
    "RemoteEntryNotFoundError": "a file of it is not on the hub (any more). Choose another one.",
    "RepositoryNotFoundError": "there is no such repository on the hub, or it is private. Check "
    "the name; for a private one log in with: hf auth login",
    "LocalEntryNotFoundError": "the hub cannot be reached and the cache does not hold it. Check "
    "the connection, or give folders to Subject.from_folder.",
    "SafetensorError": "its weights are damaged. Delete them from the folder or the hub's cache "
    "and load it again.",
}


def cannot_load(what: str, error: BaseException) -> ExplorerError:
    """Return the error to raise when another library failed to load something.

    Parameters
    ----------
    what
        What was to be loaded, as a sentence begins.
    error
        What the library raised. Its own message is used, on one line, unless its kind or that of
        one of its causes is known.
    """
    for cause in _causes(error):
        for kind in type(cause).__mro__:
            if kind.__name__ in _HINTS:
                return ExplorerError(f"{what} cannot be loaded: {_HINTS[kind.__name__]}")
    message = " ".join(str(error).split())
    return ExplorerError(f"{what} cannot be loaded: {message or type(error).__name__}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
