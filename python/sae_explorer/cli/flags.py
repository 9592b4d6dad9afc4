"""Options as flags: made from a request's schema, read back as values, and named in messages."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any

from sae_explorer.errors import ExplorerError
from sae_explorer.request import Request, from_text, schema

if TYPE_CHECKING:
    from collections.abc import Container, Iterable


def flag_of(name: str) -> str:
    """Return the flag of an option."""
    return "--" + name.replace("_", "-")


#: Options that may be the path of an array.
_ARRAYS = ("vector", "embedding")

_METAVARS = {
    "int": "N",
    "float": "X",
    "ints": "N,N,...",
    "floats": "X,X,...",
    "strs": "TEXT,TEXT,...",
    "direction": "SUM",
    "interventions": "CHANGE;CHANGE;...",
}


def add_options(parser: argparse.ArgumentParser, entries: Iterable[dict[str, Any]]) -> None:
    """Add the flags of options, as the schema of their request describes them."""
    group = parser.add_argument_group("options")
    for entry in entries:
        _add_option(group, entry)


def _add_option(group: Any, entry: dict[str, Any]) -> None:
    flag = flag_of(entry["name"])
    notes = [entry["range"]] if entry["range"] else []
    if entry["name"] in _ARRAYS:
        notes.append("or the path of a .npy file")
    if entry["default"] not in (None, []):
        notes.append(f"default: {entry['default']}")
    text = entry["help"] + (f" ({'; '.join(notes)})" if notes else "")
    text = text.replace("%", "%%")  # argparse takes % for its own placeholders
    if entry["kind"] == "bool":
        group.add_argument(
            flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text
        )
        return
    metavar = _METAVARS.get(entry["kind"], "TEXT")
    group.add_argument(flag, metavar=metavar, default=argparse.SUPPRESS, help=text)


def given_options(request_class: type[Request], given: argparse.Namespace) -> dict[str, Any]:
    """Return the options of a request that the flags give, as values."""
    options = {}
    for entry in schema(request_class):
        name = entry["name"]
        if not hasattr(given, name):
            continue
        value = getattr(given, name)
        if name in _ARRAYS and value.endswith(".npy"):
            value = _array(name, value)
        elif isinstance(value, str):
            value = from_text(request_class, name, value)
        options[name] = value
    return options


def _array(name: str, path: str) -> Any:
    import numpy as np

    try:
        return np.load(path, allow_pickle=False)
    except (EOFError, OSError, ValueError) as error:
        raise ExplorerError(f"{name} cannot be read from {path}: {error}") from error


def refuse(given: argparse.Namespace, flag: str, *others: str) -> None:
    """Refuse options that make no sense beside a flag."""
    for other in others:
        if getattr(given, other):
            raise ExplorerError(f"{flag} goes without {flag_of(other)}; leave one out.")


#: Options as messages write them: ``sae_id=``, ``allow_pickle=True``, ``device='cpu'``,
#: ``strengths=[0.5, 1.0]``, ``second=feature(17)``.
_OPTION = re.compile(
    r"(?<!['\"])\b([a-z]+(?:_[a-z]+)*)="  # what is quoted are the user's own words
    r"(True\b|'[^']*'|\"[^\"]*\"|\[[\d., -]*\]|feature\(\d+\)|[\w.+-]*\w(?!\())?"
)
#: What a message begins with that is about one option, or says which one to give: ``cutoff is 0``,
#: ``Give one of feature, token or vector``.
_ABOUT = re.compile(
    r"^(?P<one>[a-z_]+)(?= (?:is|cannot) )|(?<=^Give one of )(?P<several>[a-z_, ]+ or [a-z_]+)"
)
#: What is written in Python alone, and how it is said here.
_IN_PYTHON = {
    "Subject(model, tokenizer, sae)": "--sae FOLDER",
    "Subject.from_pretrained(release, ...)": "--release",
    "Subject.from_folder; --model": "--model",
}


def in_flags(message: str, known: Container[str]) -> str:
    """Write the options that a message names as this command line takes them.

    Parameters
    ----------
    message
        What an error says.
    known
        The flags of the command.
    """

    def named(name: str) -> str:
        flag = flag_of(name)
        return flag if flag in known else name

    def given(found: re.Match[str]) -> str:
        name, value = found[1], found[2]
        if flag_of(name) not in known:
            return found[0]
        words = [flag_of(name)]
        if value not in (None, "True"):
            words.append(value.removeprefix("feature").strip("'\"[]()").replace(", ", ","))
        return " ".join(words)

    def about(found: re.Match[str]) -> str:
        return re.sub(r"[a-z_]{3,}", lambda name: named(name[0]), found[0])

    for python, words in _IN_PYTHON.items():
        message = message.replace(python, words)
    return _ABOUT.sub(about, _OPTION.sub(given, message))
