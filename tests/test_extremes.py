"""Claims about the largest SAEs and the most extreme options: small answers, or a refusal in words."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import comm
import numpy as np
import pytest
import sae_lens
import torch
from sae_lens.saes.sae import SAEMetadata
from transformers import AutoModelForCausalLM, LlamaConfig

import sae_explorer
from explorers import OPTIONS, SMALL, Recording, subject
from front_end import FrontEnd
from sae_explorer import (
    Clamp,
    ExplorerError,
    FeatureExplorer,
    Steer,
    Subject,
    feature,
    grow_tree,
    vector,
)
from zoo import VOCAB_SIZE, build_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# --- A million features --------------------------------------------------------------------------

WIDE = 1_000_000
LAST = WIDE - 1


@pytest.fixture(scope="module")
def wide() -> Subject:
    """Return a subject with a million features, of a model so narrow that they fit anywhere."""
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2}
    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        LlamaConfig(vocab_size=VOCAB_SIZE, num_attention_heads=2, **sizes, **ids)
    )
    metadata = SAEMetadata(hook_name="blocks.1.hook_resid_post", model_name="tiny-wide")
    sae = sae_lens.StandardSAE(sae_lens.StandardSAEConfig(d_in=8, d_sae=WIDE, metadata=metadata))
    with torch.no_grad():
        for weight in (sae.W_enc, sae.W_dec):
            weight.normal_()
    return Subject(model.eval(), build_tokenizer(), sae.eval())


class Weighing(FrontEnd):
    """A front-end that weighs what it is sent."""

    heaviest = 0

    def hear(self, data: dict[str, Any], buffers: Sequence[Any]) -> None:
        size = len(json.dumps(data)) + sum(memoryview(part).nbytes for part in buffers)
        if "_esm" not in data.get("state", {}):  # the program itself
            self.heaviest = max(self.heaviest, size)
        super().hear(data, buffers)


class WeighingComm(Recording):
    player = Weighing


def test_the_last_of_a_million_features_is_explored_with_small_messages(
    wide: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comm, "create_comm", WeighingComm)
    small = {name: value for given in SMALL.values() for name, value in given.items()}
    small["against"] = "scale=1.0"
    explorer: Any = FeatureExplorer(LAST, subject=wide, cutoff=1e-2, max_depth=5, **small)
    explorer.wait()
    for panel in SMALL:
        explorer.run(panel).wait()
    assert explorer.tree == grow_tree(wide, **explorer.tree.request.to_dict())
    with pytest.raises(ExplorerError, match="1,000,000"):
        explorer.feature = WIDE
    assert explorer.feature == LAST
    front_end = explorer.comm.front_end
    assert front_end.state["_subject"]["width"] == WIDE
    assert front_end.heaviest < 100_000
    results = ("tree", "tokens", "lens", *SMALL)
    assert max(len(getattr(explorer, name).to_json()) for name in results) < 100_000
    assert len(explorer.to_html()) < 2_000_000
    explorer.close()


class Largest(torch.overrides.TorchFunctionMode):
    """Notes how many numbers the largest tensor has that is made meanwhile."""

    numbers = 0

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        weights = subject.sae.sae.parameters()
        self._weights = {weight.untyped_storage().data_ptr() for weight in weights}

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = function(*args, **(kwargs or {}))
        own = isinstance(made, torch.Tensor) and made.is_floating_point()
        if own and made.untyped_storage().data_ptr() not in self._weights:
            self.numbers = max(self.numbers, made.numel())
        return made


def test_another_feature_of_a_million_reads_no_more_than_its_own_directions(wide: Subject) -> None:
    grow_tree(wide, feature=0, cutoff=1e-2, max_depth=3)  # what is looked at once for each SAE
    with Largest(wide) as largest:
        grow_tree(wide, feature=LAST, cutoff=1e-2, max_depth=3)
        sae_explorer.rank_tokens(wide, feature=LAST)
        sae_explorer.logit_lens(wide, feature=LAST)
    assert 0 < largest.numbers < WIDE


def test_the_largest_activation_of_one_of_a_million_features_is_measured_alone(
    wide: Subject,
) -> None:
    given: dict[str, Any] = {"unit": "max_activation", "strengths": (2.0,), "max_tokens": 2}
    sae_explorer.steer_text(wide, feature=LAST, strengths=(2.0,), max_tokens=2)  # tries it out once
    with Largest(wide) as largest:
        texts = sae_explorer.steer_text(wide, feature=LAST, action="clamp", **given)
        clamp = Clamp(LAST, 0.5, unit="max_activation")
        grow_tree(wide, feature=LAST, cutoff=1e-2, max_depth=3, interventions=[clamp])
    assert 0 < largest.numbers < WIDE
    assert texts.largest_activation is not None
    assert texts.largest_activation > 0


# --- Extreme options -----------------------------------------------------------------------------

SHORT: dict[str, Any] = {"feature": 3, **OPTIONS, "cutoff": 0.05, "max_depth": 3}
NAN = float("nan")
REFUSED: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (grow_tree, {"scale": 1e39}, r"scale is 1e\+39; it must be above 0, at most 1e\+15 or 'auto'"),
    (grow_tree, {"scale": 1.01e15}, r"at most 1e\+15"),
    (grow_tree, {"scale": 10**400}, "finite"),
    (grow_tree, {"scale": 0}, "above 0"),
    (grow_tree, {"scale": NAN}, "finite"),
    (grow_tree, {"cutoff": 0}, "above 0"),
    (grow_tree, {"cutoff": 1.0000001}, "at most 1"),
    (grow_tree, {"max_depth": 10**6}, "at most"),
    (grow_tree, {"top_k": 10**400}, r"top_k is 1000000\d*\.\.\.\d*; the vocabulary has only 320"),
    (grow_tree, {"pca": (1e308,)}, "at most 1"),
    (
        grow_tree,
        {"interventions": [Steer(3, 9e14), Clamp(2, 1e15)], "feature": 99},
        "no feature 99",
    ),
    (sae_explorer.rank_tokens, {"exponent": 1e308}, "at most"),
    (sae_explorer.rank_tokens, {"exponent": NAN}, "finite"),
    (sae_explorer.steer_text, {"strengths": (1.01e15,)}, r"finite, and at most 1e\+15"),
    (sae_explorer.steer_text, {"strengths": (NAN,)}, "finite"),
    (sae_explorer.dose_response, {"doses": (0.0, -1e300)}, r"finite, and at most 1e\+15"),
    (sae_explorer.sweep_scales, {"grid": (1.0, NAN)}, "finite"),
    (sae_explorer.sweep_scales, {"grid": (1.0, 2e15)}, r"at most 1e\+15"),
    (grow_tree, {"weights": (1e300, 1e300)}, r"none above 1e\+15"),
    (grow_tree, {"feature": None, "embedding": (1e20,) * 48}, r"numbers above 1e\+15"),
    (
        grow_tree,
        {"interventions": [Steer(1e10 * feature(5), 1e10)]},
        r"10000000000\*5 \+1e\+10 comes to 1e\+20; at most 1e\+15 is possible",
    ),
    (
        grow_tree,
        {"interventions": [Steer(vector([1e10] * 48), -1e10)]},
        r"comes to -1e\+20; at most 1e\+15 is possible",
    ),
]


def asked(analysis: Callable[..., Any], given: dict[str, Any]) -> Any:
    of_tree = analysis in (grow_tree, sae_explorer.compare_trees)
    return analysis(subject(), **{**(SHORT if of_tree else {"feature": 3}), **given})


def named(value: Any) -> str:
    return getattr(value, "__name__", None) or f"{value!s:.30}"


@pytest.mark.parametrize(("analysis", "given", "words"), REFUSED, ids=named)
def test_what_cannot_be_computed_is_refused_in_one_line(
    analysis: Callable[..., Any], given: dict[str, Any], words: str
) -> None:
    with pytest.raises(ExplorerError, match=words) as refusal:
        asked(analysis, given)
    assert "\n" not in str(refusal.value)


ANSWERED: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (grow_tree, {"scale": 1e15}),
    (grow_tree, {"scale": 5e-324}),
    (grow_tree, {"cutoff": 1}),
    (grow_tree, {"cutoff": 1e-320, "max_nodes": 50}),
    (grow_tree, {"max_nodes": 10**400}),
    (grow_tree, {"interventions": [Steer(5, 1e15)]}),
    (grow_tree, {"interventions": [Clamp(5, -1e15)]}),
    (sae_explorer.rank_tokens, {"exponent": 1e-320}),
    (sae_explorer.rank_tokens, {"scale": 1e15, "limit": 10**400}),
    (sae_explorer.dose_response, {"doses": (0.0, 1e12), "text": "the", "dose_tokens": 2}),
    (sae_explorer.sweep_scales, {"grid": (1.0, 1e15)}),
    (sae_explorer.compare_trees, {"against": "scale=1e15"}),
]


@pytest.mark.parametrize(("analysis", "given"), ANSWERED, ids=named)
def test_what_is_extreme_is_answered_with_numbers(
    analysis: Callable[..., Any], given: dict[str, Any]
) -> None:
    frame = asked(analysis, given).to_frame()
    assert len(frame)
    for name, column in frame.items():
        if column.dtype.kind == "f":
            assert np.isfinite(column).all(), name
