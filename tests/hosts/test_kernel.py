"""The widget in a real kernel, driven over its sockets without a browser."""

from __future__ import annotations

import contextlib
import html.parser
import queue
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import nbclient
import nbformat
import pytest
from ipywidgets.widgets.widget import _put_buffers
from jupyter_client.manager import KernelManager

from front_end import FrontEnd, Rows
from sae_explorer import DefinitionTree, Subject, grow_tree
from sae_explorer.loading import demo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

#: A tree that grows for minutes.
ENDLESS = "cutoff=1e-10, max_nodes=None, max_depth=60"
#: What the issue demands of Cancel, in seconds.
PROMPT = 0.2
#: A cell that runs until the browser has changed something.
_UNTIL_CHANGED = """
import time
print("begun", flush=True)
while explorer.exponent != 2.5:
    time.sleep(0.01)
"""


class Notebook:
    """What a notebook is to a kernel: cells go to it, outputs and messages of widgets come back."""

    def __init__(self, manager: KernelManager) -> None:
        self.client = manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=120)
        self.front_ends: dict[str, FrontEnd] = {}
        self.outputs: dict[str, list[dict[str, Any]]] = {}
        self.idle: set[str] = set()
        self._begun: list[str] = []
        #: In which subshell the messages of widgets are heard; None: between the cells.
        self.subshell: str | None = None
        self._ended = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def close(self) -> None:
        self._ended.set()
        self._reader.join()
        self.client.stop_channels()

    def begin(self, code: str) -> str:
        """Run a cell; return at once what its outputs are known by."""
        cell = str(self.client.execute(code, allow_stdin=False))
        self._begun.append(cell)
        return cell

    @property
    def busy(self) -> bool:
        return not self.idle.issuperset(self._begun)

    def run(self, code: str) -> list[dict[str, Any]]:
        """Run a cell to its end and return its outputs."""
        cell = self.begin(code)
        self.until(lambda: cell in self.idle)
        return self.outputs.get(cell, [])

    def text(self, code: str) -> str:
        """Run a cell and return what it printed; it must not fail."""
        outputs = self.run(code)
        assert [o for o in outputs if o["msg_type"] == "error"] == []
        return "".join(o["content"]["text"] for o in outputs if o["msg_type"] == "stream")

    def show(self, code: str) -> FrontEnd:
        """Run a cell that makes an explorer, and return its front-end."""
        outputs = self.run(f"explorer = {code}\nexplorer")
        (view,) = [
            data["application/vnd.jupyter.widget-view+json"]
            for data in (o["content"].get("data", {}) for o in outputs)
            if "application/vnd.jupyter.widget-view+json" in data
        ]
        front_end = self.front_ends[view["model_id"]]
        assert front_end.ask({"type": "hello"})["ok"]
        return front_end

    def open_subshell(self) -> None:
        """Let widgets be heard while a cell runs, as JupyterLab does."""
        message = self.client.session.msg("create_subshell_request", {})
        self.client.control_channel.send(message)
        reply = self.client.get_control_msg(timeout=30)["content"]
        assert reply["status"] == "ok"
        self.subshell = reply["subshell_id"]

    def until(self, condition: Callable[[], object], seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.005)

    def _send(self, comm: str, content: dict[str, Any]) -> None:
        data = {"method": "custom", "content": content}
        message = self.client.session.msg("comm_msg", {"comm_id": comm, "data": data})
        if self.subshell is not None:
            message["header"]["subshell_id"] = self.subshell
        self.client.shell_channel.send(message)

    def _read(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(queue.Empty):
                self._take(self.client.get_iopub_msg(timeout=0.1))

    def _take(self, message: dict[str, Any]) -> None:
        kind, content = message["msg_type"], message["content"]
        cell = message["parent_header"].get("msg_id")
        if kind == "status" and content["execution_state"] == "idle":
            self.idle.add(cell)
        elif kind == "comm_open":
            comm = content["comm_id"]
            self.front_ends[comm] = FrontEnd(lambda asked: self._send(comm, asked))
            self.front_ends[comm].hear(content["data"], message["buffers"])
        elif kind == "comm_msg":
            self.front_ends[content["comm_id"]].hear(content["data"], message["buffers"])
        elif kind in ("stream", "error", "display_data", "execute_result", "update_display_data"):
            self.outputs.setdefault(cell, []).append(message)


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelManager]:
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel()
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.fixture
def notebook(kernel: KernelManager) -> Iterator[Notebook]:
    notebook = Notebook(kernel)
    notebook.run(
        "import torch; torch.set_num_threads(1); from sae_explorer import FeatureExplorer, Subject"
    )
    yield notebook
    if notebook.busy:
        kernel.interrupt_kernel()
    notebook.run("explorer.close()")
    notebook.close()


def test_rows_come_in_order_and_make_the_tree_of_the_kernel(notebook: Notebook) -> None:
    front_end = notebook.show("FeatureExplorer.demo(cutoff=1e-7)")
    front_end.until(lambda: front_end.status["state"] == "done")
    tree = DefinitionTree.from_json(notebook.text("print(explorer.tree.to_json())"))
    assert len(front_end.appends) > 2
    streamed = Rows(front_end.appends[0]["run"])
    for rows in front_end.appends:
        assert rows["first"] == streamed.settled
        streamed.append(rows)
    streamed.assert_settled(tree)
    front_end.rows.assert_are(tree)
    states = [status["state"] for status in front_end.statuses]
    assert states == sorted(states, key=["loading", "growing", "done"].index)


def soonest(notebook: Notebook, front_end: FrontEnd) -> float:
    """Cancel and grow on three times; return the least time until all had stopped."""
    seconds = []
    for _ in range(3):
        told = len(front_end.statuses)
        front_end.until(lambda: len(front_end.statuses) > told + 1)  # noqa: B023 - called at once
        assert front_end.status["state"] == "growing"
        began = time.monotonic()
        assert front_end.ask({"type": "cancel"})["ok"]
        front_end.until(lambda: front_end.status["state"] == "partial")
        seconds.append(time.monotonic() - began)
        assert front_end.status["resumable"]
        assert front_end.ask({"type": "resume"})["ok"]
    assert front_end.ask({"type": "cancel"})["ok"]
    front_end.until(lambda: front_end.status["state"] == "partial")
    return min(seconds)


def test_cancel_is_answered_at_once_while_the_tree_grows(notebook: Notebook) -> None:
    front_end = notebook.show(f"FeatureExplorer.demo({ENDLESS})")
    front_end.until(lambda: front_end.rows is not None)
    assert soonest(notebook, front_end) < PROMPT
    tree = DefinitionTree.from_json(notebook.text("print(explorer.tree.to_json())"))
    assert tree.partial
    front_end.rows.assert_are(tree)


def test_cancel_is_answered_at_once_while_a_cell_runs(notebook: Notebook) -> None:
    notebook.open_subshell()
    front_end = notebook.show(f"FeatureExplorer.demo({ENDLESS})")
    front_end.until(lambda: front_end.rows is not None)
    cell = notebook.begin(_UNTIL_CHANGED)
    notebook.until(lambda: notebook.outputs.get(cell))
    took = soonest(notebook, front_end)
    assert cell not in notebook.idle
    assert front_end.ask({"type": "set", "values": {"exponent": 2.5}})["ok"]
    notebook.until(lambda: cell in notebook.idle)
    assert took < PROMPT


@pytest.mark.parametrize("told", ["explorer.wait()", "explorer.exponent = 1.5"])
def test_the_browser_is_heard_while_a_cell_runs_that_told_it_something(
    notebook: Notebook, told: str
) -> None:
    notebook.open_subshell()
    front_end = notebook.show("FeatureExplorer.demo()")
    front_end.until(lambda: front_end.status["state"] == "done")
    cell = notebook.begin(f"{told}\n{_UNTIL_CHANGED}")
    notebook.until(lambda: any(o["msg_type"] == "stream" for o in notebook.outputs.get(cell, [])))
    assert front_end.ask({"type": "set", "values": {"exponent": 2.5}})["ok"]
    notebook.until(lambda: cell in notebook.idle)


def test_what_a_cell_prints_and_what_the_widget_tells_stay_apart(notebook: Notebook) -> None:
    front_end = notebook.show("FeatureExplorer.demo()")
    outputs = notebook.run("print('only this')")
    assert [o["msg_type"] for o in outputs] == ["stream"]
    front_end.until(lambda: front_end.status["state"] == "done")


def test_an_error_is_a_state_of_the_widget_and_raised_where_it_is_waited_for(
    notebook: Notebook,
) -> None:
    front_end = notebook.show('FeatureExplorer(release="no-such-release", layer=1)')
    front_end.until(lambda: front_end.status["state"] == "error")
    assert "no-such-release" in front_end.status["error"]
    for code in ("explorer.wait()", "await explorer"):
        (error,) = [o for o in notebook.run(code) if o["msg_type"] == "error"]
        assert error["content"]["ename"] == "ExplorerError"
        assert error["content"]["evalue"] == front_end.status["error"]
    reply = front_end.ask({"type": "set", "values": {"scale": -1}})
    assert (reply["ok"], "scale is -1" in reply["error"]) == (False, True)


def test_a_change_that_cannot_be_is_answered_and_leaves_the_tree(notebook: Notebook) -> None:
    front_end = notebook.show("FeatureExplorer.demo()")
    front_end.until(lambda: front_end.status["state"] == "done")
    before = len(front_end.rows)
    reply = front_end.ask({"type": "set", "values": {"prompt": "no place for it"}})
    assert "no placeholder" in reply["error"]
    assert front_end.status["state"] == "done"
    assert len(front_end.rows) == before
    assert notebook.text("print(explorer.status.state, len(explorer.tree))") == f"done {before}\n"


@pytest.mark.parametrize("wait", ["explorer.wait()", "(await explorer)"])
def test_cells_wait_for_the_tree(notebook: Notebook, wait: str) -> None:
    notebook.show("FeatureExplorer.demo()")
    expected = grow_tree(Subject.demo(), feature=demo.shown(), **demo.DIRECTION)
    assert notebook.text(f"print(len({wait}.tree))") == f"{len(expected)}\n"
    assert notebook.text(f"explorer.cutoff = 1e-3; print({wait}.tree.status)") == "complete\n"


class _Text(html.parser.HTMLParser):
    """What a page says, scripts and styles apart."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self._inside = 0

    def handle_starttag(self, tag: str, _attrs: object) -> None:
        self._inside += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._inside -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.said.append(data)


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a notebook that nbclient has run and saved."""
    folder = tmp_path_factory.mktemp("executed")
    cells = [
        "from sae_explorer import FeatureExplorer\nexplorer = FeatureExplorer.demo()\nexplorer",
        "explorer.cutoff = 1e-3\nexplorer.wait()\nexplorer.tree.to_json('tree.json');",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    client = nbclient.NotebookClient(
        notebook, kernel_name="python3", resources={"metadata": {"path": str(folder)}}, timeout=120
    )
    client.execute()
    nbformat.write(notebook, folder / "executed.ipynb")
    return folder


def test_a_notebook_that_nbclient_runs_is_saved_with_the_final_state(executed: Path) -> None:
    notebook = nbformat.read(executed / "executed.ipynb", as_version=4)
    tree = DefinitionTree.from_json(executed / "tree.json")
    view, _summary = notebook.cells[0].outputs
    model = view["data"]["application/vnd.jupyter.widget-view+json"]["model_id"]
    saved = notebook.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    state = saved[model]["state"]
    _put_buffers(
        state,
        [buffer["path"] for buffer in saved[model]["buffers"]],
        [nbformat_bytes(buffer) for buffer in saved[model]["buffers"]],
    )
    assert state["_status"]["state"] == "done"
    assert state["_values"]["cutoff"] == 1e-3
    Rows.of(state["_tree"]).assert_are(tree)


def nbformat_bytes(buffer: dict[str, str]) -> bytes:
    import base64

    assert buffer["encoding"] == "base64"
    return base64.b64decode(buffer["data"])


def test_a_saved_notebook_holds_the_final_summary(executed: Path) -> None:
    notebook = nbformat.read(executed / "executed.ipynb", as_version=4)
    tree = DefinitionTree.from_json(executed / "tree.json")
    _view, summary = notebook.cells[0].outputs
    text = summary["data"]["text/html"]
    assert "sae-explorer-static" in text
    assert tree.hash[:16] in text
    assert "growing" not in text
    assert "done" in summary["data"]["text/plain"]


def test_nbconvert_shows_the_summary_without_a_kernel_or_a_network(executed: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "nbconvert", "--to", "html", executed / "executed.ipynb"],
        check=True,
        capture_output=True,
    )
    page = _Text()
    page.feed((executed / "executed.html").read_text(encoding="utf-8"))
    tree = DefinitionTree.from_json(executed / "tree.json")
    for definition in tree.definitions(10):
        assert definition.text in page.said
