"""The browser's side of a widget, as far as the kernel can tell: what js/src/state/synced.ts does.

It hears the messages of a widget's comm, keeps its state, and puts the streamed rows of the tree
together.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from ipywidgets.widgets.widget import _put_buffers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from sae_explorer import DefinitionTree


def numbers(column: dict[str, Any]) -> NDArray[Any]:
    """Return a column of a payload."""
    return np.frombuffer(column["data"], dtype=column["dtype"])


@dataclass
class Rows:
    """A tree put together from what was sent of it."""

    run: int
    settled: int = 0
    parent: list[int] = field(default_factory=list)
    token_id: list[int] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    probability: list[float] = field(default_factory=list)
    expanded: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.parent)

    @classmethod
    def of(cls, payload: dict[str, Any]) -> Rows:
        rows = cls(payload["run"])
        rows.append(payload)
        return rows

    def append(self, payload: dict[str, Any]) -> None:
        """Take rows in the place of those that are not settled; what is settled never changes."""
        first, first_token = payload["first"], payload["first_token"]
        assert (
            first <= self.settled <= payload["settled"] <= first + len(numbers(payload["parent"]))
        )
        settled = self.settled, self.parent[: self.settled], self.token_id[: self.settled]
        del self.ids[first_token:]
        del self.texts[first_token:]
        self.ids += numbers(payload["token_id"]).tolist()
        self.texts += payload["text"]
        token = numbers(payload["token"]).tolist()
        for own, came in (
            (self.parent, numbers(payload["parent"]).tolist()),
            (self.token_id, [self.ids[number] for number in token]),
            (self.text, [self.texts[number] for number in token]),
            (self.probability, numbers(payload["probability"]).tolist()),
            (self.expanded, numbers(payload["expanded"]).tolist()),
        ):
            del own[first:]
            own.extend(came)
        assert settled == (self.settled, self.parent[: self.settled], self.token_id[: self.settled])
        self.settled = payload["settled"]

    def assert_settled(self, tree: DefinitionTree) -> None:
        """Assert that the settled rows are the first of a tree: to float32 in probability."""
        self._assert_first(tree, self.settled)

    def _assert_first(self, tree: DefinitionTree, count: int) -> None:
        assert self.parent[:count] == tree.parent[:count].tolist()
        assert self.token_id[:count] == tree.token_id[:count].tolist()
        assert self.text[:count] == tree.tokens[:count]
        np.testing.assert_allclose(
            self.probability[:count], tree.probability[:count], rtol=1e-6, atol=0
        )
        assert self.expanded[:count] == tree.expanded[:count].astype(int).tolist()

    def assert_are(self, tree: DefinitionTree) -> None:
        """Assert that these are all rows of a tree."""
        assert len(self) == len(tree)
        self._assert_first(tree, len(tree))


class FrontEnd:
    """What a browser knows of one explorer.

    Parameters
    ----------
    send
        Sends a custom message to the kernel.
    """

    def __init__(self, send: Callable[[dict[str, Any]], object]) -> None:
        self.send = send
        self.state: dict[str, Any] = {}
        #: The last status, by trait or by message, and all that came.
        self.statuses: list[dict[str, Any]] = []
        self.appends: list[dict[str, Any]] = []
        self.replies: dict[Any, dict[str, Any]] = {}
        #: Numbers of what was asked again while it was being done.
        self.doing: list[Any] = []
        self.rows: Rows | None = None
        #: Rows that were seen to be missing: ``(run, first)`` to ask for.
        self.gap: tuple[int, int] | None = None
        #: Whether rows are lost on the way now.
        self.losing = False
        self._asked = 0
        self._news = threading.Condition()

    @property
    def status(self) -> dict[str, Any]:
        return self.statuses[-1]

    def hear(self, data: dict[str, Any], buffers: Sequence[Any]) -> None:
        """Take a message of the comm."""
        # As it would be after its travel; what JSON cannot hold fails here.
        data = json.loads(json.dumps(data, allow_nan=False))
        with self._news:
            if "state" in data:
                _put_buffers(data["state"], data.get("buffer_paths", []), list(buffers))
                self._take(data["state"])
            elif data.get("method") == "custom":
                content = data["content"]
                _put_buffers(content, content["buffers"], list(buffers))
                self._told(content)
            self._news.notify_all()

    def _take(self, state: dict[str, Any]) -> None:
        self.state |= state
        if "_status" in state:
            self.statuses.append(state["_status"])
        if "_tree" in state:
            tree = state["_tree"]
            self.rows = Rows.of(tree) if tree else None

    def _told(self, content: dict[str, Any]) -> None:
        if content["type"] == "reply":
            self.replies[content["rid"]] = content
            return
        if content["type"] == "doing":
            self.doing.append(content["rid"])
            return
        if content["type"] == "partial":
            return  # what comes of it is in the trait of the analysis
        self.statuses.append(content["status"])
        if content["type"] != "append" or self.losing:
            return
        rows = content["rows"]
        self.appends.append(rows)
        known = self.rows if self.rows is not None and self.rows.run == rows["run"] else None
        settled = known.settled if known is not None else 0
        if rows["first"] > settled:
            self.gap = (rows["run"], settled)
        elif known is not None:
            known.append(rows)
        else:
            self.rows = Rows.of(rows)

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send a message and return the reply."""
        self._asked += 1
        rid = f"test-{self._asked}"
        self.send({**message, "rid": rid})
        self.until(lambda: rid in self.replies)
        return self.replies[rid]

    def until(self, condition: Callable[[], object], seconds: float = 30.0) -> None:
        """Wait until something that is told makes a condition true."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"The last status is {self.statuses[-1:]}.")
            with self._news:
                # Not all of it is told: a property of the explorer may change a moment later.
                self._news.wait(0.01)
