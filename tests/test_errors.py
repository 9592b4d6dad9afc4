"""What errors of other libraries mean."""

from __future__ import annotations

import errno
import os

import pytest
import torch

from sae_explorer.errors import out_of_memory


def test_out_of_memory_is_known_however_a_device_says_it() -> None:
    with pytest.raises(RuntimeError) as said:
        torch.empty(10**14)
    assert out_of_memory(said.value)
    assert out_of_memory(torch.OutOfMemoryError("no room"))
    assert out_of_memory(MemoryError())
    assert out_of_memory(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)))
    assert not out_of_memory(RuntimeError("shapes do not match"))
    assert not out_of_memory(ValueError("a text about being out of memory"))
