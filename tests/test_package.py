"""Claims about the package as a whole: what it exports, what it imports, and its version."""

from __future__ import annotations

import ast
import gzip
import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import sae_explorer

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "python" / "sae_explorer"
HEAVY = {"torch", "transformers", "sae_lens", "transformer_lens", "pandas", "networkx"}
NOTEBOOK = {"ipywidgets", "anywidget", "IPython", "traitlets", "ipykernel"}


def modules_after(code: str) -> set[str]:
    """Return the top-level names in sys.modules after some code ran in a fresh interpreter."""
    report = "import sys; print(*sorted({n.partition('.')[0] for n in sys.modules}))"
    command = [sys.executable, "-c", f"{code}\n{report}"]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(out.stdout.split())


def imported(path: Path) -> set[str]:
    """Return the top-level names of the modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_importing_the_package_needs_no_torch() -> None:
    found = modules_after("import sae_explorer; dir(sae_explorer); sae_explorer.ExplorerError")
    assert "sae_explorer" in found
    assert not found & (HEAVY | NOTEBOOK | {"numpy", "rich"})


def test_help_of_the_command_line_needs_no_torch() -> None:
    found = modules_after(
        "import contextlib, io\nfrom sae_explorer.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    main(['--help'])"
    )
    assert not found & HEAVY


@pytest.mark.parametrize("name", sae_explorer.__all__)
def test_every_public_name_resolves_and_says_what_it_is(name: str) -> None:
    value = getattr(sae_explorer, name)
    assert value.__name__ == name
    assert value.__module__.startswith("sae_explorer.")
    assert value.__doc__


def test_public_names_are_listed_and_others_refused() -> None:
    assert sae_explorer.__all__ == sorted(sae_explorer.__all__)
    assert set(sae_explorer.__all__) == set(sae_explorer._HOMES)
    assert set(sae_explorer.__all__) <= set(dir(sae_explorer))
    with pytest.raises(AttributeError, match="has no attribute 'grow_treee'"):
        sae_explorer.grow_treee  # noqa: B018 - the access is what is tested
    assert not hasattr(sae_explorer, "__path_to_nowhere__")


def test_only_the_widget_knows_of_notebooks() -> None:
    guilty = {
        path.relative_to(PACKAGE).as_posix(): found
        for path in PACKAGE.rglob("*.py")
        if (found := imported(path) & NOTEBOOK) and path.relative_to(PACKAGE).parts[0] != "widget"
    }
    assert guilty == {}


def test_one_version_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    front_end = json.loads((ROOT / "package.json").read_text(encoding="utf-8"))
    assert project["version"] == front_end["version"] == metadata.version("sae-explorer")


def test_the_types_are_shipped() -> None:
    assert (PACKAGE / "py.typed").is_file()


def test_the_bundle_is_small_and_loads_nothing() -> None:
    built = {name: (PACKAGE / "static" / name) for name in ("widget.js", "widget.css", "page.js")}
    texts = {name: path.read_text(encoding="utf-8") for name, path in built.items()}
    # It travels with every instance of the widget, and is kept in saved notebooks.
    assert sum(len(gzip.compress(text.encode(), 9)) for text in texts.values()) <= 64 * 1024
    assert len(gzip.compress(texts["widget.js"].encode(), 9)) <= 56_000
    for name, text in texts.items():
        addresses = set(re.findall(r"https?://[\w./-]+", text))
        # Names of XML vocabularies, which nobody asks for anything.
        assert {a for a in addresses if not a.startswith("http://www.w3.org/")} == set(), name
        assert "@import" not in text
