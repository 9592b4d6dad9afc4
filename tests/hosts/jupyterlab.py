"""Starts JupyterLab for a test, and drives a notebook in it or in Notebook 7, which it serves too."""

from __future__ import annotations

import json
import re
import secrets
import shutil
import sys
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from playwright.sync_api import expect

from hosts.asking import python
from hosts.browser import visit
from hosts.page import PATIENCE, WidgetPage, state
from hosts.server import Server, free_port, its_own, served

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

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


class NotebookPage(WidgetPage):
    """A notebook in JupyterLab or Notebook 7, in a page of a browser."""

    def __init__(
        self,
        lab: Lab,
        page: Page,
        name: str,
        front: Host = LAB,
        expect_quiet: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(page)
        self.lab = lab
        self.name = name
        self.front = front
        #: Asserts that nothing went wrong in the page so far, where that is watched.
        self.expect_quiet = expect_quiet

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

    def shut_down(self) -> None:
        """End its kernel."""
        for session in self.lab.api("GET", "sessions"):
            if session["path"] == self.name:
                self.lab.api("DELETE", f"sessions/{session['id']}")

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

    def change_theme(self, theme: str) -> None:
        """Change the theme, and wait until what covers the page meanwhile is gone."""
        self.command("apputils:change-theme", {"theme": theme})
        # Two of these at a time, and JupyterLab fails to take the second away.
        expect(self.page.locator("#jupyterlab-splash")).to_have_count(0)

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
def opened(
    lab: Lab, browser: Browser, name: str, front: Host = LAB, ignoring: Sequence[str] = ()
) -> Iterator[NotebookPage]:
    """Give a notebook in the browser; in the end nothing went wrong and nobody was asked.

    Parameters
    ----------
    lab, browser, name, front
        Where it is.
    ignoring
        Words of problems that are the host's own, besides those that it always has.
    """
    with visit(browser, "about:blank", offline=False, width=1500, height=1100) as seen:
        seen.page.set_default_timeout(PATIENCE)

        def quiet() -> None:
            seen.expect_quiet(lab.host, (*_OF_THE_HOST, *ignoring))

        notebook = NotebookPage(lab, seen.page, name, front, quiet)
        try:
            notebook.open()
            yield notebook
        finally:
            notebook.shut_down()
    quiet()


@contextmanager
def prepared(
    lab: Lab, browser: Browser, cells: Sequence[str], name: str, front: Host = LAB
) -> Iterator[NotebookPage]:
    """Give a notebook whose first cell has run, up to the ``ready`` that it prints."""
    with opened(lab, browser, written(lab, cells, name), front) as notebook:
        notebook.run(0)
        # The kernel imports all that there is.
        expect(notebook.cells.first).to_contain_text("ready\n", timeout=2 * PATIENCE)
        yield notebook


@contextmanager
def made_anew(notebook: NotebookPage, cell: int, word: str = "done") -> Iterator[NotebookPage]:
    """Give a notebook with the explorer of a cell, that nobody has asked anything yet, alone.

    In the end nothing went wrong, and nothing of it is left in the kernel.

    Parameters
    ----------
    notebook
        Where it is.
    cell
        What makes it.
    word
        The state that it comes to.
    """
    notebook.command("notebook:clear-all-cell-outputs")
    expect(notebook.panel.locator(".sae-explorer")).to_have_count(0)
    notebook.run(cell)
    state(notebook, word)
    yield notebook
    python(notebook, "__import__('ipywidgets').Widget.close_all()")
    notebook.expect_quiet()


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
