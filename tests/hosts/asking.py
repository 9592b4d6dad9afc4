"""Asks a notebook's kernel beside its cells, holds up the model in it, checks what was exported."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hosts.jupyterlab import NotebookPage
    from sae_explorer.results import Result


_EXECUTE = """async (code) => {
  const { kernel } = window.jupyterapp.shell.currentWidget.sessionContext.session;
  let printed = "";
  let error = null;
  const future = kernel.requestExecute({ code, store_history: false });
  future.onIOPub = ({ header, content }) => {
    if (header.msg_type === "stream") printed += content.text;
    if (header.msg_type === "error") error = content.traceback.join("\\n");
  };
  // A cell that never ends is a failure of the test, and not of the whole run.
  const late = new Promise((_, fail) => setTimeout(fail, 120_000, new Error("The kernel is busy.")));
  await Promise.race([future.done, late]);
  if (error) throw new Error(error);
  return printed;
}"""


def python(notebook: NotebookPage, code: str) -> str:
    """Run code in the kernel of a notebook, which takes no note of it; return what it printed."""
    printed: str = notebook.page.evaluate(_EXECUTE, code)
    return printed.strip()


#: A cell with a model whose forwards can be slow, held up, some of them later than now, or fail.
MODEL = """\
import threading, time
from sae_explorer import FeatureExplorer, Subject
from sae_explorer.loading.demo import DIRECTION

go, left, pause, broken = threading.Event(), 0, 0.0, False
go.set()

def each_forward(*_):
    global left
    left -= 1
    if left < 0:
        go.wait()
    time.sleep(pause)
    if broken:
        raise RuntimeError("The device is out of memory.")

def as_new():
    global pause, broken
    go.set()
    pause, broken = 0.0, False

subject = Subject.demo()
subject.model.register_forward_pre_hook(each_forward)"""


def hold(notebook: NotebookPage, forwards: int, pause: float = 0.0) -> None:
    """Let :data:`MODEL` do so many forwards more, each so many seconds late, and then none."""
    python(notebook, f"left, pause = {forwards}, {pause}\ngo.clear()")


def let_go(notebook: NotebookPage) -> None:
    """Let it go on, after time enough for what the page has said before to be heard."""
    python(notebook, "time.sleep(1)\ngo.set()")


def digest(result: Result) -> str:
    """Return a number of everything in a result."""
    return hashlib.sha256(result.to_json().encode()).hexdigest()


def digest_in_python(name: str = "tree") -> str:
    """Return what a kernel has to work out for that number of one of ``explorer``'s results."""
    return f"__import__('hashlib').sha256(explorer.{name}.to_json().encode()).hexdigest()"
