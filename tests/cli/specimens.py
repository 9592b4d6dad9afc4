"""What the tests of the command line ask, how it is typed, and what is read from stderr."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING, Any

from sae_explorer import grow_tree, logit_lens, rank_tokens
from sae_explorer.analyses.closed_loop import close_loop
from sae_explorer.analyses.dose_response import dose_response
from sae_explorer.analyses.scale_sweep import sweep_scales
from sae_explorer.analyses.steering import steer_text
from sae_explorer.analyses.tree_difference import compare_trees
from sae_explorer.cli import terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pytest

TREE: dict[str, Any] = {"feature": 3, "weights": "decoder", "cutoff": 2e-2, "max_depth": 4}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "tree": grow_tree,
    "tokens": rank_tokens,
    "lens": logit_lens,
    "steering": steer_text,
    "dose": dose_response,
    "scales": sweep_scales,
    "difference": compare_trees,
    "loop": close_loop,
}
TABLE = {"json": "to_json", "csv": "to_csv"}
FORMATS = dict.fromkeys(FUNCTIONS, TABLE) | {
    "tree": {**TABLE, "newick": "to_newick", "dot": "to_dot"},
}
SPECIMENS: dict[str, dict[str, Any]] = {
    "tree": TREE,
    "tokens": {"feature": 3, "limit": 7, "script": "Latin"},
    "lens": {"feature": 3, "limit": 4},
    "steering": {"feature": 3, "strengths": (0.5, 2.0), "text": "the", "max_tokens": 4},
    "dose": {"feature": 3, "doses": (-1.0, 0.0, 1.0), "text": "the", "dose_tokens": 3},
    "scales": {"feature": 3, "grid": (1.0, 2.0, 3.0)},
    "difference": {**TREE, "against": "weights=encoder"},
    "loop": {**TREE, "definitions": 5, "random_trees": 2},
}


def flags(given: dict[str, Any]) -> list[str]:
    """Write options as flags."""

    def text(value: Any) -> str:
        return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)

    return [f"--{name.replace('_', '-')}={text(value)}" for name, value in given.items()]


def on(disk: Path) -> list[str]:
    """Return the flags that mean the model and the SAE on disk."""
    return ["--model", str(disk / "model"), "--sae", str(disk / "sae"), "--device", "cpu"]


def said(err: str) -> list[str]:
    """Return the lines on stderr, each checked to be one of ours, without control codes."""
    lines = err.splitlines()
    assert all(line.startswith("sae-explorer: ") for line in lines), err
    assert "\x1b" not in err
    assert "\r" not in err
    return [line.removeprefix("sae-explorer: ") for line in lines]


@contextlib.contextmanager
def interrupts_at(steps: set[int], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Press Ctrl-C at the given steps of a growth."""
    count = 0

    def press(_progress: Any) -> None:
        nonlocal count
        count += 1
        if count in steps:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(terminal, "display", lambda _title: contextlib.nullcontext(press))
    yield
    assert count >= max(steps)
