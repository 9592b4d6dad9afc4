"""Claims about the list command on the bundled model; those on the registry are in test_registry.py."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from cli.specimens import said
from sae_explorer import Subject
from sae_explorer.cli import main

if TYPE_CHECKING:
    from typing import Any


def listed(*words: str) -> tuple[list[dict[str, Any]], set[str]]:
    """Return what a fresh interpreter lists as JSON, and the modules it loaded for that."""
    code = (
        "import sys\nfrom sae_explorer.cli import main\nassert main(sys.argv[1:]) == 0\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, "list", "--demo", "--json", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout), set(done.stderr.split())


def test_the_bundled_saes_are_listed_as_they_are_without_loading_them() -> None:
    rows, modules = listed()
    assert not modules & {"torch", "transformers", "numpy"}
    subject = Subject.demo()
    assert [(row["id"], row["layer"], row["hook"], row["width"]) for row in rows] == [
        (sae.sae_id, sae.layer, sae.hook_name, sae.width) for sae in subject.saes
    ]
    assert listed("--layer=3")[0] == rows[1:]


def test_the_bundled_saes_are_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--demo"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split()[:5] == ["id", "model", "layer", "hook", "width"]
    assert [line.split()[:3:2] for line in lines] == [["sae_layer_1", "1"], ["sae_layer_3", "3"]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model=gemma-2b"], "--demo goes without --model; leave one out."),
        (["--release=gemma-2b-res-jb"], "--demo goes without --release; leave one out."),
        (
            ["--layer=2"],
            "The bundled model has no SAE at layer 2; there are some at layers 1, 3.",
        ),
    ],
)
def test_what_the_bundled_model_has_not_is_one_line(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["list", "--demo", *words]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert said(err) == [message]
