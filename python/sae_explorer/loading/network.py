"""Reaching the hub quickly, or not at all: loads inside :func:`access` never wait for long."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from huggingface_hub import constants, get_session
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
    parse_ratelimit_headers,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Seconds within which the hub has to answer at all.
PATIENCE = 4.0

#: Seconds before the one more try that a request gets: enough for a hiccup.
PAUSE = 1.0

#: huggingface_hub's own limit to the seconds without an answer; a longer one is the user's wish.
_CUSTOMARY = 10.0

_FROM_CACHE = "What is in the cache loads with local_files_only=True."


class HubTrouble(OfflineModeIsEnabled):
    """The hub answers badly or not at all; the message says how, and what to do.

    For huggingface_hub and transformers it is what they raise in offline mode: they do not try
    again, and take what the cache holds.
    """


@contextmanager
def access(local_files_only: bool = False) -> Iterator[None]:
    """Let loads fail fast, and the cache serve at once where the hub cannot be reached.

    While the block runs, huggingface_hub is offline if ``local_files_only`` is set or the hub does
    not answer; otherwise each request gets one more try, after a second, and then
    :class:`HubTrouble` is raised. Blocks may be nested, and run in several threads: all requests of
    the process are treated alike, and everything is as before when the last block ends.

    Parameters
    ----------
    local_files_only
        Do not ask the hub at all.
    """
    reason = "local_files_only" if local_files_only else None
    if reason is None and not constants.HF_HUB_OFFLINE and not _guard.active and not _reachable():
        reason = "unreachable"
    with _guard.on(reason):
        yield


def why_offline() -> str | None:
    """Return why the hub is not asked now.

    Returns
    -------
    str or None
        ``"local_files_only"``, ``"unreachable"``, ``"environment"``; None where it is asked.
    """
    if _guard.reasons:
        return _guard.reasons[-1]
    return "environment" if constants.HF_HUB_OFFLINE else None


def _reachable() -> bool:
    """Say whether anything answers at the hub's address, whatever it answers."""
    answers: list[bool] = []

    def ask() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=PATIENCE)
        except Exception:  # noqa: BLE001 - whatever it is: there is no way to the hub
            return
        answers.append(True)

    # Looking up a name has no time limit, and dropped packets cost one limit each address: a thread
    # can be left behind.
    probe = threading.Thread(target=ask, name="hub-probe", daemon=True)
    probe.start()
    probe.join(PATIENCE)
    return bool(answers)


class _Guard:
    """Stands between huggingface_hub and its session while blocks of :func:`access` run.

    huggingface_hub tries again for half a minute and more after a server error or a lost
    connection. Its session is an httpx client, whose ``send`` every request passes through; the
    guard stands in front of that one method of that one object.
    """

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self._lock = threading.Lock()
        self._blocks = 0
        self._guarded: list[Any] = []
        self._known: dict[str, str] = {}
        self._was_offline = False
        self._meanwhile = ExitStack()

    @property
    def active(self) -> bool:
        return self._blocks > 0

    @contextmanager
    def on(self, reason: str | None) -> Iterator[None]:
        with self._lock:
            if self._blocks == 0:
                self._was_offline = constants.HF_HUB_OFFLINE
                with ExitStack() as meanwhile:
                    meanwhile.enter_context(_without_bars())
                    meanwhile.enter_context(_shapes_from_cache())
                    self._meanwhile = meanwhile.pop_all()
            self._blocks += 1
            if reason is not None:
                self.reasons.append(reason)
            constants.HF_HUB_OFFLINE = self._was_offline or bool(self.reasons)
            session = get_session()
            if "send" not in vars(session):
                vars(session)["send"] = partial(self._send, session.send)
                self._guarded.append(session)
        try:
            yield
        finally:
            with self._lock:
                self._blocks -= 1
                if reason is not None:
                    self.reasons.remove(reason)
                constants.HF_HUB_OFFLINE = self._was_offline or bool(self.reasons)
                if self._blocks == 0:
                    for session in self._guarded:
                        vars(session).pop("send", None)
                    self._guarded.clear()
                    self._known.clear()
                    self._meanwhile.close()

    def _send(self, send: Any, request: Any, **options: Any) -> Any:
        """Send a request; once more after a failure that may pass, and never again after that."""
        if not options.get("stream"):  # a download may pause for longer
            limits = request.extensions.get("timeout", {})
            request.extensions["timeout"] = {
                phase: PATIENCE if seconds is None or seconds <= _CUSTOMARY else seconds
                for phase, seconds in limits.items()
            }
        host = f"{request.url.host}:{request.url.port}"
        address = f"{host} {request.url.path}"
        for final in (False, True):
            for where in (host, address):
                if where in self._known:
                    raise HubTrouble(self._known[where])
            response, cause = None, None
            try:
                response = send(request, **options)
            except Exception as error:
                if not is_a(error, "TransportError"):
                    raise
                cause, where = error, host
                wait, trouble = _lost(error)
            else:
                if response.status_code not in (408, 429) and response.status_code < 500:
                    return response
                response.close()
                where = address
                wait, trouble = _refused(response)
            if final or wait > PAUSE:
                self._known[where] = trouble
                raise HubTrouble(trouble) from cause
            time.sleep(PAUSE)
        raise AssertionError


def _lost(error: Exception) -> tuple[float, str]:
    """Return the seconds after which it may work again, and what to say, for a lost connection."""
    if is_a(error, "ProxyError"):
        return float("inf"), (
            "the proxy refuses the way to the hub. Check HTTPS_PROXY in the environment. "
            f"{_FROM_CACHE}"
        )
    if is_a(error, "TimeoutException"):
        return float("inf"), f"the hub does not answer. Try again later. {_FROM_CACHE}"
    return PAUSE, f"the connection to the hub is lost. Check it and try again. {_FROM_CACHE}"


def _refused(response: Any) -> tuple[float, str]:
    """Return the seconds after which it may work again, and what to say, for a bad answer."""
    asked = str(response.headers.get("retry-after", ""))
    wait = float(asked) if asked.isdigit() else 0.0
    if response.status_code != 429:
        return wait, (
            f"the hub has an error of its own (status {response.status_code}). Try again later. "
            f"{_FROM_CACHE}"
        )
    limit = parse_ratelimit_headers(response.headers)
    if limit is not None and limit.remaining == 0:
        wait = float(limit.reset_in_seconds)
    when = f"in {wait:.0f} seconds" if wait else "in some minutes"
    return wait or float("inf"), (
        f"the hub takes no more requests from here for now (rate limit). Try again {when}; who is "
        f"logged in may ask more often: hf auth login. {_FROM_CACHE}"
    )


def is_a(error: BaseException, name: str) -> bool:
    """Say whether an error is of a class of this name.

    Names, since huggingface_hub has changed its HTTP library more than once.
    """
    return any(kind.__name__ == name for kind in type(error).__mro__)


@contextmanager
def _without_bars() -> Iterator[None]:
    """Keep huggingface_hub from drawing bars: our own progress says it."""
    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@contextmanager
def _shapes_from_cache() -> Iterator[None]:
    """Let SAELens read the shapes of an SAE's tensors from the cached file.

    Its loaders of Gemma Scope 2 and of cross-layer transcoders ask the hub for them in each load,
    past huggingface_hub, and so fail offline even though the file is in the cache.
    """
    from huggingface_hub import hf_hub_download
    from sae_lens.loading import pretrained_sae_loaders as loaders
    from safetensors import safe_open

    original = loaders.get_safetensors_tensor_shapes

    def shapes(repo_id: str, filename: str) -> dict[str, list[int]]:
        # The loaders want the whole file next, so it may as well be fetched here.
        with safe_open(hf_hub_download(repo_id, filename), framework="np") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118

    loaders.get_safetensors_tensor_shapes = shapes
    try:
        yield
    finally:
        loaders.get_safetensors_tensor_shapes = original


_guard = _Guard()
