"""``python -m sae_explorer.cli`` is ``sae-explorer``."""

import sys

from sae_explorer.cli import main

sys.exit(main())
