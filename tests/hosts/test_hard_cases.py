"""Tokens, prompts and trees that are hard to show: all of it is seen, none of it acts."""

from __future__ import annotations

import io
import re
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from playwright.sync_api import expect
from rich.console import Console
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hosts.browser import picture, visit
from sae_explorer import FeatureExplorer, Subject
from sae_explorer.analyses import ANALYSES
from zoo import SPECIAL_TOKENS, VOCAB_SIZE, build_model, build_sae

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Locator, Page

    from hosts.browser import Visit
    from sae_explorer import DefinitionTree

#: What a vocabulary can hold; each stands in the tiny one several times, a digit after it.
HARD = [
    "</script><script>window.broken = 1</script>",
    "<img src=x onerror='window.broken = 1'>",
    "--><!--",
    "&lt;&amp;",
    "[bold red]markup[/]",
    "\x1b[31mred\x1b[0m",
    "\x1b]8;;http://example.org\x07link",
    "\u202eright to left",
    "\u2067isolate\u2069",
    "zero\u200bwidth\u200d\ufeff",
    "\u3164",
    "\ufe0f",
    "z\u0351\u0300\u0315\u0323\u0489a\u0300\u0301\u0302\u0303\u0304\u0305\u0306\u0307\u0308l\u0316\u0317\u0318\u0319\u031a\u031b\u031c",
    "\u0301",
    "👩\u200d👩\u200d👧\u200d👦",
    "🇩🇪",
    "two\nlines",
    "\ttab",
    "\r",
    "\x00",
    "\x7f",
    " ",
    "\u00a0\u2003",
    "\u2028",
    "<0xE2>",
    "\ufffd",
    "W" * 2000,
    "a b " * 100,
    "العربية",
    " עברית",
    "中文字",
    "ภาษาไทย",
    "हिन्दी",
    "'\"`\\",
    "{ghost}",
    "$x^2$",
]
#: What is asked in languages that are not written as English is.
PROMPTS = {
    "Arabic": 'تعريف نموذجي لكلمة "{ghost}" هو "',
    "Chinese": "“{ghost}”的典型定义是“",
}
TABS = ["Definition tree", "Difference", "Steering", "Dose-response"]
SIDE_TABS = ["Nearest tokens", "Logit lens", "Scale", "Closed loop"]

#: All that a page says, in its text and in its attributes; formulas have signs of their own.
TEXTS = """() => {
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walk.nextNode(); node; node = walk.nextNode()) {
    if (!node.parentElement.closest("script, style, math")) found.push(node.data);
  }
  for (const element of document.querySelectorAll("[title], [aria-label], [aria-valuetext]")) {
    for (const name of ["title", "aria-label", "aria-valuetext"]) {
      found.push(element.getAttribute(name) ?? "");
    }
  }
  return found;
}"""


def hard_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer whose vocabulary is the printing letters and what is hard to show."""
    letters = sorted({chr(code) for code in range(32, 127)} | set("".join(PROMPTS.values())))
    entries = [*SPECIAL_TOKENS, *letters]
    for again in ("", *"0123456789"):
        entries += [token + again for token in HARD if token + again not in entries]
    vocabulary = {entry: number for number, entry in enumerate(entries[:VOCAB_SIZE])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )


@pytest.fixture(scope="module")
def explorer() -> Iterator[FeatureExplorer]:
    """Return an explorer of a model that says nothing but what is hard to show."""
    model = build_model("llama")
    subject = Subject(model, hard_tokenizer(), build_sae(model.config.hidden_size))
    explorer: Any = FeatureExplorer(
        3,
        subject=subject,
        scale=2.0,
        cutoff=1e-3,
        max_depth=5,
        lift=2,
        ghost_token="<unused0>",
        limit=300,
        text="the",
        strengths=(0.5, 1.0),
        max_tokens=12,
        doses=(-1.0, 0.0, 1.0),
        dose_tokens=6,
        grid=(1.0, 2.0),
        against="weights=decoder",
        definitions=6,
        random_trees=2,
    )
    explorer.wait()
    for panel in ("steering", "dose", "scales", "difference", "loop"):
        explorer.run(panel).wait()
    yield explorer
    explorer.close()


def written(explorer: FeatureExplorer, folder: Path) -> str:
    path = folder / "report.html"
    explorer.to_html(path)
    return path.as_uri()


@pytest.fixture(scope="module")
def report(explorer: FeatureExplorer, tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(explorer, tmp_path_factory.mktemp("hard"))


def photograph(page: Page, name: str) -> None:
    path = picture(f"hard-{name}")
    if path is not None:
        page.screenshot(path=path)


def rows(page: Page) -> Locator:
    return page.get_by_role("tree").first.get_by_role("treeitem")


def unseen(text: str) -> list[str]:
    """Return the characters of a text that are not seen, or act on others; line breaks aside."""
    categories = ("Cc", "Cf", "Cs", "Zl", "Zp")
    hidden = [c for c in text if unicodedata.category(c) in categories and c != "\n"]
    return hidden + re.findall("[\u3164\u2800\ufe0f]", text)


def assert_in_order(seen: Visit) -> None:
    """Assert that nothing acts, nothing is unseen, nothing sticks out."""
    page = seen.page
    assert page.evaluate("window.broken") is None
    seen.expect_quiet()
    texts = page.evaluate(TEXTS)
    assert [text for text in texts if unseen(text)] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(
        "[...document.querySelectorAll('.sae-explorer')]"
        ".every((element) => element.scrollWidth <= element.clientWidth)"
    )


def heights(found: Locator) -> list[int]:
    return found.evaluate_all(
        "(all) => all.map((one) => Math.round(one.getBoundingClientRect().height))"
    )


# --- Hard tokens ---------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1280, 420])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_hard_tokens_are_seen_and_do_nothing(
    browser: Browser, report: str, dark: bool, width: int
) -> None:
    with visit(browser, report, dark=dark, width=width) as seen:
        page = seen.page
        expect(rows(page).first).to_be_visible()
        assert len(set(heights(rows(page)))) == 1
        rows(page).nth(4).hover()
        assert_in_order(seen)
        page.get_by_role("radio", name="diagram").locator("..").click()
        expect(page.locator("canvas").first).to_be_visible()
        photograph(page, f"diagram-{width}-{dark}")
        for tab in TABS + SIDE_TABS:
            page.get_by_role("tab", name=tab).click()
            expect(page.get_by_role("tabpanel", name=tab)).to_be_visible()
            photograph(page, f"{tab}-{width}-{dark}")
            assert_in_order(seen)
        lines = set(heights(page.locator("tbody tr:not(.sae-gap):visible")))
        assert max(lines) <= 2 * min(lines)


def test_hard_tokens_are_seen_in_the_summary_and_do_nothing(browser: Browser, report: str) -> None:
    with visit(browser, report, scripts=False) as seen:
        expect(seen.page.locator(".sae-explorer-static")).to_be_visible()
        assert unseen(str(seen.page.locator(".sae-explorer-static").text_content())) == []
        seen.expect_quiet()


def test_hard_tokens_make_a_picture_that_is_sound(
    browser: Browser, report: str, tmp_path: Path
) -> None:
    with visit(browser, report) as seen:
        expect(rows(seen.page).first).to_be_visible()
        seen.page.get_by_role("button", name="Export").click()
        with seen.page.expect_download() as waiting:
            seen.page.get_by_role("menuitem", name="tree.svg").click()
        waiting.value.save_as(tmp_path / "tree.svg")
    tree = ET.parse(tmp_path / "tree.svg")
    kinds = {element.tag.split("}")[1] for element in tree.iter()}
    assert kinds == {"svg", "title", "rect", "path", "text"}
    texts = [text for text in tree.getroot().itertext() if unseen(text)]
    # Text from right to left is kept apart from what is drawn after it, and nothing else is unseen.
    assert {tuple(unseen(text)) for text in texts} == {("\u2068", "\u2069")}
    assert all("العربية" in text or re.search("[֐-ۿ]", text) for text in texts)


@pytest.mark.parametrize("name", ANALYSES)
def test_hard_tokens_are_seen_in_a_terminal(explorer: FeatureExplorer, name: str) -> None:
    out = io.StringIO()
    Console(file=out, width=120, color_system=None).print(getattr(explorer, name))
    assert len(out.getvalue()) > 100
    assert unseen(out.getvalue()) == []


@pytest.mark.parametrize("form", ["newick", "dot"])
def test_hard_tokens_are_seen_in_files_for_drawing(explorer: FeatureExplorer, form: str) -> None:
    text = getattr(explorer.tree, f"to_{form}")()
    assert unseen(text) == []
    lines = 1 if form == "newick" else 2 * len(explorer.tree) + 4
    assert text.count("\n") == lines


# --- Hard trees and prompts ----------------------------------------------------------------------


def tree_of(explorer: FeatureExplorer, count: int) -> DefinitionTree:
    """Return a tree of so many nodes, five below each."""
    assert explorer.tree is not None
    row = np.arange(count)
    parent = np.where(row > 0, (row - 1) // 5, -1).astype(np.int32)
    depth = np.zeros(count, np.int32)
    for at in range(1, count):
        depth[at] = depth[parent[at]] + 1
    known = [*explorer.tree.texts]
    return replace(
        explorer.tree,
        parent=parent,
        depth=depth,
        token_id=np.where(row > 0, np.resize(known, count), -1).astype(np.int32),
        probability=np.where(row > 0, 0.2, 1.0),
        cumulative_probability=0.2 ** depth.astype(np.float64),
        cut_probability=np.zeros(count),
        expanded=np.ones(count, dtype=bool),
        lift=None,
    )


@pytest.mark.parametrize("count", [1, 50_000])
def test_a_tree_of_one_node_and_of_many_are_read_alike(
    browser: Browser,
    explorer: FeatureExplorer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
) -> None:
    monkeypatch.setattr(explorer._session.panels["tree"], "result", tree_of(explorer, count))
    with visit(browser, written(explorer, tmp_path)) as seen:
        page = seen.page
        expect(rows(page).first).to_be_visible(timeout=60_000)
        rows(page).first.click()
        page.keyboard.press("End")
        # No more than what is in sight is drawn.
        assert 1 <= rows(page).count() < 200
        photograph(page, f"nodes-{count}")
        page.get_by_role("radio", name="diagram").locator("..").click()
        expect(page.locator("canvas").first).to_be_visible()
        photograph(page, f"nodes-{count}-diagram")
        assert_in_order(seen)


@pytest.mark.parametrize("language", PROMPTS)
def test_a_prompt_reads_as_its_language_does(
    browser: Browser, explorer: FeatureExplorer, tmp_path: Path, language: str
) -> None:
    asked: Any = FeatureExplorer(
        3,
        subject=explorer.subject,
        prompt=PROMPTS[language],
        scale=2.0,
        cutoff=0.01,
        max_depth=3,
        ghost_token="<unused0>",
    ).wait()
    with visit(browser, written(asked, tmp_path)) as seen:
        page = seen.page
        expect(rows(page).first).to_be_visible()
        photograph(page, f"prompt-{language}")
        expect(rows(page).first).to_contain_text(PROMPTS[language])
        field = page.get_by_role("textbox", name="Prompt")
        assert PROMPTS[language] in (field.input_value(), field.get_attribute("placeholder"))
        direction = "rtl" if language == "Arabic" else "ltr"
        assert field.evaluate("(field) => getComputedStyle(field).direction") == direction
        shown = rows(page).first.locator("bdi").first
        assert shown.evaluate("(shown) => getComputedStyle(shown).direction") == direction
        assert_in_order(seen)
    asked.close()
