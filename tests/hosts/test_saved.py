"""What is left of a notebook without its kernel: exported by nbconvert, or opened again."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import TYPE_CHECKING

import nbclient
import nbformat
import pytest
from nbformat.sign import NotebookNotary
from playwright.sync_api import expect

from hosts.browser import visit
from hosts.jupyterlab import Lab, NotebookPage
from hosts.page import photograph

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nbformat import NotebookNode
    from playwright.sync_api import Browser, Locator

    from hosts.browser import Visit

CELLS = (
    "from sae_explorer import FeatureExplorer\nexplorer = FeatureExplorer.demo()\nexplorer",
    "explorer.wait();",
    "explorer.snapshot(600)",
)
#: What the summary and the tree of the bundled feature say.
FOUND = "a kind of vehicle"


@pytest.fixture(scope="module")
def unrun() -> NotebookNode:
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return nbformat.v4.new_notebook(cells=cells, metadata=kernel)


@pytest.fixture(scope="module")
def executed(unrun: NotebookNode) -> NotebookNode:
    """Return the notebook as nbclient has run it, with the state of its widgets."""
    notebook = copy.deepcopy(unrun)
    nbclient.NotebookClient(notebook, timeout=300).execute()
    assert "widgets" in notebook.metadata
    return notebook


def converted(notebook: NotebookNode, folder: Path, *options: str) -> Path:
    """Let nbconvert write a notebook in another form."""
    path = folder / "notebook.ipynb"
    nbformat.write(notebook, path)
    command = [sys.executable, "-m", "nbconvert", *options, "--output-dir", folder, path]
    subprocess.run(command, check=True)
    (written,) = [made for made in folder.glob("notebook.*") if made != path]
    return written


def tree_in_frame(seen: Visit) -> Locator:
    """Return the nodes of the tree that the snapshot shows."""
    return seen.page.frame_locator("iframe").get_by_role("treeitem")


HTML = ("--to", "html")


@pytest.mark.host("nbconvert", "summary")
@pytest.mark.parametrize(
    ("run", "options"),
    [
        (True, HTML),
        (True, (*HTML, "--template", "classic")),
        (True, (*HTML, "--template", "lab", "--theme", "dark")),
        (False, (*HTML, "--execute")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_an_exported_notebook_says_what_was_found(
    browser: Browser,
    unrun: NotebookNode,
    executed: NotebookNode,
    tmp_path: Path,
    run: bool,
    options: tuple[str, ...],
) -> None:
    path = converted(executed if run else unrun, tmp_path, *options)
    with visit(browser, path.as_uri()) as seen:
        summary = seen.page.locator(".sae-explorer-static").first
        expect(summary).to_be_visible()
        expect(summary.get_by_role("row").filter(has_text=FOUND).first).to_contain_text("%")
        # What Python says of an explorer is no news for who reads its results.
        expect(seen.page.get_by_text("FeatureExplorer(")).to_have_count(0)
        # The widget itself needs scripts from elsewhere: its place is not kept empty.
        for output in seen.page.locator(".jupyter-widgets, .output_widget_view").all():
            box = output.bounding_box()
            assert box is None or box["height"] < 20
        expect(tree_in_frame(seen).nth(3)).to_be_visible()


#: What nbconvert writes has no kernel, and no widget without scripts from elsewhere.
SNAPSHOT = "yes: put into a cell by `explorer.snapshot()`"


@pytest.mark.host(
    "nbconvert", saved=SNAPSHOT, folds=SNAPSHOT, offline="nbconvert's own page asks for its scripts"
)
def test_a_snapshot_survives_nbconvert_offline(
    browser: Browser, executed: NotebookNode, tmp_path: Path
) -> None:
    path = converted(executed, tmp_path, *HTML)
    with visit(browser, "about:blank") as seen:
        asked: list[str] = []
        # nbconvert's own page asks for scripts of its own; ours, in its frame, must not.
        seen.page.on(
            "request",
            lambda request: asked.append(request.url) if request.frame.parent_frame else None,
        )
        seen.page.goto(path.as_uri())
        nodes = tree_in_frame(seen)
        expect(nodes.nth(3)).to_be_visible()
        nodes.first.click()
        seen.page.keyboard.press("ArrowLeft")
        expect(nodes).to_have_count(1)
        field = seen.page.frame_locator("iframe").get_by_role("searchbox").first
        field.fill("vehicle")
        field.press("Enter")
        chosen = seen.page.frame_locator("iframe").locator("[role=treeitem][aria-selected=true]")
        expect(chosen).to_contain_text("vehicle")
        assert [address for address in asked if not address.startswith("blob:")] == []
        assert [address for address in seen.requests if address.endswith(".js")]
        assert not [problem for problem in seen.problems if "policy" in problem]


@pytest.mark.host("nbconvert", dark=SNAPSHOT)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_snapshot_is_as_dark_as_the_page_around_it(
    browser: Browser, executed: NotebookNode, tmp_path: Path, theme: str
) -> None:
    path = converted(executed, tmp_path, *HTML, "--theme", theme)
    # Whatever the reader prefers elsewhere.
    with visit(browser, path.as_uri(), dark=theme == "light") as seen:
        expect(tree_in_frame(seen).nth(3)).to_be_visible()
        root = seen.page.frame_locator("iframe").locator(".sae-explorer")
        expect(root).to_have_css("color-scheme", theme)


@pytest.mark.parametrize(
    ("form", "holds"), [("markdown", FOUND), ("script", "FeatureExplorer.demo()")]
)
def test_other_forms_of_a_notebook_hold_what_they_can(
    executed: NotebookNode, tmp_path: Path, form: str, holds: str
) -> None:
    text = converted(executed, tmp_path, "--to", form).read_text(encoding="utf-8")
    assert holds in text
    assert "FeatureExplorer(feature" not in text


@pytest.fixture
def reopened(
    lab: Lab, browser: Browser, executed: NotebookNode, request: pytest.FixtureRequest
) -> Iterator[NotebookPage]:
    """Return the notebook, opened again in JupyterLab as the test's marks say."""
    saved, trusted = request.param
    notebook = copy.deepcopy(executed)
    if not saved:
        del notebook.metadata["widgets"]
    name = f"saved-{saved}-trusted-{trusted}.ipynb"
    notebook.metadata["title"] = name  # what is trusted is the content
    notebook.cells[1].source += f"  # {name}"
    nbformat.write(notebook, lab.root / name)
    if trusted:
        notary = NotebookNotary(data_dir=str(lab.root.parent / "data"))
        notary.sign(nbformat.read(lab.root / name, as_version=4))
    with visit(browser, "about:blank", offline=False, width=1500, height=1100) as seen:
        page = NotebookPage(lab, seen.page, name)
        page.open()
        yield page
        page.shut_down()
    assert seen.strangers(lab.host) == []


def opened_as(*cases: tuple[bool, bool]) -> pytest.MarkDecorator:
    """Run a test for notebooks saved with the state of their widgets or not, trusted or not."""
    words = ("without state", "with state"), ("not trusted", "trusted")
    ids = [f"{words[0][saved]}, {words[1][trusted]}" for saved, trusted in cases]
    return pytest.mark.parametrize("reopened", cases, ids=ids, indirect=True)


@pytest.mark.host("JupyterLab 4", "saved", "folds")
@opened_as((True, True))
def test_a_trusted_notebook_shows_the_last_state_and_that_there_is_no_kernel(
    reopened: NotebookPage,
) -> None:
    reopened.restored()
    widget = reopened.widget
    expect(reopened.rows.nth(3)).to_be_visible()
    expect(reopened.status).to_contain_text("no kernel")
    # Where something could be changed, it says why not.
    expect(widget.locator(".sae-reason")).to_be_visible()
    expect(widget.get_by_role("textbox", name="Prompt")).to_be_disabled()
    photograph(reopened, "reopened")
    # Its summary is beside it, and hidden.
    summary = reopened.cells.first.locator(".sae-explorer-static")
    expect(summary).to_have_count(1)
    expect(summary).to_be_hidden()
    reopened.expect_folds_searches_and_sorts()


@pytest.mark.host("JupyterLab 4", "summary")
@opened_as((True, False), (False, True), (False, False))
def test_any_other_notebook_shows_the_summary(reopened: NotebookPage) -> None:
    outputs = reopened.cells.first.locator(".jp-OutputArea")
    expect(outputs.get_by_role("row").filter(has_text=FOUND).first).to_be_visible()
    expect(outputs.get_by_text("Nearest tokens")).to_be_visible()
    expect(outputs).not_to_contain_text("FeatureExplorer(")


@opened_as((False, True))
def test_an_explorer_elsewhere_hides_no_other_ones_summary(reopened: NotebookPage) -> None:
    summary = reopened.cells.first.get_by_role("row").filter(has_text=FOUND).first
    expect(summary).to_be_visible()
    reopened.write(1, "again = FeatureExplorer.demo()\nagain")
    reopened.write(2, CELLS[0].splitlines()[0])
    reopened.run(2)
    reopened.run(1)
    expect(reopened.rows.nth(3)).to_be_visible(timeout=60_000)
    expect(summary).to_be_visible()
