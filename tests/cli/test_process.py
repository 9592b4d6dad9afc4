"""Claims about the command in a process of its own: how it ends, and what a shell sees of it."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from cli.specimens import flags, on, said
from sae_explorer import DefinitionTree

if TYPE_CHECKING:
    from pathlib import Path

    from sae_explorer import Subject


def test_the_real_command_refuses_in_one_line() -> None:
    command = [sys.executable, "-m", "sae_explorer.cli", "tree", "--feature=-1"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "sae-explorer: --feature is -1; it must be at least 0.\n"


def test_a_closed_pipe_ends_the_real_command_in_silence() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "sae_explorer.cli", "tree", "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait() == 0


def test_ctrl_c_ends_the_real_command_with_its_partial_result(
    disk: Path, subject: Subject, tmp_path: Path
) -> None:
    # Started as from a terminal, where interrupts are not ignored.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from sae_explorer.cli import main; sys.exit(main())"
    )
    endless = {"feature": 3, "cutoff": 1e-12, "top_k": 20}
    words = ["tree", *on(disk), *flags(endless), "--max-nodes=none", "--json=-"]
    path = tmp_path / "stdout"
    with (
        path.open("wb") as stdout,
        subprocess.Popen(
            [sys.executable, "-c", code, *words],
            stdout=stdout,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        ) as process,
    ):
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "working on feature 3" in line:
                process.send_signal(signal.SIGINT)
    assert process.returncode == 130
    assert said("".join(lines))[-1].startswith("interrupted: the result is partial; ")
    tree = DefinitionTree.from_json(path)
    assert tree.partial
    assert tree.request.cutoff == 1e-12
    assert tree.request.max_nodes is None
    assert tree.provenance == subject.provenance(with_sae=True)
