"""The notebooks that a user opens first: they run from top to bottom and give what they promise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbclient
import nbformat
import pytest

from sae_explorer import Subject, grow_tree, rank_tokens
from sae_explorer.loading import demo

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


def names(path: Path) -> str:
    return path.name


def test_there_are_examples() -> None:
    assert "quickstart.ipynb" in map(names, NOTEBOOKS)


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
        timeout=300,
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


PROMISES: dict[str, Callable[[Any], None]] = {"quickstart.ipynb": quickstart}


def outputs(notebook: Any, code: str) -> list[Any]:
    """Return the outputs of the first cell that holds some code."""
    cell = next(c for c in notebook.cells if c.cell_type == "code" and code in c.source)
    return list(cell.outputs)


def shown(notebook: Any, code: str) -> str:
    """Return what that cell shows as text."""
    return "".join(
        output.get("text") or output["data"]["text/plain"] for output in outputs(notebook, code)
    ).strip()
