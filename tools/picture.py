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
 The widget alone  """Run a notebook and photograph the widget."""
 The widget alone  target = Path(sys.argv[1] if len(sys.argv) > 1 else "examples/widget.png")
 The widget alone  with tempfile.TemporaryDirectory() as home, running(Path(home)) as lab, launched() as browser:
 The widget alone      notebook = nbformat.v4.new_notebook(
 The widget alone          metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
 The widget alone          cells=[nbformat.v4.new_code_cell(CODE)],
 The widget alone      )
 The widget alone      nbformat.write(notebook, lab.root / "picture.ipynb")
 The widget alone      page = browser.new_page(viewport=VIEW)
 The widget alone      shown = NotebookPage(lab, page, "picture.ipynb")
 The widget alone      shown.open()
 The widget alone      shown.command("application:toggle-left-area")
 The widget alone      shown.run(0)
 The widget alone      shown.widget.locator(".sae-chip[data-state=done]").wait_for(timeout=60_000)
 The widget alone      page.get_by_role("radio", name="diagram").check(force=True)
 The widget alone      page.mouse.move(0, 0)
 The widget alone      page.wait_for_timeout(1000)
 The widget alone      shown.widget.screenshot(path=target)


if __name__ == "__main__":
 The widget alone  main()
