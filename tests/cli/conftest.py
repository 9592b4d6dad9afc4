"""What the tests of the command line share: a model and an SAE on disk, and Ctrl-C as in a terminal."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from sae_explorer import Subject
from zoo import build_model, build_sae, build_tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cli")
    build_model("llama").save_pretrained(root / "model")
    build_tokenizer().save_pretrained(root / "model")
    build_sae(48).save_model(root / "sae")
    return root


@pytest.fixture(scope="session")
def subject(disk: Path) -> Subject:
    return Subject.from_folder(disk / "model", disk / "sae", device="cpu")


@pytest.fixture(autouse=True)
def _interrupts_as_in_a_terminal() -> Iterator[None]:
    # A shell that starts the tests in the background has them ignore interrupts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)
