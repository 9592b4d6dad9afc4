"""What the tests in real hosts share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hosts.browser import launched
from hosts.jupyterlab import running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

    from hosts.jupyterlab import Lab


# For a module, not for the session: while Playwright runs, its event loop counts as running in this
# thread, and a test that starts one of its own would fail.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return a browser; no page of it is open yet."""
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Return a Jupyter server with a home of its own, for JupyterLab and Notebook."""
    with running(tmp_path_factory.mktemp("jupyterlab")) as lab:
        yield lab
