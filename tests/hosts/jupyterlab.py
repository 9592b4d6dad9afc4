"""Starts JupyterLab for a test, and drives a notebook in it or in Notebook 7, which it serves too."""

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
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from playwright.sync_api import expect

from hosts.browser import picture, visit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Self

    from playwright.sync_api import Browser, Locator, Page

#: Under these JupyterLab asks nobody, and saves when it is told to.
_SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "docmanager-extension/plugin": {"autosave": False},
}
#: What goes on in the hosts themselves, whatever is shown in it.
_OF_THE_HOST = (
    "favicon",
    "Failed to load resource: the server responded with a status of 404",
    # Notebook 7.6 does not hand out the icon font in which ipywidgets complains of models it misses.
    "Failed to load resource: the server responded with a status of 403",
    # Notebook 7.6, with an empty notebook too.
    "Cannot read properties of undefined (reading 'schema')",
    "Command 'filebrowser:open-path' not registered.",
)


#: A kernel that starts, or a machine with other work, may take its time; milliseconds.
PATIENCE = 120_000
expect.set_options(timeout=PATIENCE / 4)


@dataclass(frozen=True)
class Host:
    """Where a server shows its notebooks."""

    name: str
    path: str

    def __str__(self) -> str:
        return self.path.split("/")[0]


LAB = Host("JupyterLab 4", "lab/tree")
NOTEBOOK = Host("Notebook 7", "notebooks")
VOILA = Host("Voila", "voila/render")


@dataclass
class Server:
    """A running server, and the folder of its notebooks."""

    root: Path
    port: int

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"


@dataclass
class Lab(Server):
    """A running JupyterLab, which serves Notebook 7 as well."""

    token: str

    def address(self, notebook: str, front: Host = LAB) -> str:
        return f"http://{self.host}/{front.path}/{notebook}?reset&token={self.token}"

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
    lab = Lab(root, free_port(), secrets.token_hex(16))
    environment = {
        **its_own(home),
        "JUPYTERLAB_SETTINGS_DIR": str(settings),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        **({"HF_HUB_OFFLINE": "1"} if variables is None else variables),
    }
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
        f"--ServerApp.root_dir={root}",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={lab.port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={lab.token}",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly",
        "--LabApp.expose_app_in_browser=True",
        "--JupyterNotebookApp.expose_app_in_browser=True",
    ]
    with served(command, environment, root, lambda: lab.api("GET", "status")):
        yield lab


def free_port() -> int:
    """Return a port of the loopback that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def its_own(home: Path) -> dict[str, str]:
    """Return an environment in which Jupyter keeps everything in a home of its own."""
    return {
        **os.environ,
        "HOME": str(home),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "IPYTHONDIR": str(home / "ipython"),
        "OMP_NUM_THREADS": "1",  # the models are tiny: more threads only wait for each other
    }


@contextmanager
def served(
    command: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    ask: Callable[[], object],
) -> Iterator[None]:
    """Run a server in a folder, from its first answer on; its log stands beside that folder."""
    path = folder.parent / "server.log"
    with path.open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
        try:
            for _ in range(600):
                if server.poll() is not None:
                    break
                try:
                    ask()
                except OSError:
                    time.sleep(0.1)
                else:
                    yield
                    return
            raise RuntimeError(f"It did not start: {command}\n{path.read_text()[-3000:]}")
        finally:
            server.terminate()
            server.wait(timeout=30)


class WidgetPage:
    """A page of a browser in which explorers are shown; what is asked is asked about one of them."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.index = 0

    def nth(self, index: int) -> Self:
        """Return the same page, for what is asked about another of its explorers."""
        other = copy(self)
        other.index = index
        return other

    @property
    def panel(self) -> Locator:
        return self.page.locator("body")

    @property
    def widget(self) -> Locator:
        return self.panel.locator(".sae-explorer").nth(self.index)

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

    def enter(self, label: str, text: str) -> None:
        """Write into one of the explorer's fields."""
        field = self.widget.get_by_role("textbox", name=label, exact=True)
        field.fill(text)
        field.press("Enter")

    def run_analysis(self, title: str) -> Locator:
        """Bring a panel into sight and run it to its end; return it."""
        self.widget.get_by_role("tab", name=title).click()
        panel = self.widget.get_by_role("tabpanel", name=title)
        panel.get_by_role("button", name="Run", exact=True).click()
        expect(panel.locator(".sae-run")).to_have_attribute("data-state", "done", timeout=PATIENCE)
        return panel

    def exported(self, file: str, folder: Path) -> Path:
        """Save one of the files of the menu."""
        self.widget.get_by_role("button", name="Export", exact=True).click()
        with self.page.expect_download() as waiting:
            self.widget.get_by_role("menuitem", name=file).click()
        assert waiting.value.suggested_filename == file
        waiting.value.save_as(folder / file)
        return folder / file

    def is_dark(self) -> bool:
        """Return whether the explorer's text is lighter than what it stands on."""
        paper, ink = self.widget.evaluate(
            "(element) => { const style = getComputedStyle(element);"
            " return [style.backgroundColor, style.color].map((colour) =>"
            " colour.match(/[\\d.]+/g).slice(0, 3).reduce((sum, part) => sum + +part, 0)); }"
        )
        return bool(paper < ink)

    def expect_tree_of(self, words: str) -> None:
        """Wait until the tree is that of a feature, and whole."""
        expect(self.widget.get_by_role("tree")).to_have_accessible_name(
            re.compile(rf"\b{words}\b"), timeout=PATIENCE
        )
        state(self, "done")

    def until(self, condition: Callable[[], object], seconds: float = 60.0) -> None:
        """Wait for what no locator can say."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end
            self.page.wait_for_timeout(50)


class NotebookPage(WidgetPage):
    """A notebook in JupyterLab or Notebook 7, in a page of a browser."""

    def __init__(self, lab: Lab, page: Page, name: str, front: Host = LAB) -> None:
        super().__init__(page)
        self.lab = lab
        self.name = name
        self.front = front

    def open(self) -> None:
        """Load the page, the notebook in it, and wait until its kernel is there."""
        self.page.goto(self.lab.address(self.name, self.front))
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

    def restored(self) -> None:
        """Wait until the explorers that were saved are shown.

        ipywidgets' manager, asked again by a kernel that connects late, calls itself restored before
        it has read the notebook, and misses its models for good: a reader then loads the page again.
        """
        missed = self.panel.get_by_text("Error displaying widget: model not found").first
        for _ in range(3):
            expect(self.rows.first.or_(missed)).to_be_visible()
            if not missed.count():
                return
            self.open()
        expect(missed).to_have_count(0)

    @property
    def panel(self) -> Locator:
        return self.page.locator(".jp-NotebookPanel:visible")

    @property
    def cells(self) -> Locator:
        return self.panel.locator(".jp-Cell")

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


def copied(server: Server, notebook: Path, name: str) -> str:
    """Put a notebook where a server finds it; return its name there."""
    shutil.copy(notebook, server.root / name)
    return name


def written(server: Server, sources: Sequence[str], name: str) -> str:
    """Write a notebook with these cells where a server finds it; return its name there."""
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), server.root / name)
    return name


@contextmanager
def opened(lab: Lab, browser: Browser, name: str, front: Host = LAB) -> Iterator[NotebookPage]:
    """Give a notebook in the browser; in the end nothing went wrong and nobody was asked."""
    with visit(browser, "about:blank", offline=False, width=1500, height=1100) as seen:
        seen.page.set_default_timeout(PATIENCE)
        notebook = NotebookPage(lab, seen.page, name, front)
        try:
            notebook.open()
            yield notebook
        finally:
            lab.shut_kernels_down()
    strangers = [address for address in seen.requests if f"//{lab.host}/" not in address]
    assert strangers == []
    own = [text for text in seen.problems if not any(word in text for word in _OF_THE_HOST)]
    assert own == [], own


@contextmanager
def prepared(lab: Lab, browser: Browser, cells: Sequence[str], name: str) -> Iterator[NotebookPage]:
    """Give a notebook whose first cell has run, up to the ``ready`` that it prints."""
    with opened(lab, browser, written(lab, cells, name)) as notebook:
        notebook.run(0)
        # The kernel imports all that there is.
        expect(notebook.cells.first).to_contain_text("ready\n", timeout=2 * PATIENCE)
        yield notebook


def made_anew(notebook: NotebookPage, cell: int) -> NotebookPage:
    """Return a notebook with the explorer of a cell, that nobody has asked anything yet, alone."""
    notebook.command("notebook:clear-all-cell-outputs")
    expect(notebook.panel.locator(".sae-explorer")).to_have_count(0)
    notebook.run(cell)
    state(notebook, "done")
    return notebook


def shows(*claims: str, among: Sequence[Host] = (LAB, NOTEBOOK)) -> pytest.MarkDecorator:
    """Run a test in several hosts, as its ``front``, and enter its claims in the table of hosts."""
    return pytest.mark.parametrize(
        "front",
        [pytest.param(each, marks=pytest.mark.host(each.name, *claims)) for each in among],
        ids=str,
    )


def name_of(request: pytest.FixtureRequest) -> str:
    """Return a name for the notebook of a test."""
    return re.sub(r"\W+", "-", request.node.name).strip("-") + ".ipynb"


def photograph(notebook: WidgetPage, name: str) -> None:
    """Take a picture, where pictures are wanted."""
    path = picture(name)
    if path is not None:
        notebook.widget.scroll_into_view_if_needed()
        notebook.page.screenshot(path=path)


def state(notebook: WidgetPage, word: str) -> None:
    """Wait until the header says that it is loading, growing, done, partial or an error."""
    chip = notebook.status.locator(".sae-chip")
    expect(chip).to_have_attribute("data-state", word, timeout=PATIENCE)
