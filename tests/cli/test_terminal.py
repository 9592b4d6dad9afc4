"""Claims about output and interrupts: what goes where, whoever reads it and whoever stops it."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from cli.specimens import FORMATS, FUNCTIONS, SPECIMENS, TREE, flags, interrupts_at, on, said
from sae_explorer import DefinitionTree, Subject, logit_lens
from sae_explorer.cli import main, terminal


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name in FORMATS for kind in FORMATS[name]]
)
def test_stdout_holds_the_data_and_nothing_else(
    disk: Path, subject: Subject, capsys: pytest.CaptureFixture[str], name: str, kind: str
) -> None:
    assert main([name, *on(disk), *flags(SPECIMENS[name]), f"--{kind}", "-"]) == 0
    out, err = capsys.readouterr()
    expected = getattr(FUNCTIONS[name](subject, **SPECIMENS[name]), FORMATS[name][kind])()
    assert out.rstrip("\n") == expected.rstrip("\n")
    assert out.endswith("\n")
    said(err)


def test_a_terminal_sees_progress(
    disk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert main(["tree", *on(disk), *flags(TREE), "--json", "-"]) == 0
    shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "\x1b[" in shown
    assert re.search(r" \d+ nodes, [\d,]+/s, complete above ", shown)  # the last state, at least
    json.loads(capsys.readouterr().out)


def test_what_libraries_print_while_loading_stays_out_of_the_data(
    disk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load = Subject.from_folder

    def noisy(*args: Any, **kwargs: Any) -> Subject:
        print("Moving model to device: cpu")
        return load(*args, **kwargs)

    monkeypatch.setattr(Subject, "from_folder", noisy)
    assert main(["tree", *on(disk), *flags(TREE), "--json", "-"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["kind"] == "definition-tree"
    assert "Moving model" in err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_any_terminal_can_show_the_view_and_data_is_utf8(
    disk: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    for words in ([], ["--csv", "-"]):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
        # Tokens that are parts of characters are written with letters outside of both encodings.
        assert main(["tree", *on(disk), "--token=Ġtypical", "--max-depth=2", *words]) == 0
        sys.stdout.flush()
        text = raw.getvalue().decode("utf-8" if words else encoding)
        assert "typical" in text or words


def test_links_and_pipes_stay_what_they_are(disk: Path, subject: Subject, tmp_path: Path) -> None:
    real, link, pipe = tmp_path / "real.json", tmp_path / "link.json", tmp_path / "pipe.json"
    real.write_text("old")
    link.symlink_to(real)
    assert main(["tree", *on(disk), *flags(TREE), "--json", str(link)]) == 0
    assert link.is_symlink()
    text = real.read_text(encoding="utf-8")
    assert json.loads(text)["status"] == "complete"

    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert main(["lens", *on(disk), "--feature=3", "--limit=2", "--csv", str(pipe)]) == 0
        expected = logit_lens(subject, feature=3, limit=2).to_csv()
        assert os.read(reader, 100_000) == expected.encode()
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.json", "pipe.json", "real.json"]


def test_a_full_disk_is_an_error_and_no_traceback(
    disk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["tree", *on(disk), *flags(TREE), "--json", "-"]) == 1
        monkeypatch.undo()
    assert said(capsys.readouterr().err)[-1].startswith("the output cannot be written: ")


@pytest.mark.parametrize("words", [["tree", "--help"], ["tree", "--feature=3", "--csv=-"]])
def test_a_reader_who_leaves_is_no_error(
    disk: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert main([*words, *on(disk), "--max-depth=3"]) == 0
        monkeypatch.undo()
    said(capsys.readouterr().err)


@pytest.mark.parametrize("steps", [{3}, {3, 4}])
def test_an_interrupt_keeps_what_has_grown(
    disk: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    steps: set[int],
) -> None:
    path = tmp_path / "tree.json"
    if steps == {3, 4}:
        # A run that does not look at its cancel event: the second Ctrl-C breaks in.
        monkeypatch.setattr("threading.Event.is_set", _only_for_the_handler)
    with interrupts_at(steps, monkeypatch):
        words = ["--feature=3", "--cutoff=1e-9", "--top-k=10", "--max-nodes=none"]
        assert main(["tree", *on(disk), *words, "--json", str(path), "--csv", "-"]) == 130
    monkeypatch.undo()
    tree = DefinitionTree.from_json(path)
    assert tree.partial
    assert len(tree) > 1
    out, err = capsys.readouterr()
    assert len(list(csv.reader(io.StringIO(out)))) == len(tree) + 1  # both formats, and a head
    assert re.match(rf"interrupted: the result is partial; {len(tree):,} rows", said(err)[-2])


def _only_for_the_handler(event: Any) -> bool:
    caller = sys._getframe(1).f_code
    return bool(event._flag) and caller.co_filename == terminal.__file__


def test_an_interrupt_while_loading_ends_with_130(
    disk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Subject, "from_folder", lambda *_a, **_k: signal.raise_signal(signal.SIGINT)
    )
    assert main(["tree", *on(disk), "--feature=3"]) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert said(err)[-1] == "interrupted"
