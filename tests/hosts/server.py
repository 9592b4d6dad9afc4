"""Runs a server of notebooks for a test, with a home of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path


@dataclass
class Server:
    """A running server, and the folder of its notebooks."""

    root: Path
    port: int

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"


def free_port() -> int:
    """Return a port of the loopback that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def its_own(home: Path) -> dict[str, str]:
    """Return an environment in which Jupyter keeps everything in a home of its own."""
    return {
        **os.environ,
        "HOME": str(home),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "IPYTHONDIR": str(home / "ipython"),
        "OMP_NUM_THREADS": "1",  # the models are tiny: more threads only wait for each other
    }


@contextmanager
def served(
    command: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    ask: Callable[[], object],
) -> Iterator[None]:
    """Run a server in a folder, from its first answer on; its log stands beside that folder."""
    path = folder.parent / "server.log"
    with path.open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
        try:
            for _ in range(600):
                if server.poll() is not None:
                    break
                try:
                    ask()
                except OSError:
                    time.sleep(0.1)
                else:
                    yield
                    return
            raise RuntimeError(f"It did not start: {command}\n{path.read_text()[-3000:]}")
        finally:
            server.terminate()
            server.wait(timeout=30)
