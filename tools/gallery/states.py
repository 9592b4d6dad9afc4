"""Every state that the gallery shows: a moment, and what a reader does with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sae_explorer.analyses import ANALYSES

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

#: What a reader does in the page.
Act = Callable[["Page"], None]

TITLES = {
    "tree": "Definition tree",
    "tokens": "Nearest tokens",
    "lens": "Logit lens",
    "scales": "Scale",
    "steering": "Steering",
    "dose": "Dose-response",
    "difference": "Difference",
    "loop": "Closed loop",
}


@dataclass(frozen=True)
class State:
    """One state of one panel.

    Parameters
    ----------
    panel
        Name of the analysis.
    word
        The state's own word, such as ``"partial"``.
    detail
        What tells it from others of that word; empty for the plain one.
    moment
        Where it comes from: recipe and moment, as in ``"growth/done"``.
    act
        What a reader does first.
    answers
        What the kernel refuses, by the type of the message; ``{"nothing": True}``: it is silent.
    """

    panel: str
    word: str
    detail: str
    moment: str
    act: Act | None = None
    answers: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of its pictures."""
        return "-".join(
            part.replace(" ", "-") for part in (self.panel, self.word, self.detail) if part
        )


def column_of(panel: str) -> str:
    """Return where a panel stands: in the middle, ``"main"``, or among the lists, ``"side"``."""
    return "side" if panel in ("tokens", "lens", "scales", "loop") else "main"


def _rows(page: Page) -> Locator:
    return page.get_by_role("treeitem")


def _select(page: Page) -> None:
    _rows(page).nth(4).click()


def _hover(page: Page) -> None:
    _rows(page).nth(3).hover()


def _search(text: str) -> Act:
    def act(page: Page) -> None:
        page.get_by_role("searchbox", name="Search the definitions").fill(text)

    return act


def _choose(label: str, option: str) -> Act:
    def act(page: Page) -> None:
        page.get_by_role("combobox", name=label).first.select_option(option)

    return act


def _trim(page: Page) -> None:
    slider = page.get_by_role("slider", name="Trim")
    slider.focus()
    for _ in range(8):
        slider.press("PageUp")


def _check(name: str) -> Act:
    # The dot of the radio button itself is not drawn.
    return lambda page: page.get_by_role("radio", name=name, exact=True).check(force=True)


_draw = _check("diagram")


def _draw_and(act: Act) -> Act:
    def both(page: Page) -> None:
        act(page)
        _draw(page)

    return both


def _hover_diagram(page: Page) -> None:
    _draw(page)
    box = page.locator("canvas").bounding_box()
    assert box is not None
    page.wait_for_timeout(100)
    page.mouse.move(box["x"] + box["width"] * 0.45, box["y"] + box["height"] / 2)


def _press(name: str) -> Act:
    return lambda page: page.get_by_role("button", name=name, exact=True).first.click()


def _open_controls(page: Page) -> None:
    button = page.locator(".sae-fold")
    if button.get_attribute("aria-expanded") == "false":
        button.click()


def _refuse(page: Page) -> None:
    _open_controls(page)
    field = page.get_by_role("textbox", name="Scale", exact=True)
    field.fill("4")
    field.press("Enter")


def _unfold(column: str) -> Act:
    """Open what is folded in the panel in sight: filters, settings, more options."""

    def act(page: Page) -> None:
        panel = page.locator(f".sae-{column} > [role=tabpanel]:not([hidden])")
        for summary in panel.locator("details > summary").all():
            if summary.is_visible():
                summary.click()

    return act


def _find(text: str) -> Act:
    return lambda page: page.get_by_role("searchbox", name="Find in the list").fill(text)


def _wait(page: Page) -> None:
    page.clock.run_for(12_000)


def _die(page: Page) -> None:
    page.evaluate("die()")


_REFUSAL = "scale is 400, and can be 0 to 100: give a smaller one, or None for the default, 3.8."

_TREE = [
    State("tree", "loading", "", "starting/loading"),
    State("tree", "loading", "bytes", "starting/loading bytes"),
    State("tree", "error", "loading", "starting/load failed"),
    State("tree", "growing", "", "growth/growing"),
    State("tree", "growing", "diagram", "growth/growing", _draw),
    State("tree", "done", "", "growth/done"),
    State("tree", "done", "controls", "growth/done", _open_controls),
    State("tree", "done", "selected", "growth/done", _select),
    State("tree", "done", "hover", "growth/done", _hover),
    State("tree", "done", "search", "growth/done", _search("animal")),
    State("tree", "done", "no match", "growth/done", _search("xylophone")),
    State("tree", "done", "folded", "growth/done", _choose("Open to", "root")),
    State("tree", "done", "everything open", "growth/done", _choose("Open to", "all")),
    State("tree", "done", "trimmed", "growth/done", _trim),
    State("tree", "done", "diagram", "growth/done", _draw),
    State("tree", "done", "diagram selected", "growth/done", _draw_and(_select)),
    State("tree", "done", "diagram hover", "growth/done", _hover_diagram),
    State("tree", "done", "diagram search", "growth/done", _draw_and(_search("animal"))),
    State("tree", "done", "export", "growth/done", _press("Export")),
    State("tree", "done", "about", "growth/done", _press("About")),
    State("tree", "done", "one node", "growth/one node"),
    State("tree", "done", "lift", "looks/measured", _choose("Colour by", "lift")),
    State(
        "tree", "done", "lift diagram", "looks/measured", _draw_and(_choose("Colour by", "lift"))
    ),
    State("tree", "done", "explained", "looks/measured", _press("What do the columns say?")),
    State("tree", "done", "activation", "looks/measured", _choose("Colour by", "activation")),
    State("tree", "done", "direction", "looks/direction"),
    State("tree", "done", "interventions", "looks/interventions", _open_controls),
    State("tree", "done", "long prompt", "looks/long prompt", _open_controls),
    State("tree", "done", "arabic prompt", "looks/arabic prompt", _open_controls),
    State("tree", "done", "50000 nodes", "variants/large"),
    State("tree", "done", "50000 nodes diagram", "variants/large", _draw),
    State("tree", "done", "hostile tokens", "variants/hostile"),
    State("tree", "done", "hostile tokens diagram", "variants/hostile", _draw),
    State("tree", "done", "a million features", "variants/hub"),
    State("tree", "partial", "", "growth/partial"),
    State("tree", "error", "in mid-growth", "growth/broken"),
    State("tree", "error", "refused option", "growth/done", _refuse, {"set": _REFUSAL}),
    State("tree", "waiting", "", "growth/done", _wait, {"nothing": True}),
    State("tree", "lost", "", "growth/done", _die),
    State("tree", "saved", "", "variants/saved"),
]

_LISTS = [
    State("tokens", "loading", "", "starting/loading"),
    State("tokens", "done", "", "growth/done"),
    State("tokens", "done", "filters", "growth/done", _unfold("side")),
    State("tokens", "done", "no match", "growth/done", _find("xylophone")),
    State("tokens", "done", "hostile tokens", "variants/hostile"),
    State("lens", "loading", "", "starting/loading"),
    State("lens", "done", "", "growth/done"),
    State("lens", "done", "raw", "growth/done", _check("raw")),
    State("lens", "done", "hostile tokens", "variants/hostile"),
]

_ON_REQUEST = [name for name, analysis in ANALYSES.items() if analysis.on_request]

#: How an analysis can stand that runs on request.
WORDS = ("idle", "running", "partial", "done", "error", "stale")

_REQUESTED = [
    state
    for panel in _ON_REQUEST
    for state in (
        State(panel, "idle", "", "requested/idle"),
        State(panel, "idle", "options", "requested/idle", _unfold(column_of(panel))),
        *(State(panel, word, "", f"requested/{panel} {word}") for word in WORDS[1:-1]),
        State(panel, "stale", "", "requested/stale"),
    )
]

_HOSTILE = [
    State(panel, "done", "hostile tokens", "variants/hostile")
    for panel in ("steering", "difference", "loop")
]

STATES = [*_TREE, *_LISTS, *_REQUESTED, *_HOSTILE]
