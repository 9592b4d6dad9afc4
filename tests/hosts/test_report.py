"""The exported page in a browser: from disk, with the network cut."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import TYPE_CHECKING

import nbformat
import pytest
from playwright.sync_api import expect

from hosts.browser import visit
from sae_explorer import DefinitionTree, FeatureExplorer, rank_tokens
from sae_explorer.widget import html

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Locator, Page

    from hosts.browser import Visit

HOSTILE = ["</script><script>window.broken = 1</script>", "<img src=x onerror='window.broken = 1'>"]


@pytest.fixture(scope="module")
def explorer() -> Iterator[FeatureExplorer]:
    explorer = FeatureExplorer.demo().wait()
    yield explorer
    explorer.close()


@pytest.fixture(scope="module")
def report(explorer: FeatureExplorer, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    explorer.to_html(path)
    return path.as_uri()


@pytest.fixture
def opened(browser: Browser, report: str) -> Iterator[Visit]:
    """Return the report, open; whatever a test does with it, it asks nobody and breaks nothing."""
    with visit(browser, report) as seen:
        expect(rows(seen.page).first).to_be_visible()
        yield seen
        assert seen.requests == []
        assert seen.problems == []


def rows(page: Page) -> Locator:
    return page.get_by_role("tree").get_by_role("treeitem")


def column(page: Page, title: str) -> list[str]:
    """Return what the rows of the token table say in the column of that title."""
    table = page.get_by_role("table", name="Nearest tokens")
    titles = [text.strip(" \n▴▾") for text in table.get_by_role("columnheader").all_inner_texts()]
    place = titles.index(title) + 1
    return table.locator(f"tbody tr:not(.sae-gap) td:nth-child({place})").all_inner_texts()


def test_report_shows_the_result_in_place_of_its_summary(
    opened: Visit, explorer: FeatureExplorer
) -> None:
    assert explorer.tree is not None
    assert opened.page.title().startswith(explorer.tree.request.label.capitalize())
    expect(opened.page.locator(".sae-explorer-static")).to_have_count(0)
    expect(opened.page.locator(".sae-explorer")).to_contain_text("saved copy")
    assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("dark", [False, True])
def test_report_follows_the_readers_colours(browser: Browser, report: str, dark: bool) -> None:
    with visit(browser, report, dark=dark) as seen:
        expect(rows(seen.page).first).to_be_visible()
        colours = seen.page.evaluate(
            "[...document.querySelectorAll('body, .sae-explorer')]"
            ".map((element) => getComputedStyle(element).backgroundColor)"
        )
    page, widget = (brightness(colour) for colour in colours)
    assert (page < 0.5) == (widget < 0.5) == dark


def brightness(colour: str) -> float:
    """Return the mean of a colour's three parts, 0 to 1; it is ``rgb(...)`` or ``color(srgb ...)``."""
    inner = colour[colour.index("(") + 1 : -1].replace(",", " ").replace("srgb", " ")
    parts = [float(part) for part in inner.split()[:3]]
    return sum(parts) / 3 / (255 if colour.startswith("rgb") else 1)


def test_report_folds_a_branch(opened: Visit) -> None:
    branch = opened.page.locator("[role=treeitem][aria-expanded=true][aria-level='2']").first
    label = str(branch.get_attribute("aria-label") or branch.inner_text())
    before = rows(opened.page).count()
    branch.click()
    opened.page.keyboard.press("ArrowLeft")
    folded = opened.page.locator("[role=treeitem][aria-expanded=false][aria-level='2']").first
    expect(folded).to_be_visible()
    assert label.split(maxsplit=1)[0] in str(
        folded.get_attribute("aria-label") or folded.inner_text()
    )
    assert rows(opened.page).count() < before
    opened.page.keyboard.press("ArrowRight")
    expect(rows(opened.page)).to_have_count(before)


def test_report_searches_the_tree(opened: Visit, explorer: FeatureExplorer) -> None:
    tree = explorer.tree
    assert tree is not None
    holds = ["vehicle" in tree.text(row) for row in range(len(tree))]
    found = sum(holds[row] and not holds[tree.parent[row]] for row in range(1, len(tree)))
    assert found > 1
    field = opened.page.get_by_role("searchbox", name="Search the definitions")
    field.fill("Vehicle")
    expect(opened.page.get_by_role("search")).to_contain_text(f"/ {found}")
    field.press("Enter")
    selected = opened.page.locator("[role=treeitem][aria-selected=true]")
    expect(selected).to_contain_text("vehicle")
    expect(opened.page.get_by_role("search")).to_contain_text(f"1 / {found}")


def test_report_sorts_the_tokens(opened: Visit) -> None:
    heading = opened.page.get_by_role("columnheader", name="cos v")
    heading.get_by_role("button").click()
    expect(heading).to_have_attribute("aria-sort", "ascending")
    rising = [float(text.replace("−", "-")) for text in column(opened.page, "cos v")]
    assert len(rising) > 10
    assert rising == sorted(rising)
    heading.get_by_role("button").click()
    expect(heading).to_have_attribute("aria-sort", "descending")
    falling = [float(text.replace("−", "-")) for text in column(opened.page, "cos v")]
    assert falling == sorted(falling, reverse=True)


@pytest.mark.parametrize("key", ["Home", "End"])
def test_slider_ranks_the_tokens_as_python_does(
    opened: Visit, explorer: FeatureExplorer, key: str
) -> None:
    assert explorer.tokens is not None
    assert explorer.subject is not None
    slider = opened.page.get_by_role("slider", name="Exponent")
    before = column(opened.page, "id")
    slider.focus()
    slider.press(key)
    exponent = float(str(slider.get_attribute("aria-valuetext")))
    request = dataclasses.replace(explorer.tokens.request, exponent=exponent)
    again = rank_tokens(explorer.subject, **request.to_dict())
    expected = [str(token_id) for token_id in again.token_id.tolist()]
    shown = column(opened.page, "id")
    assert shown == expected[: len(shown)]
    assert shown != before


def test_report_exports_what_python_reads_back(
    opened: Visit, explorer: FeatureExplorer, tmp_path: Path
) -> None:
    opened.page.get_by_role("button", name="Export").click()
    with opened.page.expect_download() as waiting:
        opened.page.get_by_role("menuitem", name="tree.json").click()
    waiting.value.save_as(tmp_path / "tree.json")
    assert waiting.value.suggested_filename == "tree.json"
    assert DefinitionTree.from_json(tmp_path / "tree.json") == explorer.tree


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_tokens_stay_text(
    browser: Browser,
    explorer: FeatureExplorer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hostile: str,
) -> None:
    assert explorer.tree is not None
    texts = dict.fromkeys(explorer.tree.texts, f" {hostile}\n")
    tree = dataclasses.replace(explorer.tree, texts=texts)
    monkeypatch.setattr(explorer._session.panels["tree"], "result", tree)
    explorer.to_html(tmp_path / "report.html")
    with visit(browser, (tmp_path / "report.html").as_uri()) as seen:
        expect(rows(seen.page).nth(1)).to_contain_text(f"{hostile}⏎")
        assert seen.page.evaluate("window.broken") is None
        assert (seen.requests, seen.problems) == ([], [])


def test_without_scripts_the_report_is_its_summary(
    browser: Browser, report: str, explorer: FeatureExplorer
) -> None:
    assert explorer.tree is not None
    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto(report)
    for definition in explorer.tree.definitions(10):
        expect(page.get_by_text(definition.text, exact=True)).to_be_visible()
    context.close()


def test_a_bundle_that_fails_leaves_the_summary(
    browser: Browser,
    explorer: FeatureExplorer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assets = {name: html.asset(name) for name in ("widget.js", "widget.css", "page.js")}
    assets["widget.js"] = 'export default { render() { throw new Error("no such luck"); } };'
    monkeypatch.setattr(html, "asset", assets.__getitem__)
    explorer.to_html(tmp_path / "report.html")
    with visit(browser, (tmp_path / "report.html").as_uri()) as seen:
        expect(seen.page.get_by_role("alert")).to_contain_text("no such luck")
        expect(seen.page.locator(".sae-explorer-static")).to_be_visible()
        assert any("no such luck" in problem for problem in seen.problems)


def test_snapshot_survives_nbconvert_offline(
    browser: Browser, explorer: FeatureExplorer, tmp_path: Path
) -> None:
    shown = {"text/html": explorer.snapshot(600)._repr_html_(), "text/plain": "Snapshot"}
    output = nbformat.v4.new_output("display_data", data=shown)
    cell = nbformat.v4.new_code_cell("explorer.snapshot()", outputs=[output])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "notebook.ipynb")
    subprocess.run(
        [sys.executable, "-m", "nbconvert", "--to", "html", tmp_path / "notebook.ipynb"],
        check=True,
        capture_output=True,
    )
    with visit(browser, "about:blank") as seen:
        asked: list[str] = []
        # nbconvert's own page asks for scripts of its own; ours, in its frame, must not.
        seen.page.on(
            "request",
            lambda request: asked.append(request.url) if request.frame.parent_frame else None,
        )
        seen.page.goto((tmp_path / "notebook.html").as_uri())
        frame = seen.page.frame_locator("iframe")
        nodes = frame.get_by_role("treeitem")
        expect(nodes.nth(3)).to_be_visible()
        nodes.first.click()
        seen.page.keyboard.press("ArrowLeft")
        expect(nodes).to_have_count(1)
        assert [address for address in asked if not address.startswith("blob:")] == []
        assert not [problem for problem in seen.problems if "policy" in problem]
