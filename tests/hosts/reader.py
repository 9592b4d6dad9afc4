"""A page and a person who reads it: the same few steps in whatever browser it is open."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hosts import browser as chromium

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, Locator

    from hosts.browser import Visit


class Reader(ABC):
    """What can be done with a page, and seen of it since it was opened."""

    @property
    @abstractmethod
    def requests(self) -> list[str]:
        """Addresses that the page asked for, itself apart."""

    @property
    @abstractmethod
    def problems(self) -> list[str]:
        """Exceptions, errors on the console, violations of its content security policy."""

    @abstractmethod
    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression in the page."""

    @abstractmethod
    def shows(self, text: str) -> bool:
        """Tell whether something in the page has this text; it may run no scripts."""

    @abstractmethod
    def click(self, role: str, name: str | None = None, nth: int = 0) -> None:
        """Click what has this role and name."""

    @abstractmethod
    def focus(self, role: str, name: str) -> None:
        """Give it the focus."""

    @abstractmethod
    def press(self, *keys: str) -> None:
        """Press keys one after the other, where the focus is."""

    @abstractmethod
    def save(self, folder: Path, role: str, nth: int = 0) -> Path:
        """Click what saves a file; return where it is."""

    @abstractmethod
    def print(self) -> bytes:
        """Return the page as a PDF."""

    @abstractmethod
    def photograph(self, path: Path) -> None:
        """Take a picture of what is in sight."""

    def wait(self, condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
        """Wait for something; ``what`` is said where it does not come."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"did not come: {what}"
            time.sleep(0.05)

    def until(self, expression: str) -> None:
        """Wait until an expression is true in the page."""
        self.wait(lambda: self.evaluate(expression), expression)

    def picture(self, name: str) -> None:
        """Take a picture, where pictures are wanted."""
        path = chromium.picture(name)
        if path is not None:
            self.photograph(path)


class ChromiumReader(Reader):
    """A page in Chromium."""

    def __init__(self, seen: Visit) -> None:
        self._seen = seen
        self._page = seen.page

    @property
    def requests(self) -> list[str]:
        self.evaluate("0")  # what was told before the answer has then been heard
        return self._seen.requests

    @property
    def problems(self) -> list[str]:
        self.evaluate("0")
        return self._seen.problems

    def evaluate(self, expression: str) -> Any:
        return self._page.evaluate(expression)

    def shows(self, text: str) -> bool:
        return self._page.get_by_text(text, exact=True).first.is_visible()

    def _node(self, role: Any, name: str | None, nth: int = 0) -> Locator:
        return self._page.get_by_role(role, name=name, exact=True).nth(nth)

    def click(self, role: str, name: str | None = None, nth: int = 0) -> None:
        self._node(role, name, nth).click()

    def focus(self, role: str, name: str) -> None:
        self._node(role, name).focus()

    def press(self, *keys: str) -> None:
        for key in keys:
            self._page.keyboard.press(key)

    def save(self, folder: Path, role: str, nth: int = 0) -> Path:
        with self._page.expect_download() as waiting:
            self.click(role, nth=nth)
        path = folder / waiting.value.suggested_filename
        waiting.value.save_as(path)
        return path

    def print(self) -> bytes:
        return self._page.pdf()

    def photograph(self, path: Path) -> None:
        self._page.screenshot(path=path)


@contextmanager
def in_chromium(
    browser: Browser, address: str, *, dark: bool = False, scripts: bool = True, width: int = 1280
) -> Iterator[Reader]:
    """Open a page in a profile of its own, with the network cut, and watch it."""
    with chromium.visit(browser, address, dark=dark, scripts=scripts, width=width) as seen:
        yield ChromiumReader(seen)
