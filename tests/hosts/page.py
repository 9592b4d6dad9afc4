"""A page in which explorers are shown, wherever it is, and what is asked of any of them."""

from __future__ import annotations

import re
import time
from copy import copy
from typing import TYPE_CHECKING

from playwright.sync_api import expect

from hosts.browser import picture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Self

    from playwright.sync_api import JSHandle, Locator, Page

#: A kernel that starts, or a machine with other work, may take its time; milliseconds.
PATIENCE = 120_000
expect.set_options(timeout=PATIENCE / 4)


class WidgetPage:
    """A page of a browser in which explorers are shown; what is asked is asked about one of them."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.index = 0

    def nth(self, index: int) -> Self:
        """Return the same page, for what is asked about another of its explorers."""
        other = copy(self)
        other.index = index
        return other

    @property
    def panel(self) -> Locator:
        return self.page.locator("body")

    @property
    def widget(self) -> Locator:
        return self.panel.locator(".sae-explorer").nth(self.index)

    @property
    def rows(self) -> Locator:
        return self.widget.get_by_role("tree").get_by_role("treeitem")

    @property
    def status(self) -> Locator:
        return self.widget.locator(".sae-status")

    def nodes(self) -> int:
        """Return how many nodes the header counts."""
        said = re.search(r"([\d,]+)\s+nodes", self.status.inner_text())
        return int(said[1].replace(",", "")) if said else 0

    def enter(self, label: str, text: str) -> None:
        """Write into one of the explorer's fields."""
        field = self.widget.get_by_role("textbox", name=label, exact=True)
        field.fill(text)
        field.press("Enter")

    def run_analysis(self, title: str) -> Locator:
        """Bring a panel into sight and run it to its end; return it."""
        self.widget.get_by_role("tab", name=title).click()
        panel = self.widget.get_by_role("tabpanel", name=title)
        panel.get_by_role("button", name="Run", exact=True).click()
        expect(panel.locator(".sae-run")).to_have_attribute("data-state", "done", timeout=PATIENCE)
        return panel

    def exported(self, file: str, folder: Path) -> Path:
        """Save one of the files of the menu; return where it is, under the name that was proposed."""
        self.widget.get_by_role("button", name="Export", exact=True).click()
        with self.page.expect_download() as waiting:
            self.widget.get_by_role("menuitem", name=file).click()
        path = folder / waiting.value.suggested_filename
        assert path.name.endswith(f"-{file}")
        waiting.value.save_as(path)
        return path

    def expect_theme(self, *, dark: bool) -> None:
        """Wait until the explorer's text is lighter than what it stands on, or darker."""

        def is_dark() -> bool:
            paper, ink = self.widget.evaluate(
                "(element) => { const style = getComputedStyle(element);"
                " return [style.backgroundColor, style.color].map((colour) =>"
                " colour.match(/[\\d.]+/g).slice(0, 3).reduce((sum, part) => sum + +part, 0)); }"
            )
            return bool(paper < ink)

        self.until(lambda: is_dark() == dark)

    def heard(self) -> JSHandle:
        """Return a list of the keys that reach the page, from now on."""
        return self.page.evaluate_handle(
            "() => { const heard = []; for (const kind of ['keydown', 'keyup', 'keypress'])"
            " document.addEventListener(kind, (event) => heard.push(event.key)); return heard; }"
        )

    def expect_tree_of(self, words: str) -> None:
        """Wait until the tree is that of a feature, and whole."""
        expect(self.widget.get_by_role("tree")).to_have_accessible_name(
            re.compile(rf"\b{words}\b"), timeout=PATIENCE
        )
        state(self, "done")

    def expect_cancels_and_grows_on(self, name: str) -> None:
        """Assert that a tree is seen growing, stops at Cancel for good, and goes on when asked to."""
        expect(self.rows.first).to_be_visible(timeout=PATIENCE)
        state(self, "growing")
        for _ in range(3):
            last = self.nodes()
            self.until(lambda: self.nodes() > last)  # noqa: B023 - called at once
        photograph(self, f"{name}-growing")
        self.widget.get_by_role("button", name="Cancel").click()
        state(self, "partial")
        photograph(self, f"{name}-partial")
        stopped = self.nodes()
        assert stopped > last
        self.page.wait_for_timeout(500)
        assert self.nodes() == stopped
        self.widget.get_by_role("button", name="Grow on").click()
        state(self, "growing")
        self.until(lambda: self.nodes() > stopped)

    def expect_folds_searches_and_sorts(self) -> None:
        """Assert that what needs no kernel works."""
        expect(self.rows.nth(3)).to_be_visible()
        self.rows.first.click()
        self.page.keyboard.press("ArrowLeft")
        expect(self.rows).to_have_count(1)
        self.page.keyboard.press("ArrowRight")
        expect(self.rows.nth(3)).to_be_visible()
        field = self.widget.get_by_role("searchbox", name="Search the definitions")
        field.fill("vehicle")
        expect(self.widget.get_by_role("search")).to_contain_text(re.compile(r"/ [1-9]"))
        field.press("Enter")
        expect(self.rows.and_(self.widget.locator("[aria-selected=true]"))).to_contain_text(
            "vehicle"
        )
        heading = self.widget.get_by_role("columnheader", name="cos v")
        heading.get_by_role("button").click()
        expect(heading).to_have_attribute("aria-sort", "ascending")

    def until(self, condition: Callable[[], object], seconds: float = 60.0) -> None:
        """Wait for what no locator can say."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end
            self.page.wait_for_timeout(50)


def photograph(notebook: WidgetPage, name: str) -> None:
    """Take a picture, where pictures are wanted."""
    path = picture(name)
    if path is not None:
        notebook.widget.scroll_into_view_if_needed()
        notebook.page.screenshot(path=path)


def state(notebook: WidgetPage, word: str) -> None:
    """Wait until the header says that it is loading, growing, done, partial or an error."""
    chip = notebook.status.locator(".sae-chip")
    expect(chip).to_have_attribute("data-state", word, timeout=PATIENCE)


def expect_in_step(one: WidgetPage, other: WidgetPage, words: str) -> None:
    """Wait until two views show the same tree, and the same of it."""
    for each in (one, other):
        each.expect_tree_of(words)
    one.until(lambda: one.nodes() == other.nodes() and alike(nodes_of(one), nodes_of(other)))


def nodes_of(page: WidgetPage) -> list[list[str]]:
    """Return the tokens and probabilities of the nodes that are drawn; a wide view says more."""
    return [text.splitlines()[:3] for text in page.rows.all_inner_texts()]


def alike(one: list[list[str]], other: list[list[str]]) -> bool:
    """Return whether what both views draw is the same; a high one draws more."""
    drawn = min(len(one), len(other))
    return drawn > 3 and one[:drawn] == other[:drawn]
