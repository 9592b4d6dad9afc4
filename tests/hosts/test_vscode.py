"""The widget as VS Code's widget manager shows it, live and saved; vscode.py says what that leaves out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import nbformat
import pytest
from nbclient import NotebookClient
from playwright.sync_api import expect

from hosts.asking import digest, digest_in_python
from hosts.jupyterlab import running
from hosts.page import expect_in_step, photograph, state
from hosts.vscode import Kernel, opened
from sae_explorer import DefinitionTree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser

    from hosts.vscode import Webview

MAKE = "from sae_explorer import FeatureExplorer\nexplorer = FeatureExplorer.demo(cutoff=1e-3)\nexplorer"
#: A tree that grows for minutes.
ENDLESS = """\
from sae_explorer import FeatureExplorer
explorer = FeatureExplorer.demo(cutoff=1e-10, max_nodes=None, max_depth=60)
explorer"""
CLOSE = "import ipywidgets\nipywidgets.Widget.close_all()"


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """Return a kernel: one for all tests, which takes away what a test has left in it."""
    with running(tmp_path_factory.mktemp("kernels")) as lab:
        yield Kernel(lab, lab.api("POST", "kernels")["id"])


@pytest.fixture
def outputs(browser: Browser, kernel: Kernel) -> Iterator[Webview]:
    with opened(browser, kernel) as outputs:
        yield outputs
        outputs.run(CLOSE)


@pytest.mark.host("VS Code's widget manager", "grows", "offline")
def test_the_widget_appears_and_grows_its_tree(outputs: Webview) -> None:
    outputs.run(MAKE)
    state(outputs, "done")
    expect(outputs.rows.first).to_be_visible()
    assert outputs.nodes() > 20
    expect(outputs.page.locator(".sae-explorer-static")).to_be_hidden()


@pytest.mark.host("VS Code's widget manager", "dark")
@pytest.mark.parametrize("theme", ["light", "dark", "high-contrast"])
def test_the_widget_follows_the_theme(browser: Browser, kernel: Kernel, theme: str) -> None:
    with opened(browser, kernel, theme=theme) as outputs:
        outputs.run(MAKE)
        state(outputs, "done")
        outputs.expect_theme(dark=theme != "light")
        photograph(outputs, f"vscode-{theme}")
        outputs.run(CLOSE)


@pytest.mark.host("VS Code's widget manager", "controls")
def test_a_control_changes_the_tree_and_python_hears_of_it(outputs: Webview) -> None:
    outputs.run(MAKE)
    state(outputs, "done")
    before = outputs.rows.all_inner_texts()
    outputs.enter("Feature to show", "17")
    outputs.expect_tree_of("feature 17")
    assert outputs.rows.all_inner_texts() != before
    assert "17 17" in outputs.run("print(explorer.feature, explorer.wait().tree.request.feature)")


@pytest.mark.host("VS Code's widget manager", "grows", "cancel")
def test_cancel_keeps_the_tree_and_it_grows_on(outputs: Webview) -> None:
    outputs.run(ENDLESS)
    outputs.expect_cancels_and_grows_on("vscode")
    outputs.page.keyboard.press("Escape")
    state(outputs, "partial")


@pytest.mark.host("VS Code's widget manager", busy="a running cell holds messages up")
def test_cancel_is_heard_once_the_running_cell_has_ended(outputs: Webview) -> None:
    outputs.run(ENDLESS)
    state(outputs, "growing")
    outputs.start("import time\ntime.sleep(6)\nprint('it was', explorer.status.state)")
    outputs.page.wait_for_timeout(500)
    outputs.widget.get_by_role("button", name="Cancel").click()
    # The tree is seen growing while the cell runs, and the cell never saw it stop.
    expect(outputs.page.get_by_text("it was growing")).to_be_visible(timeout=60_000)
    state(outputs, "partial")


@pytest.mark.host("VS Code's widget manager", "panels")
def test_an_analysis_runs_on_request(outputs: Webview) -> None:
    outputs.run(MAKE)
    state(outputs, "done")
    outputs.run_analysis("Steering")
    photograph(outputs, "vscode-steering")
    assert "True" in outputs.run("print(len(explorer.steering.texts) > 0)")


@pytest.mark.host("VS Code's widget manager", "views")
def test_views_of_an_explorer_stay_in_step_and_two_explorers_apart(outputs: Webview) -> None:
    for source in (MAKE, "explorer", "other = FeatureExplorer.demo(cutoff=1e-3)\nother"):
        outputs.run(source)
    one, again, other = (outputs.nth(place) for place in range(3))
    expect_in_step(one, again, "feature 302")
    expect_in_step(one, other, "feature 302")  # it is of the same feature
    before = other.rows.all_inner_texts()
    again.enter("Feature to show", "17")
    expect_in_step(one, again, "feature 17")
    assert other.rows.all_inner_texts() == before


@pytest.mark.host("VS Code's widget manager", "composed")
def test_a_box_holds_the_explorer_and_a_slider_moves_it(outputs: Webview) -> None:
    outputs.run(
        "import ipywidgets\nfrom sae_explorer import FeatureExplorer\n"
        "explorer = FeatureExplorer.demo(cutoff=1e-3)\n"
        "depth = ipywidgets.IntSlider(8, 1, 8)\n"
        "ipywidgets.link((depth, 'value'), (explorer, 'max_depth'))\n"
        "ipywidgets.VBox([depth, explorer])"
    )
    state(outputs, "done")
    nodes = outputs.nodes()
    handle = outputs.page.locator(".widget-slider .noUi-handle")
    handle.focus()
    handle.press("Home")
    outputs.until(lambda: 0 < outputs.nodes() < nodes)
    state(outputs, "done")
    photograph(outputs, "vscode-box")
    assert outputs.run("print(explorer.max_depth)").strip() == "1"
    outputs.enter("Depth limit", "3")
    readout = outputs.page.locator(".widget-slider .widget-readout")
    expect(readout).to_have_text("3")
    outputs.until(lambda: outputs.nodes() > 0)
    state(outputs, "done")
    assert outputs.run("print(explorer.max_depth, depth.value)").strip() == "3 3"


@pytest.mark.host("VS Code's widget manager", "keys")
def test_keys_in_the_widget_stay_there(outputs: Webview) -> None:
    outputs.run(MAKE)
    state(outputs, "done")
    heard = outputs.heard()
    outputs.rows.nth(1).click()
    for key in ("a", "d", "d", "Enter", "Shift+Enter", "Control+Enter", "Escape"):
        outputs.page.keyboard.press(key)
    assert heard.json_value() == []
    outputs.page.locator(".cell-output-ipywidget-background").focus()
    outputs.page.keyboard.press("d")
    assert "d" in heard.json_value()


@pytest.mark.host("VS Code's widget manager", "export")
def test_an_export_is_what_python_reads_back(outputs: Webview, tmp_path: Path) -> None:
    outputs.run(MAKE)
    state(outputs, "done")
    tree = DefinitionTree.from_json(outputs.exported("tree.json", tmp_path))
    assert digest(tree) in outputs.run(f"print({digest_in_python()})")
    assert len(tree) == outputs.nodes()


@pytest.fixture(scope="module")
def executed() -> nbformat.NotebookNode:
    """Return a notebook that was executed, with the state of its widgets."""
    cells = [nbformat.v4.new_code_cell(source) for source in (MAKE, "explorer.wait();")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    return NotebookClient(notebook, store_widget_state=True, timeout=600).execute()


@pytest.mark.host("VS Code's widget manager", "saved", "folds")
def test_a_notebook_with_saved_state_shows_it_without_a_kernel(
    browser: Browser, executed: nbformat.NotebookNode
) -> None:
    with opened(browser) as outputs:
        outputs.reopen(executed)
        expect(outputs.rows.nth(3)).to_be_visible()
        expect(outputs.status).to_contain_text("no kernel")
        assert outputs.nodes() > 20
        outputs.expect_folds_searches_and_sorts()
        photograph(outputs, "vscode-saved")


@pytest.mark.host("VS Code's widget manager", "summary")
def test_a_notebook_without_state_shows_the_summary(
    browser: Browser, executed: nbformat.NotebookNode
) -> None:
    with opened(browser) as outputs:
        outputs.reopen({**executed, "metadata": {}})
        summary = outputs.page.locator(".sae-explorer-static")
        expect(summary).to_be_visible()
        expect(summary).to_contain_text("Most probable definitions")
