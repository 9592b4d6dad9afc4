"""Claims about what the kernel makes of messages that no front-end of ours would send."""

from __future__ import annotations

import contextlib
import json
import threading
from functools import cache
from typing import TYPE_CHECKING, Any

import comm
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from explorers import OPTIONS, REQUESTED, SMALL, Gate, Recording, begun, subject
from front_end import FrontEnd
from sae_explorer import ExplorerError, FeatureExplorer, Subject, grow_tree
from sae_explorer.request import plain
from sae_explorer.widget import session
from sae_explorer.widget.jobs import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Of each moment, and of an explorer that was closed: more than a thousand of them are answered.
CASES = 400

GIVEN: dict[str, Any] = {
    **OPTIONS,
    "cutoff": 0.05,
    **{name: value for panel in REQUESTED for name, value in SMALL[panel].items()},
}

# --- Messages ------------------------------------------------------------------------------------

odd_numbers = st.sampled_from(
    [1e308, -1e308, 5e-324, -0.0, 2**31, 2**63, -(2**63) - 1, 10**400, -(10**400), 1e29, 1e30]
)
not_numbers = st.sampled_from([float("nan"), float("inf"), float("-inf")])
odd_texts = st.sampled_from(
    ["x" * 100_000, "\ud800", "\x00", "\u202e", "</script>", "\x1b[31m", "{ghost}", "{ghost" * 500]
)


def nested(depth: int) -> Any:
    """Return lists and maps within each other, as deep as JSON in Python can be."""
    value: Any = 1
    for level in range(depth):
        value = {"feature": value} if level % 2 else [value]
    return value


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | odd_numbers
    | not_numbers
    | odd_texts
    | st.sampled_from([nested(300), b"bytes", memoryview(b"more")]),
    lambda below: (
        st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=10), below, max_size=3)
    ),
    max_leaves=6,
)
names = st.sampled_from([*session.OPTIONS, "self", "_status", "_tree", "layer", "comm", "bogus"])
types = st.sampled_from(
    ["hello", "set", "select", "reset", "since", "export", "resume", "run", "cancel", "close", ""]
)
rids = st.sampled_from(["r"] * 6 + ["again", "r" * 1000, 7, -1, 10**400, ""])
#: What comes back as a rid must be what the browser can have given: text, or a whole number.
bad_rids = st.sampled_from([None, 1.5, float("nan"), "\ud800", ["r"], {"r": 1}, nested(300)])
panels = st.sampled_from([*session.ANALYSES, "", "nothing", None, 3, ["tree"]])
#: Such as a front-end of ours might send, with something wrong in most.
likely = st.fixed_dictionaries(
    {"type": types | values, "rid": rids | bad_rids},
    optional={
        "values": values | st.dictionaries(names | st.text(max_size=8), values, max_size=2),
        "run": st.integers(-1, 3) | values,
        "first": st.integers(-1, 300) | values,
        "file": st.sampled_from(["tree.json", "../tree.json", "report.html", ""]) | values,
        "panel": panels | values,
        "release": st.sampled_from(["", "gemma-2b-res-jb"]) | values,
        "sae_id": st.sampled_from(["", "blocks.1.hook_resid_post"]) | values,
        "buffers": values,
    },
)
sets = st.fixed_dictionaries(
    {
        "type": st.just("set"),
        "rid": rids,
        "values": st.dictionaries(
            st.sampled_from([*session.OPTIONS]), values, min_size=1, max_size=2
        ),
    }
)
contents = likely | sets | values
#: What ipywidgets' own protocol has besides.
others = st.fixed_dictionaries(
    {"method": st.sampled_from(["update", "request_state", "echo_update", "", None, 3])},
    optional={
        "state": st.dictionaries(
            names | st.sampled_from(["_esm", "_values", "_jobs", "_subject", "_files"]),
            values,
            max_size=3,
        ),
        "buffer_paths": st.lists(st.lists(st.just("x"), min_size=1, max_size=1), max_size=2),
    },
)
buffers = st.lists(st.binary(max_size=9), max_size=2)

# --- Moments -------------------------------------------------------------------------------------


class Listening(FrontEnd):
    """A front-end that keeps every reply, in their order."""

    def __init__(self, send: Any) -> None:
        super().__init__(send)
        self.heard: list[dict[str, Any]] = []

    def _told(self, content: dict[str, Any]) -> None:
        if content["type"] == "reply":
            self.heard.append(content)
        super()._told(content)


class ListeningComm(Recording):
    """A comm that is as strict as Jupyter's about what it sends."""

    player = Listening

    def publish_msg(self, msg_type: str, data: Any = None, **more: Any) -> None:
        json.dumps(data, ensure_ascii=False, allow_nan=False).encode()
        super().publish_msg(msg_type, data, **more)


def wire(explorer: FeatureExplorer) -> ListeningComm:
    """Return an explorer's comm."""
    way: ListeningComm = explorer.comm
    return way


@cache
def measured() -> Subject:
    """Return the subject, after what is tried out and measured on a model's first use."""
    explorer: Any = FeatureExplorer(3, subject=subject(), **GIVEN).wait()
    for panel in REQUESTED:
        explorer.run(panel).wait()
    explorer.close()
    return subject()


@contextlib.contextmanager
def loading() -> Iterator[FeatureExplorer]:
    """Give an explorer whose model is on its way, and arrives in the end."""
    arrives = threading.Event()

    def load(_tell: object) -> Subject:
        assert arrives.wait(300)
        return measured()

    explorer = begun(load, **GIVEN)
    try:
        yield explorer
    finally:
        arrives.set()


@contextlib.contextmanager
def growing() -> Iterator[FeatureExplorer]:
    """Give an explorer whose tree has begun, and goes on in the end."""
    gate = Gate(measured().model, seconds=300)
    try:
        explorer = FeatureExplorer(3, subject=measured(), **GIVEN)
        gate.let(1)
        wire(explorer).front_end.until(lambda: gate.waiting and gate._left <= 0)
        yield explorer
    finally:
        gate.open()


@contextlib.contextmanager
def done() -> Iterator[FeatureExplorer]:
    """Give an explorer that has a result in every panel."""
    explorer = FeatureExplorer(3, subject=measured(), **GIVEN).wait()
    for panel in REQUESTED:
        explorer.run(panel).wait()
    yield explorer


MOMENTS = {"loading": loading, "growing": growing, "done": done}


def options_of(explorer: FeatureExplorer) -> dict[str, Any]:
    """Return an explorer's options by name."""
    return {name: plain(getattr(explorer, name)) for name in session.OPTIONS}


def standing(explorer: FeatureExplorer) -> dict[str, Any]:
    """Return all that a message which is refused must leave as it is."""
    synced = {name: getattr(explorer, name) for name in explorer.keys if name != "_esm"}
    options = options_of(explorer)
    results = {name: id(getattr(explorer, name)) for name in session.ANALYSES}
    return {**synced, **options, **results, "status": explorer.status, "jobs": explorer.jobs}


@pytest.fixture(autouse=True)
def _listening(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comm, "create_comm", ListeningComm)


@pytest.fixture(autouse=True)
def _whole(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever is sent, the model, the threads and the log are in the end as they were before."""
    model = measured().model
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    threads = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not Worker.of(model)._jobs
    # ipywidgets catches what its callbacks raise, and writes it there.
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name])
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


many = settings(
    max_examples=CASES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.mark.parametrize("moment", MOMENTS)
def test_every_message_is_answered_and_what_is_refused_changes_nothing(moment: str) -> None:
    answers: list[bool] = []
    with MOMENTS[moment]() as explorer:
        front_end = wire(explorer).front_end
        initial = options_of(explorer)

        @many
        @given(content=contents, beside=buffers)
        def send(content: Any, beside: list[bytes]) -> None:
            before = standing(explorer)
            front_end.heard.clear()
            # Another number for each, or it would be taken for one that was answered before.
            if isinstance(content, dict) and content.get("rid") == "r":
                content = {**content, "rid": f"r{len(answers)}"}
            wire(explorer).deliver({"method": "custom", "content": content}, beside)
            (reply,) = front_end.heard
            assert reply["rid"] == rid_of(content)
            answers.append(reply["ok"])
            if reply["ok"]:
                put_back(explorer, initial, moment)
            else:
                assert 0 < len(reply["error"]) < 2000
                assert "\n" not in reply["error"]
                assert "fault in sae-explorer" not in reply["error"]
                assert standing(explorer) == before
            assert options_of(explorer) == initial

        send()
    # Each of the three moments: 1,200 in all.
    assert len(answers) >= CASES
    assert answers.count(True) > 10
    assert answers.count(False) > 100
    with contextlib.suppress(ExplorerError):  # what was cancelled comes to its end, …
        explorer.wait(timeout=120)
    explorer.retry()  # … before it is done again
    tree = explorer.wait(timeout=120).tree
    asked = {name: initial[name] for name in tree.request.to_dict()}
    assert tree == grow_tree(measured(), **asked)
    explorer.close()


def rid_of(content: Any) -> Any:
    """Return what a reply is to hold of a message's rid: what no browser sends is left out."""
    rid = content.get("rid") if isinstance(content, dict) else None
    return rid if isinstance(rid, int) or (isinstance(rid, str) and rid.isascii()) else None


def put_back(explorer: FeatureExplorer, initial: dict[str, Any], moment: str) -> None:
    """Bring an explorer back to its moment after a message that was followed."""
    explorer.update(**initial)
    if moment == "done":
        explorer.cancel()
        explorer.retry()
        with contextlib.suppress(ExplorerError):  # of a run that the message asked for
            explorer.wait(timeout=120)


@many
@given(data=others, beside=buffers)
def told_of_state(explorer: FeatureExplorer, data: dict[str, Any], beside: list[bytes]) -> None:
    before = standing(explorer)
    wire(explorer).deliver(data, beside)
    assert standing(explorer) == before


def test_no_state_is_taken_from_the_browser() -> None:
    with done() as explorer:
        told_of_state(explorer)
        assert wire(explorer).front_end.ask({"type": "hello"})["ok"]
        explorer.close()


def test_messages_to_a_closed_explorer_do_nothing() -> None:
    explorer = FeatureExplorer(3, subject=measured(), **GIVEN).wait()
    late = wire(explorer)
    explorer.close()

    @many
    @given(content=contents, beside=buffers)
    def send(content: Any, beside: list[bytes]) -> None:
        before = standing(explorer)
        late.front_end.heard.clear()
        late.deliver({"method": "custom", "content": content}, beside)
        assert late.front_end.heard == []  # there is no way back any more
        assert standing(explorer) == before

    send()
    assert explorer.subject is None
