"""Direction algebra: sums of features and vectors with weights, usable wherever a feature is.

``feature(4021) - feature(17)`` is such a sum, and so is ``0.5 * vector(probe)``.
"""

from __future__ import annotations

import re
import reprlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from sae_explorer.errors import ExplorerError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sae_explorer.model.ghost import Vector
    from sae_explorer.subject import Subject

_SIDES = ("encoder", "decoder")

#: One term as text: a sign, a weight, a feature, and which of its vectors.
_TERM = re.compile(
    r"(?P<sign>[+-]?)\s*(?:(?P<weight>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\s*\*\s*)?(?P<feature>\d+)"
    r"(?:\s*:\s*(?P<weights>\w+))?(?=\s*(?:[+-]|$))\s*"
)

#: Beyond any use of a weight, a strength or a scale. Norms square what they are given: after numbers
#: from about 1e19 on the squares are no float32, and the norm would quietly give 0.
LARGEST = 1e15

#: Digits of the longest index; Python refuses to read numbers of thousands of them.
_DIGITS = 18

#: Characters of a value in an error.
_SHOWN = 120

#: Terms of a direction; more are better summed as vectors.
_MOST_TERMS = 256

#: How values are written in errors.
_BRIEFLY = reprlib.Repr()
_BRIEFLY.maxstring = _BRIEFLY.maxother = 80

_HOW = "Write features with their signs and weights, as in '4021 - 17' or '0.5*4021:encoder + 17:decoder'"


@dataclass(frozen=True)
class Term:
    """One summand of a direction: a feature or a vector, times a weight.

    Parameters
    ----------
    weight
        Any finite number.
    feature
        Index of a feature of the subject's selected SAE.
    weights
        ``"encoder"``, ``"decoder"``, or None for what the analysis is asked for.
    vector
        Numbers of a vector, in place of a feature's.
    name
        What the vector is called.
    """

    weight: float
    feature: int | None = None
    weights: str | None = None
    vector: tuple[float, ...] | None = None
    name: str = ""

    def __post_init__(self) -> None:
        _check_weight(self.weight)
        if self.weights not in (None, *_SIDES):
            raise ExplorerError(
                f"The weights of feature {self.feature} are {shown(self.weights)}; they must be "
                "'encoder' or 'decoder'."
            )

    @property
    def writes(self) -> bool:
        """Whether it is a decoder row where directions are added to activations."""
        return self.vector is None and self.weights != "encoder"

    @property
    def text(self) -> str:
        """What the term is of, without its weight."""
        if self.vector is not None:
            return self.name
        return f"{self.feature}" + (f":{self.weights}" if self.weights else "")


@dataclass(frozen=True)
class Direction:
    """A sum of features and vectors with weights.

    Make one by :func:`feature` and :func:`vector`, and by ``+``, ``-``, ``*`` and ``/`` of a number;
    or from text, as in ``Direction.parse("4021 - 0.5*17:decoder")``.

    A feature stands for the vector that the question takes for a feature: its unit vector where a
    ghost is made or tokens are ranked, its decoder row as it is where it is added to activations or
    read by the logit lens. A vector is taken as it is given.
    """

    #: How one is written in Python.
    example: ClassVar[str] = "feature(4021) - feature(17)"

    terms: tuple[Term, ...]

    def __post_init__(self) -> None:
        if len(self.terms) > _MOST_TERMS:
            raise ExplorerError(
                f"The direction has {len(self.terms):,} terms; at most {_MOST_TERMS} are possible. Add "
                "them up before, and give vector(total)."
            )

    def __add__(self, other: object) -> Direction:
        if not isinstance(other, Direction):
            return NotImplemented
        together: dict[tuple[Any, ...], Term] = {}
        for term in (*self.terms, *other.terms):
            key = (term.feature, term.weights, term.vector, term.name)
            before = together[key].weight if key in together else 0.0
            together[key] = Term(before + term.weight, *key)
        return Direction(tuple(term for term in together.values() if term.weight))

    def __sub__(self, other: object) -> Direction:
        return self + -other if isinstance(other, Direction) else NotImplemented

    def __mul__(self, factor: object) -> Direction:
        factor = plain_number(factor)
        if isinstance(factor, bool) or not isinstance(factor, (int, float)):
            return NotImplemented
        _check_weight(factor)
        return Direction(
            tuple(
                Term(term.weight * factor, term.feature, term.weights, term.vector, term.name)
                for term in self.terms
            )
        )

    __rmul__ = __mul__
    #: Numbers of numpy leave products to the direction.
    __array_ufunc__ = None

    def __truediv__(self, divisor: object) -> Direction:
        divisor = plain_number(divisor)
        if isinstance(divisor, bool) or not isinstance(divisor, (int, float)):
            return NotImplemented
        if not divisor:
            raise ExplorerError(f"The direction {self} cannot be divided by 0.")
        return self * (1 / divisor)

    def __neg__(self) -> Direction:
        return self * -1.0

    def __str__(self) -> str:
        parts = []
        for number, term in enumerate(self.terms):
            sign = "-" if term.weight < 0 else "+" if number else ""
            size = "" if abs(term.weight) == 1 else f"{_short(abs(term.weight))}*"
            parts.append(f"{sign}{' ' if number else ''}{size}{term.text}")
        return " ".join(parts) or "nothing"

    @property
    def features(self) -> tuple[int, ...]:
        """The features in the sum, each once."""
        found = (term.feature for term in self.terms if term.feature is not None)
        return tuple(dict.fromkeys(found))

    @classmethod
    def parse(cls, text: str) -> Direction:
        """Return the direction that a text says, such as ``"4021 - 0.5*17:decoder"``.

        Raises
        ------
        ExplorerError
            If the text is no sum of features.
        """
        if not isinstance(text, str):
            raise ExplorerError(f"{shown(text)} is no text of a direction. {_HOW}.")
        rest, total = text.strip(), cls(())
        while rest:
            match = _TERM.match(rest)
            if match is None or (total.terms and not match["sign"]):
                raise ExplorerError(f"The direction {shown(text)} cannot be read. {_HOW}.")
            weight = float(match["weight"] or 1) * (-1 if match["sign"] == "-" else 1)
            if len(match["feature"]) > _DIGITS:
                raise ExplorerError(f"{shown(match['feature'])} is no feature. {_HOW}.")
            # Not by addition: what cancels out is to be refused with its text.
            term = Term(weight, int(match["feature"]), match["weights"])
            total = cls((*total.terms, term))
            rest = rest[match.end() :]
        if not total.terms:
            raise ExplorerError(f"The direction is empty. {_HOW}.")
        return total

    def to_dict(self) -> str | dict[str, Any]:
        """Return the direction as plain JSON values: its text where that says everything."""
        if all(term.vector is None for term in self.terms):
            return str(self)
        return {
            "terms": [
                {"weight": term.weight, "vector": list(term.vector), "name": term.name}
                if term.vector is not None
                else {"weight": term.weight, "feature": term.feature, "weights": term.weights}
                for term in self.terms
            ]
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the direction that :meth:`to_dict` wrote down.

        Raises
        ------
        ExplorerError
            If the values are those of no direction.
        """
        try:
            total = Direction(())
            if not values["terms"]:
                raise KeyError("terms")  # noqa: TRY301 - said below
            for entry in values["terms"]:
                if "vector" in entry:
                    part = vector(entry["vector"], str(entry["name"]))
                else:
                    part = feature(entry["feature"], entry["weights"])
                total = Direction((*total.terms, *(part * entry["weight"]).terms))
        except (KeyError, TypeError) as error:
            raise ExplorerError(f"{shown(values)} is no direction. {_HOW}.") from error
        return cls(total.terms)

    def parts(self, subject: Subject, weights: str, *, as_unit: bool) -> list[tuple[float, Vector]]:
        """Return the sum's summands as vectors of the residual stream, each with its weight.

        Parameters
        ----------
        subject
            The model and the SAE.
        weights
            ``"encoder"`` or ``"decoder"``, for features that do not say which.
        as_unit
            Whether features stand for their unit vectors.

        Raises
        ------
        ExplorerError
            If a feature does not exist, a vector has another length than the residual stream, or
            the sum is zero.
        """
        found = []
        for term in self.terms:
            if term.vector is not None:
                own = np.asarray(term.vector, np.float32)
                if own.shape != (subject.d_model,):
                    raise ExplorerError(
                        f"{term.name} has {own.size} numbers; the model's residual stream has "
                        f"{subject.d_model}."
                    )
            else:
                assert term.feature is not None  # a term has one of the two
                own = subject.direction(term.feature, term.weights or weights)
                length = float(np.linalg.norm(own.astype(np.float64)))
                if as_unit and length:
                    own = (own / length).astype(np.float32)
            found.append((term.weight, own))
        check_sum(self, found)
        return found


def _check_weight(weight: float) -> None:
    if not -LARGEST <= weight <= LARGEST:  # NaN is not
        raise ExplorerError(
            f"A direction's weight is {shown(weight)}; it must be finite, and at most {LARGEST:g}."
        )


def check_sum(direction: Direction, parts: Sequence[tuple[float, Vector]]) -> None:
    """Refuse a sum that cancels out: it has no direction.

    Raises
    ------
    ExplorerError
        If the sum is zero, up to rounding, or holds nothing.
    """
    total = sum((w * v.astype(np.float64) for w, v in parts), start=np.zeros(1))
    size = sum(abs(w) * float(np.linalg.norm(v.astype(np.float64))) for w, v in parts)
    if not np.linalg.norm(total) > 1e-6 * size:
        raise ExplorerError(
            f"The direction {direction} cancels out, so it points nowhere. Choose other terms or "
            "weights."
        )


def feature(index: int, weights: str | None = None) -> Direction:
    """Return the direction of a feature, to be added to others.

    Parameters
    ----------
    index
        Index of the feature (latent) in the subject's selected SAE.
    weights
        ``"encoder"`` or ``"decoder"``; None leaves it to the analysis that the direction is given to.

    Examples
    --------
    >>> print(feature(4021) - 0.5 * feature(17, "decoder"))
    4021 - 0.5*17:decoder
    """
    number = plain_number(index)
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 10**_DIGITS:
        raise ExplorerError(
            f"feature is {shown(index)}; it must be the index of a feature, a whole number of at least 0."
        )
    return Direction((Term(1.0, number, weights),))


def vector(values: Sequence[float] | Any, name: str = "vector") -> Direction:
    """Return a vector, such as a probe or a difference of means, as a direction.

    Parameters
    ----------
    values
        Shape ``[d_model]``, finite.
    name
        What to call it in labels.
    """
    given = values.tolist() if hasattr(values, "tolist") else values
    name = " ".join(str(name).split()) or "vector"  # a word in labels
    try:
        if isinstance(given, (str, bytes)):
            raise TypeError  # noqa: TRY301 - said below
        numbers = tuple(float(value) for value in given)
    except (TypeError, ValueError, OverflowError) as error:
        raise ExplorerError(f"{name} is no vector; give d_model numbers.") from error
    if not numbers or not (np.abs(numbers) <= LARGEST).all():  # NaN is not
        held = f"numbers that are not finite, or above {LARGEST:g}" if numbers else "no numbers"
        raise ExplorerError(f"{name} holds {held}; give d_model finite numbers.")
    return Direction((Term(1.0, vector=numbers, name=name),))


def plain_number(given: Any) -> Any:
    """Return a number of numpy or torch as one of Python's, anything else as it is."""
    try:
        return given.item() if hasattr(given, "item") else given
    except (RuntimeError, TypeError, ValueError):  # several numbers
        return given


def shown(given: object) -> str:
    """Return a value as an error shows it: in one line, and not all of a long one."""
    try:
        text = " ".join(_BRIEFLY.repr(given).split())
    except ValueError:  # Python writes no number of thousands of digits
        return "a number too long to be shown"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _short(number: float) -> str:
    """Return the shortest text that reads back as the same number."""
    return repr(number).removesuffix(".0")
