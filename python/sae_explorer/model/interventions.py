"""Interventions as values: what is done to the activation at an SAE's hook point, and where.

Steering adds a multiple of a direction, ``x <- x + c * d_f``. A clamp makes a feature's activation
``c``: ``x <- x + (c - a_f(x)) * d_f``, where ``a_f`` is the activation as the SAE measures it;
ablation is a clamp to 0. ``d_f`` is the decoder row in the units of ``x``. Whatever of ``x`` the SAE
does not explain stays as it is. Several interventions all measure the ``x`` that there was before
any of them. :mod:`~sae_explorer.model.changes` carries them out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self, TypeAlias

from sae_explorer.errors import ExplorerError, did_you_mean
from sae_explorer.model.direction import LARGEST, Direction, plain_number, shown

At: TypeAlias = str | tuple[int, ...]

#: The sets of positions that have a name.
PLACES = ("all", "prompt", "generated", "ghost")

#: What a number may be a multiple of.
UNITS = ("absolute", "max_activation", "residual_norm")

#: What a number of 1 is in each unit, in words.
UNIT_WORDS = {
    "absolute": "activation",
    "max_activation": "largest activation",
    "residual_norm": "residual norm",
}

#: Beyond the end of any text.
_FURTHEST = 10**9


class Intervention:
    """What all interventions share: which feature, and where. Each kind is a frozen dataclass.

    Parameters
    ----------
    feature
        Index of the SAE's feature (latent).
    at
        Positions of the text: ``"all"``, ``"prompt"``, ``"generated"``, ``"ghost"``, or a list of
        places. Place 0 is the first token, the beginning-of-text token where there is one; negative
        places count from the end of the prompt, whose last token is -1. Places that a text does not
        reach change nothing. ``"generated"`` leaves the
        prompt's last token as it is, and with it the first token that follows.
    skip_bos
        Whether the beginning-of-text token is left as it is, unless its place is listed: its
        activations lie far from all others', and SAEs are seldom trained on it.
    """

    #: How one is written in Python.
    example: ClassVar[str] = "Clamp(17, 8.0)"
    kind: ClassVar[str]
    #: What an intervention's own number is called.
    amount: ClassVar[str] = ""
    units: ClassVar[tuple[str, ...]] = ()

    feature: Any
    at: At
    skip_bos: bool

    def __post_init__(self) -> None:
        self._check_feature()
        if self.amount:
            # -0.0 does as 0.0 does.
            object.__setattr__(self, self.amount, self._checked(self.amount) + 0.0)
        unit = getattr(self, "unit", None)
        if self.units and not (isinstance(unit, str) and unit in self.units):
            raise ExplorerError(
                f"unit of {self._name} is {shown(unit)}; it must be one of "
                f"{', '.join(map(repr, self.units))}.{did_you_mean(str(unit), self.units)}"
            )
        object.__setattr__(self, "at", _checked_places(self.at, self._name))
        if not isinstance(self.skip_bos, bool):
            raise ExplorerError(
                f"skip_bos of {self._name} is {shown(self.skip_bos)}; it must be True or False."
            )

    def _check_feature(self) -> None:
        if isinstance(self.feature, Direction):
            raise ExplorerError(
                f"feature of {self._name} is the direction {shown(str(self.feature))}; it must be "
                "the index of one feature. Only Steer takes directions."
            )
        index = self._checked("feature")
        if index < 0 or index != int(index):
            raise ExplorerError(
                f"feature of {self._name} is {shown(self.feature)}; it must be a whole "
                "number of at least 0."
            )
        object.__setattr__(self, "feature", int(index))

    def _checked(self, name: str) -> float:
        """Return one of the fields as a number, which must be finite."""
        number = plain_number(getattr(self, name))
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise ExplorerError(f"{name} of {self._name} is {shown(number)}; it must be a number.")
        if not -LARGEST <= number <= LARGEST:  # NaN is not
            raise ExplorerError(
                f"{name} of {self._name} is {shown(number)}; it must be finite, and at most {LARGEST:g}."
            )
        return float(number)

    @property
    def _name(self) -> str:
        name = type(self).__name__
        return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"

    @property
    def does_nothing(self) -> bool:
        """Whether the run is exactly the one without it."""
        return False

    @property
    def label(self) -> str:
        """What it does, in a few words."""
        return f"{self._what()}{self._where()}"

    def _what(self) -> str:
        raise NotImplementedError

    def _where(self) -> str:
        where = {"all": "", "prompt": " in the prompt", "generated": " in what is generated"}
        if isinstance(self.at, str):
            words = where.get(self.at, " at the ghost")
        else:
            words = f" at {', '.join(map(str, self.at))}"
        return words + (" without BOS" if self.skip_bos and self.at in ("all", "prompt") else "")

    def to_dict(self) -> dict[str, Any]:
        """Return the intervention as plain JSON values; what is as usual is left out."""
        values: dict[str, Any] = {"kind": self.kind, "feature": self.feature}
        if isinstance(self.feature, Direction):
            values["feature"] = self.feature.to_dict()
        if self.amount:
            values[self.amount] = getattr(self, self.amount)
        if getattr(self, "unit", UNITS[0]) != UNITS[0]:
            values["unit"] = getattr(self, "unit", None)
        if self.at != PLACES[0]:
            values["at"] = self.at if isinstance(self.at, str) else list(self.at)
        if self.skip_bos:
            values["skip_bos"] = True
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the intervention that :meth:`to_dict` wrote down.

        Raises
        ------
        ExplorerError
            If the values are those of no intervention.
        """
        given = dict(values) if isinstance(values, Mapping) else {}
        kind = KINDS.get(str(given.pop("kind", "")))
        known = [field.name for field in fields(kind)] if kind is not None else []  # type: ignore[arg-type]
        needed = {"feature", kind.amount} - {""} if kind is not None else {""}
        if kind is None or not needed <= set(given) <= set(known):
            raise ExplorerError(
                f"{shown(values)} is no intervention; write it as in {{'kind': 'clamp', 'feature': "
                "17, 'value': 8.0}, or give Clamp(17, 8.0), Steer(17, 4.0) or Ablate(17)."
            )
        if isinstance(given["feature"], str):
            given["feature"] = Direction.parse(given["feature"])
        elif isinstance(given["feature"], Mapping):
            given["feature"] = Direction.from_dict(given["feature"])
        made = kind(**given)
        if not isinstance(made, cls):
            raise ExplorerError(
                f"{shown(dict(values))} is of kind {kind.kind!r}; {cls.__name__} reads its own alone. "
                "Use Intervention.from_dict."
            )
        return made

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the intervention that a text says, as on a command line.

        ``"clamp 17 8"``, ``"steer 4021 0.5 residual_norm at=generated"``, ``"steer 4021-17 3"``,
        ``"ablate 9 skip_bos"``.

        Raises
        ------
        ExplorerError
            If the text says none.
        """
        words = text.split()
        kind = KINDS.get(words[0].lower()) if words else None
        if words and kind is None:
            raise _no_word_of(text, words[0], KINDS)
        try:
            if kind is None:
                raise ValueError  # noqa: TRY301 - said below, as everything else
            given: dict[str, Any] = {"kind": kind.kind, "feature": words[1]}
            if words[1].isdecimal():
                given["feature"] = int(words[1])
            rest = words[2:]
            if kind.amount:
                given[kind.amount] = float(rest.pop(0))
            for word in rest:
                name, found, value = word.partition("=")
                if name == "at" and found:
                    listed = re.fullmatch(r"-?\d+(,-?\d+)*", value)
                    given["at"] = [int(part) for part in value.split(",")] if listed else value
                elif word == "skip_bos":
                    given["skip_bos"] = True
                elif word in kind.units and "unit" not in given:
                    given["unit"] = word
                else:
                    places = (f"at={place}" for place in (*PLACES, "3,-1"))
                    raise _no_word_of(text, word, (*kind.units, *places, "skip_bos"))
        except ExplorerError:
            raise
        except (ValueError, IndexError):
            raise ExplorerError(
                f"{shown(text)} is no intervention; write 'clamp 17 8', 'steer 4021 0.5 residual_norm "
                "at=generated skip_bos' or 'ablate 9', several with ; between them."
            ) from None
        return cls.from_dict(given)


@dataclass(frozen=True)
class Steer(Intervention):
    """A direction added to the activation: ``x <- x + c * d_f``.

    Parameters
    ----------
    feature
        Index of the SAE's feature (latent), or a :class:`Direction`, whose features stand for their
        decoder rows and whose vectors are activations where the SAE writes.
    strength
        How much; negative values steer away.
    unit
        What the strength counts. ``"absolute"``: ``d_f`` itself, in the SAE's own units.
        ``"max_activation"``: the largest activation of the feature in a small built-in corpus.
        ``"residual_norm"``: the mean norm of the activation there, over a small built-in text, along
        the unit vector.
    at, skip_bos
        Where; see :class:`Intervention`.

    Raises
    ------
    ExplorerError
        If a value is none of those.
    """

    kind: ClassVar[str] = "steer"
    amount: ClassVar[str] = "strength"
    units: ClassVar[tuple[str, ...]] = UNITS

    feature: int | Direction
    strength: float
    unit: str = "absolute"
    at: At = "all"
    skip_bos: bool = False

    def _check_feature(self) -> None:
        if not isinstance(self.feature, Direction):
            super()._check_feature()
        elif self.unit == "max_activation":
            raise ExplorerError(
                f"The direction {self.feature} has no activation, so no largest one. Give the "
                "strength with unit='residual_norm' or 'absolute'."
            )

    @property
    def does_nothing(self) -> bool:
        """Whether the run is exactly the one without it."""
        return self.strength == 0

    def _what(self) -> str:
        about = "" if isinstance(self.feature, Direction) else "feature "
        return f"{about}{self.feature} {self.strength:+g}{_times(self.unit)}"


@dataclass(frozen=True)
class Clamp(Intervention):
    """A feature held at one activation: ``x <- x + (c - a_f(x)) * d_f``; 0 ablates it.

    This sets what the feature adds. What the SAE would read of the result is mostly less, and 0 where
    the feature was far from firing, since its encoder does not undo its decoder.

    Parameters
    ----------
    feature
        Index of the SAE's feature (latent).
    value
        The activation ``c``.
    unit
        ``"absolute"``: in the SAE's own units. ``"max_activation"``: times the largest activation
        of the feature in a small built-in corpus.
    at, skip_bos
        Where; see :class:`Intervention`.

    Raises
    ------
    ExplorerError
        If the feature is no index, or the value no finite number.
    """

    kind: ClassVar[str] = "clamp"
    amount: ClassVar[str] = "value"
    units: ClassVar[tuple[str, ...]] = UNITS[:2]

    feature: int
    value: float
    unit: str = "absolute"
    at: At = "all"
    skip_bos: bool = False

    def _what(self) -> str:
        return f"feature {self.feature} at {self.value:g}{_times(self.unit)}"


@dataclass(frozen=True)
class Ablate(Intervention):
    """A feature whose part is taken away: a :class:`Clamp` to 0.

    Parameters
    ----------
    feature
        Index of the SAE's feature (latent).
    at, skip_bos
        Where; see :class:`Intervention`.

    Raises
    ------
    ExplorerError
        If the feature is no index.
    """

    kind: ClassVar[str] = "ablate"

    feature: int
    at: At = "all"
    skip_bos: bool = False

    def _what(self) -> str:
        return f"feature {self.feature} ablated"


KINDS: Mapping[str, type[Intervention]] = {one.kind: one for one in (Steer, Clamp, Ablate)}


def _times(unit: str) -> str:
    """Return what stands behind a number in a label."""
    return "" if unit == UNITS[0] else f" × {UNIT_WORDS[unit]}"


def _no_word_of(text: str, word: str, possible: Iterable[str]) -> ExplorerError:
    """Return the error for a word that stands in no intervention, or not there."""
    possible = tuple(possible)
    return ExplorerError(
        f"{shown(text)} is no intervention: {shown(word)} is none of {', '.join(possible)}."
        f"{did_you_mean(word, possible)} Write one as in 'clamp 17 8 at=prompt'."
    )


def _checked_places(at: Any, name: str) -> At:
    if isinstance(at, str):
        if at not in PLACES:
            raise ExplorerError(
                f"at of {name} is {shown(at)}; it must be one of {', '.join(map(repr, PLACES))}, or a "
                f"list of places such as [3, -1].{did_you_mean(at, PLACES)}"
            )
        return at
    given = at.tolist() if hasattr(at, "tolist") else at
    places = [given] if isinstance(given, int) else given
    if not isinstance(places, Sequence) or isinstance(places, bytes) or not places:
        raise ExplorerError(
            f"at of {name} is {shown(at)}; it must be one of "
            f"{', '.join(map(repr, PLACES))}, or a list of places such as [3, -1]."
        )
    numbers = [plain_number(place) for place in places]
    if any(isinstance(n, bool) or not isinstance(n, int) for n in numbers):
        raise ExplorerError(f"at of {name} is {shown(at)}; places are whole numbers.")
    if any(abs(n) > _FURTHEST for n in numbers):
        raise ExplorerError(f"at of {name} is {shown(at)}; no text has as many places.")
    return tuple(dict.fromkeys(numbers))
