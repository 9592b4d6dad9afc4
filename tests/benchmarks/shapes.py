"""How fast trees grow in models of real shapes, with random weights made on the device.

    python tests/benchmarks/shapes.py [--shapes gemma-2b,llama-3-8b,gemma-2-9b]
        [--dtypes bfloat16,float32] [--nodes 1000,10000] [--device cuda] [--small]
        [--json PATH] [--markdown PATH]

Everything that is compared is measured in the same run. One forward per node is timed on a sample
of the tree's nodes and extrapolated; its rate does not depend on how many there are. The floor is
the time that the model's matrix products take for as many tokens as the tree has nodes, a forward
the time of these tokens in plain batches without any prompt. In float32 a small tree is also
compared, node by node, with one forward per node. A row that does not fit into memory says so.

--small divides every size by 8, for a machine without a GPU. Memory on a CPU is read from Linux' /proc.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GemmaConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

sys.path.insert(0, str(Path(__file__).parents[1]))

from tokens import direction, memory
from trees import SAMPLE, cpu_name, plain_seconds, timed

from naive import compare, naive_tree, paths
from sae_explorer import DefinitionTree, ExplorerError, Subject, grow_tree
from sae_explorer.errors import out_of_memory
from sae_explorer.model.decoding import PooledDecoder, Prompt, chunk_size, open_decoder
from sae_explorer.results import package_versions
from zoo import build_tokenizer

#: Sizes as in the configurations that the models were published with.
SHAPES: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "gemma-2b": (
        GemmaConfig,
        {
            "num_hidden_layers": 18,
            "hidden_size": 2048,
            "intermediate_size": 16_384,
            "num_attention_heads": 8,
            "num_key_value_heads": 1,
            "head_dim": 256,
            "vocab_size": 256_000,
            "tie_word_embeddings": True,
        },
    ),
    "llama-3-8b": (
        LlamaConfig,
        {
            "num_hidden_layers": 32,
            "hidden_size": 4096,
            "intermediate_size": 14_336,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 128_256,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
            "tie_word_embeddings": False,
        },
    ),
    "gemma-2-9b": (
        Gemma2Config,
        {
            "num_hidden_layers": 42,
            "hidden_size": 3584,
            "intermediate_size": 14_336,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 256,
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
            "vocab_size": 256_000,
            "tie_word_embeddings": True,
        },
    ),
}

#: What --small divides by 8; the numbers of heads stay.
SMALLER = (
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "head_dim",
    "query_pre_attn_scalar",
    "sliding_window",
    "vocab_size",
)

TREE: dict[str, Any] = {"top_k": 5, "max_depth": 25, "ghost_token": "<unused0>"}
LOGIT_SPREAD = 4.5  # standard deviation of the logits: the larger, the more peaked the predictions
WARM_UP = 100  # nodes
PARITY = 300  # nodes

#: What the tables show of a row, and how; a row lacks what could not be measured.
FIGURES = {
    "shape": "{}",
    "dtype": "{}",
    "nodes": "{:,}",
    "depth": "{}",
    "tokens": "{:,}",
    "seconds": "{:.2f}",
    "nodes/s": "{:,.0f}",
    "naive/s": "{:,.1f}",
    "x naive": "{:.1f}",
    "of floor": "{:.0%}",
    "of forward": "{:.0%}",
    "weights GB": "{:.2f}",
    "peak GB": "{:.2f}",
    "note": "{}",
}
PARITY_FIGURES = {
    "shape": "{}",
    "nodes": "{:,}",
    "missing": "{}",
    "unexpected": "{}",
    "forgiven": "{}",
    "largest error": "{:.1e}",
    "note": "{}",
}
LEGEND = (
    f"naive: one forward per node, timed on {SAMPLE} of the nodes and extrapolated. of floor: the "
    "share of the time taken that the model's matrix products need for as many tokens; of forward: "
    "that plain batched forwards of as many tokens need. tokens: different ones in the tree. peak: "
    "weights included, on a CPU all that the process holds. parity: in float32, the tree and one "
    "forward per node; forgiven are nodes at the cutoff or tied for a rank."
)

Row = dict[str, Any]

console = Console(width=150)


# --- The models ---------------------------------------------------------------------------------


def made_model(shape: str, dtype: torch.dtype, device: str, *, small: bool) -> PreTrainedModel:
    """Build a model of one shape on the device, with weights that give trees of many branches."""
    kind, sizes = SHAPES[shape]
    if small:
        sizes = {**sizes, **{name: sizes[name] // 8 for name in SMALLER if name in sizes}}
    config = kind(pad_token_id=0, eos_token_id=1, bos_token_id=2, **sizes)
    torch.manual_seed(0)
    with torch.device(device):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    randomise(model)
    return model.eval()


@torch.no_grad()
def randomise(model: PreTrainedModel) -> None:
    """Draw all matrices so that every layer matters and the predictions are peaked.

    Where the model multiplies its embeddings by a factor, they are drawn smaller by it and the last
    norm is larger: with tied embeddings every token would else foretell itself.
    """
    width = model.config.hidden_size
    gemma = model.config.model_type.startswith("gemma")
    factor = width**0.5 if gemma else 1.0
    embedding, unembedding = model.get_input_embeddings(), model.get_output_embeddings()
    for module in model.modules():
        if isinstance(module, nn.Linear) and module is not unembedding:
            module.weight.normal_(0, 1.6 * module.weight.shape[1] ** -0.5)
    for weight in dict.fromkeys((embedding.weight, unembedding.weight)):  # one, where tied
        weight.normal_(0, width**-0.5 / factor)
    model.model.norm.weight.fill_(LOGIT_SPREAD * factor - (1 if gemma else 0))


def grow(of: Subject, nodes: int, **options: Any) -> DefinitionTree:
    """Grow the benchmark's tree of so many nodes: always the same direction and prompt."""
    vector = tuple(direction(of.d_model, 0).tolist())
    return grow_tree(of, vector=vector, **{"cutoff": 1e-9, "max_nodes": nodes, **TREE, **options})


# --- What is measured ---------------------------------------------------------------------------


def products_seconds(of: Subject) -> float:
    """Return the seconds a token of the model's matrix products alone, in batches as ours.

    They run one after another without a wait in between, over the model's own matrices: alone and
    again and again, each would be launched for longer than it runs, or be found in a cache.
    """
    rows = chunk_size(of.device)
    matrices = [m.weight for m in of.model.modules() if isinstance(m, nn.Linear)]
    inputs = {
        width: torch.randn(rows, width, dtype=of.dtype, device=of.device)
        for width in {matrix.shape[1] for matrix in matrices}
    }

    def sweep() -> None:
        for matrix in matrices:
            nn.functional.linear(inputs[matrix.shape[1]], matrix)

    with torch.inference_mode():
        return best_of(5, sweep) / rows


def forward_seconds(of: Subject) -> float:
    """Return the seconds a token of a plain forward, in batches of single tokens."""
    rows = chunk_size(of.device)
    ids = torch.randint(of.vocabulary_size, (rows, 1), device=of.device)
    with of.run():
        return best_of(5, lambda: of.model(input_ids=ids, use_cache=False)) / rows


def best_of(times: int, work: Callable[[], object]) -> float:
    """Return the least seconds that a piece of work takes, after once for warming up."""
    work()
    return min(timed(work) for _ in range(times))


def peak_begins(device: torch.device) -> None:
    """Forget the peak of memory so far."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes(device: torch.device) -> int:
    """Return the most memory used since the peak began: of the device, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * memory("VmHWM")


def measured(of: Subject, nodes: int) -> Row:
    """Grow a tree and time it beside one forward per node, the floor and plain forwards."""
    peak_begins(of.device)
    trees: list[DefinitionTree] = []
    seconds = min(timed(lambda: trees.append(grow(of, nodes))) for _ in range(2))
    peak = peak_bytes(of.device)
    tree = trees[-1]
    run = int(tree.expanded[1:].sum())
    naive = plain_seconds(of, tree, last_only=False)
    notes = [] if tree.status == "budget" else [tree.status]
    example = Prompt(tree.prompt_ids, {tree.ghost_ids[0]: tree.ghost_vector})
    with of.run():
        decoder = open_decoder(of.model, TREE["top_k"], TREE["max_depth"], example)
    if not isinstance(decoder, PooledDecoder):
        notes.append("whole prefixes in batches")
    return {
        "nodes": len(tree),
        "depth": int(tree.depth.max()),
        "tokens": len(np.unique(tree.token_id[1:])),
        "seconds": seconds,
        "nodes/s": len(tree) / seconds,
        "naive/s": 1 / naive,
        "x naive": naive * len(tree) / seconds,
        "of floor": products_seconds(of) * run / seconds,
        "of forward": forward_seconds(of) * run / seconds,
        "weights GB": sum(p.numel() * p.element_size() for p in of.model.parameters()) / 1e9,
        "peak GB": peak / 1e9,
        "note": ", ".join(notes),
    }


def parity(of: Subject) -> Row:
    """Compare a tree on the device with one forward per node, as the tests do on tiny models."""
    total = grow(of, PARITY + 1).cumulative_probability
    cutoff = float(np.sqrt(total[-2] * total[-1]))  # between two nodes, on none
    tree = grow(of, PARITY + 1, cutoff=cutoff)
    ghost = torch.tensor(np.array(tree.ghost_vector), device=of.device)
    limits = {"cutoff": cutoff, "top_k": TREE["top_k"], "max_depth": TREE["max_depth"]}
    with of.run(), of.device:  # the reference makes its tensors on the default device
        reference = naive_tree(
            of.model, list(tree.prompt_ids), {tree.ghost_ids[0]: ghost}, **limits
        )
    found = compare(paths(tree), reference, cutoff)
    return {
        "nodes": found.nodes,
        "missing": len(found.missing),
        "unexpected": len(found.unexpected),
        "forgiven": found.forgiven,
        "largest error": found.largest_relative_error,
        "note": "agrees" if found.agrees() else "DIFFERS",
    }


def unless_out_of_memory(work: Callable[[], Row]) -> Row:
    """Return what a piece of work finds, or a note that memory ran out."""
    try:
        return work()
    except (RuntimeError, MemoryError, ExplorerError) as error:
        if not (out_of_memory(error) or out_of_memory(error.__cause__ or error)):
            raise
    release()  # only here, where the error no longer holds what there was
    return {"note": "out of memory"}


def release() -> None:
    """Give back the memory that nothing holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def rows_of(
    shape: str, dtype: str, sizes: Sequence[int], device: str, *, small: bool
) -> Iterator[tuple[bool, Row]]:
    """Yield the rows of one model, each with whether it is one of parity."""
    release()  # of the model before
    held: list[Subject] = []

    def warm_up() -> Row:
        model = made_model(shape, getattr(torch, dtype), device, small=small)
        held.append(Subject(model, build_tokenizer()))
        plain_seconds(held[0], grow(held[0], WARM_UP), last_only=False)
        return {}

    failed = unless_out_of_memory(warm_up)
    for nodes in sizes:
        found = failed or unless_out_of_memory(lambda n=nodes: measured(held[0], n))
        yield False, {"shape": shape, "dtype": dtype, "nodes": nodes, **found}
    if dtype == "float32":
        found = failed or unless_out_of_memory(lambda: parity(held[0]))
        yield True, {"shape": shape, **found}


# --- The tables ---------------------------------------------------------------------------------


def cells(row: Row, columns: dict[str, str]) -> list[str]:
    return [form.format(row[name]) if name in row else "" for name, form in columns.items()]


def show(title: str, rows: list[Row], columns: dict[str, str]) -> None:
    table = Table(title=title)
    for name in columns:
        table.add_column(name, justify="left" if name == "note" else "right")
    for row in rows:
        table.add_row(*cells(row, columns))
    console.print(table)


def markdown(rows: list[Row], columns: dict[str, str]) -> str:
    lines = [list(columns), ["---" if c == "note" else "---:" for c in columns]]
    lines += [cells(row, columns) for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--dtypes", default="bfloat16,float32")
    parser.add_argument("--nodes", default="1000,10000")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--small", action="store_true", help="divide every size by 8, for a CPU")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--markdown", type=Path, help="file to write the tables to")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    hardware = torch.cuda.get_device_name() if given.device.startswith("cuda") else cpu_name()
    versions = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    sizes = "every size an eighth (--small)" if given.small else "real sizes"
    header = (
        f"{datetime.now(UTC):%Y-%m-%d}, {hardware}, {given.threads} thread(s), {sizes}, {versions}"
    )
    console.print(header)
    figures: list[Row] = []
    compared: list[Row] = []
    nodes = [int(size) for size in given.nodes.split(",")]
    for shape in given.shapes.split(","):
        for dtype in given.dtypes.split(","):
            for is_parity, row in rows_of(shape, dtype, nodes, given.device, small=given.small):
                (compared if is_parity else figures).append(row)
                columns = PARITY_FIGURES if is_parity else FIGURES
                parts = zip(columns, cells(row, columns), strict=True)
                console.print(", ".join(f"{name} {cell}" for name, cell in parts if cell))
        # After every shape, so that a run that is stopped leaves what it found.
        if given.json:
            found = {"made": header, "rows": figures, "parity": compared}
            given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        if given.markdown:
            tables = [markdown(figures, FIGURES), markdown(compared, PARITY_FIGURES)]
            text = "\n\n".join([header, *tables[: 1 + bool(compared)], LEGEND])
            given.markdown.write_text(text + "\n", encoding="utf-8")
    show("trees in models of real shapes", figures, FIGURES)
    if compared:
        show("parity", compared, PARITY_FIGURES)
    console.print(LEGEND)


if __name__ == "__main__":
    main()
