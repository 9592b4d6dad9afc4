"""The command line: the analyses, with their options as flags, and nothing of its own."""

from __future__ import annotations

import functools
import signal
import sys
import threading
from typing import TYPE_CHECKING

from sae_explorer.analyses import ANALYSES
from sae_explorer.cli import commands, listing, parsers, terminal
from sae_explorer.cli.flags import in_flags
from sae_explorer.errors import ExplorerError, did_you_mean

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Sequence


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
        terminal.say(str(error))
        return 1
    except KeyboardInterrupt:
        terminal.say("interrupted")
        return terminal.INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (`| head`): no error, and nobody to tell.
        terminal.drop_stdout()
        return 0
    except OSError as error:
        terminal.drop_stdout()
        terminal.say(f"the output cannot be written: {error.strerror or error}")
        return 1
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, on_interrupt or signal.SIG_DFL)


def _command(words: list[str]) -> int:
    # An analysis' flags come from its request, whose import takes seconds: build only the parser
    # of the command that was given.
    name = words[0] if words else ""
    own: dict[str, tuple[Callable[[], parsers.Parser], Callable[[argparse.Namespace], int]]] = {
        "demo": (parsers.demo_parser, commands.demo),
        "report": (parsers.report_parser, commands.report),
        "list": (parsers.list_parser, listing.list_saes),
    }
    for analysis in ANALYSES:
        own[analysis] = (
            functools.partial(parsers.analysis_parser, analysis),
            functools.partial(commands.analyse, analysis),
        )
    if name not in own:
        return _no_command(name, own)
    parser, answer = own[name]
    given = parser().parse_args(words[1:])
    try:
        return answer(given)
    except ExplorerError as error:
        raise ExplorerError(in_flags(str(error), given.known)) from error


def _no_command(name: str, possible: Iterable[str]) -> int:
    """Answer what is no command: help and version where they are asked for, else what there is."""
    parser = parsers.top_parser()
    if name in parser.known:
        parser.parse_args([name])  # which ends here
    if name.startswith("-"):
        parser.error(f"{name} needs a command before it, as in: sae-explorer tree {name}.")
    if name:
        parser.error(f"there is no command {name!r}.{did_you_mean(name, possible)}")
    parser.print_help(sys.stderr)
    return 2
