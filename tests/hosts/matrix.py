"""Which host can do what: the README's table, made from the results of the tests that show it.

A test says what it shows by ``@pytest.mark.host("Notebook 7", "grows", "controls")``: the host, then
what it can do. What it cannot do is shown by a test as well, and said in words:
``@pytest.mark.host("Voila", busy="a running cell holds messages up")``. What it does on a condition is a
tick with a note: ``@pytest.mark.host("nbconvert", saved="yes: by `explorer.snapshot()`")``.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.metadata import version
from typing import TYPE_CHECKING

from hosts.browser import NAMES

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import pytest

#: The hosts, and what tells their version: a Python package, or programs of which one is there.
HOSTS: dict[str, str | tuple[str, ...]] = {
    "JupyterLab 4": "jupyterlab",
    "Notebook 7": "notebook",
    "Voila": "voila",
    "marimo edit": "marimo",
    "marimo run": "marimo",
    "VS Code's widget manager": (),
    "nbconvert": "nbconvert",
    "report, Chromium": NAMES,
    "report, Firefox ESR": ("firefox-esr", "firefox"),
}
#: What a host can do, in the words of the table.
CLAIMS = {
    "grows": "appears, and shows the tree grow to its end",
    "controls": "a control changes the tree, and Python hears of it",
    "cancel": "Cancel keeps what is there, Grow on goes on",
    "busy": "Cancel is heard while another cell runs",
    "panels": "analyses run on request",
    "views": "shown twice, both stay in step; two explorers do not mix",
    "composed": "within a `VBox`, linked to an `IntSlider`",
    "keys": "keys typed in the widget stay there",
    "dark": "follows the host's dark theme",
    "offline": "asks no other computer for anything",
    "saved": "shows its last state without a kernel",
    "summary": "without that state, a summary in plain HTML",
    "folds": "folds, sorts and searches without a kernel",
    "export": "what the page exports reads back equal",
}
_BELOW = (
    "A blank cell: no test shows it, or it does not apply. Of VS Code its widget manager is tested, in "
    "a browser: the application itself is unchecked."
)
#: What comes before the condition of a tick.
_YES = "yes: "
#: Where the table stands in the README.
_SECTION = re.compile(r"(?<=<!-- hosts -->\n).*?(?=<!-- /hosts -->)", re.DOTALL)

#: Host, what it can do, and the words for what it cannot, or on what condition ("" where it just can).
Claim = tuple[str, str, str]


def claims(item: pytest.Item) -> list[Claim]:
    """Return what a test shows.

    Raises
    ------
    ValueError
        For a host or an ability that the table does not have.
    """
    found: list[Claim] = []
    for mark in item.iter_markers("host"):
        host, *able = mark.args
        found += [(host, name, "") for name in able]
        found += [(host, name, words) for name, words in mark.kwargs.items()]
    for host, name, _ in found:
        if host not in HOSTS or name not in CLAIMS:
            raise ValueError(f"{item.nodeid}: the table of hosts has no {host!r}, {name!r}")
    return found


def table(results: Iterable[tuple[Claim, bool]]) -> str:
    """Return the table in Markdown: a tick where all tests of a claim passed.

    Parameters
    ----------
    results
        Each claim of each test, and whether that test passed.
    """
    cells: dict[tuple[str, str], list[tuple[str, bool]]] = {}
    for (host, name, words), passed in results:
        cells.setdefault((name, host), []).append((words, passed))
    notes: list[str] = []

    def cell(name: str, host: str) -> str:
        tests = cells.get((name, host), [])
        said = next((words for words, _ in tests if words), "")
        if not all(passed for _, passed in tests):
            return "failed"
        if not said:
            return "✓" if tests else ""
        note = said.removeprefix(_YES)
        if note not in notes:
            notes.append(note)
        return f"{'no' if note == said else '✓'} ({notes.index(note) + 1})"

    lines = ["| | " + " | ".join(_named(host) for host in HOSTS) + " |"]
    lines.append("|---|" + ":-:|" * len(HOSTS))
    lines += [
        f"| {words} | " + " | ".join(cell(name, host) for host in HOSTS) + " |"
        for name, words in CLAIMS.items()
    ]
    if notes:
        lines += ["", " ".join(f"({i}) {note}." for i, note in enumerate(notes, 1))]
    return "\n".join([*lines, "", _BELOW, ""])


def stands_in(readme: Path, made: str) -> bool:
    """Tell whether the README holds this table, whatever the versions that it names."""
    found = _SECTION.search(readme.read_text(encoding="utf-8"))
    return found is not None and _unversioned(found[0]) == _unversioned(made)


def write(readme: Path, made: str) -> None:
    """Put the table into the README."""
    text, count = _SECTION.subn(lambda _: made, readme.read_text(encoding="utf-8"))
    if count != 1:
        raise ValueError(f"{readme} has no line <!-- hosts --> with <!-- /hosts --> after it")
    readme.write_text(text, encoding="utf-8")


def _unversioned(text: str) -> list[str]:
    head, *lines = text.strip().splitlines() or [""]
    return [re.sub(r" ?\d+(\.\d+)*", "", head), *lines]


def _named(host: str) -> str:
    """Return a host with the version that was tested, two numbers of it."""
    source = HOSTS[host]
    if isinstance(source, str):
        return f"{host.rstrip('0123456789 ')} {_short(version(source))}"
    program = next((path for path in map(shutil.which, source) if path), None)
    if program is None:
        return host
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return f"{host} {_short(said.stdout)}".strip()


def _short(words: str) -> str:
    found = re.search(r"\d+(\.\d+)?", words)
    return found[0] if found else ""
