"""The geometry of a model's token embeddings: centroid, norms, dot products, main components.

The embedding matrix is read in small pieces that are converted to fp32 one after another: it is
never copied whole, whatever its dtype and device. Everything is computed when it is first asked
for, then kept.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from sae_explorer.errors import ExplorerError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

#: Size of a piece in fp32. On a CPU it is to stay in the cache between conversion and use; on a
#: GPU few large pieces cost less than many small ones.
_CPU_PIECE = 2**20
_GPU_PIECE = 2**26

#: How many vectors' dot products with the whole vocabulary are kept (1 MB each for 256,000 rows).
_KEPT_VECTORS = 32

#: Rows of the sample that the search for principal components starts from.
_SAMPLE_ROWS = 8192
_SAMPLE_STEPS = 8
#: Vectors carried along beyond those asked for: the more, the faster the convergence.
_OVERSAMPLING = 8
#: Bounds of the steps over the whole matrix, and the angle (as 1 - cosine) by which a step may
#: still move a component when the search ends.
_MOST_STEPS = 12
_TOLERANCE = 1e-6
#: Up to this many multiplications the covariance matrix itself is affordable.
_COVARIANCE_COST = {"cpu": 5e10, "cuda": 5e12}

_arithmetic = threading.RLock()


@contextmanager
def plain_float32(device: torch.device) -> Iterator[None]:
    """Let matrix products of fp32 tensors be fp32, whatever the caller has set for speed.

    Autocast, and ``torch.set_float32_matmul_precision("medium")`` on a CPU, otherwise compute them
    in bf16, which leaves three digits of a cosine. (On a GPU, TF32 does not touch matrix-vector
    products, which is what rankings are made of.)
    """
    with _arithmetic:  # the setting is global: two threads must not restore it for each other
        backend: Any = torch.backends.mkldnn
        before = backend.enabled
        backend.enabled = False
        try:
            with torch.no_grad(), torch.autocast(device.type, enabled=False):
                yield
        finally:
            backend.enabled = before


def pieces(matrix: Tensor, ids: Tensor | None = None) -> Iterator[tuple[slice, Tensor]]:
    """Yield a matrix row block by row block in fp32.

    Parameters
    ----------
    matrix
        Tensor of shape ``[rows, d]``, any floating dtype, on any device.
    ids
        Row numbers to be taken in place of all rows.

    Yields
    ------
    slice, Tensor
        Position of the block, and its rows, valid until the next block.
    """
    count = len(matrix) if ids is None else len(ids)
    size = _CPU_PIECE if matrix.device.type == "cpu" else _GPU_PIECE
    step = max(1, size // (4 * matrix.shape[1]))
    buffer = torch.empty(step, matrix.shape[1], dtype=torch.float32, device=matrix.device)
    for start in range(0, count, step):
        where = slice(start, min(start + step, count))
        block = matrix[where] if ids is None else matrix[ids[where]]
        if block.dtype != torch.float32:
            block = buffer[: len(block)].copy_(block)
        yield where, block


def products(matrix: Tensor, vectors: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the dot products of all rows with some vectors, in one pass over the matrix.

    Parameters
    ----------
    matrix
        Tensor of shape ``[rows, d]``.
    vectors
        Arrays of shape ``[d]``.

    Returns
    -------
    ndarray
        Shape ``[len(vectors), rows]``, float32.
    """
    with plain_float32(matrix.device):
        columns = [torch.tensor(v, device=matrix.device) for v in vectors]
        out = torch.empty(len(vectors), len(matrix), dtype=torch.float32, device=matrix.device)
        for where, block in pieces(matrix):
            _multiply(block, columns, out[:, where])
    return _numpy(out)


def _multiply(block: Tensor, columns: list[Tensor], out: Tensor) -> None:
    # One product a vector: a joint one would round differently, and the numbers of one vector
    # would depend on which others were asked for with it.
    for row, column in zip(out, columns, strict=True):
        torch.mv(block, column, out=row)


@dataclass(frozen=True)
class _Statistics:
    """What the first pass over the matrix finds besides dot products."""

    norms: NDArray[np.float32]
    centroid: NDArray[np.float32]


@dataclass(frozen=True)
class _Components:
    """Principal components, one a row, and the variance along each."""

    vectors: NDArray[np.float32]
    variances: NDArray[np.float64]


class EmbeddingGeometry:
    """Centroid, norms, dot products and principal components of an embedding matrix.

    Parameters
    ----------
    weight
        The matrix as stored, shape ``[vocabulary, d_model]``; it is read in place, never copied
        whole and never changed.

    Raises
    ------
    ExplorerError
        By everything but :meth:`row`, if the matrix holds NaN or infinite numbers.

    Examples
    --------
    >>> geometry = EmbeddingGeometry(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    >>> geometry.centroid
    array([1.5, 0.5], dtype=float32)
    >>> geometry.dots(np.array([1.0, 2.0], dtype=np.float32))
    array([[3., 2.]], dtype=float32)
    """

    def __init__(self, weight: Tensor) -> None:
        if not weight.is_floating_point():
            raise ExplorerError(
                f"The embeddings are stored as {str(weight.dtype).removeprefix('torch.')}; "
                "floating-point numbers are needed. Load the model without quantised embeddings."
            )
        self._weight = weight.detach()
        self._lock = threading.RLock()
        self._statistics: _Statistics | None = None
        self._mean_distance: float | None = None
        self._dots: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()
        self._components: dict[int, _Components] = {}

    @classmethod
    def of(cls, model: nn.Module) -> EmbeddingGeometry:
        """Return the geometry of a model's input embeddings, the same one every time.

        A new one is made when the matrix was replaced, moved, converted or written to since.
        """
        weight = model.get_input_embeddings().weight  # type: ignore[operator]
        state = _state(weight)
        with _of_models_lock:
            known = _of_models.get(model)
            if known is None or known[0] != state:
                known = _of_models[model] = (state, cls(weight))
            return known[1]

    @property
    def centroid(self) -> NDArray[np.float32]:
        """Mean of all rows, shape ``[d_model]``, accumulated in float64."""
        return self._first_pass().centroid

    @property
    def norms(self) -> NDArray[np.float32]:
        """Length of each row, shape ``[vocabulary]``."""
        return self._first_pass().norms

    @property
    def centroid_dots(self) -> NDArray[np.float32]:
        """Dot product of each row with the centroid, shape ``[vocabulary]``."""
        return self._dot_rows([self.centroid])[0]

    @property
    def mean_distance(self) -> float:
        """Mean distance of the rows from the centroid."""
        with self._lock:
            if self._mean_distance is None:
                squares = (
                    self.norms.astype(np.float64) ** 2
                    - 2 * self.centroid_dots.astype(np.float64)
                    + _square(self.centroid)
                )
                self._mean_distance = float(np.sqrt(squares.clip(min=0)).mean())
            return self._mean_distance

    def row(self, token_id: int) -> NDArray[np.float32]:
        """Return the embedding of a token, shape ``[d_model]``."""
        if not 0 <= token_id < len(self._weight):
            raise ExplorerError(
                f"There is no token {token_id}: the embeddings have {len(self._weight):,} rows, "
                f"0 to {len(self._weight) - 1}."
            )
        return _numpy(self._weight[token_id].float()).copy()

    def dots(self, *vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the dot products of all rows with some vectors.

        One pass over the matrix serves all vectors that were not asked for lately.

        Parameters
        ----------
        *vectors
            Arrays of shape ``[d_model]``, float32.

        Returns
        -------
        ndarray
            Shape ``[len(vectors), vocabulary]``.
        """
        return np.stack(self._dot_rows(list(vectors)))

    def components(self, count: int) -> NDArray[np.float32]:
        """Return the first principal components of the rows after the centroid was subtracted.

        They come from the covariance matrix where that is affordable, else from a block power
        iteration with a Rayleigh-Ritz step (Halko, Martinsson and Tropp 2011, section 4.5), which
        starts from a sample of the rows and goes on over the whole matrix.

        Returns
        -------
        ndarray
            Shape ``[count, d_model]``: unit vectors, the entry of largest magnitude positive.
        """
        return self._principal(count).vectors

    def explained_variance(self, count: int) -> NDArray[np.float64]:
        """Return the share of the variance that lies along each of the first components."""
        variances = self._principal(count).variances
        squares = self.norms.astype(np.float64) ** 2
        total = float(squares.mean()) - _square(self.centroid)
        return variances / total if total > 0 else np.zeros_like(variances)

    def _first_pass(self) -> _Statistics:
        with self._lock:
            if self._statistics is None:
                self._dot_rows([])
            assert self._statistics is not None  # the pass above made them
            return self._statistics

    def _dot_rows(self, vectors: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        vectors = [np.asarray(vector, dtype=np.float32) for vector in vectors]
        keys = [vector.tobytes() for vector in vectors]
        with self._lock:
            new = {k: v for k, v in zip(keys, vectors, strict=True) if k not in self._dots}
            if self._statistics is None:
                found = self._statistical_pass(list(new.values()))
            elif new:
                found = products(self._weight, list(new.values()))
            else:
                found = np.empty((0, len(self._weight)), dtype=np.float32)
            for key, row in zip(new, found, strict=True):
                row.setflags(write=False)
                self._dots[key] = row
            rows = []
            for key in keys:
                self._dots.move_to_end(key)
                rows.append(self._dots[key])
            while len(self._dots) > _KEPT_VECTORS:
                self._dots.popitem(last=False)
            return rows

    def _statistical_pass(self, vectors: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Find norms and centroid, and in the same pass the dot products with some vectors."""
        weight = self._weight
        with plain_float32(weight.device):
            columns = [torch.tensor(v, device=weight.device) for v in vectors]
            dots = torch.empty(len(vectors), len(weight), device=weight.device)
            norms = torch.empty(len(weight), device=weight.device)
            sums = []
            for where, block in pieces(weight):
                torch.linalg.vector_norm(block, dim=1, out=norms[where])
                sums.append(torch.mv(block.T, torch.ones(len(block), device=weight.device)))
                _multiply(block, columns, dots[:, where])
            partial = _numpy(torch.stack(sums))
        lengths = _numpy(norms)
        bad = np.flatnonzero(~np.isfinite(lengths))
        if len(bad):
            raise ExplorerError(
                f"{len(bad):,} of the {len(lengths):,} token embeddings hold NaN, infinite or "
                f"overflowing numbers, the first in row {bad[0]}. Load the model again, or in "
                "another dtype."
            )
        centroid = (partial.sum(axis=0, dtype=np.float64) / len(lengths)).astype(np.float32)
        for array in (lengths, centroid):
            array.setflags(write=False)
        self._statistics = _Statistics(lengths, centroid)
        return _numpy(dots)

    def _principal(self, count: int) -> _Components:
        largest = min(self._weight.shape)
        if not 1 <= count <= largest:
            raise ExplorerError(
                f"{count} principal components were asked for; the embeddings have {largest}."
            )
        with self._lock:
            if count not in self._components:
                cost = len(self._weight) * self._weight.shape[1] ** 2
                affordable = cost <= _COVARIANCE_COST.get(self._weight.device.type, 0)
                self._first_pass()  # refuses NaN, which no search would survive
                with plain_float32(self._weight.device):
                    found = self._from_covariance() if affordable else self._from_power(count)
                vectors = found.vectors[:count]
                largest_entries = np.abs(vectors).argmax(axis=1)
                vectors = vectors * np.sign(vectors[np.arange(count), largest_entries])[:, None]
                vectors.setflags(write=False)
                self._components[count] = _Components(vectors, found.variances[:count])
            return self._components[count]

    def _from_covariance(self) -> _Components:
        weight = self._weight
        centroid = torch.tensor(self.centroid, device=weight.device)
        covariance = torch.zeros(weight.shape[1], weight.shape[1], device=weight.device)
        for _, block in pieces(weight):
            centred = block - centroid
            covariance.addmm_(centred.T, centred)
        values, vectors = torch.linalg.eigh(covariance.double() / len(weight))
        return _Components(
            _numpy(vectors.flip(1).T.float()), values.flip(0).clamp(min=0).cpu().numpy()
        )

    def _from_power(self, count: int) -> _Components:
        width = min(count + _OVERSAMPLING, self._weight.shape[1])
        random = np.random.default_rng(0)
        basis = np.linalg.qr(random.standard_normal((self._weight.shape[1], width)))[0]
        rows = min(_SAMPLE_ROWS, len(self._weight))
        chosen = np.sort(random.choice(len(self._weight), rows, replace=False))
        sample = torch.from_numpy(chosen).to(self._weight.device)
        for _ in range(_SAMPLE_STEPS):
            basis, _, _ = self._power_step(basis, sample)
        for _ in range(_MOST_STEPS):
            basis, variances, moved = self._power_step(basis)
            if moved[:count].max() <= _TOLERANCE:
                break
        return _Components(basis.T.astype(np.float32), variances)

    def _power_step(
        self, basis: NDArray[np.float64], ids: Tensor | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Multiply an orthonormal basis by the covariance matrix.

        Returns
        -------
        basis, variances, moved
            The new basis, ordered by variance; the variance along each of the best vectors within
            the old one; and by how much the step turned each of these, as 1 - cosine.
        """
        weight = self._weight
        centroid = torch.tensor(self.centroid, device=weight.device)
        old = torch.tensor(basis, dtype=torch.float32, device=weight.device)
        image = torch.zeros_like(old)
        rows = 0
        for _, block in pieces(weight, ids):
            centred = block - centroid
            image.addmm_(centred.T, centred @ old)
            rows += len(block)
        product = image.cpu().numpy().astype(np.float64) / rows
        inner = basis.T @ product
        values, turn = np.linalg.eigh((inner + inner.T) / 2)
        values, turn = values[::-1].clip(min=0), turn[:, ::-1]
        before, after = basis @ turn, product @ turn
        lengths = np.linalg.norm(after, axis=0)
        cosines = (before * after).sum(axis=0) / np.where(lengths > 0, lengths, 1)
        return np.linalg.qr(after)[0], values, np.where(lengths > 0, 1 - cosines, 0)


#: Each model's geometry, beside the state of the matrix that it was made for.
_of_models: weakref.WeakKeyDictionary[nn.Module, tuple[tuple[Any, ...], EmbeddingGeometry]] = (
    weakref.WeakKeyDictionary()
)
_of_models_lock = threading.Lock()


def _state(weight: Tensor) -> tuple[Any, ...]:
    """Return what changes when a matrix is replaced, moved, converted or written to."""
    version = 0 if weight.is_inference() else weight._version  # noqa: SLF001 - torch documents it
    return (weight.data_ptr(), weight.dtype, weight.device, tuple(weight.shape), version)


def _square(vector: NDArray[np.float32]) -> float:
    return float(np.square(vector, dtype=np.float64).sum())


def _numpy(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.cpu().numpy()
    return array
