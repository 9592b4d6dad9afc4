"""Starts Voila for a test, and shows notebooks with it: all their cells run, then the page is there.

Voila's own template asks a content network for an icon font, which the explorer does not use; a
template of three lines leaves it out.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from hosts.browser import visit
from hosts.jupyterlab import VOILA
from hosts.page import PATIENCE, WidgetPage
from hosts.server import Server, free_port, its_own, served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser

#: Where Voila finds templates that are not its own, below Jupyter's data directory.
_TEMPLATES = "voila/templates"
_WITHOUT_ICON_FONT = """\
{% extends "lab/index.html.j2" %}
{% block notebook_css %}
{{- super() | replace('rel="stylesheet" href="https:', 'data-left-out="https:') }}
{% endblock %}
"""


class Voila(Server):
    """A running Voila."""

    def address(self, notebook: str, **options: str) -> str:
        return f"http://{self.host}/{VOILA.path}/{notebook}?{urlencode(options)}"


@contextmanager
def running(home: Path) -> Iterator[Voila]:
    """Run Voila with a home of its own, an empty folder."""
    root = home / "notebooks"
    root.mkdir(parents=True)
    template = home / "data" / _TEMPLATES / "without-icon-font"
    template.mkdir(parents=True)
    (template / "conf.json").write_text(json.dumps({"base_template": "lab"}), encoding="utf-8")
    (template / "index.html.j2").write_text(_WITHOUT_ICON_FONT, encoding="utf-8")
    voila = Voila(root, free_port())
    command = [
        *(sys.executable, "-m", "voila", str(root), "--no-browser", "--template=without-icon-font"),
        *("--Voila.ip=127.0.0.1", f"--port={voila.port}", "--Voila.port_retries=0"),
        # Voila takes in what JupyterLab has; this needs more of JupyterLab than there is in Voila.
        "--VoilaConfiguration.extension_denylist=@jupyter-notebook/lab-extension",
    ]

    def ask() -> None:
        urllib.request.urlopen(f"http://{voila.host}/", timeout=30).close()

    environment = {**its_own(home), "HF_HUB_OFFLINE": "1"}
    with served(command, environment, root, ask):
        yield voila


@contextmanager
def opened(voila: Voila, browser: Browser, notebook: str, **options: str) -> Iterator[WidgetPage]:
    """Give a notebook as Voila shows it; in the end nothing went wrong and nobody was asked."""
    with visit(browser, "about:blank", offline=False, width=1500, height=1100) as seen:
        address = voila.address(notebook, **options)
        seen.page.set_default_timeout(PATIENCE)
        seen.page.goto(address)  # which answers once every cell has run
        yield WidgetPage(seen.page)
    seen.expect_quiet(voila.host)
