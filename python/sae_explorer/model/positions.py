"""What the tokens of a forward are: their places in the text, and whether they are its prompt's.

A decoder that packs the branches of many trees into one sequence knows where in its own text each
token stands; the model, and a hook within it, do not. Whoever runs a forward announces it here.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

IntArray: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Layout:
    """The tokens of one forward; all arrays have the shape ``[batch, n]`` of its input.

    Parameters
    ----------
    ids
        Token ids.
    position
        Place of each token in its text; 0 is the first, the beginning-of-text token where there is
        one.
    prompt_length
        Number of tokens of the prompt that each token's text begins with. What comes after it was
        generated.
    ghost_ids
        Ids whose embedding a vector has taken.
    """

    ids: IntArray
    position: IntArray
    prompt_length: IntArray
    ghost_ids: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        ids: Tensor,
        prompt_length: int | Sequence[int],
        first: int = 0,
        ghost_ids: Sequence[int] = (),
    ) -> Layout:
        """Return the layout of rows that each hold one text, or go on with one.

        Parameters
        ----------
        ids
            Shape ``[batch, n]``.
        prompt_length
            That of all rows, or one for each.
        first
            Place in its text of the first token of a row: more than 0 where a cache holds those
            before.
        ghost_ids
            As for the class.
        """
        own = ids.cpu().numpy().astype(np.int64)
        lengths = np.asarray(prompt_length, np.int64).reshape(-1, 1)
        return cls(
            own,
            np.broadcast_to(first + np.arange(own.shape[1], dtype=np.int64), own.shape),
            np.broadcast_to(lengths, own.shape),
            tuple(ghost_ids),
        )


_announced: ContextVar[Layout | None] = ContextVar("announced", default=None)


@contextmanager
def announced(layout: Layout) -> Iterator[None]:
    """Say what the tokens of the forwards in the block are."""
    token = _announced.set(layout)
    try:
        yield
    finally:
        _announced.reset(token)


def current() -> Layout | None:
    """Return what was announced of the forward that is under way, None if nothing was."""
    return _announced.get()
