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
#: What Python makes of bytes that are no text, where it is to keep them.
_KEPT_BYTES = re.compile("[\udc80-\udcff]+")

#: Marks for the control characters that tokens often hold.
_MARKS = {"\n": "⏎", "\r": "␍", "\t": "⇥"}

#: Unicode categories of characters that draw nothing, or change how their neighbours are drawn.
_UNSEEN = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}
#: Letters and marks that draw nothing all the same: fillers, variation selectors, blank Braille.
_BLANK = {
    *map(chr, (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B, 0x180C, 0x180D, 0x180F)),
    *map(chr, (0x2800, 0x3164, 0xFFA0, *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))),
}
#: GPT-2's vocabularies, and all that follow it, write each byte as a letter: those that print as
#: themselves, the others as the letters from 256 on.
_PRINTING = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_LETTERS = _PRINTING + [byte for byte in range(256) if byte not in set(_PRINTING)]
_BYTE_OF = {
    chr(byte if place < len(_PRINTING) else 256 + place - len(_PRINTING)): byte
    for place, byte in enumerate(_LETTERS)
}


def visible(text: str) -> str:
    """Return ``text`` with every character that cannot be seen, or acts on others, spelled out.

    Line breaks and tabs become marks; escape codes, direction marks, zero-width characters and
    unusual spaces become ``<U+202E>``. Plain spaces stay.
    """

    def shown(character: str) -> str:
        category = unicodedata.category(character)
        unusual = category == "Zs" and character != " "
        if category in _UNSEEN or unusual or character in _BLANK:
            return _MARKS.get(character, f"<U+{ord(character):04X}>")
        return character

    return "".join(map(shown, text))


def visible_token(text: str) -> str:
    """Return one token's text as :func:`visible` does, with its spaces marked as well."""
    return visible(text).replace(" ", "␣")


def join_tokens(texts: Iterable[str]) -> str:
    """Return what the tokens say together; bytes that make up a character become that character."""

    def kept(match: re.Match[str]) -> str:
        raw = bytes.fromhex(match.group(0).replace("<0x", "").replace(">", ""))
        return raw.decode("utf-8", errors="surrogateescape")

    def character(match: re.Match[str]) -> str:
        raw = match.group(0).encode("utf-8", errors="surrogateescape")
        return raw.decode("utf-8", errors="replace")

    # Token by token: "<0" and "xE2>" make no byte, and only say so.
    return _KEPT_BYTES.sub(character, "".join(_BYTES.sub(kept, text) for text in texts))


def bytes_spelled_out(entry: str, decoded: str) -> str | None:
    """Return the text of a byte-level vocabulary's entry that holds parts of characters.

    Parameters
    ----------
    entry
        The entry as the vocabulary writes it, such as ``"âĢ"``.
    decoded
        The same as the tokenizer decodes it, such as ``"\ufffd"``.

    Returns
    -------
    str or None
        The text with what is no character as bytes, such as ``<0xE2><0x80>``; None where the
        vocabulary does not write bytes as letters.
    """
    if not all(letter in _BYTE_OF for letter in entry):
        return None
    raw = bytes(_BYTE_OF[letter] for letter in entry)
    if raw.decode("utf-8", errors="replace") != decoded:
        return None
    return _KEPT_BYTES.sub(
        lambda match: "".join(f"<0x{ord(byte) - 0xDC00:02X}>" for byte in match.group(0)),
        raw.decode("utf-8", errors="surrogateescape"),
    )


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
