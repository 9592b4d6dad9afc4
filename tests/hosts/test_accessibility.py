"""The widget for those who do not see it, use no mouse, read large or want no motion.

Every panel in every state is judged by axe-core, in both themes; the results stand in a table at the
end of the run.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
from playwright.sync_api import expect

from hosts.asking import MODEL, hold, let_go, python
from hosts.browser import visit
from hosts.jupyterlab import made_anew, prepared
from hosts.page import photograph, state
from sae_explorer import FeatureExplorer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, Locator, Page

    from hosts.jupyterlab import Lab, NotebookPage

AXE = Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
IMPACTS = ["minor", "moderate", "serious", "critical"]
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}

READY = f"{MODEL}\nprint('ready')"
MAKE = """\
as_new()
explorer = FeatureExplorer(302, subject=subject, against="weights=encoder", **DIRECTION)
explorer"""
#: An explorer that loads until ``gate`` is open.
LATE = """\
gate, load = threading.Event(), Subject.demo
Subject.demo = lambda *args: (gate.wait(), load(*args))[1]
late = FeatureExplorer.demo()
late"""
MAKE_CELL, FREE_CELL = 1, 2
#: Analyses that run on request, by their tabs.
REQUESTED = ["Difference", "Steering", "Dose-response", "Scale", "Closed loop"]


@pytest.fixture(scope="module")
def page(lab: Lab, browser: Browser) -> Iterator[NotebookPage]:
    with prepared(lab, browser, [READY, MAKE, ""], "accessibility.ipynb") as notebook:
        yield notebook


@pytest.fixture
def notebook(page: NotebookPage) -> Iterator[NotebookPage]:
    """Return the notebook with an explorer that nobody has asked anything yet."""
    with made_anew(page, MAKE_CELL) as notebook:
        yield notebook


@pytest.fixture(params=THEMES)
def theme(request: pytest.FixtureRequest, notebook: NotebookPage) -> Iterator[str]:
    """Return the theme that JupyterLab has meanwhile."""
    word: str = request.param
    notebook.change_theme(THEMES[word])
    expect(
        notebook.page.locator(f"body[data-jp-theme-light={str(word == 'light').lower()}]")
    ).to_have_count(1)
    yield word
    notebook.change_theme(THEMES["light"])


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the address of an exported page that holds every analysis."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    explorer = FeatureExplorer.demo(against="weights=encoder").wait()
    for panel in ("difference", "steering", "dose", "scales", "loop"):
        explorer.run(panel).wait()
    explorer.to_html(path)
    explorer.close()
    return path.as_uri()


def press(widget: Locator, name: str) -> None:
    widget.get_by_role("button", name=name, exact=True).first.click()


def tab(widget: Locator, title: str) -> Locator:
    """Bring a panel into sight."""
    widget.get_by_role("tab", name=title).click()
    return widget.get_by_role("tabpanel", name=title)


def bar(panel: Locator, word: str) -> None:
    """Wait until a panel's run is that far."""
    expect(panel.locator(".sae-run")).to_have_attribute("data-state", word, timeout=120_000)


def loading(notebook: NotebookPage) -> Locator:
    """Show another explorer, which is loading."""
    notebook.write(FREE_CELL, LATE)
    notebook.run(FREE_CELL)
    late = notebook.cells.nth(FREE_CELL).locator(".sae-explorer")
    expect(late.locator(".sae-chip")).to_have_attribute("data-state", "loading", timeout=120_000)
    return late


# ---- axe-core


def judged(root: Locator) -> dict[str, Any]:
    """Return what axe-core finds within an element: the number of rules passed, and violations."""
    if not root.page.evaluate("typeof axe === 'object'"):
        root.page.add_script_tag(path=AXE)
    found: dict[str, Any] = root.evaluate(
        """async (root, values) => {
            const { passes, violations } = await axe.run(root, {
                runOnly: { type: "tag", values },
            });
            return { passed: passes.length, violations: violations.map(
                ({ id, impact, nodes }) => ({ id, impact,
                    where: nodes.map(({ html, any, all }) => [html.slice(0, 160),
                        ...[...any, ...all].map(({ message }) => message)].join(" | ")) })) };
        }""",
        RULES,
    )
    return found


class Judge:
    """Has axe-core look at one state after another, and keeps what it says."""

    def __init__(self, theme: str, record: Callable[[str, object], None]) -> None:
        self.theme = theme
        self.record = record
        self.serious: list[str] = []

    def look(self, root: Locator, panel: str) -> None:
        found = judged(root)
        impacts = [violation["impact"] for violation in found["violations"]]
        self.record(
            "axe",
            {
                "panel": panel,
                "theme": self.theme,
                "rules passed": found["passed"],
                **{impact: impacts.count(impact) for impact in IMPACTS},
            },
        )
        self.serious += [
            f"{panel}, {violation['id']}: {where}"
            for violation in found["violations"]
            if violation["impact"] in ("serious", "critical")
            for where in violation["where"]
        ]


@pytest.fixture
def judge(theme: str, record_property: Callable[[str, object], None]) -> Judge:
    return Judge(theme, record_property)


def test_axe_finds_nothing_serious_in_the_panels_of_a_tree(
    notebook: NotebookPage, judge: Judge
) -> None:
    widget = notebook.widget

    def look(panel: str) -> None:
        photograph(notebook, f"{judge.theme}-{panel}")
        judge.look(widget, panel)

    notebook.rows.nth(3).click()
    look("tree, outline")
    widget.get_by_role("searchbox", name="Search the definitions").fill("vehicle")
    press(widget, "What do the columns say?")
    look("tree, searched and explained")
    press(widget, "What do the columns say?")
    widget.get_by_role("radio", name="diagram").check(force=True)
    look("tree, diagram")
    press(widget, "Explain")
    look("controls, explained")
    press(widget, "Explain")
    press(widget, "Add")
    look("controls, an intervention begun")
    press(widget, "Discard the change")
    tab(widget, "Nearest tokens").get_by_text("Filters").click()
    look("tokens, filters open")
    tab(widget, "Logit lens")
    look("logit lens")
    for name in ("Export", "About"):
        press(widget, name)
        look(f"{name.lower()}, open")
        notebook.page.keyboard.press("Escape")
    python(notebook, "explorer.lift = 4")
    expect(widget.get_by_role("checkbox", name="Sort by lift")).to_be_visible(timeout=60_000)
    widget.get_by_role("radio", name="outline").check(force=True)
    widget.get_by_role("combobox", name="Colour by").select_option("lift")
    look("tree, coloured by lift")
    widget.get_by_role("textbox", name="Feature to show").fill("99999")
    notebook.page.keyboard.press("Enter")
    expect(widget.get_by_role("alert").first).to_contain_text("no feature 99999")
    look("header, refusal")
    notebook.page.keyboard.press("Escape")
    assert judge.serious == []


@pytest.mark.parametrize("title", REQUESTED)
def test_axe_finds_nothing_serious_in_an_analysis_on_request(
    notebook: NotebookPage, judge: Judge, title: str
) -> None:
    widget = notebook.widget
    panel = tab(widget, title)
    for summary in panel.locator("summary").all():
        summary.click()
    judge.look(widget, f"{title}, idle")
    # So many forwards find something; the sweep over scales takes hardly more than one.
    hold(notebook, 0 if title == "Scale" else 8)
    press(panel, "Run")
    bar(panel, "running")
    photograph(notebook, f"{judge.theme}-{title}-running")
    judge.look(widget, f"{title}, running")
    press(panel, "Cancel")
    let_go(notebook)
    expect(panel.get_by_role("button", name="Run")).to_be_visible(timeout=60_000)
    judge.look(widget, f"{title}, stopped")
    panel.get_by_role("button", name="Run").click()
    bar(panel, "done")
    photograph(notebook, f"{judge.theme}-{title}")
    judge.look(widget, f"{title}, result")
    python(notebook, "broken = True")
    press(panel, "Run again")
    bar(panel, "error")
    photograph(notebook, f"{judge.theme}-{title}-error")
    judge.look(widget, f"{title}, error")
    assert judge.serious == []


def test_axe_finds_nothing_serious_while_a_tree_comes_to_be(
    notebook: NotebookPage, judge: Judge
) -> None:
    widget = notebook.widget
    hold(notebook, 20)
    python(notebook, "explorer.cutoff = 1e-8")
    state(notebook, "growing")
    judge.look(widget, "header, growing")
    press(widget, "Cancel")
    let_go(notebook)
    state(notebook, "partial")
    judge.look(widget, "header, partial")
    python(notebook, "explorer.cutoff = 0.99")
    expect(widget.locator(".sae-alone")).to_contain_text("lower it", timeout=60_000)
    judge.look(widget, "tree, of one node")
    late = loading(notebook)
    judge.look(late, "header, loading")
    python(notebook, "gate.set()\nSubject.demo = load")
    assert judge.serious == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_serious_in_the_exported_page(
    browser: Browser, report: str, record_property: Callable[[str, object], None], dark: bool
) -> None:
    judge = Judge("dark" if dark else "light", record_property)
    with visit(browser, report, dark=dark) as seen:
        widget = seen.page.locator(".sae-explorer")
        for title in ("Definition tree", *REQUESTED, "Nearest tokens", "Logit lens"):
            tab(widget, title)
            judge.look(widget, f"report, {title}")
    assert judge.serious == []


# ---- the keyboard

#: What has the focus: its name, whether it is seen to have it, and whether it is the widget's.
_FOCUSED = """async () => {
    // What a key does to the page is drawn in the next frame, at the latest.
    await new Promise((drawn) => requestAnimationFrame(() => setTimeout(drawn)));
    const own = document.activeElement;
    const seen = [own, own.matches("input[type=radio]") ? own.nextElementSibling : null].some((part) => {
        if (!part) return false;
        const { outlineStyle, outlineWidth } = getComputedStyle(part);
        return outlineStyle !== "none" && parseFloat(outlineWidth) >= 1.5;
    });
    const name = own.getAttribute("aria-label") ?? own.labels?.[0]?.innerText ?? own.innerText ?? "";
    return { name: name.trim(), role: own.getAttribute("role") ?? own.tagName.toLowerCase(), seen,
             within: own.closest(".sae-explorer") !== null };
}"""
#: So many stops there are at the most between two that a test goes to.
STOPS = 120


class Keyboard:
    """Goes through the widget with keys alone, and sees where the focus is at every step."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def focused(self) -> dict[str, Any]:
        found: dict[str, Any] = self.page.evaluate(_FOCUSED)
        assert found["within"], f"the focus is lost: {found}"
        assert found["seen"], f"the focus is not seen: {found}"
        return found

    def press(self, *keys: str) -> dict[str, Any]:
        for key in keys:
            self.page.keyboard.press(key)
        return self.focused()

    def go(self, name: str, key: str = "Tab") -> dict[str, Any]:
        """Press Tab until something of that name has the focus."""
        passed = []
        for _ in range(STOPS):
            found = self.press(key)
            if found["name"].startswith(name):
                return found
            passed.append(found["name"])
        raise AssertionError(f"{name!r} is not reached, only {passed}")


@pytest.fixture
def keyboard(notebook: NotebookPage) -> Keyboard:
    """Return a keyboard whose next Tab goes to the widget's first control."""
    notebook.widget.locator(".sae-app").focus()
    return Keyboard(notebook.page)


@pytest.mark.host("JupyterLab 4", "keys")
def test_a_feature_is_set_searched_and_folded_by_keyboard_alone(
    notebook: NotebookPage, keyboard: Keyboard
) -> None:
    tree = notebook.widget.get_by_role("tree")
    cells = notebook.cells.count()
    keyboard.go("Feature to show")
    keyboard.press("Control+a", "1", "7", "Enter")
    state(notebook, "done")
    expect(tree).to_have_accessible_name("Definition tree of feature 17")
    keyboard.go("Cutoff")  # the slider follows
    keyboard.press("Control+a", "1", "e", "-", "4", "Enter")
    expect(
        notebook.widget.get_by_role("button", name="Cutoff: back to the default")
    ).to_be_visible()
    keyboard.go("Cutoff: back to", "Shift+Tab")
    assert keyboard.press("Enter")["name"] == "Cutoff"
    keyboard.go("Search the definitions")
    keyboard.press("a", "Enter")
    expect(notebook.widget.get_by_role("search")).to_contain_text("1 /")
    state(notebook, "done")
    keyboard.press("Escape")
    keyboard.go("␣")
    lines = tree.get_by_role("treeitem")
    keyboard.press("Home", "ArrowLeft")
    expect(lines).to_have_count(1)
    keyboard.press("Enter")
    expect(lines.nth(1)).to_be_visible()
    assert keyboard.press("ArrowDown", "Home", "a")["name"].startswith("␣a")
    folded = tree.locator("[aria-level='2'][aria-expanded=false]")
    keyboard.press("Home", "ArrowRight", "ArrowLeft")
    expect(folded.first).to_be_attached()
    keyboard.press("*")
    expect(folded).to_have_count(0)
    keyboard.press("Escape")
    assert notebook.cells.count() == cells


def test_every_panel_is_opened_and_run_by_keyboard_alone(
    notebook: NotebookPage, keyboard: Keyboard
) -> None:
    keyboard.go("Definition tree")
    for title in REQUESTED[:3]:
        assert keyboard.press("ArrowRight")["name"].startswith(title)
        panel = notebook.widget.get_by_role("tabpanel", name=title)
        keyboard.go("Run")
        keyboard.press("Enter")
        bar(panel, "done")
        keyboard.focused()
        keyboard.go(title, "Shift+Tab")
    keyboard.go("Change of the next token")
    at = notebook.widget.get_by_role("slider", name="Change of the next token")
    keyboard.press("End")
    expect(at).to_have_attribute("aria-valuetext", re.compile(r"^strength 1\.1"))
    keyboard.go("Nearest tokens")
    keyboard.press("ArrowRight")
    for title in REQUESTED[3:]:
        assert keyboard.press("ArrowRight")["name"].startswith(title)
        panel = notebook.widget.get_by_role("tabpanel", name=title)
        keyboard.go("Run")
        keyboard.press("Enter")
        bar(panel, "done")
        if title == "Scale":
            keyboard.go("Composite by scale")
            keyboard.press("Home")
            keyboard.go("Use scale")
            keyboard.press("Enter")
            expect(panel.locator(".sae-answer")).to_contain_text("in use")
            keyboard.focused()
        keyboard.go(title, "Shift+Tab")


def test_a_file_is_exported_by_keyboard_alone(notebook: NotebookPage, keyboard: Keyboard) -> None:
    keyboard.go("Export")
    keyboard.press("Enter")
    assert keyboard.press("ArrowDown", "Home")["role"] == "menuitem"
    keyboard.press("Escape")
    assert keyboard.focused()["name"] == "Export"
    keyboard.press("ArrowDown")
    with notebook.page.expect_download() as waiting:
        keyboard.page.keyboard.press("Enter")
    assert waiting.value.suggested_filename.endswith("-report.html")
    assert keyboard.focused()["name"] in ("Export", "Saving")


def test_every_control_says_what_it_does_also_without_a_pointer(notebook: NotebookPage) -> None:
    widget = notebook.widget
    controls = widget.locator(".sae-controls .sae-option")
    without = controls.evaluate_all(
        """(options) => options.filter((option) => {
            const field = option.querySelector("[aria-describedby]");
            const ids = field?.getAttribute("aria-describedby").split(" ") ?? [];
            return !ids.some((id) => document.getElementById(id)?.textContent.trim());
        }).map((option) => option.dataset.option)"""
    )
    assert (controls.count() > 8, without) == (True, [])
    expect(controls.first.locator(".sae-help")).to_be_hidden()
    widget.get_by_role("button", name="Explain").first.press("Enter")
    for option in controls.all():
        if option.is_visible():
            expect(option.locator(".sae-help")).to_be_visible()


# ---- narrow, enlarged, still

#: What is cut off, too small to hit or in the way of another, of what can be used.
_MISPLACED = """(root) => {
    const edge = root.getBoundingClientRect();
    const used = [...root.querySelectorAll("button, input, select, textarea, a, summary")]
        .filter((own) => own.checkVisibility({ visibilityProperty: true }) && !own.closest("table"))
        .map((own) => own.matches("[type=checkbox]:not(.sae-switch), [type=radio]")
            ? own.closest("label") : own);
    const named = (own) => own.getAttribute("aria-label") ?? own.innerText;
    // What is in sight: the rest of it is scrolled away.
    const inSight = (own) => {
        let { left, right, top, bottom } = own.getBoundingClientRect();
        for (let above = own.parentElement; root.contains(above); above = above.parentElement) {
            const { overflowX, position } = getComputedStyle(above);
            if (position === "sticky") return null;
            if (overflowX === "visible") continue;
            const box = above.getBoundingClientRect();
            [left, right] = [Math.max(left, box.left), Math.min(right, box.right)];
            [top, bottom] = [Math.max(top, box.top), Math.min(bottom, box.bottom)];
        }
        return { own, left, right, top, bottom };
    };
    const found = [];
    for (const own of used) {
        const { left, right, width, height } = own.getBoundingClientRect();
        if (left < edge.left - 1 || right > edge.right + 1) found.push(`${named(own)} is cut off`);
        if (width < 23.5 || height < 23.5) found.push(`${named(own)} is small: ${width} x ${height}`);
    }
    const boxes = used.map(inSight).filter((box) => box);
    for (const [index, one] of boxes.entries())
        for (const other of boxes.slice(index + 1)) {
            const across = Math.min(one.right, other.right) - Math.max(one.left, other.left);
            const down = Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top);
            if (across > 2 && down > 6 && !one.own.contains(other.own))
                found.push(`${named(one.own)} is over ${named(other.own)}`);
        }
    const boxed = ".sae-body, .sae-main, .sae-side, .sae-tabpanel, .sae-tabs, .sae-header";
    for (const box of root.querySelectorAll(boxed))
        if (box.scrollWidth > box.clientWidth + 1) found.push(`${box.className} is too wide`);
    return found;
}"""

PANELS = ["Definition tree", *REQUESTED, "Nearest tokens", "Logit lens"]


@pytest.mark.parametrize("width", [400, 640], ids=["400 px", "200 %"])
def test_all_can_be_used_where_it_is_narrow_or_enlarged(
    browser: Browser, report: str, width: int
) -> None:
    """At 200 % a window of 1,280 pixels has room for 640."""
    wrong = []
    with visit(browser, report, width=width) as seen:
        widget = seen.page.locator(".sae-explorer")
        press(widget, "Controls")
        for title in PANELS:
            panel = tab(widget, title)
            for summary in panel.locator("details:not([open]) > summary").all():
                summary.click()
            wrong += [f"{title}: {text}" for text in widget.evaluate(_MISPLACED)]
            assert seen.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert wrong == []


def test_an_output_of_400_pixels_can_be_used(notebook: NotebookPage) -> None:
    widget = notebook.widget
    widget.evaluate("(root) => { root.style.width = '400px'; }")
    wrong = []
    for title in PANELS:
        panel = tab(widget, title)
        for summary in panel.locator("details:not([open]) > summary").all():
            summary.click()
        wrong += [f"{title}: {text}" for text in widget.evaluate(_MISPLACED)]
    press(widget, "Controls")
    press(widget, "Add")
    wrong += widget.evaluate(_MISPLACED)
    press(widget, "Export")
    menu = widget.get_by_role("menu").bounding_box()
    around = widget.bounding_box()
    assert menu is not None
    assert around is not None
    assert around["x"] <= menu["x"]
    assert menu["x"] + menu["width"] <= around["x"] + around["width"]
    assert wrong == []


#: How much moves within an element, or will when something changes.
_MOVING = """(root) => {
    const moves = (own) => {
        const { animationName, transitionDuration } = getComputedStyle(own);
        return animationName !== "none" || /[1-9]/.test(transitionDuration);
    };
    return root.getAnimations({ subtree: true }).length
        + [...root.querySelectorAll("*")].filter(moves).length;
}"""


def test_nothing_moves_where_motion_is_not_wanted(notebook: NotebookPage) -> None:
    def moving(root: Locator, wanted: Literal["reduce", "no-preference"]) -> int:
        notebook.page.emulate_media(reduced_motion=wanted)
        return int(root.evaluate(_MOVING))

    late = loading(notebook)
    assert moving(late, "reduce") == 0
    assert moving(late, "no-preference") > 0
    python(notebook, "gate.set()\nSubject.demo = load")
    hold(notebook, 20)
    python(notebook, "explorer.cutoff = 1e-8")
    state(notebook, "growing")
    assert moving(notebook.widget, "reduce") == 0
    assert moving(notebook.widget, "no-preference") > 0
    press(notebook.widget, "Cancel")
    let_go(notebook)
    state(notebook, "partial")


def test_the_systems_colours_leave_all_to_be_told_apart(browser: Browser, report: str) -> None:
    with visit(browser, report) as seen:
        seen.page.emulate_media(forced_colors="active")
        widget = seen.page.locator(".sae-explorer")
        widget.get_by_role("radio", name="diagram").first.check(force=True)
        colours = widget.locator(".sae-swatches i").evaluate_all(
            "(swatches) => swatches.map((own) => [own.dataset.colour, getComputedStyle(own).color])"
        )
        ground, text = (dict(colours)[name] for name in ("ground", "text"))
        assert ground != text
        assert dict(colours)["accent"] not in (ground, text)
        judge = judged(widget)
        assert [
            one for one in judge["violations"] if one["impact"] in ("serious", "critical")
        ] == []
