"""What more and more of a feature does: a sweep of strengths, all of them in one batch.

At each strength: how far the prediction after the text moves, how spread out it is, how probable
chosen tokens become; and, over a text that the model then writes, how likely the plain model finds
it and how strongly features fire in it.
"""

from __future__ import annotations

import inspect
import math
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch

from sae_explorer.analyses import Progress
from sae_explorer.analyses.activations import measure_first
from sae_explorer.analyses.steering import (
    SteeredRequest,
    check_places,
    padded,
    without_minus_0,
    write,
)
from sae_explorer.errors import ExplorerError, PartialResultWarning
from sae_explorer.model.changes import added_vector, applied, check
from sae_explorer.model.direction import Direction
from sae_explorer.model.generation import Continuations, Sampling, continue_rows, text_ids
from sae_explorer.model.positions import Layout, announced
from sae_explorer.model.reading import (
    feature_activations,
    largest,
    output_factor,
    residual_norm,
)
from sae_explorer.request import option, takes
from sae_explorer.results import Provenance, Result, column, nullable
from sae_explorer.text import visible

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    import pandas as pd
    from numpy.typing import NDArray
    from rich.table import Table
    from torch import Tensor

    from sae_explorer.model.generation import Step
    from sae_explorer.subject import Subject

#: Strengths swept unless others are given, as shares of the residual norm: 0 is among them.
_SHARES = tuple(eighths / 8 for eighths in range(-6, 10))
#: Activations at which a feature is clamped unless others are given, as shares of its largest.
_LEVELS = tuple(eighths / 8 for eighths in range(16))

_MOST_DOSES = 64
#: How many of the most probable tokens the entropy is of.
_TOP = 10
#: Logits that one forward over whole texts may make: 256 MB of float32.
_LOGITS_AT_ONCE = 2**26


@dataclass(frozen=True, kw_only=True)
class DoseRequest(SteeredRequest):
    """The question whose answer is a :class:`DoseResponse`."""

    group: ClassVar[str] = "dose"

    doses: tuple[float, ...] = option(
        (),
        "Strengths, or activations to clamp at, in the unit; empty takes 16 from -0.75 to 1.125 times "
        "the residual norm, or for a clamp from 0 to 1.875 times the feature's largest activation.",
    )
    targets: tuple[str, ...] = option(
        (), "Tokens whose probability after the text is followed, such as ' fish' with its space."
    )
    watched: tuple[int, ...] = option(
        (),
        "Features whose activation in the texts is measured besides the steered one's.",
        minimum=0,
    )
    dose_tokens: int = option(
        20,
        "Length of the texts; 0 writes none, and leaves perplexity and activations out.",
        unit="tokens",
        minimum=0,
        slider=(0, 100),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "doses", without_minus_0(self.doses))
        if self.at == "generated":
            raise ExplorerError(
                "at is 'generated', but what is measured first, the prediction after the text, comes "
                "before anything is generated. Give at='all' or 'prompt'; steer_text takes "
                "'generated'."
            )
        if len(self.doses) > _MOST_DOSES:
            raise ExplorerError(
                f"{len(self.doses)} doses are given; {_MOST_DOSES} are possible at once. Give fewer."
            )

    @property
    def features(self) -> tuple[int, ...]:
        """The features whose activation is measured, the steered one first."""
        steered = () if self.feature is None else (self.feature,)
        return tuple(dict.fromkeys((*steered, *self.watched)))


@dataclass(frozen=True, eq=False, repr=False)
class DoseResponse(Result):
    """What each strength does, a row for each.

    Parameters
    ----------
    request
        The options.
    provenance
        Model, SAE and versions.
    status
        ``"complete"``, or ``"partial"`` when it was cancelled: the texts are shorter then, or
        columns are NaN that were not measured yet.
    strength
        In the request's unit; for a clamp the activation. float64, as everything below.
    kl
        Kullback-Leibler divergence of the next-token distribution after the text given from the
        unsteered one, ``sum p_steered * log(p_steered / p_unsteered)``, in nats.
    entropy
        Entropy of the 10 most probable next tokens, their probabilities made to sum to 1, in nats.
    perplexity
        Of the most probable text of each strength under the unsteered model, ``exp`` of the mean
        negative log probability of its tokens; NaN where none was written.
    target_probability
        Shape ``[strengths, targets]``: probability of each target token after the text given.
    activation
        Shape ``[strengths, features]``: mean activation of each of ``request.features`` over what
        was written, as the plain model reads it; NaN where nothing was written.
    texts
        What was written at each strength.
    half_norm
        Strength at which half the mean norm of the activations is added; None for a clamp.
    largest_activation
        Of the steered feature in the built-in texts, where strengths are multiples of it; None
        where they count something else, and where a cancel came before it was measured.
    """

    kind: ClassVar[str] = "dose-response"

    request: DoseRequest
    provenance: Provenance
    status: str
    strength: NDArray[np.float64]
    kl: NDArray[np.float64]
    entropy: NDArray[np.float64]
    perplexity: NDArray[np.float64]
    target_probability: NDArray[np.float64]
    activation: NDArray[np.float64]
    texts: list[str]
    half_norm: float | None
    largest_activation: float | None

    def __post_init__(self) -> None:
        for array in (self.strength, self.kl, self.entropy, self.perplexity):
            array.setflags(write=False)
        self.target_probability.setflags(write=False)
        self.activation.setflags(write=False)

    def __len__(self) -> int:
        """Return the number of strengths."""
        return len(self.strength)

    def __repr__(self) -> str:
        partial = ", partial" if self.status == "partial" else ""
        swept = f" from {self.strength.min():g} to {self.strength.max():g}" if len(self) else ""
        return f"DoseResponse({self.request.label}, {len(self)} strengths{swept}{partial})"

    def __rich__(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        half = f"; half the residual norm is {self.half_norm:g}" if self.half_norm else ""
        table = Table(
            title=f"Dose-response of {self.request.label}",
            caption=f"strength: {self.request.unit_text}{half}",
        )
        frame = self.to_frame().drop(columns="text")
        for name in frame.columns:
            # As Text, since brackets in a token are no markup.
            table.add_column(Text(visible(name)), justify="right", min_width=8)
        table.add_column("text")
        for numbers, text in zip(frame.to_numpy().tolist(), self.texts, strict=True):
            cells = ["" if math.isnan(number) else f"{number:.3g}" for number in numbers]
            table.add_row(*cells, Text(visible(text), no_wrap=True, overflow="ellipsis"))
        return table

    def to_frame(self) -> pd.DataFrame:
        """Return one row a strength.

        The columns are ``strength, kl, entropy_top10, perplexity``, a ``P(token)`` for each target, an
        ``activation 17`` for each feature, and ``text``.
        """
        import pandas as pd

        targets = zip(self.request.targets, self.target_probability.T, strict=True)
        features = zip(self.request.features, self.activation.T, strict=True)
        return pd.DataFrame(
            {
                "strength": self.strength,
                "kl": self.kl,
                "entropy_top10": self.entropy,
                "perplexity": self.perplexity,
                **{f"P({token})": values for token, values in targets},
                **{f"activation {feature}": values for feature, values in features},
                "text": self.texts,
            }
        )

    def payload(self, subject: Subject | None = None) -> dict[str, Any]:
        """Return the curves; see :meth:`Result.payload`."""
        return {
            **super().payload(subject),
            "status": self.status,
            "strength": column(self.strength),
            "kl": nullable(self.kl),
            "entropy": nullable(self.entropy),
            "perplexity": nullable(self.perplexity),
            "targets": [
                {"token": token, "probability": nullable(values)}
                for token, values in zip(
                    self.request.targets, self.target_probability.T, strict=True
                )
            ],
            "activations": [
                {"feature": feature, "activation": nullable(values)}
                for feature, values in zip(self.request.features, self.activation.T, strict=True)
            ],
            "texts": self.texts,
            "half_norm": self.half_norm,
            "unit": self.request.unit,
        }

    def _body(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "half_norm": self.half_norm,
            "largest_activation": self.largest_activation,
            "columns": {
                "strength": column(self.strength),
                "kl": nullable(self.kl),
                "entropy": nullable(self.entropy),
                "perplexity": nullable(self.perplexity),
                "target_probability": nullable(self.target_probability),
                "activation": nullable(self.activation),
                "text": self.texts,
            },
        }

    @classmethod
    def _from_body(
        cls, body: dict[str, Any], request: dict[str, Any], provenance: Provenance
    ) -> Self:
        columns = body["columns"]
        asked = DoseRequest.from_options(request)
        rows = len(columns["strength"])
        arrays = {
            name: np.asarray(columns[name], np.float64)
            for name in ("strength", "kl", "entropy", "perplexity")
        }
        targets = np.asarray(columns["target_probability"], np.float64)
        activation = np.asarray(columns["activation"], np.float64)
        return cls(
            request=asked,
            provenance=provenance,
            status=body["status"],
            **arrays,
            target_probability=targets.reshape(rows, len(asked.targets)),
            activation=activation.reshape(rows, len(asked.features)),
            texts=columns["text"],
            half_norm=body["half_norm"],
            largest_activation=body["largest_activation"],
        )


@takes(DoseRequest)
def dose_response(
    subject: Subject,
    *,
    progress: Callable[[Progress], object] | None = None,
    cancel: threading.Event | None = None,
    **options: Any,
) -> DoseResponse:
    """Measure what a feature does at each of many strengths.

    Parameters
    ----------
    subject
        The model and the SAE.
    progress
        Called after every token with a :class:`~sae_explorer.analyses.Progress`.
    cancel
        When it is set, what there is after the next token is returned, marked partial. An interrupt
        (Ctrl-C) does the same, with a :class:`~sae_explorer.PartialResultWarning`. Where it comes
        before the strengths are known there are no rows.

    Returns
    -------
    DoseResponse
        A row for each strength.

    Raises
    ------
    ExplorerError
        If an option is unknown or out of range, a target is no single token, a feature does not
        exist or cannot be steered, the text is longer than the model reads, or nothing would be
        steered before the prediction that is measured.

    Examples
    --------
    >>> response = dose_response(Subject.demo(), feature=302, targets=["fish"])  # doctest: +SKIP
    >>> response.to_frame()  # doctest: +SKIP
    """
    request = DoseRequest.from_options(options)
    return run(subject, request, progress=progress, cancel=cancel)


def run(
    subject: Subject,
    request: DoseRequest,
    *,
    progress: Callable[[Progress], object] | None = None,
    cancel: threading.Event | None = None,
) -> DoseResponse:
    """Answer one request; see :func:`dose_response`."""
    prompt = text_ids(subject, request.text)
    provenance = subject.provenance(with_sae=True)
    check(subject, request.changed(1.0))
    check_places(subject, request, prompt, len(prompt))
    for feature in request.watched:
        subject.sae.check_feature(feature)
    targets = [_target(subject, token) for token in request.targets]
    half = largest_activation = None
    doses = request.doses
    # The usual levels of a clamp are shares of the largest activation, whatever the unit.
    in_shares = request.action == "clamp" and not doses
    counted = replace(request, unit="max_activation") if in_shares else request
    known = measure_first(subject, counted.changed(1.0), progress, cancel)
    if known:
        largest_activation = request.unit_value(subject)
        half = _half_norm(subject, request)
        doses = doses or _default_doses(subject, request, half)
    # The unsteered one is first. No text is wanted of 0 tokens, but the prediction after the prompt.
    rows = [request.interventions, *map(request.changed, doses)]
    length = max(1, request.dose_tokens)
    written = Continuations(len(rows), subject.end_ids)
    measured = _Prediction.missing(len(doses), len(targets))
    perplexity = np.full(len(doses), np.nan)
    activation = np.full((len(doses), len(request.features)), np.nan)

    def result(status: str) -> DoseResponse:
        said = written.said() if request.dose_tokens else [[] for _ in rows]
        return DoseResponse(
            request=request,
            provenance=provenance,
            status=status,
            strength=np.asarray(doses, np.float64),
            kl=measured.kl,
            entropy=measured.entropy,
            perplexity=perplexity,
            target_probability=measured.target_probability,
            activation=activation,
            texts=[subject.continuation_text(prompt, ids) for ids in said[1:]],
            half_norm=half,
            largest_activation=largest_activation,
        )

    def report(step: Step) -> None:
        nonlocal measured
        if written.length == 1:
            measured = _Prediction.of(step.logits, targets)
        if progress is not None:
            share = written.length / (length + 1)  # the texts are read once more at the end
            text = f"{written.length} of {length} tokens"
            progress(Progress(share, text, lambda: result("partial")))

    steps = continue_rows(subject, prompt, rows, Sampling(max_tokens=length))
    if not known:
        return result("partial")
    status = write(steps, written, length, report, cancel)
    if not request.dose_tokens:
        return result(status)
    try:
        perplexity = _perplexity(subject, request, prompt, written.token_ids[1:])
        activation = _activation(subject, request, prompt, written)
    except KeyboardInterrupt:
        warnings.warn(
            "Interrupted: what is measured in the texts is left out.",
            PartialResultWarning,
            stacklevel=3,
        )
        return result("partial")
    return result(status)


@dataclass(frozen=True)
class _Prediction:
    """What is read off the next-token distributions of all strengths."""

    kl: NDArray[np.float64]
    entropy: NDArray[np.float64]
    target_probability: NDArray[np.float64]

    @classmethod
    def missing(cls, strengths: int, targets: int) -> Self:
        """Return what there is before anything is measured."""
        kl, entropy = np.full((2, strengths), np.nan)
        return cls(kl, entropy, np.full((strengths, targets), np.nan))

    @classmethod
    def of(cls, logits: Tensor, targets: Sequence[int]) -> Self:
        """Measure logits of shape ``[1 + strengths, vocabulary]``, the unsteered ones first."""
        log_p = logits.log_softmax(dim=-1).double()
        p = logits.softmax(dim=-1).double()
        steered, plain = slice(1, None), slice(0, 1)
        kl = (p[steered] * (log_p[steered] - log_p[plain])).sum(dim=-1)
        top, _ = p[steered].topk(min(_TOP, p.shape[-1]), dim=-1)
        top = top / top.sum(dim=-1, keepdim=True)
        return cls(
            kl=kl.numpy(),
            entropy=torch.special.entr(top).sum(dim=-1).numpy(),
            target_probability=p[steered][:, list(targets)].numpy(),
        )


def _target(subject: Subject, token: str) -> int:
    try:
        return subject.token_id(token)
    except ExplorerError as error:
        raise ExplorerError(
            f"The target cannot be followed: {error} Give one token as the model writes it, a word "
            "inside a text mostly with the space before it."
        ) from error


def _half_norm(subject: Subject, request: DoseRequest) -> float | None:
    """Return the strength at which half the mean norm of the activations is added."""
    if request.action == "clamp":
        return None
    if request.unit == "residual_norm":
        return 0.5
    norm = residual_norm(subject)
    return norm / (2 * _length(subject, request) * (request.unit_value(subject) or 1.0))


def _length(subject: Subject, request: DoseRequest) -> float:
    """Return how long a vector a strength of 1 in absolute units adds, on average."""
    factor = output_factor(subject)  # of features: other vectors are added as they are
    if request.direction is None:
        assert request.feature is not None  # guaranteed by the request
        return factor * float(added_vector(subject, request.feature).norm())
    terms = (
        replace(term, weight=term.weight * (factor if term.writes else 1.0))
        for term in request.direction.terms
    )
    return float(added_vector(subject, Direction(tuple(terms))).norm())


def _default_doses(subject: Subject, request: DoseRequest, half: float | None) -> tuple[float, ...]:
    if half is not None:
        return tuple(2 * half * share for share in _SHARES)
    assert request.feature is not None  # a clamp has one
    unit = 1.0 if request.unit == "max_activation" else largest(subject, request.feature)
    return tuple(unit * level for level in _LEVELS)


def _perplexity(
    subject: Subject, request: DoseRequest, prompt: Sequence[int], texts: Sequence[Sequence[int]]
) -> NDArray[np.float64]:
    """Return the perplexity of each continuation under the unsteered model, shape ``[texts]``."""
    ids, real = padded(prompt, texts)
    written = slice(len(prompt), None)
    keep = ids.shape[1] - len(prompt) + 1
    options: dict[str, Any] = {"use_cache": False}
    if "logits_to_keep" in inspect.signature(subject.model.forward).parameters:
        options["logits_to_keep"] = keep
    at_once = max(1, _LOGITS_AT_ONCE // (ids.shape[1] * subject.vocabulary_size))
    found = []
    for part in torch.split(ids, at_once):
        layout = Layout.of(part, len(prompt))
        with applied(subject, request.interventions), announced(layout):
            logits = subject.model(input_ids=part.to(subject.device), **options).logits
        log_p = logits[:, -keep:-1].float().log_softmax(dim=-1)
        own = part[:, written, None].to(log_p.device)
        found.append(log_p.gather(-1, own)[..., 0].cpu().double())
    mask = real[:, written]
    mean = (torch.cat(found) * mask).sum(dim=-1) / mask.sum(dim=-1)
    perplexity: NDArray[np.float64] = (-mean).exp().numpy()
    return perplexity


def _activation(
    subject: Subject, request: DoseRequest, prompt: Sequence[int], written: Continuations
) -> NDArray[np.float64]:
    """Return the mean activations over what was written, shape ``[strengths, features]``."""
    said = written.said()[1:]
    if not request.features:
        return np.empty((len(said), 0))
    ids, real = padded(prompt, said)
    real[:, : len(prompt)] = False
    values = feature_activations(subject, request.features, ids).cpu().double()
    total = (values * real[..., None]).sum(dim=1)
    return (total / real.sum(dim=1)[:, None]).numpy()  # 0/0 where the model ended at once
