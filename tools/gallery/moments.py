"""Moments of real explorers of the bundled model, as the browser would know them."""

from __future__ import annotations

import base64
import copy
import threading
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import comm
import numpy as np
import torch
from comm.base_comm import BaseComm
from ipywidgets.widgets.widget import _put_buffers

from sae_explorer import Clamp, ExplorerError, FeatureExplorer, Steer, Subject
from sae_explorer.results import packed
from sae_explorer.widget.protocol import parted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

torch.set_num_threads(1)  # the model is tiny: more threads only wait for each other

#: Seconds that each forward takes where a run is to be seen at work.
SLOW = 0.15
#: Seconds to wait for what is to come.
PATIENCE = 120.0

#: Tokens that would harm a page that took them for anything but text.
HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\x1b[31mred\x1b[0m",
    "\u202egnp.exe",
    "\u200b",
    "\n\n\t",
    "👩\u200d👩\u200d👧\u200d👦",
    "<0xF0>",
    " مرحبا",
    " 自然语言",
    " ␣",
    "e\u0301\u0323\u0327",
    " " + "Donaudampfschifffahrtsgesellschaft" * 3,
    "",
)


@dataclass(frozen=True)
class Moment:
    """What a browser was told up to some moment.

    Parameters
    ----------
    state
        The synced traits by name.
    rows
        Messages with rows of a tree that still grows.
    found
        Messages with what running analyses have found so far, by name.
    """

    state: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...] = ()
    found: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def after(self, data: dict[str, Any], buffers: list[Any]) -> Moment:
        """Return the moment after a message of the comm."""
        if "state" in data:
            came = data["state"]
            _put_buffers(came, data.get("buffer_paths", []), buffers)
            whole = {name.removeprefix("_") for name in came}
            found = {name: told for name, told in self.found.items() if name not in whole}
            rows = () if "_tree" in came else self.rows
            return Moment({**self.state, **came}, rows, found)
        content = data.get("content", {})
        if content.get("type") not in ("status", "append", "partial"):
            return self
        _put_buffers(content, content.pop("buffers"), buffers)
        if content["type"] == "partial":
            return replace(self, found={**self.found, content["panel"]: content})
        rows = (*self.rows, content) if content["type"] == "append" else self.rows
        return replace(self, state={**self.state, "_status": content["status"]}, rows=rows)

    def but(self, **changes: Any) -> Moment:
        """Return the moment with other traits."""
        return replace(self, state={**self.state, **changes})

    @property
    def status(self) -> Mapping[str, Any]:
        """How the tree stands."""
        return self.state.get("_status") or {"state": "loading", "text": "", "nodes": 0}

    def job(self, panel: str) -> str:
        """Return how an analysis stands that runs on request."""
        return str(self.state["_jobs"][panel]["state"])

    def sent(self) -> dict[str, Any]:
        """Return it as JSON values for the page that draws it."""
        # The page has the bundle already.
        state = {name: v for name, v in self.state.items() if name not in ("_esm", "_css")}
        told = [*self.rows, *self.found.values()]
        return {"state": _packed(state), "told": [_packed(message) for message in told]}


def _packed(content: Mapping[str, Any]) -> dict[str, Any]:
    plain, buffers = parted(content)
    paths = plain.pop("buffers")
    return {
        "content": plain,
        "paths": paths,
        "buffers": [base64.b64encode(buffer).decode("ascii") for buffer in buffers],
    }


class Tape(BaseComm):
    """A comm that keeps every moment of its widget."""

    def __init__(self, **details: Any) -> None:
        self._lock = threading.Lock()
        self._moments = [Moment({})]
        super().__init__(**details)

    def publish_msg(
        self, msg_type: str, data: Any = None, _metadata: Any = None, buffers: Any = None, **_: Any
    ) -> None:
        if msg_type in ("comm_open", "comm_msg"):
            with self._lock:
                self._moments.append(self._moments[-1].after(data, list(buffers or ())))

    @property
    def now(self) -> Moment:
        """The moment that was last."""
        return self._moments[-1]

    def first(self, wanted: Callable[[Moment], bool], seen: int = 0) -> Moment:
        """Return the first moment that is as wanted, of those after ``seen`` or still to come."""
        end = time.monotonic() + PATIENCE
        while True:
            for moment in self._moments[seen:]:
                if wanted(moment):
                    return moment
            if time.monotonic() > end:
                raise TimeoutError(f"It did not come to that. The last is {self.now.status}.")
            time.sleep(0.02)

    @property
    def count(self) -> int:
        """How many moments there are."""
        return len(self._moments)


@contextmanager
def taped() -> Iterator[None]:
    """Give every widget that is made within a :class:`Tape` for its comm."""
    before = comm.create_comm
    comm.create_comm = Tape
    try:
        yield
    finally:
        comm.create_comm = before


@contextmanager
def _before_forward(act: Callable[[], object]) -> Iterator[None]:
    handle = Subject.demo().model.register_forward_pre_hook(lambda *_: act())
    try:
        yield
    finally:
        handle.remove()


def _slowed() -> Any:
    return _before_forward(lambda: time.sleep(SLOW))


def _broken() -> Any:
    def fail() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    return _before_forward(fail)


def _tape(explorer: FeatureExplorer) -> Tape:
    tape: Tape = explorer.comm
    return tape


def _settled(explorer: FeatureExplorer) -> Moment:
    """Wait until nothing goes on; what went wrong is a moment as well."""
    with suppress(ExplorerError):
        explorer.wait()
    return _tape(explorer).now


def starting() -> Iterator[tuple[str, Moment]]:
    """Yield what is seen while a model is loaded, and when it cannot be."""
    with closing(FeatureExplorer.demo()) as explorer:
        _settled(explorer)
        loading = _tape(explorer).first(lambda m: "dictionary" in m.status["text"])
        yield "loading", loading
        told = {"text": "downloading google/gemma-2b: 1.2 of 5.0 GB", "progress": 0.24}
        yield "loading bytes", loading.but(_status={**loading.status, **told})
    with closing(FeatureExplorer(layer=12, release="gemma-2b-res-jbb")) as explorer:
        yield "load failed", _settled(explorer)


def growth() -> Iterator[tuple[str, Moment]]:
    """Yield a tree that is complete, grows, is stopped, breaks in mid-growth, and has one node."""
    with _slowed(), closing(FeatureExplorer.demo(cutoff=1e-5)) as explorer:
        growing = _tape(explorer).first(_is_half_grown)
        explorer.cancel()
        yield "growing", growing
        yield "partial", _settled(explorer)
        with _broken():
            explorer.resume()
            yield "broken", _settled(explorer)
    with closing(FeatureExplorer.demo(cutoff=1e-5)) as explorer:
        yield "done", _settled(explorer)
        explorer.update(cutoff=0.9)
        yield "one node", _settled(explorer)


def _is_half_grown(moment: Moment) -> bool:
    return moment.status["state"] == "growing" and moment.status["nodes"] > 100


def looks() -> Iterator[tuple[str, Moment]]:
    """Yield trees that are more than a feature's, and what they can be coloured by."""
    with closing(FeatureExplorer.demo(cutoff=1e-5, lift=8)) as explorer:
        _settled(explorer)
        explorer.run("loop")
        yield "measured", _settled(explorer)
        explorer.update(direction="302 - 0.5*17")
        yield "direction", _settled(explorer)
        explorer.update(
            direction=None,
            feature=302,
            interventions=[Clamp(17, 8.0), Steer(933, 0.5, unit="residual_norm")],
        )
        yield "interventions", _settled(explorer)
        explorer.update(
            interventions=[],
            prompt=(
                "This is a dictionary for learners. It explains each word in one short phrase, "
                'and leaves out where the word is from.\n\nThe word "{ghost}" means "'
            ),
        )
        yield "long prompt", _settled(explorer)
        explorer.update(prompt='تعريف كلمة "{ghost}" هو "')
        yield "arabic prompt", _settled(explorer)


def requested() -> Iterator[tuple[str, Moment]]:
    """Yield every analysis on request: at rest, at work, stopped, broken, done, out of date."""
    options = {"against": "weights=encoder", "targets": [" dog", " car"]}
    with closing(FeatureExplorer.demo(**options)) as explorer:
        yield "idle", _settled(explorer)
        tape = _tape(explorer)
        for panel in explorer.jobs:
            seen = tape.count
            with _slowed():
                explorer.run(panel)
                yield f"{panel} running", tape.first(lambda m, p=panel: _is_seen(m, p), seen)
                explorer.cancel(panel)
                yield f"{panel} partial", _settled(explorer)
            with _broken():
                explorer.run(panel)
                yield f"{panel} error", _settled(explorer)
            explorer.run(panel)
            yield f"{panel} done", _settled(explorer)
        explorer.update(feature=17)
        yield "stale", _settled(explorer)


def _is_seen(moment: Moment, panel: str) -> bool:
    return moment.job(panel) == "running" and panel in moment.found


def variants() -> Iterator[tuple[str, Moment]]:
    """Yield what the bundled model has not: a large SAE and tree, hostile tokens, no kernel."""
    options = {"against": "weights=encoder", "max_tokens": 20}
    with closing(FeatureExplorer.demo(**options)) as explorer:
        done = _settled(explorer)
        for panel in ("steering", "difference", "loop"):
            explorer.run(panel)
        yield "hostile", _with_tokens(_settled(explorer))
        yield "saved", done.but(_saved=True)
        yield "large", done.but(**_large(done, 50_000))
        yield "hub", done.but(**_hub(done))


def _with_tokens(moment: Moment) -> Moment:
    """Return a moment whose tokens are hostile ones by turns."""
    state = copy.deepcopy(dict(moment.state))
    for name in ("_tree", "_tokens", "_lens", "_difference"):
        texts = state[name]["text"]
        first = 1 if name in ("_tree", "_difference") else 0  # the root has none
        texts[first:] = [HOSTILE[place % len(HOSTILE)] for place in range(len(texts) - first)]
    for text in state["_steering"]["texts"]:
        text["tokens"] = [HOSTILE[place % len(HOSTILE)] for place in range(len(text["tokens"]))]
    for place, definition in enumerate(state["_loop"]["definitions"]):
        definition["text"] = "".join(HOSTILE[place % 7 : place % 7 + 3])
    return Moment(state)


def _large(moment: Moment, count: int) -> dict[str, Any]:
    """Return the traits of a moment whose tree has so many nodes, five below one another's parent."""
    tree = dict(moment.state["_tree"])
    parent = np.maximum(np.arange(count) - 1, 0) // 5
    parent[0] = -1
    place = (np.arange(count) - 1) % 5
    probability = np.array([0.4, 0.25, 0.15, 0.1, 0.05])[place]
    probability[0] = 1.0
    words = [place for place, text in enumerate(tree["text"]) if text.strip().isalpha()]
    token = np.array(words)[np.arange(count) % len(words)]
    token[0] = 0
    tree |= {
        "parent": packed(parent.astype(np.int32)),
        "token": packed(token.astype(np.int32)),
        "probability": packed(probability.astype(np.float32)),
        "expanded": packed(np.ones(count, np.uint8)),
        "settled": count,
    }
    return {"_tree": tree, "_status": {**moment.status, "nodes": count, "covered": 0.83}}


def _hub(moment: Moment) -> dict[str, Any]:
    """Return the traits of a moment as with a model from the hub, whose release has many SAEs."""
    release, hook = "gemma-scope-2b-pt-res-canonical", "blocks.12.hook_resid_post"
    saes = [
        {
            "release": release,
            "sae_id": f"layer_{layer}/width_1m/canonical",
            "layer": layer,
            "label": "width 1m",
            "held": layer == 12,
        }
        for layer in range(26)
    ]
    subject = {
        "model": "google/gemma-2-2b",
        "release": release,
        "sae": "layer_12/width_1m/canonical",
        "hook_name": hook,
        "layer": 12,
        "width": 1_048_576,
        "d_model": 2304,
        "vocabulary_size": 256_000,
        "device": "cuda:0",
        "dtype": "bfloat16",
        "neuronpedia": "https://www.neuronpedia.org/gemma-2-2b/12-gemmascope-res-1m/",
        "featured": [],
        "saes": saes,
    }
    return {
        "_subject": {**moment.state["_subject"], **subject},
        "_values": {**moment.state["_values"], "feature": 1_048_575},
    }


#: What makes moments; a state names one by its recipe and its own name.
RECIPES = (starting, growth, looks, requested, variants)
