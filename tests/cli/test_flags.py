"""Claims about flags: they are the options of Python, their values arrive, and messages name them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from cli.specimens import SPECIMENS, flags, on
from sae_explorer import Ablate, Clamp, Steer
from sae_explorer.analyses import ANALYSES
from sae_explorer.cli import main
from sae_explorer.cli.flags import in_flags
from sae_explorer.cli.parsers import analysis_parser
from sae_explorer.request import plain, schema

if TYPE_CHECKING:
    from pathlib import Path


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
    known = {a.dest: a.option_strings for a in analysis_parser(name)._actions}
    for option in schema(ANALYSES[name].load()[0]):
        assert known[option["name"]][0] == f"--{option['name'].replace('_', '-')}"


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

    def said(message: str) -> str:
        return in_flags(message, known)

    assert said("The prompt 'x=1' has no placeholder.") == ("The prompt 'x=1' has no placeholder.")
    assert said("feature is 3, prompt= too") == "feature is 3, prompt= too"  # no flags here
    assert said("use device='cpu', dtype=\"bfloat16\"") == ("use --device cpu, --dtype bfloat16")
    assert said("give strengths=[0.5, 1.0], second=feature(17) or scale='auto'") == (
        "give --strengths 0.5,1.0, --second 17 or --scale auto"
    )
    assert said("write 'steer 17 4 at=generated'") == "write 'steer 17 4 at=generated'"
    assert said("against is 'layer=1', not 'weights=decoder'") == (
        "against is 'layer=1', not 'weights=decoder'"
    )
