"""Settings of all tests: one thread for torch, and the parity table at the end of the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    import pytest

torch.set_num_threads(1)  # the models are tiny: more threads only wait for each other


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the parity tests measured, whether they passed or not."""
    rows = [
        value
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        for name, value in report.user_properties
        if name == "parity" and report.when == "call"
    ]
    if not rows:
        return
    columns = list(rows[0])
    table = [columns, *([str(row[column]) for column in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    terminalreporter.section("parity with one forward per node")
    for line in table:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        terminalreporter.write_line("  ".join(cells).rstrip())
