"""Finds or installs a browser, and watches what a page does in it."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from playwright.sync_api import Browser, ConsoleMessage, Page, Playwright, Request

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

#: Without these Chromium itself asks its maker for this and that.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

#: What these name is in the page already.
WITHIN = ("blob:", "data:", "about:")

#: Run in every page before its own scripts.
REPORT_VIOLATIONS = """
addEventListener("securitypolicyviolation", (event) =>
  console.error(`policy: ${event.violatedDirective} forbids ${event.blockedURI}`));
"""


@dataclass
class Visit:
    """A page, and what was seen of it since it was opened."""

    page: Page
    #: Addresses that it asked for, itself apart.
    requests: list[str] = field(default_factory=list)
    #: Exceptions, errors on the console, violations of its content security policy.
    problems: list[str] = field(default_factory=list)

    def strangers(self, host: str) -> list[str]:
        """Return the addresses that were asked for elsewhere than at this name and port."""
        return [asked for asked in self.requests if not (host and f"//{host}/" in asked)]

    def expect_quiet(self, host: str = "", ignoring: Sequence[str] = ()) -> None:
        """Assert that since this was last asked nothing went wrong and no stranger was asked.

        Parameters
        ----------
        host
            Name and port of the computer that may be asked; without it, nobody may.
        ignoring
            Words of problems that are not ours.
        """
        strangers = self.strangers(host)
        problems = [said for said in self.problems if not any(word in said for word in ignoring)]
        self.requests.clear()
        self.problems.clear()
        assert (strangers, problems) == ([], []), (strangers, problems)


def executable(playwright: Playwright) -> str:
    """Return the path of a browser: an installed one, else Playwright's own, else Debian's."""
    own = Path(playwright.chromium.executable_path)
    found = _on_path(NAMES) or (str(own) if own.exists() else installed("chromium", NAMES))
    if found is None:
        raise RuntimeError(
            f"This needs a browser, and none of {', '.join(NAMES)} is on the PATH. Install "
            "Chromium with your system's packages, or run: playwright install chromium"
        )
    return found


def picture(name: str) -> Path | None:
    """Return the file for a picture; None unless ``SAE_EXPLORER_SCREENSHOTS`` names a folder."""
    folder = os.environ.get("SAE_EXPLORER_SCREENSHOTS")
    return Path(folder) / f"{name}.png" if folder else None


def installed(package: str, names: Sequence[str]) -> str | None:
    """Return the path of the first of these programs; where none is, Debian's package is taken."""
    if not _on_path(names) and Path("/etc/debian_version").exists() and os.geteuid() == 0:
        for command in (["update"], ["install", "-y", "--no-install-recommends", package]):
            subprocess.run(
                ["apt-get", "-q", *command],
                check=False,
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            )
    return _on_path(names)


def _on_path(names: Sequence[str]) -> str | None:
    return next((path for path in map(shutil.which, names) if path), None)


@contextmanager
def launched() -> Iterator[Browser]:
    """Run a browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable(playwright), args=list(FLAGS)
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visit(
    browser: Browser,
    address: str,
    *,
    offline: bool = True,
    dark: bool = False,
    scripts: bool = True,
    width: int = 1280,
    height: int = 900,
) -> Iterator[Visit]:
    """Open a page in a profile of its own and watch it."""
    context = browser.new_context(
        offline=offline,
        color_scheme="dark" if dark else "light",
        java_script_enabled=scripts,
        viewport={"width": width, "height": height},
    )
    try:
        context.add_init_script(REPORT_VIOLATIONS)
        seen = Visit(context.new_page())

        def request(asked: Request) -> None:
            if asked.url != address and not asked.url.startswith(WITHIN):
                seen.requests.append(asked.url)

        def console(message: ConsoleMessage) -> None:
            if message.type == "error":
                seen.problems.append(message.text)

        context.on("request", request)
        context.on("console", console)
        context.on(
            "weberror", lambda error: seen.problems.append(error.error.stack or str(error.error))
        )
        seen.page.goto(address)
        yield seen
    finally:
        context.close()
