"""Requests: the question put to an analysis, as a frozen and validated value.

A request's fields carry their default, range, unit and help once. Keyword options, the command
line's flags, the reference in the docstrings and (through :func:`schema`) the widget's controls are
derived from them.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import reprlib
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeVar

from sae_explorer.errors import ExplorerError, did_you_mean

_METADATA_KEY = "option"


@dataclass(frozen=True)
class Option:
    """What is known of one field of a request, besides its type and its default.

    Parameters
    ----------
    help
        One sentence: what it does and when to touch it.
    unit
        Unit of the value, empty when it has none.
    minimum, maximum
        Smallest and largest value allowed; None means unbounded.
    above
        Bound that the value must exceed.
    slider
        Range a control offers. It may be narrower than what is allowed.
    log
        Whether a control should be logarithmic.
    choices
        The words allowed, for a field that takes words.
    group
        The heading of its control, where it is another than that of the class which declares it.
    """

    help: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    slider: tuple[float, float] | None = None
    log: bool = False
    choices: tuple[str, ...] = ()
    group: str = ""

    def range_text(self) -> str:
        """Return the allowed range in words, such as ``"above 0, at most 1"``."""
        parts = [
            f"above {self.above:g}" if self.above is not None else "",
            f"at least {self.minimum:g}" if self.minimum is not None else "",
            f"at most {self.maximum:g}" if self.maximum is not None else "",
        ]
        numbers = ", ".join(part for part in parts if part)
        words = ("one of " if len(self.choices) > 1 else "") + ", ".join(map(repr, self.choices))
        return " or ".join(part for part in (numbers, words) if part)

    def check(self, name: str, value: object) -> None:
        """Raise :class:`ExplorerError` when ``value`` is out of range."""
        if isinstance(value, str):
            if self.choices and value not in self.choices:
                hint = did_you_mean(value, self.choices)
                raise ExplorerError(f"{name} is {value!r}; it must be {self.range_text()}.{hint}")
            return
        for number in value if isinstance(value, tuple) else (value,):
            if not isinstance(number, (int, float)) or isinstance(number, bool):
                continue
            too_low = (self.minimum is not None and number < self.minimum) or (
                self.above is not None and number <= self.above
            )
            too_high = self.maximum is not None and number > self.maximum
            finite = isinstance(number, int) or math.isfinite(number)
            if too_low or too_high or not finite:
                limits = self.range_text() if finite else "finite"
                raise ExplorerError(f"{name} is {reprlib.repr(number)}; it must be {limits}.")


def option(default: Any, help: str, **details: Any) -> Any:  # noqa: A002 - the field's own word
    """Declare a field of a :class:`Request`: its default, and what :class:`Option` takes."""
    metadata = {_METADATA_KEY: Option(help=help, **details)}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Request:
    """Base of all requests. A subclass is a frozen dataclass whose fields are made by `option`."""

    #: What the options that a class declares are about: the heading of their controls.
    group: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for name in options(type(self)):
            object.__setattr__(self, name, checked(type(self), name, getattr(self, name)))

    @classmethod
    def from_options(cls, given: Mapping[str, Any]) -> Self:
        """Build the request from keyword options.

        Raises
        ------
        ExplorerError
            For a name that is no option, or a value of the wrong type or out of range.
        """
        known = options(cls)
        for name in given:
            if name not in known:
                hint = did_you_mean(name, known)
                listing = ", ".join(known)
                raise ExplorerError(f"There is no option {name!r}.{hint} Possible: {listing}.")
        # A sum of features may stand wherever a feature does.
        if "direction" in known and _is_structured(type(given.get("feature"))):
            if given.get("direction") is not None:
                raise ExplorerError(
                    "feature is a direction, and direction was given too; give one."
                )
            given = {**given, "feature": None, "direction": given["feature"]}
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values, in the order of their declaration."""
        kinds = _field_types(type(self))
        return {
            name: plain(getattr(self, name))
            for name in options(type(self))
            # Left out where there are none: most requests have none.
            if getattr(self, name) or not _has_fields(kinds[name])
        }


def plain(value: Any) -> Any:
    """Return the value of an option as JSON has it."""
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return value.to_dict() if _is_structured(type(value)) else value


def options(request: type[Request]) -> dict[str, Option]:
    """Return the options of a request class by name, in the order of their declaration."""
    return {
        f.name: f.metadata[_METADATA_KEY]
        for f in dataclasses.fields(request)
        if _METADATA_KEY in f.metadata
    }


def checked(request: type[Request], name: str, value: Any) -> Any:
    """Return the value of one option as a request holds it, whatever the others are.

    Raises
    ------
    ExplorerError
        If it has the wrong type or is out of range.
    """
    value = _coerce(name, value, _field_types(request)[name])
    if value is not None:
        options(request)[name].check(name, value)
    return value


def from_text(request: type[Request], name: str, text: str) -> Any:
    """Return the value of an option written as text, as on a command line.

    Numbers or words in a list are separated by commas, interventions by semicolons; "none" means
    None, where that is possible and the option takes no words.

    Raises
    ------
    ExplorerError
        If the text does not say a value of the option's type.
    """
    accepted = _members(_field_types(request)[name])
    entry = options(request)[name]
    takes_words = str in accepted and not entry.choices
    if types.NoneType in accepted and not takes_words and text.strip().lower() == "none":
        return None
    if text in entry.choices:
        return text
    for kind in accepted:
        if _is_structured(_element(kind)):
            return _parsed(kind, text)
    lists = [kind for kind in accepted if typing.get_origin(kind) is tuple]
    if lists:
        element = _element(lists[0])
        try:
            return tuple(map(element, text.split(","))) if text.strip() else ()
        except ValueError:
            if str not in accepted:
                kind = "whole numbers" if element is int else "numbers"
                raise ExplorerError(
                    f"{name} is {text!r}; it must be {kind} separated by commas."
                ) from None
    for kind in accepted:
        if kind is bool and text.strip().lower() in ("true", "false"):
            return text.strip().lower() == "true"
        if kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                wanted = " or ".join((_kind_name(kind), *map(repr, entry.choices)))
                raise ExplorerError(f"{name} is {text!r}; it must be {wanted}.") from None
    return text


def schema(request: type[Request]) -> list[dict[str, Any]]:
    """Return what a control panel or a command line needs to know of every option.

    Returns
    -------
    list of dict
        One entry an option: ``name``, ``group`` (its own, or that of the class which declares it),
        ``kind`` (``"int"``, ``"float"``, ``"bool"``, ``"str"``, lists of them such as ``"floats"``,
        ``"direction"`` or ``"interventions"``), ``optional``, ``default``, ``range`` in words, and
        the fields of :class:`Option`.
    """
    kinds = _field_types(request)
    defaults = {f.name: f.default for f in dataclasses.fields(request)}
    entries = []
    for name, entry in options(request).items():
        accepted = _members(kinds[name])
        base = next(kind for kind in accepted if kind is not types.NoneType)
        listed = "s" if typing.get_origin(base) is tuple else ""
        kind = f"{_element(base).__name__.lower()}{listed}"
        default = defaults[name]
        entries.append(
            {
                "name": name,
                "kind": kind,
                "optional": types.NoneType in accepted,
                "default": list(default) if isinstance(default, tuple) else default,
                "range": entry.range_text(),
                **dataclasses.asdict(entry),
                "group": entry.group or _declaring(request, name).group,
            }
        )
    return entries


def _declaring(request: type[Request], name: str) -> type[Request]:
    """Return the class in which an option is declared."""
    return next(base for base in reversed(request.__mro__) if name in vars(base))


Function = TypeVar("Function", bound=Callable[..., Any])


def takes(request: type[Request], without: tuple[str, ...] = ()) -> Callable[[Function], Function]:
    """Give a function with ``**options`` the signature and the parameter list of a request.

    Editors and ``help()`` then show every option with its default, though they are written down
    only once, in the request.

    Parameters
    ----------
    request
        The request whose options the function takes.
    without
        Options that the function does not take.
    """

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        fields = {f.name: f for f in dataclasses.fields(request)}
        derived = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=fields[name].default)
            for name in options(request)
            if name not in without and name not in signature.parameters
        ]
        first = [p for p in own if p.kind is not p.KEYWORD_ONLY]
        last = [p for p in own if p.kind is p.KEYWORD_ONLY]
        function.__signature__ = signature.replace(parameters=[*first, *derived, *last])  # type: ignore[attr-defined]
        lines = ["", "    Other Parameters", "    ----------------"]
        for name, entry in options(request).items():
            if name in without:
                continue
            limits = entry.range_text()
            default = fields[name].default
            lines.append(f"    {name} : default {default!r}" + (f", {limits}" if limits else ""))
            lines.append(f"        {entry.help}")
        function.__doc__ = (
            inspect.cleandoc(function.__doc__ or "") + "\n\n" + inspect.cleandoc("\n".join(lines))
        )
        return function

    return decorate


#: Evaluating the annotations takes longer than checking the values, so it is done once.
_known_types: dict[type[Request], dict[str, Any]] = {}


def _field_types(request: type[Request]) -> dict[str, Any]:
    if request not in _known_types:
        _known_types[request] = typing.get_type_hints(request)
    return _known_types[request]


def _members(kind: Any) -> tuple[Any, ...]:
    """Return the alternatives of a union type, or the type itself alone."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return typing.get_args(kind)
    return (kind,)


def _is_structured(kind: Any) -> bool:
    """Tell values that have fields of their own from numbers and words."""
    return hasattr(kind, "from_dict") and hasattr(kind, "to_dict")


def _has_fields(kind: Any) -> bool:
    """Tell whether an option takes values that have fields of their own."""
    return any(_is_structured(_element(member)) for member in _members(kind))


def _element(kind: Any) -> Any:
    """Return what a tuple of one kind holds; another type itself."""
    return typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else kind


def _coerce(name: str, value: Any, kind: Any) -> Any:
    """Return ``value`` as one of the types in ``kind``, numpy scalars and arrays included."""
    accepted = _members(kind)
    if value is None:
        if types.NoneType in accepted:
            return None
        raise ExplorerError(f"{name} is None; it needs a value.")
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise ExplorerError(f"{name} is {value!a}; it holds half a character. Write it anew.")
    if hasattr(value, "tolist"):  # numpy and torch: scalars, vectors
        value = value.tolist()
    for candidate in accepted:
        if candidate is types.NoneType:
            continue
        if isinstance(value, str) and _is_structured(_element(candidate)):
            return _parsed(candidate, value)
        if typing.get_origin(candidate) is tuple and isinstance(value, (list, tuple)):
            return tuple(_coerce(name, item, typing.get_args(candidate)[0]) for item in value)
        if candidate is bool and isinstance(value, bool):
            return value
        if isinstance(value, bool):
            continue
        if candidate is int and isinstance(value, float) and value.is_integer():
            return int(value)
        if candidate is float and isinstance(value, int):
            # A whole number too large for a float is not in any option's range either.
            return float(value) if abs(value) < 2**1023 else math.inf
        if isinstance(candidate, type) and isinstance(value, candidate):
            return value
        if _is_structured(candidate) and isinstance(value, Mapping):
            return candidate.from_dict(value)
    wanted = " or ".join(_kind_name(c) for c in accepted)
    raise ExplorerError(f"{name} is {reprlib.repr(value)}; it must be {wanted}.")


def _parsed(kind: Any, text: str) -> Any:
    """Return the value of a type with fields of its own, or several of them, written as text."""
    if kind is _element(kind):
        return kind.parse(text)
    return tuple(_element(kind).parse(part.strip()) for part in text.split(";") if part.strip())


def _kind_name(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "text", bool: "True or False"}
    if kind is types.NoneType:
        return "None"
    element = _element(kind)
    if _is_structured(kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        return f"{article} {kind.__name__}, such as {kind.example}"
    if _is_structured(element):
        return f"a list of {element.__name__}s, such as [{element.example}]"
    lists = {int: "a list of whole numbers", str: "a list of words"}
    return names.get(kind) or lists.get(element, "a list of numbers")
