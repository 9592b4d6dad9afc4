"""Activations at sites, from one forward."""

from __future__ import annotations

import inspect
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from sae_explorer.model.decoding import quiet_forward
from sae_explorer.model.sites import read

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from sae_explorer.model.sites import Site


def capture(
    model: nn.Module, sites: Sequence[Site], input_ids: Tensor, **inputs: Any
) -> list[Tensor]:
    """Return the activations at each site, from one forward of the whole input.

    Parameters
    ----------
    model
        The language model, in evaluation mode.
    sites
        Where to look.
    input_ids
        Shape ``[batch, position]``.
    **inputs
        Further inputs of the model, such as ``attention_mask``.

    Returns
    -------
    list of Tensor
        One for each site, shape ``[batch, position, width]``, in the dtype of the model.
    """
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        inputs.setdefault("logits_to_keep", 1)  # those of a large vocabulary take gigabytes
    with ExitStack() as stack:
        seen = [stack.enter_context(read(site)) for site in sites]
        with quiet_forward(model):
            model(input_ids=input_ids, use_cache=False, **inputs)
    return [activations[-1] for activations in seen]
