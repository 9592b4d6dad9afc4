"""The command line: the analyses, with their options as flags, and nothing of its own."""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import os
import re
import signal
import sys
import threading
import time
import warnings
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from sae_explorer.analyses import ANALYSES, Progress
from sae_explorer.errors import ExplorerError, PartialResultWarning, did_you_mean
from sae_explorer.loading.registry import DEFAULT_RELEASE
from sae_explorer.request import Request, from_text, schema
from sae_explorer.results import FORMATS

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Sequence

    from sae_explorer.loading.registry import Entry
    from sae_explorer.subject import Subject
    from sae_explorer.widget.explorer import FeatureExplorer

_INTERRUPTED = 130

_REPORT_SUMMARY = "write everything about a feature as one page that opens anywhere"

_LIST_SUMMARY = "list the SAEs of SAELens' registry"

#: What a subject from the registry or from folders can be allowed, or told.
_SWITCHES = {
    "local_files_only": "look in the Hub's cache only, never ask the Hub",
    "force_download": "fetch again what is in the cache already, because it is damaged",
    "allow_pickle": "read weights in a pickle file, which can be made to run code",
    "other_model": "accept a model of another name than the one the SAE was trained on",
}

_EXAMPLES = """examples:
  sae-explorer demo
  sae-explorer list --model gemma-2-2b --layer 12
  sae-explorer tree --demo --layer 3 --feature 288 --json tree.json
  sae-explorer tokens --release gemma-2b-res-jb --layer 12 --feature 4021
  sae-explorer report --layer 12 --feature 4021 --html feature.html
  sae-explorer tree --model ./model --sae ./sae --feature 17 --cutoff 1e-4
  sae-explorer tree --demo --feature 302 --interventions "clamp 17 8; ablate 9"
  sae-explorer steering --demo --feature 302 --text "This word means"
  sae-explorer report --demo --feature 302 --with steering,dose,loop

exit status: 0 done; 1 the request cannot be answered (one line on stderr says
why); 2 wrong usage; 130 interrupted: the first Ctrl-C ends the run, and what
there is by then is printed and written."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    on_interrupt = signal.getsignal(signal.SIGINT)
    try:
        try:
            return _command(words)
        finally:
            sys.stdout.flush()  # here, where a failure can still be dealt with
    except ExplorerError as error:
        _say(str(error))
        return 1
    except KeyboardInterrupt:
        _say("interrupted")
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (`| head`): no error, and nobody to tell.
        _drop_stdout()
        return 0
    except OSError as error:
        _drop_stdout()
        _say(f"the output cannot be written: {error.strerror or error}")
        return 1
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, on_interrupt or signal.SIG_DFL)


def _command(words: list[str]) -> int:
    # An analysis' flags come from its request, whose import takes seconds: build only the parser
    # of the command that was given.
    name = words[0] if words else ""
    own: dict[str, tuple[Callable[[], _Parser], Callable[[argparse.Namespace], int]]] = {
        "demo": (_demo_parser, _demo),
        "report": (_report_parser, _report),
        "list": (_list_parser, _list),
    }
    for analysis in ANALYSES:
        own[analysis] = (
            functools.partial(_analysis_parser, analysis),
            functools.partial(_analyse, analysis),
        )
    if name not in own:
        return _no_command(name, own)
    parser, answer = own[name]
    given = parser().parse_args(words[1:])
    try:
        return answer(given)
    except ExplorerError as error:
        raise ExplorerError(_in_flags(str(error), given.known)) from error


def _no_command(name: str, possible: Iterable[str]) -> int:
    """Answer what is no command: help and version where they are asked for, else what there is."""
    parser = _top_parser()
    if name in parser.known:
        parser.parse_args([name])  # which ends here
    if name.startswith("-"):
        parser.error(f"{name} needs a command before it, as in: sae-explorer tree {name}.")
    if name:
        parser.error(f"there is no command {name!r}.{did_you_mean(name, possible)}")
    parser.print_help(sys.stderr)
    return 2


#: Options as messages write them: ``sae_id=``, ``allow_pickle=True``, ``device='cpu'``,
#: ``strengths=[0.5, 1.0]``, ``second=feature(17)``.
_OPTION = re.compile(
    r"(?<!['\"])\b([a-z]+(?:_[a-z]+)*)="  # what is quoted are the user's own words
    r"(True\b|'[^']*'|\"[^\"]*\"|\[[\d., -]*\]|feature\(\d+\)|[\w.+-]*\w(?!\())?"
)
#: What a message begins with that is about one option, or says which one to give: ``cutoff is 0``,
#: ``Give one of feature, token or vector``.
_ABOUT = re.compile(
    r"^(?P<one>[a-z_]+)(?= (?:is|cannot) )|(?<=^Give one of )(?P<several>[a-z_, ]+ or [a-z_]+)"
)
#: What is written in Python alone, and how it is said here.
_IN_PYTHON = {
    "Subject(model, tokenizer, sae)": "--sae FOLDER",
    "Subject.from_pretrained(release, ...)": "--release",
    "Subject.from_folder; --model": "--model",
}


def _in_flags(message: str, known: Container[str]) -> str:
    """Write the options that a message names as this command line takes them.

    Parameters
    ----------
    message
        What an error says.
    known
        The flags of the command.
    """

    def named(name: str) -> str:
        flag = _flag(name)
        return flag if flag in known else name

    def given(found: re.Match[str]) -> str:
        name, value = found[1], found[2]
        if _flag(name) not in known:
            return found[0]
        words = [_flag(name)]
        if value not in (None, "True"):
            words.append(value.removeprefix("feature").strip("'\"[]()").replace(", ", ","))
        return " ".join(words)

    def about(found: re.Match[str]) -> str:
        return re.sub(r"[a-z_]{3,}", lambda name: named(name[0]), found[0])

    for python, words in _IN_PYTHON.items():
        message = message.replace(python, words)
    return _ABOUT.sub(about, _OPTION.sub(given, message))


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


#: Options that may be the path of an array.
_ARRAYS = ("vector", "embedding")

_METAVARS = {
    "int": "N",
    "float": "X",
    "ints": "N,N,...",
    "floats": "X,X,...",
    "strs": "TEXT,TEXT,...",
    "direction": "SUM",
    "interventions": "CHANGE;CHANGE;...",
}


def _joined(words: Iterable[str]) -> list[str]:
    """Join a flag and a value that begins with a minus, which argparse would take for a flag."""
    joined: list[str] = []
    for word in words:
        follows_flag = bool(joined) and joined[-1].startswith("--") and "=" not in joined[-1]
        if follows_flag and re.match(r"-\.?\d", word):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


class _Parser(argparse.ArgumentParser):
    """Refuses in one line what it does not know, with the flag that may have been meant."""

    def __init__(self, prog: str, **details: Any) -> None:
        # An abbreviation today is another option tomorrow.
        super().__init__(prog=prog, allow_abbrev=False, **details)

    @property
    def known(self) -> Container[str]:
        """The flags there are."""
        return self._option_string_actions

    def parse_args(  # type: ignore[override]
        self, words: Sequence[str], namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Return what the words say, and as ``known`` the flags there are."""
        given, rest = self.parse_known_args(_joined(words), namespace)
        for word in rest:
            flag = word.partition("=")[0]
            if flag.startswith("-"):
                # Compared without the dashes, which would make any two flags alike.
                names = (known.strip("-") for known in self._option_string_actions)
                hint = did_you_mean(flag.strip("-"), names).replace("mean '", "mean '--")
                self.error(f"there is no {flag}.{hint}")
        if rest:
            self.error(f"{rest[0]!r} stands behind no flag that takes it.")
        given.known = self.known
        return given

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and end with status 2."""
        message = message.removeprefix("argument ")
        message = message.replace(": expected one argument", " needs a value")
        message = message.replace(": invalid int value: ", " must be a whole number, not ")
        end = "" if message.endswith((".", "?")) else "."
        self.exit(2, f"sae-explorer: {message}{end} See: {self.prog} --help\n")


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Gives the commands' names one column, whose indent argparse does not count."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog)
        self._action_max_length = 4 + max(map(len, ANALYSES))


def _top_parser() -> _Parser:
    from importlib import metadata

    parser = _Parser(
        "sae-explorer",
        description="Find out what a feature of a sparse autoencoder means.",
        epilog=_EXAMPLES,
        formatter_class=_Formatter,
    )
    version = f"sae-explorer {metadata.version('sae-explorer')}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(
        metavar="COMMAND", title="commands", parser_class=argparse.ArgumentParser
    )
    commands.add_parser(
        "demo", help="explain a feature of the bundled model; writes a report", add_help=False
    )
    for name, analysis in ANALYSES.items():
        commands.add_parser(name, help=analysis.summary, add_help=False)
    commands.add_parser("report", help=_REPORT_SUMMARY, add_help=False)
    commands.add_parser("list", help=_LIST_SUMMARY, add_help=False)
    return parser


def _demo_parser() -> _Parser:
    parser = _Parser(
        "sae-explorer demo",
        description="Explain a feature of the bundled dictionary model, offline: its definition "
        "tree and its nearest tokens, here and in a report that opens in a browser.",
    )
    parser.add_argument("--layer", type=int, choices=(1, 3), help="layer of the SAE (default: 3)")
    parser.add_argument("--feature", type=int, help="default: one that explains itself well")
    for flag, what in (("json", "the tree"), ("html", "the report")):
        parser.add_argument(
            f"--{flag}",
            metavar="PATH",
            default=f"sae-explorer-demo.{flag}",
            help=f"where {what} is written (default: %(default)s)",
        )
    return parser


def _analysis_parser(name: str) -> _Parser:
    analysis = ANALYSES[name]
    request, result, _run = analysis.load()
    parser = _subject_parser(name, analysis.summary)
    _add_options(parser, schema(request))

    output = parser.add_argument_group("output (to the terminal unless one of these is given)")
    for flag, form in FORMATS.items():
        if hasattr(result, form.method):
            text = f"write {flag.upper()}; - for stdout"
            output.add_argument(f"--{flag}", metavar="PATH", help=text)
    if hasattr(result, "table"):
        output.add_argument(
            "--limit",
            metavar="N",
            type=_at_least_one,
            help="rows to show in the terminal (default: 20)",
        )
    return parser


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"it is {text!r}; it must be at least 1")
    return int(text)


def _report_parser() -> _Parser:
    from sae_explorer.widget.panels import OPTIONS

    parser = _subject_parser("report", _REPORT_SUMMARY)
    _add_options(parser, OPTIONS.values())
    requested = [name for name, analysis in ANALYSES.items() if analysis.on_request]
    parser.add_argument(
        "--with",
        metavar="NAME,NAME,...",
        default="",
        help=f"analyses to run besides and show in the page: {', '.join(requested)}",
    )
    parser.add_argument(
        "--html",
        metavar="PATH",
        default="sae-explorer-report.html",
        help="where the page is written; - for stdout (default: %(default)s)",
    )
    return parser


def _list_parser() -> _Parser:
    parser = _Parser(
        "sae-explorer list",
        description="List the releases of SAELens' registry; with --release or --layer each SAE. "
        "Nothing is downloaded.",
    )
    parser.add_argument("--model", help="hub id or short name, as in gemma-2-2b")
    parser.add_argument("--layer", type=int, help="layer of the SAE")
    parser.add_argument("--release", help="release of the registry")
    parser.add_argument("--json", action="store_true", help="write each SAE as JSON to stdout")
    return parser


def _subject_parser(name: str, summary: str) -> _Parser:
    """Begin the parser of a command that asks something of a model and an SAE."""
    parser = _Parser(f"sae-explorer {name}", description=summary.capitalize() + ".")
    subject = parser.add_argument_group("the model and the SAE")
    subject.add_argument("--demo", action="store_true", help="the bundled dictionary model")
    subject.add_argument(
        "--release",
        help=f"release of SAELens' registry (default: {DEFAULT_RELEASE}, on Gemma-2B)",
    )
    subject.add_argument("--layer", type=int, help="layer of the SAE")
    subject.add_argument("--sae-id", help="id of the SAE in its release")
    subject.add_argument("--model", help="folder of a model; with --release also a hub id")
    subject.add_argument("--sae", metavar="FOLDER", help="folder of an SAE in SAELens' format")
    subject.add_argument("--device", help="cpu, cuda, mps, auto (default: the best there is)")
    subject.add_argument("--dtype", help="float32, bfloat16 or float16")
    subject.add_argument("--revision", help="branch, tag or commit of the model's repository")
    for flag, text in _SWITCHES.items():
        subject.add_argument(_flag(flag), action="store_true", help=text)
    return parser


def _add_options(parser: argparse.ArgumentParser, entries: Iterable[dict[str, Any]]) -> None:
    group = parser.add_argument_group("options")
    for entry in entries:
        _add_option(group, entry)


def _add_option(group: Any, entry: dict[str, Any]) -> None:
    """Add the flag of one option of a request, as its schema describes it."""
    flag = _flag(entry["name"])
    notes = [entry["range"]] if entry["range"] else []
    if entry["name"] in _ARRAYS:
        notes.append("or the path of a .npy file")
    if entry["default"] not in (None, []):
        notes.append(f"default: {entry['default']}")
    text = entry["help"] + (f" ({'; '.join(notes)})" if notes else "")
    text = text.replace("%", "%%")  # argparse takes % for its own placeholders
    if entry["kind"] == "bool":
        group.add_argument(
            flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text
        )
        return
    metavar = _METAVARS.get(entry["kind"], "TEXT")
    group.add_argument(flag, metavar=metavar, default=argparse.SUPPRESS, help=text)


def _demo(given: argparse.Namespace) -> int:
    from rich.columns import Columns
    from rich.console import Group

    from sae_explorer.analyses import tree_formats
    from sae_explorer.analyses.tokens import rank_tokens
    from sae_explorer.loading import demo
    from sae_explorer.widget.explorer import FeatureExplorer

    paths = {"json": given.json, "html": given.html}
    _check_paths(paths)
    began = time.perf_counter()
    _say("loading the bundled dictionary model")
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
    ranking = rank_tokens(subject, feature=feature, **demo.DIRECTION, limit=20)
    title = f"What does feature {feature} of the SAE at layer {subject.sae.layer} mean?"
    side_by_side = Columns([tree_formats.rich_tree(tree), ranking], padding=(0, 4))
    _show(Group(title, tree_formats.answers(tree), side_by_side))
    _write(tree.to_json, given.json)
    _write(explorer.to_html, given.html)
    _say(f"{time.perf_counter() - began:.1f} s in all")
    if given.html != "-":
        _open(Path(given.html))
        _say(f"open {given.html} in a browser; what else there is: sae-explorer --help")
    return status


def _list(given: argparse.Namespace) -> int:
    from sae_explorer.loading import registry

    found = sorted(registry.find(given.model, given.layer, given.release), key=_by_layer)
    if given.json:
        import json

        sys.stdout.write(json.dumps([entry.row() for entry in found], indent=2) + "\n")
        return 0
    each = given.release is not None or given.layer is not None
    rows: list[dict[str, Any]] = [entry.row() for entry in found]
    if not each:
        rows = list(registry.overview(found))
        rows.sort(key=lambda row: (_by_number(row["model"]), _by_number(row["release"])))
    columns = {name.replace("_", " "): [_cell(row[name]) for row in rows] for name in rows[0]}
    if sys.stdout.isatty() and len(rows) > 1:
        # What is the same on every line is said once.
        same = {name: cells[0] for name, cells in columns.items() if len(set(cells)) == 1}
        columns = {name: cells for name, cells in columns.items() if name not in same}
        if any(same.values()):
            sys.stdout.write("; ".join(f"{n} {cell}" for n, cell in same.items() if cell) + "\n")
    padded = []
    for name, cells in columns.items():
        width = max(map(len, (name, *cells)))
        padded.append([cell.ljust(width) for cell in (name, *cells)])
    # No line is fitted to the terminal: what is copied from it, and what reads a pipe, wants ids
    # whole.
    for line in zip(*padded, strict=True):
        sys.stdout.write("  ".join(line).rstrip() + "\n")
    return 0


def _by_number(name: str) -> list[tuple[str, int]]:
    """Return what names are listed by, where numbers count as numbers: 9b comes before 27b."""
    found = re.findall(r"(\D*)(\d*)", name.lower())
    return [(text, int(digits or -1)) for text, digits in found]


def _by_layer(entry: Entry) -> tuple[Any, ...]:
    layer = -1 if entry.layer is None else entry.layer
    return _by_number(entry.model), layer, _by_number(entry.release), _by_number(entry.sae_id)


def _cell(value: Any) -> str:
    if value is None or value is False:
        return ""
    if value is True:
        return "yes"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _report(given: argparse.Namespace) -> int:
    from sae_explorer.analyses import tree_formats, trees
    from sae_explorer.widget.explorer import FeatureExplorer
    from sae_explorer.widget.panels import OPTIONS, Panel

    panels = [Panel.of(name) for name in ANALYSES]
    options = {
        name: value
        for panel in panels
        for name, value in _given_options(panel.request_class, given).items()
        if name in panel.takes
    }
    wanted = _requested(vars(given)["with"])
    _check_paths({"html": given.html})
    # What cannot be asked is refused before anything is loaded, and before a tree is grown for it.
    values = {name: entry["default"] for name, entry in OPTIONS.items()} | options
    asked = {
        panel.name: panel.request(values)
        for panel in panels
        if panel.name in wanted or not ANALYSES[panel.name].on_request
    }
    with contextlib.redirect_stdout(sys.stderr):
        subject = _subject(given)
        assert isinstance(asked["tree"], trees.TreeRequest)
        trees.check(subject, asked["tree"])
        explorer = FeatureExplorer(subject=subject, **options)
        status = _wait(explorer, "growing the tree")
        for name in wanted:
            if status != _INTERRUPTED:  # then it is written as it is
                status = _run(explorer, name, given.known) or status
    if status == _INTERRUPTED:
        _keep_from_interrupts()
    if explorer.tree is not None and given.html != "-":
        _show(tree_formats.answers(explorer.tree))
    _write(explorer.to_html, given.html)
    return status


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

    with _display(f"working on {name}") as show:
        try:
            explorer.run(name)
            interrupted = _until_there(explorer, lambda: show(state()))
        except ExplorerError as error:
            # The page is written without it.
            _say(f"{name}: {_in_flags(str(error), known)}")
            return 1
    _say(f"{name}: {explorer.jobs[name].text}")
    return _INTERRUPTED if interrupted else 0


def _wait(explorer: FeatureExplorer, title: str) -> int:
    """Wait for an explorer, showing how far its tree is; return the exit status."""
    with _display(title) as show:
        interrupted = _until_there(explorer, lambda: show(explorer.status))
    status = explorer.status
    _say(f"{status.text}: {status.nodes:,} nodes in {status.seconds:.1f} s")
    return _INTERRUPTED if interrupted else 0


def _until_there(explorer: FeatureExplorer, show: Callable[[], object]) -> bool:
    """Wait for an explorer, ending its work at an interrupt; return whether there was one."""
    stopped = threading.Event()
    with _first_interrupt_sets(stopped):
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


def _analyse(name: str, given: argparse.Namespace) -> int:
    request_class, result_class, run = ANALYSES[name].load()
    has_table = hasattr(result_class, "table")
    paths = {flag: path for flag in FORMATS if (path := getattr(given, flag, None)) is not None}
    request = request_class.from_options(_given_options(request_class, given))
    _check_paths(paths)
    if has_table:
        for flag in paths:
            _refuse(given, f"--{flag}", "limit")
    # Whatever the libraries print while they load is no part of the output.
    with contextlib.redirect_stdout(sys.stderr):
        subject = _subject(given)
    result, status = _with_progress(run, subject, request)
    for flag, path in paths.items():
        _write(getattr(result, FORMATS[flag].method), path)
    if not paths:
        _show(result.table(given.limit) if has_table and given.limit else result)
    elif hasattr(result, "score"):
        _say(repr(result))  # a table of its rows does not hold it
    return status


def _given_options(request_class: type[Request], given: argparse.Namespace) -> dict[str, Any]:
    """Return the options of a request that the flags give, as values."""
    options = {}
    for entry in schema(request_class):
        name = entry["name"]
        if not hasattr(given, name):
            continue
        value = getattr(given, name)
        if name in _ARRAYS and value.endswith(".npy"):
            value = _array(name, value)
        elif isinstance(value, str):
            value = from_text(request_class, name, value)
        options[name] = value
    return options


def _array(name: str, path: str) -> Any:
    import numpy as np

    try:
        return np.load(path, allow_pickle=False)
    except (EOFError, OSError, ValueError) as error:
        raise ExplorerError(f"{name} cannot be read from {path}: {error}") from error


def _check_paths(paths: dict[str, str]) -> None:
    """Refuse, before anything is computed, places where the result could not be written."""
    if list(paths.values()).count("-") > 1:
        flags = " and ".join(f"--{flag}" for flag, path in paths.items() if path == "-")
        raise ExplorerError(f"{flags} cannot both go to stdout; give one of them a file.")
    for path in paths.values():
        folder = Path(path).parent
        if not folder.is_dir():
            raise ExplorerError(f"{path} cannot be written: there is no folder {folder}.")
        if Path(path).is_dir():
            raise ExplorerError(f"{path} cannot be written: it is a folder.")


def _subject(given: argparse.Namespace) -> Subject:
    """Load the model and the SAE that the flags mean."""
    from sae_explorer.subject import Subject

    where = ("device", "dtype")
    if given.demo:
        others = ("release", "sae_id", "model", "sae", *where, "revision", *_SWITCHES)
        _refuse(given, "--demo", *others)
        return Subject.demo() if given.layer is None else Subject.demo(given.layer)
    if given.sae or (given.model and not given.release and Path(given.model).exists()):
        if not given.model:
            raise ExplorerError("--sae needs the model it was trained on: --model FOLDER.")
        others = ("release", "sae_id", "revision", *(s for s in _SWITCHES if s != "allow_pickle"))
        _refuse(given, "--sae" if given.sae else "--model without --release", *others)
        _say("loading the model and the SAE")
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

    names = ("layer", "sae_id", "model", *where, "revision", *_SWITCHES)
    with _line("loading the model and the SAE") as show:
        return hub.load(
            given.release or DEFAULT_RELEASE,
            tell=lambda text, _progress: show(text),
            **{name: getattr(given, name) for name in names},
        )


def _refuse(given: argparse.Namespace, flag: str, *others: str) -> None:
    for other in others:
        if getattr(given, other):
            raise ExplorerError(f"{flag} goes without {_flag(other)}; leave one out.")


def _with_progress(run: Any, subject: Subject, request: Any) -> tuple[Any, int]:
    """Run an analysis, showing on stderr how far it is; return its result and the exit status."""
    began = time.perf_counter()
    cancel = threading.Event()
    with _first_interrupt_sets(cancel), _display(f"working on {request.label}") as show:
        result = run(subject, request, progress=show, cancel=cancel)
    partial = getattr(result, "status", "complete") == "partial"
    if partial:
        _keep_from_interrupts()
    _say(
        ("interrupted: the result is partial; " if partial else "")
        + f"{len(result):,} rows in {time.perf_counter() - began:.1f} s"
    )
    return result, _INTERRUPTED if partial or cancel.is_set() else 0


@contextlib.contextmanager
def _display(title: str) -> Iterator[Any]:
    """Give a function that shows how far a tree has grown, or another analysis has come."""
    with _line(title) as say:

        def show(progress: Any) -> None:
            if isinstance(progress, Progress):
                share = "" if progress.share is None else f", {progress.share:.0%}"
                say(f"{title}: {progress.text}{share}")
                return
            rate = progress.nodes / max(progress.seconds, 1e-9)
            say(f"{progress.nodes:,} nodes, {rate:,.0f}/s, complete above {progress.threshold:.1e}")

        yield show


@contextlib.contextmanager
def _line(title: str) -> Iterator[Callable[[str], None]]:
    """Give a function that shows progress: a line that changes on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        _say(title)
        yield lambda _text: None
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status(escape(title)) as status:
        yield lambda text: status.update(escape(text))


def _keep_from_interrupts() -> None:
    """Let a second, nervous Ctrl-C not lose what the first one kept. Restored by main."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def _first_interrupt_sets(cancel: threading.Event) -> Iterator[None]:
    """Let the first Ctrl-C end a run between two steps; a second one breaks in at once."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before == signal.SIG_IGN:
        yield
        return

    def stop(_number: int, _frame: object) -> None:
        if cancel.is_set():
            raise KeyboardInterrupt
        cancel.set()

    signal.signal(signal.SIGINT, stop)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PartialResultWarning)  # said in our own words
            yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)


def _show(view: Any) -> None:
    """Print a view of a result, as wide as the terminal."""
    from rich.console import Console

    console = Console()
    # Captured first: rich would end the process by itself when the reader has gone.
    with console.capture() as capture:
        console.print(view)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    sys.stdout.write(capture.get())


def _write(method: Any, path: str) -> None:
    if path != "-":
        method(path)
        _say(f"wrote {path}")
        return
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    text = method()
    sys.stdout.write(text if text.endswith("\n") else text + "\n")


def _say(line: str) -> None:
    """Tell the user something that is not the result."""
    sys.stderr.write(f"sae-explorer: {line}\n")
    sys.stderr.flush()


def _drop_stdout() -> None:
    """Let what is left in the buffer of stdout go nowhere, so that Python's own exit is silent."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
