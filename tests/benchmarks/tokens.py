"""Token ranking and the first principal component: seconds and memory, beside the plain ways.

    python tests/benchmarks/tokens.py [--rows 256000] [--width 2048] [--skip-sklearn]

Every way is measured in a process of its own, on one thread, over the same fp16 matrix: random
with a decaying spectrum and a centroid that is not zero. Memory is by how much the resident set
grew at its peak over what it was before; it is read from Linux' /proc.

The plain ways are what a notebook does: cosines in fp16 over the whole matrix at once, and
scikit-learn's PCA in fp32. Agreement is with the same formula in float64.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime as dt
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

THREADS = 1
EXPONENT = 1.4
LIMIT = 100
REPEATS = 5  # of a slider


def made_matrix(rows: int, width: int) -> torch.Tensor:
    """Return token embeddings with a decaying spectrum, a centroid and rows of different length."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    factors = noise(64, width) * (torch.arange(1, 65) ** -0.5)[:, None] / width**0.5
    centroid = noise(width) / width**0.5
    matrix = torch.empty(rows, width, dtype=torch.float16)
    for start in range(0, rows, 8192):
        part = matrix[start : start + 8192]
        own = noise(len(part), 64) @ factors + noise(len(part), width) / width**0.5
        part.copy_(centroid + own * (0.5 + torch.rand(len(part), 1, generator=generator)))
    return matrix


def direction(width: int, seed: int) -> np.ndarray:
    """Return a random vector in place of a feature's."""
    return np.random.default_rng(seed).standard_normal(width).astype(np.float32)


class Stopwatch:
    """Collects seconds and peak memory by name."""

    def __init__(self) -> None:
        self.lines: dict[str, dict[str, Any]] = {}

    @contextmanager
    def line(self, name: str, repeats: int = 1) -> Iterator[None]:
        """Measure what runs inside; the time is per repeat."""
        ctypes.CDLL(None).malloc_trim(0)  # else what was freed before would hide what is used now
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
        before, begin = memory("VmRSS"), time.perf_counter()
        yield
        seconds = (time.perf_counter() - begin) / repeats
        growth = max(memory("VmHWM") - before, 0)
        self.lines[name] = {"seconds": seconds, "mebibytes": growth / 2**10}


def memory(entry: str) -> int:
    """Return the kibibytes that this process holds now (``VmRSS``) or held at most (``VmHWM``)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split(f"{entry}:")[1].split()[0])


# --- What is measured ---------------------------------------------------------------------------


def ours(matrix: torch.Tensor) -> dict[str, Any]:
    """Rank tokens through the public function, on a model that is its embedding matrix alone."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from sae_explorer import Subject, rank_tokens

    rows, width = matrix.shape
    config = LlamaConfig(
        vocab_size=rows,
        hidden_size=width,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config).to(torch.float16)
    model.set_input_embeddings(torch.nn.Embedding.from_pretrained(matrix))
    model.lm_head.weight = model.get_input_embeddings().weight
    model.model.layers, model.model.norm = torch.nn.ModuleList(), torch.nn.Identity()
    subject = Subject(model, numbered_tokens(rows))

    def rank(seed: int, **options: Any) -> Any:
        # As "vector", since an SAE as wide as real ones would take memory of its own.
        return rank_tokens(subject, vector=direction(width, seed), limit=LIMIT, **options)

    clock = Stopwatch()
    with clock.line("first use"):
        found = rank(0)
    with clock.line("next feature"):
        rank(1)
    for name, options in {
        "slider: exponent": [{"exponent": 0.5 + 0.1 * i} for i in range(REPEATS)],
        "slider: scale": [{"scale": 0.5 + 0.1 * i} for i in range(REPEATS)],
    }.items():
        with clock.line(name, repeats=REPEATS):
            for given in options:
                rank(0, **given)
    with clock.line("PC_1"):
        component = subject.geometry.components(1)[0]
    rank(0, pca=(0.01,))  # the component's own dot products, once
    with clock.line("slider: PCA weight", repeats=REPEATS):
        for i in range(REPEATS):
            rank(0, pca=(0.1 + 0.1 * i,))
    return {
        "lines": clock.lines,
        "top": found.token_id.tolist(),
        "distinct": len(set(found.ratio.tolist())),
        "component": component.tolist(),
    }


def numbered_tokens(count: int) -> Any:
    """Return a tokenizer whose entries are "a" and numbers."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    entries = {"a": 0, **{str(number): number for number in range(1, count)}}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(entries, unk_token="a")), unk_token="a"
    )


def notebook(matrix: torch.Tensor) -> dict[str, Any]:
    """Rank tokens in the matrix' own fp16, in one go."""
    clock = Stopwatch()
    with clock.line("first use"):
        top, ratio = plain_ranking(matrix, torch.from_numpy(direction(matrix.shape[1], 0)))
    with clock.line("next feature"):
        plain_ranking(matrix, torch.from_numpy(direction(matrix.shape[1], 1)))
    # Nothing is kept, so that a slider is a whole ranking again.
    for name in ("slider: exponent", "slider: scale", "slider: PCA weight"):
        clock.lines[name] = clock.lines["next feature"]
    return {"lines": clock.lines, "top": top.tolist(), "distinct": len(set(ratio.tolist()))}


def plain_ranking(matrix: torch.Tensor, vector: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the ids and ratios of the nearest tokens, all in the matrix' dtype."""
    centroid, vector = matrix.mean(dim=0), vector.to(matrix.dtype)
    near = torch.nn.functional.cosine_similarity(matrix, vector[None], dim=1)
    central = torch.nn.functional.cosine_similarity(matrix, centroid[None], dim=1)
    ratio = (1 - near) ** EXPONENT / (1 - central)
    top = torch.topk(ratio, LIMIT, largest=False)
    return top.indices, top.values


def sklearn_pca(matrix: torch.Tensor) -> dict[str, Any]:
    """Find the first principal component with scikit-learn's defaults, in fp32."""
    from sklearn.decomposition import PCA

    clock = Stopwatch()
    with clock.line("PC_1"):
        component = PCA(n_components=1, random_state=0).fit(matrix.float().numpy()).components_[0]
    return {"lines": clock.lines, "component": component.tolist()}


def exact(matrix: torch.Tensor) -> dict[str, Any]:
    """Rank tokens in float64, and find the component by enough power steps in float64."""
    vector = direction(matrix.shape[1], 0).astype(np.float64)
    centroid = np.zeros_like(vector)
    for start in range(0, len(matrix), 4096):
        centroid += matrix[start : start + 4096].double().numpy().sum(axis=0)
    centroid /= len(matrix)
    near, central = [], []
    covariance = np.zeros((len(vector), len(vector)))
    for start in range(0, len(matrix), 4096):
        rows = matrix[start : start + 4096].double().numpy()
        lengths = np.linalg.norm(rows, axis=1)
        near.append(rows @ vector / lengths / np.linalg.norm(vector))
        central.append(rows @ centroid / lengths / np.linalg.norm(centroid))
        covariance += (rows - centroid).T @ (rows - centroid)
    ratio = (1 - np.concatenate(near)) ** EXPONENT / (1 - np.concatenate(central))
    component = np.linalg.eigh(covariance)[1][:, -1]
    return {"lines": {}, "top": np.argsort(ratio)[:LIMIT].tolist(), "component": component.tolist()}


WAYS = {"sae-explorer": ours, "notebook, fp16": notebook, "scikit-learn": sklearn_pca, "": exact}


# --- The table ----------------------------------------------------------------------------------


def measured(way: str, path: Path) -> dict[str, Any]:
    """Run one way in a process of its own."""
    command = [sys.executable, __file__, "--matrix", str(path), "--way", way]
    threads = {f"{name}_NUM_THREADS": str(THREADS) for name in ("OMP", "MKL", "OPENBLAS")}
    run = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **threads}
    )
    if run.returncode:
        raise SystemExit(f"{way or 'float64'} failed:\n{run.stderr}")
    result: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Make the matrix, measure every way, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=256_000)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--skip-sklearn", action="store_true")
    parser.add_argument("--matrix", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(THREADS)
    if given.matrix is not None:
        matrix = torch.from_numpy(np.load(given.matrix))
        print(json.dumps(WAYS[given.way](matrix)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "matrix.npy"
        np.save(path, made_matrix(given.rows, given.width).numpy())
        skipped = {"scikit-learn"} if given.skip_sklearn else set()
        results = {way: measured(way, path) for way in WAYS if way not in skipped}
    report(results, given.rows, given.width)


def report(results: dict[str, dict[str, Any]], rows: int, width: int) -> None:
    """Print one table of all ways, and how far each is from float64."""
    from importlib.metadata import version

    truth = results.pop("")
    table = Table(title=f"{rows:,} x {width:,} fp16, {THREADS} thread")
    for name in ("", "way", "seconds", "MiB", "ratio"):
        table.add_column(name, justify="left" if name in ("", "way") else "right")
    mine = results["sae-explorer"]["lines"]
    for name, line in mine.items():
        for way, result in results.items():
            if name in result["lines"]:
                other = result["lines"][name]
                ratio = other["seconds"] / line["seconds"]
                table.add_row(
                    name,
                    way,
                    f"{other['seconds']:.3f}",
                    f"{other['mebibytes']:.0f}",
                    "" if way == "sae-explorer" else f"{ratio:.1f}x",
                )
    console = Console(width=100)
    console.print(table)
    for way, result in results.items():
        if "top" in result:
            shared = len(set(result["top"]) & set(truth["top"]))
            print(
                f"{way}: {shared} of the nearest {LIMIT} are those of float64, "
                f"{result['distinct']} distinct ratios among them"
            )
        if "component" in result:
            cosine = abs(float(np.dot(result["component"], truth["component"])))
            print(f"{way}: |cosine| of PC_1 with that of float64: {cosine:.7f}")
    packages = ("torch", "numpy", "scikit-learn", "transformers")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    day = dt.datetime.now(dt.UTC).date()
    print(
        f"{day}, Python {platform.python_version()}, {versions}, {THREADS} thread, "
        f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )


if __name__ == "__main__":
    main()
