"""Claims about the commands of the analyses: they give what Python gives, and refuse what it refuses."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from cli.specimens import FORMATS, FUNCTIONS, SPECIMENS, flags, on, said
from sae_explorer.analyses import ANALYSES
from sae_explorer.cli import main

if TYPE_CHECKING:
    from pathlib import Path

    from sae_explorer import Subject


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
