"""A vector in place of one token's embedding: how the vector is made, and how it gets in.

The vector is ``v = [mu] + s*((1 - sum w)*unit(direction) + sum_k w_k PC_k)``, after the
definition-tree notebook for Gemma-2B (M. Watkins, 2024): ``mu`` is the mean token embedding and
enters only with the centroid offset on, ``s`` is the scale, ``PC_k`` are the principal components
of the centred embeddings. The mix is not normalised again.
"""

from __future__ import annotations

import copy
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sae_explorer.errors import ExplorerError
from sae_explorer.model.direction import LARGEST, Direction, check_sum, shown
from sae_explorer.request import Request, option

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sae_explorer.subject import Subject

Vector: TypeAlias = NDArray[np.float32]

#: The options that say what is looked at; a request has one of them.
SOURCES = ("feature", "direction", "vector", "token", "embedding")

#: Scale that is chosen by a sweep.
AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class DirectionRequest(Request):
    """Which vector stands in for the embedding of the made-up word."""

    group: ClassVar[str] = "vector"

    feature: int | None = option(None, "Index of the SAE feature (latent).", minimum=0)
    direction: Direction | None = option(
        None,
        "A sum of features in place of one, such as 4021 - 0.5*17:decoder; from Python "
        "feature(4021) - 0.5 * feature(17, 'decoder'), also with vector(...).",
    )
    vector: tuple[float, ...] | None = option(
        None, "A direction of d_model numbers, such as a probe, used as a feature's would be."
    )
    token: str | None = option(None, "A vocabulary entry whose own embedding is used as it is.")
    embedding: tuple[float, ...] | None = option(
        None, "d_model numbers that stand in as they are, neither normalised nor scaled."
    )
    weights: str | tuple[float, ...] = option(
        "encoder",
        "Which weights give the feature's direction: 'encoder' is what it answers to, 'decoder' what "
        "it writes, two coefficients (encoder, decoder) mix their unit vectors.",
    )
    scale: float | str | None = option(
        None,
        "Length of the direction: longer where answers are about no feature, shorter where they are "
        "noise. None takes the subject's (3.8 for Gemma-2B, else the mean "
        "distance of the token embeddings from their centroid), 'auto' the best one of a sweep.",
        above=0.0,
        maximum=LARGEST,
        slider=(0.1, 10.0),
        choices=(AUTO,),
    )
    centroid: bool = option(
        False,
        "Add the mean token embedding to the scaled direction, so that it lies among the words the "
        "model knows.",
    )
    pca: tuple[float, ...] = option(
        (),
        "Weights of the first principal components of the token embeddings, mixed into the "
        "direction, whose own weight is 1 minus their sum; none at first.",
        minimum=0.0,
        maximum=1.0,
        slider=(0.0, 1.0),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [name for name in SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            what = "none was" if not given else " and ".join(given) + " were"
            raise ExplorerError(
                f"Give one of feature, direction, vector, token or embedding; {what} given. "
                "For an SAE's feature: feature=17."
            )
        if self.scale == AUTO and given[0] in ("token", "embedding"):
            raise ExplorerError(
                f"scale is 'auto', but a {given[0]}= stands in as it is, without a scale. Leave the "
                "scale out."
            )
        if isinstance(self.weights, str):
            if self.weights not in ("encoder", "decoder"):
                raise ExplorerError(
                    f"weights is {self.weights!r}; it must be 'encoder', 'decoder' or two "
                    "coefficients, such as (0.5, 0.5)."
                )
        elif len(self.weights) != 2 or not 0 < max(map(abs, self.weights)) <= LARGEST:
            raise ExplorerError(
                f"weights is {shown(self.weights)}; a mix takes two coefficients, of the encoder and "
                f"of the decoder direction, not both 0, and none above {LARGEST:g}."
            )
        if sum(self.pca) > 1 + 1e-9:
            raise ExplorerError(
                f"The pca weights {self.pca} add up to {sum(self.pca):g}; at most 1 is possible."
            )

    @property
    def uses_sae(self) -> bool:
        """Whether the answer hangs on the subject's SAE."""
        summed = self.direction is not None and bool(self.direction.features)
        return self.feature is not None or summed

    @property
    def label(self) -> str:
        """What the vector stands for, in a few words."""
        if self.feature is not None:
            return f"feature {self.feature}"
        if self.direction is not None:
            return f"direction {self.direction}"
        if self.token is not None:
            return f"token {self.token!r}"
        return "vector" if self.vector is not None else "embedding"


@dataclass(frozen=True)
class Mixture:
    """A ghost vector as a weighted sum of fixed vectors.

    Whatever is linear in the vector, such as its dot products with the whole vocabulary, can then
    be computed once for each of the fixed vectors and mixed again for every slider position.

    Parameters
    ----------
    coefficients
        One number a vector.
    vectors
        Arrays of shape ``[d_model]``, float32.
    """

    coefficients: tuple[float, ...]
    vectors: tuple[Vector, ...]

    def total(self) -> Vector:
        """Return the sum, of shape ``[d_model]``, accumulated in float64."""
        total = sum(
            c * v.astype(np.float64) for c, v in zip(self.coefficients, self.vectors, strict=True)
        )
        return np.asarray(total, dtype=np.float32)


def ghost_mixture(subject: Subject, request: DirectionRequest) -> Mixture:
    """Return the request's ghost vector as a mixture of directions, centroid and components.

    Raises
    ------
    ExplorerError
        If the feature is out of range, a vector has the wrong length or holds no finite numbers,
        or the direction is zero.
    """
    if request.token is not None:
        token_id = subject.token_id(request.token)
        return Mixture((1.0,), (subject.geometry.row(token_id),))
    if request.embedding is not None:
        return Mixture((1.0,), (_given_vector(subject, "embedding", request.embedding),))

    vectors: list[Vector]
    coefficients: list[float]
    if request.direction is not None:
        vectors, coefficients = _sum_parts(subject, request.direction, request.weights)
    elif request.vector is not None:
        vectors = [unit(_given_vector(subject, "vector", request.vector), "The vector")]
        coefficients = [1.0]
    else:
        assert request.feature is not None  # guaranteed by the request
        vectors, coefficients = _feature_parts(subject, request.feature, request.weights)

    scale = subject.default_scale if request.scale is None else request.scale
    if isinstance(scale, str):
        raise ExplorerError(
            f"scale is {scale!r}, which only a tree can choose. Give a number, or take one from "
            "sweep_scales(...).best_scale."
        )
    coefficients = [c * scale * (1 - sum(request.pca)) for c in coefficients]
    if request.pca:
        coefficients += [scale * weight for weight in request.pca]
        vectors += list(subject.geometry.components(len(request.pca)))
    if request.centroid:
        coefficients.append(1.0)
        vectors.append(subject.geometry.centroid)
    return Mixture(tuple(coefficients), tuple(vectors))


def ghost_vector(subject: Subject, request: DirectionRequest) -> Vector:
    """Return the vector of shape ``[d_model]`` that the request describes, in float32."""
    return ghost_mixture(subject, request).total()


def unit(vector: Vector, name: str) -> Vector:
    """Return ``vector`` divided by its length; refuse a zero vector, which has no direction."""
    length = float(np.linalg.norm(vector.astype(np.float64)))
    if length == 0.0:
        raise ExplorerError(f"{name} is zero, so it has no direction. Choose another one.")
    return (vector / length).astype(np.float32)


def _sum_parts(
    subject: Subject, direction: Direction, weights: str | tuple[float, ...]
) -> tuple[list[Vector], list[float]]:
    """Return a direction's summands and their weights, such that the sum is a unit vector."""
    parts: list[tuple[float, Vector]] = []
    for term in direction.terms:
        if isinstance(weights, str) or term.feature is None or term.weights:
            side = (
                weights if isinstance(weights, str) else "encoder"
            )  # one that it does not ask for
            parts += Direction((term,)).parts(subject, side, as_unit=True)
        else:
            # A feature that does not say which of its vectors is meant stands for the unit mix.
            own_parts, shares = _feature_parts(subject, term.feature, weights)
            parts += [(term.weight * s, v) for s, v in zip(shares, own_parts, strict=True)]
    check_sum(direction, parts)
    if len(parts) == 1:  # the unit vector itself, to the last digit
        ((weight, own),) = parts
        given = direction.terms[0].vector is not None
        return [unit(own, str(direction)) if given else own], [float(np.sign(weight))]
    length = float(np.linalg.norm(sum(w * v.astype(np.float64) for w, v in parts)))
    return [v for _, v in parts], [w / length for w, _ in parts]


def _feature_parts(
    subject: Subject, feature: int, weights: str | tuple[float, ...]
) -> tuple[list[Vector], list[float]]:
    def part(which: str) -> Vector:
        return unit(subject.direction(feature, which), f"The {which} vector of feature {feature}")

    if isinstance(weights, str):
        return [part(weights)], [1.0]
    parts = [part("encoder"), part("decoder")]
    mix = weights[0] * parts[0].astype(np.float64) + weights[1] * parts[1].astype(np.float64)
    length = float(np.linalg.norm(mix))
    if length < 1e-6:
        raise ExplorerError(
            f"The mix {weights} of encoder and decoder of feature {feature} cancels out; "
            "choose other coefficients."
        )
    return parts, [w / length for w in weights]


def _given_vector(subject: Subject, name: str, values: Sequence[float]) -> Vector:
    with np.errstate(over="ignore"):  # refused below, in words
        vector = np.asarray(values, dtype=np.float32)
    if vector.shape != (subject.d_model,):
        raise ExplorerError(
            f"The {name} has {vector.size} numbers; the model's embeddings have {subject.d_model}."
        )
    if not (np.abs(vector) <= LARGEST).all():
        raise ExplorerError(f"The {name} holds numbers above {LARGEST:g}. Scale it down.")
    return vector


@contextmanager
def ghosts(model: nn.Module, rows: Sequence[Mapping[int, Tensor]]) -> Iterator[None]:
    """Let vectors stand in for embeddings while the block runs; the weights stay untouched.

    Inside, wherever the input holds a ghost's token id, the embedding layer gives what it would
    give if that token's row in the embedding matrix were the vector: the layer itself is run on the
    vector, so that any scaling inside it applies.

    Parameters
    ----------
    model
        The language model.
    rows
        For each row of the input batch a map from token id to a vector of shape ``[d_model]``; or
        a single map, which then holds for all rows.
    """
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    zero = torch.zeros((1,), dtype=torch.long, device=embedding.weight.device)

    def embedded(vector: Tensor) -> Tensor:
        # On a shallow copy: other threads may look at the layer's own weight meanwhile.
        layer = copy.copy(embedding)
        weight = nn.Parameter(vector.to(embedding.weight)[None, :], requires_grad=False)
        layer._parameters = {**embedding._parameters, "weight": weight}  # noqa: SLF001
        # The class's forward: the one that accelerate puts onto the live layer of a model spread over
        # devices belongs to that layer's weights.
        out: Tensor = type(embedding).forward(layer, zero)
        return out[0]

    with torch.no_grad():
        replacements = [{i: embedded(v) for i, v in row.items()} for row in rows]

    def replace(_module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        ids = inputs[0]
        output = output.clone()
        for index in range(ids.shape[0]):
            row = replacements[index] if len(replacements) > 1 else replacements[0]
            for token_id, value in row.items():
                output[index][ids[index] == token_id] = value
        return output

    # Before all other hooks, which are to see the ghosts as they would any other embedding.
    handle = embedding.register_forward_hook(replace, prepend=True)
    try:
        yield
    finally:
        handle.remove()
