"""Which vocabulary entries lie nearest to a vector, with what is near to everything held back.

The tokens are ranked by ``(1 - cos(v, E_t))**m / (1 - cos(mu, E_t))``, ascending, after the
definition-tree notebook for Gemma-2B (M. Watkins, 2024): ``v`` is the ghost vector, ``E_t`` a
token's embedding and ``mu`` the mean of all. The numerator is the distance from the vector; the
denominator moves the tokens around the centroid, which have a high cosine with any vector that has
a part of it, down the list.
"""

from __future__ import annotations

import dataclasses
import threading
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import regex

from sae_explorer.errors import ExplorerError
from sae_explorer.model.ghost import AUTO, DirectionRequest, ghost_mixture
from sae_explorer.request import option, options, takes
from sae_explorer.results import Provenance, Result, column, packed
from sae_explorer.text import visible_token

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray
    from rich.table import Table

    from sae_explorer.subject import Subject

#: The smallest denominator: what the cosines, which are made of fp32 products, can tell from 0.
_SMALLEST = float(np.finfo(np.float32).eps)

#: Unicode scripts that vocabularies hold, by their names in the Unicode standard.
SCRIPTS = (
    "Latin",
    "Cyrillic",
    "Greek",
    "Han",
    "Hiragana",
    "Katakana",
    "Hangul",
    "Arabic",
    "Hebrew",
    "Devanagari",
    "Bengali",
    "Gurmukhi",
    "Gujarati",
    "Tamil",
    "Telugu",
    "Kannada",
    "Malayalam",
    "Sinhala",
    "Thai",
    "Lao",
    "Khmer",
    "Myanmar",
    "Georgian",
    "Armenian",
    "Ethiopic",
)

#: How long one token may take a user's pattern; a pattern that backtracks for ever is refused.
_PATTERN_SECONDS = 1.0
#: Share of a range of exponents below which it is not halved any more.
_NARROW = 1 / 32
#: Selections of the vocabulary that are kept, so that a slider need not make them again.
_KEPT_SELECTIONS = 8


@dataclass(frozen=True, kw_only=True)
class TokenRequest(DirectionRequest):
    """Which tokens to rank, near which vector."""

    group: ClassVar[str] = "tokens"

    exponent: float = option(
        1.4,
        "Exponent m of the distance from the vector; the higher, the less the distance from the "
        "centroid counts.",
        above=0.0,
        maximum=20.0,
        slider=(0.1, 5.0),
    )
    limit: int = option(100, "How many tokens are listed.", unit="tokens", minimum=1)
    pattern: str | None = option(
        None,
        "Regular expression that must be found in the token's text, a leading space included; "
        "^ and $ tie it to the ends.",
    )
    script: str | None = option(
        None,
        "Only tokens whose letters are all of this script, and that have at least one.",
        choices=SCRIPTS,
    )
    min_length: int = option(
        0,
        "Only tokens of at least this length, spaces around them apart.",
        unit="characters",
        minimum=0,
    )
    leading_space: bool | None = option(
        None, "Only tokens that begin with a space (True) or that do not (False)."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pattern is not None:
            try:
                regex.compile(self.pattern)
            except regex.error as error:
                raise ExplorerError(
                    f"The pattern {self.pattern!r} is no regular expression: {error}. "
                    "Write a backslash before ( [ . * + ? to mean the character itself."
                ) from error


@dataclass(frozen=True, eq=False, repr=False)
class TokenRanking(Result):
    """The tokens nearest to a vector, the nearest first.

    Parameters
    ----------
    request
        The options.
    provenance
        Model, SAE and versions.
    candidates
        How many tokens passed the filters; the ranking holds the first ``limit`` of them.
    left_out
        Tokens of the whole vocabulary whose embedding is zero: they have no direction.
    token_id
        int32.
    token
        Each token's text, a leading space included.
    ratio
        What the tokens are ranked by, ascending; float64. Equal ones are in order of token id.
    cosine
        Cosine of each token's embedding with the vector; float64.
    centroid_cosine
        Its cosine with the mean embedding; float64.
    """

    kind: ClassVar[str] = "token-ranking"

    request: TokenRequest
    provenance: Provenance
    candidates: int
    left_out: int
    token_id: NDArray[np.int32]
    token: list[str]
    ratio: NDArray[np.float64]
    cosine: NDArray[np.float64]
    centroid_cosine: NDArray[np.float64]

    def __post_init__(self) -> None:
        for array in (self.token_id, self.ratio, self.cosine, self.centroid_cosine):
            array.setflags(write=False)

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.token_id)

    def __repr__(self) -> str:
        nearest = " ".join(map(visible_token, self.token[:5])) or "none"
        return (
            f"TokenRanking({self.request.label}, {len(self):,} of {self.candidates:,} tokens: "
            f"{nearest})"
        )

    def __rich__(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(
            title=f"Tokens nearest to {self.request.label}",
            caption=f"(1 - cos(v, E_t))^{self.request.exponent:g} / (1 - cos(mu, E_t)), ascending",
        )
        for name in ("rank", "token", "id", "ratio", "cosine", "centroid cosine"):
            table.add_column(name, justify="left" if name == "token" else "right")
        for rank in range(len(self)):
            table.add_row(
                str(rank + 1),
                Text(visible_token(self.token[rank])),  # brackets in a token are no markup
                str(self.token_id[rank]),
                f"{self.ratio[rank]:.4f}",
                f"{self.cosine[rank]:.4f}",
                f"{self.centroid_cosine[rank]:.4f}",
            )
        return table

    def to_frame(self) -> pd.DataFrame:
        """Return one row a token, with ``rank`` counting from 1.

        Columns: ``rank, token_id, token, ratio, cosine, centroid_cosine``.
        """
        import pandas as pd

        return pd.DataFrame(
            {
                "rank": np.arange(1, len(self) + 1, dtype=np.int32),
                "token_id": self.token_id,
                "token": pd.Series(self.token, dtype="str"),  # text even where there is none
                "ratio": self.ratio,
                "cosine": self.cosine,
                "centroid_cosine": self.centroid_cosine,
            }
        )

    def payload(self, subject: Subject | None = None) -> dict[str, Any]:
        """Return the ranking as columns; see :meth:`Result.payload`.

        With a live subject it holds every token that ranks within the limit at some exponent of the
        slider's range, so that a view can rank them anew while the slider moves.
        """
        exponents = (self.request.exponent, self.request.exponent)
        ids, cosine, centroid_cosine = self.token_id, self.cosine, self.centroid_cosine
        texts = self.token
        if subject is not None:
            low, high = options(TokenRequest)["exponent"].slider or exponents
            exponents = (min(low, exponents[0]), max(high, exponents[1]))
            near = _candidates(subject, self.request)
            places = _across(near, self.request.limit, *exponents)
            ids = near.ids[places].astype(np.int32)
            cosine, centroid_cosine = near.cosine[places], near.centroid_cosine[places]
            texts = subject.token_texts(ids.tolist())
        return {
            **super().payload(subject),
            "exponent": self.request.exponent,
            "limit": self.request.limit,
            "candidates": self.candidates,
            "token_id": packed(ids),
            "cosine": packed(cosine),
            "centroid_cosine": packed(centroid_cosine),
            "text": texts,
            "exponents": list(exponents),
        }

    def _body(self) -> dict[str, Any]:
        return {
            "candidates": self.candidates,
            "left_out": self.left_out,
            "columns": {
                "token_id": column(self.token_id),
                "token": self.token,
                "ratio": column(self.ratio),
                "cosine": column(self.cosine),
                "centroid_cosine": column(self.centroid_cosine),
            },
        }

    @classmethod
    def _from_body(
        cls, body: dict[str, Any], request: dict[str, Any], provenance: Provenance
    ) -> Self:
        columns = body["columns"]
        return cls(
            request=TokenRequest.from_options(request),
            provenance=provenance,
            candidates=body["candidates"],
            left_out=body["left_out"],
            token_id=np.asarray(columns["token_id"], np.int32),
            token=columns["token"],
            ratio=np.asarray(columns["ratio"], np.float64),
            cosine=np.asarray(columns["cosine"], np.float64),
            centroid_cosine=np.asarray(columns["centroid_cosine"], np.float64),
        )


@takes(TokenRequest)
def rank_tokens(subject: Subject, **options: Any) -> TokenRanking:
    """Rank the vocabulary by nearness to a feature's vector, or to any other.

    Parameters
    ----------
    subject
        The model and the SAE.

    Returns
    -------
    TokenRanking
        The nearest tokens first.

    Raises
    ------
    ExplorerError
        For an option out of range, a feature that the SAE has not, a pattern that is no regular
        expression, or embeddings that hold NaN.

    Examples
    --------
    >>> rank_tokens(Subject.demo(), feature=17, limit=10).to_frame()  # doctest: +SKIP
    """
    return run(subject, TokenRequest.from_options(options))


def run(
    subject: Subject, request: TokenRequest, *, progress: object = None, cancel: object = None
) -> TokenRanking:
    """Answer one request; see :func:`rank_tokens`."""
    del progress, cancel  # one short step: nothing to report or to stop
    if request.scale == AUTO:
        from sae_explorer.analyses.scale_sweep import best_scale

        request = dataclasses.replace(request, scale=best_scale(subject, request))
    near = _candidates(subject, request)
    ratio = near.distance**request.exponent / near.centroid_distance
    best = _smallest(ratio, request.limit)
    return TokenRanking(
        request=request,
        provenance=subject.provenance(with_sae=request.uses_sae),
        candidates=len(near.ids),
        left_out=near.left_out,
        token_id=near.ids[best].astype(np.int32),
        token=subject.token_texts(near.ids[best].tolist()),
        ratio=ratio[best],
        cosine=near.cosine[best],
        centroid_cosine=near.centroid_cosine[best],
    )


@dataclass(frozen=True)
class _Candidates:
    """The tokens that pass a request's filters and have a direction, in order of token id."""

    ids: NDArray[np.intp]
    cosine: NDArray[np.float64]
    centroid_cosine: NDArray[np.float64]
    left_out: int

    @property
    def distance(self) -> NDArray[np.float64]:
        """The numerator of the ratio, without its exponent."""
        return 1 - self.cosine

    @property
    def centroid_distance(self) -> NDArray[np.float64]:
        """The denominator of the ratio."""
        return np.maximum(1 - self.centroid_cosine, _SMALLEST)


def _candidates(subject: Subject, request: TokenRequest) -> _Candidates:
    geometry = subject.geometry
    if request.scale is None:
        # The default scale needs a pass over the matrix of its own. Asked for before it, the
        # vectors share that pass; they are the same at any scale.
        geometry.dots(*ghost_mixture(subject, dataclasses.replace(request, scale=1.0)).vectors)
    mixture = ghost_mixture(subject, request)
    length = _length(mixture.total())
    if length == 0.0:
        raise ExplorerError(
            f"The vector of {request.label} is zero, so no token is near to it. Choose another one."
        )
    dots = np.zeros(subject.vocabulary_size)
    rows = geometry.dots(*mixture.vectors)
    for coefficient, row in zip(mixture.coefficients, rows, strict=True):
        dots += coefficient * row.astype(np.float64)

    norms = geometry.norms.astype(np.float64)
    selection = _selection(subject, request)
    directed = norms > 0
    ids = np.flatnonzero(directed if selection is None else directed & selection)
    if len(ids) < len(norms):
        norms, dots = norms[ids], dots[ids]
    cosine = (dots / (length * norms)).clip(-1, 1)
    centroid_length = _length(geometry.centroid)
    # A centroid of rounding errors alone has no direction, and no token is nearer to it.
    if centroid_length > _SMALLEST * float(geometry.norms.max()):
        centroid_dots = geometry.centroid_dots[ids].astype(np.float64)
        centroid_cosine = (centroid_dots / (centroid_length * norms)).clip(-1, 1)
    else:
        centroid_cosine = np.zeros_like(cosine)
    left_out = int(np.count_nonzero(~directed))
    return _Candidates(ids, cosine, centroid_cosine, left_out)


def _across(near: _Candidates, limit: int, low: float, high: float) -> NDArray[np.intp]:
    """Return the places of all candidates that rank within ``limit`` at some exponent in a range.

    What is returned holds some more. The logarithm of the ratio is linear in the exponent, so a
    token that is farther than another at both ends of a range is so all through it; one that is
    farther than ``limit`` others never ranks. The range is halved until these bounds are tight.
    """
    with np.errstate(divide="ignore"):
        distance, centroid = np.log(near.distance), np.log(near.centroid_distance)
    ranked = np.zeros(len(near.ids), dtype=bool)
    ranges = [(low, high, np.arange(len(near.ids)))]
    while ranges:
        begin, end, places = ranges.pop()
        if len(places) > limit:
            at_begin, at_end, middle = (
                exponent * distance[places] - centroid[places]
                for exponent in (begin, end, (begin + end) / 2)
            )
            front = _smallest(middle, limit)
            behind = (at_begin > at_begin[front].max()) & (at_end > at_end[front].max())
            places = places[~behind]
        if len(places) <= 2 * limit or end - begin < _NARROW * (high - low):
            ranked[places] = True
        else:
            half = (begin + end) / 2
            ranges += [(begin, half, places), (half, end, places)]
    return np.flatnonzero(ranked)


def _length(vector: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(vector.astype(np.float64)))


def _smallest(values: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """Return the places of the smallest values in ascending order, of equal ones the first."""
    places = np.arange(len(values))
    if count < len(values):
        # Without sorting the whole vocabulary; what equals the last of them is a candidate too.
        bound = np.partition(values, count - 1)[count - 1]
        places = np.flatnonzero(values <= bound)
    return places[np.argsort(values[places], kind="stable")][:count]


class _Vocabulary:
    """The texts of all tokens, and which of them pass a filter."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts
        self._selections: dict[tuple[Any, ...], NDArray[np.bool_]] = {}

    def selection(self, request: TokenRequest) -> NDArray[np.bool_]:
        """Return which tokens pass the request's filters, shape ``[vocabulary]``."""
        key = (request.pattern, request.script, request.min_length, request.leading_space)
        if key not in self._selections:
            if len(self._selections) == _KEPT_SELECTIONS:
                self._selections.pop(next(iter(self._selections)))
            self._selections[key] = self._select(request)
        return self._selections[key]

    def _select(self, request: TokenRequest) -> NDArray[np.bool_]:
        passing = np.ones(len(self.texts), dtype=bool)
        if request.leading_space is not None:
            passing &= [text.startswith(" ") == request.leading_space for text in self.texts]
        if request.min_length:
            passing &= [len(text.strip()) >= request.min_length for text in self.texts]
        if request.script is not None:
            letter = rf"\p{{Script={request.script}}}"
            only = regex.compile(rf"(?:{letter}|\P{{L}})*{letter}(?:{letter}|\P{{L}})*", regex.S)
            passing &= [only.fullmatch(text) is not None for text in self.texts]
        if request.pattern is not None:
            pattern = regex.compile(request.pattern)
            for index in np.flatnonzero(passing):
                try:
                    found = pattern.search(self.texts[index], timeout=_PATTERN_SECONDS)
                except TimeoutError as error:
                    raise ExplorerError(
                        f"The pattern {request.pattern!r} takes for ever on the token "
                        f"{visible_token(self.texts[index])!r}. Avoid a repetition within a "
                        "repetition, such as (a+)+."
                    ) from error
                passing[index] = found is not None
        return passing


_vocabularies: weakref.WeakKeyDictionary[Any, _Vocabulary] = weakref.WeakKeyDictionary()
_vocabularies_lock = threading.Lock()


def _selection(subject: Subject, request: TokenRequest) -> NDArray[np.bool_] | None:
    """Return which tokens pass the request's filters, None if it has none."""
    if not (
        request.pattern is not None
        or request.script is not None
        or request.min_length
        or request.leading_space is not None
    ):
        return None
    with _vocabularies_lock:
        known = _vocabularies.get(subject.tokenizer)
        if known is None or len(known.texts) != subject.vocabulary_size:
            # Texts of all 256,000 tokens take seconds, so they are made only for a filter.
            known = _Vocabulary(subject.token_texts(range(subject.vocabulary_size)))
            _vocabularies[subject.tokenizer] = known
        return known.selection(request)
