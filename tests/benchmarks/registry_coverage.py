"""Which SAEs of SAELens' registry have a hook point on their model, and which have not and why.

    python tests/benchmarks/registry_coverage.py [--json PATH]

Every model of the registry is built from its own transformers configuration class, with its real
number of layers and kinds of layers but tiny widths, none of them like another. Every SAE's hook
point is resolved on it (for transcoders both, where they read and where they write), and an
activation is captured at each and its width compared with what the configuration says. Nothing is
downloaded. Where only a file on the hub names the hook points, those that are usual for such SAEs
are taken, and the table says so.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from rich.console import Console
from rich.table import Table

from sae_explorer.errors import ExplorerError
from sae_explorer.loading.registry import entries
from sae_explorer.model import sites
from sae_explorer.model.capture import capture
from sae_explorer.results import package_versions

if TYPE_CHECKING:
    from sae_explorer.loading.registry import Entry

console = Console(width=150)

HIDDEN, INNER, HEADS, HEAD = 32, 40, 4, 6  # so z is 24 wide, where heads have a width of their own
PLAIN = {
    "vocab_size": 64,
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {**PLAIN, "num_key_value_heads": 2}
WIDE = {**GROUPED, "head_dim": HEAD}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
LINEAR = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 6,
    "linear_value_head_dim": 6,
}
EYES = {
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 27,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


@dataclass(frozen=True)
class Shape:
    """How one model of the registry is built: its family, configuration class and depth."""

    family: str
    config: str
    layers: int

    def build(self) -> torch.nn.Module:
        """Return the model as ``AutoModelForCausalLM`` makes it of such a configuration."""
        kind = getattr(transformers, self.config)
        depth = {"num_hidden_layers": self.layers}
        options: dict[str, Any] = {
            "gpt2": {
                "vocab_size": 64,
                "n_embd": HIDDEN,
                "n_inner": INNER,
                "n_head": HEADS,
                "n_layer": self.layers,
                "bos_token_id": 1,
                "eos_token_id": 2,
            },
            "gpt_neox": {**PLAIN, **depth},
            "qwen2": {**GROUPED, **depth},
            "gemma3 multimodal": {"text_config": {**WIDE, **depth}, "vision_config": EYES},
            "qwen3 moe": {**WIDE, **depth, **EXPERTS},
            "qwen3.5": {"text_config": {**WIDE, **depth, **LINEAR}},
            "qwen3.5 moe": {
                "text_config": {
                    **WIDE,
                    **depth,
                    **LINEAR,
                    **EXPERTS,
                    "shared_expert_intermediate_size": 12,
                }
            },
            "gpt-oss": {**WIDE, **depth, "num_local_experts": 4, "num_experts_per_tok": 2},
        }.get(self.family, {**WIDE, **depth})
        model: torch.nn.Module = transformers.AutoModelForCausalLM.from_config(kind(**options))
        return model.eval()


def _gemma_3() -> dict[str, Shape]:
    text, eyes = ("gemma3 text", "Gemma3TextConfig"), ("gemma3 multimodal", "Gemma3Config")
    depths = {"4b": (eyes, 34), "12b": (eyes, 48), "27b": (eyes, 62), "1b": (text, 26)}
    shapes = {
        f"google/gemma-3-{size}-{tuning}": Shape(*kind, layers)
        for size, (kind, layers) in depths.items()
        for tuning in ("pt", "it")
    }
    small = Shape(*text, 18)
    return {**shapes, "google/gemma-3-270m": small, "google/gemma-3-270m-it": small}


_LLAMA_8B = Shape("llama", "LlamaConfig", 32)
SHAPES: dict[str, Shape] = {
    "google/gemma-2b": Shape("gemma", "GemmaConfig", 18),
    "google/gemma-2b-it": Shape("gemma", "GemmaConfig", 18),
    "google/gemma-2-2b": Shape("gemma2", "Gemma2Config", 26),
    "google/gemma-2-9b": Shape("gemma2", "Gemma2Config", 42),
    "google/gemma-2-9b-it": Shape("gemma2", "Gemma2Config", 42),
    "google/gemma-2-27b": Shape("gemma2", "Gemma2Config", 46),
    **_gemma_3(),
    "gpt2": Shape("gpt2", "GPT2Config", 12),
    "EleutherAI/pythia-70m-deduped": Shape("gpt_neox", "GPTNeoXConfig", 6),
    "meta-llama/Llama-3.1-8B": _LLAMA_8B,
    "meta-llama/Llama-3.1-8B-Instruct": _LLAMA_8B,
    "meta-llama/Meta-Llama-3-8B-Instruct": _LLAMA_8B,
    "meta-llama/Llama-3.3-70B-Instruct": Shape("llama", "LlamaConfig", 80),
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B": _LLAMA_8B,
    "mistralai/Mistral-7B-v0.1": Shape("mistral", "MistralConfig", 32),
    "Qwen/Qwen2.5-7B-Instruct": Shape("qwen2", "Qwen2Config", 28),
    "Qwen/Qwen3-0.6B": Shape("qwen3", "Qwen3Config", 28),
    "Qwen/Qwen3-1.7B": Shape("qwen3", "Qwen3Config", 28),
    "Qwen/Qwen3-1.7B-Base": Shape("qwen3", "Qwen3Config", 28),
    "Qwen/Qwen3-4B": Shape("qwen3", "Qwen3Config", 36),
    "Qwen/Qwen3-8B": Shape("qwen3", "Qwen3Config", 36),
    "Qwen/Qwen3-8B-Base": Shape("qwen3", "Qwen3Config", 36),
    "Qwen/Qwen3-14B": Shape("qwen3", "Qwen3Config", 40),
    "Qwen/Qwen3-30B-A3B-Base": Shape("qwen3 moe", "Qwen3MoeConfig", 48),
    "Qwen/Qwen3.5-2B-Base": Shape("qwen3.5", "Qwen3_5Config", 24),
    "Qwen/Qwen3.5-9B-Base": Shape("qwen3.5", "Qwen3_5Config", 32),
    "Qwen/Qwen3.5-27B": Shape("qwen3.5", "Qwen3_5Config", 64),
    "Qwen/Qwen3.5-35B-A3B-Base": Shape("qwen3.5 moe", "Qwen3_5MoeConfig", 40),
    "openai/gpt-oss-20b": Shape("gpt-oss", "GptOssConfig", 24),
}

#: The one kind of SAE whose hook points only a file on the hub names: layers of a cross-layer
#: transcoder. These are what such transcoders read and write by default.
CROSS_LAYER = ("mntss_clt_layer_transcoder", ("hook_resid_mid", "hook_mlp_out"))


def hooks_of(entry: Entry) -> tuple[list[str], bool]:
    """Return where an SAE reads and writes, and whether the registry itself says so."""
    if entry.hook_name is None:
        conversion, names = CROSS_LAYER
        if entry.conversion != conversion:
            return [], False
        return [f"blocks.{entry.layer}.{name}" for name in names], False
    out = entry.hook_name_out
    return [entry.hook_name] + ([out] if out and out != entry.hook_name else []), True


def hugging_face_names(entry: Entry, hooks: list[str]) -> list[str | None]:
    """Return the names of modules that SAELens' loaders store beside the hook points."""
    names: dict[str, str] = {}
    if entry.conversion == "gemma_3":
        names = {
            "hook_resid_post": "model.layers.N.output",
            "hook_z": "model.layers.N.self_attn.o_proj.input",
            "hook_mlp_out": "model.layers.N.post_feedforward_layernorm.output",
            "hook_mlp_in": "model.layers.N.pre_feedforward_layernorm.output",
        }
    elif entry.conversion == "qwen_scope":
        names = {"hook_resid_post": "model.layers.N"}
    found = (names.get(hook.rsplit(".", 1)[-1]) for hook in hooks)
    return [name.replace("N", str(entry.layer)) if name else None for name in found]


def expected_width(model: torch.nn.Module, kind: str) -> int:
    """Return how wide the configuration says that activations of a kind are."""
    config = sites.text_config(model)
    if kind == "attn_z":
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return int(config.num_attention_heads * head)
    return int(config.intermediate_size if kind == "mlp_hidden" else config.hidden_size)


class Resolved:
    """One model, and what was found at each hook point that was asked for."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.sites: dict[tuple[str, str | None], sites.Site] = {}
        self.refusals: dict[tuple[str, str | None], str] = {}

    def ask(self, hook: str, module: str | None) -> None:
        """Resolve a hook point once, with the module's name that goes with it."""
        key = (hook, module)
        if key in self.sites or key in self.refusals:
            return
        try:
            site = sites.resolve(self.model, *key)
            alone = sites.resolve(self.model, hook)
        except ExplorerError as error:
            self.refusals[key] = str(error)
            return
        if (site.module, site.side) == (alone.module, alone.side):
            self.sites[key] = site
        else:
            self.refusals[key] = f"{hook} is {alone.path}, but {module} is {site.path}"

    def check(self) -> None:
        """Capture an activation at every site and refuse those of the wrong width."""
        ids = torch.tensor([[1, 5, 9, 14]])
        found = capture(self.model, list(self.sites.values()), ids)
        for (key, site), value in zip(list(self.sites.items()), found, strict=True):
            width = expected_width(self.model, site.kind)
            if tuple(value.shape) != (1, 4, width) or not value.isfinite().all():
                self.refusals[key] = f"{key[0]} gave {list(value.shape)} instead of [1, 4, {width}]"
                del self.sites[key]


def main() -> None:
    """Run over the whole registry and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the counts and the refusals")
    given = parser.parse_args()
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    start = time.perf_counter()

    by_model: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries():
        by_model[entry.model].append(entry)

    resolved: Counter[tuple[str, str]] = Counter()
    assumed: Counter[tuple[str, str]] = Counter()
    refused: Counter[tuple[str, str, str]] = Counter()
    captured = 0
    for name, saes in sorted(by_model.items()):
        shape = SHAPES.get(name)
        if shape is None:
            refused[name, "?", "the script has no configuration for this model"] += len(saes)
            continue
        at = Resolved(shape.build())
        asked = []
        for sae in saes:
            hooks, named = hooks_of(sae)
            keys = list(zip(hooks, hugging_face_names(sae, hooks), strict=True))
            for key in keys:
                at.ask(*key)
            asked.append((keys, named))
        at.check()
        captured += len(at.sites)
        for keys, named in asked:
            if not keys:
                refused[shape.family, "?", "only its configuration names the hook point"] += 1
                continue
            hook = " > ".join(re.sub(r"blocks\.\d+\.", "", key[0]) for key in keys)
            wrong = [at.refusals[key] for key in keys if key in at.refusals]
            if wrong:
                refused[shape.family, hook, wrong[0]] += 1
            else:
                resolved[shape.family, hook] += 1
                assumed[shape.family, hook] += not named

    report(resolved, assumed, refused, captured, len(by_model), time.perf_counter() - start)
    if given.json:
        rows = {
            "resolved": [[*key, count, assumed[key]] for key, count in sorted(resolved.items())],
            "refused": [[*key, count] for key, count in sorted(refused.items())],
        }
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


def report(
    resolved: Counter[tuple[str, str]],
    assumed: Counter[tuple[str, str]],
    refused: Counter[tuple[str, str, str]],
    captured: int,
    models: int,
    seconds: float,
) -> None:
    """Print what was found."""
    table = Table(title="SAEs of SAELens' registry, by model family and hook point")
    for column in (
        "family",
        "hook point (reads > writes)",
        "resolved",
        "of these assumed",
        "refused",
    ):
        table.add_column(
            column, justify="left" if column.startswith(("family", "hook")) else "right"
        )
    losses: Counter[tuple[str, str]] = Counter()
    for (family, hook, _), count in refused.items():
        losses[family, hook] += count
    for key in sorted({*resolved, *losses}):
        table.add_row(*key, f"{resolved[key]:,}", f"{assumed[key] or '':}", f"{losses[key] or ''}")
    console.print(table)
    for (family, hook, reason), count in sorted(refused.items()):
        console.print(f"refused: {count} of {family} at {hook}: {reason}")
    total = resolved.total() + refused.total()
    console.print(
        f"{resolved.total():,} of {total:,} SAEs on {models} models resolve, {assumed.total():,} of them "
        "at hook points that only a file on the hub names for certain. "
        f"Activations captured at {captured:,} hook points; {seconds:.0f} s."
    )
    versions = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    console.print(f"{datetime.now(UTC):%Y-%m-%d}, {_processor()}, {versions}")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
