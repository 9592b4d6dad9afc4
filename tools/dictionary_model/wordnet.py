"""Read WordNet 3.0's dict files into synsets.

The format is documented in the manual page ``wndb(5WN)`` that comes with
WordNet. Only the parts that the training lines need are kept.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["LEXICOGRAPHER_FILES", "Synset", "WordNet", "read_wordnet"]

PARTS = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}

# Numbered as in lexnames(5WN); Debian's data package does not carry the list.
LEXICOGRAPHER_FILES = """
    adjective relation adverb tops act animal artifact attribute body cognition
    communication event feeling food group location motive object person
    phenomenon plant possession process quantity relation shape state substance
    time body change cognition communication competition consumption contact
    creation emotion motion perception possession social stative weather
    adjective
""".split()  # noqa: SIM905 - a list of literals would be a page long

_EXAMPLE = re.compile(r'"([^"]+)"')
_MARKER = re.compile(r"\((?:a|p|ip)\)$")


@dataclass(frozen=True)
class Synset:
    """One meaning, with the words that carry it.

    Attributes
    ----------
    key
        Part of speech and file offset, such as ``n02084071``.
    topic
        Name of the lexicographer file, such as ``animal``.
    lemmas
        The words, with spaces instead of underscores.
    ranks
        For each word, which of its senses this is (1 is the commonest).
    definition
        The gloss without its examples.
    examples
        The gloss's example sentences.
    pointers
        Relations as ``(symbol, key)``; symbols are WordNet's own (``@`` hypernym).
    """

    key: str
    topic: str
    lemmas: tuple[str, ...]
    ranks: tuple[int, ...]
    definition: str
    examples: tuple[str, ...]
    pointers: tuple[tuple[str, str], ...]

    @property
    def part(self) -> str:
        """Part of speech: ``n``, ``v``, ``a`` or ``r``."""
        return self.key[0]

    def related(self, *symbols: str) -> list[str]:
        """Keys of the synsets that the given relations lead to."""
        return [key for symbol, key in self.pointers if symbol in symbols]


class WordNet:
    """All synsets, by key, with the relations that WordNet stores one way."""

    def __init__(self, synsets: dict[str, Synset]) -> None:
        self.synsets = synsets

    def __getitem__(self, key: str) -> Synset:
        return self.synsets[key]

    def __len__(self) -> int:
        return len(self.synsets)

    @cached_property
    def members(self) -> dict[str, list[str]]:
        """Keys below each synset: its kinds, instances, similars and field."""
        below: dict[str, list[str]] = defaultdict(list)
        for synset in self.synsets.values():
            for key in synset.related("@", "@i", "&", ";c", "\\"):
                below[key].append(synset.key)
        return dict(below)

    def ancestors(self, key: str, levels: int) -> list[str]:
        """First hypernym, its first hypernym and so on, nearest first."""
        chain: list[str] = []
        while len(chain) < levels:
            above = self.synsets[key].related("@", "@i")
            if not above or above[0] in chain:
                break
            key = above[0]
            chain.append(key)
        return chain


def read_wordnet(folder: Path) -> WordNet:
    """Read the four ``data.*`` and ``index.*`` files of a WordNet dict folder.

    Parameters
    ----------
    folder
        Where ``data.noun`` and the others lie.

    Returns
    -------
    WordNet
        117,659 synsets for WordNet 3.0.
    """
    synsets: dict[str, Synset] = {}
    for part, name in PARTS.items():
        ranks = _read_ranks(folder / f"index.{name}", part)
        with (folder / f"data.{name}").open(encoding="utf-8") as data:
            for line in data:
                # The licence at the head of each file is indented.
                if not line.startswith(" "):
                    synset = _parse(line, part, ranks)
                    synsets[synset.key] = synset
    return WordNet(synsets)


def _read_ranks(index: Path, part: str) -> dict[tuple[str, str], int]:
    ranks = {}
    with index.open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith(" "):
                continue
            fields = line.split()
            for rank, offset in enumerate(fields[-int(fields[2]) :], start=1):
                ranks[fields[0], part + offset] = rank
    return ranks


def _parse(line: str, part: str, ranks: dict[tuple[str, str], int]) -> Synset:
    head, gloss = line.split("|", 1)
    fields = head.split()
    key = part + fields[0]
    n_words = int(fields[3], 16)
    words = [_MARKER.sub("", word) for word in fields[4 : 4 + 2 * n_words : 2]]
    rest = fields[5 + 2 * n_words :]
    pointers = tuple(
        # Satellite adjectives ("s") live in the adjective file.
        (rest[i], ("a" if rest[i + 2] == "s" else rest[i + 2]) + rest[i + 1])
        for i in range(0, len(rest) - 3, 4)
        if rest[i + 2] in "nvasr"
    )
    definition, examples = _split_gloss(gloss.strip())
    return Synset(
        key=key,
        topic=LEXICOGRAPHER_FILES[int(fields[1])],
        lemmas=tuple(word.replace("_", " ") for word in words),
        ranks=tuple(ranks.get((word.lower(), key), 9) for word in words),
        definition=definition,
        examples=examples,
        pointers=pointers,
    )


def _split_gloss(gloss: str) -> tuple[str, tuple[str, ...]]:
    """Part the definition from the quoted examples behind it."""
    definition = re.split(r'[;,:]?\s*(?<=[;,:\s])"', gloss, maxsplit=1)[0]
    examples = tuple(_EXAMPLE.findall(gloss[len(definition) :]))
    # A double quote closes the definition in every line, so none may be inside.
    return definition.strip(" ;:").replace("`", "'").replace('"', "'"), examples
