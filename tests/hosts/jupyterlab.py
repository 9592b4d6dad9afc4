"""Starts JupyterLab for a test, and drives a notebook in it.

``SAE_EXPLORER_SCREENSHOTS`` names a folder for pictures of what the tests see.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
from playwright.sync_api import expect

from hosts.browser import visit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from playwright.sync_api import Browser, Locator, Page

#: Under these JupyterLab asks nobody, and saves when it is told to.
_SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "docmanager-extension/plugin": {"autosave": False},
}
#: What goes on in JupyterLab itself, whatever is shown in it.
_OF_THE_HOST = ("favicon", "Failed to load resource: the server responded with a status of 404")


@dataclass
class Lab:
    """A running JupyterLab."""

    root: Path
    port: int
    token: str

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def address(self, notebook: str) -> str:
        return f"http://{self.host}/lab/tree/{notebook}?reset&token={self.token}"

    def api(self, method: str, path: str) -> Any:
        """Ask the server itself."""
        asked = urllib.request.Request(
            f"http://{self.host}/api/{path}",
            method=method,
            headers={"Authorization": f"token {self.token}"},
        )
        with urllib.request.urlopen(asked, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def shut_kernels_down(self) -> None:
        for session in self.api("GET", "sessions"):
            self.api("DELETE", f"sessions/{session['id']}")


@contextmanager
def running(home: Path, variables: Mapping[str, str] | None = None) -> Iterator[Lab]:
    """Run JupyterLab with a home of its own.

    Parameters
    ----------
    home
        An empty folder.
    variables
        More of the environment; without any the Hugging Face hub is not asked.
    """
    root = home / "notebooks"
    root.mkdir(parents=True)
    settings = home / "settings"
    for name, values in _SETTINGS.items():
        path = settings / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    lab = Lab(root, port, secrets.token_hex(16))
    environment = {
        **os.environ,
        "HOME": str(home),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(settings),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
        **({"HF_HUB_OFFLINE": "1"} if variables is None else variables),
    }
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
        f"--ServerApp.root_dir={root}",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={lab.token}",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly",
        "--LabApp.expose_app_in_browser=True",
    ]
    with (home / "jupyterlab.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=root)
        try:
            _until_it_answers(lab, server, home / "jupyterlab.log")
            yield lab
        finally:
            server.terminate()
            server.wait(timeout=30)


def _until_it_answers(lab: Lab, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        if server.poll() is not None:
            break
        try:
            lab.api("GET", "status")
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")


class NotebookPage:
    """A notebook in JupyterLab, in a page of a browser."""

    def __init__(self, lab: Lab, page: Page, name: str) -> None:
        self.lab = lab
        self.page = page
        self.name = name

    def open(self) -> None:
        """Load the page, the notebook in it, and wait until its kernel is there."""
        self.page.goto(self.lab.address(self.name))
        self.ready()

    def ready(self) -> None:
        """Wait until the notebook stands there with its kernel."""
        self.page.wait_for_function(
            "(name) => { const shown = window.jupyterapp?.shell.currentWidget;"
            " return shown?.context?.path === name && shown.content.widgets.length > 0"
            " && shown.sessionContext.isReady"
            " && shown.sessionContext.session?.kernel?.connectionStatus === 'connected'; }",
            arg=self.name,
        )

    @property
    def panel(self) -> Locator:
        return self.page.locator(".jp-NotebookPanel:visible")

    @property
    def cells(self) -> Locator:
        return self.panel.locator(".jp-Cell")

    @property
    def widget(self) -> Locator:
        """The explorer that the notebook shows first."""
        return self.panel.locator(".sae-explorer").first

    @property
    def rows(self) -> Locator:
        return self.widget.get_by_role("tree").get_by_role("treeitem")

    @property
    def status(self) -> Locator:
        return self.widget.locator(".sae-status")

    def nodes(self) -> int:
        """Return how many nodes the header counts."""
        said = re.search(r"([\d,]+)\s+nodes", self.status.inner_text())
        return int(said[1].replace(",", "")) if said else 0

    def run(self, index: int) -> None:
        """Run a cell; do not wait until it ends."""
        self.page.evaluate(
            "(index) => { const app = window.jupyterapp; const notebook = app.shell.currentWidget;"
            " notebook.content.deselectAll(); notebook.content.activeCellIndex = index;"
            " void app.commands.execute('notebook:run-cell'); }",
            index,
        )

    def write(self, index: int, source: str) -> None:
        """Put another source into a cell."""
        self.page.evaluate(
            "([index, source]) => window.jupyterapp.shell.currentWidget.content.model"
            ".sharedModel.cells[index].setSource(source)",
            [index, source],
        )

    def command(self, name: str, args: dict[str, Any] | None = None) -> None:
        """Run one of JupyterLab's commands."""
        self.page.evaluate(
            "([name, args]) => window.jupyterapp.commands.execute(name, args)", [name, args or {}]
        )

    def save(self) -> dict[str, Any]:
        """Save the notebook and return what is in the file."""
        self.command("docmanager:save")
        saved: dict[str, Any] = json.loads((self.lab.root / self.name).read_text(encoding="utf-8"))
        return saved

    def source(self) -> list[str]:
        """Return what stands in the notebook's cells, as JupyterLab has it."""
        found: list[str] = self.page.evaluate(
            "() => window.jupyterapp.shell.currentWidget.content.model.sharedModel.cells"
            ".map((cell) => cell.getSource())"
        )
        return found

    def until(self, condition: Callable[[], object], seconds: float = 60.0) -> None:
        """Wait for what no locator can say."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end
            self.page.wait_for_timeout(50)


def copied(lab: Lab, notebook: Path, name: str) -> str:
    """Put a notebook where JupyterLab finds it; return its name there."""
    shutil.copy(notebook, lab.root / name)
    return name


def written(lab: Lab, sources: Sequence[str], name: str) -> str:
    """Write a notebook with these cells where JupyterLab finds it; return its name there."""
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), lab.root / name)
    return name


def opened(lab: Lab, browser: Browser, name: str) -> Iterator[NotebookPage]:
    """Give a notebook in the browser; in the end nothing went wrong and nobody was asked."""
    with visit(browser, "about:blank", offline=False, width=1500, height=1100) as seen:
        notebook = NotebookPage(lab, seen.page, name)
        notebook.open()
        yield notebook
        lab.shut_kernels_down()
    strangers = [address for address in seen.requests if f"//{lab.host}/" not in address]
    assert strangers == []
    own = [text for text in seen.problems if not any(word in text for word in _OF_THE_HOST)]
    assert own == []


def photograph(notebook: NotebookPage, name: str) -> None:
    """Take a picture, where pictures are wanted."""
    folder = os.environ.get("SAE_EXPLORER_SCREENSHOTS")
    if folder:
        notebook.widget.scroll_into_view_if_needed()
        notebook.page.screenshot(path=Path(folder) / f"{name}.png")


def state(notebook: NotebookPage, word: str) -> None:
    """Wait until the header says that it is loading, growing, done, partial or an error."""
    chip = notebook.status.locator(".sae-chip")
    expect(chip).to_have_attribute("data-state", word, timeout=60_000)
