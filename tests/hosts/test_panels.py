"""The analyses that run on request, in JupyterLab: each is run, stopped, mended and taken away."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from playwright.sync_api import expect

from hosts.asking import MODEL, digest, digest_in_python, hold, let_go, python
from hosts.browser import visit
from hosts.jupyterlab import NotebookPage, made_anew, prepared
from hosts.page import photograph, state
from sae_explorer import (
    ClosedLoop,
    DefinitionTree,
    DoseResponse,
    ScaleSweep,
    SteeredTexts,
    TreeDifference,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Locator

    from hosts.jupyterlab import Lab
    from sae_explorer.results import Result

#: One model for all tests.
READY = f"{MODEL}\nprint('ready')"
MAKE = """\
as_new()
explorer = FeatureExplorer(302, subject=subject, against="weights=encoder", **DIRECTION)
explorer"""
MAKE_CELL, FREE_CELL = 1, 2
#: Seconds that each forward takes where a run is to be stopped: some stages of it are told.
SLOW = 0.25


@dataclass(frozen=True)
class Case:
    """A panel, and what a reader does with it."""

    name: str
    title: str
    result: type[Result]
    #: Where its result is looked for: a role and a name.
    shows: tuple[str, str]
    #: Changes an option of it in its panel.
    change: Callable[[Locator], None]
    #: Asks for what cannot be, in the panel or from Python.
    spoil: Callable[[Locator, NotebookPage], None]
    complaint: str
    #: After so many forwards something has been found, and not yet everything.
    midst: int

    def __str__(self) -> str:
        return self.name


def fill(panel: Locator, label: str, text: str) -> None:
    field = panel.get_by_role("textbox", name=label, exact=True)
    field.fill(text)
    field.press("Enter")


def settings(panel: Locator, title: str = "Settings") -> Locator:
    panel.get_by_text(title).click()
    return panel


def against(panel: Locator, word: str) -> Locator:
    panel.get_by_label("The tree against the one").select_option(word)
    return panel


CASES = [
    Case(
        "difference",
        "Difference",
        TreeDifference,
        ("tree", "Definition tree"),
        lambda panel: fill(against(panel, "scale"), "Other scale", "2"),
        lambda panel, _: fill(against(panel, "feature"), "Other feature", "99999"),
        "There is no feature 99999",
        4,
    ),
    Case(
        "steering",
        "Steering",
        SteeredTexts,
        ("region", "unsteered"),
        lambda panel: fill(panel, "Add to strengths", "2"),
        lambda panel, _: fill(settings(panel, "More options"), "Max tokens", "200"),
        "reads 128 at most",
        8,
    ),
    Case(
        "dose",
        "Dose-response",
        DoseResponse,
        ("slider", "Change of the next token, by strength"),
        lambda panel: fill(panel, "Add to targets", " car"),
        lambda panel, _: fill(panel, "Add to targets", " no single token"),
        "is no single token",
        6,
    ),
    Case(
        "scales",
        "Scale",
        ScaleSweep,
        ("slider", "Composite by scale"),
        lambda panel: fill(settings(panel), "Add to grid", "0.2, 0.5, 1, 2"),
        lambda _, notebook: python(notebook, "explorer.token = ' car'"),
        "without a scale",
        4,
    ),
    Case(
        "loop",
        "Closed loop",
        ClosedLoop,
        ("table", "Definitions and how the feature answers"),
        lambda panel: fill(settings(panel), "Definitions", "10"),
        lambda panel, _: fill(settings(panel), "Template", "hello"),
        "it must hold {definition} once",
        21,
    ),
]
every_panel = pytest.mark.parametrize("case", CASES, ids=str)


def choose(panel: Locator, name: str, word: str) -> None:
    panel.get_by_role("combobox", name=name, exact=True).select_option(word)


@pytest.fixture(scope="module")
def page(lab: Lab, browser: Browser) -> Iterator[NotebookPage]:
    """Return one notebook for all tests; in the end nothing went wrong and nobody was asked."""
    with prepared(lab, browser, [READY, MAKE, ""], "panels.ipynb") as notebook:
        yield notebook


@pytest.fixture
def notebook(page: NotebookPage) -> Iterator[NotebookPage]:
    """Return the notebook with an explorer that nobody has asked anything yet."""
    with made_anew(page, MAKE_CELL) as notebook:
        yield notebook


def panel_of(notebook: NotebookPage, case: Case) -> Locator:
    """Bring a panel into sight."""
    notebook.widget.get_by_role("tab", name=case.title).click()
    return notebook.widget.get_by_role("tabpanel", name=case.title)


def shown(panel: Locator, case: Case) -> Locator:
    role, name = case.shows
    return panel.get_by_role(role, name=name)  # type: ignore[arg-type]


def bar(panel: Locator, word: str) -> Locator:
    """Wait until a panel's run is that far."""
    found = panel.locator(".sae-run")
    expect(found).to_have_attribute("data-state", word, timeout=30_000)
    return found


def press(panel: Locator, name: str) -> None:
    panel.get_by_role("button", name=name, exact=True).click()


def ran(notebook: NotebookPage, case: Case) -> Locator:
    """Run an analysis to its end."""
    panel = panel_of(notebook, case)
    press(panel, "Run")
    bar(panel, "done")
    return panel


@pytest.mark.host("JupyterLab 4", "panels", "export")
@every_panel
def test_a_panel_shows_and_gives_away_what_it_found_until_an_option_changes(
    notebook: NotebookPage, case: Case, tmp_path: Path
) -> None:
    panel = panel_of(notebook, case)
    bar(panel, "idle")
    expect(shown(panel, case)).to_have_count(0)
    press(panel, "Run")
    bar(panel, "done")
    expect(shown(panel, case)).to_be_visible()
    photograph(notebook, case.name)
    first = case.result.from_json(notebook.exported(f"{case.name}.json", tmp_path))
    assert digest(first) == python(notebook, f"print({digest_in_python(case.name)})")
    assert first.payload()["status"] == "complete"
    expect(panel.locator(".sae-run-text")).to_have_text(first.payload()["label"])
    table = pd.read_csv(notebook.exported(f"{case.name}.csv", tmp_path))
    assert len(table) == len(first.to_frame())

    case.change(panel)
    expect(bar(panel, "stale")).to_contain_text("from before the last change")
    photograph(notebook, f"{case.name}-stale")
    expect(shown(panel, case)).to_be_visible()
    press(panel, "Run again")
    bar(panel, "done")
    second = case.result.from_json(notebook.exported(f"{case.name}.json", tmp_path))
    assert second.request != first.request


@pytest.mark.host("JupyterLab 4", "panels")
@every_panel
def test_a_panel_that_is_stopped_keeps_what_it_has(notebook: NotebookPage, case: Case) -> None:
    panel = panel_of(notebook, case)
    hold(notebook, case.midst, SLOW)
    press(panel, "Run")
    bar(panel, "running")
    # What it has found so far is shown while it runs.
    expect(shown(panel, case)).to_be_visible(timeout=30_000)
    photograph(notebook, f"{case.name}-running")
    press(panel, "Cancel")
    let_go(notebook)
    expect(bar(panel, "partial")).to_contain_text("stopped before its end")
    expect(shown(panel, case)).to_be_visible()
    state(notebook, "done")


@pytest.mark.host("JupyterLab 4", "panels")
@every_panel
def test_a_panel_says_what_is_wrong_and_the_rest_goes_on(
    notebook: NotebookPage, case: Case
) -> None:
    panel = panel_of(notebook, case)
    case.spoil(panel, notebook)
    press(panel, "Run")
    bar(panel, "error")
    expect(panel.get_by_role("alert")).to_contain_text(case.complaint)
    expect(panel.get_by_role("button", name="Run again")).to_be_enabled()
    photograph(notebook, f"{case.name}-error")
    fill(notebook.widget, "Feature to show", "17")
    notebook.widget.get_by_role("tab", name="Definition tree").click()
    expect(notebook.rows.nth(1)).to_be_visible()
    expect(notebook.widget.get_by_role("tree")).to_have_accessible_name(re.compile("feature 17"))
    state(notebook, "done")


def test_figures_stand_side_by_side_whatever_the_notebook_makes_of_lists(
    notebook: NotebookPage,
) -> None:
    notebook.rows.nth(3).click()
    selected = notebook.widget.locator(".sae-selected")
    expect(selected.locator(".sae-node-text")).to_be_visible()
    # How far the notebook is scrolled is left by who used it before.
    selected.scroll_into_view_if_needed()
    expect(selected.get_by_role("button", name="Copy")).to_be_in_viewport()
    panel = ran(notebook, CASES[2])
    expect(panel.locator("dt").first).to_be_visible()
    overlaps = panel.locator("dt").evaluate_all(
        "(terms) => terms.filter((term) => term.getBoundingClientRect().right"
        " > term.nextElementSibling.getBoundingClientRect().left).length"
    )
    assert overlaps == 0


def test_a_clamp_brings_a_unit_that_an_activation_has(notebook: NotebookPage) -> None:
    panel = panel_of(notebook, CASES[1])
    choose(panel, "Action", "clamp")
    expect(panel.get_by_role("combobox", name="Unit")).to_have_value("max_activation")
    press(panel, "Run")
    bar(panel, "done")
    expect(panel.get_by_role("region", name="clamped at 0.5")).to_be_visible()


@pytest.mark.host("JupyterLab 4", "controls")
def test_an_intervention_changes_the_tree_and_its_label(notebook: NotebookPage) -> None:
    before = notebook.rows.all_inner_texts()
    controls = notebook.widget.get_by_role("region", name="Controls")
    press(controls, "Add")
    controls.get_by_label("What is done").select_option("clamp")
    fill(controls, "Feature of the intervention", "288")
    fill(controls, "Value", "8")
    tree = notebook.widget.get_by_role("tree")
    expect(tree).to_have_accessible_name(re.compile("feature 302, feature 288 at 8"))
    state(notebook, "done")
    expect(notebook.status).to_contain_text("feature 302, feature 288 at 8")
    assert notebook.rows.all_inner_texts() != before
    photograph(notebook, "intervention")
    python(notebook, "assert explorer.interventions[0].value == 8.0")
    controls.get_by_role("button", name=re.compile("^Remove clamp feature 288")).click()
    expect(tree).not_to_have_accessible_name(re.compile("288"))
    state(notebook, "done")
    notebook.until(lambda: notebook.rows.all_inner_texts() == before)


def test_a_tree_is_coloured_and_sorted_by_its_lift(notebook: NotebookPage, tmp_path: Path) -> None:
    before = notebook.rows.all_inner_texts()
    controls = notebook.widget.get_by_role("region", name="Controls")
    fill(controls, "Lift", "8")
    sort = notebook.widget.get_by_role("checkbox", name="Sort by lift")
    sort.check(timeout=60_000)
    state(notebook, "done")
    choose(notebook.widget, "Colour by", "lift")
    expect(notebook.rows.locator("[data-tone]").first).to_be_visible()
    photograph(notebook, "lift")
    assert notebook.rows.all_inner_texts() != before
    tree = DefinitionTree.from_json(notebook.exported("tree.json", tmp_path))
    assert tree.lift is not None
    row = max((row for row in range(len(tree)) if tree.parent[row] == 0), key=tree.lift.__getitem__)
    expect(notebook.rows.nth(1)).to_contain_text(tree.text(row).strip())


@pytest.mark.host("JupyterLab 4", "controls")
def test_a_scale_is_chosen_by_the_sweep_or_by_a_click_on_its_curve(notebook: NotebookPage) -> None:
    nodes = notebook.nodes()
    auto = notebook.widget.get_by_role("button", name="auto", exact=True)
    auto.click()
    expect(auto).to_have_attribute("aria-pressed", "true")
    notebook.until(lambda: notebook.nodes() != nodes)
    state(notebook, "done")
    python(notebook, "assert explorer.scale == 'auto'")
    scales = CASES[3]
    panel = ran(notebook, scales)
    before = notebook.rows.all_inner_texts()
    chart = shown(panel, scales)
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    assert box is not None
    chart.click(position={"x": box["width"] * 0.8, "y": box["height"] / 2})
    expect(auto).to_have_attribute("aria-pressed", "false")
    expect(panel.get_by_text(re.compile("in use", re.IGNORECASE)).first).to_be_visible()
    notebook.until(lambda: notebook.rows.all_inner_texts() != before)
    state(notebook, "done")
    photograph(notebook, "scale-clicked")
    bar(panel, "done")  # the sweep is the same, whichever of its points is used
    python(notebook, "assert explorer.scale in explorer.scales.scale")


def test_a_direction_is_typed_in_place_of_a_feature(notebook: NotebookPage) -> None:
    fill(notebook.widget, "Direction", "302 - 288")
    tree = notebook.widget.get_by_role("tree")
    expect(tree).to_have_accessible_name(re.compile("302 - 288"))
    state(notebook, "done")
    photograph(notebook, "direction")
    panel = ran(notebook, CASES[1])
    expect(panel.locator(".sae-run-text")).to_contain_text("302 - 288")
    # What only a feature has is refused in its panel.
    loop = panel_of(notebook, CASES[4])
    press(loop, "Run")
    bar(loop, "error")
    expect(loop.get_by_role("alert")).to_contain_text("a direction= has no activation")
    press(notebook.widget, "Back to a feature")
    bar(panel, "stale")
    bar(loop, "idle")
    python(notebook, "assert (explorer.feature, explorer.direction) == (302, None)")


def test_a_panel_is_used_with_the_keyboard_alone(notebook: NotebookPage) -> None:
    dose = CASES[2]
    keyboard = notebook.page.keyboard
    notebook.widget.get_by_role("tab", name="Definition tree").focus()
    keyboard.press("End")
    panel = notebook.widget.get_by_role("tabpanel", name=dose.title)
    run = panel.get_by_role("button", name="Run", exact=True)

    def tab_to(wanted: Locator) -> None:
        for _ in range(30):
            keyboard.press("Tab")
            if wanted.evaluate("(element) => element === document.activeElement"):
                return
        pytest.fail("The Tab key does not get there.")

    tab_to(run)
    keyboard.press("Enter")
    bar(panel, "done")
    chart = shown(panel, dose)
    tab_to(chart)
    keyboard.press("Home")
    first = chart.get_attribute("aria-valuetext")
    keyboard.press("ArrowRight")
    expect(chart).not_to_have_attribute("aria-valuetext", str(first))
    expect(chart).to_have_attribute("aria-valuenow", "1")
    expect(panel.get_by_role("region", name="At the strength")).to_contain_text("KL")


def test_a_page_reloaded_in_mid_run_finds_it_going_on(notebook: NotebookPage) -> None:
    steering = CASES[1]
    panel = panel_of(notebook, steering)
    hold(notebook, steering.midst, SLOW)
    press(panel, "Run")
    expect(shown(panel, steering)).to_be_visible(timeout=30_000)
    notebook.save()
    notebook.page.reload()
    notebook.ready()
    panel = panel_of(notebook, steering)
    bar(panel, "running")
    expect(shown(panel, steering)).to_be_visible(timeout=30_000)
    photograph(notebook, "reloaded-in-mid-run")
    python(notebook, "as_new()")
    bar(panel, "done")


@pytest.mark.host("JupyterLab 4", "views")
def test_two_views_show_the_same_runs(notebook: NotebookPage) -> None:
    loop = CASES[4]
    notebook.write(FREE_CELL, "explorer")
    notebook.run(FREE_CELL)
    other = notebook.cells.nth(FREE_CELL).locator(".sae-explorer")
    tab = other.get_by_role("tab", name=loop.title)
    tab.click()
    panel = other.get_by_role("tabpanel", name=loop.title)
    bar(panel, "idle")
    first = ran(notebook, loop)
    expect(shown(panel, loop)).to_be_visible()
    fill(settings(panel), "Definitions", "10")
    bar(first, "stale")
    press(panel, "Run again")
    for each in (first, panel):
        bar(each, "done")
    assert shown(first, loop).inner_text() == shown(panel, loop).inner_text()


def test_the_report_shows_every_panel_without_a_kernel(
    notebook: NotebookPage, browser: Browser, tmp_path: Path
) -> None:
    for case in CASES:
        if case.name == "dose":  # what both share makes the steered texts those of before
            choose(panel_of(notebook, case), "Action", "clamp")
        ran(notebook, case)
    said = {
        case.name: panel_of(notebook, case).locator(".sae-run-text").inner_text() for case in CASES
    }
    assert ["from before the last change" in text for text in said.values()] == [
        case.name == "steering" for case in CASES
    ]
    report = notebook.exported("report.html", tmp_path)
    with visit(browser, report.as_uri()) as seen:
        for case in CASES:
            seen.page.get_by_role("tab", name=case.title).click()
            panel = seen.page.get_by_role("tabpanel", name=case.title)
            expect(shown(panel, case)).to_be_visible()
            expect(panel).to_contain_text(said[case.name])
            expect(panel.get_by_role("button", name=re.compile("^Run"))).to_have_count(0)
        seen.page.get_by_role("tab", name="Dose-response").click()
        chart = seen.page.get_by_role("slider", name="Change of the next token")
        chart.press("End")
        expect(chart).to_have_attribute("aria-valuenow", "15")
        seen.expect_quiet()
