"""How strongly and how often an SAE's features fire on texts.

A built-in corpus (:func:`corpus`: definitions and example sentences of WordNet) gives every feature
a largest activation, in which the strength of an intervention can be expressed. The first token of
each text is left out: its activation is many times as long as any other's. It is the begin token,
or the end token where there is no begin token (see :func:`begin_ids`).
"""

from __future__ import annotations

import hashlib
import random
import reprlib
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch

from sae_explorer.analyses import Progress
from sae_explorer.errors import ExplorerError, PartialResultWarning
from sae_explorer.model import sites
from sae_explorer.model.capture import capture
from sae_explorer.model.encoding import (
    encoded,
    encoded_parts,
    positions_for,
    quiet,
    refuse_without_activations,
)
from sae_explorer.model.generation import check_length
from sae_explorer.request import Request, option, takes
from sae_explorer.results import Provenance, Result, column
from sae_explorer.studied_sae import fingerprint

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Sequence

    import pandas as pd
    from numpy.typing import NDArray
    from torch import Tensor

    from sae_explorer.model.interventions import Intervention
    from sae_explorer.model.sites import Site
    from sae_explorer.subject import Subject

#: What the texts of a scan are called where they are the built-in ones.
BUILT_IN = "built-in"

#: Tokens of one forward; their activations and, in some models, their logits are held at a time.
_TOKENS_AT_ONCE = 2048

#: Longest piece of a text that is run; longer texts are run in pieces.
_LONGEST = 256

#: Rows and tokens of the sample on which lengths of activations are measured.
_SAMPLE = (16, 24)

_T = TypeVar("_T")

#: Weights and hook points that something was measured with: both may change in an SAE that stays.
_State: TypeAlias = tuple[str, str, str]
_Kept: TypeAlias = WeakKeyDictionary[Any, WeakKeyDictionary[Any, dict[_State, _T]]]

#: Scans of the built-in corpus and mean norms, by model and SAE, for as long as both are there.
_scans: _Kept[ActivationScan] = WeakKeyDictionary()
_norms: _Kept[float] = WeakKeyDictionary()


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


@lru_cache(maxsize=1)
def corpus() -> tuple[str, ...]:
    """Return the built-in texts, in random order: any beginning is a sample of the whole.

    They are definitions, example sentences and made-up sentences of WordNet 3.0.
    """
    file = resources.files("sae_explorer") / "assets" / "corpus.txt"
    return tuple(file.read_text(encoding="utf-8").splitlines())


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
    source = corpus() if texts is None else _checked(texts)
    groups = _groups(_rows(subject, source, request.max_tokens))
    if not groups:
        raise ExplorerError(
            f"The {len(source)} texts have no token to measure: the first one of each is left out. "
            "Give longer texts, or none for the built-in ones."
        )
    name = BUILT_IN if texts is None else _fingerprint(source)
    running = _Running(subject, request, name)
    for done, rows in enumerate(groups, start=1):
        running.add(rows)
        if progress is not None:
            share, text = done / len(groups), f"{running.tokens:,} tokens"
            progress(Progress(share, text, running.result))
        if cancel is not None and cancel.is_set() and done < len(groups):
            return running.result()
    scan = running.result("complete")
    if texts is None and request.max_tokens is None:
        _kept(_scans, subject)[_state(subject)] = scan  # for largest, which would run the same
    return scan


def largest(subject: Subject, feature: int) -> float:
    """Return a feature's largest activation on the built-in texts, in the SAE's units.

    All of them are run, once for each SAE on each model; do not ask first inside an intervention.

    Raises
    ------
    ExplorerError
        If there is no such feature, it never fired, or the SAE measures nothing.
    """
    subject.sae.check_feature(feature)
    known, state = _kept(_scans, subject), _state(subject)
    if state not in known:
        known[state] = measure_activations(subject)
    scan = known[state]
    found = float(scan.max_activation[feature])
    if not found > 0:
        raise ExplorerError(
            f"Feature {feature} of {subject.sae.sae_id} fires at none of the {scan.tokens:,} tokens "
            'of the built-in texts, so its largest activation is unknown. Use unit="absolute", or '
            "another feature."
        )
    return found


def measure_first(
    subject: Subject,
    interventions: Iterable[Intervention],
    progress: Callable[[Progress], object] | None,
    cancel: threading.Event | None,
) -> bool:
    """Run the built-in texts now, with progress, where :func:`largest` would run them later.

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
    if not any(getattr(one, "unit", "") == "max_activation" for one in interventions):
        return True
    known, state = _kept(_scans, subject), _state(subject)
    if state in known:
        return True

    def told(step: Progress) -> None:
        if progress is not None:
            text = f"measuring the largest activation, {step.text}"
            progress(Progress(step.share, text, lambda: None))

    try:
        scan = run(subject, ActivationRequest(), progress=told, cancel=cancel)
    except KeyboardInterrupt:
        warnings.warn("Interrupted: the result is empty.", PartialResultWarning, stacklevel=4)
        return False
    if scan.status != "complete":
        return False
    known[state] = scan
    return True


def residual_norm(subject: Subject) -> float:
    """Return the mean length of the model's activation where the SAE writes, on a short sample.

    The first token of each text is left out. It is measured once for each SAE on each model; do not
    ask first inside an intervention.
    """
    known, state = _kept(_norms, subject), _state(subject)
    if state not in known:
        lengths = _sample(subject, subject.site_out()).norm(dim=-1)
        known[state] = _finite(subject, float(lengths.mean()))
    return known[state]


def output_factor(subject: Subject) -> float:
    """Return what the SAE multiplies its output by, on average over a short sample.

    It is 1 but for SAEs that divide what they read by a norm of its own, and what they write is in
    units of that norm: of the activation where they read, wherever they write.
    """
    if subject.sae.sae.cfg.normalize_activations == "none":
        return 1.0
    twin = quiet(subject.sae.sae)
    read = positions_for(subject.sae, _sample(subject, subject.site()))
    twin.run_time_activation_norm_fn_in(read)
    one = torch.ones(len(read), 1, device=read.device)
    one, none = twin.run_time_activation_norm_fn_out(torch.stack([one, one - 1]))
    return _finite(subject, float((one - none).mean()))


def feature_activations(subject: Subject, features: Sequence[int], ids: Tensor) -> Tensor:
    """Return what the selected SAE reads from texts, by the model as it is.

    Parameters
    ----------
    subject
        The model and the SAE.
    features
        Which features.
    ids
        Token ids of texts of one length, shape ``[batch, n]``.

    Returns
    -------
    Tensor
        Shape ``[batch, n, features]``, float32, on the CPU.

    Raises
    ------
    ExplorerError
        If the SAE has no such feature, its features have no activation of their own, or the texts
        are longer than the model reads.
    """
    refuse_without_activations(subject.sae)
    check_length(subject, ids.shape[1])
    for feature in features:
        subject.sae.check_feature(feature)
    found = []
    with subject.run():
        for rows in torch.split(ids.to(subject.device), max(1, _TOKENS_AT_ONCE // ids.shape[1])):
            (read,) = capture(subject.model, [subject.site()], rows)
            found.append(encoded(subject.sae, read, features).cpu())
    return torch.cat(found)


class _Running:
    """Largest activations and counts of the texts so far."""

    def __init__(self, subject: Subject, request: ActivationRequest, source: str) -> None:
        self._subject = subject
        self._request = request
        self._source = source
        self._reads, self._writes = subject.site(), subject.site_out()
        width, device = subject.sae.width, subject.sae.sae.W_dec.device
        self._largest = torch.zeros(width, device=device)
        self._fired = torch.zeros(width, dtype=torch.int64, device=device)
        self._norms = 0.0
        self.tokens = 0

    def add(self, rows: Sequence[Sequence[int]]) -> None:
        """Run rows of nearly one length in one forward."""
        subject, longest = self._subject, max(map(len, rows))
        # What is added on the right reaches no position before it, so it needs no mask.
        filled = [[*row, *[row[-1]] * (longest - len(row))] for row in rows]
        places = torch.arange(longest)
        counted = (places > 0) & (places < torch.tensor([[len(row)] for row in rows]))
        with subject.run():
            ids = _tensor(subject, filled)
            several = self._reads != self._writes
            found = capture(subject.model, [self._reads, *([self._writes] if several else [])], ids)
            read, written = (part[counted.to(part.device)] for part in (found[0], found[-1]))
            lengths = written.float().norm(dim=-1).sum(dtype=_widest(written))
            self._norms += _finite(subject, float(lengths))
            for activations in encoded_parts(subject.sae, read):
                torch.maximum(self._largest, activations.amax(dim=0), out=self._largest)
                self._fired += (activations > 0).sum(dim=0)
        self.tokens += len(read)

    def result(self, status: str = "partial") -> ActivationScan:
        """Return what was measured by now."""
        largest_ones = self._largest.cpu().numpy()
        if not np.isfinite(largest_ones).all():
            _finite(self._subject, float("nan"))
        return ActivationScan(
            request=self._request,
            provenance=self._subject.provenance(with_sae=True),
            source=self._source,
            tokens=self.tokens,
            mean_norm=self._norms / self.tokens,
            status=status,
            max_activation=largest_ones.copy(),
            density=self._fired.cpu().numpy() / self.tokens,
        )


def _finite(subject: Subject, number: float) -> float:
    if not np.isfinite(number):
        raise ExplorerError(
            f"Activations of {type(subject.model).__name__} at {subject.site_out().name} are NaN or "
            f"infinite in {subject.dtype}. Load the model in float32 or bfloat16."
        )
    return number


def _widest(tensor: Tensor) -> torch.dtype:
    # Not every device has float64.
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def _fingerprint(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{len(text)}:{text}".encode())
    return digest.hexdigest()[:16]


def begin_ids(subject: Subject) -> list[int]:
    """Return the token that a text begins with whose other tokens are to be measured.

    Whatever stands first has an activation unlike all others, so that something is put there that
    is not measured: the begin token, or the end token where there is none, as SAEs of such models
    are mostly trained. The list is empty where the tokenizer has neither.
    """
    tokenizer = subject.tokenizer
    begin = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return [] if begin is None else [int(begin)]


def _checked(texts: Any) -> tuple[str, ...]:
    given = tuple(texts) if isinstance(texts, Iterable) and not isinstance(texts, str) else None
    if given is None or not all(isinstance(text, str) for text in given):
        raise ExplorerError(
            f"texts is {reprlib.repr(texts)}; give a list of texts, such as ['It rains.', 'A tree.']."
        )
    return given


def _kept(store: _Kept[_T], subject: Subject) -> dict[_State, _T]:
    """Return what is known of the model and the SAE of a subject."""
    return store.setdefault(subject.model, WeakKeyDictionary()).setdefault(subject.sae.sae, {})


def _state(subject: Subject) -> _State:
    # A threshold of all features has no place to sample.
    weights = (each for each in subject.sae.sae.parameters() if each.ndim)
    return fingerprint(*weights), subject.site().name, subject.site_out().name


def _sample(subject: Subject, site: Site) -> Tensor:
    """Return activations at a site, first tokens left out, shape ``[texts, n, width]``, float32."""
    count, length = _SAMPLE
    rows = [row[:length] for row in _pieces(subject, corpus()) if len(row) >= length]
    # A tokenizer of whole sentences would leave none: then whatever there is.
    rows = rows[:count] or [row[:2] for row in _pieces(subject, corpus())][:count]
    with subject.run():
        (found,) = capture(subject.model, [site], _tensor(subject, rows))
    return found[:, 1:].float()


def _pieces(subject: Subject, texts: Iterable[str]) -> Iterator[list[int]]:
    """Yield the texts' token ids, long ones in pieces, each after :func:`begin_ids`."""
    lead = begin_ids(subject)
    context = getattr(sites.text_config(subject.model), "max_position_embeddings", None)
    size = min(_LONGEST, context or _LONGEST) - len(lead)
    for text in texts:
        ids = subject.tokenizer.encode(text, add_special_tokens=False)
        for start in range(0, len(ids), size):
            piece = [*lead, *map(int, ids[start : start + size])]
            if len(piece) > 1:
                yield piece


def _rows(subject: Subject, texts: Iterable[str], most: int | None) -> Iterator[list[int]]:
    """Yield the texts' rows until they hold ``most`` tokens to be counted."""
    left = most
    for row in _pieces(subject, texts):
        if left is None:
            yield row
            continue
        yield row[: left + 1]
        left -= min(left, len(row) - 1)
        if left == 0:
            return


def _groups(rows: Iterable[list[int]]) -> list[list[list[int]]]:
    """Put rows of nearly one length together, one forward each, in random order.

    The order makes what a cancelled scan has seen a sample of all lengths.
    """
    groups: list[list[list[int]]] = []
    for row in sorted(rows, key=len):
        if not groups or (len(groups[-1]) + 1) * len(row) > _TOKENS_AT_ONCE:
            groups.append([])
        groups[-1].append(row)
    random.Random(0).shuffle(groups)  # noqa: S311 - an order, not a secret
    return groups


def _tensor(subject: Subject, rows: Sequence[Sequence[int]]) -> Tensor:
    return torch.tensor(rows, device=subject.device)
