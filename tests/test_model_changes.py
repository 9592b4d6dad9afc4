"""What the widget makes of a model that is changed, freed or spoilt while it is explored."""

from __future__ import annotations

import copy
import html
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from explorers import OPTIONS
from sae_explorer import ExplorerError, FeatureExplorer, Subject, grow_tree
from zoo import build_model, build_sae, build_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def freed(model: Any) -> None:
    model.to("meta")


def a_weight_deleted(model: Any) -> None:
    del model.model.layers[0].self_attn.q_proj.weight


def vocabulary_cut(model: Any) -> None:
    model.resize_token_embeddings(model.config.vocab_size // 2)


def training(model: Any) -> None:
    model.train()


def anothers_hook(model: Any) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("not here")

    model.model.layers[0].register_forward_hook(fail)


def in_bfloat16(model: Any) -> None:
    model.to(torch.bfloat16)


def vocabulary_enlarged(model: Any) -> None:
    model.resize_token_embeddings(model.config.vocab_size + 8)


def hooked(model: Any) -> None:
    model.model.layers[0].register_forward_hook(lambda _module, _inputs, output: output)


@pytest.fixture
def explorer() -> Iterator[FeatureExplorer]:
    """Return an explorer on a model of its own, with its tree."""
    model = copy.deepcopy(build_model("llama"))
    subject = Subject(model, build_tokenizer(), build_sae(model.config.hidden_size))
    explorer = FeatureExplorer(3, subject=subject, **OPTIONS).wait()
    yield explorer
    explorer.close()


def bits(model: Any) -> dict[str, Any]:
    return {
        name: (weight.dtype, weight.device, None if weight.is_meta else weight.clone())
        for name, weight in model.state_dict().items()
    }


def assert_untouched(model: Any, before: dict[str, Any]) -> None:
    now = bits(model)
    assert now.keys() == before.keys()
    for name, (dtype, device, values) in now.items():
        assert (dtype, device) == before[name][:2]
        assert values is None or torch.equal(values, before[name][2])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (freed, "The model was changed under the explorer"),
        (
            a_weight_deleted,
            r"changed under the explorer \(model\.layers\.0\.self_attn\.q_proj\.weight\)",
        ),
        (vocabulary_cut, "The model was changed under the explorer"),
        (training, "is in training mode"),
        (anothers_hook, "not here"),
    ],
    ids=lambda case: getattr(case, "__name__", ""),
)
def test_a_model_that_cannot_run_any_more_is_said_to_and_the_last_result_kept(
    explorer: FeatureExplorer, change: Callable[[Any], None], words: str
) -> None:
    model, before = explorer.subject.model, explorer.tree
    change(model)
    weights = bits(model)
    explorer.scale = 3.0
    with pytest.raises(ExplorerError, match=words) as told:
        explorer.wait()
    assert "\n" not in str(told.value)
    assert explorer.status.state == "error"
    assert explorer.status.error == str(told.value)
    assert explorer.tree is before
    assert_untouched(model, weights)
    # What is shown can still be taken away.
    assert explorer._exported("tree.json")["data"].decode() == before.to_json()
    assert before.definitions(1)[0].text in html.unescape(explorer.to_html())


def test_a_model_that_was_freed_is_named_where_a_change_cannot_even_be_checked() -> None:
    model = copy.deepcopy(build_model("llama"))
    subject = Subject(model, build_tokenizer(), build_sae(model.config.hidden_size))
    # Without a scale, that is measured on the model's embeddings.
    explorer = FeatureExplorer(3, subject=subject, **{**OPTIONS, "scale": None}).wait()
    before = explorer.tree
    freed(model)
    with pytest.raises(ExplorerError, match="The model was changed under the explorer") as told:
        explorer.update(feature=5)
    reply = explorer._answer({"type": "set", "values": {"feature": 5}})
    assert reply == {"ok": False, "error": str(told.value)}
    assert explorer.feature == 3
    assert explorer.tree is before
    explorer.close()


def test_a_run_on_a_model_that_was_freed_says_so_in_its_panel(explorer: FeatureExplorer) -> None:
    freed(explorer.subject.model)
    explorer.run("steering", text="the", strengths=(1.0,), max_tokens=2)
    with pytest.raises(ExplorerError, match="The model was changed under the explorer"):
        explorer.wait()
    assert "changed under the explorer" in str(explorer.jobs["steering"].error)
    assert explorer.status.state == "done"


@pytest.mark.parametrize("change", [training, anothers_hook], ids=lambda case: case.__name__)
def test_the_next_try_succeeds_once_the_model_is_as_it_was(
    explorer: FeatureExplorer, change: Callable[[Any], None]
) -> None:
    model = explorer.subject.model
    change(model)
    explorer.scale = 3.0
    with pytest.raises(ExplorerError):
        explorer.wait()
    model.eval()
    model.model.layers[0]._forward_hooks.clear()
    explorer.retry()
    alone = grow_tree(explorer.subject, feature=3, **{**OPTIONS, "scale": 3.0})
    np.testing.assert_array_equal(explorer.wait().tree.token_id, alone.token_id)


@pytest.mark.parametrize(
    "change", [in_bfloat16, vocabulary_enlarged, hooked], ids=lambda case: case.__name__
)
def test_a_model_that_still_runs_gives_the_tree_that_it_now_has(
    explorer: FeatureExplorer, change: Callable[[Any], None]
) -> None:
    model = explorer.subject.model
    change(model)
    weights, hooks = bits(model), len(model.model.layers[0]._forward_hooks)
    explorer.scale = 3.0
    tree = explorer.wait().tree
    alone = grow_tree(explorer.subject, feature=3, **{**OPTIONS, "scale": 3.0})
    assert tree.provenance.model["dtype"] == str(model.dtype).removeprefix("torch.")
    np.testing.assert_array_equal(tree.token_id, alone.token_id)
    np.testing.assert_allclose(tree.probability, alone.probability, rtol=1e-4)
    assert_untouched(model, weights)
    assert len(model.model.layers[0]._forward_hooks) == hooks
