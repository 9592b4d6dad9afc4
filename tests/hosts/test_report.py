"""The exported page, from disk and with the network cut, in two browsers."""

from __future__ import annotations

import dataclasses
import json
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

import pytest

from hosts import firefox
from hosts.browser import launched
from hosts.reader import Reader, in_chromium
from sae_explorer import DefinitionTree, FeatureExplorer, rank_tokens
from sae_explorer.text import visible
from sae_explorer.widget import html

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOSTILE = ["</script><script>window.broken = 1</script>", "<img src=x onerror='window.broken = 1'>"]

TREE = "document.querySelector('[role=tree]')"
ROWS = f"[...{TREE}.querySelectorAll('[role=treeitem]')]"
TOKENS = "document.querySelector('table[aria-label=\"Nearest tokens\"]')"


class Opens(Protocol):
    """Opens pages in one of the browsers."""

    def __call__(
        self, address: str, *, dark: bool = False, scripts: bool = True, width: int = 1280
    ) -> AbstractContextManager[Reader]: ...


def browsers(*shown: str) -> pytest.MarkDecorator:
    """Run a test in each browser; ``shown`` names what it shows, as the table of hosts does."""
    rows = ("report, Chromium", "report, Firefox ESR")
    claimed = [[pytest.mark.host(row, *shown)] if shown else [] for row in rows]
    both = zip(("Chromium", "Firefox"), claimed, strict=True)
    return pytest.mark.parametrize(
        "opens", [pytest.param(name, marks=marks) for name, marks in both], indirect=True
    )


@pytest.fixture(scope="module")
def opens(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Opens]:
    if request.param == "Chromium":
        with launched() as chromium:

            def in_it(
                address: str, *, dark: bool = False, scripts: bool = True, width: int = 1280
            ) -> AbstractContextManager[Reader]:
                return in_chromium(chromium, address, dark=dark, scripts=scripts, width=width)

            yield in_it
        return

    @contextmanager
    def in_one(
        address: str, *, dark: bool = False, scripts: bool = True, width: int = 1280
    ) -> Iterator[Reader]:
        profile = tmp_path_factory.mktemp("firefox")
        with (
            firefox.running(profile, dark=dark, scripts=scripts) as running,
            firefox.visit(running, address, width=width) as reader,
        ):
            yield reader

    with firefox.running(tmp_path_factory.mktemp("firefox")) as usual:

        def in_usual(
            address: str, *, dark: bool = False, scripts: bool = True, width: int = 1280
        ) -> AbstractContextManager[Reader]:
            if dark or not scripts:  # which Firefox takes from its profile
                return in_one(address, dark=dark, scripts=scripts, width=width)
            return firefox.visit(usual, address, width=width)

        yield in_usual


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
def reader(opens: Opens, report: str) -> Iterator[Reader]:
    """Return the report, open; whatever a test does with it, it asks nobody and breaks nothing."""
    with opens(report) as reader:
        drawn(reader)
        yield reader
        assert reader.requests == []
        assert reader.problems == []


def drawn(reader: Reader) -> None:
    """Wait until the tree is there."""
    reader.until(f"{TREE} !== null && {ROWS}.length > 3")


def column(reader: Reader, title: str) -> list[str]:
    """Return what the rows of the token table say in the column of that title."""
    found: list[str] = reader.evaluate(
        f"(() => {{ const table = {TOKENS};"
        " const place = [...table.tHead.rows[0].cells]"
        f".findIndex((cell) => cell.innerText.replace(/[▴▾]/, '').trim() === {json.dumps(title)});"
        " return [...table.tBodies[0].querySelectorAll('tr:not(.sae-gap)')]"
        ".map((row) => row.cells[place].innerText); })()"
    )
    return found


def row_that(is_so: str) -> str:
    """Return the expression for the place of the first row of the tree of which something is so."""
    return f"{ROWS}.findIndex((row) => {is_so})"


@browsers("saved", "offline")
def test_report_shows_the_result_in_place_of_its_summary(
    reader: Reader, explorer: FeatureExplorer
) -> None:
    assert explorer.tree is not None
    title = reader.evaluate("document.title")
    assert title.startswith(explorer.tree.request.label.capitalize())
    assert reader.evaluate("document.querySelector('.sae-explorer-static')") is None
    assert "saved copy" in reader.evaluate("document.querySelector('.sae-explorer').innerText")


@browsers("dark")
@pytest.mark.parametrize("dark", [False, True])
def test_report_follows_the_readers_colours(
    opens: Opens, report: str, request: pytest.FixtureRequest, dark: bool
) -> None:
    with opens(report, dark=dark) as reader:
        drawn(reader)
        colours = reader.evaluate(
            "[...document.querySelectorAll('body, .sae-explorer')]"
            ".map((element) => getComputedStyle(element).backgroundColor)"
        )
        reader.picture(f"report-{request.node.callspec.id}")
    page, widget = (brightness(colour) for colour in colours)
    assert (page < 0.5) == (widget < 0.5) == dark


def brightness(colour: str) -> float:
    """Return the mean of a colour's three parts, 0 to 1; it is ``rgb(...)`` or ``color(srgb ...)``."""
    inner = colour[colour.index("(") + 1 : -1].replace(",", " ").replace("srgb", " ")
    parts = [float(part) for part in inner.split()[:3]]
    return sum(parts) / 3 / (255 if colour.startswith("rgb") else 1)


@browsers()
@pytest.mark.parametrize("width", [400, 760, 1280])
def test_nothing_of_the_report_stands_beyond_the_edge(
    opens: Opens, report: str, request: pytest.FixtureRequest, width: int
) -> None:
    with opens(report, width=width) as reader:
        drawn(reader)
        reader.picture(f"report-{request.node.callspec.id}")
        assert reader.evaluate("innerWidth") == width
        assert reader.evaluate("document.documentElement.scrollWidth") <= width
        beyond = reader.evaluate(
            "[...document.querySelectorAll('.sae-header *, .sae-tree-tools *, [role=treeitem]')]"
            ".filter((element) => element.checkVisibility()"
            " && element.getBoundingClientRect().right > innerWidth)"
            ".map((element) => element.outerHTML)"
        )
        assert beyond == []


@browsers()
def test_a_printed_report_holds_the_whole_tree_as_folded(reader: Reader) -> None:
    reader.evaluate(
        "addEventListener('beforeprint',"
        f" () => {{ window.printed = [{ROWS}.length, {TOKENS}.tBodies[0].rows.length]; }})"
    )
    total = reader.evaluate(f"parseInt({TREE}.style.height)") // 24
    assert reader.evaluate(f"{ROWS}.length") < total  # on the screen only those in sight
    assert reader.print().startswith(b"%PDF")
    assert reader.evaluate("window.printed") == [total, 100]


@browsers("folds")
def test_report_folds_a_branch(reader: Reader) -> None:
    opened = "row.ariaLevel === '2' && row.ariaExpanded === 'true'"
    place = reader.evaluate(row_that(opened))
    label, within = reader.evaluate(f"{ROWS}.slice({place}).map((row) => row.dataset.row)")[:2]
    branch, child = (
        f"{ROWS}.find((row) => row.dataset.row === {json.dumps(each)})" for each in (label, within)
    )
    reader.click("treeitem", nth=place)
    reader.press("ArrowLeft")
    reader.until(f"{branch}.ariaExpanded === 'false'")
    reader.until(f"!{child}")
    reader.press("ArrowRight")
    reader.until(f"{branch}.ariaExpanded === 'true'")
    reader.until(f"!!{child}")


@browsers("folds")
def test_report_searches_the_tree(reader: Reader, explorer: FeatureExplorer) -> None:
    tree = explorer.tree
    assert tree is not None
    holds = ["vehicle" in tree.text(row) for row in range(len(tree))]
    found = sum(holds[row] and not holds[tree.parent[row]] for row in range(1, len(tree)))
    assert found > 1
    said = "document.querySelector('.sae-matches').innerText.replace(/\\s+/g, ' ')"
    reader.focus("searchbox", "Search the definitions")
    reader.press(*"Vehicle")
    reader.until(f"{said}.includes('/ {found}')")
    reader.press("Enter")
    reader.until(f"{said}.includes('1 / {found}')")
    chosen = reader.evaluate(f"{TREE}.querySelector('[aria-selected=true]').innerText")
    assert "vehicle" in chosen


@browsers("folds")
def test_report_sorts_the_tokens(reader: Reader) -> None:
    order = f"{TOKENS}.querySelector('th:not([aria-sort=none])')"
    sorts = f"{order}.innerText.includes('cos v') && {order}.ariaSort"

    def shown() -> list[float]:
        return [float(text.replace("−", "-")) for text in column(reader, "cos v")]

    reader.click("button", "cos v")
    reader.until(f"({sorts}) === 'ascending'")
    rising = shown()
    assert len(rising) > 10
    assert rising == sorted(rising)
    reader.click("button", "cos v")
    reader.until(f"({sorts}) === 'descending'")
    falling = shown()
    assert falling == sorted(falling, reverse=True)
    assert falling != rising


@browsers("folds")
@pytest.mark.parametrize("key", ["Home", "End"])
def test_slider_ranks_the_tokens_as_python_does(
    reader: Reader, explorer: FeatureExplorer, key: str
) -> None:
    assert explorer.tokens is not None
    assert explorer.subject is not None
    before = column(reader, "id")
    reader.focus("slider", "Exponent")
    reader.press(key)
    exponent = float(reader.evaluate("document.activeElement.ariaValueText"))
    request = dataclasses.replace(explorer.tokens.request, exponent=exponent)
    again = rank_tokens(explorer.subject, **request.to_dict())
    expected = [str(token_id) for token_id in again.token_id.tolist()]
    reader.wait(lambda: column(reader, "id") != before, "another order")
    shown = column(reader, "id")
    assert shown == expected[: len(shown)]


@browsers("export")
def test_report_exports_what_python_reads_back(
    reader: Reader, explorer: FeatureExplorer, tmp_path: Path
) -> None:
    reader.click("button", "Export")
    items = "[...document.querySelectorAll('[role=menuitem]')]"
    reader.until(f"{items}.length > 0")
    place = reader.evaluate(f"{items}.findIndex((item) => item.innerText.includes('tree.json'))")
    path = reader.save(tmp_path, "menuitem", nth=place)
    assert path.name == f"{explorer.tree.stem}-tree.json"
    assert DefinitionTree.from_json(path) == explorer.tree


@browsers()
@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_tokens_stay_text(
    opens: Opens,
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
    with opens((tmp_path / "report.html").as_uri()) as reader:
        drawn(reader)
        assert f"{hostile}⏎" in reader.evaluate(f"{ROWS}[1].textContent")
        assert reader.evaluate("window.broken") is None
        assert (reader.requests, reader.problems) == ([], [])


@browsers("summary")
def test_without_scripts_the_report_is_its_summary(
    opens: Opens, report: str, explorer: FeatureExplorer
) -> None:
    assert explorer.tree is not None
    with opens(report, scripts=False) as reader:
        reader.picture("report-without-scripts")
        for definition in explorer.tree.definitions(10):
            assert reader.shows(visible(definition.text))
        assert not reader.shows("could not start")


@browsers()
def test_a_bundle_that_fails_leaves_the_summary(
    opens: Opens, explorer: FeatureExplorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assets = {name: html.asset(name) for name in ("widget.js", "widget.css", "page.js")}
    assets["widget.js"] = 'export default { render() { throw new Error("no such luck"); } };'
    monkeypatch.setattr(html, "asset", assets.__getitem__)
    explorer.to_html(tmp_path / "report.html")
    with opens((tmp_path / "report.html").as_uri()) as reader:
        reader.until("document.querySelector('[role=alert]') !== null")
        assert "no such luck" in reader.evaluate("document.querySelector('[role=alert]').innerText")
        assert reader.evaluate("document.querySelector('.sae-explorer-static').checkVisibility()")
        assert any("no such luck" in problem for problem in reader.problems)
