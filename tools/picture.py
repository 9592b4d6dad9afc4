"""Take the README's picture: the explorer in JupyterLab, with the bundled model.

Run it as ``python tools/picture.py [examples/widget.png]``; it needs what the tests need.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import nbformat

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from hosts.browser import launched
from hosts.jupyterlab import NotebookPage, running

CODE = "from sae_explorer import FeatureExplorer\n\nFeatureExplorer.demo(cutoff=1e-5)"
# The widget alone, at the width that a notebook gives it on a common screen.
VIEW = {"width": 1560, "height": 900}


def main() -> None:
    """Run a notebook and photograph the widget."""
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "examples/widget.png")
    with tempfile.TemporaryDirectory() as home, running(Path(home)) as lab, launched() as browser:
        notebook = nbformat.v4.new_notebook(
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
            cells=[nbformat.v4.new_code_cell(CODE)],
        )
        nbformat.write(notebook, lab.root / "picture.ipynb")
        page = browser.new_page(viewport=VIEW)
        shown = NotebookPage(lab, page, "picture.ipynb")
        shown.open()
        shown.command("application:toggle-left-area")
        shown.run(0)
        shown.widget.locator(".sae-chip[data-state=done]").wait_for(timeout=60_000)
        page.get_by_role("radio", name="diagram").check(force=True)
        page.mouse.move(0, 0)
        page.wait_for_timeout(1000)
        shown.widget.screenshot(path=target)


if __name__ == "__main__":
    main()
