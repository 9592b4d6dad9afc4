"""The command line: the analyses, with their options as flags, and nothing of its own."""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_explorer.analyses import ANALYSES
from sae_explorer.errors import ExplorerError, PartialResultWarning
from sae_explorer.request import Request, from_text, schema

if TYPE_CHECKING:
    from sae_explorer.results import Result
    from sae_explorer.subject import Subject

#: Formats that a result may have: the flag, and the method that gives the text.
_FORMATS = {"json": "to_json", "csv": "to_csv", "newick": "to_newick", "dot": "to_dot"}

_INTERRUPTED = 130

_EXAMPLES = """examples:
  sae-explorer demo
  sae-explorer tree --demo --layer 3 --feature 288 --weights decoder --json tree.json
  sae-explorer tokens --release gemma-2b-res-jb --layer 12 --feature 4021 --csv -
  sae-explorer tree --model ./model --sae ./sae --feature 17 --cutoff 1e-4

exit status: 0 done; 1 the request cannot be answered (one line on stderr says why); 2 wrong usage;
130 interrupted, after the partial result was printed and written."""

#: What `demo` asks of the bundled model: its tree is small, and grown in a second.
_DEMO_TREE = {"weights": "decoder", "cutoff": 5e-4, "max_depth": 12}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        # An analysis' flags come from its request, whose import takes seconds: build only the
        # parser of the command that was given.
        if words and words[0] in ANALYSES:
            status = _analyse(words[0], _analysis_parser(words[0]).parse_args(words[1:]))
        else:
            _top_parser().parse_args(words[:1])
            status = _demo(_demo_parser().parse_args(words[1:]))
        sys.stdout.flush()
    except ExplorerError as error:
        _say(str(error))
        return 1
    except KeyboardInterrupt:
        _say("interrupted before there was a result")
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (`| head`): no error, and nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status


def _top_parser() -> argparse.ArgumentParser:
    from importlib import metadata

    parser = argparse.ArgumentParser(
        prog="sae-explorer",
        description="Find out what a feature of a sparse autoencoder means.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    version = f"sae-explorer {metadata.version('sae-explorer')}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    commands.add_parser("demo", help="explain a feature of the bundled model", add_help=False)
    for name, analysis in ANALYSES.items():
        commands.add_parser(name, help=analysis.summary, add_help=False)
    return parser


def _demo_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sae-explorer demo",
        description="Explain a feature of the bundled dictionary model, offline: its definition "
        "tree and its nearest tokens.",
    )
    parser.add_argument("--layer", type=int, choices=(1, 3), help="layer of the SAE (default: 3)")
    parser.add_argument("--feature", type=int, help="default: one that explains itself well")
    parser.add_argument(
        "--json",
        metavar="PATH",
        default="sae-explorer-demo.json",
        help="where the tree is written (default: %(default)s)",
    )
    return parser


def _analysis_parser(name: str) -> argparse.ArgumentParser:
    analysis = ANALYSES[name]
    request, result, _run = analysis.load()
    parser = argparse.ArgumentParser(
        prog=f"sae-explorer {name}", description=analysis.summary.capitalize() + "."
    )
    subject = parser.add_argument_group("the model and the SAE")
    subject.add_argument("--demo", action="store_true", help="the bundled dictionary model")
    subject.add_argument(
        "--release", help="release of SAELens' registry (default: gemma-2b-res-jb, on Gemma-2B)"
    )
    subject.add_argument("--layer", type=int, help="layer of the SAE")
    subject.add_argument("--sae-id", help="id of the SAE in its release")
    subject.add_argument("--model", help="folder of a model; with --release also a hub id")
    subject.add_argument("--sae", metavar="FOLDER", help="folder of an SAE in SAELens' format")
    subject.add_argument("--device", help="cpu, cuda, mps (default: the best there is)")
    subject.add_argument("--dtype", help="float32, bfloat16 or float16")

    options = parser.add_argument_group("options")
    for entry in schema(request):
        _add_option(options, entry)

    output = parser.add_argument_group("output (to the terminal unless one of these is given)")
    for flag, method in _FORMATS.items():
        if hasattr(result, method):
            output.add_argument(f"--{flag}", metavar="PATH", help=f"write {flag.upper()}; - for stdout")
    return parser


def _add_option(group: Any, entry: dict[str, Any]) -> None:
    """Add the flag of one option of a request, as its schema describes it."""
    flag = "--" + entry["name"].replace("_", "-")
    default = entry["default"]
    # argparse takes % for its own placeholders.
    text = entry["help"].replace("%", "%%")
    if default not in (None, []):
        text += f" (default: {default})".replace("%", "%%")
    if entry["kind"] == "bool" or (entry["optional"] and entry["kind"] == "bool"):
        group.add_argument(
            flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text
        )
        return
    metavar = {"int": "N", "float": "X", "floats": "X,X,..."}.get(entry["kind"], "TEXT")
    group.add_argument(flag, metavar=metavar, default=argparse.SUPPRESS, help=text)


def _demo(given: argparse.Namespace) -> int:
    from rich.columns import Columns
    from rich.console import Console

    from sae_explorer.analyses import tokens, trees
    from sae_explorer.loading import demo

    began = time.perf_counter()
    _say("loading the bundled dictionary model")
    first = demo.featured()[0]
    layer = given.layer or (first.layer if given.feature is None else 3)
    chosen = given.feature
    if chosen is None:
        chosen = next(f.feature for f in demo.featured() if f.layer == layer)
    subject = demo.load().select(layer=layer)
    request = trees.TreeRequest.from_options({"feature": chosen, **_DEMO_TREE})
    tree = _with_progress(trees.run, subject, request)
    ranking = tokens.rank_tokens(subject, feature=chosen, weights="decoder", limit=20)
    console = Console()
    console.print(f"What does feature {chosen} of the SAE at layer {layer} mean?\n")
    console.print(Columns([tree.__rich__(), ranking.__rich__()], padding=(0, 4)))
    tree.to_json(given.json)
    _say(f"{time.perf_counter() - began:.1f} s; the tree is in {given.json}")
    return _INTERRUPTED if tree.partial else 0


def _analyse(name: str, given: argparse.Namespace) -> int:
    request_class, _result, run = ANALYSES[name].load()
    request = _request(request_class, given)
    subject = _subject(given)
    result = _with_progress(run, subject, request)
    written = False
    for flag, method in _FORMATS.items():
        path = getattr(given, flag, None)
        if path is not None:
            written = True
            _write(getattr(result, method), path)
    if not written:
        from rich.console import Console

        Console().print(result)
    return _INTERRUPTED if getattr(result, "partial", False) else 0


def _request(request_class: type[Request], given: argparse.Namespace) -> Request:
    options = {}
    for entry in schema(request_class):
        name = entry["name"]
        if hasattr(given, name):
            value = getattr(given, name)
            options[name] = (
                from_text(request_class, name, value) if isinstance(value, str) else value
            )
    return request_class.from_options(options)


def _subject(given: argparse.Namespace) -> Subject:
    """Load the model and the SAE that the flags mean."""
    from sae_explorer.subject import Subject

    if given.demo:
        clash = [f for f in ("release", "sae_id", "model", "sae") if getattr(given, f)]
        if clash:
            raise ExplorerError(
                f"--demo is the bundled model; it goes without --{clash[0].replace('_', '-')}."
            )
        return Subject.demo(3 if given.layer is None else given.layer)
    _say("loading the model and the SAE")
    if given.sae or (given.model and not given.release and Path(given.model).exists()):
        if not given.model:
            raise ExplorerError("--sae needs the model it was trained on: --model FOLDER.")
        saes = [given.sae] if given.sae else []
        return Subject.from_folder(given.model, saes, device=given.device, dtype=given.dtype)
    if given.model and not given.release:
        raise ExplorerError(
            f"There is no folder {given.model}. With a hub id give the SAE's --release too."
        )
    return Subject.from_pretrained(
        given.release or "gemma-2b-res-jb",
        layer=given.layer,
        sae_id=given.sae_id,
        model=given.model,
        device=given.device,
        dtype=given.dtype,
    )


def _with_progress(run: Any, subject: Subject, request: Request) -> Result:
    """Run an analysis; on a terminal, show on stderr how far it is. Ctrl-C keeps what there is."""
    from rich.console import Console
    from rich.status import Status

    console = Console(stderr=True)
    cancel = threading.Event()
    with Status("working", console=console) as status, warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialResultWarning)

        def show(progress: Any) -> None:
            rate = progress.nodes / max(progress.seconds, 1e-9)
            status.update(
                f"{progress.nodes:,} nodes, {rate:,.0f}/s, complete above {progress.threshold:.1e}"
            )

        result: Result = run(subject, request, progress=show, cancel=cancel)
    if getattr(result, "partial", False):
        _say("interrupted: the result is partial")
    return result


def _write(method: Any, path: str) -> None:
    if path != "-":
        method(path)
        _say(f"wrote {path}")
        return
    text = method()
    print(text, end="" if text.endswith("\n") else "\n")


def _say(line: str) -> None:
    """Tell the user something that is not the result."""
    print(f"sae-explorer: {line}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
