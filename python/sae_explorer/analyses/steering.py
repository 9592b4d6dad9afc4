"""What a model writes when a feature is steered: texts at several strengths beside the plain one.

All texts go on from the same words, with the same random numbers, in one batch: where they differ,
the steering did it.
"""

from __future__ import annotations

import difflib
import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch

from sae_explorer.analyses import Progress
from sae_explorer.analyses.activations import measure_first
from sae_explorer.errors import ExplorerError, PartialResultWarning, out_of_memory
from sae_explorer.model.changes import check
from sae_explorer.model.direction import Direction  # noqa: TC001 - a request reads its annotations
from sae_explorer.model.generation import Continuations, Sampling, continue_rows, text_ids
from sae_explorer.model.interventions import UNIT_WORDS, Clamp, Intervention, Steer
from sae_explorer.model.reading import feature_activations, largest
from sae_explorer.request import Request, option, takes
from sae_explorer.results import Provenance, Result, column, nullable
from sae_explorer.text import visible

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Sequence

    import pandas as pd
    from numpy.typing import NDArray
    from rich.table import Table
    from torch import Tensor

    from sae_explorer.model.generation import Step
    from sae_explorer.subject import Subject

#: Texts generated together: a batch that small models and small devices still hold.
MOST_TEXTS = 32


@dataclass(frozen=True, kw_only=True)
class SteeredRequest(Request):
    """What to steer, how, and the text that the model goes on from."""

    group: ClassVar[str] = "steering"

    feature: int | None = option(None, "Index of the SAE feature (latent).", minimum=0)
    direction: Direction | None = option(
        None, "A sum of features and vectors in place of one feature, such as '4021 - 0.5*17'."
    )
    text: str = option("I think that", "What the model goes on from.")
    action: str = option(
        "steer",
        "Whether the feature's vector is added, or the feature held at an activation.",
        choices=("steer", "clamp"),
    )
    unit: str = option(
        "residual_norm",
        "What a strength of 1 is: as long a vector as the activations are on average "
        "(residual_norm), the feature's largest activation in the built-in texts (max_activation), "
        "or an activation of 1 (absolute).",
        choices=("residual_norm", "max_activation", "absolute"),
    )
    at: str | tuple[int, ...] = option(
        "all",
        "Which tokens are steered: all, prompt, generated, or their places separated by commas "
        "(0 is the first token, -1 the last one of the text given).",
    )
    skip_bos: bool = option(
        True, "Leave out the beginning-of-text token, whose activations are unlike all others."
    )
    interventions: tuple[Intervention, ...] = option(
        (),
        "What is changed in all texts besides, the plain one included, such as 'clamp 17 8; ablate 9'.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "at", _places(self.at))
        if (self.feature is None) == (self.direction is None):
            what = "neither was" if self.feature is None else "both were"
            raise ExplorerError(
                f"Give one of feature or direction; {what} given. For an SAE's feature: feature=17."
            )
        if self.action == "clamp" and self.direction is not None:
            raise ExplorerError(
                f"The direction {self.direction} has no activation to be held at. Give a feature, or "
                "action='steer'."
            )
        if self.action == "clamp" and self.unit == "residual_norm":
            raise ExplorerError(
                "A clamp holds an activation, which has no residual norm. Give unit='absolute' or "
                "unit='max_activation', or action='steer'."
            )
        if self.at == "ghost" or any(i.at == "ghost" for i in self.interventions):
            raise ExplorerError(
                "at is 'ghost', but a free text has no made-up word. Give 'all', 'prompt', "
                "'generated' or places, such as '0,-1'."
            )
        self.changed(1.0)

    @property
    def label(self) -> str:
        """What is steered, and what else is changed, in a few words."""
        return ", ".join((self.source, *(i.label for i in self.interventions)))

    @property
    def source(self) -> str:
        """What is steered, in a few words."""
        return str(self.direction) if self.feature is None else f"feature {self.feature}"

    @property
    def unit_text(self) -> str:
        """What the strengths count, in a few words."""
        return f"× {UNIT_WORDS[self.unit]}" if self.unit != "absolute" else UNIT_WORDS[self.unit]

    def unit_value(self, subject: Subject) -> float | None:
        """Return the largest activation where strengths are multiples of it, else None."""
        if self.unit != "max_activation":
            return None
        assert self.feature is not None  # a direction with this unit is refused
        return largest(subject, self.feature)

    def changed(self, strength: float) -> tuple[Intervention, ...]:
        """Return all that is changed in the text of one strength."""
        at = self.at
        change: Intervention
        if self.action == "clamp":
            assert self.feature is not None  # guaranteed above
            change = Clamp(self.feature, strength, self.unit, at=at, skip_bos=self.skip_bos)
        else:
            source = self.direction if self.feature is None else self.feature
            assert source is not None  # as above
            change = Steer(source, strength, self.unit, at=at, skip_bos=self.skip_bos)
        return (*self.interventions, change)


def _places(at: str | tuple[int, ...]) -> str | tuple[int, ...]:
    """Return the positions that a word or a list of numbers, as text or not, means."""
    if at in ("all", "prompt", "generated", "ghost"):
        return at
    try:
        numbers = map(int, at.split(",")) if isinstance(at, str) else at
        return tuple(dict.fromkeys(numbers))
    except ValueError:
        raise ExplorerError(
            f"at is {at!r}; it must be 'all', 'prompt', 'generated' or places separated by commas, "
            "such as '0,-1'."
        ) from None


def without_minus_0(numbers: tuple[float, ...]) -> tuple[float, ...]:
    """Return the numbers, each -0.0 as the 0.0 that it is."""
    return tuple(number + 0.0 for number in numbers)


@dataclass(frozen=True, kw_only=True)
class SteeringRequest(SteeredRequest):
    """The question whose answer is a :class:`SteeredTexts`."""

    group: ClassVar[str] = "sampling"

    strengths: tuple[float, ...] = option(
        (0.5, 1.0), "How strongly to steer, or at which activations to clamp; one text for each."
    )
    temperature: float = option(
        0.0,
        "How freely tokens are drawn: 0 takes the most probable one each time, 1 draws as the model "
        "has it, more is wilder.",
        minimum=0.0,
        slider=(0.0, 2.0),
    )
    top_p: float = option(
        1.0,
        "Draw from the most probable tokens that together reach this probability.",
        above=0.0,
        maximum=1.0,
        slider=(0.05, 1.0),
    )
    frequency_penalty: float = option(
        0.0,
        "Taken from a token's logit for each time that it was generated already: raise it where texts "
        "repeat themselves.",
        minimum=-2.0,
        maximum=2.0,
        slider=(-2.0, 2.0),
    )
    seed: int = option(
        0,
        "Of the random numbers, the same for all texts: another one draws other texts, where the "
        "temperature is above 0.",
        minimum=0,
        maximum=2**63 - 1,  # what torch takes
    )
    max_tokens: int = option(
        40, "Largest number of tokens to generate.", unit="tokens", minimum=1, slider=(1, 200)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.strengths:
            raise ExplorerError(
                "strengths is empty; give at least one, such as strengths=[0.5, 1.0]."
            )
        if len(self.strengths) >= MOST_TEXTS:
            raise ExplorerError(
                f"{len(self.strengths)} strengths are given; {MOST_TEXTS} texts are possible at once, "
                "the unsteered one among them. Give fewer."
            )
        object.__setattr__(self, "strengths", without_minus_0(self.strengths))

    def strength_label(self, index: int) -> str:
        """Return in a word or two what is done in a text, of which 0 is the unsteered one."""
        if index == 0:
            return "unsteered"
        strength = self.strengths[index - 1]
        return f"clamped at {strength:g}" if self.action == "clamp" else f"{strength:+g}"


@dataclass(frozen=True, eq=False, repr=False)
class SteeredTexts(Result):
    """The unsteered text and one for each strength, a row for each of their tokens.

    Parameters
    ----------
    request
        The options.
    provenance
        Model, SAE and versions.
    status
        ``"complete"``, or ``"partial"`` when it was cancelled.
    texts
        What was written in each text after the words given: the unsteered one, then one for each
        strength.
    ended
        Whether the model ended each text; the token that did is the text's last.
    text
        Number of the text that a token belongs to, the unsteered one 0; int32.
    place
        Place of the token in its text, from 0; int32.
    token_id
        int32.
    token
        Each token's text, a leading space included.
    generated
        Whether the token was generated, or given.
    probability
        What the model, steered as the text says, gave to the token; float64, NaN for those given.
    differs
        Whether the token has no counterpart among those generated in the unsteered text.
    activation
        Of the explored feature at the token, as the plain model reads the text; float32. None for a
        direction, which has none, and while the texts are being written.
    largest_activation
        Of the steered feature in the built-in texts, where strengths are multiples of it; None
        where they count something else, and where a cancel came before it was measured.
    """

    kind: ClassVar[str] = "steered-texts"

    request: SteeringRequest
    provenance: Provenance
    status: str
    texts: list[str]
    ended: list[bool]
    text: NDArray[np.int32]
    place: NDArray[np.int32]
    token_id: NDArray[np.int32]
    token: list[str]
    generated: NDArray[np.bool_]
    probability: NDArray[np.float64]
    differs: NDArray[np.bool_]
    activation: NDArray[np.float32] | None
    largest_activation: float | None

    def __post_init__(self) -> None:
        columns = (self.text, self.place, self.token_id, self.generated, self.differs)
        for array in (*columns, self.probability):
            array.setflags(write=False)
        if self.activation is not None:
            self.activation.setflags(write=False)

    def __len__(self) -> int:
        """Return the number of texts, the unsteered one included."""
        return len(self.texts)

    def __repr__(self) -> str:
        partial = ", partial" if self.status == "partial" else ""
        first = f"{self.labels[1]}: {visible(self.texts[1])!r}"
        return f"SteeredTexts({self.request.label}, {len(self)} texts{partial}: {first})"

    def __rich__(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(
            title=f"Texts steered with {self.request.label}",
            caption="bold: not in the unsteered text",
            show_lines=True,
        )
        table.add_column(self.request.unit_text, justify="right")
        table.add_column("text")
        for index, label in enumerate(self.labels):
            shown = Text()  # as Text, since brackets in a token are no markup
            for row in np.flatnonzero(self.text == index):
                style = "bold" if self.differs[row] else "" if self.generated[row] else "dim"
                shown.append(visible(self.token[row]), style)
            table.add_row(label, shown)
        return table

    @property
    def labels(self) -> list[str]:
        """What is done in each text, in a word or two."""
        return [self.request.strength_label(index) for index in range(len(self))]

    def to_frame(self) -> pd.DataFrame:
        """Return one row a token, text after text, with the columns of the class.

        ``strength`` is that of the row's text, in the request's unit; 0 for the unsteered one.
        """
        import pandas as pd

        return pd.DataFrame(
            {
                "text": self.text,
                "strength": np.array([0.0, *self.request.strengths])[self.text],
                "place": self.place,
                "token_id": self.token_id,
                "token": self.token,
                "generated": self.generated,
                "probability": self.probability,
                "differs": self.differs,
                "activation": np.nan if self.activation is None else self.activation,
            }
        )

    def payload(self, subject: Subject | None = None) -> dict[str, Any]:
        """Return the texts one by one; see :meth:`Result.payload`.

        ``largest`` is the activation at full colour: the largest in these texts, their first token
        left out, whose activations are unlike all others.
        """
        texts = []
        for index, label in enumerate(self.labels):
            rows = np.flatnonzero(self.text == index)
            activation = None if self.activation is None else column(self.activation[rows])
            texts.append(
                {
                    "strength": self.request.strengths[index - 1] if index else 0.0,
                    "label": label,
                    "tokens": [self.token[row] for row in rows],
                    "generated": column(self.generated[rows]),
                    "probability": nullable(self.probability[rows]),
                    "differs": column(self.differs[rows]),
                    "activation": activation,
                    "ended": self.ended[index],
                }
            )
        inner = None if self.activation is None else self.activation[self.place > 0]
        return {
            **super().payload(subject),
            "status": self.status,
            "texts": texts,
            "largest": float(inner.max()) if inner is not None and inner.size else 0.0,
            "unit": self.request.unit,
        }

    def _body(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "texts": self.texts,
            "ended": self.ended,
            "largest_activation": self.largest_activation,
            "columns": {
                "text": column(self.text),
                "place": column(self.place),
                "token_id": column(self.token_id),
                "token": self.token,
                "generated": column(self.generated),
                "probability": nullable(self.probability),
                "differs": column(self.differs),
                "activation": None if self.activation is None else column(self.activation),
            },
        }

    @classmethod
    def _from_body(
        cls, body: dict[str, Any], request: dict[str, Any], provenance: Provenance
    ) -> Self:
        columns = body["columns"]
        activation = columns["activation"]
        return cls(
            request=SteeringRequest.from_options(request),
            provenance=provenance,
            status=body["status"],
            texts=body["texts"],
            ended=body["ended"],
            text=np.asarray(columns["text"], np.int32),
            place=np.asarray(columns["place"], np.int32),
            token_id=np.asarray(columns["token_id"], np.int32),
            token=columns["token"],
            generated=np.asarray(columns["generated"], np.bool_),
            probability=np.asarray(columns["probability"], np.float64),
            differs=np.asarray(columns["differs"], np.bool_),
            activation=None if activation is None else np.asarray(activation, np.float32),
            largest_activation=body["largest_activation"],
        )


@takes(SteeringRequest)
def steer_text(
    subject: Subject,
    *,
    progress: Callable[[Progress], object] | None = None,
    cancel: threading.Event | None = None,
    **options: Any,
) -> SteeredTexts:
    """Let the model write on from a text, plain and with a feature steered at several strengths.

    Parameters
    ----------
    subject
        The model and the SAE.
    progress
        Called after every token with a :class:`~sae_explorer.analyses.Progress`.
    cancel
        When it is set, the texts are returned as they are after the next token, marked partial. An
        interrupt (Ctrl-C) does the same, with a :class:`PartialResultWarning`.

    Returns
    -------
    SteeredTexts
        The unsteered text first, then one for each strength.

    Raises
    ------
    ExplorerError
        If an option is unknown or out of range, the feature does not exist or cannot be steered, the
        text is longer than the model reads, or ``at`` means places that it does not have.

    Examples
    --------
    >>> steered = steer_text(Subject.demo(), feature=302, strengths=[0.5, 1])  # doctest: +SKIP
    >>> steered.texts  # doctest: +SKIP
    """
    request = SteeringRequest.from_options(options)
    return run(subject, request, progress=progress, cancel=cancel)


def run(
    subject: Subject,
    request: SteeringRequest,
    *,
    progress: Callable[[Progress], object] | None = None,
    cancel: threading.Event | None = None,
) -> SteeredTexts:
    """Answer one request; see :func:`steer_text`."""
    prompt = text_ids(subject, request.text)
    provenance = subject.provenance(with_sae=True)
    rows = [request.interventions, *map(request.changed, request.strengths)]
    check(subject, rows[-1])
    # The last token is written, and not read any more.
    check_places(subject, request, prompt, len(prompt) + request.max_tokens - 1)
    sampling = Sampling(
        temperature=request.temperature,
        top_p=request.top_p,
        frequency_penalty=request.frequency_penalty,
        seed=request.seed,
        max_tokens=request.max_tokens,
    )
    written = Continuations(len(rows), subject.end_ids)
    largest_activation: float | None = None

    def result(status: str, activation: NDArray[np.float32] | None = None) -> SteeredTexts:
        columns = _columns(subject, prompt, written)
        return SteeredTexts(
            request=request,
            provenance=provenance,
            status=status,
            **columns,
            activation=activation,
            largest_activation=largest_activation,
        )

    def report(_step: Step) -> None:
        if progress is not None:
            text = f"{written.length} of {request.max_tokens} tokens"
            share = written.length / request.max_tokens
            progress(Progress(share, text, lambda: result("partial")))

    steps = continue_rows(subject, prompt, rows, sampling)
    if not measure_first(subject, rows[-1], progress, cancel):
        return result("partial")
    largest_activation = request.unit_value(subject)
    status = write(steps, written, request.max_tokens, report, cancel)
    if request.feature is None:
        return result(status)
    ids, real = padded(prompt, written.token_ids)
    try:
        activation = feature_activations(subject, [request.feature], ids)[..., 0].cpu()
    except KeyboardInterrupt:
        warnings.warn(
            "Interrupted: the activations are left out.", PartialResultWarning, stacklevel=3
        )
        return result("partial")
    return result(status, activation[real].numpy())


def check_places(
    subject: Subject, request: SteeredRequest, prompt: Sequence[int], read: int
) -> None:
    """Refuse places where nothing could be steered, or that are beyond all that counts.

    Parameters
    ----------
    subject
        The model.
    request
        Says where to steer.
    prompt
        Token ids of the text given.
    read
        How many tokens the model reads before its last prediction that counts.

    Raises
    ------
    ExplorerError
        If ``at`` lists a place beyond these, or means none of them.
    """
    if not isinstance(request.at, str):
        beyond = [place for place in request.at if place >= read]
        if beyond:
            raise ExplorerError(
                f"at has the place {beyond[0]}, but the text given has {len(prompt)} tokens, and "
                f"places up to {read - 1} come before the last prediction. Choose one of these, or "
                "at='all'."
            )
        return
    first = len(prompt) if request.at == "generated" else 0
    last = min(len(prompt), read) if request.at == "prompt" else read
    skipped = request.skip_bos and prompt[0] == subject.tokenizer.bos_token_id
    if not any(place or not skipped for place in range(first, last)):
        raise ExplorerError(
            f"Nothing would be steered before the last prediction: at is {request.at!r}, the text "
            f"given has {len(prompt)} tokens, and skip_bos is {request.skip_bos}. Give a longer text, "
            "ask for more tokens, or steer other places."
        )


def write(
    steps: Iterator[Step],
    written: Continuations,
    length: int,
    report: Callable[[Step], None],
    cancel: threading.Event | None,
) -> str:
    """Take the steps of a generation to their end, or as far as wanted.

    Parameters
    ----------
    steps
        From :func:`~sae_explorer.model.generation.continue_rows`.
    written
        Takes them in.
    length
        Largest number of tokens.
    report
        Called after every step.
    cancel
        When it is set, the step that is under way is the last.

    Returns
    -------
    str
        ``"complete"`` or ``"partial"``; after an interrupt, and where memory runs out, with a warning.

    Raises
    ------
    ExplorerError
        If there is too little memory for even the prompt.
    """
    try:
        for step in steps:
            written.add(step)
            report(step)
            stopped = cancel is not None and cancel.is_set()
            if stopped and written.length < length and not all(written.ended):
                return "partial"
    except (KeyboardInterrupt, RuntimeError, MemoryError, OSError) as stopped:
        memory = out_of_memory(stopped)
        if not memory and not isinstance(stopped, KeyboardInterrupt):
            raise
        if not written.length:
            if not memory:
                raise
            raise ExplorerError(
                "The device has too little memory for so many texts at once. Give fewer strengths or "
                "a shorter text, or load the model in a smaller dtype."
            ) from stopped
        why = "Out of memory" if memory else "Interrupted"
        warnings.warn(
            f"{why}: the result is partial, with {written.length:,} tokens a text.",
            PartialResultWarning,
            stacklevel=4,
        )
        return "partial"
    return "complete"


def padded(prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return whole texts as rows of one length, and which of their tokens are real.

    What stands behind the end of a text changes nothing before it.

    Returns
    -------
    tuple of Tensor
        Token ids and booleans, both of shape ``[texts, length]``.
    """
    texts = [[*prompt, *ids] for ids in continuations]
    longest = max(map(len, texts))
    ids = torch.tensor([text + [text[-1]] * (longest - len(text)) for text in texts])
    lengths = torch.tensor([len(text) for text in texts])
    return ids, torch.arange(longest)[None] < lengths[:, None]


def _columns(subject: Subject, prompt: Sequence[int], written: Continuations) -> dict[str, Any]:
    """Return what a result says of the texts and of their tokens."""
    texts = [[*prompt, *ids] for ids in written.token_ids]
    lengths = [len(text) for text in texts]
    given = len(prompt)
    ids = [token for text in texts for token in text]
    place = np.concatenate([np.arange(length) for length in lengths])
    probability = [[math.nan] * given + row for row in written.probability]
    plain = written.token_ids[0]
    differs = [[False] * given + _without_counterpart(plain, row) for row in written.token_ids]
    return {
        "texts": [subject.continuation_text(prompt, said) for said in written.said()],
        "ended": written.ended,
        "text": np.repeat(np.arange(len(texts), dtype=np.int32), lengths),
        "place": place.astype(np.int32),
        "token_id": np.asarray(ids, np.int32),
        "token": [piece for text in texts for piece in subject.texts_in_place(text)],
        "generated": place >= given,
        "probability": np.concatenate(probability),
        "differs": np.concatenate(differs),
    }


def _without_counterpart(plain: Sequence[int], steered: Sequence[int]) -> list[bool]:
    """Return which tokens of a text an alignment with the plain one leaves over."""
    matcher = difflib.SequenceMatcher(a=plain, b=steered, autojunk=False)
    differs = [True] * len(steered)
    for block in matcher.get_matching_blocks():
        differs[block.b : block.b + block.size] = [False] * block.size
    return differs
