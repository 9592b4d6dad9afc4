"""Shows notebooks with the widget manager of VS Code's Jupyter extension, without VS Code.

What is real: the extension's widget manager (its npm package ``@vscode/jupyter-ipywidgets8``, with
the styles that it brings along), RequireJS, anywidget's script as the kernel's environment has it, a
kernel with whatever it says, VS Code's variables for colours and fonts, and the extension's class for
outputs with its white background.

What is not, and remains to be checked in the application: the content security policy of its
webviews; the extension host between kernel and webview, which passes messages on one by one; which
outputs it keeps when a notebook scrolls, and how it draws ``text/html`` beside a widget (the summary
is hidden only where the widget's stylesheet reaches it); shortcuts of VS Code itself; saving of files
(a webview hands downloads to the application); remote windows, Codespaces and vscode.dev. Which way
messages take is the page's own choice: all go by the kernel's main shell channel, so that a running
cell holds them up. So is how a saved notebook is shown: the page hands its state to the manager, and
makes the view of each output itself.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import mimetypes
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hosts.browser import visit
from hosts.page import WidgetPage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Route

    from hosts.jupyterlab import Lab

#: The widget manager, as it was tested: the package alone, none of what it says it depends on.
PACKAGE = "@vscode/jupyter-ipywidgets8@1.0.9"
INTEGRITY = "sha512-bocCThfa4JDIDd7qCFAfW3HpzHfTLYxOTpTbiDfw4DXOUjKHnr6ObkMBiIkuzYPRybh5bY4FhYLemuDuTvIbpQ=="
_ROOT = Path(__file__).parents[2]
_CACHE = _ROOT / "node_modules" / ".cache" / "sae-explorer"
#: What pip and conda put beside a kernel, and where RequireJS is among it.
_SHARE = Path(sys.prefix) / "share" / "jupyter"
_REQUIREJS = _SHARE / "voila" / "templates" / "base" / "static" / "require.min.js"

#: The variables that matter, of the themes that VS Code has by default: paper, ink, side bar.
_COLOURS = {
    "light": ("#ffffff", "#3b3b3b", "#f8f8f8"),
    "dark": ("#1f1f1f", "#cccccc", "#181818"),
    "high-contrast": ("#000000", "#ffffff", "#000000"),
}
_PAGE = """\
<!doctype html>
<html style="--vscode-editor-background: {paper}; --vscode-editor-foreground: {ink};
  --vscode-sideBar-background: {side}; --vscode-font-family: system-ui, sans-serif;
  --vscode-editor-font-family: monospace; --vscode-focusBorder: #0078d4">
<meta charset="utf-8"><link rel="icon" href="data:,"><title>Outputs</title>
<style>
  body {{ margin: 0; padding: 0 20px; background: {paper}; color: {ink} }}
  .cell {{ margin: 20px 0 }}
  .cell-output-ipywidget-background {{ background: white !important }}
</style>
<body class="vscode-body vscode-{theme}" data-vscode-theme-kind="vscode-{theme}">
<script src="require.min.js"></script>
<script type="module" src="vscode_webview.js"></script>
"""


@functools.cache
def widget_manager() -> Path:
    """Return the package's one script; it is fetched from npm once and kept."""
    folder = _CACHE / PACKAGE.rpartition("@")[2]
    archive = folder / "package.tgz"
    if not archive.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", PACKAGE, "--pack-destination", str(folder)]
        packed = subprocess.run(command, check=True, capture_output=True, text=True)
        (folder / packed.stdout.split()[-1]).rename(archive)
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if f"sha512-{digest}" != INTEGRITY:
        raise RuntimeError(f"{archive} is not {PACKAGE} as it was tested; delete it and try again")
    shutil.unpack_archive(archive, folder, filter="data")
    return folder / "package" / "dist" / "ipywidgets.js"


class Webview(WidgetPage):
    """The outputs of a notebook."""

    def run(self, source: str) -> str:
        """Run a cell to its end; return what it says."""
        self.page.evaluate("(source) => window.notebook.run(source)", source)
        said: str = self.page.locator(".cell").last.inner_text()
        return said

    def start(self, source: str) -> None:
        """Run a cell; do not wait until it ends."""
        self.page.evaluate("(source) => void window.notebook.run(source)", source)

    def reopen(self, notebook: dict[str, Any]) -> None:
        """Show a notebook as it was saved, without a kernel."""
        self.page.evaluate("(notebook) => window.notebook.reopen(notebook)", notebook)


@dataclass(frozen=True)
class Kernel:
    """A kernel that a Jupyter server runs."""

    lab: Lab
    id: str

    @property
    def address(self) -> str:
        """Where a page talks with it."""
        return f"ws://{self.lab.host}/api/kernels/{self.id}/channels?token={self.lab.token}"


@contextmanager
def opened(
    browser: Browser, kernel: Kernel | None = None, *, theme: str = "light"
) -> Iterator[Webview]:
    """Give a notebook's outputs; in the end nothing went wrong and nobody was asked.

    Parameters
    ----------
    browser
        Where they are shown.
    kernel
        What they talk with; None for a notebook without a kernel.
    theme
        ``"light"``, ``"dark"`` or ``"high-contrast"``.
    """
    host = "vscode.invalid" if kernel is None else kernel.lab.host
    paper, ink, side = _COLOURS[theme]
    page = _PAGE.format(paper=paper, ink=ink, side=side, theme=theme)
    files = {
        "ipywidgets.js": widget_manager(),
        "require.min.js": _REQUIREJS,
        "vscode_webview.js": Path(__file__).parent / "vscode_webview.js",
        "nbextensions/anywidget/index.js": _SHARE / "nbextensions" / "anywidget" / "index.js",
    }

    def serve(route: Route) -> None:
        name = route.request.url.partition("/webview/")[2]
        kind = mimetypes.guess_type(name)[0] or "text/html"
        body = files[name].read_bytes() if name in files else page.encode()
        route.fulfill(body=body, content_type=f"{kind}; charset=utf-8")

    # The reader's own preference is the other one: only VS Code's theme counts.
    with visit(
        browser, "about:blank", offline=False, dark=theme == "light", width=1500, height=900
    ) as seen:
        # A page that was made up counts as foreign, and needs leave to talk with the loopback.
        seen.page.context.grant_permissions(["local-network-access"])
        seen.page.route(f"http://{host}/webview/**", serve)
        seen.page.goto(f"http://{host}/webview/")
        seen.page.wait_for_function("() => window.notebook")
        if kernel is not None:
            seen.page.evaluate(
                "([id, address]) => window.notebook.connect(id, address)",
                [kernel.id, kernel.address],
            )
        yield Webview(seen.page)
    seen.expect_quiet(host)
