"""Claims about loading: from the hub, from the cache, from folders, and from live objects."""

from __future__ import annotations

import getpass
import json
import logging
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
from sae_explorer import ExplorerError, Subject, grow_tree, logit_lens, rank_tokens
from sae_explorer.loading import folder, hub, registry
from sae_explorer.studied_sae import fingerprint
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
    said: dict[str, list[str]]
    cache: Path
    commit: str


@pytest.fixture(scope="module")
def loads(repositories: Path, tmp_path_factory: pytest.TempPathFactory) -> Loads:
    cache = tmp_path_factory.mktemp("cache")
    found = Loads({}, {}, {}, {}, cache, "")
    handler = logging.Handler()
    logger = logging.getLogger("huggingface_hub")
    logger.addHandler(handler)
    with serving(repositories, cache) as running:
        found.commit = running.commit("google/gemma-2b")
        for when in ("cold", "warm", "offline"):
            if when == "offline":
                running.stop()
            running.requests.clear()
            running.waits.clear()
            said = found.said[when] = list[str]()
            handler.emit = lambda record, said=said: said.append(record.getMessage())  # type: ignore[method-assign]
            found.subjects[when] = Subject.from_pretrained(
                "gemma-2b-res-jb", layer=12, device="cpu"
            )
            found.requests[when] = list(running.requests)
            found.waits[when] = sum(running.waits)
    logger.removeHandler(handler)
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
    assert loads.said["offline"] == []  # warnings that the hub cannot be reached
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
        ("down", "The model google/gemma-2b cannot be loaded: the hub cannot be reached"),
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


def test_several_saes_of_a_release_share_one_model(loads: Loads, repositories: Path) -> None:
    with serving(repositories, loads.cache):
        subject = Subject.from_pretrained(layers=[12, 6, 12], device="cpu")
    assert [sae.layer for sae in subject.saes] == [12, 6]
    assert subject.sae.layer == 12
    assert subject.select(layer=6).model is subject.model
    assert grow_tree(subject.select(layer=6), **TREE).provenance.sae["id"] == (
        "blocks.6.hook_resid_post"
    )


def test_several_ids_load_several_saes(loads: Loads, repositories: Path) -> None:
    ids = ["blocks.12.hook_resid_post", "blocks.6.hook_resid_post"]
    with serving(repositories, loads.cache):
        subject = Subject.from_pretrained(sae_id=ids, device="cpu")
    assert [sae.sae_id for sae in subject.saes] == ids
    assert repr(subject).count("not selected: blocks.6.hook_resid_post") == 1


def test_a_live_model_from_nowhere_takes_its_tokenizer_along(
    loads: Loads, repositories: Path
) -> None:
    live, tokenizer = build_model("gemma", layers=13), build_tokenizer()
    with serving(repositories, loads.cache):
        subject = Subject.from_pretrained(layer=12, model=live, tokenizer=tokenizer)
    assert subject.model is live
    assert subject.tokenizer is tokenizer


def test_one_more_sae_joins_a_subject(loads: Loads, repositories: Path) -> None:
    subject, told = loads.subjects["cold"], list[str]()
    with serving(repositories, loads.cache) as running:
        more = hub.add_sae(
            subject,
            "gemma-2b-res-jb",
            "blocks.6.hook_resid_post",
            tell=lambda text, _progress: told.append(text),
        )
        assert not any("google/gemma-2b" in r for r in running.requests)
    assert more.model is subject.model
    assert [sae.layer for sae in more.saes] == [12, 6]
    assert more.sae.layer == 6
    assert len(subject.saes) == 1  # as it was
    assert told[-1] == "reading blocks.6.hook_resid_post"


def test_a_revision_is_fetched_and_cited(loads: Loads, repositories: Path) -> None:
    with serving(repositories, loads.cache):
        subject = Subject.from_pretrained(layer=12, device="cpu", revision=loads.commit)
        with pytest.raises(
            ExplorerError, match=r"google/gemma-2b at 'v9' cannot be .*no such revision"
        ):
            Subject.from_pretrained(layer=12, device="cpu", revision="v9")
    assert grow_tree(subject, **TREE).provenance.model["revision"] == loads.commit


def test_local_files_only_asks_nothing_of_the_hub(loads: Loads, repositories: Path) -> None:
    with serving(repositories, loads.cache) as running:
        subject = Subject.from_pretrained(layer=12, device="cpu", local_files_only=True)
        assert subject.model_id == "google/gemma-2b"
        with pytest.raises(ExplorerError, match="local_files_only"):
            Subject.from_pretrained(layer=0, device="cpu", local_files_only=True)
        assert running.requests == []


def test_options_of_transformers_are_passed_on(loads: Loads, repositories: Path) -> None:
    with serving(repositories, loads.cache):
        subject = Subject.from_pretrained(layer=12, device="cpu", attn_implementation="eager")
    assert grow_tree(subject, **TREE).provenance.model["attention"] == "eager"


def test_files_kept_elsewhere_than_usual_are_found(
    repositories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A stray pickle in the working directory is none of the model's.
    (tmp_path / "stray.bin").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    with serving(repositories, tmp_path / "cache") as running:
        for allow_pickle in (False, True):
            subject = Subject.from_pretrained(
                layer=12, device="cpu", cache_dir=tmp_path / "mine", allow_pickle=allow_pickle
            )
        commit = running.commit("google/gemma-2b")
    assert grow_tree(subject, **TREE).provenance.model["revision"] == commit


def test_a_model_spreads_over_gpus_only_where_one_is_too_small(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = disk / "model"
    size = (model / "model.safetensors").stat().st_size
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    spread = partial(folder._spread_if_large, model, torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (2 * size, 2 * size))
    assert spread(None) == spread(torch.bfloat16) == torch.device("cuda")
    assert spread(torch.float64) == "auto"  # twice the size of the file
    assert folder._spread_if_large(model, torch.device("cuda:1"), torch.float64) != "auto"
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (size, size))
    assert spread(None) == "auto"
    assert spread(torch.bfloat16) == torch.device("cuda")


def test_another_model_than_the_saes_is_refused_unless_it_is_meant(
    repositories: Path, tmp_path: Path
) -> None:
    served = tmp_path / "served"
    shutil.copytree(repositories, served)
    shutil.copytree(served / "google" / "gemma-2b", served / "google" / "gemma-2b-it")
    with serving(served, tmp_path / "cache") as running:
        load = partial(Subject.from_pretrained, layer=12, model="google/gemma-2b-it", device="cpu")
        with pytest.raises(
            ExplorerError,
            match=r"was trained on google/gemma-2b, not on google/gemma-2b-it. .*other_model=True",
        ):
            load()
        assert running.requests == []  # before anything is downloaded
        subject = load(other_model=True)
        assert (
            hub.add_sae(subject, "gemma-2b-res-jb", "blocks.6.hook_resid_post").model_id
            == "google/gemma-2b-it"
        )


# --- Other kinds of SAEs and models ---------------------------------------------------------------


def gemma_scope_2_stand_in(root: Path) -> None:
    """Write a tiny Gemma 3 and one SAE of each kind that Gemma Scope 2 has, as they are stored."""
    model = build_model("gemma3")
    model.save_pretrained(root / "google" / "gemma-3-270m")
    build_tokenizer().save_pretrained(root / "google" / "gemma-3-270m")
    d_model, heads = 48, 64  # 4 heads of 16
    block = "model.layers.3."
    for kind, reads, writes, width in (
        ("resid_post_all", block + "output", None, d_model),
        ("attn_out_all", block + "self_attn.o_proj.input", None, heads),
        ("mlp_out_all", block + "post_feedforward_layernorm.output", None, d_model),
        (
            "transcoder_all",
            block + "pre_feedforward_layernorm.output",
            block + "post_feedforward_layernorm.output",
            d_model,
        ),
    ):
        place = root / "google" / "gemma-scope-2-270m-pt" / kind / "layer_3_width_16k_l0_small"
        place.mkdir(parents=True)
        config = {
            "architecture": "jump_relu",
            "model_name": "gemma-v3-270m-pt",
            "hf_hook_point_in": reads,
            "hf_hook_point_out": writes,
        }
        (place / "config.json").write_text(json.dumps(config))
        sae = build_sae(width, seed=3)
        weights = {
            "w_enc": sae.W_enc,
            "w_dec": sae.W_dec,
            "b_enc": sae.b_enc,
            "b_dec": sae.b_dec,
            "threshold": torch.zeros(24),
        }
        save_file({k: v.detach().clone() for k, v in weights.items()}, place / "params.safetensors")


@pytest.mark.parametrize(
    ("kind", "hook_name", "architecture"),
    [
        ("res", "blocks.3.hook_resid_post", "jumprelu"),
        ("att", "blocks.3.attn.hook_z", "jumprelu"),
        ("mlp", "blocks.3.hook_mlp_out", "jumprelu"),
        ("transcoders", "blocks.3.hook_mlp_in", "jumprelu_transcoder"),
    ],
)
def test_every_kind_of_gemma_scope_2_loads_and_answers_also_offline(
    tmp_path: Path, kind: str, hook_name: str, architecture: str
) -> None:
    gemma_scope_2_stand_in(tmp_path / "served")
    with serving(tmp_path / "served", tmp_path / "cache") as running:
        load = partial(
            Subject.from_pretrained,
            f"gemma-scope-2-270m-pt-{kind}-all",
            sae_id="layer_3_width_16k_l0_small",
            device="cpu",
        )
        subject = load()
        running.stop()
        again = load()
    assert subject.model_id == "google/gemma-3-270m"
    assert (subject.sae.hook_name, subject.sae.layer) == (hook_name, 3)
    assert subject.sae.sae.cfg.architecture() == architecture
    for weights in ("encoder", "decoder"):
        assert subject.direction(3, weights).shape == (48,)
        tree = grow_tree(subject, **TREE, weights=weights)
        assert len(tree) > 1
        assert grow_tree(again, **TREE, weights=weights).to_json() == tree.to_json()
        # Whatever is asked of the feature is asked of its direction in the residual stream.
        direction = subject.direction(3, weights)
        lens, same = (
            logit_lens(subject, **of)
            for of in ({"feature": 3, "weights": weights}, {"vector": direction})
        )
        assert (
            lens.to_frame()
            .drop(columns="feature", errors="ignore")
            .equals(same.to_frame().drop(columns="feature", errors="ignore"))
        )
        ranked = rank_tokens(subject, feature=3, weights=weights, limit=10)
        same_ranked = rank_tokens(subject, vector=direction, limit=10)
        np.testing.assert_array_equal(ranked.token_id, same_ranked.token_id)


def test_a_direction_of_heads_is_mapped_through_the_output_projection(tmp_path: Path) -> None:
    gemma_scope_2_stand_in(tmp_path / "served")
    with serving(tmp_path / "served", tmp_path / "cache"):
        subject = Subject.from_pretrained(
            "gemma-scope-2-270m-pt-att-all", sae_id="layer_3_width_16k_l0_small", device="cpu"
        )
    layer: Any = subject.model.get_decoder().layers[3]
    through = layer.self_attn.o_proj.weight @ torch.tensor(subject.sae.decoder(3))
    expected = (1 + layer.post_attention_layernorm.weight) * through
    np.testing.assert_allclose(
        subject.direction(3, "decoder"), expected.detach(), rtol=1e-4, atol=1e-6
    )


def llama_stand_in(root: Path) -> None:
    """Write a tiny Llama and an SAE of it in a pickle file, as dictionary_learning stores it."""
    build_model("llama", layers=5).save_pretrained(root / "meta-llama" / "Llama-3.1-8B-Instruct")
    build_tokenizer().save_pretrained(root / "meta-llama" / "Llama-3.1-8B-Instruct")
    place = root / "andyrdt" / "saes-llama-3.1-8b-instruct" / "resid_post_layer_3" / "trainer_1"
    place.mkdir(parents=True)
    trainer = {
        "layer": 3,
        "dict_class": "BatchTopKSAE",
        "activation_dim": 48,
        "dict_size": 24,
        "k": 5,
        "lm_name": "meta-llama/Llama-3.1-8B-Instruct",
    }
    config = {"trainer": trainer, "buffer": {"ctx_len": 128}}
    (place / "config.json").write_text(json.dumps(config))
    sae = build_sae(48)
    weights = {
        "encoder.weight": sae.W_enc.T,
        "encoder.bias": sae.b_enc,
        "decoder.weight": sae.W_dec.T,
        "b_dec": sae.b_dec,
        "threshold": torch.tensor(0.1),
    }
    torch.save({k: v.detach().clone() for k, v in weights.items()}, place / "ae.pt")


def test_pickled_weights_are_read_only_on_request(tmp_path: Path) -> None:
    llama_stand_in(tmp_path / "served")
    with serving(tmp_path / "served", tmp_path / "cache") as running:
        load = partial(
            Subject.from_pretrained, "llama-3.1-8b-instruct-andyrdt", layer=3, device="cpu"
        )
        with pytest.raises(ExplorerError, match=r"are a pickle file, .* pass allow_pickle=True"):
            load()
        assert running.requests == []
        subject = load(allow_pickle=True)
    assert subject.model_id == "meta-llama/Llama-3.1-8B-Instruct"
    assert subject.sae.sae.cfg.architecture() == "jumprelu"  # what BatchTopK is saved as
    assert len(grow_tree(subject, **TREE)) > 1


def test_a_models_pickled_weights_are_read_only_on_request(disk: Path, tmp_path: Path) -> None:
    shutil.copytree(disk / "model", tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save(build_model("llama").state_dict(), tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(ExplorerError, match=r"are a pickle file, .* pass allow_pickle=True"):
        Subject.from_folder(tmp_path / "model", device="cpu")
    assert len(Subject.from_folder(tmp_path / "model", device="cpu", allow_pickle=True).saes) == 0


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
    choose = partial(registry.choose, release, **choice)
    if expected is None:  # two widths at this layer
        with pytest.raises(ExplorerError, match="has 2 SAEs at layer 9"):
            choose()
    else:
        assert choose().sae_id == expected


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
        ({"layer": 12, "devcie": "cpu"}, "There is no option 'devcie'. Did you mean 'device'?"),
        ({"layer": 12, "layers": [6]}, "Give layers=, or layer= and sae_id=, not both"),
        ({"layers": []}, r"layers is \[\]. Give layers in a list, as in layers=\[6, 12\]"),
        ({"release": "google/gemma-2b"}, "is a model, not a release. .*: gemma-2b-res-jb"),
        ({"sae_id": []}, "Give several ids in sae_id=, at least one, and no layer"),
        ({"layer": "12"}, "layer is '12'; it must be a whole number"),
        ({"layers": 12}, r"layers is 12. Give layers in a list"),
        (
            {"layer": 12, "torch_dtype": "bfloat16"},
            "torch_dtype is no option here: it is called dt",
        ),
        ({"layer": 12, "model": 5}, "model is a int; it must be a hub id, a folder or a live"),
        ({"layer": 12, "model": build_model("gemma")}, "does not say where its tokenizer is"),
        (
            {"layer": 12, "model": build_model("gemma"), "device": "cpu"},
            "leave device out, or change the model first",
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


def test_an_sae_of_saelens_before_version_6_loads(disk: Path, tmp_path: Path) -> None:
    shutil.copytree(disk / "first", tmp_path / "old")
    config = {
        "model_name": "gemma-2b",
        "hook_point": "blocks.1.hook_resid_post",
        "hook_point_layer": 1,
        "activation_fn_str": "relu",
        "d_in": 48,
        "d_sae": 24,
        "dtype": "torch.float32",
        "normalize_activations": False,
    }
    (tmp_path / "old" / "cfg.json").write_text(json.dumps(config))
    old = Subject.from_folder(disk / "model", tmp_path / "old", device="cpu")
    new = Subject.from_folder(disk / "model", disk / "first", device="cpu")
    assert old.sae.layer == 1
    for weights in ("encoder", "decoder"):
        np.testing.assert_array_equal(old.direction(3, weights), new.direction(3, weights))


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
        ("model", [], {"device": "gpu"}, "'gpu' is not there. A GPU is called cuda."),
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
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: native)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(folder, "_useless", lambda _device: "")
    native = True
    assert folder.choose_device(None) == torch.device("cuda")
    assert folder.choose_device("cuda:1") == torch.device("cuda:1")
    assert folder.choose_device("cpu") == torch.device("cpu")
    assert folder.choose_device("auto") == "auto"
    with pytest.raises(ExplorerError, match="has: cuda, cuda:0, cuda:1, auto, cpu"):
        folder.choose_device("cuda:2")
    assert folder.choose_dtype(None, torch.device("cuda")) is None
    assert folder.choose_dtype(None, torch.device("cpu")) == torch.float32
    native = False  # bfloat16 is only emulated
    assert folder.choose_dtype(None, torch.device("cuda")) == torch.float32
    assert folder.choose_dtype("bfloat16", torch.device("cuda")) == torch.bfloat16


@pytest.mark.parametrize(
    ("built_for", "message"),
    [
        (None, "'cuda' is not there. This PyTorch is built for CPUs alone: install a build for"),
        ("12.8", "'cuda' is not there. PyTorch finds no GPU, or no driver for it: see what nvidia"),
    ],
)
def test_a_gpu_that_is_not_there_is_explained(
    monkeypatch: pytest.MonkeyPatch, built_for: str | None, message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built_for)
    with pytest.raises(ExplorerError, match=message):
        folder.choose_device("cuda")


def test_a_gpu_of_no_use_is_refused_and_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    # The driver lists GPUs of which this PyTorch cannot use the last one, be there any or none.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 100)
    with pytest.raises(ExplorerError, match=r"The device 'cuda:99' is of no use: .* device='cpu'"):
        folder.choose_device("cuda:99")
    monkeypatch.setattr(folder, "_useless", lambda _device: "no kernel image")
    assert folder.choose_device(None) == torch.device("cpu")


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


def test_a_fingerprint_is_of_the_numbers_and_not_of_their_order_in_memory() -> None:
    weights = torch.randn(300, 200)
    assert fingerprint(weights.T.contiguous().T) == fingerprint(weights)
    assert fingerprint(weights.T) != fingerprint(weights)
    changed = weights.clone()
    changed[0, 0] += 1
    assert fingerprint(changed) != fingerprint(weights)


def test_a_model_without_its_weights_is_refused() -> None:
    config = build_model("llama").config
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ExplorerError, match="token embeddings are not in memory"):
        Subject(empty, build_tokenizer())


def test_an_sae_of_centred_activations_reads_along_a_centred_direction() -> None:
    # TransformerLens takes the mean away from what GPT-2's blocks write; Hugging Face's has it.
    subject = Subject(build_model("gpt2"), build_tokenizer(), build_sae(48, centred=True))
    encoder = subject.sae.encoder(3)
    np.testing.assert_allclose(subject.direction(3, "encoder"), encoder - encoder.mean(), atol=1e-6)
    np.testing.assert_array_equal(subject.direction(3, "decoder"), subject.sae.decoder(3))


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
