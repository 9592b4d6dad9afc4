"""Interventions: the activation at an SAE's hook point, changed while the model runs.

Steering adds a multiple of a direction, ``x <- x + c * d_f``. A clamp makes a feature's activation
``c``: ``x <- x + (c - a_f(x)) * d_f``, where ``a_f`` is the activation as the SAE measures it;
ablation is a clamp to 0. ``d_f`` is the decoder row in the units of ``x``. Whatever of ``x`` the SAE
does not explain stays as it is. Several interventions all measure the ``x`` that there was before
any of them. A transcoder measures at one hook point and writes at another of the same forward.
"""

from __future__ import annotations

import copy
import re
import weakref
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeAlias

import numpy as np
import torch

from sae_explorer.errors import ExplorerError, did_you_mean
from sae_explorer.model import encoding
from sae_explorer.model.direction import Direction, check_sum, plain_number, shown
from sae_explorer.model.positions import current
from sae_explorer.model.sites import edited

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from sae_lens import SAE
    from torch import Tensor

    from sae_explorer.model.direction import Term
    from sae_explorer.model.positions import Layout
    from sae_explorer.subject import Subject

At: TypeAlias = str | tuple[int, ...]

#: The sets of positions that have a name.
PLACES = ("all", "prompt", "generated", "ghost")

#: What a number may be a multiple of.
UNITS = ("absolute", "max_activation", "residual_norm")

#: SAEs that divide what they read by a norm of its own, and multiply what they write by it again.
_NORMALISED = ("constant_norm_rescale", "layer_norm")

#: SAEs whose edits were seen to reach a model's output.
_tried: weakref.WeakKeyDictionary[Any, weakref.WeakSet[Any]] = weakref.WeakKeyDictionary()

#: Beyond any activation; larger ones are no float32.
_LARGEST = 1e30

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
        if not -_LARGEST < number < _LARGEST:  # NaN is not
            raise ExplorerError(
                f"{name} of {self._name} is {shown(number)}; it must be finite, and below {_LARGEST:g}."
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
                elif not found and kind.units and "unit" not in given:
                    given["unit"] = word
                else:
                    raise ValueError  # noqa: TRY301
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
        counted = {"absolute": "", "max_activation": " x max", "residual_norm": " x norm"}[
            self.unit
        ]
        about = "" if isinstance(self.feature, Direction) else "feature "
        return f"{about}{self.feature} {self.strength:+g}{counted}"


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
        counted = " x max" if self.unit == "max_activation" else ""
        return f"feature {self.feature} at {self.value:g}{counted}"


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


def check(subject: Subject, interventions: Sequence[Intervention]) -> None:
    """Refuse interventions that cannot be carried out.

    Raises
    ------
    ExplorerError
        If the SAE has no such feature, two interventions want one feature at different values at
        one place, a decoder vector is zero, the SAE is of a kind that cannot be changed in this
        way, or its hook point is not in the model.
    """
    if not interventions:
        return
    sae = subject.sae.sae
    encoding.refuse_without_activations(subject.sae)
    features = [_features(one) for one in interventions]
    for number, one in enumerate(interventions):
        if isinstance(one.feature, Direction):
            added_vector(subject, one.feature)
        else:
            subject.sae.check_feature(one.feature)
            if not bool(sae.W_dec[one.feature].any()):
                raise ExplorerError(
                    f"The decoder vector of feature {one.feature} is zero, so nothing changes with "
                    "it. Choose another one."
                )
        for before, other in enumerate(interventions[:number]):
            shared = features[number] & features[before]
            held = not (isinstance(one, Steer) and isinstance(other, Steer))
            if shared and held and not _apart(one.at, other.at):
                raise ExplorerError(
                    f"Feature {min(shared)} is held at one value and changed by another intervention at "
                    f"the same places ({other.label}; {one.label}). Take one of them out, perhaps "
                    "from interventions=."
                )
    subject.site()
    subject.site_out()


def _features(one: Intervention) -> frozenset[int]:
    """Return the features whose decoder rows an intervention adds."""
    if isinstance(one.feature, Direction):
        terms = one.feature.terms
        return frozenset(t.feature for t in terms if t.writes and t.feature is not None)
    return frozenset((one.feature,))


def _apart(first: At, second: At) -> bool:
    """Tell whether no place of any text is meant by both."""
    if isinstance(first, tuple) and isinstance(second, tuple):
        one_way = len({place < 0 for place in (*first, *second)}) == 1
        return one_way and not set(first) & set(second)

    def in_prompt(at: At) -> bool:
        return at in ("prompt", "ghost") if isinstance(at, str) else max(at) < 0

    return any(
        one == "generated" and in_prompt(other) for one, other in ((first, second), (second, first))
    )


@contextmanager
def applied(subject: Subject, interventions: Sequence[Intervention]) -> Iterator[None]:
    """Hold the subject for a run in which every forward is changed by the interventions.

    They act on the selected SAE's features, with a cache or without. The first time that an SAE is
    used on a model, a forward of two tokens checks that they reach the output.

    Parameters
    ----------
    subject
        The model and the SAE.
    interventions
        None, one or several.

    Raises
    ------
    ExplorerError
        As :func:`check` does; or if the output does not change when the activation does.
    """
    with applied_by_row(subject, [interventions]):
        yield


@contextmanager
def applied_by_row(subject: Subject, rows: Sequence[Sequence[Intervention]]) -> Iterator[None]:
    """Hold the subject for a run in which each row of the batch is changed in its own way.

    Parameters
    ----------
    subject
        The model and the SAE.
    rows
        The interventions of each row of every forward in the block; if there is only one entry, it
        holds for all rows. Those of other positions than all need
        :func:`~sae_explorer.model.positions.announced`.

    Raises
    ------
    ExplorerError
        As :func:`applied` does; and by a forward whose batch has another number of rows, whose
        positions are not known where they are needed, or whose text has no such place.
    """
    with Changes(subject, rows).applied():
        yield


class Changes:
    """Interventions that are applied again and again, such as at every step of a growing tree.

    What they need of the SAE and of the model is looked up once.

    Parameters
    ----------
    subject, rows
        As :func:`applied_by_row` takes them.

    Raises
    ------
    ExplorerError
        As :func:`check` does.
    """

    def __init__(self, subject: Subject, rows: Sequence[Sequence[Intervention]]) -> None:
        for interventions in rows:
            check(subject, interventions)
        self._subject = subject
        self._rows = [[one for one in row if not one.does_nothing] for row in rows]
        self._edit: _Edit | None = None

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Hold the subject for a run in which every forward is changed; see :func:`applied`."""
        with self._subject.run():
            if not any(self._rows):
                yield
                return
            if self._edit is None:
                self._edit = self._prepared()
            with self._edit.entered():
                yield

    def _prepared(self) -> _Edit:
        if self._subject.sae.sae not in _tried.setdefault(self._subject.model, weakref.WeakSet()):
            _try_out(self._subject)
        edit = _Edit(self._subject, len(self._rows))
        for row, interventions in enumerate(self._rows):
            for one in interventions:
                edit.add(one, row if len(self._rows) > 1 else None)
        edit.finish()
        return edit


@dataclass(frozen=True, eq=False)
class _Part:
    """One intervention, ready to be carried out.

    Parameters
    ----------
    intervention
        Says where it acts.
    row
        Row of the batch, None for all.
    column
        Its place among the features, or among the vectors, that are changed.
    value
        In the units of these.
    kind
        Whether the value is added to a feature's activation, held there, or added times a vector.
    """

    intervention: Intervention
    row: int | None
    column: int
    value: float
    kind: Literal["add", "hold", "vector"]


class _Edit:
    """A change of the activation where an SAE writes, made of parts.

    All of them are the rows of one matrix product: a feature's decoder row or a vector, times a
    number for each position.
    """

    def __init__(self, subject: Subject, rows: int) -> None:
        self._subject = subject
        self._rows = rows
        self._features: list[int] = []
        self._vectors: list[Tensor] = []
        self._parts: list[_Part] = []
        bos = subject.tokenizer.bos_token_id
        self._bos = -1 if bos is None else int(bos)

    def add(self, one: Intervention, row: int | None) -> None:
        """Take one more intervention, of one row of the batch or of all."""
        if isinstance(one, Steer) and one.unit == "residual_norm":
            vector = added_vector(self._subject, one.feature)
            size = _corpus().residual_norm(self._subject) / float(vector.norm())
            self._add_vector(one, row, vector, one.strength * size)
        elif isinstance(one.feature, Direction):
            # Term by term, so that a feature in a sum is what it is alone.
            for term in one.feature.terms:
                value = term.weight * float(getattr(one, one.amount))
                if term.writes:
                    self._add_feature(one, row, term.feature, value, "add")
                else:
                    self._add_vector(one, row, _own_vector(self._subject, term), value)
        else:
            value = float(getattr(one, one.amount)) if one.amount else 0.0
            if getattr(one, "unit", "") == "max_activation":
                value *= _corpus().largest(self._subject, one.feature)
            how: Literal["add", "hold"] = "add" if isinstance(one, Steer) else "hold"
            self._add_feature(one, row, one.feature, value, how)

    def _add_vector(self, one: Intervention, row: int | None, vector: Tensor, value: float) -> None:
        self._parts.append(_Part(one, row, len(self._vectors), value, "vector"))
        self._vectors.append(vector)

    def _add_feature(
        self,
        one: Intervention,
        row: int | None,
        feature: Any,
        value: float,
        how: Literal["add", "hold"],
    ) -> None:
        if feature not in self._features:
            self._features.append(feature)
        self._parts.append(_Part(one, row, self._features.index(feature), value, how))

    def finish(self) -> None:
        """Look up what the interventions need; no more come."""
        subject, whole = self._subject, encoding.quiet(self._subject.sae.sae)
        self._whole = whole
        self._alone = whole.cfg.architecture() in encoding.ALONE
        self._narrow = encoding.narrowed(whole, self._features) if self._features else whole
        # A decoder is affine. Unless its output is scaled by what was encoded, a feature's row is the
        # same at every position, and nothing need be encoded to add a multiple of it.
        scaled = whole.cfg.normalize_activations in _NORMALISED
        fixed = self._features and not scaled
        self._decoded = _decoder_rows(whole, self._features) if fixed else None
        self._decoder = _in_float32(self._narrow) if scaled else self._narrow
        holds = any(part.kind == "hold" for part in self._parts)
        self._measures = bool(self._features) and (scaled or holds)
        self._added = torch.stack(self._vectors) if self._vectors else None
        self._sites = subject.site(), subject.site_out()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Make the change in every forward within the block."""
        subject, whole, narrow, alone = self._subject, self._whole, self._narrow, self._alone
        rows, measures, vectors = self._decoded, self._measures, self._added
        decoder = self._decoder
        at_once = encoding.positions_at_once(len(self._features) if alone else subject.sae.width)
        reads, writes = self._sites
        pending: list[Tensor | None] = []

        def in_features(x: Tensor) -> Tensor | None:
            """Return what the changes of features add, shape ``[positions or 1, d_out]``."""
            acting = self._acting(x, ("add", "hold"))
            if acting is None:
                return None
            device = narrow.W_dec.device
            count = len(self._features)
            added, held = (
                self._numbers(acting, kind, count).to(device) for kind in ("add", "hold")
            )
            if not measures:
                assert rows is not None  # or it would have to measure
                return added @ rows
            holds = self._numbers(acting, "hold", count, mark=True).to(device)
            changes, start = [], 0
            for part in torch.split(encoding.positions_for(subject.sae, x), at_once):
                at = slice(start, start + len(part)) if len(added) > 1 else slice(None)
                start += len(part)
                read = narrow.encode(part) if alone else whole.encode(part)[..., self._features]
                difference = added[at] + holds[at] * (held[at] - read)
                if rows is not None:
                    changes.append(difference.to(rows) @ rows)
                else:
                    # One call, since the factor is kept from encode to the next decode and no further.
                    difference = difference.to(decoder.W_dec)
                    both = decoder.decode(torch.stack([difference, torch.zeros_like(difference)]))
                    changes.append(both[0] - both[1])
            return torch.cat(changes)

        def measure(x: Tensor) -> Tensor:
            pending[:] = [in_features(x)]
            return x

        def write(x: Tensor) -> Tensor:
            if measures and not pending:
                raise ExplorerError(
                    f"{subject.sae.sae_id} writes at {writes.name}, but "
                    f"{type(subject.model).__name__} had not run {reads.name} before, where it reads. "
                    "Use the model that the SAE was trained on."
                )
            changes = [pending.pop() if measures else in_features(x) if self._features else None]
            acting = self._acting(x, ("vector",))
            if vectors is not None and acting is not None:
                numbers = self._numbers(acting, "vector", len(vectors))
                changes.append(numbers.to(vectors.device) @ vectors)
            for change in changes:
                if change is not None:  # the sum is in the wider of the two dtypes
                    whole_shape = (
                        x.shape if len(change) > 1 or x[..., 0].numel() == 1 else (1, 1, -1)
                    )
                    x = x + change.reshape(whole_shape).to(x.device)
            return x

        with ExitStack() as stack:
            if measures:
                stack.enter_context(edited(reads, measure))
            stack.enter_context(edited(writes, write))
            yield

    def _acting(
        self, x: Tensor, kinds: tuple[str, ...]
    ) -> tuple[tuple[int, int], dict[_Part, NDArray[np.bool_] | None]] | None:
        """Return the parts that act in a forward and where, None if none does.

        Where is an array of shape ``[batch, n]``, or None for everywhere.
        """
        shape = (x.shape[0], x.shape[1])
        if self._rows not in (1, shape[0]):
            raise ExplorerError(
                f"Interventions were given for {self._rows} rows, but the batch has {shape[0]}. Give "
                "a list of interventions for each row, or one for all."
            )
        places = {
            p: _places(p.intervention, shape, self._bos) for p in self._parts if p.kind in kinds
        }
        acting = {part: at for part, at in places.items() if at is None or at.any()}
        return (shape, acting) if acting else None

    @staticmethod
    def _numbers(
        acting: tuple[tuple[int, int], dict[_Part, NDArray[np.bool_] | None]],
        kind: str,
        columns: int,
        *,
        mark: bool = False,
    ) -> Tensor:
        """Return the values of one kind of parts at each position, shape ``[positions or 1, columns]``.

        One row stands for all where they are the same. With ``mark`` each value is 1.
        """
        shape, places = acting
        own = {part: at for part, at in places.items() if part.kind == kind}
        if all(at is None and part.row is None for part, at in places.items()):
            numbers = np.zeros((1, 1, columns), np.float32)
        else:
            numbers = np.zeros((*shape, columns), np.float32)
        for part, at in own.items():
            rows = slice(None) if part.row is None else slice(part.row, part.row + 1)
            where = 1.0 if at is None else at[rows]
            numbers[rows, :, part.column] += where * (1.0 if mark else part.value)
        return torch.from_numpy(numbers.reshape(-1, columns))


def _places(
    intervention: Intervention, shape: tuple[int, int], bos: int
) -> NDArray[np.bool_] | None:
    """Return where in a forward an intervention acts, shape ``[batch, n]``; None: everywhere."""
    if intervention.at == "all" and not (intervention.skip_bos and bos >= 0):
        return None
    layout = current()
    if layout is None or layout.ids.shape != shape:
        raise ExplorerError(
            "An intervention at some positions only is at work in a forward whose positions are not "
            "known. Run the model through sae_explorer's own functions, or announce them."
        )
    return _chosen(intervention, layout, bos)


def _chosen(intervention: Intervention, layout: Layout, bos: int) -> NDArray[np.bool_]:
    in_prompt = layout.position < layout.prompt_length
    where: NDArray[np.bool_]
    match intervention.at:
        case "all":
            where = np.ones(layout.ids.shape, dtype=bool)
        case "prompt":
            where = in_prompt
        case "generated":
            where = ~in_prompt
        case "ghost":
            if in_prompt.any() and not layout.ghost_ids:
                raise ExplorerError(
                    f"An intervention acts at the ghost ({intervention.label}), but the text has "
                    "none. Choose other positions, such as at='prompt'."
                )
            where = in_prompt & np.isin(layout.ids, layout.ghost_ids)
        case places:
            wanted = np.array(places)[:, None, None]
            shortest, first = int(layout.prompt_length.min()), int(wanted.min())
            if first < -shortest:
                raise ExplorerError(
                    f"An intervention acts at place {first} ({intervention.label}), but the "
                    f"prompt has {shortest} tokens, -{shortest} to -1. Choose one of these."
                )
            counted = np.where(wanted < 0, layout.prompt_length + wanted, wanted)
            where = (layout.position == counted).any(axis=0)
    if intervention.skip_bos and isinstance(intervention.at, str):  # a listed place is meant
        where = where & ~((layout.position == 0) & (layout.ids == bos))
    return where


def added_vector(subject: Subject, what: int | Direction) -> Tensor:
    """Return what a strength is a multiple of: shape ``[d_out]``, float32, on the SAE's device.

    Raises
    ------
    ExplorerError
        If a direction does not lie where the SAE writes, or cancels out.
    """
    if not isinstance(what, Direction):
        return _decoder_rows(subject.sae.sae, [what])[0]
    found = [(term.weight, _own_vector(subject, term).cpu().numpy()) for term in what.terms]
    check_sum(what, found)
    total = sum((w * v.astype(np.float64) for w, v in found), start=np.zeros(1))
    return torch.from_numpy(np.asarray(total, np.float32)).to(subject.sae.sae.W_dec.device)


def _own_vector(subject: Subject, term: Term) -> Tensor:
    """Return what one term of a direction adds at weight 1, shape ``[d_out]``, float32."""
    sae = subject.sae
    like = sae.sae.W_dec
    own: Any = term.vector
    if term.feature is not None:
        sae.check_feature(term.feature)
        if term.writes:
            return _decoder_rows(sae.sae, [term.feature])[0]
        own = sae.encoder(term.feature)
    own = np.asarray(own, np.float32)
    if own.shape != like.shape[1:]:
        raise ExplorerError(
            f"{term.text} in a direction has {own.size} numbers; {sae.sae_id} writes activations of "
            f"{like.shape[1]}. Steer along vectors from where it writes."
        )
    return torch.from_numpy(own).to(like.device)


def _decoder_rows(sae: SAE[Any], features: Sequence[int]) -> Tensor:
    """Return what features add at activation 1, shape ``[features, d_out]``, float32.

    Where an SAE multiplies its output by a norm of what it read, before that.
    """
    twin = _in_float32(encoding.narrowed(encoding.quiet(sae), features))
    twin.run_time_activation_norm_fn_out = lambda out: out
    ones = torch.eye(len(features)).to(twin.W_dec)
    rows: Tensor = twin.decode(ones) - twin.decode(torch.zeros_like(ones))
    return rows.detach()


def _in_float32(sae: SAE[Any]) -> SAE[Any]:
    """Return the SAE for decoding: a difference of two sums in half precision is no feature's row."""
    twin = copy.copy(sae)
    twin._parameters = {  # noqa: SLF001
        name: None if weights is None else torch.nn.Parameter(weights.float(), requires_grad=False)
        for name, weights in sae._parameters.items()  # noqa: SLF001
    }
    return twin


def _corpus() -> Any:
    from sae_explorer.analyses import activations

    return activations


def _try_out(subject: Subject) -> None:
    """Check, once for each SAE on each model, that a change where it writes reaches the output."""
    sae = subject.sae.sae
    much = torch.randn(sae.W_dec.shape[1], generator=torch.Generator().manual_seed(0)) * 1000
    # Two tokens, and different ones: with a single key, attention leaves nothing to choose.
    tokens = torch.arange(2, device=subject.device)[None]
    before: Tensor = subject.model(input_ids=tokens, use_cache=False).logits
    with edited(subject.site_out(), lambda x: x + much.to(x.device)):
        after: Tensor = subject.model(input_ids=tokens, use_cache=False).logits
    if torch.equal(before, after):
        raise ExplorerError(
            f"A change at {subject.site_out().path} does not reach the output of this "
            f"{type(subject.model).__name__}, so no intervention of {subject.sae.sae_id} would do "
            "anything. Load the model anew, without compiling it or replacing its layers."
        )
    _tried[subject.model].add(sae)
