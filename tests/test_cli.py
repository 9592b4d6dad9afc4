"""Claims about the command line: what it prints where, what it writes, and how it ends."""

from __future__ import annotations

import base64
import contextlib
import csv
import gzip
import io
import json
import os
import re
import signal
import stat
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from sae_explorer import (
    Ablate,
    Clamp,
    DefinitionTree,
    Steer,
    Subject,
    cli,
    grow_tree,
    logit_lens,
    rank_tokens,
)
from sae_explorer.analyses import ANALYSES, steering
from sae_explorer.analyses.closed_loop import close_loop
from sae_explorer.analyses.dose_response import dose_response
from sae_explorer.analyses.scale_sweep import sweep_scales
from sae_explorer.analyses.steering import steer_text
from sae_explorer.analyses.tree_difference import compare_trees
from sae_explorer.cli import main
from sae_explorer.request import plain, schema
from zoo import build_model, build_sae, build_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TREE: dict[str, Any] = {"feature": 3, "weights": "decoder", "cutoff": 2e-2, "max_depth": 4}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "tree": grow_tree,
    "tokens": rank_tokens,
    "lens": logit_lens,
    "steering": steer_text,
    "dose": dose_response,
    "scales": sweep_scales,
    "difference": compare_trees,
    "loop": close_loop,
}
TABLE = {"json": "to_json", "csv": "to_csv"}
FORMATS = dict.fromkeys(FUNCTIONS, TABLE) | {
    "tree": {**TABLE, "newick": "to_newick", "dot": "to_dot"},
}
SPECIMENS: dict[str, dict[str, Any]] = {
    "tree": TREE,
    "tokens": {"feature": 3, "limit": 7, "script": "Latin"},
    "lens": {"feature": 3, "limit": 4},
    "steering": {"feature": 3, "strengths": (0.5, 2.0), "text": "the", "max_tokens": 4},
    "dose": {"feature": 3, "doses": (-1.0, 0.0, 1.0), "text": "the", "dose_tokens": 3},
    "scales": {"feature": 3, "grid": (1.0, 2.0, 3.0)},
    "difference": {**TREE, "against": "weights=encoder"},
    "loop": {**TREE, "definitions": 5, "random_trees": 2},
}


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cli")
    build_model("llama").save_pretrained(root / "model")
    build_tokenizer().save_pretrained(root / "model")
    build_sae(48).save_model(root / "sae")
    return root


@pytest.fixture(scope="session")
def subject(disk: Path) -> Subject:
    return Subject.from_folder(disk / "model", disk / "sae", device="cpu")


@pytest.fixture(autouse=True)
def _interrupts_as_in_a_terminal() -> Iterator[None]:
    # A shell that starts the tests in the background has them ignore interrupts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def flags(given: dict[str, Any]) -> list[str]:
    """Write options as flags."""

    def text(value: Any) -> str:
        return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)

    return [f"--{name.replace('_', '-')}={text(value)}" for name, value in given.items()]


def on(disk: Path) -> list[str]:
    """Return the flags that mean the model and the SAE on disk."""
    return ["--model", str(disk / "model"), "--sae", str(disk / "sae"), "--device", "cpu"]


def said(err: str) -> list[str]:
    """Return the lines on stderr, each checked to be one of ours, without control codes."""
    lines = err.splitlines()
    assert all(line.startswith("sae-explorer: ") for line in lines), err
    assert "\x1b" not in err
    assert "\r" not in err
    return [line.removeprefix("sae-explorer: ") for line in lines]


# --- Output ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ANALYSES)
def test_every_format_is_written_as_python_writes_it(
    disk: Path, subject: Subject, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    expected = FUNCTIONS[name](subject, **SPECIMENS[name])
    paths = {kind: tmp_path / f"result.{kind}" for kind in FORMATS[name]}
    words = [name, *on(disk), *flags(SPECIMENS[name]), *flags(paths)]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert out == ""
    for kind, method in FORMATS[name].items():
        assert paths[kind].read_text(encoding="utf-8") == getattr(expected, method)()
    assert type(expected).from_json(paths["json"]) == expected
    lines = said(err)
    assert lines[0] == "loading the model and the SAE"
    assert lines[1].startswith("working on ")
    assert re.fullmatch(rf"{len(expected):,} rows in \d+\.\d s", lines[2])
    score = [repr(expected)] if name == "loop" else []
    assert lines[3:] == [*(f"wrote {path}" for path in paths.values()), *score]


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


@pytest.mark.parametrize("name", ANALYSES)
def test_without_a_format_a_person_can_read_it(
    disk: Path, subject: Subject, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert main([name, *on(disk), *flags(SPECIMENS[name])]) == 0
    out, err = capsys.readouterr()
    expected = FUNCTIONS[name](subject, **SPECIMENS[name])
    assert ("weights decoder" if name == "difference" else "feature 3") in out
    assert len(out.splitlines()) > 4
    if name == "tree":
        for token in expected.tokens[1:4]:
            assert token.strip() in out
    assert "\x1b" not in out  # no colours where there is no terminal
    said(err)


@pytest.mark.parametrize("name", ["difference", "loop"])
def test_a_table_in_the_terminal_has_as_many_rows_as_are_asked_for(
    disk: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    heights = []
    for limit in (1, 3):
        assert main([name, *on(disk), *flags(SPECIMENS[name]), f"--limit={limit}"]) == 0
        heights.append(len(re.findall(r"^│", capsys.readouterr().out, re.MULTILINE)))
    assert heights == [1, 3]


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


# --- Options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--feature", "5"], {"feature": 5}),
        (["--feature=5", "--weights", "decoder"], {"weights": "decoder"}),
        (["--feature=5", "--weights", "0.5,0.5"], {"weights": [0.5, 0.5]}),
        (["--feature=5", "--weights", "-1,1"], {"weights": [-1.0, 1.0]}),
        (["--feature=5", "--weights=-.5, 1"], {"weights": [-0.5, 1.0]}),
        (["--feature=5", "--scale", "1.5"], {"scale": 1.5}),
        (["--feature=5", "--centroid"], {"centroid": True}),
        (["--feature=5", "--no-centroid"], {"centroid": False}),
        (["--feature=5", "--pca", "0.2,0.1"], {"pca": [0.2, 0.1]}),
        (["--token", "Ġtypical"], {"token": "Ġtypical", "feature": None}),
        (["--vector", ",".join(["-1", *["0.5"] * 47])], {"vector": [-1.0] + [0.5] * 47}),
        (["--embedding", ",".join(["-1e-1"] * 48)], {"embedding": [-0.1] * 48}),
        (["--vector", "{disk}/vector.npy"], {"vector": [0.25] * 48}),
        (["--feature=5", "--prompt", '"{ghost}" is "'], {"prompt": '"{ghost}" is "'}),
        (["--feature=5", "--ghost-token", "<unused1>"], {"ghost_token": "<unused1>"}),
        (["--feature=5", "--top-k", "3"], {"top_k": 3}),
        (["--feature=5", "--max-nodes", "20"], {"max_nodes": 20}),
        (["--feature=5", "--max-nodes", "none"], {"max_nodes": None}),
        (["--feature=5", "--max-depth", "2"], {"max_depth": 2}),
    ],
)
def test_values_reach_the_request(
    disk: Path, capsys: pytest.CaptureFixture[str], words: list[str], expected: dict[str, Any]
) -> None:
    np.save(disk / "vector.npy", np.full(48, 0.25, np.float16))
    words = [word.replace("{disk}", str(disk)) for word in words]
    words = words if "--max-depth" in words else [*words, "--max-depth", "3"]
    assert main(["tree", *on(disk), "--cutoff=0.05", *words, "--json", "-"]) == 0
    request = json.loads(capsys.readouterr().out)["request"]
    assert request["cutoff"] == 0.05
    assert {name: request[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--leading-space"], {"leading_space": True}),
        (["--no-leading-space"], {"leading_space": False}),
        ([], {"leading_space": None, "exponent": 1.4, "limit": 100}),
        (
            ["--pattern", "^ [a-z]+$", "--min-length", "2"],
            {"pattern": "^ [a-z]+$", "min_length": 2},
        ),
    ],
)
def test_filters_of_tokens_reach_the_request(
    disk: Path, capsys: pytest.CaptureFixture[str], words: list[str], expected: dict[str, Any]
) -> None:
    assert main(["tokens", *on(disk), "--feature=5", *words, "--json", "-"]) == 0
    request = json.loads(capsys.readouterr().out)["request"]
    assert {name: request[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--interventions", "clamp 5 8; ablate 9"], {"interventions": [Clamp(5, 8), Ablate(9)]}),
        (
            ["--interventions", "steer 5 0.5 residual_norm at=generated skip_bos"],
            {"interventions": [Steer(5, 0.5, "residual_norm", at="generated", skip_bos=True)]},
        ),
        (["--direction", "3 - 0.5*5:decoder"], {"direction": "3 - 0.5*5:decoder"}),
        (["--direction", "-3 + 5"], {"direction": "-3 + 5"}),
        (["--strengths", "-1,2"], {"strengths": [-1.0, 2.0]}),
        (["--at", "0,-1", "--no-skip-bos"], {"at": [0, -1], "skip_bos": False}),
        (["--text", "I, too", "--temperature", "0.5"], {"text": "I, too", "temperature": 0.5}),
    ],
)
def test_what_is_steered_reaches_the_request(
    disk: Path, capsys: pytest.CaptureFixture[str], words: list[str], expected: dict[str, Any]
) -> None:
    source = [] if "--direction" in words else ["--feature=3"]
    given = ["steering", *on(disk), *source, "--max-tokens=2", *words, "--json", "-"]
    assert main(given) == 0
    request = json.loads(capsys.readouterr().out)["request"]
    expected = {name: plain(value) for name, value in expected.items()}
    assert {name: request[name] for name in expected} == expected


def test_lists_of_words_and_of_features_reach_the_request(
    disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*flags(SPECIMENS["dose"]), "--watched", "5,7", "--targets", "Ġthe,Ġof"]
    assert main(["dose", *on(disk), *words, "--json", "-"]) == 0
    request = json.loads(capsys.readouterr().out)["request"]
    assert request["watched"] == [5, 7]
    assert request["targets"] == ["Ġthe", "Ġof"]


@pytest.mark.parametrize("name", ANALYSES)
def test_flags_are_the_options_of_python(name: str) -> None:
    known = {a.dest: a.option_strings for a in cli._analysis_parser(name)._actions}
    for option in schema(ANALYSES[name].load()[0]):
        assert known[option["name"]][0] == f"--{option['name'].replace('_', '-')}"


@pytest.mark.parametrize("name", ANALYSES)
def test_help_lists_every_option_with_its_help(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    for option in schema(ANALYSES[name].load()[0]):
        flag = rf"^  --{option['name'].replace('_', '-')}\b"
        assert re.search(rf"{flag}[^\n]*\s+{re.escape(option['help'])}", out, re.MULTILINE)
        assert option["range"] in out
    for flag in ("--demo", "--release", "--model", "--sae", "--layer", "--device", "--dtype"):
        assert f"  {flag}" in out
    for kind in FORMATS[name]:
        assert f"  --{kind} PATH" in out


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["demo", "--help"]])
def test_help_of_the_whole_works(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: sae-explorer")
    if "demo" not in words:
        for name, analysis in ANALYSES.items():
            assert re.search(rf"^    {name} +{analysis.summary}$", out, re.MULTILINE)
        assert "130 interrupted" in out


@pytest.mark.parametrize("name", ["", "demo", *ANALYSES, "report", "list"])
def test_help_fits_a_terminal_of_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([*name.split(), "--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"sae-explorer {metadata.version('sae-explorer')}\n"


def test_the_installed_command_is_this_one() -> None:
    (script,) = metadata.entry_points(group="console_scripts", name="sae-explorer")
    assert script.load() is main


# --- Ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["twig"], "there is no command 'twig'."),
        (["tre"], "there is no command 'tre'. Did you mean 'tree'?"),
        (["--demo", "tree"], "--demo needs a command before it, as in: sae-explorer tree --demo."),
        (["tree", "--no-such-option", "3"], "there is no --no-such-option."),
        (["tree", "--featur", "3"], "there is no --featur. Did you mean '--feature'?"),
        (["tree", "--top_k=3"], "there is no --top_k. Did you mean '--top-k'?"),
        # An abbreviation today is another option tomorrow.
        (["tree", "--feat", "3"], "there is no --feat. Did you mean '--feature'?"),
        (["demo", "--feat", "3"], "there is no --feat. Did you mean '--feature'?"),
        (["tree", "302", "--demo"], "'302' stands behind no flag that takes it."),
        (["tree", "--layer", "twelve"], "--layer must be a whole number, not 'twelve'."),
        (["tree", "--feature"], "--feature needs a value."),
        (["loop", "--feature=3", "--limit=0"], "--limit: it is '0'; it must be at least 1."),
        (["lens", "--feature=3", "--newick", "-"], "there is no --newick."),  # of no table
        (["demo", "--layer", "2"], "--layer: invalid choice: 2 (choose from 1, 3)."),
    ],
)
def test_wrong_usage_is_one_line_with_what_was_meant_and_ends_with_2(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = said(err)
    command = f"sae-explorer {words[0]}" if words[0] in (*ANALYSES, "demo") else "sae-explorer"
    assert line == f"{message} See: {command} --help"


def test_without_a_command_it_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "sae-explorer demo" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tree"], "Give one of --feature, --direction, --vector, --token or --embedding; none"),
        (["tree", "--feature", "three"], "^--feature is 'three'; it must be a whole number"),
        (["tree", "--feature=3", "--cutoff=0"], "^--cutoff is 0.0; it must be above 0, at most 1"),
        (["tree", "--feature=3", "--top-k=0"], "^--top-k is 0; it must be at least 1"),
        (["tree", "--feature=3", "--weights", "both"], "^--weights is 'both'"),
        (["tree", "--vector", "1,,2"], "^--vector is '1,,2'; it must be numbers separated by"),
        (["tree", "--vector", "no.npy"], "^--vector cannot be read from no.npy"),
        (["tree", "--feature=3", "--json", "no/tree.json"], "there is no folder no"),
        (["tree", "--feature=3", "--json", "."], "it is a folder"),
        (["tree", "--feature=3", "--json", "-", "--csv", "-"], "--json and --csv cannot both go"),
        (["loop", "--feature=3", "--limit=5", "--json=-"], "^--json goes without --limit"),
        (["tree", "--feature=3", "--sae", "x"], "--sae needs the model it was trained on"),
        (["tree", "--feature=3", "--model", "a/b"], "give the SAE's --release too"),
        (["tree", "--feature=3", "--demo", "--release=x"], "--demo goes without --release"),
        (["tree", "--feature=3", "--demo", "--dtype=float16"], "--demo goes without --dtype"),
        (["tree", "--feature=3", "--sae=x", "--model=y", "--release=z"], "goes without --release"),
        (["tree", "--feature=3", "--release=no-such"], "no release 'no-such'"),
        (["tree", "--feature=3", "--layer=7"], "gemma-2b-res-jb has no SAE at layer 7"),
        (
            ["tree", "--feature=3", "--interventions", "push 3"],
            "'push 3' is no intervention: 'push' is none of steer, clamp, ablate.",
        ),
        (["tree", "--feature=3", "--interventions", "ablat 3"], "Did you mean 'ablate'"),
        (
            ["tree", "--feature=3", "--interventions", "clamp 3 8; steer 3 1 residual_nrom"],
            "^'steer 3 1 residual_nrom' .* 'residual_nrom' is none of absolute, .* 'residual_norm'",
        ),
        (["tree", "--feature=3", "--interventions", "ablate 3 skipbos"], "Did you mean 'skip_bos'"),
        (["tree", "--direction", "3 *"], "3 \\*"),
        (
            ["steering", "--feature=3", "--strengths", "a"],
            "^--strengths is 'a'; it must be numbers",
        ),
        (["steering", "--feature=3", "--action=clamp"], "Give --unit absolute or --unit max_activ"),
        (
            ["tokens", "--feature=3", "--script=latin"],
            "^--script is 'latin'.* Did you mean 'Latin'",
        ),
        (["report", "--html", "page.html"], "Give one of --feature, --direction, "),
        (["report", "--feature=3", "--cutoff=0"], "^--cutoff is 0.0; it must be above 0"),
        (
            ["report", "--feature=3", "--with=steering", "--action=clamp"],
            "Give --unit absolute or --unit max_activ",
        ),
    ],
)
def test_what_cannot_be_asked_is_one_line_and_ends_with_1(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert out == ""
    lines = said(err)
    assert re.search(message, lines[-1])
    assert lines[:-1] in ([], ["loading the model and the SAE"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tree", "--feature=24"], "There is no feature 24: sae has 24 features, 0 to 23"),
        (["tree", "--feature=3", "--layer=2"], r"no SAE at layer 2. It has: sae \(layer 1\)"),
        (["tree", "--feature=3", "--device=cuda:99"], "The device 'cuda:99' is not there"),
        (["tree", "--feature=3", "--prompt=What?"], "has no placeholder"),
        (["tree", "--vector=1,2"], "The vector has 2 numbers; the model's embeddings have 48"),
        (["lens", "--feature=24"], "There is no feature 24"),
    ],
)
def test_what_the_subject_has_not_is_said_and_ends_with_1(
    disk: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    given = on(disk) if not any("--device" in w for w in words) else on(disk)[:4]
    assert main([words[0], *given, *words[1:]]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(message, said(err)[-1])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--release", "gemma-2b-res-jb", "--layer", "7"],
            "Give --sae-id, one of 'blocks.0.hook_resid_post'",
        ),
        (["--release", "gemma-2b-res-jb", "--layer", "7"], "; or --layer, one of 0, 6, 10, 12, 17"),
        (
            ["--release", "goodfire-llama-3.1-8b-instruct"],
            "If you trust who made it, pass --allow-pickle.",
        ),
        (
            ["--release", "gemma-2b-res-jb", "--layer", "12", "--model", "google/gemma-2b-it"],
            "descends from it, pass --other-model.",
        ),
    ],
)
def test_errors_name_flags_as_they_are_typed(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["tree", *words, "--feature", "3"]) == 1
    assert message in capsys.readouterr().err


def test_what_only_looks_like_an_option_in_an_error_stays_as_it_is() -> None:
    known = {"--device", "--dtype", "--strengths", "--second", "--scale", "--layer", "--weights"}

    def in_flags(message: str) -> str:
        return cli._in_flags(message, known)

    assert in_flags("The prompt 'x=1' has no placeholder.") == (
        "The prompt 'x=1' has no placeholder."
    )
    assert in_flags("feature is 3, prompt= too") == "feature is 3, prompt= too"  # no flags here
    assert in_flags("use device='cpu', dtype=\"bfloat16\"") == (
        "use --device cpu, --dtype bfloat16"
    )
    assert in_flags("give strengths=[0.5, 1.0], second=feature(17) or scale='auto'") == (
        "give --strengths 0.5,1.0, --second 17 or --scale auto"
    )
    assert in_flags("write 'steer 17 4 at=generated'") == "write 'steer 17 4 at=generated'"
    assert in_flags("against is 'layer=1', not 'weights=decoder'") == (
        "against is 'layer=1', not 'weights=decoder'"
    )


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


@contextlib.contextmanager
def interrupts_at(steps: set[int], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Press Ctrl-C at the given steps of a growth."""
    count = 0

    def press(_progress: Any) -> None:
        nonlocal count
        count += 1
        if count in steps:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(cli, "_display", lambda _title: contextlib.nullcontext(press))
    yield
    assert count >= max(steps)


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
    return bool(event._flag) and caller.co_filename == cli.__file__


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


# --- The report -----------------------------------------------------------------------------------


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
    monkeypatch.setattr(cli, "_wait", lambda explorer, _title: explorer.wait() and 0)
    words = [*on(disk), *flags(TREE), "--with=steering,dose"]
    with interrupts_at({2}, monkeypatch):
        assert main(["report", *words, "--html", str(page)]) == 130
    lines = said(capsys.readouterr().err)
    assert "steering: stopped before it was complete" in lines
    assert lines[-1] == f"wrote {page}"
    attached = attached_to(page)
    assert json.loads(attached["steering.json"])["status"] == "partial"
    assert "dose.json" not in attached


def attached_to(page: Path) -> dict[str, str]:
    """Return the files that a page carries."""
    found = re.findall(
        r'<script id="carried"[^>]*>(.*?)</script>', page.read_text("utf-8"), re.DOTALL
    )
    return attachments(json.loads(found[0]))


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


# --- The real command -----------------------------------------------------------------------------


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
