"""What interventions, lift and a dose-response cost, next to the plain way of getting the same.

    python tests/benchmarks/steering.py [--rounds 5] [--device cpu]

Everything that is compared is measured by turns in the same run, on one thread unless --threads says
otherwise, and the ratios are those of medians. An intervention changes the tree that grows, so its
time is counted for each node that was run. Aims: an intervention at most 1.3 times the plain tree,
lift against eight random directions at most 0.7 times nine plain trees, a dose-response of 16
strengths at most half of 16 separate runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

from trees import bench_model, cpu_name, timed

from sae_explorer import (
    Ablate,
    Clamp,
    DefinitionTree,
    Steer,
    Subject,
    dose_response,
    feature,
    grow_tree,
)
from sae_explorer.analyses.lift import random_vectors
from sae_explorer.analyses.trees import TreeRequest
from sae_explorer.loading import demo
from sae_explorer.results import package_versions
from zoo import build_sae, build_tokenizer

WIDE = 16_384
TEXT = 'A typical definition of "dog" would be "'

console = Console(width=150)

#: Subjects, each with the options of its plain tree.
Case = tuple[str, Subject, dict[str, Any]]


def cases(device: str) -> list[Case]:
    """Return the bundled model, and a larger one with a wide SAE of two kinds."""
    model = bench_model(torch.float32, device)
    own: dict[str, Any] = {"weights": "decoder", "scale": 1.0, "ghost_token": "<unused0>"}
    found: list[Case] = [
        (
            "bundled, d 160, 1,536 features",
            Subject.demo(),
            {"feature": 302, **demo.DIRECTION, "cutoff": 1e-4},
        )
    ]
    for kind in ("standard", "topk"):
        sae = build_sae(512, WIDE, layer=4, kind=kind).to(device)
        subject = Subject(model, build_tokenizer(), sae)
        options = {"feature": 3, **own, "max_nodes": 1000, "cutoff": 1e-9}
        found.append((f"8 layers, d 512, {kind}, 16,384 features", subject, options))
    return found


def by_turns(works: Sequence[Callable[[], Any]], rounds: int) -> list[float]:
    """Return the median seconds of each of several pieces of work, done by turns."""
    for work in works:
        work()
    seconds = [[timed(work) for work in works] for _ in range(rounds)]
    return [median(column) for column in zip(*seconds, strict=True)]


def interventions(rounds: int, chosen: Sequence[Case]) -> None:
    """Print the cost of each kind of intervention, for each node that is run."""
    table = Table(title="an intervention in the tree, next to the plain tree (aim: at most 1.3)")
    for name in ("subject", "intervention", "nodes run", "ms a node", "ratio"):
        table.add_column(name, justify="left" if name in ("subject", "intervention") else "right")
    kinds: dict[str, list[Any]] = {
        "none": [],
        "steer, absolute": [Steer(7, 0.5)],
        "steer, residual norm": [Steer(7, 0.05, "residual_norm")],
        "steer, at the ghost": [Steer(7, 0.5, at="ghost")],
        "steer a sum": [Steer(feature(7) - feature(8), 0.5)],
        "clamp": [Clamp(7, 0.5)],
        "clamp, generated": [Clamp(7, 0.5, at="generated")],
        "ablate 8 features": [Ablate(number) for number in range(8)],
    }
    for name, subject, options in chosen:
        grown: dict[str, DefinitionTree] = {}

        def grow(kind: str, of: Subject = subject, given: dict[str, Any] = options) -> None:
            grown[kind] = grow_tree(of, **given, interventions=kinds[kind])  # noqa: B023

        seconds = by_turns([lambda k=kind: grow(k) for kind in kinds], rounds)
        each = [s / int(grown[kind].expanded.sum()) for kind, s in zip(kinds, seconds, strict=True)]
        for kind, cost in zip(kinds, each, strict=True):
            run = int(grown[kind].expanded.sum())
            shown = name if kind == "none" else ""
            table.add_row(shown, kind, f"{run:,}", f"{1e3 * cost:.2f}", f"{cost / each[0]:.2f}")
    console.print(table)


def lift(rounds: int, chosen: Sequence[Case]) -> None:
    """Print the cost of a tree with its lift next to nine plain trees."""
    table = Table(title="a tree with its lift (R = 8), next to nine plain trees (aim: at most 0.7)")
    for name in ("subject", "nodes", "nine trees s", "with lift s", "ratio"):
        table.add_column(name, justify="left" if name == "subject" else "right")
    for name, subject, options in chosen[:2]:
        request = TreeRequest.from_options(options)
        limits = {k: options[k] for k in ("cutoff", "max_nodes", "ghost_token") if k in options}
        others = [
            {**limits, "embedding": vector}
            for vector in random_vectors(subject, request, 8, seed=0)
        ]

        def nine(of: Subject = subject, each: Sequence[Any] = (options, *others)) -> None:
            for given in each:
                grow_tree(of, **given)

        def lifted(of: Subject = subject, given: dict[str, Any] = options) -> DefinitionTree:
            return grow_tree(of, **given, lift=8)

        plain, measured = by_turns([nine, lifted], rounds)
        table.add_row(
            name, f"{len(lifted()):,}", f"{plain:.2f}", f"{measured:.2f}", f"{measured / plain:.2f}"
        )
    console.print(table)


def doses(rounds: int, chosen: Sequence[Case]) -> None:
    """Print the cost of a dose-response next to one run for each strength."""
    table = Table(title="a dose-response of 16 strengths, next to 16 runs (aim: at most 0.5)")
    for name in ("subject", "16 runs s", "together s", "ratio"):
        table.add_column(name, justify="left" if name == "subject" else "right")
    strengths = tuple(step / 8 for step in range(-6, 10))
    for name, subject, _options in chosen[:2]:
        given: dict[str, Any] = {"feature": 302, "text": TEXT, "unit": "absolute"}

        def one_by_one(of: Subject = subject, options: dict[str, Any] = given) -> None:
            for strength in strengths:
                dose_response(of, **options, doses=(strength,))

        def together(of: Subject = subject, options: dict[str, Any] = given) -> None:
            dose_response(of, **options, doses=strengths)

        apart, at_once = by_turns([one_by_one, together], rounds)
        table.add_row(name, f"{apart:.2f}", f"{at_once:.2f}", f"{at_once / apart:.2f}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=("interventions", "lift", "doses"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    versions = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    hardware = torch.cuda.get_device_name() if given.device == "cuda" else cpu_name()
    console.print(
        f"{datetime.now(UTC):%Y-%m-%d}, {hardware}, {given.threads} thread(s), {versions}"
    )
    chosen = cases(given.device)
    for name, measure in (("interventions", interventions), ("lift", lift), ("doses", doses)):
        if given.only in (None, name):
            measure(given.rounds, chosen)


if __name__ == "__main__":
    main()
