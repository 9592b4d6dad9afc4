"""Runs Firefox, and speaks WebDriver BiDi with it: what Playwright cannot with the one Debian has."""

from __future__ import annotations

import base64
import itertools
import json
import re
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import websocket

from hosts.browser import REPORT_VIOLATIONS, WITHIN, installed
from hosts.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

NAMES = ("firefox-esr", "firefox")

#: Dark and light, as Firefox's preferences number them.
_SCHEMES = {True: 0, False: 1}

#: What keys are in WebDriver; all others are themselves.
_KEYS = {
    "Tab": "\ue004",
    "Enter": "\ue007",
    "Escape": "\ue00c",
    "End": "\ue010",
    "Home": "\ue011",
    "ArrowLeft": "\ue012",
    "ArrowUp": "\ue013",
    "ArrowRight": "\ue014",
    "ArrowDown": "\ue015",
}

_EVENTS = ("log.entryAdded", "network.beforeRequestSent", "browsingContext.downloadEnd")


class Firefox:
    """A running Firefox."""

    def __init__(self, address: str) -> None:
        self._socket = websocket.create_connection(address, timeout=60, suppress_origin=True)
        self._numbers = itertools.count(1)
        #: What it told without being asked, as method and parameters.
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.ask("session.new", capabilities={})
        self.ask("session.subscribe", events=_EVENTS)

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            heard = json.loads(self._socket.recv())
            if heard["type"] == "event":
                self.told.append((heard["method"], heard["params"]))
            elif heard["id"] == number:
                if heard["type"] == "error":
                    raise RuntimeError(f"{method}: {heard['error']}: {heard['message']}")
                result: dict[str, Any] = heard["result"]
                return result

    def close(self) -> None:
        self.ask("browser.close")
        self._socket.close()


@contextmanager
def running(profile: Path, *, dark: bool = False, scripts: bool = True) -> Iterator[Firefox]:
    """Run Firefox with a profile of its own.

    Parameters
    ----------
    profile
        An empty folder.
    dark
        Whether its reader prefers dark pages.
    scripts
        Whether pages may run scripts.
    """
    program = installed("firefox-esr", NAMES)
    if program is None:
        pytest.fail(
            f"These tests need Firefox, and none of {', '.join(NAMES)} is on the PATH. Install it "
            "with your system's packages."
        )
    preferences = {
        "layout.css.prefers-color-scheme.content-override": _SCHEMES[dark],
        "javascript.enabled": scripts,
    }
    lines = [f'user_pref("{name}", {json.dumps(value)});\n' for name, value in preferences.items()]
    (profile / "user.js").write_text("".join(lines), encoding="utf-8")
    log = profile / "firefox.log"
    command = [program, "--headless", "--no-remote", "--profile", profile]
    with log.open("wb") as said:
        process = subprocess.Popen(
            [*command, "--remote-debugging-port", "0"], stdout=said, stderr=said
        )
        try:
            firefox = Firefox(_address(process, log))
            try:
                yield firefox
            finally:
                firefox.close()
        finally:
            process.terminate()
            process.wait(timeout=60)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Wait until Firefox says where it listens."""
    for _ in range(600):
        found = re.search(r"WebDriver BiDi listening on (ws://\S+)", log.read_text())
        if found:
            return f"{found[1]}/session"
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"Firefox did not start:\n{log.read_text()[-3000:]}")


@contextmanager
def visit(
    firefox: Firefox, address: str, *, width: int = 1280, height: int = 900
) -> Iterator[FirefoxReader]:
    """Open a page in a profile of its own, with the network cut, and watch it."""
    user = firefox.ask("browser.createUserContext")["userContext"]
    try:
        tab = firefox.ask("browsingContext.create", type="tab", userContext=user)["context"]
        reader = FirefoxReader(firefox, tab, address)
        reader.arrange(width, height)
        firefox.ask("browsingContext.navigate", context=tab, url=address, wait="complete")
        yield reader
    finally:
        firefox.ask("browser.removeUserContext", userContext=user)


class FirefoxReader(Reader):
    """A page in Firefox."""

    def __init__(self, firefox: Firefox, tab: str, address: str) -> None:
        self._firefox = firefox
        self._tab = tab
        self._address = address
        self._seen = len(firefox.told)

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._firefox.ask(method, context=self._tab, **parameters)

    def arrange(self, width: int, height: int) -> None:
        """Before there is a page: its size, no network, and what watches it."""
        ask = self._firefox.ask
        self._ask("browsingContext.setViewport", viewport={"width": width, "height": height})
        ask(
            "emulation.setNetworkConditions",
            networkConditions={"type": "offline"},
            contexts=[self._tab],
        )
        watch = f"() => {{{REPORT_VIOLATIONS}}}"
        ask("script.addPreloadScript", functionDeclaration=watch, contexts=[self._tab])

    def _told(self, method: str) -> list[dict[str, Any]]:
        self.evaluate("0")  # what was told before the answer has then been heard
        return [told for name, told in self._firefox.told[self._seen :] if name == method]

    @property
    def requests(self) -> list[str]:
        asked = [told["request"]["url"] for told in self._told("network.beforeRequestSent")]
        return [url for url in asked if url != self._address and not url.startswith(WITHIN)]

    @property
    def problems(self) -> list[str]:
        logged = self._told("log.entryAdded")
        return [str(entry["text"]) for entry in logged if entry["level"] == "error"]

    def evaluate(self, expression: str) -> Any:
        answer = self._firefox.ask(
            "script.evaluate",
            expression=f"Promise.resolve({expression}).then(JSON.stringify)",
            target={"context": self._tab},
            awaitPromise=True,
        )
        if answer["type"] == "exception":
            raise RuntimeError(answer["exceptionDetails"]["text"])
        value = answer["result"].get("value")
        return None if value is None else json.loads(value)

    def shows(self, text: str) -> bool:
        wanted = {"type": "xpath", "value": f"//*[text()={json.dumps(text, ensure_ascii=False)}]"}
        return bool(self._ask("browsingContext.locateNodes", locator=wanted)["nodes"])

    def _node(self, role: str, name: str | None, nth: int) -> Mapping[str, Any]:
        """Return the reference of an element, brought into sight."""
        wanted = {"role": role} | ({} if name is None else {"name": name})
        found: list[dict[str, Any]] = []

        def there() -> bool:
            found[:] = self._ask(
                "browsingContext.locateNodes", locator={"type": "accessibility", "value": wanted}
            )["nodes"]
            return len(found) > nth

        self.wait(there, f"{role} {name or ''}")
        node = {"sharedId": found[nth]["sharedId"]}
        self._call("(node) => node.scrollIntoView({ block: 'nearest' })", node)
        return node

    def _call(self, function: str, node: Mapping[str, Any]) -> None:
        self._firefox.ask(
            "script.callFunction",
            functionDeclaration=function,
            arguments=[node],
            target={"context": self._tab},
            awaitPromise=True,
            userActivation=True,
        )

    def click(self, role: str, name: str | None = None, nth: int = 0) -> None:
        origin = {"type": "element", "element": self._node(role, name, nth)}
        steps = [
            {"type": "pointerMove", "x": 0, "y": 0, "origin": origin},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0},
        ]
        pointer = {"type": "pointer", "id": "mouse", "actions": steps}
        self._ask("input.performActions", actions=[pointer])

    def focus(self, role: str, name: str) -> None:
        self._call("(node) => node.focus()", self._node(role, name, 0))

    def press(self, *keys: str) -> None:
        steps = [
            {"type": kind, "value": _KEYS.get(key, key)}
            for key in keys
            for kind in ("keyDown", "keyUp")
        ]
        keyboard = {"type": "key", "id": "keyboard", "actions": steps}
        self._ask("input.performActions", actions=[keyboard])

    def save(self, folder: Path, role: str, nth: int = 0) -> Path:
        self._firefox.ask(
            "browser.setDownloadBehavior",
            downloadBehavior={"type": "allowed", "destinationFolder": str(folder)},
        )
        before = len(self._told("browsingContext.downloadEnd"))
        self.click(role, nth=nth)
        self.wait(lambda: len(self._told("browsingContext.downloadEnd")) > before, "the file")
        return Path(self._told("browsingContext.downloadEnd")[-1]["filepath"])

    def print(self) -> bytes:
        return base64.b64decode(self._ask("browsingContext.print")["data"])

    def photograph(self, path: Path) -> None:
        shot = self._ask("browsingContext.captureScreenshot")["data"]
        path.write_bytes(base64.b64decode(shot))
