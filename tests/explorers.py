"""Explorers in this process: on tiny models, with a comm that is played by a front-end.

The fixtures that make them, and that hold up or break their models, are in conftest.py.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from comm.base_comm import BaseComm

from front_end import FrontEnd
from sae_explorer import FeatureExplorer, Subject, grow_tree
from sae_explorer.analyses import ANALYSES, trees
from sae_explorer.widget import session
from zoo import OPTIONS, build_model, build_sae, build_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pytest
    import torch

    from sae_explorer import DefinitionTree

#: What makes each of the analyses that run on request small enough for a tiny model.
SMALL: dict[str, dict[str, Any]] = {
    "steering": {"text": "the", "strengths": (0.5, 1.0), "max_tokens": 4},
    "dose": {"text": "the", "doses": (-1.0, 0.0, 1.0), "dose_tokens": 3, "watched": (5,)},
    "scales": {"grid": (1.0, 2.0, 3.0)},
    "difference": {"against": "weights=encoder"},
    "loop": {"definitions": 6, "random_trees": 2},
}
REQUESTED = [name for name, analysis in ANALYSES.items() if analysis.on_request]


@cache
def subject(architecture: str = "llama") -> Subject:
    model = build_model(architecture)
    subject = Subject(model, build_tokenizer(), build_sae(model.config.hidden_size))
    grow_tree(subject, feature=0, **OPTIONS)  # what is tried out on a model's first use
    return subject


class Recording(BaseComm):
    """A comm whose other end is a :class:`FrontEnd`."""

    #: What plays the other end.
    player: type[FrontEnd] = FrontEnd

    def __init__(self, **details: Any) -> None:
        self.front_end: Any = self.player(self._from_browser)
        super().__init__(**details)

    def publish_msg(
        self, msg_type: str, data: Any = None, _metadata: Any = None, buffers: Any = None, **_: Any
    ) -> None:
        if msg_type in ("comm_open", "comm_msg"):
            self.front_end.hear(data, buffers or [])

    def _from_browser(self, content: dict[str, Any]) -> None:
        self.deliver({"method": "custom", "content": content})

    def deliver(self, data: dict[str, Any], buffers: Sequence[bytes] = ()) -> None:
        self.handle_msg({"content": {"data": data}, "buffers": [*buffers]})


def browser(explorer: FeatureExplorer) -> FrontEnd:
    front_end: FrontEnd = explorer.comm.front_end
    return front_end


def begun(load: Callable[[Any], Subject], add: Any = None, **given: Any) -> Any:
    """Return an explorer whose subject comes from a function, and further SAEs from another."""
    explorer = FeatureExplorer.__new__(FeatureExplorer)
    explorer._begin(load, {"feature": 3, **OPTIONS, **given}, add=add)
    return explorer


class Gate:
    """Stands before a model's forward: they go through one by one, as the test lets them."""

    def __init__(self, model: torch.nn.Module, seconds: float = 60) -> None:
        self._left = 0.0
        self._seconds = seconds
        self._changed = threading.Condition()
        self._held = False
        self._handle = model.register_forward_pre_hook(self._pass)

    @property
    def waiting(self) -> bool:
        """Whether a forward stands before the gate, and may not go through yet."""
        with self._changed:
            return self._held and self._left <= 0

    def _pass(self, *_: object) -> None:
        with self._changed:
            self._held = True
            assert self._changed.wait_for(lambda: self._left > 0, timeout=self._seconds)
            self._held = False
            self._left -= 1

    def let(self, count: float = 1) -> None:
        with self._changed:
            self._left += count
            self._changed.notify_all()

    def shut(self) -> None:
        self._left = 0.0

    def open(self) -> None:
        self._handle.remove()
        self.let(float("inf"))


def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let trees take small steps, and tell of each."""
    monkeypatch.setattr(trees, "chunk_size", lambda _device: 16)
    monkeypatch.setattr(session, "_INTERVAL", 0.0)
    monkeypatch.setattr(session, "_TELLING", float("inf"))


def stopped(explorer: FeatureExplorer, gate: Gate, steps: int = 4) -> DefinitionTree:
    """Cancel after some steps; return the partial tree."""
    gate.let(steps)
    front_end = browser(explorer)
    front_end.until(lambda: len(front_end.statuses) > steps and gate.waiting)
    assert front_end.ask({"type": "cancel"})["ok"]
    gate.let(1)  # the step that is under way
    explorer.wait()
    return explorer.tree


class Counted:
    """A real decoder that counts."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        self.starts = self.extended = 0

    def start(self, prompts: Any) -> Any:
        self.starts += len(prompts)
        return self._decoder.start(prompts)

    def extend(self, prefixes: Any, tokens: Any) -> Any:
        self.extended += len(tokens)
        return self._decoder.extend(prefixes, tokens)

    def release(self, start: int) -> None:
        self._decoder.release(start)


class Breaking:
    """Makes the forwards of a model fail."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.error: BaseException | None = None
        self.after = 0
        self._handle = model.register_forward_pre_hook(self._pass)

    def _pass(self, *_: object) -> None:
        self.after -= 1
        if self.error is not None and self.after < 0:
            raise self.error

    def remove(self) -> None:
        self._handle.remove()


def run_nodes(tree: DefinitionTree) -> int:
    """Return how many nodes of a tree were run besides its root."""
    return int(tree.expanded[1:].sum())


def assert_same(tree: DefinitionTree | None, other: DefinitionTree) -> None:
    """Assert that two trees are the same up to rounding, which depends on what runs together."""
    assert tree is not None
    assert tree.request == other.request
    assert tree.status == other.status
    np.testing.assert_array_equal(tree.token_id, other.token_id)
    np.testing.assert_array_equal(tree.parent, other.parent)
    np.testing.assert_allclose(tree.probability, other.probability, rtol=1e-4)
