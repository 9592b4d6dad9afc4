"""Claims about loading: from the hub, from the cache, from folders, and from live objects."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import socket
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from sae_lens import SAE, StandardTrainingSAE, StandardTrainingSAEConfig
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from hub import SAE_PATHS, SAE_REPOSITORY, Hub, gemma_stand_in, serving
from sae_explorer import ExplorerError, Subject, grow_tree, rank_tokens
from sae_explorer.loading import folder, hub
from zoo import build_model, build_sae, build_tokenizer

FACTOR = 0.21381938399317255  # of the SAE at layer 12, in SAELens' registry
TREE: dict[str, Any] = {"feature": 3, "scale": 2.0, "cutoff": 2e-2, "max_depth": 3}


# --- From the hub ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stand-ins for Gemma-2B and its SAEs."""
    root = tmp_path_factory.mktemp("repositories")
    gemma_stand_in(root)
    return root


@dataclass
class Loads:
    """The same subject loaded three times, and what each asked of the hub."""

    subjects: dict[str, Subject]
    requests: dict[str, list[str]]
    waits: dict[str, float]
    cache: Path
    commit: str


@pytest.fixture(scope="module")
def loads(repositories: Path, tmp_path_factory: pytest.TempPathFactory) -> Loads:
    cache = tmp_path_factory.mktemp("cache")
    found = Loads({}, {}, {}, cache, "")
    with serving(repositories, cache) as running:
        found.commit = running.commit("google/gemma-2b")
        for when in ("cold", "warm", "offline"):
            if when == "offline":
                running.stop()
            running.requests.clear()
            running.waits.clear()
            found.subjects[when] = Subject.from_pretrained(
                "gemma-2b-res-jb", layer=12, device="cpu"
            )
            found.requests[when] = list(running.requests)
            found.waits[when] = sum(running.waits)
    return found


def test_a_release_loads_from_the_hub_and_answers(loads: Loads) -> None:
    subject = loads.subjects["cold"]
    assert subject.sae.sae_id == "blocks.12.hook_resid_post"
    assert subject.sae.layer == 12
    assert (subject.sae.width, subject.d_model) == (24, 48)
    assert subject.dtype == torch.float32
    assert not subject.model.training
    assert len(grow_tree(subject, **TREE)) > 5
    assert len(rank_tokens(subject, feature=3, limit=10)) == 10
    assert subject.default_scale == 3.8  # customary for Gemma-2B, known by its hub id


def test_provenance_names_release_sae_model_and_commit(loads: Loads) -> None:
    found = grow_tree(loads.subjects["cold"], **TREE).provenance
    assert found.model["id"] == "google/gemma-2b"
    assert found.model["revision"] == loads.commit
    assert found.model["architecture"] == "GemmaForCausalLM"
    assert found.model["dtype"] == "float32"
    assert found.model["device"] == "cpu"
    assert found.sae["release"] == "gemma-2b-res-jb"
    assert found.sae["id"] == "blocks.12.hook_resid_post"
    assert found.sae["hook_name"] == "blocks.12.hook_resid_post"
    assert found.sae["width"] == 24
    assert set(found.versions) == {"sae-explorer", "torch", "transformers", "sae-lens", "numpy"}
    assert "unknown" not in found.versions.values()


def test_a_second_load_downloads_nothing(loads: Loads) -> None:
    def downloads(when: str) -> list[str]:
        return [r for r in loads.requests[when] if r.startswith("GET") and " api " not in r]

    assert any(r.endswith("model.safetensors") for r in downloads("cold"))
    assert downloads("warm") == []


def test_the_cache_serves_without_the_hub(loads: Loads) -> None:
    assert loads.requests["offline"] == []
    assert loads.waits["offline"] == 0  # seconds between attempts to reach it
    cold, offline = (grow_tree(loads.subjects[w], **TREE).to_json() for w in ("cold", "offline"))
    assert offline == cold


def test_the_norm_scaling_factor_changes_no_direction(loads: Loads, repositories: Path) -> None:
    path = repositories / SAE_REPOSITORY / SAE_PATHS[12] / "sae_weights.safetensors"
    stored = load_file(path)
    sae = loads.subjects["cold"].sae
    # SAELens folds it into the weights: were it ignored, the activations would have other units.
    np.testing.assert_allclose(sae.encoder(3), FACTOR * stored["W_enc"][:, 3], rtol=1e-5)
    np.testing.assert_allclose(sae.decoder(3), stored["W_dec"][3] / FACTOR, rtol=1e-5)
    for weights, vector in (("encoder", stored["W_enc"][:, 3]), ("decoder", stored["W_dec"][3])):
        folded = grow_tree(loads.subjects["cold"], **TREE, weights=weights)
        plain = grow_tree(loads.subjects["cold"], **{**TREE, "feature": None, "vector": vector})
        np.testing.assert_allclose(folded.ghost_vector, plain.ghost_vector, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(folded.token_id, plain.token_id)


def test_a_live_model_is_used_and_not_loaded_again(loads: Loads, repositories: Path) -> None:
    live = loads.subjects["cold"].model
    with serving(repositories, loads.cache) as running:
        subject = Subject.from_pretrained(layer=6, model=live)
        assert not any("model.safetensors" in r for r in running.requests)
        assert any(SAE_PATHS[6] in r for r in running.requests)
    assert subject.model is live
    assert subject.sae.layer == 6
    assert len(grow_tree(subject, **TREE)) > 1


def test_a_model_of_ones_own_can_stand_in_for_the_releases(
    loads: Loads, repositories: Path, tmp_path: Path
) -> None:
    shutil.copytree(repositories / "google" / "gemma-2b", tmp_path / "tuned")
    with serving(repositories, loads.cache) as running:
        by_id = Subject.from_pretrained(layer=12, model="google/gemma-2b", device="cpu")
        running.requests.clear()
        by_folder = Subject.from_pretrained(layer=12, model=str(tmp_path / "tuned"), device="cpu")
        assert not any("google/gemma-2b" in r for r in running.requests)
    assert by_id.model_id == "google/gemma-2b"
    assert by_folder.model_id == "tuned"


@pytest.mark.parametrize(
    ("arrange", "message"),
    [
        ("gated", "The model google/gemma-2b cannot be loaded: it is gated. .*hf auth login"),
        ("no sae file", "The SAE blocks.12.hook_resid_post of gemma-2b-res-jb .*not on the hub"),
        ("no model", "The model google/gemma-2b cannot be loaded: there is no such repository"),
        ("damaged", "The model google/gemma-2b cannot be loaded: its weights are damaged"),
        ("down", "The SAE blocks.12.* cannot be loaded: the hub cannot be reached"),
        ("incomplete", r"hold no weights for 1 of its parameters, such as model\.layers\.5\."),
    ],
)
def test_what_the_hub_refuses_is_said_in_plain_words(
    repositories: Path, tmp_path: Path, arrange: str, message: str
) -> None:
    served = tmp_path / "served"
    shutil.copytree(repositories, served)
    weights = served / "google" / "gemma-2b" / "model.safetensors"
    with serving(served, tmp_path / "cache") as running:
        if arrange == "gated":
            running.gated.add("google/gemma-2b")
        elif arrange == "no sae file":
            (served / SAE_REPOSITORY / SAE_PATHS[12] / "sae_weights.safetensors").unlink()
        elif arrange == "no model":
            shutil.rmtree(served / "google")
        elif arrange == "damaged":
            weights.write_bytes(b"\xff" * weights.stat().st_size)
        elif arrange == "down":
            running.stop()
        elif arrange == "incomplete":
            held = load_file(weights)
            held.pop("model.layers.5.mlp.up_proj.weight")
            save_file(held, weights, {"format": "pt"})
        with pytest.raises(ExplorerError, match=message) as caught:
            Subject.from_pretrained(layer=12, device="cpu")
        assert running.waits == []
        assert not constants.HF_HUB_OFFLINE
    assert "\n" not in str(caught.value)


# --- Which SAE of a release is meant --------------------------------------------------------------


@pytest.mark.parametrize(
    ("release", "choice", "expected"),
    [
        ("gemma-2b-res-jb", {"layer": 12}, "blocks.12.hook_resid_post"),
        ("gemma-2b-res-jb", {"sae_id": "blocks.6.hook_resid_post"}, "blocks.6.hook_resid_post"),
        ("gpt2-small-res-jb", {"layer": 1}, "blocks.1.hook_resid_pre"),
        ("qwen-scope-3-1.7b-base-w32k-l50", {"layer": 2}, "layer2"),
        ("llama_scope_lxr_32x", {"layer": 7}, "l7r_32x"),
        ("gemma-scope-9b-it-res-canonical", {"layer": 9, "sae_id": None}, None),
    ],
)
def test_a_layer_or_an_id_finds_the_sae(
    release: str, choice: dict[str, Any], expected: str | None
) -> None:
    choose = partial(hub.choose_sae, release, **{"layer": None, "sae_id": None, **choice})
    if expected is None:  # two widths at this layer
        with pytest.raises(
            ExplorerError, match=r"has 2 SAEs at layer 9\. Give sae_id=, one of 'lay"
        ):
            choose()
    else:
        assert choose() == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"release": "gemma-2b-res-bj", "layer": 12},
            "no release .*Did you mean 'gemma-2b-res-jb'",
        ),
        (
            {"layer": 7},
            "gemma-2b-res-jb has no SAE at layer 7. Give sae_id=, one of 'blocks.0.hook",
        ),
        ({}, "gemma-2b-res-jb has 5 SAEs. Give sae_id=, one of"),
        ({"sae_id": "blocks.13.hook_resid_post"}, "no SAE 'blocks.13.*Did you mean 'blocks.1"),
        ({"sae_id": "blocks.6.hook_resid_post", "layer": 12}, "is not at layer 12; give layer= or"),
        ({"release": "gemma-scope-2b-pt-res", "layer": 5}, "SAEs at layer 5. .* more"),
        ({"layer": 12, "device": "cuda:99"}, "The device 'cuda:99' is not there. .* has: .*cpu"),
        ({"layer": 12, "dtype": "bf16"}, "dtype is 'bf16'; it must be one of float32, bfloat16"),
        ({"layer": 12, "model": 5}, "model is a int; it must be a hub id, a folder or a live"),
        ({"layer": 12, "model": build_model("gemma")}, "does not say where its tokenizer is"),
        (
            {"layer": 12, "model": build_model("gemma"), "device": "cpu"},
            "leave device and dtype out",
        ),
    ],
)
def test_a_choice_that_is_not_clear_is_refused_before_anything_is_downloaded(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with serving(tmp_path, tmp_path / "cache") as running:
        with pytest.raises(ExplorerError, match=message) as caught:
            Subject.from_pretrained(**arguments)
        assert running.requests == []
    assert "\n" not in str(caught.value)


def test_short_model_names_become_hub_ids() -> None:
    assert hub.hub_id("gemma-2b") == "google/gemma-2b"
    assert hub.hub_id("gpt2-small") in ("gpt2", "openai-community/gpt2")
    assert hub.hub_id("someone/model") == "someone/model"


# --- From folders ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, two SAEs of it, and things that are neither."""
    root = tmp_path_factory.mktemp("disk")
    build_model("llama").save_pretrained(root / "model")
    build_tokenizer().save_pretrained(root / "model")
    build_sae(48, layer=1).save_model(root / "first")
    build_sae(48, layer=2, seed=1).save_model(root / "second")
    (root / "empty").mkdir()
    return root


def live_subject() -> Subject:
    return Subject(build_model("llama"), build_tokenizer(), build_sae(48))


def test_folders_give_what_was_saved_and_touch_no_network(disk: Path, tmp_path: Path) -> None:
    with serving(tmp_path, tmp_path / "cache") as running:
        subject = Subject.from_folder(disk / "model", [disk / "first"], device="cpu")
        assert running.requests == []
    live = live_subject()
    for ours, theirs in zip(subject.model.parameters(), live.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(subject.sae.sae.W_dec, live.sae.sae.W_dec)
    assert subject.tokenizer.get_vocab() == live.tokenizer.get_vocab()
    first, second = (grow_tree(s, **TREE) for s in (subject, live))
    np.testing.assert_array_equal(first.token_id, second.token_id)
    # Where a tensor lies in memory decides the order of the sums on some processors.
    np.testing.assert_allclose(first.probability, second.probability, rtol=1e-5)


def test_an_sae_saved_after_training_loads(disk: Path, tmp_path: Path) -> None:
    trained = StandardTrainingSAE(StandardTrainingSAEConfig(d_in=48, d_sae=24))
    trained.cfg.metadata.hook_name = "blocks.1.hook_resid_post"
    trained.save_inference_model(tmp_path / "trained")
    subject = Subject.from_folder(disk / "model", tmp_path / "trained", device="cpu")
    assert subject.sae.sae_id == "trained"
    assert torch.equal(subject.sae.sae.W_dec, trained.W_dec)


def test_provenance_of_a_folder_holds_its_name_and_nothing_of_its_path(
    disk: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = tmp_path / "home-of-somebody"
    shutil.copytree(disk, home)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    subjects = [
        Subject.from_folder("model", "first", device="cpu"),
        Subject.from_folder("~/model", ["~/first"], device="cpu"),
        Subject.from_folder(f"{home}/empty/../model/", "./first/", device="cpu"),
    ]
    monkeypatch.chdir(tmp_path)  # the folder is still one when the process has gone elsewhere
    texts = {grow_tree(subject, **TREE).to_json() for subject in subjects}
    assert len(texts) == 1
    (text,) = texts
    provenance = json.loads(text)["provenance"]
    assert provenance["model"]["id"] == "model"
    assert provenance["model"]["revision"] == ""
    assert provenance["sae"]["id"] == "first"
    assert provenance["sae"]["release"] == ""
    for private in (str(tmp_path), "somebody", os.sep + "model", socket.gethostname()):
        assert private not in text
    if len(getpass.getuser()) > 4:  # "root" is part of many a word
        assert getpass.getuser() not in json.dumps(provenance)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", torch.bfloat16])
def test_half_precision_loads_and_compares_in_full(disk: Path, dtype: Any) -> None:
    subject = Subject.from_folder(disk / "model", disk / "first", device="cpu", dtype=dtype)
    tree = grow_tree(subject, **TREE)
    assert subject.dtype in (torch.bfloat16, torch.float16)
    assert tree.provenance.model["dtype"] == str(dtype).removeprefix("torch.")
    assert tree.ghost_vector.dtype == np.float32
    exact = grow_tree(live_subject(), **TREE)
    assert tree.token_id[1] == exact.token_id[1]
    assert tree.probability[1] == pytest.approx(exact.probability[1], rel=0.1)


def test_one_of_several_saes_is_selected(disk: Path) -> None:
    subject = Subject.from_folder(disk / "model", [disk / "first", disk / "second"], device="cpu")
    assert [s.layer for s in subject.saes] == [1, 2]
    assert subject.sae.sae_id == "first"
    second = subject.select(layer=2)
    assert second.sae.sae_id == "second"
    assert second.model is subject.model
    assert second.lock is subject.lock
    assert subject.sae.sae_id == "first"  # a new subject; the old one stays as it was
    assert second.select(sae_id="first").sae.layer == 1
    assert grow_tree(second, **TREE).provenance.sae["id"] == "second"
    assert grow_tree(second, **TREE).hash != grow_tree(subject, **TREE).hash
    with pytest.raises(
        ExplorerError, match=r"no SAE at layer 5. It has: first \(layer 1\), second"
    ):
        subject.select(layer=5)
    with pytest.raises(ExplorerError, match="no SAE 'first' at layer 2"):
        subject.select(sae_id="first", layer=2)
    with pytest.raises(ExplorerError, match=r"several SAEs\. It has"):
        subject.select()
    twins = Subject.from_folder(disk / "model", [disk / "first"] * 2, device="cpu")
    with pytest.raises(ExplorerError, match="several SAEs at layer 1"):
        twins.select(layer=1)


@pytest.mark.parametrize(
    ("model", "saes", "options", "message"),
    [
        ("none", ["first"], {}, "There is no folder .*none"),
        ("model", ["none"], {}, "There is no folder .*none"),
        ("model/config.json", [], {}, "There is no folder .*config.json"),
        ("empty", [], {}, "holds no config.json, so it is no model written by save_pretrained"),
        ("model", ["empty"], {}, "holds no cfg.json, so it is no SAELens SAE"),
        ("first", [], {}, "holds no config.json"),
        ("model", ["model"], {}, "holds no cfg.json"),
        ("model", ["no weights"], {}, "The SAE in .* cannot be loaded: .*sae_weights"),
        ("model", ["bad config"], {}, "The SAE in .* cannot be loaded: "),
        ("model", ["damaged sae"], {}, "The SAE in .* cannot be loaded: its weights are damaged"),
        ("no tokenizer", [], {}, "The model .* cannot be loaded: "),
        ("no weights", [], {}, "The model .* cannot be loaded: "),
        ("damaged", [], {}, "The model .* cannot be loaded: its weights are damaged"),
        ("incomplete", [], {}, "no weights for 1 of its parameters, such as model.layers.2.mlp"),
        ("unknown type", [], {}, "The model .* cannot be loaded: .*no_such_model"),
        ("model", [], {"device": "cuda:99"}, "'cuda:99' is not there. .* has: .*cpu"),
        ("model", [], {"device": "cpus"}, "'cpus' is not there. Did you mean 'cpu'"),
        ("model", [], {"dtype": "float8"}, "dtype is 'float8'; it must be one of .*Did you mean"),
        ("model", [], {"dtype": torch.int8}, "dtype is 'int8'; it must be one of float32"),
    ],
)
def test_wrong_folders_and_options_get_one_line(
    disk: Path, tmp_path: Path, model: str, saes: list[str], options: dict[str, Any], message: str
) -> None:
    root = tmp_path / "disk"
    shutil.copytree(disk, root)
    weights = "model.safetensors"
    for name in ("no tokenizer", "no weights", "damaged", "incomplete", "unknown type"):
        if name == model:
            shutil.copytree(root / "model", root / name)
    if model == "no tokenizer":
        for path in (root / model).glob("token*"):
            path.unlink()
    elif model == "no weights":
        (root / model / weights).unlink()
    elif model == "damaged":
        (root / model / weights).write_bytes(b"\xff" * 1000)
    elif model == "incomplete":
        held = load_file(root / model / weights)
        held.pop("model.layers.2.mlp.up_proj.weight")
        save_file(held, root / model / weights, {"format": "pt"})
    elif model == "unknown type":
        (root / model / "config.json").write_text('{"model_type": "no_such_model"}')
    for name in ("no weights", "bad config", "damaged sae"):
        if name in saes:
            shutil.copytree(root / "first", root / name)
    if "no weights" in saes:
        (root / "no weights" / "sae_weights.safetensors").unlink()
    if "bad config" in saes:
        (root / "bad config" / "cfg.json").write_text("{")
    if "damaged sae" in saes:
        (root / "damaged sae" / "sae_weights.safetensors").write_bytes(b"\xff" * 1000)
    with pytest.raises(ExplorerError, match=message) as caught:
        Subject.from_folder(root / model, [root / s for s in saes], **{"device": "cpu", **options})
    assert "\n" not in str(caught.value)


def test_the_best_device_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert folder.choose_device(None) == torch.device("cuda")
    assert folder.choose_device("cuda:1") == torch.device("cuda:1")
    assert folder.choose_device("cpu") == torch.device("cpu")
    with pytest.raises(ExplorerError, match="has: cuda, cuda:0, cuda:1, cpu"):
        folder.choose_device("cuda:2")
    assert folder.choose_dtype(None, torch.device("cuda")) is None
    assert folder.choose_dtype(None, torch.device("cpu")) == torch.float32


# --- Live objects ---------------------------------------------------------------------------------


def test_live_objects_are_used_as_they_are() -> None:
    model, tokenizer, sae = build_model("llama"), build_tokenizer(), build_sae(48)
    subject = Subject(model, tokenizer, sae)
    assert subject.model is model
    assert subject.tokenizer is tokenizer
    assert subject.sae.sae is sae
    assert subject.embedding_weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    assert subject.sae.sae_id == "blocks.1.hook_resid_post"
    assert subject.model_id == "LlamaForCausalLM"  # built here: neither a hub id nor a folder
    assert Subject(model, tokenizer, sae).lock is subject.lock


def test_several_live_saes_go_with_one_model() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    first, second = build_sae(48, layer=0), build_sae(48, layer=2)
    named = Subject(model, tokenizer, {"early": first, "late": second})
    assert [s.sae_id for s in named.saes] == ["early", "late"]
    assert named.select(layer=2).sae.sae is second
    listed = Subject(model, tokenizer, [first, second])
    assert listed.select(layer=2).sae.sae is second
    assert Subject(model, tokenizer, [*named.saes]).saes == named.saes


def test_a_live_model_of_a_folder_is_known_by_its_name(disk: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(disk / "model")
    tokenizer = AutoTokenizer.from_pretrained(disk / "model")
    sae = SAE.load_from_disk(disk / "first")
    subject = Subject(model, tokenizer, sae)
    assert subject.model_id == "model"
    assert str(disk) not in repr(subject) + grow_tree(subject, **TREE).to_json()


def test_what_is_no_model_or_no_tokenizer_is_refused() -> None:
    model, tokenizer, sae = build_model("llama"), build_tokenizer(), build_sae(48)
    with pytest.raises(ExplorerError, match="The model is a Linear; a Hugging Face causal"):
        Subject(torch.nn.Linear(2, 2), tokenizer, sae)  # type: ignore[arg-type]
    with pytest.raises(ExplorerError, match="The tokenizer is a StandardSAE; a Hugging Face tok"):
        Subject(model, sae, tokenizer)  # type: ignore[arg-type]
    with pytest.raises(ExplorerError, match="The tokenizer is a NoneType"):
        Subject(model, None)  # type: ignore[arg-type]


def test_the_stand_in_hub_speaks_the_protocol(repositories: Path, tmp_path: Path) -> None:
    from huggingface_hub import HfApi, hf_hub_url
    from huggingface_hub.utils import get_session

    with serving(repositories, tmp_path) as running:
        assert isinstance(running, Hub)
        address = hf_hub_url("google/gemma-2b", "config.json")
        assert address.startswith("http://127.0.0.1:")
        whole = get_session().get(address).content
        part = get_session().get(address, headers={"Range": "bytes=2-11"})
        assert (part.status_code, part.content) == (206, whole[2:12])
        assert HfApi().model_info("google/gemma-2b").sha == running.commit("google/gemma-2b")
        assert "config.json" in HfApi().list_repo_files("google/gemma-2b")
