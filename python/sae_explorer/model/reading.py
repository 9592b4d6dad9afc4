"""Texts read by the model as it is: what an SAE's features do there, and how long activations are.

A built-in corpus (:func:`corpus`: definitions and example sentences of WordNet) gives every feature
a largest activation, in which the strength of an intervention can be expressed. The first token of
each text is left out: its activation is many times as long as any other's. It is the begin token,
or the end token where there is no begin token (see :func:`begin_ids`).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch

from sae_explorer.errors import ExplorerError
from sae_explorer.model import sites
from sae_explorer.model.capture import capture
from sae_explorer.model.encoding import (
    ALONE,
    encoded,
    encoded_parts,
    positions_for,
    quiet,
    refuse_without_activations,
)
from sae_explorer.studied_sae import fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from sae_explorer.model.sites import Site
    from sae_explorer.subject import Subject

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

#: Largest activations in the built-in corpus and mean norms, by model and SAE, for as long as both
#: are there. Of features that were measured alone: the activation, and on how many tokens.
_maxima: _Kept[Maxima] = WeakKeyDictionary()
_alone: _Kept[dict[int, tuple[float, int]]] = WeakKeyDictionary()
_norms: _Kept[float] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Maxima:
    """Largest activations of an SAE's features.

    Parameters
    ----------
    activations
        One for each feature, in the SAE's units; 0 where it never fired. Float32.
    tokens
        On how many tokens.
    """

    activations: NDArray[np.float32]
    tokens: int


def check_length(subject: Subject, prompt: int, generated: int = 0) -> None:
    """Refuse a text that the model's positions do not reach.

    Parameters
    ----------
    subject
        The model.
    prompt
        Number of tokens that are given.
    generated
        Number of tokens that are to follow.

    Raises
    ------
    ExplorerError
        If they are too many.
    """
    limit = getattr(sites.text_config(subject.model), "max_position_embeddings", None)
    if limit is None or prompt + generated <= limit:
        return
    follow, fewer = "", ""
    if generated:
        follow, fewer = f" and {generated} are to follow", " or ask for fewer tokens"
    raise ExplorerError(
        f"The text has {prompt} tokens{follow}, but {type(subject.model).__name__} reads {limit} at "
        f"most. Give a shorter text{fewer}."
    )


@lru_cache(maxsize=1)
def corpus() -> tuple[str, ...]:
    """Return the built-in texts, in random order: any beginning is a sample of the whole.

    They are definitions, example sentences and made-up sentences of WordNet 3.0.
    """
    file = resources.files("sae_explorer") / "assets" / "corpus.txt"
    return tuple(file.read_text(encoding="utf-8").splitlines())


def begin_ids(subject: Subject) -> list[int]:
    """Return the token that a text begins with whose other tokens are to be measured.

    Whatever stands first has an activation unlike all others, so that something is put there that
    is not measured: the begin token, or the end token where there is none, as SAEs of such models
    are mostly trained. The list is empty where the tokenizer has neither.
    """
    tokenizer = subject.tokenizer
    begin = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return [] if begin is None else [int(begin)]


def batches(
    subject: Subject, texts: Iterable[str], most: int | None = None
) -> list[list[list[int]]]:
    """Return the token ids of texts in rows, those of nearly one length together, one forward each.

    The order is random: what has been seen after some of them is a sample of all lengths.

    Parameters
    ----------
    subject
        The model that is to read them.
    texts
        Each is put after :func:`begin_ids`; long ones stand in several rows.
    most
        Largest number of tokens to be counted; None takes all of them.
    """
    groups: list[list[list[int]]] = []
    for row in sorted(_rows(subject, texts, most), key=len):
        if not groups or (len(groups[-1]) + 1) * len(row) > _TOKENS_AT_ONCE:
            groups.append([])
        groups[-1].append(row)
    random.Random(0).shuffle(groups)  # noqa: S311 - an order, not a secret
    return groups


class Totals:
    """Largest activations, counts and lengths of the texts that were run so far.

    Parameters
    ----------
    subject
        The model and the SAE; its hook points must be in the model.
    features
        Which features are measured; None takes all.

    Attributes
    ----------
    tokens
        How many tokens were measured, the first one of each text left out.
    """

    def __init__(self, subject: Subject, features: Sequence[int] | None = None) -> None:
        self._subject, self._features = subject, features
        self._reads, self._writes = subject.site(), subject.site_out()
        width = subject.sae.width if features is None else len(features)
        device = subject.sae.sae.W_dec.device
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
            for activations in encoded_parts(subject.sae, read, self._features):
                torch.maximum(self._largest, activations.amax(dim=0), out=self._largest)
                self._fired += (activations > 0).sum(dim=0)
        self.tokens += len(read)

    def maxima(self) -> Maxima:
        """Return the largest activation of each feature by now."""
        found = self._largest.cpu().numpy().copy()
        if not np.isfinite(found).all():
            _finite(self._subject, float("nan"))
        return Maxima(found, self.tokens)

    def density(self) -> NDArray[np.float64]:
        """Return the share of the tokens at which each feature fired."""
        share: NDArray[np.float64] = self._fired.cpu().numpy() / self.tokens
        return share

    def mean_norm(self) -> float:
        """Return the mean length of the activations where the SAE writes."""
        return self._norms / self.tokens


def keep_maxima(subject: Subject, maxima: Maxima) -> None:
    """Keep what was measured on all of the built-in texts, for :func:`largest`."""
    _kept(_maxima, subject)[_state(subject)] = maxima


def measuring(subject: Subject, features: Iterable[int]) -> Iterator[tuple[float, int]]:
    """Run the built-in texts for what :func:`largest` tells of features, one forward at a time.

    All other features are measured with them, unless that takes longer than the model itself, as in
    a small model with a very wide SAE. Nothing is run for what is known, and what was measured is
    kept once all texts were run.

    Yields
    ------
    tuple of float and int
        The share of the texts that were run, and how many tokens these have.
    """
    wanted = [feature for feature in dict.fromkeys(features) if _known(subject, feature) is None]
    if not wanted:
        return
    refuse_without_activations(subject.sae)
    few = _costs_more_than_the_model(subject.sae.sae, subject.model)
    totals = Totals(subject, wanted if few else None)
    groups = batches(subject, corpus())
    for done, rows in enumerate(groups, start=1):
        totals.add(rows)
        yield done / len(groups), totals.tokens
    maxima = totals.maxima()
    if few:
        found = ((activation, maxima.tokens) for activation in maxima.activations.tolist())
        alone = _kept(_alone, subject).setdefault(_state(subject), {})
        alone.update(zip(wanted, found, strict=True))
    else:
        keep_maxima(subject, maxima)


def largest(subject: Subject, feature: int) -> float:
    """Return a feature's largest activation on the built-in texts, in the SAE's units.

    They are run unless it is known (see :func:`measuring`); do not ask first inside an intervention.

    Raises
    ------
    ExplorerError
        If there is no such feature, it never fired, or the SAE measures nothing.
    """
    subject.sae.check_feature(feature)
    for _ in measuring(subject, [feature]):
        pass
    known = _known(subject, feature)
    assert known is not None  # it was measured just now, if not before
    found, tokens = known
    if not found > 0:
        raise ExplorerError(
            f"Feature {feature} of {subject.sae.sae_id} fires at none of the {tokens:,} tokens "
            'of the built-in texts, so its largest activation is unknown. Use unit="absolute", or '
            "another feature."
        )
    return found


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


def _known(subject: Subject, feature: int) -> tuple[float, int] | None:
    """Return a feature's largest activation and on how many tokens, if it was measured before."""
    state = _state(subject)
    maxima = _kept(_maxima, subject).get(state)
    if maxima is not None:
        return float(maxima.activations[feature]), maxima.tokens
    return _kept(_alone, subject).get(state, {}).get(feature)


def _costs_more_than_the_model(sae: Any, model: torch.nn.Module) -> bool:
    """Tell whether one feature alone is much cheaper to measure than all: each weight costs the same."""
    if sae.cfg.architecture() not in ALONE:
        return False
    return bool(sae.W_enc.numel() > sum(weight.numel() for weight in model.parameters()))


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


def _tensor(subject: Subject, rows: Sequence[Sequence[int]]) -> Tensor:
    return torch.tensor(rows, device=subject.device)
