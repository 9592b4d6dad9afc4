"""The parsers of the commands: what can be typed, what it is called, and what is no such thing."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any, NoReturn

from sae_explorer.analyses import ANALYSES
from sae_explorer.cli.flags import add_options, flag_of
from sae_explorer.errors import did_you_mean
from sae_explorer.loading.registry import DEFAULT_RELEASE
from sae_explorer.request import schema
from sae_explorer.results import FORMATS

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

_REPORT_SUMMARY = "write everything about a feature as one page that opens anywhere"

_LIST_SUMMARY = "list the SAEs of SAELens' registry, or those of the bundled model"

#: What a subject from the registry or from folders can be allowed, or told.
SWITCHES = {
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


class Parser(argparse.ArgumentParser):
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


def top_parser() -> Parser:
    """Return the parser of what stands before a command, whose help lists the commands."""
    from importlib import metadata

    parser = Parser(
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


def demo_parser() -> Parser:
    """Return the parser of the demo command."""
    from sae_explorer.loading.demo import LAYERS

    parser = Parser(
        "sae-explorer demo",
        description="Explain a feature of the bundled dictionary model, offline: its definition "
        "tree and its nearest tokens, here and in a report that opens in a browser.",
    )
    parser.add_argument("--layer", type=int, choices=LAYERS, help="layer of the SAE (default: 3)")
    parser.add_argument("--feature", type=int, help="default: one that explains itself well")
    for flag, what in (("json", "the tree"), ("html", "the report")):
        parser.add_argument(
            f"--{flag}",
            metavar="PATH",
            default=f"sae-explorer-demo.{flag}",
            help=f"where {what} is written (default: %(default)s)",
        )
    return parser


def analysis_parser(name: str) -> Parser:
    """Return the parser of an analysis' command, with the options of its request as flags."""
    analysis = ANALYSES[name]
    request, result, _run = analysis.load()
    parser = _subject_parser(name, analysis.summary)
    add_options(parser, schema(request))

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


def report_parser() -> Parser:
    """Return the parser of the report command, with the options of all analyses as flags."""
    from sae_explorer.widget.panels import OPTIONS

    parser = _subject_parser("report", _REPORT_SUMMARY)
    add_options(parser, OPTIONS.values())
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
        help="where the page is written; - for stdout (default: named after what is explored, "
        "such as dictionary-sae_layer_3-feature-302-report.html; a page that is there stays)",
    )
    return parser


def list_parser() -> Parser:
    """Return the parser of the list command."""
    parser = Parser(
        "sae-explorer list",
        description="List the releases of SAELens' registry; with --release or --layer each SAE; "
        "with --demo those of the bundled model. Nothing is downloaded.",
    )
    parser.add_argument("--demo", action="store_true", help="those of the bundled dictionary model")
    parser.add_argument("--model", help="hub id or short name, as in gemma-2-2b")
    parser.add_argument("--layer", type=int, help="layer of the SAE")
    parser.add_argument("--release", help="release of the registry")
    parser.add_argument("--json", action="store_true", help="write each SAE as JSON to stdout")
    return parser


def _subject_parser(name: str, summary: str) -> Parser:
    """Begin the parser of a command that asks something of a model and an SAE."""
    parser = Parser(f"sae-explorer {name}", description=summary.capitalize() + ".")
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
    for flag, text in SWITCHES.items():
        subject.add_argument(flag_of(flag), action="store_true", help=text)
    return parser
