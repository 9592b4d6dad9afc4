"""The widget in Voila, in a real browser: every cell has run before there is anything to see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from hosts.asking import digest, digest_in_python
from hosts.browser import visit
from hosts.jupyterlab import name_of, written
from hosts.page import PATIENCE, WidgetPage, photograph, state
from hosts.voila import Voila, opened, running
from sae_explorer import DefinitionTree, SteeredTexts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser

CELL = """\
import ipywidgets
from sae_explorer import FeatureExplorer
explorer = FeatureExplorer.demo()
said = ipywidgets.Label()
explorer.observe(lambda change: setattr(said, "value", f"Python has {change.new}"), "feature")
button = ipywidgets.Button(description="What is the tree?")
button.on_click(lambda _: setattr(said, "value", f"Python has {DIGEST}"))
display(explorer, button, said)""".replace("DIGEST", digest_in_python())

#: A tree that grows for minutes.
ENDLESS = """\
from sae_explorer import FeatureExplorer
explorer = FeatureExplorer.demo(cutoff=1e-10, max_nodes=None, max_depth=60)
explorer"""

#: What still runs in Voila once its page is there: what answers other widgets.
HANDLER = """\
import ipywidgets
import pathlib
import time
button = ipywidgets.Button(description="Keep the kernel busy")
def wait(_):
    button.description = "Busy"
    while not pathlib.Path("enough").exists():
        time.sleep(0.05)
button.on_click(wait)
button"""


@pytest.fixture(scope="module")
def voila(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Voila]:
    with running(tmp_path_factory.mktemp("voila")) as voila:
        yield voila


@pytest.fixture
def page(voila: Voila, browser: Browser, request: pytest.FixtureRequest) -> Iterator[WidgetPage]:
    with opened(voila, browser, written(voila, [CELL], name_of(request))) as page:
        yield page


@pytest.fixture
def endless(voila: Voila, browser: Browser, request: pytest.FixtureRequest) -> Iterator[WidgetPage]:
    with opened(voila, browser, written(voila, [ENDLESS, HANDLER], name_of(request))) as page:
        yield page


@pytest.mark.host("Voila", "controls", "panels", "export", "keys")
def test_everything_is_asked_in_the_page(page: WidgetPage, tmp_path: Path) -> None:
    page.expect_tree_of("feature 302")
    expect(page.panel.locator(".sae-explorer-static").first).to_be_hidden()
    photograph(page, "voila")
    page.enter("Feature to show", "17")
    page.expect_tree_of("feature 17")
    expect(page.panel.get_by_text("Python has 17")).to_be_visible()
    tree = DefinitionTree.from_json(page.exported("tree.json", tmp_path))
    assert len(tree) == page.nodes()
    page.panel.get_by_role("button", name="What is the tree?").click()
    expect(page.panel.get_by_text(f"Python has {digest(tree)}", exact=True)).to_be_visible()
    panel = page.run_analysis("Steering")
    expect(panel.get_by_role("region", name="unsteered")).to_be_visible()
    texts = SteeredTexts.from_json(page.exported("steering.json", tmp_path))
    expect(panel.locator(".sae-run-text")).to_have_text(texts.payload()["label"])
    heard = page.heard()
    field = page.widget.get_by_role("textbox", name="Feature to show")
    field.press("b")
    assert heard.json_value() == []
    field.blur()
    page.page.keyboard.press("b")
    assert "b" in heard.json_value()


@pytest.mark.host("Voila", "grows", "cancel")
def test_the_tree_is_seen_growing_stops_and_goes_on(endless: WidgetPage) -> None:
    endless.expect_cancels_and_grows_on("voila")
    # Less of the tree is soon there: it ends.
    endless.enter("Cutoff", "0.001")
    state(endless, "done")


@pytest.mark.host("Voila", busy="a running cell holds messages up")
def test_cancel_is_obeyed_when_what_keeps_the_kernel_busy_ends(
    voila: Voila, endless: WidgetPage
) -> None:
    state(endless, "growing")
    endless.panel.get_by_role("button", name="Keep the kernel busy").click()
    expect(endless.panel.get_by_role("button", name="Busy")).to_be_visible()
    endless.widget.get_by_role("button", name="Cancel").click()
    for _ in range(3):  # the tree grows meanwhile, and is seen to
        last = endless.nodes()
        endless.until(lambda: endless.nodes() > last)  # noqa: B023 - called at once
    photograph(endless, "voila-busy")
    (voila.root / "enough").touch()
    state(endless, "partial")


@pytest.mark.host("Voila", "dark")
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_widget_follows_the_theme(
    voila: Voila, browser: Browser, request: pytest.FixtureRequest, theme: str
) -> None:
    with opened(voila, browser, written(voila, [CELL], name_of(request)), theme=theme) as page:
        state(page, "done")
        page.expect_theme(dark=theme == "dark")
        photograph(page, f"voila-{theme}")


@pytest.mark.host(
    "Voila", offline="Voila's own page asks for an icon font; the widget asks for nothing"
)
def test_voila_itself_asks_for_an_icon_font_which_the_widget_does_without(
    voila: Voila, browser: Browser, request: pytest.FixtureRequest
) -> None:
    address = voila.address(written(voila, [CELL], name_of(request)), template="lab")
    with visit(browser, "about:blank", offline=False) as seen:
        seen.page.set_default_timeout(PATIENCE)
        seen.page.goto(address)
        state(WidgetPage(seen.page), "done")
    others = seen.strangers(voila.host)
    assert others
    assert [asked for asked in others if "/@fortawesome/fontawesome-free@" not in asked] == []
