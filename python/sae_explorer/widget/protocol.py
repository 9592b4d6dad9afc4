"""What Python and the browser say to each other; js/src/state/protocol.ts is the twin.

The kernel alone writes the synced traits. The browser sends messages, each with a number of its own
(``rid``) that comes back in the reply. It asks again under the same number where no reply comes: that
is answered again, and not done twice; of an answer that is not kept, it is said that it is ``gone``.
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
import re
from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar

from ipywidgets.widgets.widget import _remove_buffers

from sae_explorer.loading import registry
from sae_explorer.model.ghost import SOURCES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sae_explorer.loading.registry import Entry
    from sae_explorer.studied_sae import StudiedSAE
    from sae_explorer.subject import Subject


#: What is answered where a message was broken off, as by the button that interrupts a cell.
INTERRUPTED = {
    "ok": False,
    "error": "This was interrupted, maybe halfway. Look at what is set now, and ask again.",
}
#: The rid of a browser's view: the view, and the number of the message.
_RID = re.compile(r"(.+)-([0-9]{1,15})")


class Answers:
    """What was answered to the last messages, for those that are heard once more.

    A browser whose message or reply was lost, or is late, asks again under the same number.
    """

    #: Messages whose answers are large or of now. They are not kept, but it is known that they were
    #: given: what is asked again while the kernel is busy waits behind the first, and is not wanted.
    _LARGE = ("hello", "since", "export")
    _GONE: ClassVar = {"ok": True, "gone": True}
    #: Messages that are remembered: what a browser asks in many minutes of a busy kernel.
    _LIMIT = 256

    def __init__(self) -> None:
        self._answers: dict[str, dict[str, Any]] = {}
        #: For each view, the number of the last message that decided on a matter.
        self._decided: dict[str, dict[str, int]] = {}

    def to(
        self, told: Mapping[str, Any], answer: Callable[[Mapping[str, Any]], dict[str, Any]]
    ) -> dict[str, Any] | None:
        """Return the answer to a message, which is done unless it was; None while it is being done.

        Parameters
        ----------
        told
            The message.
        answer
            Does what a message asks for, and returns what to answer.
        """
        rid = told.get("rid")
        if not isinstance(rid, str):
            return answer(told)
        own: dict[str, Any] = {}
        # In one step: messages are heard on several threads.
        known = self._answers.setdefault(rid, own)
        if known is not own:
            return known or None
        try:
            answered = self._in_turn(rid, told, answer)
        except BaseException:
            own.update(INTERRUPTED)
            raise
        own.update(self._GONE if told.get("type") in self._LARGE and answered["ok"] else answered)
        memories: tuple[dict[str, Any], ...] = (self._answers, self._decided)
        for memory in memories:
            for old in [*memory][: -self._LIMIT]:
                memory.pop(old, None)
        return answered

    def _in_turn(
        self,
        rid: str,
        told: Mapping[str, Any],
        answer: Callable[[Mapping[str, Any]], dict[str, Any]],
    ) -> dict[str, Any]:
        """Do of a message what no later one has decided since."""
        origin = _RID.fullmatch(rid)
        if origin is None:
            return answer(told)
        number = int(origin[2])
        decided = self._decided.setdefault(origin[1], {})
        matters = _matters(told)
        late = {matter for matter in matters if decided.get(matter, 0) > number}
        if late and late == set(matters):
            return {"ok": True}
        if late:
            values = {
                name: told["values"][name] for name in told["values"] if _matter(name) not in late
            }
            told = {**told, "values": values}
        answered = answer(told)
        if answered["ok"]:
            decided.update({matter: max(number, decided.get(matter, 0)) for matter in matters})
        return answered


def _matters(told: Mapping[str, Any]) -> set[str]:
    """Return what a message decides on: of two that decide on the same, the later one holds."""
    match told:
        case {"type": "set", "values": dict(values)}:
            return {_matter(name) for name in values}
        case {"type": "select"}:
            return {"the SAE"}
        case {"type": "run" | "resume" | "cancel"}:
            panel = told.get("panel")
            return {f"whether {panel if isinstance(panel, str) else 'the tree'} runs"}
    return set()


def _matter(option: str) -> str:
    return "the source" if option in SOURCES else f"the option {option}"


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
