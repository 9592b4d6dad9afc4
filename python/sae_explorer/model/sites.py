"""From a hook-point name, or a role, to the place in the live network that it means.

A hook point is named as TransformerLens does (``blocks.12.hook_resid_post``) or by the path of a
Hugging Face module (``model.layers.12.output``).
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sae_explorer.errors import ExplorerError, did_you_mean
from sae_explorer.model.anatomy import (
    KINDS,
    Absent,
    available,
    behind,
    descend,
    kind_of,
    place_of,
)
from sae_explorer.model.linear import affine, passed, width_before

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sae_explorer.model.anatomy import Kind, Side

_HOOK = re.compile(r"blocks\.(\d+)\.((?:\w+\.)*hook_\w+)$")

#: Parts of a module's path that one model has around its blocks and another has not.
_WRAPPERS = {"model", "language_model", "transformer", "gpt_neox", "base_model"}


@dataclass(frozen=True, eq=False)
class Site:
    """A place in a live network where activations of shape ``[batch, position, width]`` pass.

    Parameters
    ----------
    name
        The hook point as it was asked for.
    kind
        What passes there.
    layer
        Index of the block, None outside of the blocks.
    path
        The module's name within the model.
    module
        The live module.
    side
        Whether the activation is the module's input or its output.
    width
        Numbers in an activation, None where only a forward tells.
    reads
        The norm between the residual stream and the site, if the site lies behind one.
    writes
        Modules through which what is written at the site reaches the residual stream.
    parts
        Two sites whose sum the activation is: the stream before, and what is added to it. A change
        is then made to what is added, since no single module passes on the sum.
    """

    name: str
    kind: Kind
    layer: int | None
    path: str
    module: nn.Module
    side: Side
    width: int | None
    reads: nn.Module | None = None
    writes: tuple[nn.Module, ...] = ()
    parts: tuple[Site, Site] | None = None

    def residual_direction(self, vector: Tensor) -> Tensor:
        """Return the direction of the residual stream that a direction of this site stands for.

        In the residual stream, and for what is written straight into it, that is the direction
        itself. Attention's ``z`` and the MLP's hidden layer go through their output projection,
        without its bias, and the gain of the norm behind it, if any. What the MLP reads is
        ``gain * x / rms(x)``; a direction ``e`` there reads the residual stream along ``gain * e``,
        minus its mean where the norm subtracts the mean. Scales that depend on the input, such as
        ``rms(x)``, are left out: they change the length alone.

        Parameters
        ----------
        vector
            Shape ``[width]``.

        Returns
        -------
        Tensor
            Shape ``[d_model]``, float32, on the device of ``vector``.

        Raises
        ------
        ExplorerError
            If the vector has another width than the site, or no way from there into the residual
            stream is known.
        """
        if vector.ndim != 1 or self.width not in (None, vector.numel()):
            raise ExplorerError(
                f"The direction has shape {list(vector.shape)}, but activations at {self.name} "
                f"have {self.width} numbers. Give a vector of [{self.width}]."
            )
        if self.kind == "module" and not self.writes:
            raise ExplorerError(
                f"No way from {self.name} (the {self.side} of {self.path}) into the residual "
                "stream is known, so its directions cannot be shown as words. Use an SAE of the "
                "residual stream, of an MLP or of an attention layer."
            )
        with torch.no_grad():
            direction = vector.detach().float()
            for module in self.writes:
                direction = passed(module, direction)
            if self.reads is not None:
                gain, _, centres = affine(self.reads, direction.numel())
                if self.kind != "mlp_normalized":
                    direction = gain.to(direction.device) * direction
                if centres:
                    direction = direction - direction.mean()
            return direction.to(vector.device)


def text_config(model: nn.Module) -> Any:
    """Return the configuration of the text part, which multimodal models keep one level down."""
    config: Any = model.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def blocks(model: nn.Module) -> nn.ModuleList:
    """Return the list of the language model's blocks: the one as long as its configuration says.

    Raises
    ------
    ExplorerError
        If there is no such list, as in a model that is no stack of blocks.
    """
    count = text_config(model).num_hidden_layers
    for module in _language_model(model).modules():
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


def resolve(model: nn.Module, hook_name: str, hf_hook_name: str | None = None) -> Site:
    """Return the place in the model that a hook point means.

    Parameters
    ----------
    model
        The live Hugging Face model.
    hook_name
        The hook point in TransformerLens' terms, such as ``blocks.12.attn.hook_z``; or a module of
        the model, such as ``model.layers.12.self_attn.o_proj.input``. Without ``.input`` or
        ``.output`` the output is meant. Outer parts of the path may differ, as those of a
        multimodal model do from those of its text model.
    hf_hook_name
        The same by the name of a module, where an SAE's metadata give it; it goes first.

    Raises
    ------
    ExplorerError
        If the model has no such place, with the reason and the hook points that there are.
    """
    for name in (hf_hook_name, hook_name):
        found = _find_module(model, name) if name else None
        if found is not None:
            return _site_of_module(model, hook_name or str(name), *found)
    match = _HOOK.search(hook_name)
    if hook_name == "hook_embed":
        return _site(model, hook_name, "embed", None)
    if match is None or match.group(2) not in KINDS:
        layer = layer_of(hook_name)
        if layer is not None:
            _block(model, hook_name, layer)
        raise ExplorerError(
            f"{hook_name!r} is no hook point of {type(model).__name__}: neither a module of the "
            f"model nor hook_embed nor blocks.N. with one of {', '.join(KINDS)}."
            + did_you_mean(match.group(2) if match else hook_name, KINDS)
        )
    return _site(model, hook_name, KINDS[match.group(2)], int(match.group(1)))


@contextmanager
def edited(site: Site, edit: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replace the activation at a site by ``edit(activation)`` while the block runs.

    Edits at one site act in the order in which they were entered. Enter those at several sites of a
    layer in the order in which a forward passes the sites.

    Parameters
    ----------
    site
        Where.
    edit
        Takes and returns an activation of shape ``[batch, position, width]``; it must not change
        its argument in place. What it returns is cast back to the dtype of the model.
    """
    if site.parts is not None:
        stream, added = site.parts
        before: list[Tensor] = []

        def change(out: Tensor) -> Tensor:
            # The stream was seen before it came to the block's own device.
            x = before.pop().to(out.device) + out
            return out + (edit(x).to(x.device) - x)  # exactly ``out`` where nothing is changed

        with _hooked(stream, before.append), edited(added, change):
            yield
        return

    def replace(value: Tensor) -> Tensor:
        if site.kind != "mlp_normalized" or site.reads is None:
            return edit(value).to(value)
        gain, _, _ = affine(site.reads, value.shape[-1], value.device)
        x = _without_gain(site, value)
        return (value + (edit(x).to(x.device) - x) * gain).to(value)

    with _hooked(site, replace):
        yield


@contextmanager
def read(site: Site) -> Iterator[list[Tensor]]:
    """Collect the activations at a site while the block runs, as earlier edits left them.

    Yields
    ------
    list of Tensor
        Grows by one activation of shape ``[batch, position, width]`` with every forward.
    """
    seen: list[Tensor] = []

    def keep(value: Tensor) -> None:
        value = _without_gain(site, value)
        seen.append(value.detach().clone())  # later modules may write into what they are given

    with _hooked(site, keep):
        yield seen


# Names


def _language_model(model: nn.Module) -> nn.Module:
    """Return the part that holds the language model's blocks: not the vision tower."""
    found = model.get_decoder() if hasattr(model, "get_decoder") else model  # type: ignore[operator]
    return found if isinstance(found, nn.Module) else model


def _find_module(model: nn.Module, name: str) -> tuple[nn.Module, Side] | None:
    """Return the module of that name and the side that is meant, None if there is none.

    The wrappers around the blocks may have other names in the model.
    """
    parts = name.split(".")
    sides: list[tuple[list[str], Side]] = [(parts, "output")]
    if parts[-1] == "input":
        sides.append((parts[:-1], "input"))
    elif parts[-1] == "output":
        sides.append((parts[:-1], "output"))
    for path, side in sides:
        for root in (model, _language_model(model)):
            for start in range(len(path)):
                module = descend(root, path[start:])
                if module is not None:
                    return module, side
                if root is model or path[start] not in _WRAPPERS:
                    break
    return None


def _path(model: nn.Module, module: nn.Module) -> str:
    names: dict[nn.Module, str] = {part: name for name, part in model.named_modules()}
    return names[module]


def _block(model: nn.Module, hook_name: str, layer: int) -> nn.Module:
    stack = blocks(model)
    if layer >= len(stack):
        raise ExplorerError(
            f"{hook_name} lies in layer {layer}, but {type(model).__name__} has {len(stack)} "
            f"layers, 0 to {len(stack) - 1}. Use the model that the SAE was trained on."
        )
    return stack[layer]


def _site(model: nn.Module, hook_name: str, kind: Kind, layer: int | None) -> Site:
    d_model = int(text_config(model).hidden_size)
    if layer is None:
        module: nn.Module = model.get_input_embeddings()  # type: ignore[operator]
        return Site(hook_name, kind, None, _path(model, module), module, "output", d_model)
    block = _block(model, hook_name, layer)
    try:
        place = place_of(block, kind)
    except Absent as reason:
        raise ExplorerError(
            f"{hook_name} is no hook point of {type(model).__name__}: {reason}. Layer {layer} "
            f"has {', '.join(available(block))}: use an SAE of one of these."
        ) from None
    width = width_before(place.module) if kind in ("attn_z", "mlp_hidden") else d_model
    parts = None
    if kind == "resid_mid":
        prefix = hook_name.removesuffix("hook_resid_mid")
        parts = (
            _site(model, f"{prefix}hook_resid_pre", "resid_pre", layer),
            _site(model, f"{prefix}hook_attn_out", "attn_out", layer),
        )
    path = _path(model, place.module)
    return Site(
        hook_name,
        kind,
        layer,
        path,
        place.module,
        place.side,
        width,
        reads=place.reads,
        writes=place.writes,
        parts=parts,
    )


def _site_of_module(model: nn.Module, hook_name: str, module: nn.Module, side: Side) -> Site:
    """Return the site at a module, under the kind of hook point that it is where it is one."""
    path = _path(model, module)
    if module is model.get_input_embeddings() and side == "output":  # type: ignore[operator]
        return _site(model, hook_name, "embed", None)
    for layer, block in enumerate(blocks(model)):
        if not any(part is module for part in block.modules()):
            continue
        kind = kind_of(block, module, side)
        if kind is not None:
            return _site(model, hook_name, kind, layer)
        writes = behind(block, module) if side == "output" else ()
        return Site(hook_name, "module", layer, path, module, side, None, writes=writes)
    return Site(hook_name, "module", None, path, module, side, None)


def _without_gain(site: Site, value: Tensor) -> Tensor:
    if site.kind != "mlp_normalized" or site.reads is None:
        return value
    gain, offset, _ = affine(site.reads, value.shape[-1], value.device)
    # Where a gain is zero nothing passes, and nothing is known of what came before it.
    return torch.where(gain == 0, 0.0, (value.float() - offset) / gain).to(value)


# Hooks


@contextmanager
def _hooked(site: Site, look: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Show the activation to ``look``, and put in its place what that returns, unless None."""

    def at_output(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        several = not isinstance(output, Tensor)
        new = look(output[0] if several else output)
        if new is None:
            return None
        return (new, *output[1:]) if several else new

    def at_input(
        _module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if inputs:
            new = look(inputs[0])
            return None if new is None else ((new, *inputs[1:]), named)
        name = "hidden_states" if "hidden_states" in named else next(iter(named))
        new = look(named[name])
        return None if new is None else (inputs, {**named, name: new})

    if site.side == "output":
        handle = site.module.register_forward_hook(at_output)
    else:
        handle = site.module.register_forward_pre_hook(at_input, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
