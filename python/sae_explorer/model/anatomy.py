"""What the parts of a transformer's block do, by their names, and what passes between them.

Names are trusted only in known company: a block whose norms do not have one of the known sets of
names has hook points only where the residual stream enters and leaves it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from torch import nn

Kind: TypeAlias = Literal[
    "embed",  # the token embedding, scaled where the model scales it
    "resid_pre",  # the residual stream as it enters a block
    "resid_mid",  # ... between attention and MLP
    "resid_post",  # ... as it leaves a block
    "attn_z",  # what the attention mixes together, before its output projection, all heads
    "attn_out",  # what the attention adds to the residual stream
    "mlp_normalized",  # the residual stream divided by its norm, before the norm's gain
    "mlp_in",  # what the MLP reads: the same with the gain
    "mlp_hidden",  # the hidden layer of the MLP, before its output projection
    "mlp_out",  # what the MLP adds to the residual stream
    "module",  # a module of the user's choice
]
Side: TypeAlias = Literal["input", "output"]

#: What TransformerLens calls the hook points within a block, the usual name first. SAELens'
#: ``hook_mlp_in`` is what the MLP reads, not the stream before the norm: it calls so the place of
#: Gemma Scope 2's transcoders, whose own name for it is the norm's output. ``hook_normalized`` lies
#: before the norm's gain; there the first Gemma Scope's transcoders read, which were trained with
#: the gain folded into the MLP (Lieberum et al. 2024, arXiv:2408.05147, page 18).
NAMES: dict[Kind, tuple[str, ...]] = {
    "resid_pre": ("hook_resid_pre",),
    "resid_mid": ("hook_resid_mid",),
    "resid_post": ("hook_resid_post",),
    "attn_z": ("attn.hook_z", "hook_z"),
    "attn_out": ("hook_attn_out",),
    "mlp_normalized": ("ln2.hook_normalized",),
    "mlp_in": ("mlp.hook_in", "hook_mlp_in"),
    "mlp_hidden": ("mlp.hook_post",),
    "mlp_out": ("hook_mlp_out",),
}
KINDS: dict[str, Kind] = {name: kind for kind, names in NAMES.items() for name in names}

_ATTENTION = ("self_attn", "attn", "attention")
_LINEAR_ATTENTION = ("linear_attn",)
_ATTENTION_OUTPUT = ("o_proj", "out_proj", "c_proj", "dense")
_MLP_OUTPUT = ("down_proj", "c_proj", "dense_4h_to_h", "fc2", "fc_out")


class _Norms(NamedTuple):
    """The norms of a block by what they do, as names; None where a block has none."""

    before_mlp: str | None
    after_attention: str | None = None
    after_mlp: str | None = None


#: What the norms of a block do, by the names of all of them: the same name, such as
#: ``post_attention_layernorm``, means different things in different company.
_LAYOUTS: dict[frozenset[str], _Norms] = {
    frozenset(names): roles
    for names, roles in (
        # Llama, Mistral, Qwen, Gemma 1, GPT-NeoX, gpt-oss
        (("input_layernorm", "post_attention_layernorm"), _Norms("post_attention_layernorm")),
        # GPT-2, GPT-Neo
        (("ln_1", "ln_2"), _Norms("ln_2")),
        # Gemma 2 and 3
        (
            (
                "input_layernorm",
                "post_attention_layernorm",
                "pre_feedforward_layernorm",
                "post_feedforward_layernorm",
            ),
            _Norms(
                "pre_feedforward_layernorm",
                "post_attention_layernorm",
                "post_feedforward_layernorm",
            ),
        ),
        # OLMo 2 and 3
        (
            ("post_attention_layernorm", "post_feedforward_layernorm"),
            _Norms(None, "post_attention_layernorm", "post_feedforward_layernorm"),
        ),
    )
}


def descend(module: nn.Module, path: list[str]) -> nn.Module | None:
    """Return the module at a path within another, None if there is none."""
    for part in path:
        child = module._modules.get(part)  # noqa: SLF001
        if child is None:
            return None
        module = child
    return module


class Absent(Exception):  # noqa: N818 - never seen outside of this package
    """Why a block has no place of some kind."""


class Place(NamedTuple):
    """One side of a module, and what lies between it and the residual stream; see ``Site``."""

    module: nn.Module
    side: Side
    reads: nn.Module | None = None
    writes: tuple[nn.Module, ...] = ()


def _first(module: nn.Module, names: tuple[str, ...]) -> nn.Module | None:
    """Return the first of a module's children that has one of the names."""
    children = dict(module.named_children())
    return next((children[name] for name in names if name in children), None)


def _norms(block: nn.Module) -> _Norms:
    names = [n for n, child in block.named_children() if "norm" in type(child).__name__.lower()]
    known = _LAYOUTS.get(frozenset(names))
    if known is None:
        raise Absent(f"blocks of {type(block).__name__} are built in a way not known here")
    return known


def place_of(block: nn.Module, kind: Kind) -> Place:
    """Return where in a block a kind of activation passes; raise Absent with the reason if not."""
    if kind == "resid_pre":
        return Place(block, "input")
    if kind == "resid_post":
        return Place(block, "output")
    before_mlp, after_attention, after_mlp = (
        descend(block, [name]) if name else None for name in _norms(block)
    )
    mlp = descend(block, ["mlp"])
    linear = _first(block, _LINEAR_ATTENTION)
    attention = _first(block, _ATTENTION) or linear
    if mlp is None or attention is None:
        raise Absent(f"blocks of {type(block).__name__} are built in a way not known here")
    if kind in ("attn_out", "mlp_out", "resid_mid") and hasattr(block, "residual_multiplier"):
        raise Absent("this model scales what a layer adds to the residual stream on its way there")
    if kind == "attn_out":
        return Place(after_attention or attention, "output")
    if kind == "mlp_out":
        return Place(after_mlp or mlp, "output")
    if kind == "resid_mid":
        if getattr(block, "use_parallel_residual", False):
            raise Absent(
                "attention and MLP run side by side in this model, so there is no residual stream "
                "between them"
            )
        return Place(before_mlp or mlp, "input")
    if kind == "mlp_in":
        return Place(mlp, "input", reads=before_mlp)
    if kind == "mlp_normalized":
        if before_mlp is None:
            raise Absent("its MLP reads the residual stream without a norm")
        return Place(before_mlp, "output", reads=before_mlp)
    if kind == "attn_z":
        if attention is linear:
            raise Absent("this layer has linear attention, which has no heads' mixtures z")
        inner = descend(attention, ["attention"]) or attention  # GPT-Neo has one within the other
        return _before(_first(inner, _ATTENTION_OUTPUT), after_attention)
    if descend(mlp, ["experts"]) is not None:
        raise Absent("its MLP is a mixture of experts, which has no single hidden layer")
    return _before(_first(mlp, _MLP_OUTPUT), after_mlp)


def _before(projection: nn.Module | None, norm: nn.Module | None) -> Place:
    if projection is None:
        raise Absent("the projection back to the residual stream was not found")
    return Place(projection, "input", writes=(projection, norm) if norm else (projection,))


def available(block: nn.Module) -> list[str]:
    """Return TransformerLens' names of the hook points that a block has."""
    found = []
    for kind, names in NAMES.items():
        try:
            place_of(block, kind)
        except Absent:
            continue
        found.append(names[0])
    return found


def kind_of(block: nn.Module, module: nn.Module, side: Side) -> Kind | None:
    """Return the kind of hook point that one side of a module within a block is, None if none."""
    for kind in NAMES:
        if kind == "mlp_normalized":
            continue  # the norm's own output has the gain
        try:
            place = place_of(block, kind)
        except Absent:
            continue
        if (module, side) == (place.module, place.side):
            return kind
        if kind == "mlp_in" and module is place.reads and side == "output":
            return kind
        # What a projection puts out is the layer's output, unless a norm follows.
        if len(place.writes) == 1 and module is place.writes[0] and side == "output":
            return "attn_out" if kind == "attn_z" else "mlp_out"
    return None


def behind(block: nn.Module, module: nn.Module) -> tuple[nn.Module, ...]:
    """Return the norm behind an attention, an MLP or its projection, which they write to."""
    try:
        norms = _norms(block)
    except Absent:
        return ()
    for part, projections, norm in (
        (_first(block, _ATTENTION), _ATTENTION_OUTPUT, norms.after_attention),
        (descend(block, ["mlp"]), _MLP_OUTPUT, norms.after_mlp),
    ):
        if part is not None and norm is not None and module in (part, _first(part, projections)):
            return (block.get_submodule(norm),)
    return ()
