"""How strongly and how often an SAE's features fire on texts, built-in ones or others."""

from __future__ import annotations

import hashlib
import reprlib
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from sae_explorer.analyses import Progress
from sae_explorer.errors import ExplorerError, PartialResultWarning
from sae_explorer.model import reading
from sae_explorer.model.encoding import refuse_without_activations
from sae_explorer.request import Request, option, takes
from sae_explorer.results import Provenance, Result, column

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from sae_explorer.model.interventions import Intervention
    from sae_explorer.subject import Subject

#: What the texts of a scan are called where they are the built-in ones.
BUILT_IN = "built-in"


@dataclass(frozen=True, kw_only=True)
class ActivationRequest(Request):
    """How much text to run."""

    group: ClassVar[str] = "activations"

    max_tokens: int | None = option(
        None,
        "Largest number of tokens to run; None takes all of them.",
        unit="tokens",
        minimum=1,
    )

    @property
    def label(self) -> str:
        """What is measured, in a few words."""
        return "activations"


@dataclass(frozen=True, eq=False, repr=False)
class ActivationScan(Result):
    """How strongly and how often each feature of an SAE fires on texts.

    Parameters
    ----------
    request
        The options.
    provenance
        Model, SAE and versions.
    source
        ``"built-in"``, or 16 hexadecimal digits that stand for the texts that were given.
    tokens
        How many tokens were measured, the first one of each text left out.
    mean_norm
        Mean length of the model's activation where the SAE writes.
    status
        ``"complete"``, or ``"partial"`` after a cancel.
    max_activation
        Largest activation of each feature, in the SAE's units; 0 where it never fired. Float32.
    density
        Share of the tokens at which each feature fired. Float64.
    """

    kind: ClassVar[str] = "activation-scan"

    request: ActivationRequest
    provenance: Provenance
    source: str
    tokens: int
    mean_norm: float
    status: str
    max_activation: NDArray[np.float32]
    density: NDArray[np.float64]

    def __post_init__(self) -> None:
        for array in (self.max_activation, self.density):
            array.setflags(write=False)

    def __len__(self) -> int:
        """Return the number of features."""
        return len(self.max_activation)

    def __repr__(self) -> str:
        silent = int((self.max_activation == 0).sum())
        return (
            f"ActivationScan({len(self):,} features on {self.tokens:,} tokens, "
            f"{silent:,} of them silent)"
        )

    def to_frame(self) -> pd.DataFrame:
        """Return one row a feature: ``feature, max_activation, density``."""
        import pandas as pd

        return pd.DataFrame(
            {
                "feature": np.arange(len(self)),
                "max_activation": self.max_activation,
                "density": self.density,
            }
        )

    def _body(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "tokens": self.tokens,
            "mean_norm": self.mean_norm,
            "status": self.status,
            "columns": {
                "max_activation": column(self.max_activation),
                "density": column(self.density),
            },
        }

    @classmethod
    def _from_body(
        cls, body: dict[str, Any], request: dict[str, Any], provenance: Provenance
    ) -> Self:
        columns = body["columns"]
        return cls(
            request=ActivationRequest.from_options(request),
            provenance=provenance,
            source=body["source"],
            tokens=body["tokens"],
            mean_norm=body["mean_norm"],
            status=body["status"],
            max_activation=np.asarray(columns["max_activation"], np.float32),
            density=np.asarray(columns["density"], np.float64),
        )


@takes(ActivationRequest)
def measure_activations(
    subject: Subject,
    texts: Sequence[str] | None = None,
    *,
    progress: Callable[[Progress], object] | None = None,
    cancel: threading.Event | None = None,
    **options: Any,
) -> ActivationScan:
    """Measure how strongly and how often every feature of the selected SAE fires.

    Parameters
    ----------
    subject
        The model and the SAE.
    texts
        Texts to run; None takes the built-in ones. Each is run after the begin token (the end token
        where the tokenizer has none), which is not counted. Long ones are run in pieces.
    progress
        Called after every forward with an :class:`~sae_explorer.analyses.Progress`.
    cancel
        When it is set, the scan stops and what was measured by then is returned, marked partial.

    Returns
    -------
    ActivationScan
        One row a feature.

    Raises
    ------
    ExplorerError
        If the texts are not a list of texts or hold no token to measure, the SAE's features have no
        activation of their own at a position, or activations are NaN or infinite.

    Examples
    --------
    >>> scan = measure_activations(Subject.demo())  # doctest: +SKIP
    >>> scan.to_frame().nlargest(5, "max_activation")  # doctest: +SKIP
    """
    request = ActivationRequest.from_options(options)
    return run(subject, request, texts=texts, progress=progress, cancel=cancel)


def run(
    subject: Subject,
    request: ActivationRequest,
    *,
    texts: Sequence[str] | None = None,
    progress: Callable[[Progress], object] | None = None,
    cancel: threading.Event | None = None,
) -> ActivationScan:
    """Answer one request; see :func:`measure_activations`."""
    refuse_without_activations(subject.sae)
    source = reading.corpus() if texts is None else _checked(texts)
    batches = reading.batches(subject, source, request.max_tokens)
    if not batches:
        raise ExplorerError(
            f"The {len(source)} texts have no token to measure: the first one of each is left out. "
            "Give longer texts, or none for the built-in ones."
        )
    totals = reading.Totals(subject)

    def result(status: str = "partial") -> ActivationScan:
        return ActivationScan(
            request=request,
            provenance=subject.provenance(with_sae=True),
            source=BUILT_IN if texts is None else _fingerprint(source),
            tokens=totals.tokens,
            mean_norm=totals.mean_norm(),
            status=status,
            max_activation=totals.maxima().activations,
            density=totals.density(),
        )

    for done, rows in enumerate(batches, start=1):
        totals.add(rows)
        if progress is not None:
            progress(Progress(done / len(batches), f"{totals.tokens:,} tokens", result))
        if cancel is not None and cancel.is_set() and done < len(batches):
            return result()
    if texts is None and request.max_tokens is None:
        reading.keep_maxima(subject, totals.maxima())  # all texts need not be run for it again
    return result("complete")


def measure_first(
    subject: Subject,
    interventions: Iterable[Intervention],
    progress: Callable[[Progress], object] | None,
    cancel: threading.Event | None,
) -> bool:
    """Run the built-in texts now, with progress, where an intervention would run them later.

    Parameters
    ----------
    subject
        The model and the SAE.
    interventions
        What is to be done; those that count in largest activations need the texts.
    progress
        Told how far it is.
    cancel
        When it is set, the texts are given up, as they are after an interrupt (Ctrl-C).

    Returns
    -------
    bool
        Whether all that is needed is known now: False if they were given up, which leaves nothing.
    """
    counted = (one.feature for one in interventions if getattr(one, "unit", "") == "max_activation")
    try:
        for share, tokens in reading.measuring(subject, counted):
            if progress is not None:
                text = f"measuring the largest activation, {tokens:,} tokens"
                progress(Progress(share, text, lambda: None))
            if cancel is not None and cancel.is_set() and share < 1:
                return False
    except KeyboardInterrupt:
        warnings.warn("Interrupted: the result is empty.", PartialResultWarning, stacklevel=4)
        return False
    return True


def _fingerprint(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{len(text)}:{text}".encode())
    return digest.hexdigest()[:16]


def _checked(texts: Any) -> tuple[str, ...]:
    given = tuple(texts) if isinstance(texts, Iterable) and not isinstance(texts, str) else None
    if given is None or not all(isinstance(text, str) for text in given):
        raise ExplorerError(
            f"texts is {reprlib.repr(texts)}; give a list of texts, such as ['It rains.', 'A tree.']."
        )
    return given
