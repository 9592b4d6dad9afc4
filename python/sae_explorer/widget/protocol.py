"""What Python and the browser say to each other; js/src/state/protocol.ts is the twin.

The kernel alone writes the synced traits. The browser sends messages, each with a number of its own
(``rid``) that comes back in the reply. It asks again under the same number where no reply comes: that
is answered again, and not done twice; of an answer that is not kept, it is said that it is ``gone``.
While another thread is still at it, ``doing`` stands in for the reply, which comes later.
Numbers rise, and what comes late changes nothing that a later message has changed since. Rows of a
growing result go out in ``append`` messages about ten a second: they say at which row they begin,
taking the place of what was there, and how many rows are settled by now. Whoever lacks settled rows
before the first asks for them with ``since``. Whole results are numbered: ``hello`` says which are
``known``, and others are sent again.

An analysis that runs on request is started and stopped by ``run`` and ``cancel`` with its name as
``panel``; without one these are about the tree. How each stands is a trait of all of them together;
what one has found so far goes out in ``partial`` messages, about five a second.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from ipywidgets.widgets.widget import _remove_buffers

from sae_explorer.loading import registry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sae_explorer.loading.registry import Entry
    from sae_explorer.studied_sae import StudiedSAE
    from sae_explorer.subject import Subject


def parted(content: Mapping[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
    """Take the bytes out of a message: they travel beside the JSON, which says where they belong."""
    plain, paths, buffers = _remove_buffers(content)
    return {**plain, "buffers": paths}, buffers


def describe(
    subject: Subject, featured: Mapping[int, Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    """Return what the header shows of a subject.

    Parameters
    ----------
    subject
        The model, and the SAE that is selected.
    featured
        Features to look at first, by layer.
    """
    sae = subject.sae if subject.saes else None
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
        "featured": list(featured.get(sae.layer, ())) if sae and sae.layer is not None else [],
        "saes": choices(subject),
        "effective": {
            "scale": subject.default_scale,
            "ghost_token": subject.default_ghost_token,
        },
    }


def choices(subject: Subject) -> list[dict[str, Any]]:
    """Return the SAEs that can be chosen, by layer: the subject's own, and the others of their release.

    Those that are ``held`` are there at once. Only a release of SAELens' registry has others. The
    ``label`` tells an SAE from the others of its layer.
    """
    release = subject.sae.release if subject.saes else ""
    entries = registry.entries(release) if release and release in registry.releases() else ()
    held = {(sae.release, sae.sae_id): sae for sae in subject.saes}
    # The registry tells more of an SAE than it does itself.
    found: dict[tuple[str, str], StudiedSAE | Entry] = dict(held)
    found |= {(entry.release, entry.sae_id): entry for entry in entries}
    alike = Counter((sae.layer, sae.label) for sae in found.values())
    return [
        {
            "release": sae.release,
            "sae_id": sae.sae_id,
            "layer": sae.layer,
            "label": _label(sae, release, alike[sae.layer, sae.label] > 1),
            "held": key in held,
        }
        for key, sae in sorted(found.items(), key=lambda item: _order(item[1]))
    ]


def _label(sae: StudiedSAE | Entry, release: str, is_common: bool) -> str:
    label = sae.sae_id if is_common else sae.label
    return label if sae.release in ("", release) else f"{label}, {sae.release}"


def _order(sae: StudiedSAE | Entry) -> tuple[float, float, float]:
    """Return where an SAE comes in the menu: what has no layer comes last."""
    layer = math.inf if sae.layer is None else sae.layer
    return layer, sae.width or 0, getattr(sae, "l0", None) or 0
