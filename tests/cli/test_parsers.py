"""Claims about what can be typed: the help says it all, and what is wrong is said in one line."""

from __future__ import annotations

import re
from importlib import metadata

import pytest

from cli.specimens import FORMATS, said
from sae_explorer.analyses import ANALYSES
from sae_explorer.cli import main
from sae_explorer.request import schema


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
