"""Settings of all tests: one thread for torch, and the tables of figures at the end of the run.

And the fixtures for explorers in this process, on the tiny models of explorers.py.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from hosts import matrix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from explorers import Breaking, Counted, Gate
    from sae_explorer import FeatureExplorer, Subject

torch.set_num_threads(1)  # the models are tiny: more threads only wait for each other

README = Path(__file__).parents[1] / "README.md"
#: Tables of what tests measured: ``record_property(name, row)`` adds a row, a dict, to one of them.
TABLES = {
    "parity": "parity with one forward per node",
    "axe": "accessibility, by axe-core",
    "soak": "memory under many changes",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-hosts",
        action="store_true",
        help="write what the tests of hosts show into the README's table",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "host(name, *claims): what a host is shown to do")


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Let each test of a host carry its claims into its report."""
    for item in items:
        item.user_properties += [("host", claim) for claim in matrix.claims(item)]


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the README's table of hosts, or fail where all of them ran and it says otherwise."""
    if hasattr(session.config, "workerinput"):
        return  # one of several processes: the first one has the results of all
    made = _hosts(session.config)
    if not made or session.testsfailed:
        return
    whole = _all_ran(session.config)
    if whole and session.config.getoption("--write-hosts"):
        matrix.write(README, made)
    if (whole or session.config.getoption("--write-hosts")) and not matrix.stands_in(README, made):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print what the tests measured, whether they passed or not."""
    for name, title in TABLES.items():
        rows = [row for row, _ in _recorded(config, name)]
        if rows:
            terminalreporter.section(title)
            for line in _aligned(rows):
                terminalreporter.write_line(line)
    made = _hosts(config)
    if made:
        terminalreporter.section("what the hosts are shown to do")
        terminalreporter.write(made)
        if matrix.stands_in(README, made):
            return
        if config.getoption("--write-hosts"):
            terminalreporter.write_line(
                "The README's table of hosts is left as it was: it is written when all of tests/hosts "
                "ran and passed."
            )
        elif _all_ran(config):
            terminalreporter.write_line(
                "The README's table of hosts says otherwise: `make hosts` runs these tests and writes it."
            )


def _recorded(config: pytest.Config, name: str) -> Iterator[tuple[Any, bool]]:
    """Yield what tests recorded under a name, and whether they passed."""
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    # A test whose fixture fails after it has passed is in both lists: it counts as failed.
    for outcome in ("passed", "failed", "error"):
        for report in reporter.stats.get(outcome, []):
            if outcome == "passed" and report.when != "call":
                continue
            for key, value in getattr(
                report, "user_properties", []
            ):  # none where it was not collected
                if key == name:
                    yield value, outcome == "passed"


def _hosts(config: pytest.Config) -> str:
    results = list(_recorded(config, "host"))
    return matrix.table(results) if results else ""


def _all_ran(config: pytest.Config) -> bool:
    """Tell whether every test of a host was run, not a choice of them."""
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    ran = {
        config.rootpath / each.nodeid.split("::")[0] for each in reporter.stats.get("passed", [])
    }
    chosen = any(map(config.getoption, ("keyword", "markexpr", "deselect", "lf"))) or any(
        "::" in argument for argument in config.args
    )
    return not chosen and ran.issuperset(Path(__file__).parent.glob("hosts/test_*.py"))


def _aligned(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    columns = list(rows[0])
    table = [columns, *([str(row[column]) for column in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        yield "  ".join(cells).rstrip()


# --- Explorers -----------------------------------------------------------------------------------
# explorers.py is imported where it is needed: all architectures of the zoo take seconds.


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a front-end in this process play the browser of each explorer."""
    import comm

    from explorers import Recording

    monkeypatch.setattr(comm, "create_comm", Recording)


@pytest.fixture
def explore(recording: None) -> Iterator[Callable[..., FeatureExplorer]]:
    """Return what makes explorers; they are closed in the end."""
    from explorers import OPTIONS, subject
    from sae_explorer import FeatureExplorer

    with contextlib.ExitStack() as stack:

        def make(feature: int | None = 3, on: Subject | None = None, **given: Any) -> Any:
            given = {**OPTIONS, **given}
            explorer = FeatureExplorer(feature, subject=on or subject(), **given)
            stack.callback(explorer.close)
            return explorer

        yield make


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Return a gate before the model of `subject`; trees take small steps and tell of each."""
    from explorers import Gate, small_steps, subject

    small_steps(monkeypatch)
    gate = Gate(subject().model)
    yield gate
    gate.open()


@pytest.fixture
def decoders(monkeypatch: pytest.MonkeyPatch) -> list[Counted]:
    """Return a list to which every decoder of a tree is added."""
    from explorers import Counted, subject
    from sae_explorer.analyses import trees

    subject()  # made before: trying a model out opens one as well
    opened: list[Counted] = []
    real = trees.open_decoder

    def open_decoder(*given: Any) -> Any:
        opened.append(Counted(real(*given)))
        return opened[-1]

    monkeypatch.setattr(trees, "open_decoder", open_decoder)
    return opened


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> Iterator[Breaking]:
    """Return what makes forwards of the model of `subject` fail; trees take small steps."""
    from explorers import Breaking, small_steps, subject

    small_steps(monkeypatch)
    breaking = Breaking(subject().model)
    yield breaking
    breaking.remove()
