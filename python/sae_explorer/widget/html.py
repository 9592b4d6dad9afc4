"""The explorer without a kernel: one HTML file, its static summary, and a notebook's snapshot."""

from __future__ import annotations

import base64
import functools
import gzip
import html
import json
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from sae_explorer.analyses.tree_formats import percent
from sae_explorer.errors import ExplorerError
from sae_explorer.text import visible, visible_token
from sae_explorer.widget.protocol import parted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sae_explorer.analyses.closed_loop import ClosedLoop
    from sae_explorer.analyses.definition_tree import DefinitionTree
    from sae_explorer.analyses.dose_response import DoseResponse
    from sae_explorer.analyses.logit_lens import LogitLens
    from sae_explorer.analyses.scale_sweep import ScaleSweep
    from sae_explorer.analyses.steering import SteeredTexts
    from sae_explorer.analyses.tokens import TokenRanking
    from sae_explorer.analyses.tree_difference import TreeDifference
    from sae_explorer.results import Result

#: The page may run what it carries, and reach nobody.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' blob:; style-src 'unsafe-inline'; "
    "img-src data: blob:"
)

_PAGE_STYLE = (
    # Here the explorer has the window to itself.
    ":root{color-scheme:light dark;--sae-height:max(480px,100vh - 32px)}"
    "body{margin:0;padding:16px;font:14px/1.5 system-ui,sans-serif;"
    "background:Canvas;color:CanvasText}"
    # On a telephone the page scrolls, not what is in it.
    "@media(width<700px){:root{--sae-height:1200px}body{padding:8px}}"
)

#: Tells the page in the frame before it whether it stands on something dark: it cannot see that.
_SCHEME_SCRIPT = """
(() => {
  const frame = document.currentScript.previousElementSibling;
  const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const tell = () => {
    if (!frame.isConnected) return watch.disconnect(); // its cell has been run again
    paint.fillStyle = getComputedStyle(frame).color; // in whatever way it is written
    paint.clearRect(0, 0, 1, 1);
    paint.fillRect(0, 0, 1, 1);
    const [red, green, blue] = paint.getImageData(0, 0, 1, 1).data;
    const scheme = red + green + blue > 382 ? "dark" : "light";
    frame.contentWindow?.postMessage({ scheme }, "*");
  };
  // Notebooks set an attribute first and load the theme's stylesheet after it.
  const watch = new MutationObserver(() => setTimeout(tell, 300));
  watch.observe(document.body, { attributes: true });
  frame.addEventListener("load", tell);
})();
"""

#: What the summary is known by.
_STATIC_CLASS = "sae-explorer-static"
_SUMMARY_STYLE = "max-width:60em;line-height:1.5;overflow-wrap:anywhere"
_HEADING_STYLE = "margin:0;font-size:1.15em"
_PARAGRAPH_STYLE = "margin:.4em 0"
_TABLE_STYLE = "border-collapse:collapse;margin:.6em 0;font-size:inherit"
_LEFT_STYLE = "padding:.1em 1.5em .1em 0;text-align:left"
_RIGHT_STYLE = "padding:.1em 0 .1em 1em;text-align:right;font-variant-numeric:tabular-nums"
_CHIP_STYLE = "display:inline-block;margin-right:.8em;white-space:pre-wrap"
_SMALL_STYLE = "margin:.4em 0;font-size:.85em;opacity:.8"

_DEFINITIONS = 10
_TOKENS = 20
_LENS = 10
_CHANGES = 10


class _Markup(str):
    """Text that is HTML already; all other text is escaped."""

    __slots__ = ()


def _tag(name: str, *content: str, **attributes: str) -> _Markup:
    """Return an element. ``class_`` stands for ``class``, and ``_`` in a name for ``-``."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"'
        for key, value in attributes.items()
    )
    inner = "".join(
        part if isinstance(part, _Markup) else html.escape(part, quote=False) for part in content
    )
    return _Markup(f"<{name}{given}>{inner}</{name}>")


@functools.cache
def asset(name: str) -> str:
    """Return a file of the front-end that was built from ``js/``.

    Parameters
    ----------
    name
        ``"widget.js"``, ``"widget.css"`` or ``"page.js"``.

    Raises
    ------
    ExplorerError
        If the front-end was not built, which only happens in a checkout.
    """
    try:
        return (resources.files("sae_explorer") / "static" / name).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ExplorerError(
            f"The front-end's {name} is missing. Build it in the root of the checkout: "
            "npm ci && npm run build. It needs Node 20 or later."
        ) from error


def page(
    state: Mapping[str, Any],
    *,
    title: str,
    summary: str,
    attachments: Mapping[str, tuple[str, bytes]],
) -> str:
    """Return one HTML file with everything in it: the explorer as it is, but for recomputing.

    It loads nothing and asks nobody: its content security policy forbids it to. Equal arguments
    give equal pages.

    Parameters
    ----------
    state
        The widget's synced state by trait name; columns hold ``bytes``.
    title
        Title of the page, any text.
    summary
        What is shown where scripts do not run: :func:`summary`.
    attachments
        The files that the page can save: name to media type and content.

    Raises
    ------
    ExplorerError
        If the front-end was not built.
    """
    carried, buffers = parted(
        {
            **state,
            "_saved": True,
            "_files": list(attachments),
            "_attachments": {
                name: {"mime": mime, "data": gzip.compress(content, mtime=0)}
                for name, (mime, content) in attachments.items()
            },
        }
    )
    document = {
        "paths": carried.pop("buffers"),
        "state": carried,
        "buffers": [base64.b64encode(buffer).decode("ascii") for buffer in buffers],
        "css": asset("widget.css"),
        "module": asset("widget.js"),
    }
    # Within a script, nothing but "<" can end it or begin a comment.
    data = json.dumps(document, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    host = asset("page.js").replace("</", "<\\/")
    head = _tag(
        "head",
        _Markup('<meta charset="utf-8">'),
        _Markup(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        _Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        _tag("title", visible(title)),
        _tag("style", _Markup(_PAGE_STYLE)),
    )
    body = _tag(
        "body",
        _tag("main", _Markup(summary), id="summary"),
        _tag("script", _Markup(data), id="carried", type="application/json"),
        _tag("script", _Markup(host)),
    )
    return f"<!doctype html>\n{_tag('html', head, body, lang='en')}\n"


def summary(
    heading: str,
    state: str,
    *,
    tree: DefinitionTree | None = None,
    tokens: TokenRanking | None = None,
    lens: LogitLens | None = None,
    steering: SteeredTexts | None = None,
    dose: DoseResponse | None = None,
    scales: ScaleSweep | None = None,
    difference: TreeDifference | None = None,
    loop: ClosedLoop | None = None,
) -> str:
    """Return what was found as static HTML, for places where scripts or styles do not work.

    Parameters
    ----------
    heading
        What was explored: feature, SAE, layer, model.
    state
        How far it is, in one line.
    tree, tokens, lens, steering, dose, scales, difference, loop
        The results there are.
    """
    parts = [
        _tag("h3", visible(heading), style=_HEADING_STYLE),
        _tag("p", visible(state), style=_PARAGRAPH_STYLE),
    ]
    if tree is not None:
        parts.append(_definitions(tree))
    if tokens is not None:
        parts.append(_token_list("Nearest tokens", tokens.token[:_TOKENS]))
    if lens is not None:
        # The first block: the top of the normalised reading.
        first = [lens.token[row] for row in range(len(lens)) if lens.side[row] == "top"][:_LENS]
        parts.append(_token_list("Logit lens, top", first))
    requested: tuple[tuple[Any, str, Callable[[Any], list[_Markup]]], ...] = (
        (steering, "Steered texts", _steered_texts),
        (dose, "Dose-response", _doses),
        (scales, "Scales", _best_scale),
        (difference, "Difference", _changes),
        (loop, "Closed loop", _score),
    )
    for result, name, described in requested:
        if result is not None:
            # It may be about other options than the tree: what it is about stands beside it.
            partial = ", stopped before its end" if result.status == "partial" else ""
            about = visible(f": {result.request.label}{partial}")
            parts.append(_tag("p", _tag("strong", name), about, style=_PARAGRAPH_STYLE))
            parts += described(result)
    results = (tree, tokens, lens, *(result for result, *_ in requested))
    source = next((result for result in results if result is not None), None)
    if source is not None:
        parts.append(_tag("p", _provenance(source), style=_SMALL_STYLE))
    return _tag("div", *parts, class_=_STATIC_CLASS, style=_SUMMARY_STYLE)


def _definitions(tree: DefinitionTree) -> _Markup:
    found = tree.definitions(_DEFINITIONS)
    if not found:
        return _tag(
            "p",
            f"No answer is as probable as the cutoff, {tree.request.cutoff:g}.",
            style=_PARAGRAPH_STYLE,
        )
    return _table(
        ("Most probable definitions", "P"), [(d.text, percent(d.probability)) for d in found]
    )


def _table(names: Sequence[str], rows: Iterable[Sequence[str | _Markup]]) -> _Markup:
    """Return a table whose first column holds any text, and the others numbers."""
    styles = [_LEFT_STYLE, *[_RIGHT_STYLE] * (len(names) - 1)]
    head = [
        _tag("th", visible(name), scope="col", style=style)
        for name, style in zip(names, styles, strict=True)
    ]
    body = [
        _tag("tr", *(_tag("td", _cell(c), style=s) for c, s in zip(row, styles, strict=True)))
        for row in rows
    ]
    return _tag("table", _tag("thead", _tag("tr", *head)), _tag("tbody", *body), style=_TABLE_STYLE)


def _cell(content: str | _Markup) -> _Markup:
    """Return text isolated, so that what is written from right to left reorders nothing around it."""
    return content if isinstance(content, _Markup) else _tag("bdi", visible(content))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _steered_texts(steering: SteeredTexts) -> list[_Markup]:
    """Return the steered texts below the unsteered one; what it has not is strong."""
    shown = []
    for text in steering.payload()["texts"]:
        tokens = zip(text["tokens"], text["generated"], text["differs"], strict=True)
        parts = [
            _tag("strong" if differs else "span", visible(token))
            for token, generated, differs in tokens
            if generated
        ]
        style = f"{_PARAGRAPH_STYLE};white-space:pre-wrap"
        shown.append(_tag("p", _tag("em", text["label"]), ": ", _tag("bdi", *parts), style=style))
    return shown


def _doses(dose: DoseResponse) -> list[_Markup]:
    """Return the dose-response as a small table."""
    payload = dose.payload()
    columns = {
        f"strength, {payload['unit'].replace('_', ' ')}": payload["strength"],
        "KL": payload["kl"],
        "entropy": payload["entropy"],
        "perplexity": payload["perplexity"],
        **{f"P({target['token']})": target["probability"] for target in payload["targets"]},
        **{f"feature {own['feature']}": own["activation"] for own in payload["activations"]},
    }
    rows = zip(*(map(_number, column) for column in columns.values()), strict=True)
    return [_table(tuple(columns), rows)]


def _best_scale(scales: ScaleSweep) -> list[_Markup]:
    answer = _tag("bdi", visible(scales.answers[scales.best]))
    text = f"The best scale is {scales.best_scale:.3g}, where the model answers: "
    caveat = scales.caveat and f". {scales.caveat}"
    return [_tag("p", text, answer, caveat, style=_PARAGRAPH_STYLE)]


def _changes(difference: TreeDifference) -> list[_Markup]:
    """Return the definitions that change most from one tree to the other."""
    rows = [
        (found.text, *(_percent(p) for p in (found.probability_one, found.probability_two)))
        for found in difference.definitions(_CHANGES)
    ]
    return [_table(("Most changed definitions", *(f"P, {n}" for n in difference.names)), rows)]


def _percent(probability: float | None) -> str:
    return "" if probability is None else percent(probability)


def _score(loop: ClosedLoop) -> list[_Markup]:
    payload = loop.payload()
    if payload["score"] is None:
        return [_tag("p", "There is no score.", style=_PARAGRAPH_STYLE)]
    text = f"Definitions against those of random directions: AUROC {payload['score']:.2f}"
    if payload["low"] is not None:
        text += f" ({payload['low']:.2f} to {payload['high']:.2f} with 95 %)"
    return [_tag("p", f"{text}.", style=_PARAGRAPH_STYLE)]


def _token_list(name: str, texts: Sequence[str]) -> _Markup:
    shown = [_tag("code", _tag("bdi", visible_token(t)), style=_CHIP_STYLE) for t in texts]
    words = [part for token in shown for part in (" ", token)]
    return _tag("p", _tag("strong", f"{name}:"), *words, style=_PARAGRAPH_STYLE)


def _provenance(result: Result) -> str:
    model, sae = result.provenance.model, result.provenance.sae
    parts = [_named("model", model)]
    if sae:
        parts.append(_named("SAE", sae))
    parts += [f"{name} {version}" for name, version in result.provenance.versions.items()]
    parts.append(f"{result.kind} {result.hash[:16]}")
    return visible("; ".join(parts))


def _named(what: str, source: Mapping[str, Any]) -> str:
    """Return what identifies a model or an SAE."""
    keys = ("id", "release", "hook_name", "revision", "dtype", "fingerprint")
    return f"{what} " + ", ".join(str(source[key]) for key in keys if source.get(key))


@dataclass(frozen=True, repr=False)
class Snapshot:
    """A page within a notebook's output: displayed, it needs neither a kernel nor a network.

    Parameters
    ----------
    page
        The page: :func:`page`.
    summary
        Its summary, for places that show no frames: :func:`summary`.
    height
        Height of the frame, in pixels.
    """

    page: str
    summary: str
    height: int

    def __repr__(self) -> str:
        return f"Snapshot({len(self.page) / 1e6:.1f} MB of HTML)"

    def _repr_html_(self) -> str:
        frame = _tag(
            "iframe",
            srcdoc=self.page,
            # An origin of its own: the page can reach nothing of the notebook it stands in.
            sandbox="allow-scripts allow-downloads allow-popups allow-popups-to-escape-sandbox",
            allow="clipboard-write",
            title="sae-explorer",
            style=f"width:100%;height:{self.height}px;border:0",
        )
        text = _tag("details", _tag("summary", "Summary as text"), _Markup(self.summary))
        return _tag("div", frame, _tag("script", _Markup(_SCHEME_SCRIPT)), text)


def snapshot(page: str, summary: str, height: int = 700) -> Snapshot:
    """Return an object that a notebook shows as ``page``, also offline and exported by nbconvert.

    Parameters
    ----------
    page, summary, height
        As in :class:`Snapshot`.
    """
    return Snapshot(page, summary, height)
