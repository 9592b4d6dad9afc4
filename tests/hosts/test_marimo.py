"""The widget in marimo, in a real browser: edited as a notebook, and run as an app.

marimo draws a widget within a shadow root, calls no cell again on its own when the browser asks the
kernel for something (a cell that is to follow the explorer reads an ``mo.state`` that an observer
sets), and hears the browser between cells alone.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from hosts.asking import digest, digest_in_python
from hosts.marimo_server import MODES, Marimo, opened, running
from hosts.page import expect_in_step, photograph, state
from sae_explorer import DefinitionTree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from playwright.sync_api import Browser

    from hosts.marimo_server import MarimoPage

    Show = Callable[..., AbstractContextManager[MarimoPage]]

IMPORT = "import time\nimport ipywidgets\nfrom sae_explorer import FeatureExplorer"
MAKE = "explorer = FeatureExplorer.demo(cutoff=1e-3)\nexplorer"
#: An explorer at the end of a cell, again as one of marimo's elements, and a cell that follows it;
#: an explorer of its own.
NOTEBOOK = (
    MAKE,
    "mo.ui.anywidget(explorer)",
    (
        "feature, changed = mo.state(explorer.feature)\n"
        "explorer.observe(lambda change: changed(change.new), 'feature')"
    ),
    "mo.md(f'The feature is {feature()}, is {explorer.feature}.')",
    "other = FeatureExplorer.demo(cutoff=1e-3)\nother",
)
#: An explorer in a stack with a slider that sets an option; cells that wait for it.
STACK = (
    "explorer = FeatureExplorer.demo(cutoff=1e-3)",
    "depth = mo.ui.slider(1, 8, value=8)",
    "mo.vstack([depth, mo.ui.anywidget(explorer)])",
    (
        "explorer.max_depth = depth.value\nexplorer.wait()\n"
        "mo.md(f'At depth {explorer.max_depth} it has {len(explorer.tree)} nodes.')"
    ),
    "await explorer\nmo.md(f'Awaited at depth {depth.value}: {len(explorer.tree)}.')",
    "ipywidgets.VBox([ipywidgets.Label('in a box')])",
)
#: A tree that grows for minutes; a cell that runs for seconds at the press of a button.
ENDLESS = (
    "explorer = FeatureExplorer.demo(cutoff=1e-10, max_nodes=None, max_depth=60)\nexplorer",
    "hold = mo.ui.button(value=0, on_click=lambda count: count + 1, label='Hold')\nhold",
    "if hold.value:\n    time.sleep(8)\nmo.md(f'After {hold.value}: {explorer.status.state}')",
)


@pytest.fixture(scope="module", params=MODES)
def marimo(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Marimo]:
    with running(tmp_path_factory.mktemp(request.param), request.param) as marimo:
        yield marimo


@pytest.fixture
def show(marimo: Marimo, browser: Browser) -> Show:
    """Return what opens a notebook of cells; in the editor one with the same cells is still there."""

    def opens(*cells: str, dark: bool = False) -> AbstractContextManager[MarimoPage]:
        name = hashlib.sha256(repr((cells, dark)).encode()).hexdigest()[:8]
        marimo.written([IMPORT, *cells], f"{name}.py", dark=dark)
        # The reader's own preference is the other one.
        return opened(marimo, browser, f"{name}.py", dark=not dark)

    return opens


def shows(*claims: str, **cannot: str) -> Callable[..., object]:
    """Run a test in both of marimo's modes, for what it says of them in the table of hosts."""
    return pytest.mark.parametrize(
        "marimo",
        [
            pytest.param(mode, marks=pytest.mark.host(name, *claims, **cannot))
            for mode, name in MODES.items()
        ],
        indirect=True,
    )


@shows("grows", "offline")
def test_an_explorer_at_the_end_of_a_cell_grows_its_tree(show: Show, marimo: Marimo) -> None:
    with show(*NOTEBOOK) as shown:
        state(shown, "done")
        expect(shown.rows.first).to_be_visible()
        assert shown.nodes() > 20
        expect(shown.page.locator(".sae-explorer-static")).to_have_count(0)
        assert shown.widget.evaluate(
            "(element) => { const output = element.getRootNode().host.closest('.output-area, .output');"
            " return output.scrollHeight <= output.clientHeight; }"
        )
        photograph(shown, f"marimo-{marimo.mode}-light")


@shows("dark")
def test_the_widget_follows_the_notebooks_theme(show: Show, marimo: Marimo) -> None:
    with show(*NOTEBOOK) as shown:
        shown.expect_theme(dark=False)
    with show(MAKE, dark=True) as shown:
        state(shown, "done")
        shown.expect_theme(dark=True)
        photograph(shown, f"marimo-{marimo.mode}-dark")


@shows("controls")
def test_a_control_regrows_the_tree_and_cells_follow(show: Show) -> None:
    with show(*NOTEBOOK) as shown:
        state(shown, "done")
        before = shown.rows.all_inner_texts()
        shown.enter("Feature to show", "17")
        expect(shown.said("The feature is 17, is 17.")).to_be_visible(timeout=60_000)
        shown.expect_tree_of("feature 17")
        assert shown.rows.all_inner_texts() != before


@shows("views")
def test_views_of_an_explorer_stay_in_step_and_two_explorers_apart(show: Show) -> None:
    with show(*NOTEBOOK) as shown:
        one, again, other = (shown.nth(place) for place in range(3))
        expect_in_step(one, again, "feature")  # in the editor, where the tests before have left it
        state(other, "done")
        before = other.rows.all_inner_texts()
        again.enter("Feature to show", "18")
        expect_in_step(one, again, "feature 18")
        assert other.rows.all_inner_texts() == before


@shows("panels")
def test_an_analysis_runs_on_request(show: Show, marimo: Marimo) -> None:
    with show(*NOTEBOOK) as shown:
        state(shown, "done")
        shown.run_analysis("Steering")
        photograph(shown, f"marimo-{marimo.mode}-steering")


@shows("keys")
def test_keys_in_the_widget_are_not_marimos(show: Show, marimo: Marimo) -> None:
    with show(*NOTEBOOK) as shown:
        state(shown, "done")
        cells = shown.page.locator(".cm-content").all_inner_texts()
        assert bool(cells) == (marimo.mode == "edit")
        heard = shown.heard()
        shown.rows.nth(1).click()
        for key in ("a", "j", "Enter", "Shift+Enter", "Control+k", "Escape"):
            shown.page.keyboard.press(key)
        field = shown.widget.get_by_role("textbox", name="Feature to show")
        field.click()
        field.press_sequentially("abxdd")
        assert "abxdd" in field.input_value()
        field.press("Escape")
        assert heard.json_value() == []
        assert shown.page.locator(".cm-content").all_inner_texts() == cells
        # Keys elsewhere are heard, or this test would prove nothing.
        shown.page.evaluate("document.activeElement?.blur()")
        shown.page.keyboard.press("j")
        assert "j" in heard.json_value()


@shows("export")
def test_an_export_is_what_python_reads_back(show: Show, tmp_path: Path) -> None:
    with show(MAKE, f"await explorer\nmo.md('Python has ' + {digest_in_python()})") as shown:
        state(shown, "done")
        tree = DefinitionTree.from_json(shown.exported("tree.json", tmp_path))
        expect(shown.said(f"Python has {digest(tree)}")).to_be_visible(timeout=60_000)
        assert len(tree) == shown.nodes()


@shows(composed="marimo draws no ipywidgets containers: its own stacks and sliders do the same")
def test_marimos_slider_and_stack_stand_in_for_those_of_ipywidgets(show: Show) -> None:
    with show(*STACK) as shown:
        state(shown, "done")
        nodes = shown.nodes()
        expect(shown.said(f"At depth 8 it has {nodes} nodes.")).to_be_visible(timeout=60_000)
        expect(shown.said(f"Awaited at depth 8: {nodes}.")).to_be_visible(timeout=60_000)
        expect(shown.page.get_by_text("in a box", exact=True)).to_have_count(0)
        slider = shown.page.get_by_role("slider").first
        slider.focus()
        slider.press("Home")
        shown.until(lambda: 0 < shown.nodes() < nodes)
        state(shown, "done")
        said = f"At depth 1 it has {shown.nodes()} nodes."
        expect(shown.said(said)).to_be_visible(timeout=60_000)
        expect(shown.explorers).to_have_count(1)


@shows("grows", "cancel", busy="a running cell holds messages up")
def test_cancel_keeps_the_tree_and_is_heard_between_cells(show: Show, marimo: Marimo) -> None:
    with show(*ENDLESS) as shown:
        shown.expect_cancels_and_grows_on(f"marimo-{marimo.mode}")
        # While a cell runs the tree is seen growing; that cell never sees it stop.
        shown.page.get_by_role("button", name="Hold").click()
        shown.page.wait_for_timeout(2000)
        shown.widget.get_by_role("button", name="Cancel").click()
        expect(shown.said("After 1: growing")).to_be_visible(timeout=60_000)
        state(shown, "partial")
