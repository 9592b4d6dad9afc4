"""How fast trees grow, next to one forward per node and to the matrix products they cannot avoid.

    python tests/benchmarks/trees.py [--sizes 100,1000,5000] [--dtypes float32,bfloat16] [--quick]

Everything that is compared is measured in the same run, on one thread unless --threads says
otherwise. The plain ways are run on a sample of the tree's nodes, since a whole tree would take them
minutes; their rate does not depend on how many there are. The floor is the time that the model's
matrix products take for the same number of rows, at the rate measured for these very shapes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

sys.path.insert(0, str(Path(__file__).parents[1]))

from naive import embedded
from sae_explorer import DefinitionTree, Subject, grow_tree, grow_trees
from sae_explorer.model.decoding import chunk_size, quiet_forward
from sae_explorer.results import package_versions
from zoo import build_sae, build_tokenizer

VOCABULARY = 32_000
SAMPLE = 60  # nodes that the plain ways are timed on

console = Console(width=150)


def bench_model(dtype: torch.dtype, device: str) -> PreTrainedModel:
    """Build 8 layers of width 512 with a vocabulary of 32,000, peaked enough for large trees."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear) and module.weight.shape[0] != VOCABULARY:
                module.weight.normal_(0, 1.6 * module.weight.shape[1] ** -0.5)
        model.model.embed_tokens.weight.normal_(0, 512**-0.5)
        model.model.norm.weight.fill_(4.0)
    return model.to(device=device, dtype=dtype).eval()


def subject(dtype: str, device: str) -> Subject:
    """Give the model a tokenizer and an SAE with which it can be asked."""
    model = bench_model(getattr(torch, dtype), device)
    return Subject(model, build_tokenizer(), build_sae(512))


def grow(of: Subject, **options: Any) -> DefinitionTree:
    """Grow the benchmark's tree: always the same feature and prompt."""
    return grow_tree(
        of,
        feature=3,
        weights="decoder",
        scale=1.0,
        ghost_token="<unused0>",
        **{"max_depth": 25, "max_nodes": None, **options},
    )


def cutoffs(of: Subject, sizes: list[int]) -> dict[int, float]:
    """Return for each size the cutoff that gives a tree of that many nodes."""
    largest = grow(of, cutoff=1e-9, max_nodes=max(sizes) + 1)
    total = largest.cumulative_probability
    return {size: float(total[min(size, len(total)) - 1]) for size in sizes}


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that a piece of work takes."""
    synchronise()
    begin = time.perf_counter()
    work()
    synchronise()
    return time.perf_counter() - begin


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def plain_seconds(of: Subject, tree: DefinitionTree, *, last_only: bool) -> float:
    """Return the seconds a node that one full forward per node takes, on a sample of nodes."""
    rows = np.random.default_rng(0).choice(len(tree), size=min(SAMPLE, len(tree)), replace=False)
    inputs = [
        torch.tensor([[*tree.prompt_ids, *(int(tree.token_id[r]) for r in tree.path(int(row)))]])
        for row in rows
    ]
    options: dict[str, Any] = {"logits_to_keep": 1} if last_only else {}
    ghosts = {tree.ghost_ids[0]: torch.tensor(np.array(tree.ghost_vector), device=of.device)}

    def work() -> None:
        for ids in inputs:
            logits = of.model(input_ids=ids.to(of.device), use_cache=False, **options).logits
            logits[0, -1].float().softmax(-1).topk(5)

    with quiet_forward(of.model), embedded(of.model, ghosts):
        return timed(work) / len(inputs)


def products(model: nn.Module) -> Iterator[tuple[int, int]]:
    """Yield the shape of every matrix that a token is multiplied with, the unembedding included."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            yield tuple(module.weight.shape)  # type: ignore[misc]


def floor_seconds(of: Subject) -> tuple[float, float]:
    """Return the seconds a node of the matrix products alone, and their rate in GFLOP/s."""
    shapes = list(products(of.model))
    rows = chunk_size(of.device)
    seconds: dict[tuple[int, int], float] = {}
    for shape in set(shapes):
        x = torch.randn(rows, shape[1], dtype=of.dtype, device=of.device)
        w = torch.randn(shape, dtype=of.dtype, device=of.device)
        with torch.inference_mode():
            nn.functional.linear(x, w)
            seconds[shape] = min(
                timed(lambda x=x, w=w: nn.functional.linear(x, w)) for _ in range(7)
            )
    total = sum(seconds[shape] for shape in shapes)
    operations = sum(2 * rows * a * b for a, b in shapes)
    return total / rows, operations / total / 1e9


def peak_megabytes(work: Callable[[], object]) -> float:
    """Return by how much a piece of work raises the peak memory of the process or the device."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def child() -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        work()
        sender.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)

    process = context.Process(target=child)
    process.start()
    kilobytes: int = receiver.recv()
    process.join()
    return kilobytes / 1e3


def side_by_side(sizes: list[int], dtypes: list[str], device: str) -> None:
    """Print the table of one forward per node, the same with one position's logits, and ours."""
    table = Table(
        title="nodes/s: one forward per node, last logits only, ours (8 layers, d 512, V 32k)"
    )
    for name in ("dtype", "nodes", "depth", "naive/s", "last/s", "ours/s"):
        table.add_column(name, justify="right")
    for name in ("x naive", "x last", "floor/s", "of floor", "GFLOP/s", "peak MB"):
        table.add_column(name, justify="right")
    for dtype in dtypes:
        of = subject(dtype, device)
        chosen = cutoffs(of, sizes)
        for cutoff in chosen.values():
            tree = grow(of, cutoff=cutoff)
            naive = plain_seconds(of, tree, last_only=False)
            last = plain_seconds(of, tree, last_only=True)
            # The floor is measured right before and after, since a shared machine drifts.
            before, rate = floor_seconds(of)
            ours = min(timed(lambda of=of, c=cutoff: grow(of, cutoff=c)) for _ in range(2)) / len(
                tree
            )
            after, _ = floor_seconds(of)
            floor = (before + after) / 2 * float(tree.expanded[1:].sum()) / len(tree)
            peak = peak_megabytes(lambda of=of, c=cutoff: grow(of, cutoff=c))
            table.add_row(
                dtype,
                f"{len(tree):,}",
                f"{tree.depth.max()}",
                f"{1 / naive:.0f}",
                f"{1 / last:.0f}",
                f"{1 / ours:.0f}",
                f"{naive / ours:.1f}",
                f"{last / ours:.1f}",
                f"{1 / floor:.0f}",
                f"{floor / ours:.0%}",
                f"{rate:.0f}",
                f"{peak:.0f}",
            )
    console.print(table)


def growth(device: str) -> None:
    """Print how the time grows with the number of nodes and with the depth."""
    of = subject("float32", device)
    table = Table(title="how time grows (float32)")
    for name in ("what", "nodes", "depth", "seconds", "ms a node"):
        table.add_column(name, justify="right")
    sizes = [125, 250, 500, 1000, 2000, 4000]
    cases = [("nodes", {"cutoff": c}) for c in cutoffs(of, sizes).values()]
    cases += [
        ("depth", {"cutoff": 1e-9, "top_k": 2, "max_nodes": 1000, "max_depth": d})
        for d in (10, 20, 40)
    ]
    for what, options in cases:
        tree = grow(of, **options)
        seconds = timed(lambda o=options: grow(of, **o))
        run = int(tree.expanded.sum())
        table.add_row(
            what,
            f"{len(tree):,}",
            f"{tree.depth.max()}",
            f"{seconds:.2f}",
            f"{1e3 * seconds / run:.2f}",
        )
    console.print(table)


def together(count: int) -> None:
    """Print trees/s for many features of the bundled model, together and one by one."""
    of = Subject.demo(layer=3)
    features = list(range(count))
    options: dict[str, Any] = {"weights": "decoder", "cutoff": 5e-4, "max_depth": 12}
    grow_trees(of, features[:2], **options)
    one_by_one, at_once, nodes = 0.0, 0.0, 0
    # In turns, so that both see the same machine.
    for begin in range(0, count, 64):
        part = features[begin : begin + 64]
        one_by_one += timed(lambda p=part: [grow_tree(of, feature=f, **options) for f in p])
    trees: list[DefinitionTree] = []
    at_once = timed(lambda: trees.extend(grow_trees(of, features, **options)))
    nodes = sum(map(len, trees))
    floor, rate = floor_seconds(of)
    run = sum(int(tree.expanded[1:].sum()) for tree in trees)
    table = Table(title=f"{count} trees of the bundled model, {nodes:,} nodes (float32)")
    for name in ("way", "seconds", "trees/s", "ratio", "of floor"):
        table.add_column(name, justify="right")
    for name, seconds in (("one by one", one_by_one), ("together", at_once)):
        table.add_row(
            name,
            f"{seconds:.1f}",
            f"{count / seconds:.1f}",
            f"{one_by_one / seconds:.1f}",
            f"{floor * run / seconds:.0%}",
        )
    console.print(table, f"matrix products: {rate:.0f} GFLOP/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="100,1000,5000")
    parser.add_argument("--dtypes", default="float32,bfloat16,float16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--features", type=int, default=256)
    parser.add_argument("--only", choices=("sizes", "growth", "together"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    versions = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    hardware = torch.cuda.get_device_name() if given.device == "cuda" else cpu_name()
    console.print(
        f"{datetime.now(UTC):%Y-%m-%d}, {hardware}, {given.threads} thread(s), {versions}"
    )
    if given.only in (None, "sizes"):
        sizes = [int(size) for size in given.sizes.split(",")]
        side_by_side(sizes, given.dtypes.split(","), given.device)
    if given.only in (None, "growth"):
        growth(given.device)
    if given.only in (None, "together"):
        together(given.features)


def cpu_name() -> str:
    """Return the processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
