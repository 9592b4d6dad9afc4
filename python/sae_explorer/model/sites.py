"""From a hook-point name, or a role, to the module of the live network that it means."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from sae_explorer.errors import ExplorerError

_RESIDUAL = re.compile(r"blocks\.(\d+)\.hook_resid_(pre|post)$")
_HUGGING_FACE = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)$")


def text_config(model: nn.Module) -> Any:
    """Return the configuration of the text part, which multimodal models keep one level down."""
    config: Any = model.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def blocks(model: nn.Module) -> nn.ModuleList:
    """Return the list of the model's blocks: the one as long as its configuration says.

    Raises
    ------
    ExplorerError
        If there is no such list, as in a model that is no stack of blocks.
    """
    count = text_config(model).num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ExplorerError(
        f"{type(model).__name__} has no list of {count} blocks; a causal language model that is "
        "a stack of blocks is needed."
    )


def final_norm(model: nn.Module) -> nn.Module:
    """Return the norm between the last block and the unembedding.

    It is the last norm among the modules that stand beside the blocks.
    """
    stack = blocks(model)
    for parent in model.modules():
        children = list(parent.children())
        if any(child is stack for child in children):
            norms = [child for child in children if "norm" in type(child).__name__.lower()]
            if norms:
                return norms[-1]
    raise ExplorerError(f"{type(model).__name__} has no norm after its last block.")


def layer_of(hook_name: str) -> int | None:
    """Return the block that a hook-point name speaks of, None if it names none."""
    match = re.search(r"(?:blocks|layers|h)\.(\d+)", hook_name)
    return int(match.group(1)) if match else None


def is_residual(hook_name: str) -> bool:
    """Tell whether a hook point lies in the residual stream, before or after a block."""
    return bool(_RESIDUAL.search(hook_name) or _HUGGING_FACE.search(hook_name))
