"""Starts marimo for a test, as an editor or as a server of apps, and shows notebooks with it."""

from __future__ import annotations

import sys
import textwrap
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hosts.browser import visit
from hosts.page import WidgetPage
from hosts.server import Server, free_port, its_own, served

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from playwright.sync_api import Browser, Locator

#: How marimo shows a notebook, and what it is called in the table of hosts.
MODES = {"edit": "marimo edit", "run": "marimo run"}

#: An editor that runs a notebook when it is opened, as an app does, and whose colours are not the
#: reader's: else nobody could tell which of the two the explorer follows.
_SETTINGS = """\
[runtime]
auto_instantiate = true
[display]
theme = "light"
"""
_DARK = """\
# /// script
# [tool.marimo.display]
# theme = "dark"
# ///
"""


@dataclass
class Marimo(Server):
    """A running marimo."""

    mode: str

    def address(self, notebook: str) -> str:
        return f"http://{self.host}/?file={notebook}"

    def written(self, cells: Sequence[str], name: str, *, dark: bool = False) -> str:
        """Write a notebook with these cells; return its name."""
        parts = [_DARK if dark else "", 'import marimo\n\napp = marimo.App(width="full")\n']
        parts += [
            f"\n@app.cell\ndef _():\n{textwrap.indent(cell, '    ')}\n    return\n"
            for cell in ("import marimo as mo", *cells)
        ]
        path = self.root / name
        if not path.exists():  # or what watches the folder would load it again
            path.write_text("".join(parts), encoding="utf-8")
        return name


@contextmanager
def running(home: Path, mode: str) -> Iterator[Marimo]:
    """Run marimo with a home of its own, an empty folder; ``mode`` is one of :data:`MODES`."""
    root = home / "notebooks"
    root.mkdir(parents=True)
    settings = home / ".config" / "marimo" / "marimo.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text(_SETTINGS, encoding="utf-8")
    marimo = Marimo(root, free_port(), mode)
    command = [
        *(sys.executable, "-m", "marimo", mode, str(root), "--headless", "--no-token"),
        *("--host=127.0.0.1", f"--port={marimo.port}"),
        # Apps of a folder are those that were there at first, but for a server that watches it.
        "--skip-update-check" if mode == "edit" else "--watch",
    ]

    def ask() -> None:
        urllib.request.urlopen(f"http://{marimo.host}/health", timeout=30).close()

    environment = {
        **its_own(home),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "XDG_STATE_HOME": str(home / "state"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "HF_HUB_OFFLINE": "1",
    }
    with served(command, environment, root, ask):
        yield marimo


class MarimoPage(WidgetPage):
    """A notebook in marimo."""

    @property
    def explorers(self) -> Locator:
        return self.page.locator(".sae-explorer")

    def said(self, words: str) -> Locator:
        """Return what a cell shows with these words in it."""
        return self.page.locator(".markdown").filter(has_text=words)


@contextmanager
def opened(
    marimo: Marimo, browser: Browser, notebook: str, *, dark: bool = False
) -> Iterator[MarimoPage]:
    """Give a notebook in the browser; in the end nothing went wrong and nobody was asked."""
    with visit(browser, "about:blank", offline=False, dark=dark, width=1500, height=1100) as seen:
        seen.page.goto(marimo.address(notebook))
        shown = MarimoPage(seen.page)
        shown.widget.wait_for(timeout=60_000)
        yield shown
    seen.expect_quiet(marimo.host)
