"""Makes everything late now and then: the test, the page, and what passes between page and kernel.

``make races`` loads it. A test that fails under it has acted before something was there, or reckoned
with something that had not happened yet: on a busy machine it fails without it, one day.

A failure comes back, more or less, with ``SAE_EXPLORER_SEED`` set to what the run says in the end.
"""

from __future__ import annotations

import os
import random
import time
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from playwright._impl._sync_base import SyncBase  # all that a test asks a browser goes through it
from playwright.sync_api import BrowserContext

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

SEED = os.environ.setdefault("SAE_EXPLORER_SEED", str(random.randrange(10**6)))

#: How many of a test's words to the browser come late, and by how many seconds.
LATE = 0.08
DELAY = (0.2, 2.5)
#: So many times slower the page's scripts run.
SLOWER = 2

#: A line on which what is said arrives late at times, in its order.
LINE = """\
(() => {
  const Line = WebSocket;
  class Queue {
    waiting = [];
    add(act) {
      this.waiting.push(act);
      if (this.waiting.length === 1) this.next();
    }
    next() {
      const late = Math.random() < 0.15 ? 200 + 900 * Math.random() : 0;
      const arrive = () => {
        try { this.waiting[0](); }
        finally { this.waiting.shift(); if (this.waiting.length) this.next(); }
      };
      if (late) setTimeout(arrive, late); else arrive();
    }
  }
  window.WebSocket = class extends Line {
    to = new Queue();
    from = new Queue();
    handler = null;
    send(told) {
      this.to.add(() => { if (this.readyState === Line.OPEN) super.send(told); });
    }
    addEventListener(kind, listener, options) {
      if (kind !== "message") return super.addEventListener(kind, listener, options);
      const hear = listener.handleEvent?.bind(listener) ?? listener.bind(this);
      super.addEventListener(kind, (event) => this.from.add(() => hear(event)), options);
    }
    get onmessage() { return this.handler; }
    set onmessage(handler) {
      if (!this.handler) this.addEventListener("message", (event) => this.handler?.(event));
      this.handler = handler;
    }
  };
})();
"""

_random = random.Random()
_ask = SyncBase._sync
_new_page = BrowserContext.new_page


def _ask_late(asking: Any, coroutine: Any) -> Any:
    if _random.random() < LATE:
        time.sleep(_random.uniform(*DELAY))
    return _ask(asking, coroutine)


def _new_slow_page(context: BrowserContext) -> Page:
    context.add_init_script(LINE)
    page = _new_page(context)
    tools = context.new_cdp_session(page)
    tools.send("Emulation.setCPUThrottlingRate", {"rate": SLOWER})
    return page


def pytest_configure() -> None:
    SyncBase._sync = _ask_late  # type: ignore[method-assign]
    BrowserContext.new_page = _new_slow_page  # type: ignore[method-assign]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"SAE_EXPLORER_SEED={SEED}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Let each test have a fate of its own, whatever ran before it."""
    _random.seed(zlib.crc32(f"{SEED} {item.nodeid}".encode()))
    return (yield)  # type: ignore[return-value]
