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
    from collections.abc import Mapping, Sequence

    from sae_explorer.analyses.definition_tree import DefinitionTree
    from sae_explorer.analyses.logit_lens import LogitLens
    from sae_explorer.analyses.tokens import TokenRanking
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
)

#: Hidden by the widget's stylesheet, which is there only where the widget is alive.
_STATIC_CLASS = "sae-explorer-static"
_SUMMARY_STYLE = "max-width:60em;line-height:1.5;overflow-wrap:anywhere"
_HEADING_STYLE = "margin:0;font-size:1.15em"
_PARAGRAPH_STYLE = "margin:.4em 0"
_TABLE_STYLE = "border-collapse:collapse;margin:.6em 0;font-size:inherit"
_LEFT_STYLE = "padding:.1em 1.5em .1em 0;text-align:left"
_RIGHT_STYLE = "padding:.1em 0;text-align:right;font-variant-numeric:tabular-nums"
_CHIP_STYLE = "margin-right:.8em;white-space:pre-wrap"
_SMALL_STYLE = "margin:.4em 0;font-size:.85em;opacity:.8"

_DEFINITIONS = 10
_TOKENS = 20
_LENS = 10


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
) -> str:
    """Return what was found as static HTML, for places where scripts or styles do not work.

    Parameters
    ----------
    heading
        What was explored: feature, SAE, layer, model.
    state
        How far it is, in one line.
    tree, tokens, lens
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
    source = tree or tokens or lens
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
    rows = [
        _tag(
            "tr",
            # Isolated, so that text from right to left does not reorder what is around it.
            _tag("td", _tag("bdi", visible(d.text)), style=_LEFT_STYLE),
            _tag("td", percent(d.probability), style=_RIGHT_STYLE),
        )
        for d in found
    ]
    head = _tag(
        "tr",
        _tag("th", "Most probable definitions", scope="col", style=_LEFT_STYLE),
        _tag("th", "P", scope="col", style=_RIGHT_STYLE),
    )
    return _tag("table", _tag("thead", head), _tag("tbody", *rows), style=_TABLE_STYLE)


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
        text = _tag(
            "details",
            _tag("summary", "Summary as text"),
            _Markup(self.summary),
            class_=_STATIC_CLASS,
        )
        return _tag("div", frame, text)


def snapshot(page: str, summary: str, height: int = 700) -> Snapshot:
    """Return an object that a notebook shows as ``page``, also offline and exported by nbconvert.

    Parameters
    ----------
    page, summary, height
        As in :class:`Snapshot`.
    """
    return Snapshot(page, summary, height)
