"""Claims about how the widget comes by its subject: loaded, given, cancelled, tried again."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from explorers import OPTIONS, begun, browser, subject
from hub import gemma_stand_in, serving
from sae_explorer import ExplorerError, FeatureExplorer, Subject, grow_tree
from zoo import build_model, build_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("recording")


def test_what_is_loaded_is_what_was_asked_for(tmp_path: Path) -> None:
    gemma_stand_in(tmp_path / "hub")
    with serving(tmp_path / "hub", tmp_path / "cache"):
        explorer = FeatureExplorer(
            3,
            layers=[12, 6],
            device="cpu",
            dtype="float32",
            revision="main",
            model_kwargs={"attn_implementation": "eager"},
            **OPTIONS,
        )
        on = explorer.wait().subject
        told = [status for status in browser(explorer).statuses if status["state"] == "loading"]
    assert [sae.layer for sae in on.saes] == [12, 6]
    assert explorer.layer == 12
    assert on.model.config._attn_implementation == "eager"
    assert any("downloading" in status["text"] for status in told)
    assert any(status["progress"] is not None for status in told)
    explorer.layer = 6
    assert explorer.wait().layer == 6
    explorer.close()


def test_a_live_model_from_nowhere_takes_its_tokenizer_along(tmp_path: Path) -> None:
    gemma_stand_in(tmp_path / "hub")
    model, tokenizer = build_model("gemma", layers=13), build_tokenizer()
    with serving(tmp_path / "hub", tmp_path / "cache"):
        explorer = FeatureExplorer(3, layer=12, model=model, tokenizer=tokenizer, **OPTIONS)
        on = explorer.wait().subject
    assert on.model is model
    assert on.tokenizer is tokenizer
    explorer.close()


def test_vectors_need_no_sae(explore: Callable[..., FeatureExplorer]) -> None:
    bare = Subject(build_model("llama"), build_tokenizer())
    vector = np.linspace(-1, 1, 48)
    explorer = explore(None, on=bare, vector=vector).wait()
    assert explorer.tree == grow_tree(bare, vector=vector, **OPTIONS)
    assert explorer.tokens is not None
    assert explorer.lens is not None
    shown = browser(explorer).state["_subject"]
    assert (shown["sae"], shown["width"], shown["layer"]) == ("", 0, None)
    with pytest.raises(ExplorerError, match="no SAE, so it has no features"):
        explorer.feature = 3
    assert explorer.feature is None


def test_a_release_that_does_not_exist_is_an_error_in_the_widget() -> None:
    explorer = FeatureExplorer(release="gemma-2b-res-jbb", layer=12)
    with pytest.raises(ExplorerError, match="gemma-2b-res-jb"):
        explorer.wait()
    status = browser(explorer).state["_status"]
    assert status["state"] == "error"
    assert "gemma-2b-res-jb" in status["error"]
    assert explorer.subject is None
    assert browser(explorer).ask({"type": "run"})["ok"]
    with pytest.raises(ExplorerError, match="gemma-2b-res-jb"):
        explorer.wait()
    explorer.close()


def test_loading_can_be_cancelled_and_tried_again_without_loading_twice() -> None:
    loads, go = [], threading.Event()

    def load(_tell: Any) -> Subject:
        loads.append(1)
        go.wait(30)
        return subject()

    explorer = begun(load, cutoff=1e-2)
    assert browser(explorer).ask({"type": "cancel"})["ok"]
    with pytest.raises(ExplorerError, match="Loading was cancelled"):
        explorer.wait()
    explorer.retry()
    go.set()
    assert explorer.wait().tree is not None
    assert loads == [1]
    explorer.close()


def test_a_script_that_ends_while_the_model_is_loaded_ends_in_order() -> None:
    script = "from sae_explorer import FeatureExplorer; FeatureExplorer.demo().layer = 1"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1  # of the error, and no abort
    assert done.stderr.strip().splitlines()[-1].startswith("sae_explorer.errors.ExplorerError:")
