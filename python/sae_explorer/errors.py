"""The errors of this package: one class, each message saying what was given and what to do next."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class ExplorerError(ValueError):
    """Something that was asked for cannot be done.

    The message is one line that names what was given, what is possible and what to do next, so that
    the command line and the widget can show it as it is. A ``ValueError``, because the cause is
    always a value from outside: an option, a file, a model that does not fit.
    """


class PartialResultWarning(UserWarning):
    """A run was interrupted; the result that was returned holds what had been computed by then."""


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out: each kind of device says it its own way."""
    # Of torch's errors only the name is used: torch takes seconds to import.
    if any(kind.__name__ in ("MemoryError", "OutOfMemoryError") for kind in type(error).__mro__):
        return True
    text = str(error).lower()
    said = ("allocate memory", "not enough memory", "out of memory")
    return isinstance(error, (RuntimeError, OSError)) and any(words in text for words in said)


def did_you_mean(given: str, possible: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest possible word, or an empty string."""
    near = difflib.get_close_matches(given, list(possible), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
