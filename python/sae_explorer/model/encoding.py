"""What an SAE reads from activations: each feature's activation at each position.

The SAE's own ``encode`` is what measures. It is given what it was trained on (activations without
their mean, where it reads those), in parts, and from an SAE in which every feature stands alone
only the features that are asked for are computed.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

from sae_explorer.errors import ExplorerError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sae_lens import SAE
    from torch import Tensor

    from sae_explorer.studied_sae import StudiedSAE

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
ALONE = (
    *("standard", "gated", "jumprelu"),
    *("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"),
)

#: The parameters that have an entry for each feature, and along which dimension.
PER_FEATURE = {
    "W_enc": 1,
    "W_dec": 0,
    **dict.fromkeys(("b_enc", "b_gate", "b_mag", "r_mag", "threshold"), 0),
}

#: Positions encoded together: a wide SAE has more numbers at each than the model's logits.
_POSITIONS_AT_ONCE = 512

#: Numbers that one step may make: 256 MB of float32, where 512 positions of a wide SAE are more.
_NUMBERS_AT_ONCE = 2**26


def refuse_without_activations(studied: StudiedSAE) -> None:
    """Refuse an SAE whose features have no activation that could be measured or changed.

    Raises
    ------
    ExplorerError
        If its features depend on other positions or on the rest of a batch, or if it expects
        activations on a scale that is not in its weights.
    """
    config = studied.sae.cfg
    architecture, normalised = config.architecture(), config.normalize_activations
    reason = _WITHOUT_ACTIVATIONS.get(architecture)
    if reason is not None:
        raise ExplorerError(
            f"{studied.sae_id} is a {architecture} SAE, whose features cannot be measured or "
            f"clamped: {reason}."
        )
    if normalised in _UNFOLDED:
        raise ExplorerError(
            f"{studied.sae_id} expects activations on a scale that is not in its weights, so its "
            f"units are unknown. Fold it in first: sae.{_UNFOLDED[normalised]}(...) with what it "
            "was trained with."
        )


def positions_at_once(features: int) -> int:
    """Return how many positions to encode together, where each makes so many numbers."""
    return min(_POSITIONS_AT_ONCE, max(1, _NUMBERS_AT_ONCE // max(1, features)))


def quiet(sae: SAE[Any]) -> SAE[Any]:
    """Return the SAE as it is to be run, on the same weights: flat activations, no training.

    SAEs of attention's z expect the heads apart, which the model's own activations are not, and
    remember the shape of what they were given last: the user's object is left alone.
    """
    twin = copy.copy(sae)
    twin.turn_off_forward_pass_hook_z_reshaping()
    twin.training = False
    # What normalises keeps its factor on the object that it was made for: on this one, not the user's.
    twin._setup_activation_normalization()  # noqa: SLF001
    return twin


def narrowed(sae: SAE[Any], features: Sequence[int]) -> SAE[Any]:
    """Return the SAE with some of its features alone: a wide one has thousands of times as many.

    Only one of :data:`ALONE` measures the same as the whole SAE.
    """
    twin = copy.copy(sae)
    at = torch.tensor(features, device=sae.W_dec.device)
    twin._parameters = {  # noqa: SLF001
        name: weights
        if weights is None or name not in PER_FEATURE
        else torch.nn.Parameter(weights.index_select(PER_FEATURE[name], at), requires_grad=False)
        for name, weights in sae._parameters.items()  # noqa: SLF001
    }
    return twin


def positions_for(studied: StudiedSAE, x: Tensor) -> Tensor:
    """Return activations as the SAE expects them, one position a row, on the SAE's device.

    Parameters
    ----------
    studied
        The SAE.
    x
        The model's activations where the SAE reads, shape ``[..., d_in]``.

    Returns
    -------
    Tensor
        Shape ``[positions, d_in]``; the SAE itself casts to its own dtype.
    """
    rows = x.to(studied.sae.W_dec.device).flatten(0, -2)
    return rows - rows.mean(dim=-1, keepdim=True) if studied.reads_centred else rows


def encoded_parts(
    studied: StudiedSAE, x: Tensor, features: Sequence[int] | None = None
) -> Iterator[Tensor]:
    """Yield what :func:`encoded` returns some positions at a time, shape ``[some, features]``."""
    sae, chosen = quiet(studied.sae), None if features is None else list(features)
    if chosen is not None and sae.cfg.architecture() in ALONE:
        sae, chosen = narrowed(sae, chosen), None
    size = min(_POSITIONS_AT_ONCE, max(1, _NUMBERS_AT_ONCE // len(sae.W_dec)))
    with torch.no_grad():
        for part in torch.split(positions_for(studied, x), size):
            found: Tensor = sae.encode(part)
            yield (found if chosen is None else found[..., chosen]).float()


def encoded(studied: StudiedSAE, x: Tensor, features: Sequence[int] | None = None) -> Tensor:
    """Return the activations of an SAE's features, as the SAE itself measures them.

    Parameters
    ----------
    studied
        The SAE; see :func:`refuse_without_activations` for those that measure nothing.
    x
        The model's activations where the SAE reads, shape ``[..., d_in]``.
    features
        Which features; None takes all.

    Returns
    -------
    Tensor
        Shape ``[..., features]``, float32, on the SAE's device.
    """
    width = studied.width if features is None else len(features)
    return torch.cat(list(encoded_parts(studied, x, features))).reshape(*x.shape[:-1], width)
