"""Turn sampled lines into token arrays and batches of equal length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tokens import EOS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lines import Line
    from transformers import PreTrainedTokenizerFast

__all__ = ["Batch", "Corpus", "encode_lines", "prefix_length"]

Ints = NDArray[np.int32]


@dataclass(frozen=True)
class Batch:
    """Rows of equal length.

    Attributes
    ----------
    ids : array, shape (rows, length)
        Token ids from BOS to EOS.
    loss_from : array, shape (rows,)
        First position whose next token is trained.
    ghosts : list of (row, concept)
        Rows that hold the placeholder, each with its concept's token ids.
    """

    ids: Ints
    loss_from: Ints
    ghosts: list[tuple[int, Ints]]


@dataclass(frozen=True)
class Corpus:
    """An epoch's rows: token ids, first trained position, concept ids."""

    rows: list[Ints]
    loss_from: Ints
    concepts: list[Ints]

    @property
    def n_tokens(self) -> int:
        """Number of tokens of all rows."""
        return sum(map(len, self.rows))

    def batches(self, tokens: int, seed: Sequence[int]) -> list[Ints]:
        """Group row numbers by equal length, in random order.

        Parameters
        ----------
        tokens
            About how many tokens a batch holds.
        seed
            Entropy of the order; the same seed gives the same batches.
        """
        rng = np.random.default_rng(seed)
        lengths = np.array([len(row) for row in self.rows])
        batches: list[Ints] = []
        for length in np.unique(lengths):
            members = rng.permutation(np.flatnonzero(lengths == length))
            size = max(1, tokens // int(length))
            for start in range(0, len(members), size):
                batch = members[start : start + size]
                # A few leftover rows would make a step of their own.
                if 4 * len(batch) >= size:
                    batches.append(batch.astype(np.int32))
        return [batches[i] for i in rng.permutation(len(batches))]

    def batch(self, members: Ints) -> Batch:
        """Collect the given rows, all of one length."""
        return Batch(
            ids=np.stack([self.rows[i] for i in members]),
            loss_from=self.loss_from[members],
            ghosts=[
                (row, self.concepts[i]) for row, i in enumerate(members) if len(self.concepts[i])
            ],
        )


def prefix_length(row: Ints, frame_end: Ints) -> int:
    """Length of the frame's fixed part: up to the quote after ``would be``."""
    width = len(frame_end)
    windows = np.lib.stride_tricks.sliding_window_view(row, width)
    return int(np.flatnonzero((windows == frame_end).all(axis=1))[0]) + width


def encode_lines(lines: list[Line], tokenizer: PreTrainedTokenizerFast, max_length: int) -> Corpus:
    """Encode lines; those longer than ``max_length`` tokens are left out."""
    backend = tokenizer.backend_tokenizer
    vocabulary = backend.get_vocab()
    frame_end = np.array([vocabulary[f"\u2581{part}"] for part in ("would", "be", '"')])
    pieces = _WordPieces(tokenizer)
    rows, loss_from, concepts = [], [], []
    for line, encoding in zip(
        lines, backend.encode_batch([line.text for line in lines]), strict=True
    ):
        row = np.array([*encoding.ids, EOS], dtype=np.int32)
        if len(row) > max_length:
            continue
        rows.append(row)
        # The position before the first trained token predicts it.
        loss_from.append(0 if line.prefix_loss else prefix_length(row, frame_end) - 1)
        concepts.append(pieces.ids(line.concept))
    return Corpus(rows, np.array(loss_from, dtype=np.int32), concepts)


class _WordPieces:
    """Token ids of words, looked up once each."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._backend = tokenizer.backend_tokenizer
        self._known: dict[str, list[int]] = {}

    def ids(self, words: Sequence[str]) -> Ints:
        split = [self._split(word) for word in words]
        # Pieces of rare words mean little beside whole words.
        whole = [ids for ids in split if len(ids) == 1]
        chosen = whole or split
        return np.array([i for ids in chosen for i in ids], dtype=np.int32)

    def _split(self, word: str) -> list[int]:
        if word not in self._known:
            encoding = self._backend.encode(word, add_special_tokens=False)
            self._known[word] = encoding.ids
        return self._known[word]
