"""Picture every state of every panel, light and dark, at three widths.

    python tools/gallery/build.py [--out build/gallery] [WORD ...]

The widget's own bundle is drawn in a real browser as it is in a notebook whose kernel answers, from
moments of real explorers of the bundled model. Words choose among the states: those whose name holds
one of them, such as ``steering`` or ``diagram``. ``index.html`` shows the pictures side by side.
"""

from __future__ import annotations

import argparse
import html
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import moments
from states import STATES, TITLES, State, column_of

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from playwright.sync_api import Error as PlaywrightError

from hosts.browser import launched
from sae_explorer.widget.html import asset

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from moments import Moment
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[2]
THEMES = ("light", "dark")
#: Of the output that the widget stands in, in pixels: a wide screen, a common notebook, a side bar.
WIDTHS = (1400, 800, 400)
HEIGHT = 1000
#: Milliseconds until what a reader's action sets off is drawn.
PAUSE = 60
#: Milliseconds to wait for what a reader acts on.
PATIENCE = 10_000


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="only the states whose name holds one of these")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gallery")
    given = parser.parse_args()
    chosen = [s for s in STATES if not given.words or any(word in s.name for word in given.words)]
    if not chosen:
        sys.exit(f"No state is called so. There are: {', '.join(state.name for state in STATES)}")
    began = time.monotonic()
    count = take(chosen, given.out)
    seconds = time.monotonic() - began
    print(
        f"{count} pictures of {len(chosen)} states in {seconds:.0f} s: {given.out / 'index.html'}"
    )


def take(
    states: Sequence[State],
    folder: Path,
    themes: Sequence[str] = THEMES,
    widths: Sequence[int] = WIDTHS,
) -> int:
    """Picture states into a folder, with a page that shows them; return how many pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    sent = {name: moment.sent() for name, moment in _needed(states)}
    failed: list[str] = []
    with launched() as browser:
        for theme in themes:
            for width in widths:
                page = _opened(browser, theme, width)
                for state in states:
                    shot = folder / file_of(state, theme, width)
                    try:
                        _draw(page, state, sent[state.moment]).screenshot(path=shot)
                    except PlaywrightError as error:
                        failed.append(f"{shot.stem}: {error}")
                page.context.close()
    index(folder, states, themes, widths)
    if failed:
        sys.exit("\n".join([f"{len(failed)} pictures could not be taken:", *failed]))
    return len(states) * len(themes) * len(widths)


def file_of(state: State, theme: str, width: int) -> str:
    """Return the name of a picture."""
    return f"{state.name}.{theme}.{width}.png"


def _needed(states: Sequence[State]) -> Iterator[tuple[str, Moment]]:
    wanted = {state.moment for state in states}
    with moments.taped():
        for recipe in moments.RECIPES:
            if any(name.startswith(f"{recipe.__name__}/") for name in wanted):
                for name, moment in recipe():
                    yield f"{recipe.__name__}/{name}", moment


def _opened(browser: Browser, theme: Any, width: int) -> Page:
    context = browser.new_context(
        color_scheme=theme,
        viewport={"width": width, "height": HEIGHT},
        reduced_motion="reduce",
        offline=True,
    )
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.clock.install()
    page.add_script_tag(path=Path(__file__).with_name("page.js"))
    page.evaluate("([module, css]) => take(module, css)", [asset("widget.js"), asset("widget.css")])
    return page


def _draw(page: Page, state: State, sent: dict[str, Any]) -> Any:
    """Draw a state and return the widget."""
    page.mouse.move(0, 0)
    page.evaluate("draw", {**sent, "answers": state.answers})
    page.get_by_role("tab", name=TITLES[state.panel]).click()
    if state.act is not None:
        state.act(page)
    if column_of(state.panel) == "side":
        # Where it is narrow the lists may stand below what is in sight.
        page.locator(".sae-side").scroll_into_view_if_needed()
    page.wait_for_timeout(PAUSE)
    return page.locator(".sae-explorer")


def index(
    folder: Path, states: Sequence[State], themes: Sequence[str], widths: Sequence[int]
) -> None:
    """Write the page that shows the pictures side by side."""
    sections = []
    for state in states:
        pictures = "".join(
            f'<a href="{file}" data-theme="{theme}" data-width="{width}">'
            f'<img loading="lazy" src="{file}" alt="{theme}, {width} pixels" style="flex:{width}"></a>'
            for theme in themes
            for width in widths
            for file in [file_of(state, theme, width)]
        )
        name = html.escape(
            " · ".join(filter(None, (TITLES[state.panel], state.word, state.detail)))
        )
        sections.append(
            f'<section id="{state.name}"><h2>{name}</h2><div>{pictures}</div></section>'
        )
    text = _INDEX.replace("SECTIONS", "\n".join(sections))
    (folder / "index.html").write_text(text, encoding="utf-8")


_INDEX = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>All states of the explorer</title>
<style>
  :root { color-scheme: light dark; font: 14px/1.5 system-ui, sans-serif }
  body { margin: 16px }
  h2 { margin: 24px 0 4px; font-size: 16px }
  section > div { display: flex; gap: 8px; align-items: flex-start }
  a { flex: 0 1 auto; min-width: 0 }
  img { max-width: 100%; display: block }
</style>
<h1>All states of the explorer</h1>
SECTIONS
</html>
"""


if __name__ == "__main__":
    main()
