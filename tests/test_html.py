"""Claims about the exported page, its summary and its snapshot, as text; tests/hosts opens them."""

from __future__ import annotations

import base64
import dataclasses
import getpass
import gzip
import json
import platform
import re
import socket
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import ipywidgets
import pytest

from sae_explorer import (
    DefinitionTree,
    ExplorerError,
    FeatureExplorer,
    Subject,
    grow_tree,
    logit_lens,
    rank_tokens,
)
from sae_explorer.analyses.closed_loop import close_loop
from sae_explorer.analyses.dose_response import dose_response
from sae_explorer.analyses.scale_sweep import sweep_scales
from sae_explorer.analyses.steering import steer_text
from sae_explorer.analyses.tree_difference import compare_trees
from sae_explorer.text import visible
from sae_explorer.widget import html

HOSTILE = ['</script><script>alert("x")</script>', "<!--<script>", "&lt;b&gt;", "\u202e'\"`", "\n"]
ASSETS = {
    "widget.js": 'export default { render() {} }; const text = "</script><!--";',
    "widget.css": "/* </style></script> */",
    "page.js": 'const text = "</script>";',
}


@cache
def subject() -> Subject:
    return Subject.demo()


@cache
def tree() -> DefinitionTree:
    return grow_tree(subject(), feature=302, weights="decoder", centroid=True, cutoff=1e-3)


@cache
def tokens() -> Any:
    return rank_tokens(subject(), feature=302)


@cache
def lens() -> Any:
    return logit_lens(subject(), feature=302)


def state() -> dict[str, Any]:
    return {
        "_values": {"feature": 302, "prompt": HOSTILE[0]},
        "_files": ["tree.json", "report.html"],
        "_tree": tree().payload(subject()),
        "_tokens": tokens().payload(subject()),
        "_lens": lens().payload(subject()),
    }


class Elements(HTMLParser):
    """The elements of a page as a browser's parser finds them, and the text of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._open = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag == "script"
        if self._open:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = self._open and tag != "script"

    def handle_data(self, data: str) -> None:
        if self._open:
            self.scripts[-1] += data
        else:
            self.text += data

    def attributes(self, name: str) -> dict[str, str | None]:
        return next(attributes for tag, attributes in self.tags if tag == name)


@pytest.fixture
def assets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for the built front-end that try to break out of the page."""
    monkeypatch.setattr(html, "asset", ASSETS.__getitem__)


def build(**changes: Any) -> str:
    given: dict[str, Any] = {
        "title": "Feature 302",
        "summary": html.summary("Feature 302", "done", tree=tree()),
        "attachments": {"tree.json": ("application/json", tree().to_json().encode())},
    }
    return html.page(state(), **{**given, **changes})


def carried(page: str) -> dict[str, Any]:
    """Read the page's state as js/src/host/page.ts does."""
    document = json.loads(Elements(page).scripts[0])
    for path, packed in zip(document["paths"], document["buffers"], strict=True):
        *way, last = path
        place = document["state"]
        for step in way:
            place = place[step]
        assert not isinstance(place, dict) or last not in place
        place[last] = base64.b64decode(packed)
    return document


def test_page_carries_the_whole_state(assets: None) -> None:
    document = carried(build())
    found = document["state"]
    for name in ("_values", "_tree", "_tokens", "_lens"):
        assert found.pop(name) == json_like(state()[name])
    attachment = found.pop("_attachments")["tree.json"]
    assert attachment["mime"] == "application/json"
    assert DefinitionTree.from_json(gzip.decompress(attachment["data"]).decode()) == tree()
    assert found == {"_saved": True, "_files": ["tree.json"]}
    assert document["css"] == ASSETS["widget.css"]
    assert document["module"] == ASSETS["widget.js"]


def json_like(value: Any) -> Any:
    """Return what JSON makes of a value, its buffers apart."""
    if isinstance(value, dict):
        return {key: json_like(below) for key, below in value.items()}
    return [json_like(below) for below in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(assets: None, text: str) -> None:
    hostile = dataclasses.replace(
        tree(), texts=dict.fromkeys(tree().texts, f" {text}"), subject=None
    )
    fragment = html.summary(text, text, tree=hostile)
    elements = Elements(build(title=text, summary=fragment))
    kinds = [tag for tag, _ in elements.tags]
    assert kinds.count("script") == 2
    assert kinds.count("title") == 1
    assert len(elements.scripts[1]) == len(ASSETS["page.js"]) + 1
    known = {"div", "h3", "p", "table", "thead", "tbody", "tr", "th", "td", "bdi"}
    for tag, attributes in Elements(fragment).tags:
        assert tag in known
        assert attributes.keys() <= {"class", "style", "scope"}
    assert "\u202e" not in fragment


def test_equal_states_give_equal_pages(assets: None) -> None:
    assert build() == build()


def test_page_may_reach_nobody(assets: None) -> None:
    elements = Elements(build())
    (policy,) = (a["content"] for _, a in elements.tags if a.get("http-equiv"))
    assert policy == (
        "default-src 'none'; script-src 'unsafe-inline' blob:; style-src 'unsafe-inline'; "
        "img-src data: blob:"
    )
    assert not [tag for tag, given in elements.tags if given.keys() & {"src", "href"}]


def test_page_holds_nothing_of_the_machine(
    assets: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    known = [str(Path.home()), str(Path.cwd()), str(Path(html.__file__).parents[1]), sys.prefix]
    # Real names may be words, such as root; this one is none, and base64 has no dashes.
    secret = "ada-of-somewhere"
    for name in ("USER", "LOGNAME", "USERNAME", "HOSTNAME", "HF_TOKEN"):
        monkeypatch.setenv(name, secret)
    monkeypatch.setenv("HOME", f"/home/{secret}")
    for module, name in ((socket, "gethostname"), (platform, "node"), (getpass, "getuser")):
        monkeypatch.setattr(module, name, lambda: secret)
    (tmp_path / secret).mkdir()
    monkeypatch.chdir(tmp_path / secret)

    live = Subject.demo()
    grown = grow_tree(live, feature=302, weights="decoder", centroid=True, cutoff=1e-2)
    ranked = rank_tokens(live, feature=302)
    page = html.page(
        {"_tree": grown.payload(live), "_tokens": ranked.payload(live)},
        title="Feature 302",
        summary=html.summary("Feature 302", "done", tree=grown, tokens=ranked),
        attachments={"tree.json": ("application/json", grown.to_json().encode())},
    )
    attachment = carried(page)["state"]["_attachments"]["tree.json"]["data"]
    for text in (page, gzip.decompress(attachment).decode()):
        for place in (secret, *known):
            assert place not in text


def test_summary_says_what_was_found() -> None:
    fragment = html.summary(
        "Feature 302 of sae_layer_3", "done", tree=tree(), tokens=tokens(), lens=lens()
    )
    text = Elements(fragment).text
    assert "Feature 302 of sae_layer_3" in text
    for definition in tree().definitions(10):
        assert definition.text in text
    assert "2.79 %" in text
    for token in tokens().token[:20]:
        assert token.replace(" ", "␣") in text
    assert lens().token[0].replace(" ", "␣") in text
    assert tree().hash[:16] in text
    assert tree().provenance.model["fingerprint"] in text
    assert Elements(fragment).attributes("div")["class"] == "sae-explorer-static"


@cache
def requested() -> dict[str, Any]:
    """Return a small result of each analysis that runs on request."""
    plain = {"feature": 302, "weights": "decoder", "centroid": True}
    growing = {**plain, "cutoff": 1e-2, "max_depth": 6}
    steered = {"feature": 302, "text": "It is a"}
    return {
        "steering": steer_text(subject(), **steered, strengths=(0.5,), max_tokens=5),
        "dose": dose_response(
            subject(), **steered, doses=(0.0, 1.0), dose_tokens=3, targets=(" fish",)
        ),
        "scales": sweep_scales(subject(), **plain, grid=(1.0, 3.0)),
        "difference": compare_trees(subject(), **growing, against="weights=encoder"),
        "loop": close_loop(subject(), **growing, definitions=8, random_trees=2),
    }


def test_summary_says_what_runs_on_request_have_found() -> None:
    found = requested()
    fragment = html.summary("Feature 302", "done", **found)
    text = Elements(fragment).text
    plain, steered = found["steering"].payload()["texts"]
    for written, label in ((plain, "unsteered: "), (steered, "+0.5: ")):
        own = zip(written["tokens"], written["generated"], strict=True)
        assert label + "".join(visible(token) for token, generated in own if generated) in text
    strong = "".join(re.findall(r"<strong>(.*?)</strong>", fragment))
    for token, differs in zip(steered["tokens"], steered["differs"], strict=True):
        assert not differs or visible(token) in strong
    dose = found["dose"].payload()
    for words in ("strength, residual norm", "P( fish)", "feature 302", f"{dose['kl'][1]:.3g}"):
        assert words in text
    assert f"The best scale is {found['scales'].best_scale:.3g}, " in text
    assert found["scales"].caveat
    assert found["scales"].caveat in text
    for name in found["difference"].names:
        assert f"P, {name}" in text
    for change in found["difference"].definitions(10):
        assert change.text in text
    loop = found["loop"].payload()
    words = f"AUROC {loop['score']:.2f} ({loop['low']:.2f} to {loop['high']:.2f} with 95 %)"
    assert words in text
    for result in found.values():
        assert f": {result.request.label}" in text


def test_summary_says_what_was_stopped() -> None:
    stopped = dataclasses.replace(requested()["steering"], status="partial")
    assert "feature 302, stopped before its end" in html.summary("", "", steering=stopped)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_of_steered_texts_stays_text(text: str) -> None:
    steered = requested()["steering"]
    hostile = dataclasses.replace(steered, token=[text] * len(steered.token))
    fragment = html.summary("", "", steering=hostile)
    known = {"div", "h3", "p", "strong", "span", "em", "bdi"}
    assert {tag for tag, _ in Elements(fragment).tags} <= known
    assert "\u202e" not in fragment


def test_summary_of_nothing_is_its_heading_and_state() -> None:
    assert Elements(html.summary("Feature 3", "loading")).text == "Feature 3loading"


def test_summary_of_an_empty_tree_says_so() -> None:
    bare = grow_tree(subject(), feature=302, weights="decoder", cutoff=0.999)
    assert "No answer is as probable as the cutoff, 0.999" in html.summary("", "", tree=bare)


def test_snapshot_frames_the_page_and_keeps_it_apart(assets: None) -> None:
    page = build()
    shown = html.snapshot(page, html.summary("Feature 302", "done"), height=480)
    elements = Elements(shown._repr_html_())
    frame = elements.attributes("iframe")
    assert frame["srcdoc"] == page
    assert "height:480px" in str(frame["style"])
    assert "allow-same-origin" not in str(frame["sandbox"])
    assert "Feature 302" in elements.text
    assert "MB of HTML" in repr(shown)


def test_what_a_notebook_keeps_of_an_explorer_is_small() -> None:
    explorer = FeatureExplorer.demo(layer=3, feature=302, cutoff=5e-5)
    assert len(explorer.wait().tree) > 150
    kept = ipywidgets.Widget.get_manager_state(widgets=[explorer])
    assert 100_000 < len(json.dumps(kept)) < 300_000
    assert len(explorer.snapshot()._repr_html_()) < 400_000
    explorer.close()


def test_missing_front_end_says_how_to_build_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(html.resources, "files", lambda _package: tmp_path)
    with pytest.raises(ExplorerError, match=r"widget\.js is missing.*npm ci && npm run build"):
        html.asset.__wrapped__("widget.js")
