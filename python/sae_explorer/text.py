"""Tokens as text: joined to what they say, and made visible where they would not be."""

from __future__ import annotations

import csv
import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

_BYTES = re.compile(r"(?:<0x[0-9A-F]{2}>)+")


#: Marks for the control characters that tokens often hold.
_MARKS = {"\n": "⏎", "\r": "␍", "\t": "⇥"}

#: Unicode categories of characters that draw nothing, or change how their neighbours are drawn.
_UNSEEN = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}


def visible(text: str) -> str:
    """Return ``text`` with every character that cannot be seen, or acts on others, spelled out.

    Line breaks and tabs become marks; escape codes, direction marks, zero-width characters and
    unusual spaces become ``<U+202E>``. Plain spaces stay.
    """

    def shown(character: str) -> str:
        category = unicodedata.category(character)
        if category in _UNSEEN or (category == "Zs" and character != " "):
            return _MARKS.get(character, f"<U+{ord(character):04X}>")
        return character

    return "".join(map(shown, text))


def visible_token(text: str) -> str:
    """Return one token's text as :func:`visible` does, with its spaces marked as well."""
    return visible(text).replace(" ", "␣")


def join_tokens(texts: Iterable[str]) -> str:
    """Return what the tokens say together; bytes that make up a character become that character."""

    def character(match: re.Match[str]) -> str:
        raw = bytes.fromhex(match.group(0).replace("<0x", "").replace(">", ""))
        return raw.decode("utf-8", errors="replace")

    return _BYTES.sub(character, "".join(texts))


def csv_text(frame: pd.DataFrame, index_label: str | None = None) -> str:
    r"""Return a table as CSV, its index included where that is given a name.

    All text stands in quotes: a bare ``\r``, which is a token of most vocabularies, would otherwise
    be read back as the end of a line.
    """
    return frame.to_csv(
        index=index_label is not None,
        index_label=index_label,
        quoting=csv.QUOTE_NONNUMERIC,
        lineterminator="\n",
    )
