"""How often a tree's most probable definitions name the concept of a feature, and what helps.

    python tests/benchmarks/definitions.py [--limit N] [--verbose] [--json FILE]

The features are those of the bundled model in `concepts.json`: each has a concept that is clear from
the texts in which it fires, and the words that name it. The file says how they were chosen, without
a look at any tree. A definition names the concept if it holds one of the words, whole. Each way of
growing the tree gets five definitions; the table counts the features whose concept is named by the
first, by one of the first three and by one of the five.

The floor is what the same words find in trees of random directions at the same scale, averaged; by
lift too, since definitions sorted by it are longer.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from sae_explorer import Clamp, ExplorerError, Steer, Subject, grow_tree
from sae_explorer.loading import demo

if TYPE_CHECKING:
    from collections.abc import Callable

    from sae_explorer import DefinitionTree

CONCEPTS = Path(__file__).with_name("concepts.json")
PLACES = (1, 3, 5)
LIFT = 8
RANDOM_TREES = 10
FLOORS: dict[str, dict[str, Any]] = {
    f"random direction, mean of {RANDOM_TREES}": {},
    f"random direction, by lift, mean of {RANDOM_TREES}": {"lift": LIFT, "lift_seed": 1},
}


@dataclass(frozen=True)
class Concept:
    """A feature, what it stands for, and the words that name it."""

    layer: int
    feature: int
    concept: str
    accepted: tuple[str, ...]

    def named_by(self, definition: str) -> bool:
        """Return whether a definition holds one of the words, whole."""
        words = "|".join(map(re.escape, self.accepted))
        return re.search(rf"\b(?:{words})\b", definition, re.IGNORECASE) is not None

    def place(self, definitions: list[str]) -> int | None:
        """Return the place, from 1, of the first definition that names the concept."""
        return next((i for i, text in enumerate(definitions, 1) if self.named_by(text)), None)


def concepts() -> list[Concept]:
    """Read the list."""
    listed = json.loads(CONCEPTS.read_text(encoding="utf-8"))["features"]
    return [
        Concept(entry["layer"], entry["feature"], entry["concept"], tuple(entry["accepted"]))
        for entry in listed
    ]


# --- The ways of growing a tree ------------------------------------------------------------------


def of_feature(subject: Subject, feature: int, **options: Any) -> DefinitionTree:
    """Grow the tree of a feature's own vector, as the bundled model is shown."""
    return grow_tree(subject, feature=feature, **{**demo.DIRECTION, **options})


def steered(subject: Subject, feature: int, strength: float) -> DefinitionTree:
    """Steer at a ghost that says nothing: the mean of the token embeddings."""
    steer = Steer(feature, strength, unit="residual_norm", at="ghost")
    neutral = tuple(subject.geometry.centroid.tolist())
    return grow_tree(subject, embedding=neutral, interventions=[steer])


WAYS: dict[str, Callable[[Subject, int], DefinitionTree]] = {
    "plain": of_feature,
    "automatic scale": lambda s, f: of_feature(s, f, scale="auto"),
    f"sorted by lift, R = {LIFT}": lambda s, f: of_feature(s, f, lift=LIFT),
    "clamped to its largest activation, at the ghost": lambda s, f: of_feature(
        s, f, interventions=[Clamp(f, 1.0, unit="max_activation", at="ghost")]
    ),
    "clamped to its largest activation, all but BOS": lambda s, f: of_feature(
        s, f, interventions=[Clamp(f, 1.0, unit="max_activation", skip_bos=True)]
    ),
    "neutral ghost, steered by 0.5": lambda s, f: steered(s, f, 0.5),
    "neutral ghost, steered by 1.0": lambda s, f: steered(s, f, 1.0),
}


def definitions(tree: DefinitionTree) -> list[str]:
    """Return the first five definitions, by lift where the tree has one."""
    by = "probability" if tree.lift is None else "lift"
    return [definition.text for definition in tree.definitions(max(PLACES), by=by)]


def random_trees(subject: Subject, **options: Any) -> list[list[str]]:
    """Return the definitions of random directions, the same ones for all options."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((RANDOM_TREES, subject.d_model)).astype(np.float32)
    options |= {key: value for key, value in demo.DIRECTION.items() if key != "weights"}
    return [definitions(grow_tree(subject, vector=tuple(v.tolist()), **options)) for v in vectors]


# --- The table -----------------------------------------------------------------------------------


def main() -> None:
    """Grow the trees and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, help="how many features, for a quick look")
    parser.add_argument("--verbose", action="store_true", help="print each feature's definitions")
    parser.add_argument("--json", type=Path, help="file for all definitions and places")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the model is tiny: more threads only wait for each other
    began, console = time.perf_counter(), Console(width=140)
    chosen = concepts()[: options.limit]
    subjects = {layer: Subject.demo(layer) for layer in demo.LAYERS}
    floors = {
        name: {layer: random_trees(subject, **how) for layer, subject in subjects.items()}
        for name, how in FLOORS.items()
    }
    rows = []
    for concept in chosen:
        row = {
            name: answers(subjects[concept.layer], concept.feature, grow)
            for name, grow in WAYS.items()
        }
        rows.append(row)
        if options.verbose:
            show(console, concept, row)
    counts = {
        name: counted([concept.place(row[name]) for concept, row in zip(chosen, rows, strict=True)])
        for name in WAYS
    }
    floor = {name: by_chance(chosen, found) for name, found in floors.items()}
    table = Table(title=f"Features of {len(chosen)} whose concept is named")
    for head in ("", "by the first definition", "by one of three", "by one of five"):
        table.add_column(head, justify="left" if not head else "right")
    for name, numbers in counts.items():
        table.add_row(name, *map(str, numbers))
    for name, means in floor.items():
        table.add_row(name, *(f"{mean:.1f}" for mean in means))
    console.print(table)
    console.print(f"{time.perf_counter() - began:.0f} s")
    if options.json is not None:
        features = [
            {
                "layer": concept.layer,
                "feature": concept.feature,
                "concept": concept.concept,
                "definitions": row,
                "place": {name: concept.place(found) for name, found in row.items()},
            }
            for concept, row in zip(chosen, rows, strict=True)
        ]
        result = {"places": PLACES, "counts": {**counts, **floor}, "features": features}
        options.json.write_text(json.dumps(result, indent=1, ensure_ascii=False), encoding="utf-8")


def answers(
    subject: Subject, feature: int, grow: Callable[[Subject, int], DefinitionTree]
) -> list[str]:
    """Return a tree's definitions; none where it cannot be grown, which counts as a miss."""
    try:
        return definitions(grow(subject, feature))
    except ExplorerError as error:
        print(f"feature {feature}: {error}")
        return []


def counted(places: list[int | None]) -> list[int]:
    """Return how many features are named by each number of definitions in `PLACES`."""
    return [sum(place is not None and place <= most for place in places) for most in PLACES]


def by_chance(chosen: list[Concept], found: dict[int, list[list[str]]]) -> list[float]:
    """Return the counts that random directions come to, averaged over the directions."""
    counts = [
        counted([concept.place(found[concept.layer][number]) for concept in chosen])
        for number in range(RANDOM_TREES)
    ]
    return [float(mean) for mean in np.mean(counts, axis=0)]


def show(console: Console, concept: Concept, row: dict[str, list[str]]) -> None:
    """Print one feature's definitions, the place of the one that names its concept first."""
    console.print(f"\nlayer {concept.layer}, feature {concept.feature}: {concept.concept}")
    for name, found in row.items():
        place = concept.place(found)
        console.print(
            f"  {place or '-'}  {name}: {' | '.join(found)}", markup=False, soft_wrap=True
        )


if __name__ == "__main__":
    main()
