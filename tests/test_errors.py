"""What errors of other libraries mean."""

from __future__ import annotations

import pytest
import torch

from sae_explorer.errors import out_of_memory
from zoo import NO_MEMORY


def test_out_of_memory_is_known_however_a_device_says_it() -> None:
    with pytest.raises(RuntimeError) as said:
        torch.empty(10**14)
    assert out_of_memory(said.value)
    assert out_of_memory(MemoryError())
    assert all(map(out_of_memory, NO_MEMORY))
    assert not out_of_memory(RuntimeError("shapes do not match"))
    assert not out_of_memory(ValueError("a text about being out of memory"))
