"""Claims about the bundled model: it is what its card says, it is small, and it is in the wheel."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_explorer import ExplorerError, Subject, grow_tree, grow_trees, rank_tokens
from sae_explorer.loading import demo

ROOT = Path(__file__).parents[1]
PROMPT = 'A typical definition of "{ghost}" would be "'
GLOSSES = [
    "a small bird of prey with a short hooked bill",
    "(medicine) an inflammation of the skin; may be chronic",
    'the act of saying "no"',
]


def test_demo_loads_with_either_sae_selected() -> None:
    for layer in demo.LAYERS:
        subject = Subject.demo(layer=layer)
        assert subject.sae.layer == layer
        assert subject.sae.width == 1536
        assert subject.model is Subject.demo().model
    with pytest.raises(
        ExplorerError, match=r"no SAE at layer 2. It has: .*\(layer 1\).*\(layer 3\)"
    ):
        Subject.demo(layer=2)


def test_explorers_that_are_made_at_once_share_the_model() -> None:
    script = (
        "from sae_explorer import FeatureExplorer\n"
        "made = [FeatureExplorer.demo(layer, cutoff=1e-2) for layer in (1, 3, 3)]\n"
        "print(*(explorer.wait().status.state for explorer in made))\n"
        "print(len({id(explorer.subject.model) for explorer in made}))"
    )
    ran = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert ran.stdout == "done done done\n1\n"


def test_the_tokens_of_a_text_read_as_the_text_does() -> None:
    subject = Subject.demo()
    text = 'A typical definition of "dog" would be "a kind of dog'
    ids = subject.tokenizer.encode(text)
    pieces = subject.texts_in_place(ids)
    assert "".join(pieces[1:]).strip() == text
    # The tokenizer drops the space of a word behind a quote, which the token by itself has.
    assert (pieces[6], subject.token_texts(ids)[6]) == ("dog", " dog")


def test_the_placeholder_is_one_token_in_the_prompt() -> None:
    subject = Subject.demo()
    assert subject.default_ghost_token == "<unused0>"
    ids = subject.encode_prompt(PROMPT, "<unused0>")
    assert len(ids) == 11
    assert ids[0] == subject.tokenizer.bos_token_id
    assert ids.count(subject.token_id("<unused0>")) == 1


@pytest.mark.parametrize("gloss", GLOSSES)
def test_text_survives_the_tokenizer(gloss: str) -> None:
    subject = Subject.demo()
    ids = subject.continuation_ids(PROMPT, gloss)
    assert (
        subject.continuation_text(subject.encode_prompt(PROMPT, "<unused0>"), ids).strip() == gloss
    )


def test_a_placeholder_that_the_tokenizer_cannot_keep_whole_is_refused() -> None:
    with pytest.raises(ExplorerError, match=r"does not keep the placeholder .* in one piece here"):
        grow_tree(Subject.demo(), feature=3, prompt="un{ghost}ed is", ghost_token="▁fish")


def test_a_definition_ends_where_it_ends() -> None:
    # The model was trained to expect nothing in particular after the end of a line, so that no
    # tree goes on behind it.
    trees = grow_trees(Subject.demo(), range(40), weights="decoder", cutoff=1e-3, max_depth=12)
    ends = behind = 0
    for tree in trees:
        ended = np.isin(tree.token_id, tree.end_ids)
        ends += int(ended.sum())
        behind += int(ended[tree.parent[1:]].sum())
    assert ends > 40
    assert behind == 0


@pytest.mark.parametrize("layer", demo.LAYERS)
def test_featured_features_say_what_they_are(layer: int) -> None:
    subject = Subject.demo(layer=layer)
    featured = [f for f in demo.featured() if f.layer == layer]
    assert len(featured) >= 10
    assert len({f.feature for f in featured}) == len(featured)
    said = 0
    assert demo.shown(layer) in {f.feature for f in featured}
    options: dict[str, Any] = {**demo.DIRECTION, "cutoff": 1e-3, "max_depth": 12}
    trees = grow_trees(subject, [f.feature for f in featured[:10]], **options)
    for feature, tree in zip(featured[:10], trees, strict=True):
        tokens = rank_tokens(subject, feature=feature.feature, **demo.DIRECTION, limit=20).token
        words = " ".join([*(d.text for d in tree.definitions(10)), *tokens])
        said += any(word in words for word in feature.label.split())
    assert said >= 8


def test_half_precision_asks_the_same_questions() -> None:
    subject = Subject.from_folder(demo.assets(), dtype="bfloat16", device="cpu")
    assert subject.dtype == torch.bfloat16
    tree = grow_tree(subject, token="▁fish", cutoff=1e-2)
    exact = grow_tree(Subject.demo(), token="▁fish", cutoff=1e-2)
    assert tree.tokens[1] == exact.tokens[1]
    assert abs(len(tree) - len(exact)) <= 0.3 * len(exact)


def test_the_card_holds_the_figures_that_the_script_measured() -> None:
    figures = json.loads((demo.assets() / "figures.json").read_text(encoding="utf-8"))
    card = (demo.assets() / "MODEL_CARD.md").read_text(encoding="utf-8")
    for value in (
        figures["model"]["held_out"]["perplexity"],
        *(figures["saes"][str(layer)]["explained_variance"] for layer in demo.LAYERS),
    ):
        assert f"{value:.1f}" in card or f"{value:.3f}" in card
    for word in ("trained to read", "Gemma-2B", "WordNet"):
        assert word in card


def test_the_wheel_holds_the_model_and_its_licences(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {entry.filename: entry.file_size for entry in archive.infolist()}
    bundled = {path.name for path in demo.assets().rglob("*") if path.is_file()}
    assets = {n: s for n, s in held.items() if n.startswith("sae_explorer/assets/dictionary/")}
    assert bundled == {Path(name).name for name in assets}
    assert sum(assets.values()) <= 12_000_000
    licences = {Path(name).name for name in held if "/licenses/" in name}
    assert licences == {"LICENSE", "WORDNET_LICENSE"}
    assert "sae_explorer/py.typed" in held
