"""What a terminal shows and does: progress, Ctrl-C, results, and a reader who leaves."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_explorer.analyses import Progress
from sae_explorer.errors import ExplorerError, PartialResultWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: The exit status of what was interrupted.
INTERRUPTED = 130


def say(text: str) -> None:
    """Tell the user something that is not the result."""
    sys.stderr.write(f"sae-explorer: {text}\n")
    sys.stderr.flush()


@contextlib.contextmanager
def line(title: str) -> Iterator[Callable[[str], None]]:
    """Give a function that shows progress: a line that changes on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        say(title)
        yield lambda _text: None
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status(escape(title)) as status:
        yield lambda text: status.update(escape(text))


@contextlib.contextmanager
def display(title: str) -> Iterator[Any]:
    """Give a function that shows how far a tree has grown, or another analysis has come."""
    with line(title) as tell:

        def show_progress(progress: Any) -> None:
            if isinstance(progress, Progress):
                share = "" if progress.share is None else f", {progress.share:.0%}"
                tell(f"{title}: {progress.text}{share}")
                return
            rate = progress.nodes / max(progress.seconds, 1e-9)
            tell(
                f"{progress.nodes:,} nodes, {rate:,.0f}/s, complete above {progress.threshold:.1e}"
            )

        yield show_progress


@contextlib.contextmanager
def first_interrupt_sets(cancel: threading.Event) -> Iterator[None]:
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


def keep_from_interrupts() -> None:
    """Let a second, nervous Ctrl-C not lose what the first one kept. Restored by main."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def check_paths(paths: dict[str, str]) -> None:
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


def show(view: Any) -> None:
    """Print a view of a result, as wide as the terminal."""
    from rich.console import Console

    console = Console()
    # Captured first: rich would end the process by itself when the reader has gone.
    with console.capture() as capture:
        console.print(view)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    sys.stdout.write(capture.get())


def write(method: Any, path: str) -> None:
    """Write a result by one of its methods: to a file, or where the path is ``-`` to stdout."""
    if path != "-":
        method(path)
        say(f"wrote {path}")
        return
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    text = method()
    sys.stdout.write(text if text.endswith("\n") else text + "\n")


def drop_stdout() -> None:
    """Let what is left in the buffer of stdout go nowhere, so that Python's own exit is silent."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
