"""What is asked twice is done once, and what comes late undoes nothing; see protocol.py for the rules."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar

from sae_explorer.model.ghost import SOURCES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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
