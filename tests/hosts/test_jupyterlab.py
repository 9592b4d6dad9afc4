"""The widget in JupyterLab and in Notebook 7, in a real browser."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from hosts.asking import digest, digest_in_python, python
from hosts.jupyterlab import (
    LAB,
    Host,
    Lab,
    NotebookPage,
    copied,
    made_anew,
    name_of,
    opened,
    prepared,
    shows,
)
from hosts.page import photograph, state
from sae_explorer import DefinitionTree, SteeredTexts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart.ipynb"
#: Where the quickstart makes the explorer, and where it waits for it.
MAKE, WAIT = 1, 3

#: A kernel that has loaded all there is; an explorer in it; a tree that grows for minutes.
CELLS = (
    "from sae_explorer import FeatureExplorer, Subject\nSubject.demo()\nprint('ready')",
    "explorer = FeatureExplorer.demo()\nexplorer",
    "explorer = FeatureExplorer.demo(cutoff=1e-10, max_nodes=None, max_depth=60)\nexplorer",
    "",
)
READY, DEMO, ENDLESS, FREE = range(4)


@pytest.fixture
def front() -> Host:
    """Return where notebooks are opened, unless a test says where."""
    return LAB


@pytest.fixture
def quickstart(
    lab: Lab, browser: Browser, front: Host, request: pytest.FixtureRequest
) -> Iterator[NotebookPage]:
    """Return a copy of the quickstart, open; in the end nothing went wrong and nobody was asked."""
    name = copied(lab, QUICKSTART, name_of(request))
    # Of a notebook that was saved without its widgets, some of the time.
    with opened(lab, browser, name, front, ignoring=["widget model not found"]) as notebook:
        yield notebook


@pytest.fixture(scope="module")
def page(lab: Lab, browser: Browser) -> Iterator[Callable[[Host], NotebookPage]]:
    """Return what gives the page of a host, with the kernel that most of the tests there share."""
    with ExitStack() as stack:

        @cache
        def page(front: Host) -> NotebookPage:
            name = f"shared-{front}.ipynb"
            return stack.enter_context(prepared(lab, browser, CELLS, name, front))

        yield page


@pytest.fixture
def notebook(page: Callable[[Host], NotebookPage], front: Host) -> Iterator[NotebookPage]:
    """Return a notebook with an explorer that nobody has asked anything yet."""
    with made_anew(page(front), DEMO) as notebook:
        yield notebook


@pytest.fixture
def endless(page: Callable[[Host], NotebookPage], front: Host) -> Iterator[NotebookPage]:
    """Return a notebook with a tree that grows without an end."""
    with made_anew(page(front), ENDLESS, "growing") as notebook:
        yield notebook


@shows("grows", "offline")
def test_the_quickstart_grows_a_tree_and_follows_its_cells(quickstart: NotebookPage) -> None:
    quickstart.run(MAKE)
    state(quickstart, "done")
    expect(quickstart.rows.first).to_be_visible()
    photograph(quickstart, "done")
    # The static summary is in the output, and hidden while the widget is alive.
    expect(quickstart.panel.locator(".sae-explorer-static").first).to_be_hidden()
    before = quickstart.nodes()
    for index in range(quickstart.cells.count()):
        if "cutoff = 1e-5" in quickstart.source()[index]:
            quickstart.run(index)
    quickstart.until(lambda: quickstart.nodes() > before)


@shows("cancel")
def test_the_tree_is_seen_growing_and_stops_at_cancel(endless: NotebookPage, front: Host) -> None:
    endless.expect_cancels_and_grows_on(f"{front}")
    endless.page.keyboard.press("Escape")
    state(endless, "partial")


@shows("busy")
def test_cancel_works_while_a_cell_runs(endless: NotebookPage) -> None:
    # JupyterLab opens the way past running cells after the widget's first words; it says hello again.
    endless.page.wait_for_timeout(2000)
    cell = endless.cells.nth(FREE)
    endless.write(
        FREE,
        "import time\nend = time.monotonic() + 60\n"
        "while explorer.status.state != 'partial' and time.monotonic() < end: time.sleep(0.05)\n"
        "print(explorer.status.state, 'was seen')",
    )
    endless.run(FREE)
    endless.widget.get_by_role("button", name="Cancel").click()
    expect(cell.locator(".jp-OutputArea-output")).to_have_text("partial was seen\n", timeout=90_000)
    state(endless, "partial")


@shows("controls")
def test_a_control_changes_the_tree_and_python_hears_of_it(notebook: NotebookPage) -> None:
    before = notebook.rows.all_inner_texts()
    notebook.enter("Feature to show", "17")
    notebook.expect_tree_of("feature 17")
    assert notebook.rows.all_inner_texts() != before
    seen = python(notebook, "print(explorer.feature, explorer.wait().tree.request.feature)")
    assert seen == "17 17"


def test_a_change_that_cannot_be_is_refused_in_the_widget(notebook: NotebookPage) -> None:
    nodes = notebook.nodes()
    notebook.enter("Feature to show", "99999999")
    expect(notebook.widget).to_contain_text(
        "There is no feature 99999999: they are numbered 0 to 1,535."
    )
    photograph(notebook, "refused")
    assert notebook.nodes() == nodes
    state(notebook, "done")


def test_an_error_is_shown_and_the_next_try_is_a_button(notebook: NotebookPage) -> None:
    notebook.write(FREE, "FeatureExplorer(release='no-such-release', layer=1)")
    notebook.run(FREE)
    failed = notebook.nth(1)
    state(failed, "error")
    expect(failed.widget).to_contain_text("no-such-release")
    photograph(failed, "error")
    expect(failed.widget.get_by_role("button", name="Try again")).to_be_enabled()


@shows("keys")
def test_keys_in_the_widget_are_not_the_notebooks(notebook: NotebookPage) -> None:
    before = notebook.source()
    notebook.rows.nth(1).click()
    for key in ("a", "b", "x", "c", "v", "d", "d", "m", "j", "0", "0", "Enter", "Shift+Enter"):
        notebook.page.keyboard.press(key)
    field = notebook.widget.get_by_role("textbox", name="Feature to show")
    field.click()
    field.press_sequentially("abxdd")
    assert "abxdd" in field.input_value(), field.input_value()
    field.press("Escape")
    assert notebook.source() == before
    # The same keys outside the widget are the notebook's, or this test would prove nothing.
    notebook.cells.nth(FREE).locator(".cm-content").click()
    notebook.page.keyboard.press("Escape")
    notebook.page.keyboard.press("b")
    notebook.until(lambda: len(notebook.source()) == len(before) + 1)
    notebook.command("notebook:delete-cell")
    notebook.until(lambda: notebook.source() == before)


def test_a_page_reloaded_in_mid_growth_goes_on(endless: NotebookPage) -> None:
    expect(endless.rows.first).to_be_visible(timeout=60_000)
    endless.save()
    before = endless.nodes()
    endless.page.reload()
    endless.ready()
    expect(endless.rows.first).to_be_visible(timeout=60_000)
    state(endless, "growing")
    endless.until(lambda: endless.nodes() > before)
    photograph(endless, "reloaded")
    python(endless, "explorer.cutoff = 1e-4")
    state(endless, "done")
    endless.write(FREE, "len(explorer.wait().tree)")
    endless.run(FREE)
    output = endless.cells.nth(FREE).locator(".jp-OutputArea-output")
    expect(output).to_have_text(str(endless.nodes()), timeout=60_000)


@shows("export")
def test_an_export_is_what_python_reads_back(notebook: NotebookPage, tmp_path: Path) -> None:
    path = notebook.exported("tree.json", tmp_path)
    tree = DefinitionTree.from_json(path)
    assert path.name == f"{tree.stem}-tree.json"
    assert digest(tree) == python(notebook, f"print({digest_in_python()})")
    assert len(tree) == notebook.nodes()


@shows("panels")
def test_an_analysis_runs_when_it_is_asked_for(notebook: NotebookPage, tmp_path: Path) -> None:
    panel = notebook.run_analysis("Steering")
    expect(panel.get_by_role("region", name="unsteered")).to_be_visible()
    photograph(notebook, "steering")
    texts = SteeredTexts.from_json(notebook.exported("steering.json", tmp_path))
    expect(panel.locator(".sae-run-text")).to_have_text(texts.payload()["label"])


@shows("dark")
def test_the_widget_follows_the_theme(notebook: NotebookPage, front: Host) -> None:
    try:
        for theme in ("JupyterLab Light", "JupyterLab Dark"):
            notebook.change_theme(theme)
            notebook.expect_theme(dark=theme == "JupyterLab Dark")
            photograph(notebook, f"{front}-{theme.lower().replace(' ', '-')}")
    finally:
        notebook.change_theme("JupyterLab Light")


@shows("summary")
def test_a_saved_notebook_shows_the_summary_without_its_kernel(quickstart: NotebookPage) -> None:
    quickstart.run(MAKE)
    state(quickstart, "done")
    quickstart.run(WAIT)
    expect(quickstart.cells.nth(WAIT).locator(".jp-OutputArea-output")).to_be_visible()
    quickstart.save()
    quickstart.shut_down()
    quickstart.open()
    photograph(quickstart, "reopened")
    static = quickstart.panel.locator(".sae-explorer-static").first
    expect(static).to_be_visible()
    expect(static).to_contain_text("Most probable definitions")


@shows("saved", "folds")
def test_a_saved_notebook_shows_its_last_state_where_the_reader_keeps_it(
    quickstart: NotebookPage,
) -> None:
    keep = "@jupyter-widgets/jupyterlab-manager:saveWidgetState"
    quickstart.command(keep)
    try:
        quickstart.run(MAKE)
        state(quickstart, "done")
        rows = quickstart.rows.all_inner_texts()
        quickstart.save()
    finally:
        quickstart.command(keep)
    quickstart.shut_down()
    quickstart.open()
    quickstart.restored()
    quickstart.until(lambda: quickstart.rows.all_inner_texts() == rows)
    expect(quickstart.panel.locator(".sae-explorer-static").first).to_be_hidden()
    quickstart.expect_folds_searches_and_sorts()
