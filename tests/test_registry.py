"""Claims about the registry: what it knows of every SAE without a download, and how fast."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import pty
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
import yaml
from sae_lens.loading import pretrained_sae_loaders as loaders
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
from transformer_lens.loading_from_pretrained import get_official_model_name

import sae_explorer
from sae_explorer import ExplorerError
from sae_explorer.cli import main
from sae_explorer.loading import registry
from sae_explorer.loading.registry import Entry, choose, entries, hub_id, releases

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAVY = {"torch", "transformers", "sae_lens", "transformer_lens", "pandas", "numpy", "networkx"}

#: Conversions whose loader knows hook point, model and width without a download.
STATIC = ("deepseek_r1", "gemma_2", "gemma_2_transcoder", "goodfire", "qwen_scope")


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder that is no user's, empty at first."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "user_cache_dir", lambda *_, **__: str(folder))
        patch.setenv("XDG_CACHE_HOME", str(folder))
        registry._index.cache_clear()
        yield folder
    registry._index.cache_clear()


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder, and nothing in memory."""
    monkeypatch.setattr(registry, "user_cache_dir", lambda *_, **__: str(tmp_path / "cache"))
    registry._index.cache_clear()
    yield tmp_path / "cache"
    registry._index.cache_clear()


def of_conversion(*names: str) -> list[Entry]:
    return [entry for entry in entries() if entry.conversion in names]


# --- What the table says --------------------------------------------------------------------------


def test_every_sae_of_the_table_is_there_under_its_name_and_path() -> None:
    directory = get_pretrained_saes_directory()
    expected = [
        (release, sae_id, content.repo_id, str(path), content.conversion_func or "sae_lens")
        for release, content in directory.items()
        for sae_id, path in content.saes_map.items()
    ]
    assert [(e.release, e.sae_id, e.repo_id, e.path, e.conversion) for e in entries()] == expected
    assert releases() == tuple(directory)
    assert len(releases()) >= 170
    assert len(expected) >= 13_857


def test_an_entry_that_holds_a_whole_release_by_a_slip_is_one_sae() -> None:
    found = entries("gpt2-small-res_scefr-ajt")
    assert [(e.layer, e.path) for e in found] == [
        (2, "2-res_scefr-ajt"),
        (6, "6-res_scefr-ajt"),
        (10, "10-res_scefr-ajt"),
    ]


def test_what_the_table_does_not_say_is_missing_not_zero() -> None:
    directory = get_pretrained_saes_directory()
    for entry in entries():
        content = directory[entry.release]
        table_l0 = content.expected_l0[entry.sae_id]
        if "average_l0_" in entry.path:
            assert entry.l0 == float(entry.path.partition("average_l0_")[2])
        else:
            assert entry.l0 == (table_l0 or None)
        explained = content.expected_var_explained[entry.sae_id]
        assert entry.variance_explained == (None if explained == 1.0 else explained)
        assert entry.neuronpedia_id == content.neuronpedia_id[entry.sae_id]
    assert Counter(entry.l0 is None for entry in entries())[True] > 1000


# --- What the names tell --------------------------------------------------------------------------


def expected_of(entry: Entry) -> dict[str, Any]:
    """What SAELens' loader says of an SAE whose configuration needs no download."""
    getter = loaders.NAMED_PRETRAINED_SAE_CONFIG_GETTERS[entry.conversion]
    return getter(entry.repo_id, entry.path, "cpu", False, None)


@pytest.mark.parametrize("conversion", STATIC)
def test_hook_points_widths_and_models_are_those_of_saelens_loader(conversion: str) -> None:
    found = of_conversion(conversion)
    assert found
    for entry in found:
        config = expected_of(entry)
        assert (
            entry.hook_name,
            entry.hook_name_out,
            entry.width,
            entry.model,
        ) == (
            config["hook_name"],
            config.get("hook_name_out"),
            config["d_sae"],
            hub_id(config["model_name"]),
        ), entry
        assert entry.hook_name == "hook_embed" or f"blocks.{entry.layer}." in entry.hook_name


#: How SAELens' inferred configuration for Gemma Scope 2 names modules, in TransformerLens' terms.
MODULES = {
    "output": "hook_resid_post",
    "self_attn.o_proj.input": "attn.hook_z",
    "post_feedforward_layernorm.output": "hook_mlp_out",
    "pre_feedforward_layernorm.output": "hook_mlp_in",
}


def test_hook_points_and_models_of_gemma_scope_2_are_those_of_saelens_loader() -> None:
    found = of_conversion("gemma_3")
    assert len(found) > 7000
    for entry in found:
        config = loaders._infer_gemma_3_raw_cfg_dict(entry.repo_id, entry.path)
        start = f"model.layers.{entry.layer}."
        reads, writes = (
            config.get(f"hf_hook_point_{side}", "").removeprefix(start) for side in ("in", "out")
        )
        assert entry.hook_name == f"blocks.{entry.layer}.{MODULES[reads]}", entry
        assert (entry.hook_name_out or "") == (
            writes and f"blocks.{entry.layer}.{MODULES[writes]}"
        ), entry
        name = config["model_name"]
        assert entry.model == (name.replace("-pt", "") if "270m" in name else name)
        assert f"width_{registry.short_width(entry.width or 0)}" in entry.path


@pytest.mark.parametrize(
    ("release", "sae_id", "hook_name", "hook_name_out", "width"),
    [
        ("gemma-2b-res-jb", "blocks.12.hook_resid_post", "blocks.12.hook_resid_post", None, 16384),
        (
            "gpt2-small-res-jb-feature-splitting",
            "blocks.8.hook_resid_pre_768",
            "blocks.8.hook_resid_pre",
            None,
            768,
        ),
        (
            "pythia-70m-deduped-res-sm",
            "blocks.0.hook_resid_pre",
            "blocks.0.hook_resid_pre",
            None,
            None,
        ),
        (
            "gpt2-small-attn-out-v5-128k",
            "blocks.3.hook_attn_out",
            "blocks.3.hook_attn_out",
            None,
            131072,
        ),
        (
            "gpt2-small-resid-mid-v5-32k",
            "blocks.3.hook_resid_mid",
            "blocks.3.hook_resid_mid",
            None,
            32768,
        ),
        ("gpt2-small-mlp-tm", "blocks.6.hook_mlp_out", "blocks.6.hook_mlp_out", None, 24576),
        ("gpt2-small-hook-z-kk", "blocks.5.hook_z", "blocks.5.attn.hook_z", None, 49152),
        (
            "gemma-2-2b-res-matryoshka-dc",
            "blocks.3.hook_resid_post",
            "blocks.3.hook_resid_post",
            None,
            32768,
        ),
        ("llama_scope_lxr_8x", "l7r_8x", "blocks.7.hook_resid_post", None, 32768),
        ("llama_scope_lxa_32x", "l7a_32x", "blocks.7.hook_attn_out", None, 131072),
        ("llama_scope_lxm_8x", "l7m_8x", "blocks.7.hook_mlp_out", None, 32768),
        (
            "llama_scope_r1_distill",
            "l16r_800m_openr1_math",
            "blocks.16.hook_resid_post",
            None,
            32768,
        ),
        (
            "gpt-oss-20b-andyrdt",
            "resid_post_layer_15_trainer_0",
            "blocks.15.hook_resid_post",
            None,
            None,
        ),
        (
            "sae_bench_gemma-2-2b_topk_width-2pow12_date-1109",
            "blocks.5.hook_resid_post__trainer_5_step_9765",
            "blocks.5.hook_resid_post",
            None,
            4096,
        ),
        (
            "mwhanna-qwen3-4b-transcoders",
            "layer_18",
            "blocks.18.mlp.hook_in",
            "blocks.18.hook_mlp_out",
            None,
        ),
        (
            "temporal-sae-llama-3.1-8b",
            "blocks.26.hook_resid_post",
            "blocks.26.hook_resid_post",
            None,
            None,
        ),
        # Only its own configuration says where it reads.
        ("mntss-gemma-2-2b-2.5m-clt-as-per-layer", "layer_13", None, None, None),
    ],
)
def test_ids_and_paths_tell_hook_point_and_width(
    release: str, sae_id: str, hook_name: str | None, hook_name_out: str | None, width: int | None
) -> None:
    entry = choose(release, sae_id=sae_id)
    assert (entry.hook_name, entry.hook_name_out, entry.width) == (hook_name, hook_name_out, width)


def test_all_but_a_few_dozen_have_a_hook_point_and_all_have_a_layer() -> None:
    assert all(entry.layer is not None for entry in entries())
    without = Counter(entry.conversion for entry in entries() if entry.hook_name is None)
    assert set(without) <= {"mntss_clt_layer_transcoder"}


def test_widths_are_those_of_the_ids_at_neuronpedia() -> None:
    checked, differing = 0, set()
    for entry in entries():
        tail = (entry.neuronpedia_id or "").partition("/")[2].partition("__")[0].split("-")[-1]
        if entry.width and tail[:-1].isdecimal() and tail.endswith(("k", "m")):
            checked += 1
            if registry.short_width(entry.width) != tail:
                differing.add((entry.release, entry.path))
    assert checked > 1000
    # A slip of the table: its id at Neuronpedia is that of an SAE of layer 20.
    assert differing <= {("gemma-scope-9b-pt-res", "layer_2/width_16k/average_l0_8")}


def test_pickled_are_those_that_saelens_reads_with_torch() -> None:
    for conversion, loader in loaders.NAMED_PRETRAINED_SAE_LOADERS.items():
        unpickles = "torch.load(" in inspect.getsource(loader)
        assert {entry.pickled for entry in of_conversion(conversion)} <= {unpickles}, conversion
    assert any(entry.pickled for entry in entries())


# --- Models ---------------------------------------------------------------------------------------


def test_models_are_hub_ids_as_transformer_lens_knows_them() -> None:
    for release, content in get_pretrained_saes_directory().items():
        (model,) = {entry.model for entry in entries(release)}
        known = content.model if "/" in content.model else get_official_model_name(content.model)
        if release != "gemma-scope-9b-it-res":
            assert model == known, release


@pytest.mark.parametrize(
    ("release", "model"),
    [
        # SAELens' table says gemma-2-9b of the first; the repository is of the other.
        ("gemma-scope-9b-it-res", "google/gemma-2-9b-it"),
        ("gemma-scope-9b-it-res-canonical", "google/gemma-2-9b-it"),
        ("gemma-scope-9b-pt-res", "google/gemma-2-9b"),
        # SAELens' loader says Llama-3.1-8B.
        ("llama_scope_r1_distill", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"),
        ("gemma-2b-res-jb", "google/gemma-2b"),
        ("mistral-7b-res-wg", "mistralai/Mistral-7B-v0.1"),
        ("mwhanna-qwen3-1.7b-transcoders-lowl0", "Qwen/Qwen3-1.7B"),
    ],
)
def test_a_release_is_of_the_model_it_was_trained_on(release: str, model: str) -> None:
    assert {entry.model for entry in entries(release)} == {model}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gemma-2-2b", "google/gemma-2-2b"),
        ("Gemma-2-2B", "google/gemma-2-2b"),
        ("gpt2-small", "gpt2"),
        ("pythia-70m-deduped", "EleutherAI/pythia-70m-deduped"),
        ("me/my-model", "me/my-model"),
        ("my-model", "my-model"),
    ],
)
def test_short_names_become_hub_ids(name: str, expected: str) -> None:
    assert hub_id(name) == expected


# --- Which SAE is meant ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("gemma-2b-res-jb", 12), "blocks.12.hook_resid_post"),
        (("Gemma-2B-res-JB", 12), "blocks.12.hook_resid_post"),
        (("gemma-2b-res-jb", None, "blocks.6.hook_resid_post"), "blocks.6.hook_resid_post"),
        (("gemma-2b-res-jb", 6, "blocks.6.hook_resid_post"), "blocks.6.hook_resid_post"),
        (("gpt2-small-res-jb", 1), "blocks.1.hook_resid_pre"),
        (("qwen-scope-3-1.7b-base-w32k-l50", 2), "layer2"),
        (("llama_scope_lxr_32x", 7), "l7r_32x"),
        (("llama-3.1-8b-instruct-andyrdt", 19), "resid_post_layer_19_trainer_1"),
        # The only one, whether or not its layer is given.
        (("goodfire-llama-3.1-8b-instruct",), "layer_19"),
        (("gemma-2b-it-res-jb", 12), "blocks.12.hook_resid_post"),
        # One of six is what the canonical edition of the release has at this layer.
        (("gemma-scope-27b-pt-res", 10), "layer_10/width_131k/average_l0_106"),
        (("gemma-scope-27b-pt-res-canonical", 10), "layer_10/width_131k/canonical"),
    ],
)
def test_a_layer_or_an_id_finds_the_sae(arguments: Any, expected: str) -> None:
    assert choose(*arguments).sae_id == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gemma-2b-res-bj", 12), "no release 'gemma-2b-res-bj'. Did you mean 'gemma-2b-res-jb'"),
        (("gemma-2b-res-jb", 7), "has no SAE at layer 7. Give sae_id=, one of 'blocks.0.hook"),
        (("gemma-2b-res-jb", 7), "; or layer=, one of 0, 6, 10, 12, 17."),
        (
            ("gemma-2b-res-jb",),
            "has 5 SAEs. Give sae_id=, one of 'blocks.0.*or layer=, one of 0, 6",
        ),
        (("gemma-scope-2b-pt-res",), "has 316 SAEs. .* 308 more; or layer=, one of 0-25."),
        (("gemma-2b-res-jb", None, "blocks.13.hook_resid_post"), "no SAE 'blocks.13.*Did you mean"),
        (("gemma-2b-res-jb", 12, "blocks.6.hook_resid_post"), "is not at layer 12; give layer= or"),
        # Several canonical ones, with what tells them apart.
        (
            ("gemma-scope-9b-it-res-canonical", 9),
            r"2 SAEs at layer 9. Give sae_id=, one of '.*16k/canonical' \(width 16k, L0 88\), '.*131k/c",
        ),
        # The canonical ones first.
        (
            ("gemma-scope-2b-pt-res", 5),
            r"16 SAEs at layer 5. .* one of '.*16k/average_l0_68' .*65k/average_l0_105' .* 8 more\.",
        ),
        (
            ("gpt2-small-res-jb-feature-splitting",),
            r"has 8 SAEs at layer 8. .*_768' \(width 768, L",
        ),
        (
            ("gpt2-small-res-jb", 11),
            r"has 2 SAEs at layer 11. .*resid_pre' \(L0 56\), 'bl.*resid_po",
        ),
    ],
)
def test_a_choice_that_is_not_clear_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ExplorerError, match=message) as caught:
        choose(*arguments)
    assert "\n" not in str(caught.value)


# --- The table ------------------------------------------------------------------------------------


def test_the_table_has_a_row_for_each_sae_and_what_is_unknown_is_missing() -> None:
    frame = sae_explorer.registry()
    assert list(frame.columns) == [
        *("release", "id", "model", "layer", "hook", "width", "l0"),
        *("variance_explained", "neuronpedia_id", "pickled"),
    ]
    assert len(frame) == len(entries())
    assert (str(frame.dtypes["layer"]), str(frame.dtypes["width"])) == ("Int64", "Int64")
    row = frame[(frame.release == "gemma-2b-res-jb") & (frame.layer == 12)].iloc[0]
    assert (row["id"], row["width"]) == ("blocks.12.hook_resid_post", 16384)
    assert row["neuronpedia_id"] == "gemma-2b/12-res-jb"
    assert not row["pickled"]
    assert all(frame[frame.release == "goodfire-llama-3.1-8b-instruct"].pickled)
    unknown = frame[frame.release == "mwhanna-qwen3-4b-transcoders"].iloc[0]
    assert unknown["width"] is pd.NA
    assert pd.isna(unknown["l0"])


@pytest.mark.parametrize(
    "name", ["gemma-2-2b", "google/gemma-2-2b", "GEMMA-2-2B", "Google/Gemma-2-2b"]
)
def test_a_model_is_found_by_any_of_its_names_and_no_other_is(name: str) -> None:
    assert set(sae_explorer.registry(model=name).model) == {"google/gemma-2-2b"}


@pytest.mark.parametrize("name", ["gpt2", "gpt2-small", "openai-community/gpt2"])
def test_gpt2_is_found_by_its_old_names_too(name: str) -> None:
    assert set(sae_explorer.registry(model=name).model) == {"gpt2"}


def test_filters_hold_together() -> None:
    frame = sae_explorer.registry("gemma-2-9b-it", layer=9, release="gemma-scope-9b-it-res")
    assert set(frame.model) == {"google/gemma-2-9b-it"}
    assert set(frame.layer) == {9}
    assert set(frame.release) == {"gemma-scope-9b-it-res"}


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"model": "gemma-2-2c"}, "no SAE of the model 'gemma-2-2c'. Did you mean 'gemma-2-2b'"),
        ({"release": "gemma-2b-res"}, "no release 'gemma-2b-res'. Did you mean 'gemma-2b-"),
        ({"layer": 99}, "no SAE at layer 99; there are some at layers 0-"),
        ({"model": "gemma-2-2b", "layer": 40}, "of gemma-2-2b at layer 40; .* at layers 0-25"),
        (
            {"model": "gemma-2-2b", "release": "gemma-2b-res-jb"},
            "gemma-2b-res-jb is of the model google/gemma-2b, not of gemma-2-2b",
        ),
    ],
)
def test_what_matches_nothing_is_refused(filters: dict[str, Any], message: str) -> None:
    with pytest.raises(ExplorerError, match=message) as caught:
        sae_explorer.registry(**filters)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("width", "name"),
    [
        *((768, "768"), (1536, "1,536"), (4096, "4k"), (16384, "16k"), (24576, "24k")),
        *((65536, "65k"), (81920, "80k"), (131072, "131k"), (1 << 20, "1m")),
    ],
)
def test_widths_are_named_as_releases_name_them(width: int, name: str) -> None:
    assert registry.short_width(width) == name


def test_layers_are_named_in_few_words() -> None:
    assert registry.spans([3, 1, 2, 5, 6, None, 9, 2]) == "1-3, 5, 6, 9"
    assert registry.spans([]) == ""


# --- The cache ------------------------------------------------------------------------------------


def test_the_table_is_parsed_once(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = entries("gemma-2b-res-jb")
    assert len(list(fresh.iterdir())) == 1
    registry._index.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(yaml, "load", lambda *_, **__: pytest.fail("the table was parsed again"))
        assert entries("gemma-2b-res-jb") == first
        assert len(entries()) >= 13_857


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 100, b"{}", b'["not", "ours"]\n', "half", "altered"],
)
def test_a_cache_that_is_not_as_it_was_written_is_built_anew(
    fresh: Path, content: bytes | str
) -> None:
    first = entries("gemma-2b-res-jb")
    (cache,) = fresh.iterdir()
    written = cache.read_bytes()
    if content == "half":
        content = written[: len(written) // 2]
    elif content == "altered":
        content = written.replace(b"gemma-2b", b"gemma-2c")
    cache.write_bytes(content)
    registry._index.cache_clear()
    assert entries("gemma-2b-res-jb") == first
    assert cache.read_bytes() == written


def test_a_folder_that_cannot_be_written_only_costs_time(fresh: Path) -> None:
    fresh.write_text("a file where the folder should be")
    assert choose("gemma-2b-res-jb", 12).layer == 12
    assert fresh.read_text() == "a file where the folder should be"


def test_another_table_gets_another_index(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(releases()) >= 170
    table = tmp_path / "pretrained_saes.yaml"
    sae = {"id": "blocks.1.hook_resid_post", "path": 7}
    content = {"mine": {"repo_id": "me/saes", "model": "gpt2-small", "saes": [sae]}}
    table.write_text(yaml.safe_dump(content))
    monkeypatch.setattr(registry, "_file_of", lambda *_: table)
    registry._index.cache_clear()
    assert [(e.release, e.path, e.hook_name) for e in entries()] == [
        ("mine", "7", "blocks.1.hook_resid_post")
    ]
    assert len(list(fresh.iterdir())) == 2


# --- The command line -----------------------------------------------------------------------------


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a fresh interpreter, which reports the modules it loaded."""
    code = (
        "import sys\nfrom sae_explorer.cli import main\nstatus = main(sys.argv[1:])\n"
        "print(*sorted({n.partition('.')[0] for n in sys.modules}), file=sys.stderr)\n"
        "sys.exit(status)"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )


def test_the_list_is_there_at_once_and_loads_nothing_heavy() -> None:
    assert run("list", "--release", "gemma-2b-res-jb").returncode == 0  # from here on it is cached
    began = time.monotonic()
    done = run("list", "--model", "gemma-2-2b", "--layer", "12")
    assert time.monotonic() - began < 5
    assert done.returncode == 0
    assert not set(done.stderr.split()) & (HEAVY | {"yaml"})
    header, *lines = done.stdout.splitlines()
    assert header.split()[:4] == ["release", "id", "model", "layer"]
    found = registry.find("gemma-2-2b", 12)
    assert sorted(line.split()[:4] for line in lines) == sorted(
        [entry.release, entry.sae_id, "google/gemma-2-2b", "12"] for entry in found
    )


def test_the_machinery_of_the_table_loads_nothing_heavy() -> None:
    code = (
        "import sys, sae_explorer; sae_explorer.registry\n"
        "from sae_explorer.loading import registry\n"
        "registry.entries(); registry._parse(registry._file_of('sae_lens', 'pretrained_saes.yaml'))\n"
        "print(*sorted({n.partition('.')[0] for n in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & HEAVY


def test_without_a_release_or_a_layer_a_line_is_a_release(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["list", "--model", "Gemma-2-9B-it"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["release", "model", "SAEs", "layers", "hooks", "widths"]
    model, tail = "google/gemma-2-9b-it", ["9,", "20,", "31", "hook_resid_post", "16k,", "131k"]
    assert [line.split() for line in lines] == [
        ["gemma-scope-9b-it-res", model, "30", *tail],
        ["gemma-scope-9b-it-res-canonical", model, "6", *tail],
    ]


def test_a_narrow_terminal_cuts_no_id_and_says_once_what_all_lines_share() -> None:
    control, terminal = pty.openpty()
    command = [sys.executable, "-m", "sae_explorer.cli", "list", "--release", "gemma-2b-res-jb"]
    shown = b""
    with subprocess.Popen(command, stdout=terminal, env=os.environ | {"COLUMNS": "60"}) as process:
        os.close(terminal)
        with contextlib.suppress(OSError):  # the other end is closed
            while part := os.read(control, 4096):
                shown += part
    os.close(control)
    assert process.returncode == 0
    first, *lines = shown.decode().splitlines()
    assert first == "release gemma-2b-res-jb; model google/gemma-2b; width 16384"
    ids = [entry.sae_id for entry in entries("gemma-2b-res-jb")]
    assert [line.split()[0] for line in lines] == ["id", *ids]


def test_every_release_has_a_line_with_its_whole_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    _header, *lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} == set(releases())
    assert len(lines) == len(releases())


def test_lines_are_in_order_of_model_and_layer_with_numbers_as_numbers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["list", "--json"]) == 0
    listed = [(row["model"], row["layer"]) for row in json.loads(capsys.readouterr().out)]
    models = list(dict.fromkeys(model for model, _layer in listed))
    assert len(models) == len({entry.model for entry in entries()})  # each in one piece
    assert models.index("google/gemma-2-9b") < models.index("google/gemma-2-27b")
    assert models == sorted(models, key=lambda name: name.split("/")[0].lower())
    for model in models:
        layers = [layer or 0 for name, layer in listed if name == model]
        assert layers == sorted(layers)


def test_json_lists_the_saes_as_the_table_has_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--release", "gemma-2b-res-jb", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed[3] == {
        "release": "gemma-2b-res-jb",
        "id": "blocks.12.hook_resid_post",
        "model": "google/gemma-2b",
        "layer": 12,
        "hook": "blocks.12.hook_resid_post",
        "width": 16384,
        "l0": 62.0,
        "variance_explained": -0.65,
        "neuronpedia_id": "gemma-2b/12-res-jb",
        "pickled": False,
    }
    assert main(["list", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(entries())


def test_a_list_of_nothing_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--model", "gemma-2-2b", "--layer", "40"]) == 1
    out, error = capsys.readouterr()
    assert out == ""
    assert "no SAE of gemma-2-2b at layer 40; there are some at layers 0-25." in error


def test_a_reader_that_stops_early_is_no_error() -> None:
    command = [sys.executable, "-m", "sae_explorer.cli", "list", "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ.copy()
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=60) == 0
        assert process.stderr.read() == b""
