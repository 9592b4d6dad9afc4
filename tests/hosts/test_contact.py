"""A kernel that is busy, dies or is restarted, a page that sleeps, a line that is cut: in JupyterLab."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from hosts.asking import MODEL, hold, python
from hosts.browser import visit
from hosts.jupyterlab import NotebookPage, written
from hosts.page import photograph, state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page, WebSocketRoute

    from hosts.jupyterlab import Lab

MAKE = f"""\
{MODEL}
explorer = FeatureExplorer(302, subject=subject, **DIRECTION)
asked = []
explorer.observe(lambda change: asked.append(change.new), "feature")
explorer"""
#: Seconds of a cell that keeps the kernel, and of one that goes on after it has shown the explorer.
BUSY, MAKING = 60, 20
MAKE_CELL, BUSY_CELL = range(2)
LOST = (
    "No kernel answers: this is its last result. It may have been restarted or have ended: run the "
    "cell again."
)
#: Seconds for which a page is held up.
SLEPT = 15
#: A tree is held up after so many forwards, each of which takes so many seconds.
MIDST, SLOW = 4, 0.4
#: Seconds after which it grows on: by then its page sleeps, or its line loses what is said.
SOON = 4.0


class Wire:
    """What passes between a page and its kernels; it can be cut, and what is on it lost."""

    def __init__(self, page: Page) -> None:
        self.losing = False
        self._open: list[WebSocketRoute] = []
        page.route_web_socket(re.compile("/api/kernels/"), self._route)

    def _route(self, socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()
        socket.on_message(lambda told: None if self.losing else server.send(told))
        server.on_message(lambda told: None if self.losing else socket.send(told))
        self._open.append(socket)

    def cut(self) -> None:
        """Close the sockets; the page opens others."""
        for socket in self._open:
            socket.close()
        self._open.clear()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    # What the host says on the console of a kernel that died is its own affair.
    with visit(browser, "about:blank", offline=False, width=1500, height=1100) as seen:
        yield seen.page


@pytest.fixture
def wire(page: Page) -> Wire:
    """Return the wire of a page that is not open yet."""
    return Wire(page)


@pytest.fixture
def notebook(lab: Lab, page: Page, request: pytest.FixtureRequest) -> Iterator[NotebookPage]:
    """Return a notebook whose second cell is long, open."""
    name = re.sub(r"\W+", "-", request.node.name)
    notebook = NotebookPage(
        lab, page, written(lab, [MAKE, f"time.sleep({BUSY})\nprint('over')"], f"{name}.ipynb")
    )
    notebook.open()
    yield notebook
    notebook.shut_down()


def made(notebook: NotebookPage) -> None:
    """Make the explorer and wait for its tree."""
    notebook.run(MAKE_CELL)
    state(notebook, "done")
    expect(notebook.rows.first).to_be_visible()


def grow_in_part(notebook: NotebookPage, feature: int) -> None:
    """Ask for another feature, and wait until its tree is seen, and grows no further."""
    hold(notebook, MIDST, SLOW)
    notebook.enter("Feature to show", str(feature))
    tree = notebook.widget.get_by_role("tree")
    notebook.until(lambda: f"feature {feature}" in (tree.get_attribute("aria-label") or ""))
    state(notebook, "growing")


def grow_on_soon(notebook: NotebookPage) -> None:
    """Let the tree grow on when the kernel cannot be asked any more."""
    python(notebook, f"threading.Timer({SOON}, go.set).start()")


def expect_what_python_has(notebook: NotebookPage, feature: int) -> None:
    """Assert that the whole tree of a feature is shown, the one that Python has."""
    notebook.expect_tree_of(f"feature {feature}")
    tree = json.loads(
        python(
            notebook,
            "import json; print(json.dumps([explorer.tree.request.feature, len(explorer.tree)]))",
        )
    )
    assert tree == [feature, notebook.nodes()]
    expect(notebook.rows.first).to_be_visible()


def expect_still_of_use(notebook: NotebookPage, folder: Path) -> None:
    """Assert that what is shown can be folded, searched, sorted and taken away."""
    notebook.expect_folds_searches_and_sorts()
    assert "<svg" in notebook.exported("tree.svg", folder).read_text(encoding="utf-8")


def expect_lost(notebook: NotebookPage, nodes: int) -> None:
    """Assert that it is said that the kernel is gone, and that nothing is offered that needs it."""
    state(notebook, "lost")
    expect(notebook.widget.get_by_role("alert").first).to_contain_text(LOST)
    assert notebook.nodes() == nodes
    for name in ("Next feature", "Random feature"):
        expect(notebook.widget.get_by_role("button", name=name)).to_be_disabled()
    field = notebook.widget.get_by_role("textbox", name="Feature to show")
    expect(field).to_be_disabled()
    expect(field).to_have_value("302")


def past_no_cell(notebook: NotebookPage) -> None:
    """Let messages wait behind running cells, as they do in VS Code, Voila and older kernels."""
    notebook.page.evaluate(
        "() => { window.jupyterapp.shell.currentWidget.sessionContext.session.kernel"
        ".commsOverSubshells = 'disabled'; }"
    )


def test_a_busy_kernel_is_said_to_be_and_does_once_what_was_asked(
    notebook: NotebookPage, tmp_path: Path
) -> None:
    past_no_cell(notebook)
    made(notebook)
    notebook.run(BUSY_CELL)
    for feature in (17, 18, 19):
        notebook.enter("Feature to show", str(feature))
        notebook.page.wait_for_timeout(1500)
    state(notebook, "waiting")
    expect(notebook.status).to_contain_text(
        re.compile(
            r"has not answered for \d+ s: it is busy with another cell, or gone; "
            r"what you see is feature 302\."
        ),
        timeout=60_000,
    )
    photograph(notebook, "busy")
    expect(notebook.widget.get_by_role("textbox", name="Feature to show")).to_have_value("19")
    expect_still_of_use(notebook, tmp_path)
    expect(notebook.status).to_contain_text(
        re.compile(r"has not answered for [345]\d s"), timeout=90_000
    )
    state(notebook, "waiting")
    expect(notebook.cells.nth(BUSY_CELL).locator(".jp-OutputArea-output")).to_have_text(
        "over\n", timeout=120_000
    )
    expect_what_python_has(notebook, 19)
    expect(notebook.status).not_to_contain_text("answered")
    # The first was on its way already; the second was no longer wanted when the kernel heard again.
    assert json.loads(python(notebook, "print(asked)")) == [17, 19]


def test_a_widget_shown_by_a_cell_that_goes_on_says_what_it_waits_for(
    notebook: NotebookPage,
) -> None:
    past_no_cell(notebook)
    notebook.write(
        MAKE_CELL, f"{MAKE.removesuffix('explorer')}display(explorer)\ntime.sleep({MAKING})"
    )
    notebook.run(MAKE_CELL)
    # What grows is shown all the same.
    expect(notebook.rows.first).to_be_visible(timeout=60_000)
    expect(notebook.status).to_contain_text(
        re.compile(r"has not answered for \d+ s"), timeout=60_000
    )
    photograph(notebook, "making")
    expect(notebook.status).not_to_contain_text("answered", timeout=120_000)
    state(notebook, "done")


def restart(notebook: NotebookPage) -> None:
    notebook.page.evaluate(
        "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()"
    )


def kill(notebook: NotebookPage) -> None:
    os.kill(int(python(notebook, "import os; print(os.getpid())")), signal.SIGKILL)
    time.sleep(1)
    use(notebook)


def shut_down(notebook: NotebookPage) -> None:
    notebook.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    use(notebook)


def use(notebook: NotebookPage) -> None:
    """Let the widget find out that its kernel is gone, where JupyterLab has not said so before."""
    # By force, since whoever was told before has nothing to press any more.
    notebook.widget.get_by_role("button", name="Next feature").click(force=True)


@pytest.mark.parametrize("end", [restart, kill, shut_down], ids=lambda end: end.__name__)
def test_the_end_of_a_kernel_is_said_and_its_last_result_kept(
    notebook: NotebookPage, tmp_path: Path, end: Callable[[NotebookPage], None]
) -> None:
    made(notebook)
    nodes = notebook.nodes()
    end(notebook)
    expect_lost(notebook, nodes)
    # JupyterLab says in a dialog of its own that a kernel died.
    dialog = notebook.page.locator(".jp-Dialog")
    if end is kill:
        dialog.get_by_role("button", name="Ok").click()
    photograph(notebook, f"lost-{end.__name__}")
    expect_still_of_use(notebook, tmp_path)
    if end is shut_down:
        return
    notebook.page.wait_for_function(
        "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle'"
    )
    made(notebook)
    notebook.enter("Feature to show", "17")
    expect_what_python_has(notebook, 17)


def test_a_kernel_that_dies_while_a_tree_grows_is_found_out(notebook: NotebookPage) -> None:
    made(notebook)
    grow_in_part(notebook, 17)
    os.kill(int(python(notebook, "import os; print(os.getpid())")), signal.SIGKILL)
    state(notebook, "lost")
    expect(notebook.widget.get_by_role("alert").first).to_contain_text(LOST)
    expect(notebook.rows.first).to_be_visible()


def test_a_page_that_slept_while_a_tree_grew_shows_the_whole(notebook: NotebookPage) -> None:
    made(notebook)
    grow_in_part(notebook, 17)
    notebook.page.evaluate(
        "() => { window.ticks = []; setInterval(() => window.ticks.push(performance.now()), 100); }"
    )
    notebook.page.wait_for_timeout(1000)
    grow_on_soon(notebook)
    browser = notebook.page.context.new_cdp_session(notebook.page)
    browser.send("Debugger.enable")
    browser.send("Debugger.pause")
    time.sleep(SLEPT)
    browser.send("Debugger.resume")
    browser.send("Debugger.disable")
    expect_what_python_has(notebook, 17)
    # Or it did not sleep: nothing in the page was done meanwhile.
    longest = notebook.page.evaluate(
        "() => Math.max(...window.ticks.slice(1).map((at, index) => at - window.ticks[index]))"
    )
    assert longest > 0.8 * SLEPT * 1000


def test_what_was_lost_on_a_line_is_asked_for(wire: Wire, notebook: NotebookPage) -> None:
    made(notebook)
    grow_in_part(notebook, 17)
    grow_on_soon(notebook)
    wire.losing = True
    notebook.page.wait_for_timeout(12_000)
    wire.losing = False
    expect_what_python_has(notebook, 17)


def test_a_change_that_was_lost_on_a_line_is_made_once(wire: Wire, notebook: NotebookPage) -> None:
    made(notebook)
    wire.losing = True
    notebook.enter("Feature to show", "17")
    expect(notebook.status).to_contain_text("has not answered for", timeout=60_000)
    wire.losing = False
    expect_what_python_has(notebook, 17)
    assert json.loads(python(notebook, "print(asked)")) == [17]


def test_a_line_that_was_cut_is_mended_without_a_gap(wire: Wire, notebook: NotebookPage) -> None:
    made(notebook)
    grow_in_part(notebook, 17)
    grow_on_soon(notebook)
    wire.losing = True
    wire.cut()
    notebook.page.wait_for_timeout(1000 * (SOON + 1))
    wire.losing = False
    expect_what_python_has(notebook, 17)
    notebook.enter("Feature to show", "19")
    expect_what_python_has(notebook, 19)
