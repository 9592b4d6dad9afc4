"""The notebooks that a user opens first: they run from top to bottom and give what they promise."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbclient
import nbformat
import numpy as np
import pytest

from sae_explorer import (
    Ablate,
    Subject,
    close_loop,
    compare_trees,
    dose_response,
    grow_tree,
    measure_activations,
    rank_tokens,
    steer_text,
)
from sae_explorer.loading import demo

if TYPE_CHECKING:
    from collections.abc import Callable

    from sae_explorer import TreeDifference

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


def names(path: Path) -> str:
    return path.name


def test_there_are_examples() -> None:
    assert PROMISES.keys() == set(map(names, NOTEBOOKS))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=names)
def test_an_example_is_stored_without_what_a_run_leaves(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    nbformat.validate(notebook)
    assert notebook["metadata"].keys() == {"kernelspec"}
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    for cell in notebook["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=names)
def test_an_example_runs_and_gives_what_it_promises(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(
        notebook,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
        timeout=600,
    ).execute()
    PROMISES[path.name](notebook)


def quickstart(notebook: Any) -> None:
    subject = Subject.demo()
    options: dict[str, Any] = {"feature": demo.shown(), **demo.DIRECTION}
    tree = grow_tree(subject, **options)
    answers = tree.definitions(5)
    assert shown(notebook, "explorer.wait()\nexplorer.tree") == repr(tree)
    for definition in answers:
        assert definition.text in shown(notebook, "definitions(5)")
    assert answers[0].text == "a kind of vehicle"
    nearest = rank_tokens(subject, **options, limit=10)
    for token in nearest.token:
        assert token.strip() in shown(notebook, "tokens.to_frame()")
    lower = grow_tree(subject, **options, cutoff=1e-5)
    assert f"{len(tree):,} nodes before, {len(lower):,} now" in shown(notebook, "cutoff = 1e-5")
    assert "scale is -1" in shown(notebook, "scale = -1")
    other = grow_tree(subject, **{**options, "feature": 17})
    assert shown(notebook, "explorer.feature = 17") == repr(other)
    assert shown(notebook, "mkdtemp") == "['report.html', 'tokens.csv', 'tree.json']"
    assert shown(notebook, "from_json") == "True"
    page = outputs(notebook, "snapshot")[0]["data"]["text/html"]
    assert "<iframe" in page
    assert other.definitions(1)[0].text in page
    _view, summary = outputs(notebook, "FeatureExplorer.demo()")
    # The last tree's: what the widget's own output says is kept up to date.
    assert other.definitions(1)[0].text in summary["data"]["text/html"]
    assert "Feature 17 of" in summary["data"]["text/html"]


def steering(notebook: Any) -> None:
    """Hold the story to what is measured: each step must still change the reader's mind."""
    subject = Subject.demo(layer=3)
    feature = 1132
    options: dict[str, Any] = {"feature": feature, **demo.DIRECTION, "cutoff": 3e-4}

    # The tree speaks of an event; nothing among its likeliest answers says game or bird.
    tree = grow_tree(subject, **options, lift=8)
    likely = tree.definitions(6)
    assert likely[0].text == "a kind of event"
    assert not any(word in d.text for d in likely for word in ("bird", "game"))
    assert likely[0].probability < 0.03

    # Lift brings up the birds, and leaves the event and what any vector gets behind.
    special, common = tree.definitions(1, by="lift")[0], min(abs(d.lift or 0) for d in likely)
    assert "birds" in special.text
    assert special.lift is not None
    assert likely[0].lift is not None
    assert special.lift > likely[0].lift + 2
    assert common < 0.3
    assert f"*{special.text}*" in said(notebook, "special = ")

    # The loop: no bird makes the feature fire, games do, and the tree scores near chance.
    loop = close_loop(subject, **options)
    assert max(d.activation for d in loop.definitions if "birds" in d.text) == 0
    assert min(d.activation for d in loop.definitions if "game" in d.text) > 7
    assert loop.score is not None
    assert 0.45 < loop.score < 0.7
    assert f"The score of the tree is {loop.score:.2f}" in said(notebook, "fired = ")
    reads = {
        word: measure_activations(subject, [f"a {word}"]).max_activation[feature]
        for word in ("game", "food", "sport", "bird", "fish", "dog")
    }
    assert reads["game"] > reads["food"] > reads["sport"] > 3
    assert reads["bird"] == reads["fish"] == reads["dog"] == 0
    assert f"*food* ({reads['food']:.2f})" in said(notebook, "It reads words")

    # Steering writes what the feature does not read.
    for word, written in (("ball", "game equipment"), ("dog", "bird bird"), ("water", "food")):
        text = f'A typical definition of "{word}" would be "'
        texts = steer_text(subject, feature=feature, text=text, max_tokens=12).texts
        assert texts[:2] == [f'a kind of {word}"', f'a kind of {written}"']
        assert f"becomes *a kind of {written}*" in said(notebook, "The birds are back")
    assert texts[2].startswith("a kind of food fish fish fish")
    response = dose_response(
        subject,
        feature=feature,
        text='A typical definition of "trout" would be "a kind of game',
        targets=['"', " fish", " bird", " game", " equipment"],
        dose_tokens=0,
    )
    ends = response.target_probability[:, 0]
    nouns = response.target_probability[:, 1:].sum(axis=1)
    assert (ends[1:] < ends[:-1]).all()
    assert ends[0] > 0.9
    assert ends[-1] < 0.05
    assert nouns[-1] > nouns[6] > 20 * nouns[0]
    assert response.strength[6] == 0

    # Ablation takes the second noun and leaves the first, and changes nothing about birds.
    game, food, bird = (
        compare_trees(subject, token=word, cutoff=3e-4, interventions=[Ablate(feature)])
        for word in ("game", "food", "bird")
    )
    assert ratio(game, 'a kind of game"') > 1.2
    assert ratio(game, 'a kind of game equipment"') < 0.6
    assert ratio(food, 'a kind of food"') > 1
    assert ratio(food, "food and game fish") < 0.6
    assert np.abs(bird.log_ratio).max() < 1e-3
    gone = said(notebook, "What it loses is the second noun")
    row = [game.union.text(row) for row in range(len(game))].index('a kind of game"')
    assert f"{game.probability_two[row]:.2%} where it was {game.probability_one[row]:.2%}" in gone
    assert "no answer changes by as much as 0.1%" in gone

    for part in ("ClosedLoop(", "TreeDifference(weights decoder to weights encoder", "bird bird"):
        assert part in shown(notebook, 'run("loop")')
    assert shown(notebook, "mkdtemp") == "['game.html']"
    assert "<iframe" in outputs(notebook, "snapshot")[0]["data"]["text/html"]


def ratio(difference: TreeDifference, answer: str) -> float:
    """Return how many times as probable all answers that begin in a way are in the second tree."""
    row = [difference.union.text(row) for row in range(len(difference))].index(answer)
    return float(np.exp(difference.log_ratio[row]))


def train_sae(notebook: Any) -> None:
    assert "'cfg.json'" in shown(notebook, "runner.run()")
    figures = shown(notebook, "explained variance")
    l0, explained, silent, width = (
        float(re.search(pattern, figures)[1])  # type: ignore[index]
        for pattern in (r"L0 ([\d.]+)", r"variance ([\d.]+)", r": (\d+) of", r"of (\d+) feat")
    )
    # What the notebook says of them: something was learned, and less than by the bundled SAEs.
    assert 8 < l0 <= 16
    assert 0.5 < explained < 0.85
    assert silent < width / 2
    assert shown(notebook, "again = Subject") == "(2, 'model.layers.2', True)"
    # The feature that is chosen fires on the theme far more often than anywhere.
    (table,) = outputs(notebook, "on_theme")
    first = table["data"]["text/plain"].splitlines()[1].split()
    assert float(first[4]) > 3 * float(first[3])
    # And its tree and its tokens say what the theme is. Training amplifies differences in rounding
    # from one processor to another, and which feature comes first is not always the same.
    definitions, tokens = shown(notebook, "explorer.tree.definitions").rsplit("\n", 1)
    theme = r"plant|tree|herb|shrub|fruit|flower|grass|seed|berr|lea[fv]"
    assert re.search(theme, definitions)
    assert re.search(theme, tokens)
    assert "ClosedLoop(" in shown(notebook, 'run("loop")')
    assert shown(notebook, "to_html") == "['report.html', 'sae']"


PROMISES: dict[str, Callable[[Any], None]] = {
    "quickstart.ipynb": quickstart,
    "steering.ipynb": steering,
    "train_sae.ipynb": train_sae,
}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=names)
def test_no_figure_in_the_text_could_be_out_of_date(path: Path) -> None:
    """What was measured is printed by the cell that measured it."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            prose = re.sub(r"```.*?```|`[^`]*`", "", cell.source, flags=re.DOTALL)
            assert not re.search(r"\d\.\d|\d ?%", prose), cell.source


def outputs(notebook: Any, code: str) -> list[Any]:
    """Return the outputs of the first cell that holds some code."""
    cell = next(c for c in notebook.cells if c.cell_type == "code" and code in c.source)
    return list(cell.outputs)


def said(notebook: Any, code: str) -> str:
    """Return what that cell says as Markdown."""
    return "\n".join(output["data"]["text/markdown"] for output in outputs(notebook, code))


def shown(notebook: Any, code: str) -> str:
    """Return what that cell shows as text."""
    return "".join(
        output.get("text") or output["data"]["text/plain"] for output in outputs(notebook, code)
    ).strip()
