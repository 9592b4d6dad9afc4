"""Several explorers in one notebook, one shown several times, and explorers among other widgets."""

from __future__ import annotations

import re
from contextlib import ExitStack
from typing import TYPE_CHECKING

import ipywidgets
import pytest
from playwright.sync_api import expect

from hosts import voila as voila_server
from hosts.jupyterlab import LAB, NOTEBOOK, VOILA, Host, Lab, name_of, opened, shows, written
from hosts.page import WidgetPage, expect_in_step, photograph, state
from sae_explorer import FeatureExplorer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, Locator

    from hosts.voila import Voila

    #: Runs these cells, and gives the page that shows what they show.
    Show = Callable[..., WidgetPage]

EVERYWHERE = (LAB, NOTEBOOK, VOILA)

ONE = """\
from sae_explorer import FeatureExplorer
explorer = FeatureExplorer.demo()
explorer"""
AGAIN = "explorer"

TWO_OF_ONE_MODEL = """\
from sae_explorer import FeatureExplorer, Subject
from sae_explorer.loading.demo import DIRECTION
subject = Subject.demo()
FeatureExplorer(302, subject=subject, **DIRECTION)"""
ENDLESS = """\
FeatureExplorer(
    17, subject=subject, cutoff=1e-10, max_nodes=None, max_depth=60, **DIRECTION
)"""

LINKED = """\
import ipywidgets
from sae_explorer import FeatureExplorer
explorer = FeatureExplorer.demo()
slider = ipywidgets.IntSlider(max=1535)
ipywidgets.link((explorer, "feature"), (slider, "value"))
said = ipywidgets.Label()
explorer.observe(lambda change: setattr(said, "value", f"Python has {change.new}"), "feature")
ipywidgets.VBox([slider, explorer, said])"""

BEHIND = """\
import ipywidgets
from sae_explorer import FeatureExplorer
explorer = FeatureExplorer.demo()
ipywidgets.Tab(
    [ipywidgets.Label("Something else."), ipywidgets.Accordion([explorer], titles=("deeper",))],
    titles=("in front", "behind"),
)"""


@pytest.fixture(scope="module")
def voila(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Voila]:
    with voila_server.running(tmp_path_factory.mktemp("voila")) as voila:
        yield voila


@pytest.fixture
def show(front: Host, browser: Browser, request: pytest.FixtureRequest) -> Iterator[Show]:
    """Return what shows a notebook in a host, and in the end that nothing went wrong there."""
    name = name_of(request)
    with ExitStack() as stack:

        def show(*cells: str) -> WidgetPage:
            if front is VOILA:
                voila = request.getfixturevalue("voila")
                notebook = written(voila, cells, name)
                return stack.enter_context(voila_server.opened(voila, browser, notebook))
            lab = request.getfixturevalue("lab")
            notebook = written(lab, cells, name)
            page = stack.enter_context(opened(lab, browser, notebook, front))
            page.command("notebook:run-all-cells")
            return page

        yield show


@shows("views", among=EVERYWHERE)
def test_an_explorer_shown_twice_stays_in_step_and_is_read_on_its_own(
    show: Show, front: Host
) -> None:
    one = show(ONE, AGAIN)
    other = one.nth(1)
    expect_in_step(one, other, "feature 302")
    # What is folded and which tab is in sight is each view's own.
    before = other.rows.all_inner_texts()
    one.rows.nth(1).click()
    one.page.keyboard.press("ArrowLeft")
    expect(one.rows.nth(1)).to_have_attribute("aria-expanded", "false")
    one.widget.get_by_role("tab", name="Logit lens").click()
    assert other.rows.all_inner_texts() == before
    expect(other.widget.get_by_role("tab", name="Nearest tokens")).to_have_attribute(
        "aria-selected", "true"
    )
    photograph(one, f"{front}-twice")
    # What is asked is everybody's, whoever asks.
    other.enter("Feature to show", "17")
    expect_in_step(one, other, "feature 17")
    one.enter("Feature to show", "288")
    expect_in_step(one, other, "feature 288")
    # What is refused is said to the one who asked.
    other.enter("Feature to show", "99999999")
    expect(other.widget).to_contain_text("There is no feature 99999999")
    expect(one.widget).not_to_contain_text("There is no feature")


@shows("views", among=EVERYWHERE)
def test_two_explorers_of_one_model_do_not_mix(show: Show, front: Host) -> None:
    one = show(TWO_OF_ONE_MODEL, ENDLESS)
    other = one.nth(1)
    one.expect_tree_of("feature 302")
    state(other, "growing")
    expect(other.rows.first).to_be_visible(timeout=60_000)
    one.enter("Feature to show", "288")
    one.expect_tree_of("feature 288")
    state(other, "growing")
    expect(other.widget.get_by_role("tree")).to_have_accessible_name(re.compile(r"feature 17\b"))
    photograph(one, f"{front}-two")
    nodes = one.nodes()
    last = other.nodes()
    other.until(lambda: other.nodes() > last)
    other.widget.get_by_role("button", name="Cancel").click()
    state(other, "partial")
    state(one, "done")
    assert one.nodes() == nodes


@shows("composed", among=EVERYWHERE)
def test_an_explorer_in_a_box_is_linked_to_a_slider(show: Show, front: Host) -> None:
    page = show(LINKED)
    page.expect_tree_of("feature 302")
    readout = page.panel.locator(".widget-readout")
    expect(readout).to_have_text("302")
    readout.fill("303")  # Notebook 7 takes arrow keys for itself
    readout.press("Enter")
    page.expect_tree_of("feature 303")
    expect(readout).to_have_text("303")
    page.enter("Feature to show", "17")
    page.expect_tree_of("feature 17")
    expect(readout).to_have_text("17")
    expect(page.panel.get_by_text("Python has 17")).to_be_visible()
    photograph(page, f"{front}-linked")
    # It takes the width that the box has.
    box, room = page.widget.bounding_box(), page.panel.locator(".widget-vbox").bounding_box()
    assert box is not None
    assert room is not None
    assert box["width"] > 0.98 * room["width"]


def test_a_link_within_the_browser_is_refused() -> None:
    # Options live in Python, where they are checked: ipywidgets.link is the one to take.
    explorer = FeatureExplorer.demo()
    slider = ipywidgets.IntSlider()
    with pytest.raises(TypeError, match="cannot be synced"):
        ipywidgets.jslink((slider, "value"), (explorer, "feature"))
    explorer.close()


def front_tab(page: WidgetPage, title: str) -> None:
    """Bring a tab of the box around the explorer to the front."""
    page.panel.locator(".widget-tab .lm-TabBar-tab", has_text=title).click()


def expect_laid_out(page: WidgetPage, drawing: Locator) -> None:
    """Assert that a drawing fills what there is for it."""
    expect(drawing).to_be_visible()
    page.until(
        lambda: drawing.evaluate(
            "(element) => element.clientWidth > 400 && element.clientHeight > 200"
            " && (element.width ?? element.clientWidth) >= element.clientWidth"
        )
    )


@shows("composed", among=EVERYWHERE)
def test_an_explorer_that_is_hidden_at_first_lays_itself_out_when_it_is_seen(
    show: Show, front: Host
) -> None:
    page = show(BEHIND)
    front_tab(page, "behind")
    page.panel.get_by_text("deeper", exact=True).click()
    page.expect_tree_of("feature 302")
    tree = page.widget.get_by_role("tree")
    expect_laid_out(page, tree)
    # Lines are drawn down to the lower edge, or as many as there are.
    tree.scroll_into_view_if_needed()
    expect(page.rows.nth(10)).to_be_in_viewport()
    photograph(page, f"{front}-behind")
    # A diagram that was made while it was out of sight is as good as any.
    page.widget.get_by_role("radio", name="diagram").check(force=True)
    canvas = page.widget.locator("canvas").first
    expect_laid_out(page, canvas)
    front_tab(page, "in front")
    expect(canvas).to_be_hidden()
    front_tab(page, "behind")
    expect_laid_out(page, canvas)
    photograph(page, f"{front}-behind-diagram")


def test_an_output_can_be_scrolled_and_shown_in_a_view_of_its_own(
    lab: Lab, browser: Browser, request: pytest.FixtureRequest
) -> None:
    with opened(lab, browser, written(lab, [ONE], name_of(request))) as page:
        page.run(0)
        page.expect_tree_of("feature 302")
        page.command("notebook:enable-output-scrolling")
        page.command("notebook:create-output-view")
        apart = WidgetPage(page.page).nth(1)
        expect(apart.page.locator(".jp-LinkedOutputView .sae-explorer")).to_be_visible()
        expect_in_step(page, apart, "feature 302")
        photograph(apart, "output-view")
        apart.enter("Feature to show", "17")
        expect_in_step(page, apart, "feature 17")
