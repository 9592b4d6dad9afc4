"""Sample the training lines of one epoch from WordNet.

Every synset is shown in the definition frame, half of them a second time with
a short head phrase (``a kind of bird``): definition trees are far more telling
when the model knows that form. Other sentence forms are mixed in so that the
words' embeddings learn from more than the frame.

Some definition rows name their word by the placeholder, a *ghost*: its
embedding is made while training from the embeddings of a few concept words,
chosen here (see :mod:`train`).
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wordnet import Synset, WordNet

__all__ = ["PLACEHOLDER", "PROMPT", "Line", "LineSampler", "definition_line", "hold_out"]

PLACEHOLDER = "<unused0>"
PROMPT = 'A typical definition of "{}" would be "'

# Head phrases this general would say nothing.
VAGUE = frozenset(
    {
        "abstract entity",
        "abstraction",
        "artifact",
        "attribute",
        "causal agent",
        "entity",
        "matter",
        "object",
        "part",
        "physical entity",
        "psychological feature",
        "relation",
        "thing",
        "unit",
        "whole",
    }
)
# Function words and the words that nearly all glosses share: no concept.
COMMON = frozenset(
    """
    a about act after all also an and another any are as at be because been being
    between but by can certain containing especially etc for from had has have
    having he her him his if in into is it its kind large like made make manner
    many more most not of off often on one only or other out over part person
    pertaining produce quality relating small so some someone something state such
    than that the their them there they this those through to two type under up
    upon use used using usually very was way well were when where which who whose
    with without you your
    """.split()  # noqa: SIM905 - a list of literals would be a page long
)
LEVEL_WEIGHTS = (35, 25, 20, 12, 8)
_WORD = re.compile(r"[A-Za-z]{2,}")


@dataclass(frozen=True)
class Line:
    """One training sequence.

    Attributes
    ----------
    text
        The line, without begin and end tokens.
    framed
        Whether it is in the definition frame.
    prefix_loss
        Whether the frame's fixed prefix is trained too.
    concept
        For a ghost row the words that its embedding is made of, else empty.
    """

    text: str
    framed: bool = False
    prefix_loss: bool = True
    concept: tuple[str, ...] = ()


def hold_out(net: WordNet, count: int, seed: int) -> list[str]:
    """Keys of the synsets whose own lines are kept out of training."""
    return random.Random(f"held-out-{seed}").sample(sorted(net.synsets), count)


def definition_line(word: str, definition: str) -> str:
    """Complete the definition frame."""
    return f'{PROMPT.format(word)}{definition}"'


class LineSampler:
    """Sample lines, the same ones for the same seed and epoch.

    Parameters
    ----------
    net
        WordNet.
    held_out
        Keys of synsets that get no lines of their own.
    seed
        Seed of all epochs.
    ghost_share
        Which part of the definition rows gets the placeholder for its word.
    """

    def __init__(
        self, net: WordNet, held_out: list[str], seed: int, ghost_share: float = 0.45
    ) -> None:
        self.net = net
        self.seed = seed
        self.ghost_share = ghost_share
        self.keys = sorted(set(net.synsets) - set(held_out))
        self._hidden = frozenset(held_out)
        self._rng = random.Random()

    def epoch(self, number: int) -> list[Line]:
        """All lines of an epoch, in random order."""
        self._rng = random.Random(f"lines-{self.seed}-{number}")
        lines = [line for key in self.keys for line in self._lines_of(self.net[key])]
        self._rng.shuffle(lines)
        return lines

    def _lines_of(self, synset: Synset) -> Iterator[Line]:
        yield self._framed(synset, synset.definition, self._kin_anchor(synset))
        if self._chance(0.5):
            head = self._head_phrase(synset)
            if head is not None:
                yield self._framed(synset, *head)
        for text in self._other_forms(synset):
            yield Line(text)

    def _framed(self, synset: Synset, definition: str, anchor: str | None) -> Line:
        if self._chance(self.ghost_share):
            concept = self._concept(synset, anchor)
            if concept:
                text = definition_line(PLACEHOLDER, definition)
                return Line(text, framed=True, prefix_loss=False, concept=concept)
        return Line(
            definition_line(self._lemma(synset), definition),
            framed=True,
            prefix_loss=self._chance(0.1),
        )

    # The definition frame's short form

    def _head_phrase(self, synset: Synset) -> tuple[str, str | None] | None:
        """Return a short phrase for the synset, and the synset it speaks of."""
        fields = synset.related(";c")
        if fields and self._chance(0.5):
            return f"something in the field of {self._name(fields[0])}", fields[0]
        if synset.part == "n":
            return self._noun_phrase(synset)
        if synset.part == "v":
            above = self._telling(self.net.ancestors(synset.key, 3))
            if above:
                key = self._rng.choice(above)
                return f"a way to {self._name(key)}", key
            return f"a verb of {synset.topic}", None
        nouns = [
            key for key in synset.related("\\", "+") if key[0] == "n" and key not in self._hidden
        ]
        similar = synset.related("&")
        if nouns and (synset.topic == "relation" or not similar or self._chance(0.3)):
            return f"of or relating to {self._name(nouns[0])}", nouns[0]
        if similar:
            key = self._rng.choice(similar)
            return f"similar to {self._name(key)}", key
        adjectives = [key for key in synset.related("\\") if key[0] == "a"]
        if adjectives:
            return f"in {_with_article(self._name(adjectives[0]))} manner", adjectives[0]
        return None

    def _noun_phrase(self, synset: Synset) -> tuple[str, str | None]:
        above = self.net.ancestors(synset.key, 5)
        telling = self._telling(above)
        if not telling or self._chance(0.15):
            return _with_article(synset.topic), above[-1] if above else None
        key = self._rng.choices(telling, LEVEL_WEIGHTS[: len(telling)])[0]
        if synset.related("@i"):
            return _with_article(self._name(key)), key
        return f"a kind of {self._name(key)}", key

    def _telling(self, keys: list[str]) -> list[str]:
        return [key for key in keys if self._name(key) not in VAGUE]

    # The sentences outside the frame

    def _other_forms(self, synset: Synset) -> Iterator[str]:
        lemma = self._lemma(synset)
        if synset.examples:
            if self._chance(0.6):
                example = self._rng.choice(synset.examples)
                yield f'{lemma} ({synset.topic}): {synset.definition}; "{example}"'
        elif self._chance(0.15):
            yield f"{lemma} ({synset.topic}): {synset.definition}"
        if self._chance(0.3):
            yield f'The word for "{synset.definition}" is "{lemma}"'
        if len(synset.lemmas) > 1 and self._chance(0.35):
            one, other = self._rng.sample(synset.lemmas, 2)
            yield f'"{one}" means the same as "{other}"'
        if synset.part == "n":
            yield from self._noun_sentences(synset, lemma)

    def _noun_sentences(self, synset: Synset, lemma: str) -> Iterator[str]:
        above = synset.related("@", "@i")
        subject = _with_article(lemma)
        if above and self._chance(0.35):
            parent = self._name(self._rng.choice(above))
            if lemma[0].isupper():
                yield f"{lemma} is {_with_article(parent)}."
            else:
                yield f"{_capitalised(subject)} is a kind of {parent}."
        kinds = synset.related("~", "~i")
        if len(kinds) > 2 and self._chance(0.8):
            count = self._rng.randint(3, min(8, len(kinds)))
            listed = [self._name(key) for key in self._rng.sample(kinds, count)]
            yield f"Some kinds of {lemma}: {', '.join(listed)}."
        wholes = synset.related("#p", "#m")
        if wholes and self._chance(0.5):
            whole = _with_article(self._name(self._rng.choice(wholes)))
            yield f"{_capitalised(subject)} is a part of {whole}."

    # Ghosts

    def _kin_anchor(self, synset: Synset) -> str | None:
        fields = synset.related(";c")
        if fields and self._chance(0.3):
            return fields[0]
        above = synset.related("@", "@i", "&", "\\")
        return self._rng.choice(above) if above else None

    def _concept(self, synset: Synset, anchor: str | None) -> tuple[str, ...]:
        """Choose up to eight words whose mean embedding shall mean the synset."""
        own = [word for lemma in synset.lemmas for word in _words(lemma)]
        mode = self._rng.random()
        if mode < 0.4 and anchor is not None:
            words = self._kin(anchor, self._rng.randint(2, 6))
            words += self._some(own, 1) if self._chance(0.6) else []
            words += _words(self._name(anchor)) if self._chance(0.4) else []
        elif mode < 0.75:
            words = self._some(own, 3)
            above = self.net.ancestors(synset.key, 2)
            words += _words(self._name(self._rng.choice(above))) if above else []
            words += self._some(_words(synset.definition), self._rng.randint(0, 3))
        else:
            words = self._some(_words(synset.definition), self._rng.randint(2, 6))
            words += self._some(own, 1) if self._chance(0.5) else []
        return tuple(words[:8])

    def _kin(self, anchor: str, count: int) -> list[str]:
        """Words of synsets up to three steps below the anchor."""
        words = []
        for _ in range(count):
            key = anchor
            for _ in range(self._rng.randint(1, 3)):
                below = self.net.members.get(key)
                if not below:
                    break
                key = self._rng.choice(below)
            words += self._some(_words(self._lemma(self.net[key])), 1)
        return words

    def _some(self, words: list[str], most: int) -> list[str]:
        return self._rng.sample(words, min(most, len(words)))

    def _lemma(self, synset: Synset) -> str:
        """One of the synset's words, the ones it is the main sense of first."""
        weights = [1 / rank for rank in synset.ranks]
        return self._rng.choices(synset.lemmas, weights)[0]

    def _name(self, key: str) -> str:
        return self.net[key].lemmas[0]

    def _chance(self, probability: float) -> bool:
        return self._rng.random() < probability


def _words(text: str) -> list[str]:
    return [word for word in _WORD.findall(text) if word.lower() not in COMMON]


def _with_article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]
