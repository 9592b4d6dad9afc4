"""The geometry of the embeddings is what float64 arithmetic on the whole matrix gives."""

from __future__ import annotations

import copy
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from sae_explorer import ExplorerError
from sae_explorer.model import geometry as module
from sae_explorer.model.geometry import EmbeddingGeometry
from zoo import build_model

if TYPE_CHECKING:
    from collections.abc import Callable

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}
ROWS, WIDTH = 9_000, 40  # more rows than one piece has


@cache
def matrix(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Rows of different lengths around a centroid that is not zero, with a decaying spectrum."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator))[0]
    spread = 0.8 ** torch.arange(WIDTH)
    rows = torch.randn(ROWS, WIDTH, generator=generator) * spread @ axes
    rows *= 0.5 + torch.rand(ROWS, 1, generator=generator)
    return (rows + 0.5 * torch.randn(WIDTH, generator=generator)).to(dtype)


def exact(weight: torch.Tensor) -> np.ndarray:
    return weight.double().numpy()


def vectors(count: int, seed: int = 1) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return list(random.standard_normal((count, WIDTH)).astype(np.float32))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every pass over all rows of a matrix."""
    made: list[int] = []
    original = module.pieces

    def counted(weight: torch.Tensor, ids: torch.Tensor | None = None):
        if ids is None:
            made.append(len(weight))
        yield from original(weight, ids)

    monkeypatch.setattr(module, "pieces", counted)
    return made


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_statistics_equal_float64_arithmetic(dtype):
    weight = matrix(dtype)
    rows = exact(weight)
    centroid = rows.mean(axis=0)
    found = EmbeddingGeometry(weight)
    # Sums in float32 depend on the processor's vector width, up to some units in the last place.
    np.testing.assert_allclose(found.centroid, centroid, atol=5e-6)
    np.testing.assert_allclose(found.norms, np.linalg.norm(rows, axis=1), rtol=1e-6)
    np.testing.assert_allclose(found.centroid_dots, rows @ centroid, atol=1e-5)
    distance = np.linalg.norm(rows - centroid, axis=1).mean()
    assert found.mean_distance == pytest.approx(distance, rel=1e-6)
    np.testing.assert_allclose(found.dots(*vectors(3)), np.array(vectors(3)) @ rows.T, atol=1e-4)
    np.testing.assert_array_equal(found.row(7), weight[7].float().numpy())


@pytest.mark.parametrize("search", ["covariance", "power"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])
def test_components_equal_those_of_a_full_svd(dtype, search, monkeypatch):
    if search == "power":
        monkeypatch.setattr(module, "_COVARIANCE_COST", {})
    weight = matrix(dtype)
    centred = exact(weight) - exact(weight).mean(axis=0)
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    found = EmbeddingGeometry(weight).components(5)
    assert (np.abs((found * axes[:5]).sum(axis=1)) > 0.9999).all()
    np.testing.assert_allclose(found @ found.T, np.eye(5), atol=1e-5)
    assert (found[np.arange(5), np.abs(found).argmax(axis=1)] > 0).all()
    share = (values**2 / (values**2).sum())[:5]
    np.testing.assert_allclose(EmbeddingGeometry(weight).explained_variance(5), share, rtol=1e-3)


def test_the_first_component_is_found_without_a_gap_behind_it(monkeypatch):
    monkeypatch.setattr(module, "_COVARIANCE_COST", {})
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(4_000, 64, generator=generator)  # a flat spectrum: the hardest case
    weight[:, 5] *= 1.3
    centred = exact(weight) - exact(weight).mean(axis=0)
    first = np.linalg.svd(centred, full_matrices=False)[2][0]
    assert abs(EmbeddingGeometry(weight).components(1)[0] @ first) > 0.999


@pytest.mark.parametrize("search", ["covariance", "power"])
def test_components_do_not_depend_on_what_was_asked_before(search, monkeypatch):
    if search == "power":
        monkeypatch.setattr(module, "_COVARIANCE_COST", {})
    fresh, used = EmbeddingGeometry(matrix()), EmbeddingGeometry(matrix())
    used.dots(*vectors(2))
    used.components(4)
    np.testing.assert_array_equal(fresh.components(2), used.components(2))


def test_dots_do_not_depend_on_what_was_asked_with_them_or_before():
    first, second, third = vectors(3)
    alone = EmbeddingGeometry(matrix()).dots(second)[0]
    np.testing.assert_array_equal(EmbeddingGeometry(matrix()).dots(first, second, third)[1], alone)
    used = EmbeddingGeometry(matrix())
    assert used.mean_distance > 0
    np.testing.assert_array_equal(used.dots(third, second)[1], alone)


def test_a_vector_asked_for_again_costs_no_pass(passes):
    used = EmbeddingGeometry(matrix())
    used.dots(*vectors(2))
    assert used.centroid.shape == (WIDTH,)
    assert len(passes) == 1
    assert used.mean_distance > 0
    assert len(passes) == 2
    used.dots(*vectors(2)[::-1])
    assert used.centroid_dots.shape == (ROWS,)
    assert len(passes) == 2
    used.dots(*vectors(4))
    assert len(passes) == 3


def test_more_vectors_than_are_kept_are_all_answered():
    many = vectors(module._KEPT_VECTORS + 3)
    found = EmbeddingGeometry(matrix())
    np.testing.assert_allclose(
        found.dots(*many), np.array(many) @ exact(matrix()).T.astype(np.float32), atol=1e-4
    )
    assert len(found._dots) == module._KEPT_VECTORS


def test_the_matrix_is_left_as_it_was():
    weight = matrix(torch.float16).clone()
    found = EmbeddingGeometry(weight)
    found.components(2)
    found.dots(*vectors(1))
    assert found.mean_distance > 0
    assert torch.equal(weight, matrix(torch.float16))
    with pytest.raises(ValueError, match="read-only"):
        found.norms[0] = 1.0


@pytest.mark.parametrize("search", ["covariance", "power"])
def test_settings_for_speed_do_not_reach_the_numbers(search, monkeypatch):
    if search == "power":
        monkeypatch.setattr(module, "_COVARIANCE_COST", {})
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn(600, 512, generator=generator) * 0.99 ** torch.arange(512)
    vector = torch.randn(512, generator=generator).numpy()
    plain, hurried = EmbeddingGeometry(weight), EmbeddingGeometry(weight)
    asked = plain.dots(vector), plain.centroid, plain.components(2)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = hurried.dots(vector), hurried.centroid, hurried.components(2)
    finally:
        torch.set_float32_matmul_precision(before)
    for one, other in zip(found, asked, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    assert torch.backends.mkldnn.enabled


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(bad):
    weight = matrix().clone()
    weight[[11, 400], 3] = bad
    found = EmbeddingGeometry(weight)
    for ask in (lambda: found.mean_distance, lambda: found.components(1)):
        with pytest.raises(ExplorerError, match=r"2 of the 9,000 .* the first in row 11"):
            ask()


def test_what_is_not_there_is_refused():
    found = EmbeddingGeometry(matrix())
    with pytest.raises(ExplorerError, match="no token 9000"):
        found.row(ROWS)
    with pytest.raises(ExplorerError, match="the embeddings have 40"):
        found.components(WIDTH + 1)
    with pytest.raises(ExplorerError, match="int8"):
        EmbeddingGeometry(torch.zeros(4, 4, dtype=torch.int8))


def replaced(model: torch.nn.Module) -> None:
    embedding = model.get_input_embeddings()
    embedding.weight = torch.nn.Parameter(embedding.weight.detach() * 2)


def written_to(model: torch.nn.Module) -> None:
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(2)


def converted(model: torch.nn.Module) -> None:
    model.half()


@pytest.mark.parametrize("change", [replaced, written_to, converted])
def test_a_changed_matrix_gets_a_new_geometry(change: Callable[[torch.nn.Module], None]):
    model = copy.deepcopy(build_model("llama"))
    before = EmbeddingGeometry.of(model)
    assert before.mean_distance > 0
    assert EmbeddingGeometry.of(model) is before
    change(model)
    after = EmbeddingGeometry.of(model)
    assert after is not before
    np.testing.assert_allclose(
        after.centroid,
        exact(model.get_input_embeddings().weight.detach()).mean(axis=0),
        atol=1e-6,
    )


def test_a_geometry_is_one_per_model_and_goes_with_it():
    model = copy.deepcopy(build_model("llama"))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: EmbeddingGeometry.of(model), range(8)))
        distances = set(pool.map(lambda g: g.mean_distance, found))
    assert len(set(map(id, found))) == 1
    assert len(distances) == 1
    gone = weakref.ref(found[0])
    found.clear()
    model = None
    gc.collect()
    assert gone() is None
