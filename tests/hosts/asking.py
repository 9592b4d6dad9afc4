"""Asks a notebook's kernel beside its cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hosts.jupyterlab import NotebookPage

_EXECUTE = """async (code) => {
  const { kernel } = window.jupyterapp.shell.currentWidget.sessionContext.session;
  let printed = "";
  const future = kernel.requestExecute({ code, store_history: false });
  future.onIOPub = ({ header, content }) => {
    if (header.msg_type === "stream") printed += content.text;
    if (header.msg_type === "error") printed += content.traceback.join("\\n");
  };
  await future.done;
  return printed;
}"""


def python(notebook: NotebookPage, code: str) -> str:
    """Run code in the kernel of a notebook, which takes no note of it; return what it printed."""
    printed: str = notebook.page.evaluate(_EXECUTE, code)
    return printed.strip()
