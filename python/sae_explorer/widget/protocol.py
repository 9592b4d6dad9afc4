"""What Python and the browser say to each other; js/src/state/protocol.ts is the twin.

The kernel alone writes the synced traits. The browser sends messages, each with a number of its own
(``rid``) that comes back in the reply. Rows of a growing result go out in ``append`` messages about
ten a second: they say at which row they begin, taking the place of what was there, and how many rows
are settled by now. Whoever lacks settled rows before the first asks for them with ``since``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ipywidgets.widgets.widget import _remove_buffers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sae_explorer.subject import Subject


def parted(content: Mapping[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
    """Take the bytes out of a message: they travel beside the JSON, which says where they belong."""
    plain, paths, buffers = _remove_buffers(content)
    return {**plain, "buffers": paths}, buffers


def describe(subject: Subject, featured: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the header shows of a subject."""
    sae = subject.saes and subject.sae
    page = sae.neuronpedia_id if sae else None
    return {
        "model": subject.model_id,
        "sae": sae.sae_id if sae else "",
        "release": sae.release if sae else "",
        "hook_name": sae.hook_name if sae else "",
        "layer": sae.layer if sae else None,
        "width": sae.width if sae else 0,
        "d_model": subject.d_model,
        "vocabulary_size": subject.vocabulary_size,
        "device": str(subject.device),
        "dtype": str(subject.dtype).removeprefix("torch."),
        "neuronpedia": f"https://www.neuronpedia.org/{page}/" if page else None,
        "featured": list(featured),
        "effective": {
            "scale": subject.default_scale,
            "ghost_token": subject.default_ghost_token,
        },
    }
