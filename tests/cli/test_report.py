"""Claims about the report command: its page holds what was asked for, whatever becomes of the run."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cli.specimens import SPECIMENS, TREE, flags, interrupts_at, on, said
from sae_explorer import grow_tree, logit_lens, rank_tokens
from sae_explorer.analyses import steering
from sae_explorer.analyses.closed_loop import close_loop
from sae_explorer.analyses.steering import steer_text
from sae_explorer.cli import commands, main

if TYPE_CHECKING:
    from sae_explorer import Subject


def test_a_report_holds_what_the_commands_give(
    disk: Path, subject: Subject, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "feature.html"
    words = ["--feature=3", "--cutoff=0.01", "--max-depth=3", "--exponent=1.2", "--limit=7"]
    assert main(["report", *on(disk), *words, "--html", str(page)]) == 0
    assert capsys.readouterr().out.startswith("It would be defined as: ")
    attached = attached_to(page)
    tree = grow_tree(subject, feature=3, cutoff=0.01, max_depth=3)
    tokens = rank_tokens(subject, feature=3, exponent=1.2, limit=7)
    assert attached["tree.json"] == tree.to_json()
    assert attached["tokens.csv"] == tokens.to_csv()
    assert attached["lens.json"] == logit_lens(subject, feature=3).to_json()


def test_a_report_holds_the_analyses_that_it_is_to_hold(
    disk: Path, subject: Subject, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "feature.html"
    given = {**TREE, **SPECIMENS["steering"], **SPECIMENS["loop"]}
    words = [*on(disk), *flags(given), "--with", "steering, loop", "--html", str(page)]
    assert main(["report", *words]) == 0
    told = capsys.readouterr()
    assert told.out.startswith("It would be defined as: ")
    assert {"working on steering", "steering: done", "loop: done"} <= set(said(told.err))
    attached = attached_to(page)
    assert attached["steering.json"] == steer_text(subject, **SPECIMENS["steering"]).to_json()
    assert attached["loop.csv"] == close_loop(subject, **SPECIMENS["loop"]).to_csv()
    assert "dose.json" not in attached


def test_a_report_is_written_without_what_fails(
    disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "feature.html"
    words = [*on(disk), *flags(TREE), f"--text={'the ' * 5000}", "--html", str(page)]
    assert main(["report", *words, "--with=steering"]) == 1
    lines = said(capsys.readouterr().err)
    assert any(line.startswith("steering: The text has ") for line in lines)
    assert lines[-1] == f"wrote {page}"
    assert "steering.json" not in attached_to(page)


def test_a_report_is_written_of_what_an_interrupted_run_found(
    disk: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = tmp_path / "feature.html"
    run = steering.run

    def waiting(*about: Any, cancel: Any, **options: Any) -> Any:
        assert cancel.wait(60)
        return run(*about, cancel=cancel, **options)

    monkeypatch.setattr(steering, "run", waiting)
    monkeypatch.setattr(commands, "_wait", lambda explorer, _title: explorer.wait() and 0)
    words = [*on(disk), *flags(TREE), "--with=steering,dose"]
    with interrupts_at({2}, monkeypatch):
        assert main(["report", *words, "--html", str(page)]) == 130
    lines = said(capsys.readouterr().err)
    assert "steering: stopped before it was complete" in lines
    assert lines[-1] == f"wrote {page}"
    attached = attached_to(page)
    assert json.loads(attached["steering.json"])["status"] == "partial"
    assert "dose.json" not in attached


def test_a_report_is_written_of_a_partial_tree(
    disk: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = tmp_path / "feature.html"
    endless = ["--feature=3", "--cutoff=1e-12", "--top-k=20", "--max-nodes=none"]
    with interrupts_at({2}, monkeypatch):
        assert main(["report", *on(disk), *endless, "--html", str(page)]) == 130
    assert "stopped before it was complete" in page.read_text("utf-8")
    assert said(capsys.readouterr().err)[-1] == f"wrote {page}"


def test_what_a_report_cannot_say_is_refused_before_anything_is_computed(
    disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "nowhere" / "feature.html"
    assert main(["report", *on(disk), "--feature=3", "--html", str(page)]) == 1
    assert main(["report", *on(disk), "--feature=99999"]) == 1
    first, loading, last = said(capsys.readouterr().err)
    assert "there is no folder" in first
    assert loading == "loading the model and the SAE"
    assert "There is no feature 99999" in last
    assert main(["report", *on(disk), "--feature=3", "--with=steerin"]) == 1
    assert "holds 'steerin'. Did you mean 'steering'" in said(capsys.readouterr().err)[-1]


def test_a_report_is_named_after_what_it_is_about(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ablated = "--interventions=ablate 9"
    named = {
        "model-sae-feature-3-report.html": ["--feature=3"],
        "model-sae-feature-3,-feature-9-ablated-report.html": ["--feature=3", ablated],
        "model-sae-direction-3-+-5-report.html": ["--direction=3 + 5"],
        "model-token-'is'-report.html": ["--token=is"],
    }
    for source in named.values():
        assert main(["report", *on(disk), *source, "--cutoff=0.1", "--max-depth=2"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == named.keys()


def test_a_report_takes_the_place_of_no_other_unless_it_is_told_to(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["report", *on(disk), "--feature=3", "--cutoff=0.1", "--max-depth=2"]
    mine = Path("model-sae-feature-3-report.html")
    mine.write_text("my own notes")
    for _ in range(2):
        assert main(words) == 0
    assert mine.read_text() == "my own notes"
    stem = "model-sae-feature-3-report"
    assert {path.name for path in Path().iterdir()} == {
        f"{stem}.html",
        f"{stem}-2.html",
        f"{stem}-3.html",
    }
    assert main([*words, f"--html={mine}"]) == 0
    assert "tree.json" in attached_to(mine)


def attached_to(page: Path) -> dict[str, str]:
    """Return the files that a page carries."""
    found = re.findall(
        r'<script id="carried"[^>]*>(.*?)</script>', page.read_text("utf-8"), re.DOTALL
    )
    return attachments(json.loads(found[0]))


def attachments(document: Any) -> dict[str, str]:
    """Return the files that a page carries, wherever in its document they stand."""
    state = document["state"]
    for path, data in zip(document["paths"], document["buffers"], strict=True):
        place = state
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = base64.b64decode(data)
    return {
        name: gzip.decompress(file["data"]).decode() for name, file in state["_attachments"].items()
    }
