"""What the commands do that ask something of a model."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import threading
import time
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_explorer.analyses import ANALYSES, Progress
from sae_explorer.cli import terminal
from sae_explorer.cli.flags import given_options, in_flags, refuse
from sae_explorer.cli.parsers import SWITCHES
from sae_explorer.errors import ExplorerError, did_you_mean
from sae_explorer.loading.registry import DEFAULT_RELEASE
from sae_explorer.results import FORMATS, file_stem

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Container

    from sae_explorer.subject import Subject
    from sae_explorer.widget.explorer import FeatureExplorer


def demo(given: argparse.Namespace) -> int:
    """Explain a feature of the bundled model, in the terminal and in a report."""
    from rich.columns import Columns
    from rich.console import Group

    from sae_explorer.analyses import tree_formats
    from sae_explorer.analyses.tokens import rank_tokens
    from sae_explorer.loading.demo import DIRECTION
    from sae_explorer.widget.explorer import FeatureExplorer

    paths = {"json": given.json, "html": given.html}
    terminal.check_paths(paths)
    began = time.perf_counter()
    terminal.say("loading the bundled dictionary model")
    # As much as can be read in a terminal; the widget's own defaults grow more.
    options: dict[str, Any] = {"cutoff": 5e-4, "max_depth": 12}
    if given.feature is not None:
        options["feature"] = given.feature
    with contextlib.redirect_stdout(sys.stderr):
        explorer = FeatureExplorer.demo(given.layer, **options)
        status = _wait(explorer, "working")
    tree, subject, feature = explorer.tree, explorer.subject, explorer.feature
    assert tree is not None  # wait() would have raised
    assert subject is not None
    ranking = rank_tokens(subject, feature=feature, **DIRECTION, limit=20)
    title = f"What does feature {feature} of the SAE at layer {subject.sae.layer} mean?"
    side_by_side = Columns([tree_formats.rich_tree(tree), ranking], padding=(0, 4))
    terminal.show(Group(title, tree_formats.answers(tree), side_by_side))
    terminal.write(tree.to_json, given.json)
    terminal.write(explorer.to_html, given.html)
    terminal.say(f"{time.perf_counter() - began:.1f} s in all")
    if given.html != "-":
        _open(Path(given.html))
        terminal.say(f"open {given.html} in a browser; what else there is: sae-explorer --help")
    return status


def report(given: argparse.Namespace) -> int:
    """Write everything about a feature as one page."""
    from sae_explorer.analyses import tree_formats, trees
    from sae_explorer.widget.explorer import FeatureExplorer
    from sae_explorer.widget.panels import OPTIONS, Panel

    panels = [Panel.of(name) for name in ANALYSES]
    options = {
        name: value
        for panel in panels
        for name, value in given_options(panel.request_class, given).items()
        if name in panel.takes
    }
    wanted = _requested(vars(given)["with"])
    if given.html is not None:
        terminal.check_paths({"html": given.html})
    # What cannot be asked is refused before anything is loaded, and before a tree is grown for it.
    values = {name: entry["default"] for name, entry in OPTIONS.items()} | options
    asked = {
        panel.name: panel.request(values)
        for panel in panels
        if panel.name in wanted or not ANALYSES[panel.name].on_request
    }
    tree = asked["tree"]
    assert isinstance(tree, trees.TreeRequest)
    with contextlib.redirect_stdout(sys.stderr):
        subject = _subject(given)
        trees.check(subject, tree)
        explorer = FeatureExplorer(subject=subject, **options)
        status = _wait(explorer, "growing the tree")
        for name in wanted:
            if status != terminal.INTERRUPTED:  # then it is written as it is
                status = _run(explorer, name, given.known) or status
    if status == terminal.INTERRUPTED:
        terminal.keep_from_interrupts()
    if explorer.tree is not None and given.html != "-":
        terminal.show(tree_formats.answers(explorer.tree))
    path = given.html
    if path is None:
        path = _new_page(file_stem(tree, subject.provenance(with_sae=tree.uses_sae)))
    terminal.write(explorer.to_html, path)
    return status


def _new_page(stem: str) -> str:
    """Return a name for a report, of which there is no file yet."""
    others = (f"{stem}-report-{number}.html" for number in itertools.count(2))
    names = itertools.chain([f"{stem}-report.html"], others)
    return next(name for name in names if not os.path.lexists(name))


def analyse(name: str, given: argparse.Namespace) -> int:
    """Run one analysis, and show its result or write it."""
    request_class, result_class, run = ANALYSES[name].load()
    has_table = hasattr(result_class, "table")
    paths = {flag: path for flag in FORMATS if (path := getattr(given, flag, None)) is not None}
    request = request_class.from_options(given_options(request_class, given))
    terminal.check_paths(paths)
    if has_table:
        for flag in paths:
            refuse(given, f"--{flag}", "limit")
    # Whatever the libraries print while they load is no part of the output.
    with contextlib.redirect_stdout(sys.stderr):
        subject = _subject(given)
    result, status = _with_progress(run, subject, request)
    for flag, path in paths.items():
        terminal.write(getattr(result, FORMATS[flag].method), path)
    if not paths:
        terminal.show(result.table(given.limit) if has_table and given.limit else result)
    elif hasattr(result, "score"):
        terminal.say(repr(result))  # a table of its rows does not hold it
    return status


def _subject(given: argparse.Namespace) -> Subject:
    """Load the model and the SAE that the flags mean."""
    from sae_explorer.subject import Subject

    where = ("device", "dtype")
    if given.demo:
        others = ("release", "sae_id", "model", "sae", *where, "revision", *SWITCHES)
        refuse(given, "--demo", *others)
        return Subject.demo() if given.layer is None else Subject.demo(given.layer)
    if given.sae or (given.model and not given.release and Path(given.model).exists()):
        if not given.model:
            raise ExplorerError("--sae needs the model it was trained on: --model FOLDER.")
        others = ("release", "sae_id", "revision", *(s for s in SWITCHES if s != "allow_pickle"))
        refuse(given, "--sae" if given.sae else "--model without --release", *others)
        terminal.say("loading the model and the SAE")
        subject = Subject.from_folder(
            given.model,
            given.sae or (),
            allow_pickle=given.allow_pickle,
            **{name: getattr(given, name) for name in where},
        )
        return subject if given.layer is None else subject.select(layer=given.layer)
    if given.model and not given.release:
        raise ExplorerError(
            f"There is no folder {given.model}. With a hub id give the SAE's --release too."
        )
    from sae_explorer.loading import hub

    names = ("layer", "sae_id", "model", *where, "revision", *SWITCHES)
    with terminal.line("loading the model and the SAE") as show:
        return hub.load(
            given.release or DEFAULT_RELEASE,
            tell=lambda text, _progress: show(text),
            **{name: getattr(given, name) for name in names},
        )


def _with_progress(run: Any, subject: Subject, request: Any) -> tuple[Any, int]:
    """Run an analysis, showing on stderr how far it is; return its result and the exit status."""
    began = time.perf_counter()
    cancel = threading.Event()
    with (
        terminal.first_interrupt_sets(cancel),
        terminal.display(f"working on {request.label}") as show,
    ):
        result = run(subject, request, progress=show, cancel=cancel)
    partial = getattr(result, "status", "complete") == "partial"
    if partial:
        terminal.keep_from_interrupts()
    terminal.say(
        ("interrupted: the result is partial; " if partial else "")
        + f"{len(result):,} rows in {time.perf_counter() - began:.1f} s"
    )
    return result, terminal.INTERRUPTED if partial or cancel.is_set() else 0


def _requested(text: str) -> list[str]:
    """Return the analyses that a report is to hold besides."""
    possible = [name for name, analysis in ANALYSES.items() if analysis.on_request]
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in possible:
            raise ExplorerError(
                f"--with is {text!r}, which holds {name!r}.{did_you_mean(name, possible)} "
                f"Possible: {', '.join(possible)}."
            )
    return names


def _run(explorer: FeatureExplorer, name: str, known: Container[str]) -> int:
    """Run an analysis of an explorer, showing how far it is; return the exit status."""

    def state() -> Progress:
        job = explorer.jobs[name]
        return Progress(job.progress, job.text, lambda: None)

    with terminal.display(f"working on {name}") as show:
        try:
            explorer.run(name)
            interrupted = _until_there(explorer, lambda: show(state()))
        except ExplorerError as error:
            # The page is written without it.
            terminal.say(f"{name}: {in_flags(str(error), known)}")
            return 1
    terminal.say(f"{name}: {explorer.jobs[name].text}")
    return terminal.INTERRUPTED if interrupted else 0


def _wait(explorer: FeatureExplorer, title: str) -> int:
    """Wait for an explorer, showing how far its tree is; return the exit status."""
    with terminal.display(title) as show:
        interrupted = _until_there(explorer, lambda: show(explorer.status))
    status = explorer.status
    terminal.say(f"{status.text}: {status.nodes:,} nodes in {status.seconds:.1f} s")
    return terminal.INTERRUPTED if interrupted else 0


def _until_there(explorer: FeatureExplorer, show: Callable[[], object]) -> bool:
    """Wait for an explorer, ending its work at an interrupt; return whether there was one."""
    stopped = threading.Event()
    with terminal.first_interrupt_sets(stopped):
        while True:
            try:
                explorer.wait(timeout=0.1)
                break
            except TimeoutError:
                show()
                if stopped.is_set():
                    explorer.cancel()
    return stopped.is_set()


def _open(page: Path) -> None:
    """Open a page in the reader's browser, where there is a screen to show it on."""
    has_screen = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    if has_screen and sys.stdout.isatty():
        webbrowser.open(page.resolve().as_uri())
