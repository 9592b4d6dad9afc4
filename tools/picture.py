"""Draw the README's picture: what `sae-explorer demo` prints, as an SVG that loads nothing.

Run it as ``python tools/picture.py [examples/demo.svg]``.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

WIDTH = 120


def main() -> None:
    """Run the demo and write the picture."""
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "examples/demo.svg")
    program = Path(sys.executable).parent / "sae-explorer"
    environment = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(WIDTH)}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [program, "demo"],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(done.stdout.rstrip()))
    svg = console.export_svg(title="sae-explorer demo", theme=MONOKAI)
    # rich refers to a font on somebody's server; the reader's own monospaced font will do.
    svg = re.sub(r"@font-face\s*{.*?}", "", svg, flags=re.DOTALL)
    target.write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
