"""Interventions: the activation at an SAE's hook point, changed while the model runs.

A clamp makes a feature's activation ``c`` at every position: ``x <- x + (c - a_f(x)) * d_f``, where
``a_f`` is the activation as the SAE measures it and ``d_f`` the decoder row in the units of ``x``.
Whatever of ``x`` the SAE does not explain stays as it is. A transcoder measures at one hook point
and writes at another of the same forward.
"""

from __future__ import annotations

import copy
import reprlib
import weakref
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch

from sae_explorer.errors import ExplorerError
from sae_explorer.model.sites import edited

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sae_lens import SAE
    from torch import Tensor

    from sae_explorer.subject import Subject

#: SAEs whose feature has no activation of its own at a position, and why.
_WITHOUT_ACTIVATIONS = {
    "temporal": "it predicts a part of every activation from the positions before",
    "matching_pursuit": "it picks features one after another, each for what those before left over",
    "batchtopk": "it shares out activations over a whole batch; save it as an inference model first",
    "matryoshka_batchtopk": (
        "it shares out activations over a whole batch; save it as an inference model first"
    ),
}

#: Normalisations that SAELens does not carry out at run time, and what puts them into the weights.
_UNFOLDED = {
    "expected_average_only_in": "fold_activation_norm_scaling_factor",
    "covariance_whitening": "fold_activation_whitening",
}

#: SAEs in which a feature's activation depends on no other feature.
_ALONE = (
    *("standard", "gated", "jumprelu"),
    *("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"),
)

#: The parameters that have an entry for each feature, and along which dimension.
_PER_FEATURE = {
    "W_enc": 1,
    "W_dec": 0,
    **dict.fromkeys(("b_enc", "b_gate", "b_mag", "r_mag", "threshold"), 0),
}

#: Positions encoded together: a wide SAE has more numbers at each than the model's logits.
_POSITIONS_AT_ONCE = 512

#: SAEs whose edits were seen to reach a model's output.
_tried: weakref.WeakKeyDictionary[Any, weakref.WeakSet[Any]] = weakref.WeakKeyDictionary()


#: Beyond any activation; larger ones are no float32.
_LARGEST = 1e30


@dataclass(frozen=True)
class Clamp:
    """A feature held at one activation, at all positions; 0 ablates it.

    Parameters
    ----------
    feature
        Index of the SAE's feature (latent).
    value
        The activation, in the SAE's own units.

    Raises
    ------
    ExplorerError
        If the feature is no index, or the value no finite number.
    """

    kind: ClassVar[str] = "clamp"

    feature: int
    value: float

    def __post_init__(self) -> None:
        for name, wanted in (("feature", "a whole number of at least 0"), ("value", "finite")):
            given = getattr(self, name)
            number = _number(given)
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                raise ExplorerError(
                    f"{name} of a Clamp is {reprlib.repr(given)}; it must be a number."
                )
            right = -_LARGEST < number < _LARGEST  # NaN is not
            if name == "feature":
                right = right and number >= 0 and number == int(number)
            if not right:
                raise ExplorerError(
                    f"{name} of a Clamp is {reprlib.repr(number)}; it must be {wanted}."
                )
            object.__setattr__(self, name, int(number) if name == "feature" else float(number))

    def to_dict(self) -> dict[str, Any]:
        """Return the clamp as plain JSON values."""
        return {"kind": self.kind, **asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the clamp that :meth:`to_dict` wrote down.

        Raises
        ------
        ExplorerError
            If the values are those of no clamp.
        """
        if values.get("kind") != cls.kind or set(values) != {"kind", "feature", "value"}:
            raise ExplorerError(
                f"{dict(values)!r} is no intervention; write it as in "
                "{'kind': 'clamp', 'feature': 17, 'value': 8.0}, or give Clamp(17, 8.0)."
            )
        return cls(values["feature"], values["value"])


def _number(given: Any) -> Any:
    """Return a number of numpy or torch as one of Python's, anything else as it is."""
    try:
        return given.item() if hasattr(given, "item") else given
    except (RuntimeError, ValueError):  # several numbers
        return given


def check(subject: Subject, interventions: Sequence[Clamp]) -> None:
    """Refuse interventions that cannot be carried out.

    Raises
    ------
    ExplorerError
        If the SAE has no such feature, a feature is clamped twice, its decoder vector is zero, the
        SAE is of a kind that cannot be clamped, or its hook point is not in the model.
    """
    if not interventions:
        return
    sae = subject.sae.sae
    reason = _WITHOUT_ACTIVATIONS.get(sae.cfg.architecture())
    if reason is not None:
        raise ExplorerError(
            f"{subject.sae.sae_id} is a {sae.cfg.architecture()} SAE, whose features cannot be "
            f"clamped: {reason}."
        )
    if sae.cfg.normalize_activations in _UNFOLDED:
        raise ExplorerError(
            f"{subject.sae.sae_id} expects activations on a scale that is not in its weights, so "
            f"its units are unknown. Fold it in first: sae.{_UNFOLDED[sae.cfg.normalize_activations]}"
            "(...) with what it was trained with."
        )
    features = [clamp.feature for clamp in interventions]
    for feature in features:
        subject.sae.check_feature(feature)
        if features.count(feature) > 1:
            raise ExplorerError(f"Feature {feature} is clamped more than once; give one Clamp.")
        if not bool(sae.W_dec[feature].any()):
            raise ExplorerError(
                f"The decoder vector of feature {feature} is zero, so clamping it changes nothing. "
                "Choose another one."
            )
    subject.site()
    subject.site_out()


@contextmanager
def applied(subject: Subject, interventions: Sequence[Clamp]) -> Iterator[None]:
    """Hold the subject for a run in which every forward is changed by the interventions.

    They act on the selected SAE's features, at all positions, with a cache or without. The first
    time that an SAE is used on a model, a forward of two tokens checks that they reach the output.

    Parameters
    ----------
    subject
        The model and the SAE.
    interventions
        None, one or several, of different features.

    Raises
    ------
    ExplorerError
        As :func:`check` does; or if the output does not change when a feature does.
    """
    check(subject, interventions)
    with subject.run():
        if not interventions:
            yield
            return
        _try_out(subject, interventions[0].feature)
        features = [clamp.feature for clamp in interventions]
        values = [clamp.value for clamp in interventions]

        def to_values(activations: Tensor) -> Tensor:
            return torch.tensor(values).to(activations) - activations

        with _edited(subject, features, to_values):
            yield


@contextmanager
def _edited(
    subject: Subject, features: Sequence[int], change: Callable[[Tensor], Tensor]
) -> Iterator[None]:
    """Add what ``change`` makes of some features' activations, decoded, while the block runs.

    ``change`` takes and returns one number a position and feature, ``[..., features]``.
    """
    whole, reads, writes = _quiet(subject.sae.sae), subject.site(), subject.site_out()
    sae = _narrowed(whole, features)
    alone = whole.cfg.architecture() in _ALONE
    pending: Tensor | None = None

    def decoded_change(x: Tensor) -> Tensor:
        activations = sae.encode(x) if alone else whole.encode(x)[..., list(features)]
        difference = change(activations)
        # Decoders are affine, so this is decode(a + difference) - decode(a), without the rounding
        # of two large sums: exactly 0 where nothing changes. One call, since run-time normalisation
        # keeps its factor from encode to the next decode and no further.
        both: Tensor = sae.decode(torch.stack([difference, torch.zeros_like(difference)]))
        return both[0] - both[1]

    def measure(x: Tensor) -> Tensor:
        nonlocal pending
        positions = x.to(sae.W_dec.device).flatten(0, 1)  # the SAE casts to its own dtype
        if subject.sae.reads_centred:
            positions = positions - positions.mean(dim=-1, keepdim=True)
        parts = [decoded_change(part) for part in torch.split(positions, _POSITIONS_AT_ONCE)]
        pending = torch.cat(parts).reshape(*x.shape[:2], -1)
        return x

    def write(x: Tensor) -> Tensor:
        nonlocal pending
        if pending is None:
            raise ExplorerError(
                f"{subject.sae.sae_id} writes at {writes.name}, but {type(subject.model).__name__} "
                f"had not run {reads.name} before, where it reads. Use the model that the SAE was "
                "trained on."
            )
        added, pending = pending.to(x.device), None
        return x + added  # in the wider of the two dtypes

    with edited(reads, measure), edited(writes, write):
        yield


def _quiet(sae: SAE[Any]) -> SAE[Any]:
    """Return the SAE as it is to be run, on the same weights: flat activations, no training.

    SAEs of attention's z expect the heads apart, which the model's own activations are not, and
    remember the shape of what they were given last: the user's object is left alone.
    """
    twin = copy.copy(sae)
    twin.turn_off_forward_pass_hook_z_reshaping()
    twin.training = False
    return twin


def _narrowed(sae: SAE[Any], features: Sequence[int]) -> SAE[Any]:
    """Return the SAE with some of its features alone: a wide one has thousands of times as many."""
    twin = copy.copy(sae)
    at = torch.tensor(features, device=sae.W_dec.device)
    twin._parameters = {  # noqa: SLF001
        name: weights
        if weights is None or name not in _PER_FEATURE
        else torch.nn.Parameter(weights.index_select(_PER_FEATURE[name], at), requires_grad=False)
        for name, weights in sae._parameters.items()  # noqa: SLF001
    }
    return twin


def _try_out(subject: Subject, feature: int) -> None:
    """Check, once for each SAE on each model, that a change of a feature reaches the output."""
    sae = subject.sae.sae
    tried = _tried.setdefault(subject.model, weakref.WeakSet())
    if sae in tried:
        return
    length = float(sae.W_dec[feature].float().norm())

    def much(activations: Tensor) -> Tensor:
        return torch.full_like(activations, 1000 / length)

    # Two tokens, and different ones: with a single key, attention leaves nothing to choose.
    tokens = torch.arange(2, device=subject.device)[None]
    before: Tensor = subject.model(input_ids=tokens, use_cache=False).logits
    with _edited(subject, [feature], much):
        after: Tensor = subject.model(input_ids=tokens, use_cache=False).logits
    if torch.equal(before, after):
        raise ExplorerError(
            f"A change at {subject.site_out().path} does not reach the output of this "
            f"{type(subject.model).__name__}, so no intervention of {subject.sae.sae_id} would do "
            "anything. Load the model anew, without compiling it or replacing its layers."
        )
    tried.add(sae)
