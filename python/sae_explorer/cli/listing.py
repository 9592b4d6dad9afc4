"""The list command: SAEs in aligned columns or as JSON, without loading any."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Any

from sae_explorer.cli.flags import refuse
from sae_explorer.loading import registry

if TYPE_CHECKING:
    import argparse


def list_saes(given: argparse.Namespace) -> int:
    """Write the SAEs that the flags mean, or the releases of the registry."""
    rows = _bundled(given) if given.demo else _registered(given)
    if given.json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    else:
        _write_table(rows)
    return 0


def _bundled(given: argparse.Namespace) -> list[dict[str, Any]]:
    from sae_explorer.loading import demo

    refuse(given, "--demo", "model", "release")
    return demo.rows(given.layer)


def _registered(given: argparse.Namespace) -> list[dict[str, Any]]:
    found = sorted(registry.find(given.model, given.layer, given.release), key=_by_layer)
    if given.json or given.release is not None or given.layer is not None:
        return [entry.row() for entry in found]
    rows: list[dict[str, Any]] = [*registry.overview(found)]
    return sorted(rows, key=lambda row: (_by_number(row["model"]), _by_number(row["release"])))


def _write_table(rows: list[dict[str, Any]]) -> None:
    columns = {name.replace("_", " "): [_cell(row[name]) for row in rows] for name in rows[0]}
    if sys.stdout.isatty() and len(rows) > 1:
        # What is the same on every line is said once.
        same = {name: cells[0] for name, cells in columns.items() if len(set(cells)) == 1}
        columns = {name: cells for name, cells in columns.items() if name not in same}
        if any(same.values()):
            sys.stdout.write("; ".join(f"{n} {cell}" for n, cell in same.items() if cell) + "\n")
    padded = []
    for name, cells in columns.items():
        width = max(map(len, (name, *cells)))
        padded.append([cell.ljust(width) for cell in (name, *cells)])
    # No line is fitted to the terminal: what is copied from it, and what reads a pipe, wants ids
    # whole.
    for line in zip(*padded, strict=True):
        sys.stdout.write("  ".join(line).rstrip() + "\n")


def _by_number(name: str) -> list[tuple[str, int]]:
    """Return what names are listed by, where numbers count as numbers: 9b comes before 27b."""
    found = re.findall(r"(\D*)(\d*)", name.lower())
    return [(text, int(digits or -1)) for text, digits in found]


def _by_layer(entry: registry.Entry) -> tuple[Any, ...]:
    layer = -1 if entry.layer is None else entry.layer
    return _by_number(entry.model), layer, _by_number(entry.release), _by_number(entry.sae_id)


def _cell(value: Any) -> str:
    if value is None or value is False:
        return ""
    if value is True:
        return "yes"
    return f"{value:g}" if isinstance(value, float) else str(value)
