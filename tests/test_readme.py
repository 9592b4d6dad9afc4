"""Everything that the README tells a reader to type does what it says."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hub import gemma_stand_in, serving
from sae_explorer import FeatureExplorer
from sae_explorer.loading import demo

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str, section: str = "") -> list[str]:
    """Return the code of a language in a section of the README, or in all of it."""
    chosen = [text for text in README.split("\n## ") if text.startswith(section)]
    fence = rf"^```{language}\n(.*?)^```$"
    return re.findall(fence, "\n".join(chosen), flags=re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines() if line.strip()]


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command as a reader would, with this environment's programs before all others."""
    programs = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": programs + os.pathsep + os.environ["PATH"]}
    environment |= {"COLUMNS": "120", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("demo")
    return run("sae-explorer demo", folder), folder


def test_two_commands_do_everything() -> None:
    assert commands()[:2] == ["make demo", "make test"]
    recipes = subprocess.run(
        ["make", "--always-make", "--dry-run", "demo", "test"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "-m venv .venv" in recipes
    assert ".venv/bin/sae-explorer demo" in recipes
    assert ".venv/bin/python -m pytest" in recipes
    assert recipes.count("-c constraints.txt") == recipes.count("pip install")


def test_the_demo_prints_what_the_readme_shows(demo_run: Any) -> None:
    done, folder = demo_run
    assert done.returncode == 0, done.stderr
    (shown,) = blocks("text")
    assert [line.rstrip() for line in done.stdout.strip().splitlines()] == [
        line.rstrip() for line in shown.strip().splitlines()
    ]
    assert (folder / "sae-explorer-demo.json").is_file()
    assert (folder / "sae-explorer-demo.html").is_file()
    assert "sae-explorer: wrote sae-explorer-demo.html" in done.stderr


def test_the_demos_most_probable_definitions_name_the_concept(demo_run: Any) -> None:
    from sae_explorer import DefinitionTree

    _done, folder = demo_run
    tree = DefinitionTree.from_json(folder / "sae-explorer-demo.json")
    (label,) = [
        f.label for f in demo.featured() if f.feature == tree.request.feature and f.layer == 3
    ]
    assert tree.definitions(1)[0].text == f"a kind of {label}"


def test_the_features_that_the_readme_recommends_are_featured() -> None:
    (listed,) = re.findall(
        r"^Other features that read well are (.*?);", README, flags=re.MULTILINE | re.DOTALL
    )
    named = {(int(number), label) for number, label in re.findall(r"(\d+) \(([^)]+)\)", listed)}
    assert len(named) == 6
    assert named <= {(f.feature, f.label) for f in demo.featured() if f.layer == demo.SHOWN_LAYER}


@pytest.mark.parametrize("command", [c for c in commands() if not c.startswith("make ")])
def test_every_command_runs(command: str, tmp_path: Path) -> None:
    done = run(command, tmp_path)
    assert done.returncode == 0, done.stderr
    written = re.findall(r"--(?:json|csv|html) (\S+)", command)
    assert all((tmp_path / name).stat().st_size > 100 for name in written)
    assert done.stdout or written


def execute(snippet: str, names: dict[str, Any]) -> None:
    """Run a snippet as a notebook's cell; of an explorer that it shows, wait for what it shows."""
    body = ast.parse(snippet).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "README", "exec"), names)
    if isinstance(last, ast.Expr):
        value = eval(compile(ast.Expression(last.value), "README", "eval"), names)
        if isinstance(value, FeatureExplorer):
            names["shown"] = value.wait()


def test_every_snippet_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    execute(blocks("python", "Start")[0], names)
    assert names["shown"].tree.definitions(1)[0].text == "a kind of vehicle"
    gemma_stand_in(tmp_path / "hub", features=4096)
    with serving(tmp_path / "hub", tmp_path / "cache"):
        for snippet in blocks("python", "Gemma-2B"):
            execute(snippet, names)
    assert names["shown"].subject.sae.hook_name == "blocks.12.hook_resid_post"
    assert names["shown"].tree.request.feature == names["tree"].request.feature == 4021
    assert [sae.layer for sae in names["both"].saes] == [6, 12]
    for snippet in blocks("python", "What it does"):
        execute(snippet, names)
    assert names["partial"].partial
    assert len(names["top"]) == 100
    assert names["explorer"].tree.request.cutoff == 1e-5
    for written in ("tree.dot", "tree.svg", "tree.png", "report.html"):
        assert (tmp_path / written).stat().st_size > 1000
    holds_what_is_said(names)


def holds_what_is_said(names: dict[str, Any]) -> None:
    """Check what the README says of the results of its snippets."""
    answer = 'a kind of vehicle"'
    assert names["without"].probability_of(answer) < names["tree"].probability_of(answer) / 2
    assert names["difference"].counts["one"] > 0
    assert {change.fate for change in names["difference"].definitions(5)} > {"loses"}
    plain, quarter, half, whole = names["texts"].texts
    assert plain == quarter == 'a kind of table"'
    assert plain.count("music") < half.count("music") < whole.count("music")
    lifted = names["lifted"]
    assert lifted.definitions(1, by="lift")[0].probability < lifted.definitions(1)[0].probability
    assert all("vehicle" in d.text for d in lifted.definitions(5, by="lift"))
    assert 0.6 < names["loop"].low < names["loop"].score < names["loop"].high < 1
    assert names["explorer"].steering.texts[0] == plain
    assert names["explorer"].loop.request.cutoff == 1e-5


def test_the_table_has_every_way_that_the_benchmark_grows_trees() -> None:
    script = ROOT / "tests" / "benchmarks" / "definitions.py"
    spec = importlib.util.spec_from_file_location("definitions", script)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = benchmark  # its dataclasses look for it there
    spec.loader.exec_module(benchmark)
    rows = re.findall(r"^\| ([^|]+?) \| [\d.]+ \| [\d.]+ \| [\d.]+ \|$", README, re.MULTILINE)
    assert rows == [*benchmark.WAYS, *benchmark.FLOORS]
    assert f"A list of {len(benchmark.concepts())} was fixed" in README


def linked(page: Path) -> list[str]:
    return re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^## (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w ]", "", title).lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", ["README.md", "docs/hosts.md", "examples/quickstart.ipynb"])
def test_every_link_leads_somewhere(name: str) -> None:
    links = linked(ROOT / name)
    assert links
    for link in links:
        if not link.startswith("https://"):
            path, _, anchor = link.partition("#")
            target = (ROOT / name).parent / path if path else ROOT / name
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_what_the_page_on_hosts_calls_checked_names_a_test_that_is_there() -> None:
    page = (ROOT / "docs" / "hosts.md").read_text(encoding="utf-8")
    tests = {path: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
    named = re.findall(r"`(test[\w/.]+)`", page)
    assert len(set(named)) > 5
    for name in named:
        if name.endswith(".py"):
            assert ROOT / name in tests, name
        else:
            assert any(f"def {name}(" in text for text in tests.values()), name
    statements = re.split(r"^(?=- |\d\. |## )", page, flags=re.MULTILINE)[1:]
    unmarked = [s for s in statements if s[0] != "#" and not set(s) & {"✓", "○"}]
    assert unmarked == []
