"""Projections and norms as linear maps, read off their own forwards.

What a module's weights mean differs between implementations (Gemma's norms multiply by
``1 + weight``), so the modules are asked and their weights are not interpreted.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from sae_explorer.errors import ExplorerError

#: What weights can be read as; numbers of 8 bits and fewer mean something only with their scales.
_PLAIN = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def width_before(projection: nn.Module) -> int:
    """Return how many numbers a projection takes."""
    for attribute in ("in_features", "nx"):  # nn.Linear, and the Conv1D of transformers
        if hasattr(projection, attribute):
            return int(getattr(projection, attribute))
    raise ExplorerError(
        f"A {type(projection).__name__} stands where a linear layer is expected; load the model "
        "without replacing its layers."
    )


def _applied(module: nn.Module, x: Tensor) -> Tensor:
    """Return the module's own forward of ``x`` in float32, whatever the dtype of its weights.

    A shallow copy is run, without hooks and on weights of float32, so that the live module stays as
    it is. Where it does not hold its weights as plain numbers (offloaded, quantised, wrapped by an
    adapter) it is run itself.
    """
    weights = list(module.parameters(recurse=False))
    if not weights or not all(w.dtype in _PLAIN and not w.is_meta for w in weights):
        held = [t for t in (*module.parameters(), *module.buffers()) if not t.is_meta]
        device = held[0].device if held else x.device
        numbers = (t.dtype for t in (*held, *weights) if t.dtype in _PLAIN)
        itself: Tensor = module(x.to(device, next(numbers, x.dtype)))
        return itself.float()
    twin = copy.copy(module)
    twin._parameters = {  # noqa: SLF001
        name: None if weight is None else nn.Parameter(weight.detach().float(), requires_grad=False)
        for name, weight in module._parameters.items()  # noqa: SLF001
    }
    # The class's forward: one that was put onto the live module belongs to that one's weights.
    out: Tensor = type(module).forward(twin, x.to(weights[0].device))
    return out


def passed(module: nn.Module, direction: Tensor) -> Tensor:
    """Return what a projection or a norm makes of a direction, ``[in]`` to ``[out]``, float32."""
    if hasattr(module, "in_features") or hasattr(module, "nx"):
        both = torch.stack([direction, torch.zeros_like(direction)])[None]
        out = _applied(module, both)[0]
        return out[0] - out[1]
    gain, _, centres = affine(module, direction.numel())
    direction = direction.to(gain.device)
    return gain * (direction - direction.mean() if centres else direction)


def affine(
    norm: nn.Module, width: int, device: torch.device | None = None
) -> tuple[Tensor, Tensor, bool]:
    """Return a norm's gain and offset, shape ``[width]``, and whether it subtracts the mean."""
    # Far larger than the epsilon under the root, and exact in every dtype.
    sign = torch.ones(width)
    sign[1::2] = -1
    probe = 256 * torch.stack([sign, -sign, torch.ones(width)])[None]
    weights = list(norm.parameters(recurse=False))
    if weights and not weights[0].is_meta:
        probe = probe.to(weights[0].device)
    up, down, flat = _applied(norm, probe)[0].float()
    offset = (up + down) / 2
    gain = (up - down) / 2 * sign.to(up)
    centres = bool((flat - offset).abs().max() < 1e-3 * gain.abs().max())
    if device is not None:
        gain, offset = gain.to(device), offset.to(device)
    return gain, offset, centres
